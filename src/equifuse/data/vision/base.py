"""What every source of images is: a table with a row for each image, found by the image's id."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from equifuse.data.contents import Content
from equifuse.data.lazy import Indices, SharedRows
from equifuse.errors import DataError

_NUMBER = re.compile(r"\d+")
# Files whose names end so are images.
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def image_keys(name: str) -> list[str]:
    """By what an image may be called in questions: its file's name, without the ending, and the number at its end.

    >>> from equifuse.data.vision import image_keys
    >>> image_keys("COCO_val2014_000000393225.jpg")
    ['COCO_val2014_000000393225.jpg', 'COCO_val2014_000000393225', '393225']
    """
    stem = name
    while Path(stem).suffix.lower() in (*PICTURES, ".npz", ".npy"):
        stem = Path(stem).stem
    numbers = _NUMBER.findall(stem)
    return list(dict.fromkeys([name, stem, *([str(int(numbers[-1]))] if numbers else [])]))


class ImageTable(ABC):
    """Base of the sources of images.

    Attributes:
        path: the file or folder.
        ids: what each row is called, any of :func:`image_keys`.
        shape: of one row.
        lengths: int64 ``(n,)``, regions of each image; None where a row is one picture.
        content: what the numbers stand for.
    """

    kind: ClassVar[str]
    path: Path
    ids: Sequence[str]
    shape: tuple[int, ...]
    lengths: NDArray[np.int64] | None
    content: Content

    @abstractmethod
    def read(self, places: Indices) -> NDArray[np.generic]:
        """The rows at places ``(k,)``, sorted and each once, ``(k, *shape)``."""

    def stamp(self) -> str:
        """A word that differs where the images do: by names, numbers and sizes of files, not by all their bytes."""
        files = sorted(self.path.iterdir()) if self.path.is_dir() else [self.path]
        told = [f"{file.name}:{file.stat().st_size}" for file in files if file.is_file()]
        return hashlib.sha256("|".join([self.kind, str(self.shape), *told]).encode()).hexdigest()

    def find(self, images: Iterable[object]) -> Indices:
        """The row of each image, -1 where there is none."""
        rows: dict[str, int] = {}
        for row, name in enumerate(self.ids):
            for key in reversed(image_keys(name)):
                rows.setdefault(key, row)
        return np.array([rows.get(str(image), -1) for image in images], dtype=np.intp)

    def rows(self, index: Indices) -> SharedRows:
        """Features of samples that share images: the row of each, -1 for none."""
        return SharedRows(self.read, self.shape, index, self.stamp(), str(self.path))


def open_images(path: Path, size: int) -> ImageTable:
    """The images behind a path, whatever their layout.

    Args:
        path: a folder of pictures or of one ``.npz`` or ``.npy`` each, a TSV of bottom-up attention or LXMERT, or HDF5.
        size: to which pictures are brought.

    Raises:
        DataError: nothing is known of such a path.
    """
    from equifuse.data.vision.pictures import Pictures  # noqa: PLC0415 - both are of this kind
    from equifuse.data.vision.regions import RegionFiles, RegionHDF5, RegionTSV  # noqa: PLC0415

    if path.is_dir():
        endings = {file.suffix.lower() for file in path.iterdir() if file.is_file()}
        if endings & set(PICTURES):
            return Pictures(path, size)
        if endings & {".npz", ".npy"}:
            return RegionFiles(path)
        if endings & {".pt", ".pth", ".pkl"}:
            raise DataError(f"{path} holds pickles, which could run any code; save the features as .npy or .npz")
        raise DataError(f"{path} has neither images ({', '.join(PICTURES)}) nor features (.npz, .npy)")
    if not path.is_file():
        raise DataError(f"no such file or folder: {path}")
    if path.suffix == ".tsv":
        return RegionTSV(path)
    if path.suffix in (".h5", ".hdf5"):
        return RegionHDF5(path)
    raise DataError(f"{path}: features of images are read from .h5, .hdf5, .tsv, or a folder of .npz, .npy or images")
