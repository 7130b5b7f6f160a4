"""Features that stay on disk until their rows are asked for."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from equifuse.errors import DataError

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]
# Bytes that are read at a time where everything is gone through.
_BLOCK_BYTES = 2**24
# Arrays of less than this are read into memory at once.
_SMALL_BYTES = 2**28
# What indices and masks of a row select, wherever its features are.
BYTES_PER_ROW = 16


class LazyArray(ABC):
    """Float32 rows ``(n, *shape)`` on disk; reading some is indexing: ``rows[indices]``.

    Args:
        length: number of rows in the file.
        shape: of one row.
        index: which of the file's rows these are, in order; None for all.

    Attributes:
        checks_itself: whether it has no empty cells, and refuses infinity when rows are read: going through all of
            them once before would take too long.
    """

    checks_itself: ClassVar[bool] = False

    def __init__(self, length: int, shape: tuple[int, ...], index: Indices | None = None) -> None:
        self._length, self._shape, self._index = length, shape, index

    def __len__(self) -> int:
        return self._length if self._index is None else len(self._index)

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n, *shape)``, as of an array."""
        return (len(self), *self._shape)

    @property
    def ndim(self) -> int:
        """Number of axes, as of an array."""
        return 1 + len(self._shape)

    def __getitem__(self, wanted: Indices | slice) -> Floats:
        """The rows, read now."""
        places = np.arange(len(self))[wanted]
        return self._read(places if self._index is None else self._index[places])

    def select(self, wanted: Indices) -> LazyArray:
        """The same rows as ``self[wanted]``, not read yet."""
        return self._with(wanted if self._index is None else self._index[wanted])

    @abstractmethod
    def _read(self, places: Indices) -> Floats:
        """The file's rows at ``places``, in any order, with repetitions."""

    @abstractmethod
    def _with(self, index: Indices) -> LazyArray:
        """The same file with another index."""


Features = Floats | LazyArray


def select(features: Features, wanted: Indices) -> Features:
    """``features[wanted]``, without reading what is on disk."""
    return features.select(wanted) if isinstance(features, LazyArray) else features[wanted]


def blocks(features: Features) -> Iterator[tuple[int, Floats]]:
    """All rows, in order, as pieces of a few megabytes: the first row's number, and the rows."""
    if not isinstance(features, LazyArray):
        yield 0, features
        return
    size = max(1, _BLOCK_BYTES // max(1, 4 * int(np.prod(features.shape[1:]))))
    for start in range(0, len(features), size):
        yield start, features[start : start + size]


def in_memory(features: Features) -> Floats:
    """All rows as an array."""
    return features[:] if isinstance(features, LazyArray) else features


def loaded_if_small(features: Features) -> Features:
    """The rows as an array if that is small (256 MiB), else as they are, on disk."""
    return features if 4 * int(np.prod(features.shape)) > _SMALL_BYTES else in_memory(features)


def share_of_gaps(x: Features, present: NDArray[np.bool_] | None) -> float:
    """Share of empty cells among those of the rows that have a modality."""
    if isinstance(x, LazyArray) and x.checks_itself:
        return 0.0
    empty = rows = 0
    for start, block in blocks(x):
        here = block if present is None else block[present[start : start + len(block)]]
        empty += int(np.isnan(here).sum())
        rows += len(here)
    return empty / max(1, rows * math.prod(x.shape[1:]))


# Open files and when they were written, by process: a file opened before a fork must not be read after it.
_OPEN: dict[tuple[int, str], tuple[int, Any]] = {}


def opened(path: Path, opener: Callable[[], Any]) -> Any:
    """What ``opener`` makes of a file, made once for each process and state of the file.

    Raises:
        DataError: no such file.
    """
    try:
        stamp = path.stat().st_mtime_ns
    except OSError:
        raise DataError(f"no such file: {path}") from None
    key = (os.getpid(), str(path))
    before, file = _OPEN.get(key, (None, None))
    if before != stamp:
        if file is not None:
            file.close()
        _OPEN[key] = stamp, opener()
    return _OPEN[key][1]
