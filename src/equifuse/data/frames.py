"""Frames of any library as pandas frames, numbers of them, and rows matched by their index.

Nothing here imports pandas before it is given something that needs it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from equifuse.errors import DataError, InputError
from equifuse.extras import require

# Between the levels of a column's name, as in the tables that are read from files: "rna:TP53".
LEVELS = ":"
_NAMED = 3


def is_mapping(x: Any) -> bool:
    """Whether something maps names to modalities; a sparse matrix may be a dict of its values."""
    return isinstance(x, Mapping) and not issparse(x)


def is_pandas(x: Any) -> bool:
    """Whether something is a pandas frame, or does as one does."""
    return hasattr(x, "columns") and hasattr(x, "reindex")


def standardized(x: Any) -> Any:
    """What is a frame of another library as a pandas frame, and several of them as a mapping; the rest as it is.

    Example:
        >>> import pyarrow as pa
        >>> from equifuse.data.frames import standardized
        >>> standardized(pa.table({"age": [61, None]}))["age"].tolist()
        [61.0, nan]

    - polars, Arrow, and whatever has ``__arrow_c_stream__`` or ``__dataframe__``: a frame without names of rows;
    - AnnData: a frame of ``X``; MuData: a mapping of such frames, whose cells need not be the same;
    - a sparse matrix: an array;
    - names of columns in several levels are joined by ``:``.
    """
    if is_mapping(x):
        return {str(m): standardized(part) for m, part in x.items()}
    if hasattr(x, "mod") and hasattr(x, "obs_names"):
        return {str(m): standardized(part) for m, part in x.mod.items()}
    return next((convert(x) for fits, convert in _KINDS if fits(x)), x)


def _is_cells(x: Any) -> bool:
    return hasattr(x, "obs_names") and hasattr(x, "var_names") and hasattr(x, "X")


def _of_cells(x: Any) -> Any:
    pd = require("train", "pandas", "a frame of cells")
    values = x.X.toarray() if hasattr(x.X, "toarray") else np.asarray(x.X)
    return pd.DataFrame(values, index=x.obs_names.astype(str), columns=x.var_names.astype(str))


def _is_arrow(x: Any) -> bool:
    """One column alone has the stream too, but no names."""
    return hasattr(x, "__arrow_c_stream__") and any(hasattr(x, n) for n in ("columns", "column_names", "schema"))


def _of_arrow(x: Any) -> Any:
    require("train", "pandas", "a frame")
    return require("train", "pyarrow", "an Arrow table").table(x).to_pandas()


def _of_interchange(x: Any) -> Any:
    return require("train", "pandas.api.interchange", "a frame").from_dataframe(x)


def _flattened(frame: Any) -> Any:
    if getattr(frame.columns, "nlevels", 1) == 1:
        return frame
    flat = frame.copy(deep=False)
    flat.columns = [LEVELS.join(str(level) for level in name) for name in frame.columns]
    return flat


# What is looked for first comes first.
_KINDS = (
    (_is_cells, _of_cells),
    (issparse, lambda x: x.toarray()),
    (is_pandas, _flattened),
    (lambda x: hasattr(x, "index") and hasattr(x, "to_frame"), lambda x: x.to_frame(x.name or "0")),
    (_is_arrow, _of_arrow),
    (lambda x: hasattr(x, "__dataframe__"), _of_interchange),
)


def views(x: Any) -> dict[str, list[str]]:
    """The first level of a pandas frame's columns, and the joined names of the columns of each; {} for one level."""
    if not is_pandas(x) or getattr(x.columns, "nlevels", 1) == 1:
        return {}
    found: dict[str, list[str]] = {}
    for name in x.columns:
        found.setdefault(str(name[0]), []).append(LEVELS.join(str(level) for level in name))
    return found


def numbers(frame: Any, where: str) -> NDArray[np.float64]:
    """A pandas frame as float64 ``(n, p)``: NaN where a cell is empty.

    Example:
        >>> import pandas as pd
        >>> from equifuse.data.frames import numbers
        >>> numbers(pd.DataFrame({"a": pd.array([1, None], "Int64"), "b": [True, False]}), "X").tolist()
        [[1.0, 1.0], [nan, 0.0]]

    Raises:
        DataError: a column that holds no numbers, naming it.
    """
    values = np.empty(frame.shape, dtype=np.float64)
    for place, kind in enumerate(frame.dtypes):
        column = frame.iloc[:, place]
        try:
            if isinstance(kind, np.dtype) and kind.kind in "biuf":
                values[:, place] = column.to_numpy()
            elif getattr(kind, "name", "") == "category":
                values[:, place] = column.astype(object).astype(float)
            elif getattr(kind, "kind", "O") in "biufO":
                values[:, place] = column.to_numpy(dtype=float, na_value=np.nan)
            else:
                raise ValueError
        except (TypeError, ValueError):
            raise DataError(f"column {str(frame.columns[place])!r} of {where} is not numeric ({kind})") from None
    return values


def matched(X: Any, *beside: Any, fitting: bool) -> tuple[Any, ...]:
    """Frames of a mapping with their rows in the same order, and targets or weights in that order too.

    Example:
        >>> import numpy as np, pandas as pd
        >>> from equifuse.data.frames import matched
        >>> rna = pd.DataFrame({"g": [1.0, 2.0]}, index=["p1", "p2"])
        >>> protein = pd.DataFrame({"p": [20.0, 10.0, 30.0]}, index=["p2", "p1", "p3"])
        >>> X, y = matched({"rna": rna, "protein": protein}, pd.Series([0, 1, 1], ["p3", "p2", "p1"]), fitting=True)
        >>> X["rna"]["g"].tolist(), X["protein"]["p"].tolist(), y.tolist()
        ([nan, 2.0, 1.0], [30.0, 20.0, 10.0], [0, 1, 1])

    Rows are matched by index where the frames' indexes differ, or where that of the targets does and both name rows (an
    index 0, 1, 2, … does not). The rows are those of the targets' index; where they have none, those of the first frame
    that is merely numbered, else of the first frame. A frame without a row does not have the modality there.

    Args:
        X: what :func:`standardized` gives; what is not a mapping of frames is returned as it is.
        *beside: targets, weights or groups of the rows, or None; those without an index have the rows' order.
        fitting: rows of a frame that none of the targets belongs to are left out with a warning; otherwise they are an
            error, because each row is to have a prediction.

    Raises:
        DataError: an index names a row twice, indexes have no row in common, or see ``fitting``.
        InputError: an array among frames of different rows.

    Warns:
        UserWarning: rows that are left out.
    """
    frames = {m: x for m, x in X.items() if is_pandas(x)} if is_mapping(X) else {}
    if not frames:
        return X, *beside
    indexes = {m: x.index for m, x in frames.items()}
    named = {i: v.index for i, v in enumerate(beside) if hasattr(v, "index") and hasattr(v, "reindex")}
    rows = _wanted_rows(list(indexes.values()), list(named.values()))
    if rows is None:
        return X, *beside
    for m, index in (*indexes.items(), ("y", rows)):
        if not index.is_unique:
            twice = index[index.duplicated()].unique()
            raise DataError(
                f"the index of {m!r} names {len(twice)} rows more than once, such as {_some(twice)}; rows are matched "
                "by index here, keep one of each"
            )
    for m, index in indexes.items():
        if not len(rows.intersection(index)):
            raise DataError(
                f"the index of {m!r} has no row in common with the others: it has {_some(index)}, they {_some(rows)}"
            )
        _left_out(m, index.difference(rows, sort=False), fitting)
    others = [m for m, x in X.items() if m not in frames and x is not None]
    if others:
        raise InputError(
            f"modality {others[0]!r} has no index, and the frames beside it differ in theirs; give it an index, or "
            "bring the frames into one order"
        )
    in_order = [v.reindex(rows) if i in named and len(named[i].intersection(rows)) else v for i, v in enumerate(beside)]
    return {m: x if x is None or x.index.equals(rows) else x.reindex(rows) for m, x in X.items()}, *in_order


def _wanted_rows(indexes: Sequence[Any], beside: Sequence[Any]) -> Any:
    """The rows of :func:`matched`; None where all are in order already, or nothing says otherwise."""
    first = indexes[0]
    differ = not all(first.equals(other) for other in indexes)
    told = next((rows for rows in beside if differ or not is_numbered(rows)), None)
    if told is not None and not any(len(told.intersection(index)) for index in indexes):
        told = None  # names of another kind: their order counts, as beside one frame
    if differ:
        return next((i for i in indexes if is_numbered(i)), first) if told is None else told
    return None if told is None or is_numbered(first) or told.equals(first) else told


def _left_out(m: str, rows: Any, fitting: bool) -> None:
    if not len(rows):
        return
    said = f"{len(rows)} rows of modality {m!r} have no counterpart, such as {_some(rows)}"
    if not fitting:
        raise DataError(f"{said}; give all frames the rows that are to be predicted")
    warnings.warn(f"{said}; they are left out", stacklevel=2)


def is_numbered(index: Any) -> bool:
    """Whether an index is what pandas makes by itself: 0, 1, 2, …"""
    return hasattr(index, "step") and index.step == 1 and index.start == 0


def _some(labels: Iterable[Any] | Sequence[Any]) -> str:
    return ", ".join(repr(v.item() if isinstance(v, np.generic) else v) for v in list(labels)[:_NAMED])
