"""Equilibria from which the next epoch's solves start, in the checkpoint too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from equifuse.fusion import DEQFusion
from equifuse.solve import EquilibriumCache
from equifuse.training.callbacks.stored import StoredCallback

_KEY = "warm_starts"


class WarmStarts(StoredCallback):
    """A cache for each equilibrium of a model, part of the checkpoint so that a resumed training is the same one.

    Args:
        model: whose solves start from it.
        rank: of this process among those that train; each has the samples that it saw.
        world: how many there are.
    """

    def __init__(self, model: nn.Module, rank: int = 0, world: int = 1) -> None:
        self._caches = {m: EquilibriumCache() for m in model.modules() if isinstance(m, DEQFusion)}
        self._rank, self._world = rank, world

    @contextmanager
    def assigned(self) -> Iterator[None]:
        """Within, the model uses the caches."""
        for fusion, cache in self._caches.items():
            fusion.warm_start = cache
        try:
            yield
        finally:
            for fusion in self._caches:
                fusion.warm_start = None

    def remembered(self, trainer: pl.Trainer) -> dict[str, Any]:
        """The caches of every process."""
        own = [cache.state_dict() for cache in self._caches.values()]
        every: list[Any] = [own]
        if trainer.world_size > 1:
            every = [None] * trainer.world_size
            torch.distributed.all_gather_object(every, own)
        return {_KEY: every}

    def recall(self, stored: dict[str, Any]) -> None:
        """See :meth:`StoredCallback.recall`; a checkpoint of other processes leaves the caches empty."""
        every = stored.get(_KEY, [])
        if len(every) == self._world:
            for cache, known in zip(self._caches.values(), every[self._rank], strict=True):
                cache.load_state_dict(known)
