"""Sharpness-aware minimisation: a step by the gradient at the worst point nearby (Foret et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from equifuse.training.batch_norm import batch_norms, with_momentum


def sharpened(closure: Callable[[], Any], optimizer: Optimizer, radius: float, model: nn.Module) -> Callable[[], Any]:
    """A closure that leaves the gradients at ``w + radius g / |g|``, where ``closure`` leaves ``g`` at ``w``.

    >>> from equifuse.training.sharpness import sharpened
    >>> layer = torch.nn.Linear(1, 1, bias=False)
    >>> _ = torch.nn.init.constant_(layer.weight, 2.0)
    >>> sgd = torch.optim.SGD(layer.parameters(), lr=0.1)
    >>> def closure():
    ...     sgd.zero_grad()
    ...     loss = layer(torch.ones(1, 1)).square().sum()
    ...     loss.backward()
    ...     return loss
    >>> _ = sharpened(closure, sgd, 0.5, layer)()
    >>> layer.weight.item(), layer.weight.grad.item()  # that of w ** 2 at 2.5
    (2.0, 5.0)

    Both gradients see the same random numbers; batch normalisation takes statistics of the first pass only.

    Args:
        closure: computes a loss and its gradients, those of before forgotten.
        optimizer: whose parameters are moved.
        radius: how far, > 0; 0 gives the same gradients again.
        model: its batch normalisation is spared.
    """

    def worst() -> Any:
        devices = sorted({p.device for group in optimizer.param_groups for p in group["params"]}, key=str)
        before = _random_states(devices)
        loss = closure()
        moved = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not moved:
            return loss
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(p.grad) for p in moved]))
        if not bool(torch.isfinite(norm)) or not bool(norm > 0):
            return loss
        kept = [p.detach().clone() for p in moved]
        with torch.no_grad():
            for p in moved:
                p.add_(p.grad * (radius / norm))
        after = _random_states(devices)
        _set_random_states(before)
        try:
            with with_momentum(batch_norms(model).values(), 0.0):
                closure()
        finally:
            _set_random_states(after)
            with torch.no_grad():
                for p, value in zip(moved, kept, strict=True):
                    p.copy_(value)
        return loss

    return worst


def _random_states(devices: Sequence[torch.device]) -> dict[torch.device | None, Tensor]:
    states: dict[torch.device | None, Tensor] = {None: torch.get_rng_state()}
    return states | {device: torch.cuda.get_rng_state(device) for device in devices if device.type == "cuda"}


def _set_random_states(states: dict[torch.device | None, Tensor]) -> None:
    for device, state in states.items():
        if device is None:
            torch.set_rng_state(state)
        else:
            torch.cuda.set_rng_state(state, device)
