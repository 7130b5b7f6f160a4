"""Losses that keep the equilibrium easy to find, by their names among a fusion's losses."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from equifuse.solve import jacobian_penalty, residual_penalty, spectral_penalty

# The residual regulariser looks at the iterate after this many plain steps.
_EARLY = 3


def regularizers(
    f: Callable[[Tensor], Tensor], z: Tensor, wanted: Collection[str], spectral_band: tuple[float, float]
) -> dict[str, Tensor]:
    """The regularisers ``wanted``, as unweighted scalars by name.

    Args:
        f: the joint map ``(R, M + 1, d) -> (R, M + 1, d)``.
        z: its fixed point.
        wanted: names among ``"jacobian"``, ``"spectral"`` and ``"residual"``.
        spectral_band: lowest and highest spectral radius that is not penalised.
    """
    losses = {}
    if "jacobian" in wanted:
        losses["jacobian"] = jacobian_penalty(f, z)
    if "spectral" in wanted:
        losses["spectral"] = spectral_penalty(f, z, *spectral_band)
    if "residual" in wanted:
        with torch.no_grad():
            early = torch.zeros_like(z)
            for _ in range(_EARLY):
                early = f(early)
        losses["residual"] = residual_penalty(f, early)
    return losses
