"""Mappings of arrays, data frames and single arrays as one table, and back to modalities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array

from equifuse.data import Split
from equifuse.data.assemble import with_presence
from equifuse.data.columns import Columns as Schema
from equifuse.data.dataset import check_finite
from equifuse.data.frames import LEVELS, is_mapping, is_pandas, matched, numbers, standardized, views
from equifuse.data.lazy import Indices
from equifuse.data.options import matching
from equifuse.errors import DataError, InputError, UnknownNameError
from equifuse.estimators.encoding import encoded

# Columns of a modality: a pattern of names, names, numbers, or a slice of numbers.
Columns = str | slice | Sequence[str] | Sequence[int] | NDArray[np.integer[Any]]
Table = NDArray[np.generic]
# The modality's name where nothing is said about columns.
_ONLY = "x"


@dataclass(frozen=True)
class Layout:
    """Which columns of a table ``(n, p)`` are which modality.

    Attributes:
        columns: modality name -> its column numbers.
        shapes: modality name -> shape of one sample; its product is the number of columns.
        width: ``p``.
        names: names of the table's columns, by which they are found in a data frame; None to go by position.
        own: modality name -> names of its columns, for modalities that were frames of their own.
        dtype: of the modalities.
        padded: whether steps of NaN at the end of a sequence ``(T, l)`` are padding.
        schema: modality name -> what the columns of its frame hold, where they are not all numbers.
    """

    columns: dict[str, Indices]
    shapes: dict[str, tuple[int, ...]]
    width: int
    names: tuple[str, ...] | None = None
    own: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dtype: str = "float32"
    padded: bool = False
    schema: Mapping[str, Schema] = field(default_factory=dict)

    def samples(self, X: Any) -> Any:
        """Samples in one of the forms that :meth:`table` takes; the modalities may be a first level of columns."""
        return encoded(self.frames(X), self.schema)

    def frames(self, X: Any) -> Any:
        """:meth:`samples`, with the cells as they are."""
        if self.names is None and views(X):
            return standardized({m: X[m] for m in X.columns.unique(0)})
        return standardized(X)

    def lengthened(self, X: Any) -> Layout:
        """The layout for sequences that are longer than those of ``fit``, where the encoder takes any length.

        It is the same object where none is.
        """
        if not self.padded or not is_mapping(X):
            return self
        shapes = dict(self.shapes)
        for m, x in X.items():
            known, given = list(shapes.get(m, ())), list(getattr(x, "shape", ()))
            if len(known) == 2 and len(given) == 3 and given[1] > known[0] and given[2] == known[1]:
                shapes[m] = (int(given[1]), int(known[1]))
        if shapes == dict(self.shapes):
            return self
        return replace(_consecutive(shapes), own=self.own, dtype=self.dtype, padded=self.padded, schema=self.schema)

    def table(self, X: Any) -> Any:
        """Samples of any accepted form as what :func:`sklearn.utils.validation.validate_data` takes.

        Args:
            X: a mapping of arrays and data frames, in which a modality that is None or left out is missing; a data
                frame, in which all columns of a modality may be missing; or a table ``(n, p)``; all as
                :func:`equifuse.data.frames.standardized` and :func:`~equifuse.data.frames.matched` give them.

        Raises:
            UnknownNameError: a modality that was not there in ``fit``.
            InputError: no modality at all, or a shape that does not fit.
            DataError: modalities of different length, or a modality with some of its columns only.
        """
        if is_mapping(X):
            return self._from_mapping(X)
        if self.names is not None and is_pandas(X):
            return self._from_frame(X)
        return X

    def _from_mapping(self, X: Mapping[str, Any]) -> Table:
        for m in X:
            if m not in self.columns:
                raise UnknownNameError("modality", m, self.columns)
        arrays = {m: _as_array(m, self._chosen(m, x)) for m, x in X.items() if x is not None}
        if not arrays:
            raise InputError(f"no modality given; expected some of {', '.join(self.columns)}")
        rows = _rows_of(arrays)
        if rows == 0:
            raise InputError("there are no samples: X has no rows")
        table = np.full((rows, self.width), np.nan)
        for m, x in arrays.items():
            shape, columns = self.shapes[m], self.columns[m]
            if len(shape) == 2 and x.ndim == 3 and x.shape[1] < shape[0] and x.shape[2] == shape[1]:
                columns = columns[: x.shape[1] * x.shape[2]]  # a shorter sequence: the rest is padding
            elif x.shape[1:] != shape:
                raise InputError(f"modality {m!r} has shape {x.shape[1:]}, the estimator was fitted with {shape}")
            table[:, columns] = x.reshape(len(x), -1)
        return table

    def _chosen(self, m: str, x: Any) -> Any:
        """The columns of a modality's own frame, found by the names they had in ``fit``."""
        wanted = self.features().get(m)
        if wanted is None or not is_pandas(x):
            return x
        names = _names(m, x)
        places = {name: i for i, name in enumerate(names)}
        places |= {f"{m}{LEVELS}{name}": i for i, name in enumerate(names)}
        lacking = [name for name in wanted if name not in places]
        if lacking:
            raise DataError(
                f"modality {m!r} has no column {lacking[0]!r}, which it was fitted with; it has {_some(names)}"
            )
        return x.iloc[:, [places[name] for name in wanted]]

    def _from_frame(self, X: Any) -> Any:
        assert self.names is not None
        known = set(X.columns)
        if not known & set(self.names):
            raise DataError(f"X has none of the columns of fit, such as {self.names[0]!r}")
        for m, columns in self.columns.items():
            lacking = [self.names[c] for c in columns if self.names[c] not in known]
            if 0 < len(lacking) < len(columns):
                raise DataError(
                    f"X has no column {lacking[0]!r}, which modality {m!r} was fitted with; a modality is missing only "
                    "where all of its columns are"
                )
        own = X.loc[:, X.columns.isin(self.names)]
        if not own.columns.is_unique:
            raise DataError(f"X has more than one column {own.columns[own.columns.duplicated()][0]!r}")
        return own.reindex(columns=list(self.names))

    def split(self, table: NDArray[np.floating[Any]]) -> Split:
        """The modalities of a table ``(n, p)``; a row that is all NaN in a modality does not have it.

        Raises:
            DataError: NaN in some of a row's features, or infinity.
        """
        inputs: dict[str, Any] = {}
        lengths = {}
        for m, columns in self.columns.items():
            x: Any = np.ascontiguousarray(table[:, columns], dtype=self.dtype).reshape(len(table), *self.shapes[m])
            if self.padded and x.ndim == 3:
                lengths[m] = _lengths(x)
                padding = np.arange(x.shape[1]) >= lengths[m][:, None]
                x[padding & (lengths[m] > 0)[:, None]] = 0.0  # a sequence without any step stays missing
            inputs[m] = x
        split = with_presence(inputs, lengths=lengths)
        for m, x in split.inputs.items():
            check_finite(m, x, split.present.get(m), "X")
        return split

    def features(self) -> dict[str, tuple[str, ...]]:
        """Modality name -> names of its columns, where these are known."""
        names = self.names
        if names is None:
            return dict(self.own)
        return {m: tuple(names[c] for c in columns) for m, columns in self.columns.items()}

    def original_features(self) -> dict[str, tuple[str, ...]]:
        """The same as they were called before columns that are no numbers became several."""
        own = {m: tuple(column.name for column in columns) for m, columns in self.schema.items()}
        return {**self.features(), **own}


def samples(X: Any, modalities: Mapping[str, Columns] | None) -> tuple[Any, Mapping[str, Columns] | None]:
    """Samples in one of the forms that a layout is made of, and the columns of each modality in them.

    A frame whose columns have several levels has the modalities of the first, or those of them that ``modalities``
    names; see :func:`equifuse.data.frames.standardized` for what else is taken.
    """
    of_level = views(X)
    if not of_level:
        return standardized(X), modalities
    if modalities is None:
        return standardized(X), dict(of_level)
    return standardized(X), {m: _of_levels(wanted, of_level) for m, wanted in modalities.items()}


def _of_levels(wanted: Columns, of_level: Mapping[str, list[str]]) -> Columns:
    """Columns as a user names them in a frame of several levels, by their joined names."""
    if isinstance(wanted, slice | np.ndarray):
        return wanted
    if isinstance(wanted, str):
        return of_level.get(wanted, wanted)
    joined: list[Any] = []
    listed: Sequence[Any] = wanted
    for c in listed:
        if isinstance(c, tuple):
            joined.append(LEVELS.join(str(level) for level in c))
        else:
            joined.extend(of_level.get(str(c), [str(c)]) if isinstance(c, str) else [c])
    return joined


def names_columns(X: Any, modalities: Mapping[str, Columns] | None) -> bool:
    """Whether columns are found in ``X`` by the names of modalities or of columns, and not by number alone."""
    return is_mapping(X) or (modalities is not None and is_pandas(X))


def layout_of(X: Any, modalities: Mapping[str, Columns] | None) -> Layout:
    """The layout of what ``fit`` is given.

    Args:
        X: a mapping of arrays ``(n, …)`` or frames, a data frame, or an array ``(n, p)``; see :func:`samples`.
        modalities: modality name -> columns, for the latter two; None takes all columns as one modality.

    Raises:
        InputError: modalities that do not fit this form of ``X``.
        DataError: columns that are not there.
    """
    if is_mapping(X):
        if modalities is not None:
            raise InputError("modalities= is for a table; X is a mapping of modalities already")
        for m, x in X.items():
            if x is None:
                raise InputError(
                    f"modality {m!r} is None in fit; leave it out, or give rows of NaN where it is missing"
                )
        arrays = {m: _as_array(m, x) for m, x in X.items()}
        if not arrays:
            raise InputError("X has no modality")
        own = {m: _names(m, x) for m, x in X.items() if is_pandas(x)}
        return replace(_consecutive({m: x.shape[1:] for m, x in arrays.items()}), own=own)
    count = X.shape[1]
    if modalities is None:
        return Layout({_ONLY: np.arange(count)}, {_ONLY: (count,)}, count)
    if not isinstance(modalities, Mapping) or not modalities:
        raise InputError(f"modalities must map names to columns, got {modalities!r}")
    names: list[str] | None = list(X.columns) if is_pandas(X) and all(isinstance(c, str) for c in X.columns) else None
    columns = {m: _numbers(m, wanted, names, count) for m, wanted in modalities.items()}
    shapes: dict[str, tuple[int, ...]] = {m: (len(numbers),) for m, numbers in columns.items()}
    if names is None:
        return Layout(columns, shapes, count)
    # Of a data frame only the columns asked for are looked at: the others need not be numbers.
    used = np.unique(np.concatenate(list(columns.values())))
    places = {m: np.searchsorted(used, numbers) for m, numbers in columns.items()}
    return Layout(places, shapes, len(used), tuple(names[c] for c in used))


def stack(X: Mapping[str, ArrayLike]) -> tuple[Table, dict[str, slice]]:
    """Join several modalities into one array, for tools that select samples by row, such as ``cross_val_score``.

    >>> modalities = {"text": np.zeros((20, 5)), "image": np.zeros((20, 3))}
    >>> table, columns = ef.estimators.stack(modalities)
    >>> table.shape, columns
    ((20, 8), {'text': slice(0, 5, None), 'image': slice(5, 8, None)})
    >>> model = ef.FusionClassifier(modalities=columns)  # for GridSearchCV(model, ...).fit(table, y)

    Args:
        X: modality name -> array ``(n, l_m)`` or ``(n,)``, in order.

    Returns:
        The array ``(n, Σ l_m)``, and the columns of each modality in it.

    Raises:
        InputError: there is no modality, or one has more than two axes and does not fit into a table.
        DataError: the modalities have different lengths.
    """
    if not is_mapping(X):
        raise InputError(f"stack takes a mapping of modalities, got {type(X).__name__}")
    X = matched(standardized(X), fitting=False)[0]
    layout = layout_of(X, None)
    for m, shape in layout.shapes.items():
        if len(shape) > 1:
            raise InputError(f"modality {m!r} has samples of shape {shape}; a table holds vectors only")
    return layout.table(X), {m: slice(int(c[0]), int(c[-1]) + 1) for m, c in layout.columns.items()}


def _consecutive(shapes: dict[str, tuple[int, ...]]) -> Layout:
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    starts = (0, *ends[:-1])
    columns = {m: np.arange(a, b) for m, a, b in zip(shapes, starts, ends, strict=True)}
    for m, places in columns.items():
        if len(places) == 0:
            raise DataError(f"modality {m!r} has no features")
    return Layout(columns, shapes, int(ends[-1]))


def _as_array(m: str, x: Any) -> Table:
    """Numbers ``(n, …)`` of at least two axes."""
    if is_pandas(x):
        return numbers(x, f"modality {m!r}")
    options = {"ensure_2d": False, "allow_nd": True, "ensure_all_finite": False, "ensure_min_features": 0}
    array: Table = check_array(x, input_name=f"modality {m!r}", **options)
    return array[:, None] if array.ndim == 1 else array


def _rows_of(arrays: Mapping[str, Table]) -> int:
    first, *others = arrays
    for m in others:
        if len(arrays[m]) != len(arrays[first]):
            raise DataError(f"modality {m!r} has {len(arrays[m])} rows, {first!r} has {len(arrays[first])}")
    return len(arrays[first])


def _names(m: str, frame: Any) -> tuple[str, ...]:
    """Names of a modality's own columns.

    Raises:
        DataError: two are the same.
    """
    names = tuple(str(c) for c in frame.columns)
    if len(set(names)) < len(names):
        raise DataError(f"modality {m!r} has more than one column {next(c for c in names if names.count(c) > 1)!r}")
    return names


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def _numbers(m: str, wanted: Columns, names: list[str] | None, count: int) -> Indices:
    """The column numbers that a modality asks for."""
    if isinstance(wanted, str) or (not isinstance(wanted, slice) and any(isinstance(c, str) for c in wanted)):
        if names is None:
            raise InputError(
                f"modality {m!r} asks for columns by name, and X has no names; pass a data frame, or numbers"
            )
        chosen = matching(names, wanted, "X") if isinstance(wanted, str) else list(wanted)
        lacking = [c for c in chosen if c not in names]
        if lacking:
            raise DataError(f"X has no column {lacking[0]!r}, which modality {m!r} asks for")
        places = {name: i for i, name in enumerate(names)}
        return np.array([places[str(c)] for c in chosen], dtype=np.intp)
    try:
        numbers = np.arange(count)[wanted if isinstance(wanted, slice) else np.asarray(wanted)]
    except (IndexError, TypeError) as error:
        raise DataError(f"modality {m!r}: {error}; X has {count} columns") from None
    if len(numbers) == 0:
        raise DataError(f"modality {m!r} has no columns; X has {count}")
    return numbers.astype(np.intp)


def _lengths(x: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """How many steps of ``(n, T, l)`` there are before those at the end that are all NaN."""
    given = ~np.isnan(x).all(axis=2)
    return np.where(given.any(axis=1), x.shape[1] - given[:, ::-1].argmax(axis=1), 0).astype(np.int64)
