"""NumPy archives: one array per modality, with a ready split or an index split."""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from equifuse.datasets.dataset import PARTS, MultimodalDataset, Split, missing_rows
from equifuse.datasets.splitting import partition
from equifuse.errors import DataError

Arrays = dict[str, NDArray[np.generic]]


def read_arrays(path: Path) -> Arrays:
    """All arrays of an ``.npz`` file; pickled ones are refused.

    Raises:
        DataError: no such file, not an archive, or an array of objects.
    """
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise DataError(f"{path} cannot be read as .npz (plain arrays only, no pickled objects): {error}") from None


def read_npz(path: str | os.PathLike[str], *, val_fraction: float = 0.2, seed: int = 0) -> MultimodalDataset:
    """Read a data set from an ``.npz`` file.

    Keys ``modalities`` (names in order) and ``task``, and either layout:

    - ready split: ``<modality>_train``, optionally ``_val``, ``_test``; ``y_train``, …
    - index split: one array per modality, ``y``, ``train_idx``, optionally ``val_idx``, ``test_idx``.

    A missing validation part is split off the training part (stratified for classification). A row that is all NaN is
    a missing modality. Optional: ``class_names``, ``sample_ids``.

    Args:
        path: the file.
        val_fraction: share of the training part used for validation where the file has none, in (0, 1).
        seed: of that split.

    Raises:
        DataError: the file is missing or damaged, a key is missing, or the content does not fit together.
    """
    path = Path(path)
    arrays = read_arrays(path)
    for key in ("modalities", "task"):
        if key not in arrays:
            raise DataError(f"{path} has no key {key!r}; a data set needs 'modalities' and 'task'")
    names = [str(m) for m in np.atleast_1d(arrays["modalities"])]
    task = str(arrays["task"])
    splits = _index_layout(path, arrays, names) if "train_idx" in arrays else _ready_layout(path, arrays, names)
    splits = {part: _typed(split, task) for part, split in splits.items()}
    if "val" not in splits:
        if not 0 < val_fraction < 1:
            raise DataError(f"val_fraction must be between 0 and 1, got {val_fraction}")
        train = splits["train"]
        labels = train.target if task == "classification" else None
        keep, val = partition(len(train), (1 - val_fraction, val_fraction), seed=seed, labels=labels)
        splits = {"train": train.take(keep), "val": train.take(val), "test": splits["test"]}
    classes = tuple(str(c) for c in arrays["class_names"]) if "class_names" in arrays else None
    return MultimodalDataset(path.stem, {part: splits[part] for part in PARTS}, task, classes)


def _index_layout(path: Path, arrays: Arrays, names: list[str]) -> dict[str, Split]:
    whole = Split({m: _modality(path, arrays, m) for m in names}, target=arrays.get("y"), ids=arrays.get("sample_ids"))
    rows = len(whole)
    for m, x in whole.inputs.items():
        if len(x) != rows:
            raise DataError(f"{path}: modality {m!r} has {len(x)} rows, {names[0]!r} has {rows}")
    if whole.target is not None and len(whole.target) != rows:
        raise DataError(f"{path}: {len(whole.target)} labels for {rows} rows")
    if "test_idx" not in arrays:
        raise DataError(f"{path} has 'train_idx' but no 'test_idx'")
    splits, used = {}, np.zeros(rows, dtype=np.int64)
    for part in PARTS:
        if f"{part}_idx" not in arrays:
            continue
        index = arrays[f"{part}_idx"]
        if index.ndim != 1 or index.dtype.kind not in "iu":
            raise DataError(f"{path}: {part}_idx must be a list of integers")
        if len(index) and (index.min() < 0 or index.max() >= rows):
            raise DataError(f"{path}: {part}_idx points outside of the {rows} rows")
        picked = index.astype(np.intp)
        np.add.at(used, picked, 1)
        splits[part] = whole.take(picked)
    if used.max(initial=0) > 1:
        raise DataError(f"{path}: {int((used > 1).sum())} rows are in more than one split, or twice in one")
    return splits


def _ready_layout(path: Path, arrays: Arrays, names: list[str]) -> dict[str, Split]:
    splits = {}
    for part in PARTS:
        if part == "val" and not any(f"{m}_val" in arrays for m in names):
            continue
        inputs = {m: _modality(path, arrays, f"{m}_{part}") for m in names}
        splits[part] = Split(inputs, target=arrays.get(f"y_{part}"), ids=arrays.get(f"sample_ids_{part}"))
    return splits


def _modality(path: Path, arrays: Arrays, key: str) -> NDArray[np.float32]:
    if key not in arrays:
        raise DataError(f"{path} has no key {key!r}; it has {', '.join(sorted(arrays)[:12])}")
    if arrays[key].dtype.kind not in "fiub":
        raise DataError(f"{path}: {key!r} holds {arrays[key].dtype}, expected numbers")
    x = arrays[key].astype(np.float32)
    return x[:, None] if x.ndim == 1 else x


def _typed(split: Split, task: str) -> Split:
    """Targets in the dtype of their task; presence from rows that are all NaN."""
    target = split.target
    if target is not None:
        if target.dtype.kind not in "fiub":
            raise DataError(f"labels must be numbers, got {target.dtype}; encode classes as 0, 1, ...")
        if task in ("regression", "multilabel"):
            target = target.astype(np.float32).reshape(len(target), -1)
        elif target.dtype.kind == "f":
            if not np.array_equal(target, np.floor(target)):
                raise DataError(f"class labels must be whole numbers, got values such as {target[0]}")
            target = target.astype(np.int64)
        else:
            target = target.astype(np.int64)
    masks = {m: missing_rows(x) for m, x in split.inputs.items()}
    present = {m: mask for m, mask in masks.items() if mask is not None}
    return Split(split.inputs, present, target, split.ids)


def write_npz(path: str | os.PathLike[str], dataset: MultimodalDataset) -> None:
    """Write a data set in the ready-split layout, atomically; missing modalities become NaN rows."""
    path = Path(path)
    arrays: Arrays = {"modalities": np.array(dataset.modalities), "task": np.array(dataset.task)}
    if dataset.classes is not None:
        arrays["class_names"] = np.array(dataset.classes)
    for part, split in dataset.splits.items():
        for m, x in split.inputs.items():
            mask = split.present.get(m)
            blank = x if mask is None else np.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, np.float32(np.nan))
            arrays[f"{m}_{part}"] = blank
        if split.target is not None:
            arrays[f"y_{part}"] = split.target
        if split.ids is not None:
            arrays[f"sample_ids_{part}"] = split.ids
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as staging:
        try:
            np.savez_compressed(staging, **arrays)  # type: ignore[arg-type]
            staging.close()
            Path(staging.name).replace(path)
        finally:
            Path(staging.name).unlink(missing_ok=True)
