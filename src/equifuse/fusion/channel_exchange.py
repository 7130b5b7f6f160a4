"""Channel exchange."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from equifuse.errors import InputError
from equifuse.fusion.base import FlatInputs, FusionOutput, require_two
from equifuse.fusion.make import register
from equifuse.fusion.projected import ProjectedFusion
from equifuse.fusion.reductions import softmax_sum


@register
class ChannelExchange(ProjectedFusion):
    """Channel exchanging network (Wang et al. 2020, arXiv 2011.05005) on vectors: a feature is a channel.

    In each layer ``y_m = γ_m ⊙ N(W h_m) + β_m``, the weights ``W`` the same for all modalities (in the first layer the
    projections, as widths differ), ``γ_m`` and ``β_m`` each modality's own. The ``dim`` channels are parted into ``M``
    runs, one for each modality; where ``|γ_mc| < threshold`` in its own run, channel ``c`` of ``m`` is replaced by the
    mean of ``y_kc`` over the others present; without any it stays. Then ``h_m = ReLU(y_m)``. ``fused`` is
    ``Σ_m softmax(a)_m h_m`` over the modalities present, ``a`` learned, equal at first. An absent modality gives
    nothing and gets nothing: its state is 0.

    The ``sparsity`` loss is ``Σ |γ_mc|`` over layers and each modality's own run: it drives scales to 0, so that
    channels of little use to their modality are exchanged. ``γ`` starts at 1, so nothing is exchanged at first; a
    replaced channel's ``γ`` has no gradient but that of this loss, so an exchange is for good where it has a weight.

    ``N`` standardises over a sample's channels (LayerNorm), not over the batch (BatchNorm) as in the paper: a sample's
    result must not depend on its batch mates, nor on which of them lack the modality, and few samples make no reliable
    statistics. The channels are then not of unit variance each, so ``|γ|`` tells a channel's use less strictly. The
    paper weighs the modalities' predictions by ``softmax(a)``, here their features are weighed.

    Args:
        dims: modality name -> width ``l_m``; at least two.
        dim: common width, ≥ M; default 128.
        layers: of exchange; default 2.
        threshold: below which a scale counts as 0, ≥ 0; default 0.02, as in the authors' code.
        sparsity_weight: default weight of that loss, ≥ 0; default 2e-4, likewise.

    Raises:
        InputError: fewer than two modalities, or a value out of range.
    """

    name: ClassVar[str] = "channel_exchange"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 128,
        layers: int = 2,
        threshold: float = 0.02,
        sparsity_weight: float = 2e-4,
    ) -> None:
        super().__init__(dims, dim)
        count = len(self.dims)
        require_two(self.dims, type(self).__name__, "exchanges channels")
        if layers < 1 or dim < count:
            raise InputError(f"layers must be at least 1 and dim the number of modalities, got {layers} and {dim}")
        if threshold < 0 or sparsity_weight < 0:
            raise InputError(
                f"threshold and sparsity_weight must not be negative, got {threshold} and {sparsity_weight}"
            )
        self.threshold, self.sparsity_weight = threshold, sparsity_weight
        self.loss_weights = {"sparsity": sparsity_weight} if sparsity_weight else {}
        self.mix = nn.ModuleList(nn.Linear(dim, dim) for _ in range(layers - 1))
        self.scale = nn.Parameter(torch.ones(layers, count, dim))
        self.shift = nn.Parameter(torch.zeros(layers, count, dim))
        self.weights = nn.Parameter(torch.zeros(count))

    def own(self) -> Tensor:
        """Bool ``(M, dim)``: which channels each modality may have replaced."""
        count = len(self.dims)
        modality = torch.arange(count, device=self.scale.device)[:, None]
        return torch.arange(self.dim, device=self.scale.device) * count // self.dim == modality

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """``(R, dim)`` from rows ``(R, l_m)``."""
        states, there = self.tokens(rows)
        own = self.own()
        for layer, (scale, shift) in enumerate(zip(self.scale, self.shift, strict=True)):
            mixed = self.mix[layer - 1](states) if layer else states
            standard = F.layer_norm(mixed, (self.dim,))
            state = exchange(scale * standard + shift, own & (scale.abs() < self.threshold), there)
            states = torch.where(there[:, :, None], F.relu(state), 0.0)
        fused = softmax_sum(self.weights.expand(len(states), -1), states, there)
        losses = {"sparsity": (self.scale.abs() * own).sum()} if self.sparsity_weight else {}
        return self.output(fused, states, losses)

    def config(self) -> dict[str, Any]:
        """Name, widths and options."""
        options = {"layers": len(self.scale), "threshold": self.threshold, "sparsity_weight": self.sparsity_weight}
        return {**super().config(), **options}


def exchange(states: Tensor, replaced: Tensor, there: Tensor) -> Tensor:
    """Channels of the modalities, some replaced by the mean of the same channel of the others that are there.

    Args:
        states: ``(R, M, d)``.
        replaced: bool ``(M, d)``.
        there: bool ``(R, M)``.

    Returns:
        ``(R, M, d)``; where there is no other, a channel stays.
    """
    given = torch.where(there[:, :, None], states, 0.0)
    others = there.sum(1, keepdim=True) - there.long()
    mean = (given.sum(1, keepdim=True) - given) / others.clamp(min=1)[:, :, None]
    return torch.where(replaced & (others > 0)[:, :, None], mean, states)
