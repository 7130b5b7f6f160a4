"""Data sets of what is in memory: frames of any library, mappings of frames, AnnData and MuData."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equifuse.data.dataset import MultimodalDataset
from equifuse.data.formats.h5mu import dataset_of_cells
from equifuse.data.formats.joining import USUAL_TARGETS
from equifuse.data.formats.table import dataset_of
from equifuse.data.frames import is_mapping, is_numbered, is_pandas, standardized
from equifuse.data.options import SourceOptions, target_columns
from equifuse.data.tables import ArrowTable, Table
from equifuse.errors import DataError, InputError
from equifuse.extras import require
from equifuse.registry import TASKS

# The data set's name where it has none.
_NAME = "data"


def dataset_of_object(given: Any, options: SourceOptions, *, val_fraction: float, seed: int) -> MultimodalDataset:
    """A data set of a frame, a mapping of frames, or an AnnData or MuData object.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"g_0": range(20), "g_1": 1.0, "age": 50, "label": [0, 1] * 10})
    >>> options = SourceOptions(modalities={"rna": "g_*", "clinical": "age"})
    >>> dataset_of_object(frame, options, val_fraction=0.2, seed=0).dims
    {'rna': 2, 'clinical': 1}

    Args:
        given: one frame, as a table; columns of two levels are modalities and features. Or a mapping modality name ->
            frame: the target is a column of one of them, whose index, or column of ids, names the rows; the others are
            joined by theirs.
        options: as for a table.
        val_fraction: see :func:`equifuse.data.load`.
        seed: likewise.

    Raises:
        DataError: rows or columns do not fit.
        InputError: it is nothing of this kind, or the target is not named.
    """
    if hasattr(given, "obs_names") and (hasattr(given, "mod") or hasattr(given, "X")):
        return dataset_of_cells(given, Path(_NAME), options, val_fraction=val_fraction, seed=seed)
    if not is_mapping(given):
        frame = standardized(given)
        if not is_pandas(frame):
            raise InputError(
                f"cannot make a data set of a {type(given).__name__}; pass a path, a frame, or a dict of them"
            )
        return dataset_of(_NAME, table_of(frame, "frame", options), {}, options, val_fraction=val_fraction, seed=seed)
    frames = standardized(given)
    odd = next((m for m, frame in frames.items() if not is_pandas(frame)), None)
    if odd is not None or not frames:
        kind = type(given[odd]).__name__ if odd is not None else "an empty mapping"
        raise InputError(f"a data set needs frames with a target among their columns, got {kind} for {odd!r}")
    tables = {m: table_of(frame, f"frame {m!r}", options) for m, frame in frames.items()}
    main = _with_target(tables, options)
    others = {m: table for m, table in tables.items() if m != main}
    beside = None if options.modalities else _features(tables[main], options)
    if beside is not None:  # what the target's frame has beside it is a modality as well
        others = {m: beside if m == main else table for m, table in tables.items()}
    return dataset_of(_NAME, tables[main], others, options, val_fraction=val_fraction, seed=seed)


def _features(table: ArrowTable, options: SourceOptions) -> ArrowTable | None:
    """The columns of the frame with the target that are neither that nor decide the parts; None without any."""
    pa = require("train", "pyarrow", "frames")
    taken = {options.split or "split", *_targets(table, options), *options.guiding()}
    ids = {"", "id", options.id}
    names = [name for name in table.column_names if name not in taken]
    if ids.issuperset(names):
        return None
    return ArrowTable(table.path, pa.table({name: table.column(name) for name in names}))


def _targets(table: Table, options: SourceOptions) -> tuple[str, ...]:
    asked = target_columns(options.target, table.column_names, TASKS.names())
    return tuple(asked or [name for name in USUAL_TARGETS if name in table.column_names][:1])


def _with_target(tables: Mapping[str, Table], options: SourceOptions) -> str:
    """The modality whose frame has the target."""
    names = target_columns(options.target, (), TASKS.names()) or USUAL_TARGETS
    having = [m for m, table in tables.items() if any(name in table.column_names for name in names)]
    if len(having) == 1:
        return having[0]
    if having:
        raise DataError(f"more than one frame has a column {names[0]!r}: {', '.join(having)}; keep it in one")
    raise InputError(f"no frame has the target; pass target as the name of a column of one of {', '.join(tables)}")


def table_of(frame: Any, name: str, options: SourceOptions) -> ArrowTable:
    """A pandas frame as a table; an index that names rows is its first column."""
    pa = require("train", "pyarrow", "frames")
    names = [str(column) for column in frame.columns]
    columns = [frame.iloc[:, place] for place in range(len(names))]
    if not is_numbered(frame.index) and options.id not in names:
        names = [options.id if options.id and options.id == frame.index.name else "", *names]
        columns = [frame.index.to_series().map(str), *columns]
    arrays = []
    for column, called in zip(columns, names, strict=True):
        try:
            arrays.append(pa.array(column, from_pandas=True))
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise DataError(f"{name}: column {called!r} cannot be read: {error}") from None
    return ArrowTable(Path(name), pa.table(arrays, names=names))
