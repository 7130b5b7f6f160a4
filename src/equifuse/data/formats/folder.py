"""A folder with one file of features per modality, and a CSV of labels and splits.

The way features of VGGSound, ActivityNet, FakeAVCeleb and the like are passed on, and a folder of ``.npy``:

- ``split.csv`` (or ``labels.csv``, ``samples.csv``, ``metadata.csv``, or Parquet): a column ``id``, a column ``label``
  (or ``target``, or what the option names; ``label_<modality>`` columns are several targets, as real/fake per
  modality), and a column ``split`` (train, val, test);
- ``<modality>.npy`` with rows in that order; ``.csv`` or ``.parquet`` joined on the id; ``.npz`` or ``.h5`` with arrays
  ``features`` and ``ids``; or ``.h5`` with one dataset per id, ``(l,)`` or ``(T, l)``. Sequences of different length
  are padded with zeros to the longest, and their lengths kept.

An id that a modality's file does not have is a sample without this modality.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from equifuse.data.assemble import assemble, encode_target, needs_target, part_rows, rows_by_id, with_presence
from equifuse.data.dataset import MultimodalDataset
from equifuse.data.formats import table as tables
from equifuse.data.formats.base import Format
from equifuse.data.formats.hdf5 import SUFFIXES as HDF5_SUFFIXES
from equifuse.data.formats.hdf5 import opened, text_of
from equifuse.data.lazy import Features, Floats, HDF5Array, loaded_if_small
from equifuse.data.options import SourceOptions
from equifuse.errors import DataError, InputError
from equifuse.registry import FORMATS

_TABLES = tuple(f"{stem}{suffix}" for stem in ("split", "labels", "samples", "metadata") for suffix in tables.SUFFIXES)
_MODALITY = (".npy", ".npz", *HDF5_SUFFIXES, *tables.SUFFIXES)


def _table_of(path: Path) -> Path | None:
    return next((path / name for name in _TABLES if (path / name).is_file()), None)


@FORMATS.register
class FolderFormat(Format):
    """A folder with one file of features per modality, and a table of labels and splits."""

    name: ClassVar[str] = "folder"
    description: ClassVar[str] = "folder of features with split.csv"

    def detect(self, path: Path) -> bool:
        """A folder with such a table."""
        return path.is_dir() and _table_of(path) is not None

    def read(self, path: Path, options: SourceOptions, *, val_fraction: float, seed: int) -> MultimodalDataset:
        """Read the folder.

        Raises:
            DataError: a file is missing, damaged or does not fit the others.
            InputError: the target is not named and cannot be guessed.
        """
        file = _table_of(path)
        assert file is not None
        table = tables.read_table(file)
        columns = list(table.column_names)
        id_column = options.id or "id"
        ids = None
        if id_column in columns:
            ids = np.asarray([str(v) for v in table.column(id_column).to_pylist()])
            if len(set(ids)) != len(ids):
                raise DataError(f"{file}: column {id_column!r} has the same id more than once")
        elif options.id is not None:
            raise DataError(f"{file} has no column {id_column!r}; it has {', '.join(columns)}")
        files = _modalities(path, file, options)
        targets = list(options.target) or _usual_targets(columns, list(files))
        rows = len(table.column(columns[0]))
        target, task, classes = None, options.task or "", None
        if targets:
            for name in targets:
                if name not in columns:
                    raise DataError(f"{file} has no target column {name!r}; it has {', '.join(columns)}")
            target, task, classes = encode_target(tables.column_values(table, targets), options.task, targets)
        elif needs_target(options.task):
            raise InputError(f"{file}: which column is the target? Pass target; it has {', '.join(columns)}")
        split_column = options.split or "split"
        parts = {}
        if split_column in columns:
            parts = part_rows(table.column(split_column).to_pylist(), f"{file}: {split_column!r}")
        elif options.split is not None:
            raise DataError(f"{file} has no column {split_column!r}; it has {', '.join(columns)}")
        inputs: dict[str, Features] = {}
        lengths: dict[str, NDArray[np.int64]] = {}
        for m, source in files.items():
            inputs[m], steps = _features(source, ids, rows, id_column)
            if steps is not None:
                lengths[m] = steps
        whole = with_presence(inputs, target, ids, lengths)
        return assemble(path.name, whole, task, parts, classes=classes, val_fraction=val_fraction, seed=seed)


def _modalities(path: Path, table: Path, options: SourceOptions) -> dict[str, Path]:
    if options.modalities:
        files = {m: path / name for m, name in options.modalities.items()}
        for file in files.values():
            if not file.is_file():
                raise DataError(f"no such file: {file}")
        return files
    others = sorted(f for f in path.iterdir() if f.is_file() and f.suffix in _MODALITY and f.name not in _TABLES)
    files = {}
    for file in others:
        if file.stem in files:
            raise DataError(f"{path} has both {files[file.stem].name} and {file.name} for modality {file.stem!r}")
        files[file.stem] = file
    if not files:
        raise DataError(
            f"{path} has {table.name} but no features; expected <modality>.npy, .npz, .h5, .csv or .parquet"
        )
    return files


def _usual_targets(columns: list[str], modalities: list[str]) -> list[str]:
    single = [c for c in tables.USUAL_TARGETS if c in columns]
    several = [f"label_{m}" for m in modalities if f"label_{m}" in columns]
    return single[:1] or several


def _features(
    file: Path, ids: NDArray[np.str_] | None, rows: int, id_column: str
) -> tuple[Features, NDArray[np.int64] | None]:
    """The rows of a modality in the order of the table, and the lengths of sequences that were padded."""
    if file.suffix in HDF5_SUFFIXES:
        return _from_hdf5(file, ids, rows)
    if ids is not None:
        return tables.join(file, None, id_column, ids)[0], None
    found, known, _ = tables.keyed_features(file, None, id_column)
    if known is not None:
        raise DataError(f"{file} has ids, the table of the folder has no column {id_column!r}")
    if len(found) != rows:
        raise DataError(f"{file} has {len(found)} rows, the table of the folder has {rows}")
    return found, None


def _from_hdf5(file: Path, ids: NDArray[np.str_] | None, rows: int) -> tuple[Features, NDArray[np.int64] | None]:
    with opened(file) as source:
        keys = [key for key in source if hasattr(source[key], "shape")]
        array = next((k for k in ("features", "x", "X", file.stem) if k in keys), None)
        if array is None and ids is not None and any(i in source for i in ids):
            return _by_id(file, source, ids)
        if array is None:
            raise DataError(f"{file} has no array 'features', and no dataset named after an id; it has {keys[:6]}")
        known = next(([text_of(v) for v in source[k]] for k in ("ids", "sample_ids", "id") if k in keys), None)
    found = HDF5Array(file, array)
    if known is None or ids is None:
        if len(found) != rows:
            raise DataError(f"{file} has {len(found)} rows, the table of the folder has {rows}")
        return loaded_if_small(found), None
    return loaded_if_small(rows_by_id(found, known, ids, str(file))), None


def _by_id(file: Path, source: Any, ids: NDArray[np.str_]) -> tuple[Floats, NDArray[np.int64] | None]:
    """One dataset per id: vectors, or sequences that are padded."""
    shapes = {i: source[i].shape for i in ids if i in source}
    kinds = {(len(shape), shape[-1]) for shape in shapes.values() if shape}
    if len(kinds) != 1 or next(iter(kinds))[0] > 2 or len(shapes) != sum(1 for s in shapes.values() if s):
        some = sorted({str(shape) for shape in shapes.values()})[:4]
        raise DataError(f"{file}: datasets must all be (l,) or all (T, l) with the same l; got {', '.join(some)}")
    axes, width = next(iter(kinds))
    if axes == 1:
        flat = np.full((len(ids), width), np.nan, dtype=np.float32)
        for row, key in enumerate(ids):
            if key in shapes:
                flat[row] = source[key]
        return flat, None
    longest = max(shape[0] for shape in shapes.values())
    padded = np.zeros((len(ids), longest, width), dtype=np.float32)
    lengths = np.zeros(len(ids), dtype=np.int64)
    for row, key in enumerate(ids):
        if key in shapes:
            lengths[row] = shapes[key][0]
            padded[row, : lengths[row]] = source[key]
        else:
            padded[row] = np.nan
    return padded, lengths
