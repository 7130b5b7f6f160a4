"""Rows that many samples share, such as the image of several questions: kept once, wherever they are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from equifuse.data.lazy.base import Floats, Indices, LazyArray
from equifuse.errors import DataError


class SharedRows(LazyArray):
    """Rows of a table, by number: sample ``i`` has the table's row ``index[i]``.

    >>> from equifuse.data.lazy import SharedRows
    >>> images = np.arange(6, dtype=np.uint8).reshape(2, 3)
    >>> rows = SharedRows.of(images, np.array([1, 0, 1, -1]))
    >>> rows.shape, rows[np.array([0, 3])].tolist()
    ((4, 3), [[3.0, 4.0, 5.0], [nan, nan, nan]])

    Args:
        read: gives the table's rows at places ``(k,)``, sorted and each once, as numbers ``(k, *shape)``.
        shape: of one row.
        index: of each sample; -1 for none, whose features are NaN.
        stamp: what the table holds, in a word that differs where it does.
        called: what the table is called in messages.
    """

    checks_itself: ClassVar[bool] = True

    def __init__(
        self,
        read: Callable[[Indices], NDArray[np.generic]],
        shape: tuple[int, ...],
        index: Indices,
        stamp: str,
        called: str = "a table",
    ) -> None:
        super().__init__(len(index), shape, np.asarray(index, dtype=np.intp))
        self._table, self._stamp, self._called = read, stamp, called

    @classmethod
    def of(cls, table: NDArray[np.generic], index: Indices) -> SharedRows:
        """Rows of an array in memory, of any kind of numbers."""
        stamp = hashlib.sha256(np.ascontiguousarray(table).tobytes()).hexdigest()
        return cls(lambda places: table[places], table.shape[1:], index, stamp)

    def _read(self, places: Indices) -> Floats:
        unique, back = np.unique(places, return_inverse=True)
        there = unique[unique >= 0]
        values = np.full((len(unique), *self._shape), np.nan, dtype=np.float32)
        if len(there):
            found = self._table(there)
            if found.dtype.kind == "f" and not np.isfinite(found).all():
                raise DataError(f"rows of {self._called} hold infinity or NaN: the file is damaged")
            values[len(unique) - len(there) :] = found
        return values[back]

    def _with(self, index: Indices) -> SharedRows:
        return SharedRows(self._table, self._shape, index, self._stamp, self._called)

    def select(self, wanted: Indices) -> SharedRows:
        """The same rows as ``self[wanted]``, not read yet."""
        assert self._index is not None
        return self._with(self._index[wanted])

    def missing(self) -> NDArray[np.bool_]:
        """Which samples have no row."""
        assert self._index is not None
        return self._index < 0

    def digest(self) -> bytes:
        """What is behind the samples: the table's stamp, and which row each has."""
        assert self._index is not None
        return self._stamp.encode() + np.ascontiguousarray(self._index, dtype=np.int64).tobytes()
