"""Features of regions of images as public sets lay them out: HDF5, TSV, and one ``.npz`` or ``.npy`` per image."""

from __future__ import annotations

import base64
import binascii
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from equifuse.data.contents import Content, Regions
from equifuse.data.lazy import Floats, Indices
from equifuse.data.lazy.base import opened
from equifuse.data.selfcontained import member, open_hdf5
from equifuse.data.vision.base import ImageTable
from equifuse.errors import DataError
from equifuse.files import atomic, parse_errors, read_array

# Regions of an image beyond this are left out: the cells of the largest grids that are in use.
_MOST = 608
# The columns of bottom-up attention's TSV, and of LXMERT's.
_BOTTOM_UP = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
_LXMERT = ("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf", *_BOTTOM_UP[3:])
_COLUMNS = {len(names): names for names in (_BOTTOM_UP, _LXMERT)}


class _Regions(ImageTable):
    """Rows ``(regions, width)``, shorter ones padded with zeros."""

    content: Content = Regions()

    def _padded(self, some: list[Floats]) -> Floats:
        found = np.zeros((len(some), *self.shape), dtype=np.float32)
        for row, regions in enumerate(some):
            if regions.ndim != 2 or regions.shape[1] != self.shape[1]:
                raise DataError(
                    f"{self.path}: features of an image have shape {regions.shape}, others width {self.shape[1]}"
                )
            found[row, : len(regions)] = regions[: self.shape[0]]
        return found

    def _sized(self, counts: NDArray[np.int64], width: int) -> None:
        if not len(counts) or counts.max() < 1 or counts.min() < 0 or width < 1:
            raise DataError(f"{self.path} has no features, or fewer than none")
        self.lengths = np.minimum(counts, _MOST)
        self.shape = (int(self.lengths.max()), width)


class RegionHDF5(_Regions):
    """HDF5 with ``image_features``: ``(N, regions, width)``, or ``(total, width)`` with ``pos_boxes`` ``(N, 2)``.

    Which row is which image says ``image_ids`` in the file, or a JSON file beside it: a list, or ``{image id: row}``.

    Args:
        path: the file.
    """

    kind: ClassVar[str] = "hdf5"

    def __init__(self, path: Path) -> None:
        self.path = path
        with parse_errors(path, "HDF5"):
            file = self._file()
            if "image_features" not in file:
                raise DataError(f"{path} has no array 'image_features'; it has {', '.join(sorted(file)[:12])}")
            shape = tuple(file["image_features"].shape)
            self._spans = np.asarray(file["pos_boxes"], dtype=np.int64) if "pos_boxes" in file else None
            listed = np.asarray(file["image_ids"]).tolist() if "image_ids" in file else None
        if len(shape) != (3 if self._spans is None else 2):
            raise DataError(f"{path}: 'image_features' has shape {shape}, expected (N, regions, width)")
        if self._spans is None:
            self._sized(np.full(shape[0], shape[1], dtype=np.int64), shape[2])
        else:
            if (
                self._spans.ndim != 2
                or self._spans.shape[1] != 2
                or (self._spans < 0).any()
                or self._spans.max() > shape[0]
            ):
                raise DataError(f"{path}: 'pos_boxes' does not say where each image's features begin and end")
            self._sized(self._spans[:, 1] - self._spans[:, 0], shape[1])
        count = shape[0] if self._spans is None else len(self._spans)
        self.ids = _texts(listed) if listed is not None else self._beside(count)
        if len(self.ids) != count:
            raise DataError(f"{path} has {count} images, and {len(self.ids)} ids for them")

    def _file(self) -> Any:
        return opened(self.path, lambda: open_hdf5(self.path))

    def _beside(self, count: int) -> list[str]:
        """Ids from a JSON file of the same folder that has as many."""
        words = {
            word for word in self.path.stem.lower().replace("-", "_").split("_") if word[:3] in ("tra", "val", "tes")
        }
        for path in sorted(self.path.parent.glob("*.json"), key=lambda p: not any(word in p.stem for word in words)):
            if path.stat().st_size > 2**28 or "question" in path.stem or "annotation" in path.stem:
                continue
            with parse_errors(path, "JSON"):
                found = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(found, list) and len(found) == count:
                return _texts(found)
            if isinstance(found, dict) and sorted(found.values()) == list(range(count)):
                return [str(key) for key, _ in sorted(found.items(), key=lambda entry: int(entry[1]))]
        raise DataError(
            f"{self.path} does not say which row is which image; put a JSON file {{image id: row}} beside it (a pickle "
            "such as train36_imgid2idx.pkl is not read)"
        )

    def read(self, places: Indices) -> Floats:
        """See :meth:`ImageTable.read`."""
        with parse_errors(self.path, "HDF5"):
            source = self._file()["image_features"]
            if self._spans is None:
                return np.asarray(source[places], dtype=np.float32)
            return self._padded([np.asarray(source[a:b], dtype=np.float32) for a, b in self._spans[places]])


class RegionTSV(_Regions):
    """A TSV of bottom-up attention or LXMERT: a line for each image, arrays in base64.

    Where each line begins is found once, and stored beside the file where that can be written.

    Args:
        path: the file.
    """

    kind: ClassVar[str] = "tsv"

    def __init__(self, path: Path) -> None:
        self.path = path
        stored = _stored_index(path)
        if stored is None:
            stored = self._index()
            _store_index(path, stored)
        self.ids, self._starts = stored["ids"].tolist(), stored["starts"]
        self._sized(stored["counts"], int(stored["width"]))

    def _index(self) -> dict[str, NDArray[Any]]:
        ids, starts, counts, width = [], [], [], 0
        for start, line in self._lines():
            cells = self._cells(line)
            ids.append(cells["image_id" if "image_id" in cells else "img_id"].decode("utf-8", "replace"))
            starts.append(start)
            counts.append(_whole(self.path, cells["num_boxes"]))
            if not width and counts[-1]:
                width = len(self._features(cells)[0])
        with parse_errors(self.path, "features of images"):
            return {
                "ids": np.array(ids, dtype=str),
                "starts": np.array(starts, dtype=np.int64),
                "counts": np.array(counts, dtype=np.int64),
                "width": np.array(width),
            }

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        start = 0
        with self.path.open("rb") as file:
            for line in file:
                if line.strip():
                    yield start, line
                start += len(line)

    def _cells(self, line: bytes) -> dict[str, bytes]:
        cells = line.rstrip(b"\r\n").split(b"\t")
        if len(cells) not in _COLUMNS:
            raise DataError(
                f"{self.path}: a line has {len(cells)} columns; bottom-up attention's files have 6, LXMERT's have 10"
            )
        return dict(zip(_COLUMNS[len(cells)], cells, strict=True))

    def _features(self, cells: dict[str, bytes]) -> Floats:
        count = _whole(self.path, cells["num_boxes"])
        try:
            flat = np.frombuffer(base64.b64decode(cells["features"]), dtype=np.float32)
        except (binascii.Error, ValueError):
            raise DataError(f"{self.path}: the features of an image are not base64 of float32") from None
        if count < 1 or len(flat) % count:
            raise DataError(f"{self.path}: an image has {len(flat)} numbers for {count} boxes")
        return flat.reshape(count, -1)

    def read(self, places: Indices) -> Floats:
        """See :meth:`ImageTable.read`."""
        some = []
        with parse_errors(self.path, "features of images"), self.path.open("rb") as file:
            for start in self._starts[places]:
                file.seek(int(start))
                some.append(self._features(self._cells(file.readline())))
        return self._padded(some)


class RegionFiles(_Regions):
    """A folder with one file for each image: ``.npz`` with ``x`` ``(width, n)`` as openvqa has them, or ``.npy``.

    An array ``(n, width)`` has regions; one of ``(width, H, W)``, also with a 1 in front, is a grid.

    Args:
        path: the folder.
    """

    kind: ClassVar[str] = "files"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ids = sorted(file.name for file in path.iterdir() if file.suffix in (".npz", ".npy"))
        sizes = [_size_of(member(path, name)) for name in self.ids]
        with parse_errors(path, "features of images"):
            counts = np.array([count for count, _ in sizes], dtype=np.int64)
        self._sized(counts, sizes[0][1])

    def read(self, places: Indices) -> Floats:
        """See :meth:`ImageTable.read`."""
        return self._padded([_regions_in(self.path / self.ids[place]) for place in places])


def _size_of(path: Path) -> tuple[int, int]:
    """Regions and width of an image's file, by the array's header alone."""
    with parse_errors(path, "features of an image"):
        if path.suffix == ".npy":
            with path.open("rb") as file:
                shape = _header(file)
        else:
            with zipfile.ZipFile(path) as archive, archive.open("x.npy") as entry:
                shape = _header(entry)[::-1]
    return _as_regions(path, shape)


def _header(file: Any) -> tuple[int, ...]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return tuple(read(file)[0])


def _as_regions(path: Path, shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) == 4 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) == 3:
        return shape[1] * shape[2], shape[0]
    if len(shape) != 2:
        raise DataError(f"{path}: features have shape {shape}, expected (n, width) or (width, H, W)")
    return shape[0], shape[1]


def _regions_in(path: Path) -> Floats:
    found = read_array(path, "features of an image", "" if path.suffix == ".npy" else "x")
    with parse_errors(path, "features of an image"):
        values = np.asarray(found if path.suffix == ".npy" else found.T, dtype=np.float32)
    values = values[0] if values.ndim == 4 else values
    return values.reshape(len(values), -1).T if values.ndim == 3 else values


def _texts(listed: list[Any]) -> list[str]:
    return [entry.decode("utf-8", "replace") if isinstance(entry, bytes) else str(entry) for entry in listed]


def _whole(path: Path, text: bytes) -> int:
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{path}: {text[:40]!r} is no number of boxes") from None


def _index_path(path: Path) -> Path:
    return path.with_name(path.name + ".index.npz")


def _stored_index(path: Path) -> dict[str, NDArray[Any]] | None:
    """Where lines begin, from beside the file, if it is of the file as it is now."""
    try:
        with np.load(_index_path(path), allow_pickle=False) as stored:
            found = {key: stored[key] for key in ("ids", "starts", "counts", "width", "size")}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return found if int(found["size"]) == path.stat().st_size else None


def _store_index(path: Path, index: dict[str, NDArray[Any]]) -> None:
    try:
        with atomic(_index_path(path)) as staging, staging.open("wb") as file:
            np.savez(file, **index, size=np.array(path.stat().st_size))  # type: ignore[arg-type]
    except OSError:  # a folder that cannot be written to: it is found again the next time
        return
