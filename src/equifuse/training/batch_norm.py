"""Batch normalisation's running statistics: which modules have them, and how quickly they follow the batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


def batch_norms(model: nn.Module) -> dict[str, _NormBase]:
    """The modules that have running statistics, by name.

    >>> from equifuse.training.batch_norm import batch_norms
    >>> list(batch_norms(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))))
    ['1']
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _NormBase) and module.running_mean is not None
    }


@contextmanager
def with_momentum(norms: Iterable[_NormBase], momentum: float | None) -> Iterator[None]:
    """Within, running statistics follow with this momentum: 0 keeps them, None makes them the mean of all batches."""
    before = [(norm, norm.momentum) for norm in norms]
    for norm, _ in before:
        norm.momentum = momentum
    try:
        yield
    finally:
        for norm, own in before:
            norm.momentum = own
