"""The trainable parameters of the modality blocks and of a norm."""

from __future__ import annotations

import torch
from torch import nn

from equifuse.fusion.deq.initialization import OUTER_GAIN
from equifuse.fusion.deq.modality_map import BlockWeights


class NormParameters(nn.Module):
    """Affine parameters of a GroupNorm, for ``count`` stacked maps (``(count, 1, d)``) or one (``(d,)``)."""

    def __init__(self, dim: int, count: int | None = None, gain: float = 1.0) -> None:
        super().__init__()
        shape = (dim,) if count is None else (count, 1, dim)
        self.weight = nn.Parameter(torch.full(shape, gain))
        self.bias = nn.Parameter(torch.zeros(shape))


class ModalityBlocks(nn.Module):
    """The maps ``f_m`` of all modalities, with stacked weights so that they run as one batched product.

    ``h = ReLU(GN(z W1 + b1))``, ``u = GN(h W2 + b2 + x)``, ``f(z; x) = GN(ReLU(u + z))``.

    Args:
        count: number of modalities ``M``.
        dim: width ``d``, a multiple of 4.
    """

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.weight1 = nn.Parameter(torch.empty(count, dim, dim))  # stored in × out: rows are vectors
        self.bias1 = nn.Parameter(torch.zeros(count, 1, dim))
        self.weight2 = nn.Parameter(torch.empty(count, dim, dim))
        self.bias2 = nn.Parameter(torch.zeros(count, 1, dim))
        self.norm1 = NormParameters(dim, count)
        self.norm2 = NormParameters(dim, count)
        self.norm3 = NormParameters(dim, count, gain=OUTER_GAIN)

    def weights(self) -> BlockWeights:
        """The parameters, for :class:`~equifuse.fusion.deq.modality_map.ModalityMap`."""
        return BlockWeights(
            weight1=self.weight1,
            bias1=self.bias1,
            gain1=self.norm1.weight,
            shift1=self.norm1.bias,
            weight2=self.weight2,
            bias2=self.bias2,
            gain2=self.norm2.weight,
            shift2=self.norm2.bias,
            gain3=self.norm3.weight,
            shift3=self.norm3.bias,
        )
