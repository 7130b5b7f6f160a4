"""NumPy archives: one array per modality, with a ready split or an index split."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from equifuse.data.assemble import assemble, assemble_parts, typed_target, with_presence
from equifuse.data.dataset import PARTS, MultimodalDataset, Split
from equifuse.data.formats.base import Format
from equifuse.data.ids import refuse_repeated
from equifuse.data.lazy import Features, Indices, in_memory
from equifuse.data.options import SourceOptions
from equifuse.errors import DataError
from equifuse.files import atomic, check_unpacked_fits, parse_errors
from equifuse.registry import FORMATS

Arrays = dict[str, NDArray[np.generic]]
# The keys that every data set has.
REQUIRED = ("modalities", "task")


def read_arrays(path: Path) -> Arrays:
    """All arrays of an ``.npz`` file; pickled ones are refused.

    Raises:
        DataError: no such file, not an archive, or an array of objects.
    """
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    with parse_errors(path, ".npz (plain arrays only, no pickled objects)"):
        check_unpacked_fits(path)
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise DataError(f"{path} holds {key!r}, which is no array")
        if array.dtype.kind == "U" and array.nbytes and _codes(array).max() > sys.maxunicode:
            raise DataError(f"{path}: {key!r} holds text that is none")
    return arrays


def is_data_set(path: Path) -> bool:
    """Whether an ``.npz`` file says what is what in it; archives of other arrays do not, and are not read for it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {f"{key}.npy" for key in REQUIRED} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _codes(text: NDArray[np.generic]) -> NDArray[np.uint32]:
    """The code points of an array of text; NumPy reads any four bytes as one."""
    return np.frombuffer(text.tobytes(), dtype=np.dtype(np.uint32).newbyteorder(text.dtype.byteorder))


def read_npz(path: str | os.PathLike[str], *, val_fraction: float = 0.2, seed: int = 0) -> MultimodalDataset:
    """Read a data set from an ``.npz`` file.

    >>> ef.datasets.write_npz("digits.npz", ef.datasets.load("digits"))
    >>> ef.datasets.read_npz("digits.npz").modalities
    ('pixels', 'fourier', 'zernike', 'profiles', 'morphology')

    Keys ``modalities`` (names in order) and ``task``, and one of two layouts:

    - ready split: ``<modality>_train``, optionally ``_val``, ``_test``; ``y_train``, …
    - index split: one array per modality, ``y``, ``train_idx``, optionally ``val_idx``, ``test_idx``.

    A missing validation part is split off the training part (stratified for classification). A row that is all NaN is
    a missing modality. Optional: ``class_names``, ``sample_ids``, and ``<modality>_len`` (``<modality>_len_train``, …),
    the numbers of valid steps of sequences ``(n, T, l)``.

    Args:
        path: the file.
        val_fraction: share of the training part used for validation if the file has no validation part, in (0, 1).
        seed: seed of that split.

    Returns:
        The data set.

    Raises:
        DataError: the file is missing or damaged, a key is missing, or the content does not fit together.
    """
    path = Path(path)
    arrays = read_arrays(path)
    for key in REQUIRED:
        if key not in arrays:
            raise DataError(f"{path} has no key {key!r}; a data set needs 'modalities' and 'task'")
    names = [str(m) for m in np.atleast_1d(arrays["modalities"])]
    if not names or len(set(names)) < len(names):
        raise DataError(f"{path}: 'modalities' must name at least one modality, and each once; it has {names[:12]}")
    _check_lists(path, arrays, names)
    for key in ("sample_ids", *(f"sample_ids_{part}" for part in PARTS)):
        if key in arrays:
            refuse_repeated(arrays[key], f"{path}: {key!r}")
    task = str(arrays["task"])
    classes = tuple(str(c) for c in arrays["class_names"]) if "class_names" in arrays else None
    options: dict[str, Any] = {"classes": classes, "val_fraction": val_fraction, "seed": seed}
    if "train_idx" in arrays:
        whole, parts = _index_layout(path, arrays, names)
        return assemble(path.stem, _typed(whole, task), task, parts, **options)
    splits = {part: _typed(split, task) for part, split in _ready_layout(path, arrays, names).items()}
    return assemble_parts(path.stem, splits, task, **options)


@FORMATS.register
class NpzFormat(Format):
    """NumPy archives, see :func:`read_npz`."""

    name: ClassVar[str] = "npz"
    description: ClassVar[str] = ".npz with one array per modality"
    priority: ClassVar[int] = 20

    def detect(self, path: Path) -> bool:
        """An ``.npz`` file."""
        return path.suffix == ".npz"

    def read(self, path: Path, options: SourceOptions, *, val_fraction: float, seed: int) -> MultimodalDataset:
        """:func:`read_npz` as a format."""
        options.refuse("an .npz data set")
        return read_npz(path, val_fraction=val_fraction, seed=seed)


def _index_layout(path: Path, arrays: Arrays, names: list[str]) -> tuple[Split, dict[str, Indices]]:
    whole = Split(
        {m: _modality(path, arrays, m) for m in names},
        target=arrays.get("y"),
        ids=arrays.get("sample_ids"),
        lengths={m: integers(path, f"{m}_len", arrays[f"{m}_len"]) for m in names if f"{m}_len" in arrays},
    )
    rows = len(whole)
    for m, x in whole.inputs.items():
        if len(x) != rows:
            raise DataError(f"{path}: modality {m!r} has {len(x)} rows, {names[0]!r} has {rows}")
    if whole.target is not None and len(whole.target) != rows:
        raise DataError(f"{path}: {len(whole.target)} labels for {rows} rows")
    parts = {}
    for part in PARTS:
        if f"{part}_idx" in arrays:
            parts[part] = integers(path, f"{part}_idx", arrays[f"{part}_idx"]).astype(np.intp)
    if "test" not in parts:
        raise DataError(f"{path} has 'train_idx' but no 'test_idx'")
    return whole, parts


def _ready_layout(path: Path, arrays: Arrays, names: list[str]) -> dict[str, Split]:
    splits = {}
    for part in PARTS:
        if part == "val" and not any(f"{m}_val" in arrays for m in names):
            continue
        inputs: dict[str, Features] = {m: _modality(path, arrays, f"{m}_{part}") for m in names}
        counted = {m: f"{m}_len_{part}" for m in names if f"{m}_len_{part}" in arrays}
        lengths = {m: integers(path, key, arrays[key]) for m, key in counted.items()}
        ids = arrays.get(f"sample_ids_{part}")
        splits[part] = Split(inputs, target=arrays.get(f"y_{part}"), ids=ids, lengths=lengths)
    return splits


def _check_lists(path: Path, arrays: Arrays, names: list[str]) -> None:
    """That what should have a row per sample has rows, and that names are a list; other arrays may be anything."""
    for prefix in ("class_names", "sample_ids", "y", *names):
        for key in (prefix, *(f"{prefix}_{part}" for part in PARTS)):
            shape = arrays[key].shape if key in arrays else (0,)
            if shape == () or (prefix in ("class_names", "sample_ids") and len(shape) > 1):
                raise DataError(f"{path}: {key!r} must be a list, one entry per sample or class; its shape is {shape}")


def integers(path: Path, key: str, values: NDArray[np.generic]) -> NDArray[np.int64]:
    """A list of integers.

    Raises:
        DataError: it is something else.
    """
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise DataError(f"{path}: {key!r} must be a list of integers, got {values.dtype} of shape {values.shape}")
    return values.astype(np.int64)


def _modality(path: Path, arrays: Arrays, key: str) -> NDArray[np.float32]:
    if key not in arrays:
        raise DataError(f"{path} has no key {key!r}; it has {', '.join(sorted(arrays)[:12])}")
    if arrays[key].dtype.kind not in "fiub":
        raise DataError(f"{path}: {key!r} holds {arrays[key].dtype}, expected numbers")
    x = arrays[key].astype(np.float32)
    return x[:, None] if x.ndim == 1 else x


def _typed(split: Split, task: str) -> Split:
    """Targets in the dtype of their task; presence from rows that are all NaN."""
    target = None if split.target is None else typed_target(split.target, task)
    return with_presence(split.inputs, target, split.ids, split.lengths)


def write_npz(path: str | os.PathLike[str], dataset: MultimodalDataset) -> None:
    """Write a data set as an ``.npz`` file with a ready split, atomically; missing modalities become NaN rows.

    >>> ef.datasets.write_npz("digits.npz", ef.datasets.load("digits"))
    >>> ef.datasets.load("digits.npz").task
    'classification'
    """
    path = Path(path)
    arrays: Arrays = {"modalities": np.array(dataset.modalities), "task": np.array(dataset.task)}
    if dataset.classes is not None:
        arrays["class_names"] = np.array(dataset.classes)
    for part, split in dataset.splits.items():
        for m, features in split.inputs.items():
            x, mask = in_memory(features), split.present.get(m)
            blank = x if mask is None else np.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, np.float32(np.nan))
            arrays[f"{m}_{part}"] = blank
        for m, steps in split.lengths.items():
            arrays[f"{m}_len_{part}"] = steps
        if split.target is not None:
            arrays[f"y_{part}"] = split.target
        if split.ids is not None:
            arrays[f"sample_ids_{part}"] = split.ids
    with atomic(path) as staging, staging.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
