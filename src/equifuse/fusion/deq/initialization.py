"""Where the parameters of deep-equilibrium fusion start; what each number is for is said at :class:`DEQFusion`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from equifuse.fusion.deq.group_norm import GROUPS

if TYPE_CHECKING:
    from equifuse.fusion.deq.module import DEQFusion

# The initialisation, see DEQFusion's docstring for what each number is for.
OUTER_GAIN = 0.25
SPREAD = 0.25
INNER_BIAS = 0.5
MIX_BIAS = (-0.5, 1.5)


def fan(low: float, high: float, dim: int) -> Tensor:
    """``(dim,)`` values evenly spaced from ``low`` to ``high`` within each norm group."""
    return torch.linspace(low, high, dim // GROUPS).repeat(GROUPS)


@torch.no_grad()
def initialize(fusion: DEQFusion) -> None:
    """Draw the weights of a fusion anew."""
    for linear in fusion.project.values():
        assert isinstance(linear, nn.Linear)
        # Unit variance in, unit variance out: the injected x_m must not be small against the state.
        nn.init.normal_(linear.weight, std=1 / math.sqrt(linear.in_features))
        nn.init.zeros_(linear.bias)
    std = SPREAD / math.sqrt(fusion.dim)
    if fusion.blocks is not None:
        nn.init.normal_(fusion.blocks.weight1, std=std)
        nn.init.normal_(fusion.blocks.weight2, std=std)
        fusion.blocks.bias1.copy_(fan(-INNER_BIAS, INNER_BIAS, fusion.dim).expand_as(fusion.blocks.bias1))
        nn.init.zeros_(fusion.blocks.bias2)
        nn.init.constant_(fusion.blocks.norm2.bias, INNER_BIAS)
    if fusion.gate is not None:
        nn.init.normal_(fusion.gate.weight, std=std)
        nn.init.ones_(fusion.gate.bias)
    if fusion.mix is not None:
        count = len(fusion.dims)
        nn.init.normal_(fusion.mix.weight, std=std / (count if fusion.combine == "sum" else 1))
        fusion.mix.bias.copy_(math.sqrt(count) * fan(*MIX_BIAS, fusion.dim))
