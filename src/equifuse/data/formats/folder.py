"""A folder with one file of features per modality, and a CSV of labels and splits.

The way features of VGGSound, ActivityNet, FakeAVCeleb and the like are passed on, and a folder of ``.npy``:

- ``split.csv`` (or ``labels.csv``, ``samples.csv``, ``metadata.csv``, or Parquet): a column ``id``, a column ``label``
  (or ``target``, or what the option names; ``label_<modality>`` columns are several targets, as real/fake per
  modality), and a column ``split`` (train, val, test);
- ``<modality>.npy`` with rows in that order; ``.csv`` or another table joined on the id; ``.npz`` or ``.h5`` with
  arrays ``features`` and ``ids``; or ``.h5`` with one dataset per id, ``(l,)`` or ``(T, l)``. Sequences of different
  length are padded with zeros to the longest, and their lengths kept.

An id that a modality's file does not have is a sample without this modality.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from equifuse.data.assemble import assemble, encode_target, needs_target, part_rows, with_presence
from equifuse.data.columns import Columns
from equifuse.data.dataset import MultimodalDataset
from equifuse.data.formats import joining
from equifuse.data.formats.base import Format
from equifuse.data.formats.hdf5 import SUFFIXES as HDF5_SUFFIXES
from equifuse.data.formats.hdf5 import opened, text_of
from equifuse.data.formats.table import extra_columns
from equifuse.data.ids import IdPattern, Matched, groups_of, id_texts, rows_by_id, said_of_duplicates
from equifuse.data.lazy import Features, Floats, HDF5Array, in_memory, loaded_if_small
from equifuse.data.options import SourceOptions, target_columns
from equifuse.data.selfcontained import member
from equifuse.data.sources import SourceFile
from equifuse.data.tables import SUFFIXES, Table, is_table, read_table, suffix_of
from equifuse.errors import DataError, InputError
from equifuse.registry import FORMATS, TASKS

if TYPE_CHECKING:
    from equifuse.data.external import Rows, Wanted

_TABLES = tuple(f"{stem}{suffix}" for stem in ("split", "labels", "samples", "metadata") for suffix in SUFFIXES)
_ARRAYS = (".npy", ".npz", *HDF5_SUFFIXES)


def _table_of(path: Path) -> Path | None:
    return next((member(path, name) for name in _TABLES if (path / name).is_file()), None)


@FORMATS.register
class FolderFormat(Format):
    """A folder with one file of features per modality, and a table of labels and splits."""

    name: ClassVar[str] = "folder"
    description: ClassVar[str] = "folder of features with split.csv"
    whole: ClassVar[bool] = True

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
        table = read_table(file, joining.reading_of(options, file))
        columns = list(table.column_names)
        id_column, ids = _ids(table, file, options)
        files = _modalities(path, file, options)
        targets = target_columns(options.target, columns, TASKS.names()) or _usual_targets(columns, list(files))
        rows = table.num_rows
        target, task, classes = None, options.task or "", None
        if targets:
            for name in targets:
                if name not in columns:
                    raise DataError(f"{file} has no target column {name!r}; it has {', '.join(columns)}")
            target, task, classes = encode_target(
                joining.column_values(table, targets), options.task, targets, options.target
            )
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
        features: dict[str, tuple[str, ...]] = {}
        sources = [SourceFile(str(file), rows, len(columns), table.facts)]
        for m, source in files.items():
            inputs[m], steps, features[m], understood = _features(m, source, ids, rows, id_column, options)
            sources.append(replace(understood, modality=m))
            if steps is not None:
                lengths[m] = steps
        whole = with_presence(inputs, target, ids, lengths)
        named = {m: names for m, names in features.items() if names}
        schema = {source.modality: source.schema for source in sources if source.modality and source.schema}
        dataset = assemble(
            path.name, whole, task, parts, classes=classes, features=named, val_fraction=val_fraction, seed=seed
        )
        return replace(dataset, sources=tuple(sources), schema=schema)

    def rows(
        self, path: Path, wanted: Wanted, options: SourceOptions, *, labelled: bool, split: str | None
    ) -> Rows | None:
        """All rows of a folder for a trained model; labels and parts need not be there."""
        from equifuse.data.external import Rows  # noqa: PLC0415 - both read by formats
        from equifuse.data.inputs import split_of  # noqa: PLC0415

        file = _table_of(path)
        if labelled or split is not None or file is None:
            return None
        options = replace(options, id=options.id or wanted.id)
        table = read_table(file, joining.reading_of(options, file))
        id_column, ids = _ids(table, file, options)
        flat: dict[str, NDArray[np.float32]] = {}
        lengths: dict[str, NDArray[np.int64]] = {}
        notes = []
        for m, source in _modalities(path, file, options).items():
            if m not in wanted.shapes:
                notes.append(f"{source.name} is left out: the model has no modality {m!r}")
                continue
            names, schema = tuple(wanted.features.get(m, ())), wanted.schema.get(m)
            x, steps, found, _ = _features(m, source, ids, table.num_rows, id_column, options, names, schema)
            if names and found and found != names:
                raise DataError(f"{source} has other columns than in training, or in another order; give it ids")
            flat[m] = in_memory(x)
            lengths |= {} if steps is None else {m: steps}
        notes += [f"modality {m!r} is nowhere in {path}: it counts as missing" for m in wanted.shapes if m not in flat]
        whole = split_of(flat, ids, lengths, wanted.shapes, str(path))
        return Rows(replace(whole, columns=extra_columns(file, table, options)), notes)


def _ids(table: Table, file: Path, options: SourceOptions) -> tuple[str, NDArray[np.str_] | None]:
    """What the column of ids is called, and those that the table of a folder has, if any.

    Raises:
        DataError: an id repeats, or the column that was named is not there.
    """
    columns, id_column = list(table.column_names), options.id or "id"
    if id_column in columns:
        texts = id_texts(table.column(id_column), f"{file}: the id {id_column!r}", table.line)
        ids = np.asarray(IdPattern(options.id_pattern or "").of(texts, str(file)))
        if len(set(ids)) != len(ids) and options.duplicates != "keep":
            raise DataError(said_of_duplicates(groups_of(ids), str(file), table.line) + "; keep one row of each")
        return id_column, ids
    if options.id is not None:
        raise DataError(f"{file} has no column {id_column!r}; it has {', '.join(columns)}")
    return id_column, None


def _modalities(path: Path, table: Path, options: SourceOptions) -> dict[str, Path]:
    if options.modalities:
        files = {m: member(path, name) for m, name in options.modalities.items()}
        for file in files.values():
            if not file.is_file():
                raise DataError(f"no such file: {file}")
        return files
    others = sorted(f for f in path.iterdir() if f.is_file() and _is_modality(f) and f.name not in _TABLES)
    files = {}
    for file in others:
        name = file.name[: -len(suffix_of(file))] if file.suffix.lower() == suffix_of(file) else Path(file.stem).stem
        if name in files:
            raise DataError(f"{path} has both {files[name].name} and {file.name} for modality {name!r}")
        files[name] = member(path, file.name)
    if not files:
        raise DataError(
            f"{path} has {table.name} but no features; expected <modality>.npy, .npz, .h5, .csv or .parquet"
        )
    return files


def _is_modality(file: Path) -> bool:
    return is_table(file) or file.suffix in _ARRAYS


def _usual_targets(columns: list[str], modalities: list[str]) -> list[str]:
    single = [c for c in joining.USUAL_TARGETS if c in columns]
    several = [f"label_{m}" for m in modalities if f"label_{m}" in columns]
    return single[:1] or several


def _features(
    m: str,
    file: Path,
    ids: NDArray[np.str_] | None,
    rows: int,
    id_column: str,
    options: SourceOptions,
    names: tuple[str, ...] = (),
    schema: Columns | None = None,
) -> tuple[Features, NDArray[np.int64] | None, tuple[str, ...], SourceFile]:
    """The rows of a modality in the order of the table, the lengths of padded sequences, names of features if there are
    some, and what was understood.
    """
    if file.suffix in HDF5_SUFFIXES:
        found, steps, fit = _from_hdf5(file, ids, rows, options)
        return found, steps, (), SourceFile(str(file), len(found), math.prod(found.shape[1:]), ids=fit)
    if ids is not None:
        whole = joining.JoinedFile(file)
        values, names, source = joining.join(whole, id_column, ids.tolist(), options, names, schema, modality=m)
        return values, None, names, source
    found, known, names = joining.keyed_features(file, None, id_column)
    if known is not None:
        raise DataError(f"{file} has ids, the table of the folder has no column {id_column!r}")
    if len(found) != rows:
        raise DataError(f"{file} has {len(found)} rows, the table of the folder has {rows}")
    return found, None, names, SourceFile(str(file), len(found), math.prod(found.shape[1:]))


def _from_hdf5(
    file: Path, ids: NDArray[np.str_] | None, rows: int, options: SourceOptions
) -> tuple[Features, NDArray[np.int64] | None, Matched | None]:
    with opened(file) as source:
        keys = [key for key in source if hasattr(source[key], "shape")]
        array = next((k for k in ("features", "x", "X", file.stem) if k in keys), None)
        if array is None and ids is not None and any(i in source for i in ids):
            return *_by_id(file, source, ids), None
        if array is None:
            raise DataError(f"{file} has no array 'features', and no dataset named after an id; it has {keys[:6]}")
        known = next(([text_of(v) for v in source[k]] for k in ("ids", "sample_ids", "id") if k in keys), None)
    found = HDF5Array(file, array)
    if known is None or ids is None:
        if len(found) != rows:
            raise DataError(f"{file} has {len(found)} rows, the table of the folder has {rows}")
        return loaded_if_small(found), None, None
    known = IdPattern(options.id_pattern or "").of(known, str(file))
    values, fit = rows_by_id(found, known, ids, str(file), duplicates=options.duplicates or "error")
    return loaded_if_small(values), None, fit


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
