"""Channel exchange between modalities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

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
    """Channel exchange: features that a modality does not use are replaced by those of the other modalities.

    >>> fusion = ef.fusion.ChannelExchange({"text": 300, "image": 512}, dim=64)
    >>> out = fusion({"text": torch.randn(8, 300), "image": torch.randn(8, 512)})
    >>> out.fused.shape, list(out.losses)
    (torch.Size([8, 64]), ['sparsity'])

    Args:
        dims: modality name -> width ``l_m``; at least two.
        dim: common width, ≥ M; default 128.
        layers: layers of exchange, ≥ 1; default 2.
        threshold: a scale below this counts as unused, ≥ 0; default 0.02, as in the authors' code.
        sparsity_weight: default weight of the ``sparsity`` loss, ≥ 0; default 2e-4, as in the authors' code.

    The state of an absent modality is 0, and it takes no part in the exchange.

    Raises:
        InputError: there are fewer than two modalities, or a value is out of range.

    Formula (Wang et al. 2020, arXiv 2011.05005), on vectors, where a feature is a channel: in each layer
    ``y_m = γ_m ⊙ N(W h_m) + β_m``. The weights ``W`` are the same for all modalities (in the first layer they are the
    projections, because widths differ), ``γ_m`` and ``β_m`` belong to each modality. The ``dim`` channels are split
    into ``M`` runs, one per modality. Where ``|γ_mc| < threshold`` in its own run, channel ``c`` of ``m`` is replaced
    by the mean of ``y_kc`` over the other modalities present, if there are any. Then ``h_m = ReLU(y_m)``. ``fused`` is
    ``Σ_m softmax(a)_m h_m`` over the modalities present, with learned ``a``, equal before training.

    The ``sparsity`` loss is ``Σ |γ_mc|`` over the layers and each modality's own run; it drives the scales of
    little-used channels to 0. ``γ`` starts at 1, so nothing is exchanged at first. Only this loss gives a gradient to
    the ``γ`` of a replaced channel, so if the loss has a weight an exchange is permanent.

    Deviations: ``N`` standardises over a sample's channels (LayerNorm) and not over the batch (BatchNorm) as in the
    paper, because a sample's result must not depend on the other samples of its batch, nor on which modalities they
    lack. The channels then do not all have unit variance, so ``|γ|`` measures a channel's use less strictly. The paper
    weighs the modalities' predictions by ``softmax(a)``; here it weighs their features.
    """

    name: ClassVar[str] = "channel_exchange"
    additive = True

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
        """Bool ``(M, dim)``: the channels of each modality that may be replaced."""
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


def exchange(states: Tensor, replaced: Tensor, there: Tensor) -> Tensor:
    """The channels of the modalities, some replaced by the mean of the same channel of the other modalities present.

    Args:
        states: ``(R, M, d)``.
        replaced: bool ``(M, d)``.
        there: bool ``(R, M)``, True where present.

    Returns:
        ``(R, M, d)``; without another modality present a channel is not replaced.
    """
    given = torch.where(there[:, :, None], states, 0.0)
    others = there.sum(1, keepdim=True) - there.long()
    mean = (given.sum(1, keepdim=True) - given) / others.clamp(min=1)[:, :, None]
    return torch.where(replaced & (others > 0)[:, :, None], mean, states)
