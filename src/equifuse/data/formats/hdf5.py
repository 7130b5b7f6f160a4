"""HDF5 files with the keys of the ``.npz`` layouts; what is large stays on disk.

``modalities`` and ``task`` (arrays or attributes), and one array per modality with ``y``, ``train_idx``, ``test_idx``
and perhaps ``val_idx``; or ``<modality>_train``, ``y_train``, …; see :func:`equifuse.data.read_npz`.
``equifuse datasets convert`` writes such files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from equifuse.data.assemble import assemble, assemble_parts, typed_target, with_presence
from equifuse.data.dataset import PARTS, MultimodalDataset, Split
from equifuse.data.formats.base import Format
from equifuse.data.formats.npz import integers
from equifuse.data.ids import refuse_repeated
from equifuse.data.lazy import HDF5Array, blocks, loaded_if_small
from equifuse.data.options import SourceOptions
from equifuse.data.selfcontained import open_hdf5
from equifuse.errors import DataError
from equifuse.extras import require
from equifuse.files import atomic, check_fits, parse_errors
from equifuse.registry import FORMATS

SUFFIXES = (".hdf5", ".h5")


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The file, open for reading.

    Raises:
        DataError: it is missing or not HDF5, takes values from other files, or anything was raised while it was open.
    """
    with parse_errors(path, "HDF5"), open_hdf5(path) as file:
        yield file


def array_of(path: Path, item: Any) -> NDArray[Any]:
    """A dataset's values, all at once.

    Raises:
        DataError: it is none, or is larger than memory.
    """
    if not hasattr(item, "nbytes"):
        raise DataError(f"{path}: {item.name!r} is not an array")
    check_fits(path, item.nbytes)
    return np.asarray(item)


@FORMATS.register
class HDF5Format(Format):
    """HDF5 files in the layouts of the ``.npz`` ones; large features stay on disk."""

    name: ClassVar[str] = "hdf5"
    description: ClassVar[str] = "HDF5 with one array per modality"

    def detect(self, path: Path) -> bool:
        """An HDF5 file that names its modalities."""
        if path.suffix not in SUFFIXES:
            return False
        with opened(path) as file:
            return "modalities" in file or "modalities" in file.attrs

    def read(self, path: Path, options: SourceOptions, *, val_fraction: float, seed: int) -> MultimodalDataset:
        """Read the file.

        Raises:
            DataError: a key is missing, or the content does not fit together.
        """
        options.refuse("an HDF5 data set")
        with opened(path) as file:
            names = [text_of(m) for m in np.atleast_1d(_entry(path, file, "modalities"))]
            task = text_of(_entry(path, file, "task"))
            classes = None
            if "class_names" in file or "class_names" in file.attrs:
                classes = tuple(text_of(c) for c in _entry(path, file, "class_names"))
            indexed = "train_idx" in file
            suffixes = {"": ""} if indexed else {p: f"_{p}" for p in PARTS if f"{names[0]}_{p}" in file}
            splits = {part: _split(path, file, names, suffix, task) for part, suffix in suffixes.items()}
            parts = {
                p: integers(path, f"{p}_idx", array_of(path, file[f"{p}_idx"])).astype(np.intp)
                for p in PARTS
                if f"{p}_idx" in file
            }
        options_of_split: dict[str, Any] = {"classes": classes, "val_fraction": val_fraction, "seed": seed}
        if indexed:
            return assemble(path.stem, splits[""], task, parts, **options_of_split)
        return assemble_parts(path.stem, splits, task, **options_of_split)


def _split(path: Path, file: Any, names: list[str], suffix: str, task: str) -> Split:
    ids = file.get(f"sample_ids{suffix}")
    counted = {m: f"{m}_len{suffix}" for m in names if f"{m}_len{suffix}" in file}
    return with_presence(
        {m: loaded_if_small(HDF5Array(path, m + suffix)) for m in names},
        typed_target(array_of(path, file[f"y{suffix}"]), task) if f"y{suffix}" in file else None,
        None if ids is None else _ids(path, ids),
        {m: integers(path, key, array_of(path, file[key])) for m, key in counted.items()},
    )


def _ids(path: Path, item: Any) -> NDArray[np.str_]:
    ids = np.array([text_of(i) for i in array_of(path, item)])
    refuse_repeated(ids, f"{path}: {item.name!r}")
    return ids


def _entry(path: Path, file: Any, key: str) -> Any:
    if key in file:
        return array_of(path, file[key])[()]
    if key in file.attrs:
        return file.attrs[key]
    raise DataError(f"{path} has no {key!r}; a data set needs 'modalities' and 'task'")


def text_of(value: Any) -> str:
    """Text, which HDF5 gives as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def write_hdf5(path: Path, dataset: MultimodalDataset) -> None:
    """Write a data set in the ready-split layout, block by block; missing modalities become NaN rows.

    Args:
        path: file to create; what is there is replaced only once all is written.
        dataset: what to write.
    """
    h5py = require("train", "h5py", "HDF5")

    with atomic(path) as staging, h5py.File(staging, "w") as file:
        file.attrs["modalities"] = list(dataset.modalities)
        file.attrs["task"] = dataset.task
        if dataset.classes is not None:
            file.attrs["class_names"] = list(dataset.classes)
        for part, split in dataset.splits.items():
            for m, x in split.inputs.items():
                target = file.create_dataset(f"{m}_{part}", shape=x.shape, dtype=np.float32)
                mask = split.present.get(m)
                for start, block in blocks(x):
                    stop = start + len(block)
                    if mask is not None:
                        there = mask[start:stop].reshape(-1, *[1] * (block.ndim - 1))
                        target[start:stop] = np.where(there, block, np.float32(np.nan))
                    else:
                        target[start:stop] = block
            for m, steps in split.lengths.items():
                file[f"{m}_len_{part}"] = steps
            if split.target is not None:
                file[f"y_{part}"] = split.target
            if split.ids is not None:
                file[f"sample_ids_{part}"] = [str(i) for i in split.ids]
