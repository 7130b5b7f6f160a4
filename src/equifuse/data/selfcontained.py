"""Data that are where they say: HDF5 files without bytes of other files, and members of a folder that are in it.

A file or folder from elsewhere must not make features of other files of this machine.
"""

from __future__ import annotations

import mmap
from functools import lru_cache
from pathlib import Path
from typing import Any

from equifuse.errors import DataError
from equifuse.extras import require
from equifuse.files import parse_errors

_KEPT = 64
# How a heap of texts begins in an HDF5 file; files are looked through for heaps up to so many bytes.
_HEAP, _LOOKED_THROUGH = b"GCOL\x01\0\0\0", 2**28


def open_hdf5(path: Path) -> Any:
    """An HDF5 file, open for reading, of which every byte is its own.

    Raises:
        DataError: it is missing or damaged, or has links to other files, data stored outside or virtual data sets.
    """
    check_hdf5(path)
    return require("train", "h5py", "HDF5").File(path, "r")


def check_hdf5(path: Path, kind: str = "HDF5") -> None:
    """Refuse an HDF5 file, of this kind, that takes values from other files; see :func:`open_hdf5`.

    Raises:
        DataError: it does.
    """
    with parse_errors(path, kind):
        found = path.stat()
        _check_hdf5(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=_KEPT)
def _check_hdf5(path: Path, size: int, time: int) -> None:
    """Size and time tell a file that was looked at from a later one of its name."""
    h5py = require("train", "h5py", "HDF5")
    h5d, h5l, h5o = h5py.h5d, h5py.h5l, h5py.h5o
    foreign: list[str] = []

    def look(name: bytes, link: Any) -> int | None:
        said = name.decode("utf-8", "replace")
        if link.type not in (h5l.TYPE_HARD, h5l.TYPE_SOFT):
            foreign.append(f"{said!r} is a link to another file")
        elif link.type == h5l.TYPE_HARD:
            item = h5o.open(file.id, name)
            if isinstance(item, h5d.DatasetID):
                made = item.get_create_plist()
                if made.get_layout() == h5d.VIRTUAL:
                    foreign.append(f"{said!r} is a virtual data set, made of other files")
                elif made.get_external_count():
                    foreign.append(f"{said!r} is stored in another file")
        return 1 if foreign else None  # the first one ends the walk

    _check_heaps(path, size)
    with h5py.File(path, "r") as file:
        file.id.links.visit(look, info=True)
    if foreign:
        raise DataError(f"{path}: {foreign[0]}; only what is in the file itself is read, so copy it in")


def _check_heaps(path: Path, size: int) -> None:
    """Refuse a heap of texts with a part that takes no place: libhdf5 goes over it for ever, and cannot be stopped."""
    if not 0 < size <= _LOOKED_THROUGH:
        return
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(_HEAP)
        while at >= 0:
            end = min(size, at + int.from_bytes(content[at + 8 : at + 16], "little"))
            place = at + 16
            while place + 16 <= end:
                length = int.from_bytes(content[place + 8 : place + 16], "little")
                index = int.from_bytes(content[place : place + 2], "little")
                taken = (16 + -(-length // 8) * 8 if index else length) % 2**64
                if not taken:
                    raise DataError(f"{path}: a heap of texts is damaged, it has a part of no size")
                place += taken
            at = content.find(_HEAP, at + 1)


def member(folder: Path, name: str | Path) -> Path:
    """The path of a folder's member.

    A name that itself leads out of the folder is the caller's own choice.

    Raises:
        DataError: it is a link that leaves the folder.
    """
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts or not path.exists():
        return path
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{path} is a link that leaves the folder; copy the file there, or name the file itself")
    return path
