"""Splits cut into batches of tensors: of what is in memory by indexing, of what is on disk by reading ahead."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from equifuse.data.batch import Batch, as_batch, join
from equifuse.data.dataset import Split
from equifuse.data.lazy import Indices

# Large enough that evaluation is fast, ...
_EVALUATION_BATCH = 512
# ... and, with rows such as clouds of points, so many bytes of inputs at most.
_EVALUATION_BYTES = 2**26
# Bytes that are read from disk at a time: a piece of consecutive rows ...
_PIECE_BYTES = 2**23
# ... of which so many are held and mixed together.
_POOL_BYTES = 2**27


class Batches(ABC):
    """The batches of a split, in order, or in an order drawn from ``(seed, epoch)``.

    Args:
        size: samples per batch; the last one may be smaller.
        seed: shuffle with this seed; None keeps the order.
    """

    def __init__(self, size: int, seed: int | None) -> None:
        self.size, self.seed = size, seed
        self.epoch = 0

    @property
    @abstractmethod
    def rows(self) -> int:
        """Number of samples."""

    @abstractmethod
    def __iter__(self) -> Iterator[Batch]:
        """One pass."""

    def __len__(self) -> int:
        return math.ceil(self.rows / self.size)

    def _generator(self) -> torch.Generator | None:
        # Asked for when the first batch is, not when the iterator is made: only then is the epoch known.
        return None if self.seed is None else torch.Generator().manual_seed(mix(self.seed, self.epoch))


class MemoryBatches(Batches):
    """Batches of tensors.

    Args:
        whole: all samples.
        size: see :class:`Batches`.
        seed: likewise.
    """

    def __init__(self, whole: Batch, size: int = _EVALUATION_BATCH, seed: int | None = None) -> None:
        super().__init__(size, seed)
        self.whole = whole

    @property
    def rows(self) -> int:
        """Number of samples."""
        return len(self.whole)

    def __iter__(self) -> Iterator[Batch]:
        generator = self._generator()
        count = len(self.whole)
        order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
        for rows in torch.split(order, self.size):
            yield self.whole.select(rows)


class DiskBatches(Batches):
    """Batches of a split on disk, in bounded memory.

    Shuffled, the order is that of a shuffle buffer: pieces of consecutive rows are drawn at random, some of them are
    held at a time, and their rows mixed. While one pool is worked on, the next is read.

    Args:
        split: the split.
        size: see :class:`Batches`.
        seed: likewise.
    """

    def __init__(self, split: Split, size: int = _EVALUATION_BATCH, seed: int | None = None) -> None:
        super().__init__(size, seed)
        self.split = split
        row = 4 * sum(math.prod(x.shape[1:]) for x in self.split.inputs.values())
        self._piece = max(1, _PIECE_BYTES // max(row, 1))
        self._pool = max(size, self._piece, _POOL_BYTES // max(row, 1))

    @property
    def rows(self) -> int:
        """Number of samples."""
        return len(self.split)

    def _pools(self) -> Iterator[Indices]:
        """The rows that are held together, in the order in which they are used."""
        generator = self._generator()
        starts = np.arange(0, self.rows, self._piece)
        if generator is not None:
            starts = starts[torch.randperm(len(starts), generator=generator).numpy()]
        per_pool = max(1, self._pool // self._piece)
        for first in range(0, len(starts), per_pool):
            pieces = [np.arange(s, min(s + self._piece, self.rows)) for s in starts[first : first + per_pool]]
            rows = np.concatenate(pieces)
            yield rows if generator is None else rows[torch.randperm(len(rows), generator=generator).numpy()]

    def _read(self, rows: Indices) -> Batch:
        batch = as_batch(self.split.select(rows))
        batch.index = torch.from_numpy(rows)
        return batch

    def __iter__(self) -> Iterator[Batch]:
        left = None
        with ThreadPoolExecutor(1) as reader:
            for pool in _ahead(reader, self._read, self._pools()):
                whole = pool if left is None else join(left, pool)
                full = len(whole) - len(whole) % self.size
                for start in range(0, full, self.size):
                    yield whole.select(torch.arange(start, start + self.size))
                left = whole.select(torch.arange(full, len(whole))) if full < len(whole) else None
        if left is not None:
            yield left


def _ahead(reader: ThreadPoolExecutor, read: Callable[[Indices], Batch], pools: Iterator[Indices]) -> Iterator[Batch]:
    """Each pool read, while the one before is worked on."""
    coming: Future[Batch] | None = None
    for pool in pools:
        ready, coming = coming, reader.submit(read, pool)
        if ready is not None:
            yield ready.result()
    if coming is not None:
        yield coming.result()


def batches_of(split: Split, size: int | None = None, seed: int | None = None) -> Batches:
    """The batches of a split, wherever it is.

    Args:
        split: the samples.
        size: of a batch; None for one that evaluation has the memory for.
        seed: of the order; None keeps that of the split.
    """
    if size is None:
        row = 4 * sum(math.prod(x.shape[1:]) for x in split.inputs.values())
        size = max(1, min(_EVALUATION_BATCH, _EVALUATION_BYTES // max(row, 1)))
    return DiskBatches(split, size, seed) if split.on_disk else MemoryBatches(as_batch(split), size, seed)


def first_rows(batches: Batches, count: int) -> Batch:
    """At most ``count`` samples of the first batch."""
    batch = next(iter(batches))
    return batch.select(torch.arange(min(len(batch), count)))


def mix(seed: int, epoch: int) -> int:
    """A seed for an epoch: a resumed run then draws what an uninterrupted one would, without stored states."""
    return (seed * 1_000_003 + epoch * 7919 + 17) % 2**63
