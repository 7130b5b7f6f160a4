"""Attention over one token per modality: self-attention, bottlenecks, latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from equifuse.errors import InputError
from equifuse.fusion.base import FusionOutput, Rows
from equifuse.fusion.projected import ProjectedFusion
from equifuse.fusion.registry import register


def _layer(dim: int, heads: int, dropout: float) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(dim, heads, 4 * dim, dropout, "gelu", batch_first=True, norm_first=True)


class _TokenFusion(ProjectedFusion):
    """One token per modality, told apart by a learned embedding.

    Args:
        dims: modality name -> width ``l_m``.
        dim: common width, a multiple of ``heads``.
        layers: of attention, ≥ 1.
        heads: per layer, ≥ 1.
        dropout: in the layers, in [0, 1).

    Raises:
        InputError: a value out of range.
    """

    def __init__(self, dims: Mapping[str, int], dim: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__(dims, dim)
        if layers < 1 or heads < 1 or dim % heads or not 0 <= dropout < 1:
            raise InputError(
                f"layers and heads must be at least 1, dim a multiple of heads and dropout in [0, 1); "
                f"got {layers}, {heads}, {dim}, {dropout}"
            )
        self.depth, self.heads, self.rate = layers, heads, dropout
        self.embedding = nn.Parameter(0.02 * torch.randn(len(self.dims), dim))

    def embedded(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """``(R, M, dim)`` tokens with their embeddings, zeros where absent, and bool ``(R, M)``."""
        tokens, there = self.tokens(rows)
        return torch.where(there[:, :, None], tokens + self.embedding, 0.0), there

    def config(self) -> dict[str, Any]:
        """Name, widths and options."""
        return {**super().config(), "layers": self.depth, "heads": self.heads, "dropout": self.rate}


def _with(token: Tensor, tokens: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Common tokens ``(k, d)`` or ``(R, k, d)`` before those of the modalities, and what attention must not look at."""
    common = token if token.dim() == 3 else token.expand(tokens.shape[0], -1, -1)
    always = there.new_ones(there.shape[0], common.shape[1])
    return torch.cat([common, tokens], dim=1), ~torch.cat([always, there], dim=1)


@register
class SelfAttention(_TokenFusion):
    """A transformer over the modalities' tokens and a class token (Vaswani et al. 2017; Dosovitskiy et al. 2021).

    ``fused`` is the class token after the last layer, ``modalities`` are the others. Absent modalities are not attended
    to.

    Args:
        dims: modality name -> width ``l_m``.
        dim: common width, a multiple of ``heads``; default 128.
        layers: of attention; default 2.
        heads: per layer; default 4.
        dropout: in the layers; default 0.1.

    Raises:
        InputError: a value out of range.
    """

    name: ClassVar[str] = "self_attention"

    def __init__(
        self, dims: Mapping[str, int], dim: int = 128, layers: int = 2, heads: int = 4, dropout: float = 0.1
    ) -> None:
        super().__init__(dims, dim, layers, heads, dropout)
        self.summary = nn.Parameter(0.02 * torch.randn(1, dim))
        self.layers = nn.ModuleList(_layer(dim, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def fuse(self, rows: Rows) -> FusionOutput:
        """``(R, dim)`` from rows ``(R, l_m)``."""
        tokens, there = self.embedded(rows)
        state, hidden = _with(self.summary, tokens, there)
        for layer in self.layers:
            state = layer(state, src_key_padding_mask=hidden)
        state = self.norm(state)
        return self.output(state[:, 0], torch.where(there[:, :, None], state[:, 1:], 0.0))


@register
class BottleneckTransformer(_TokenFusion):
    """Multimodal bottleneck transformer (Nagrani et al. 2021, arXiv 2107.00135).

    In each layer every modality attends to itself and to ``B`` bottleneck tokens,
    ``[z_m, b_m] = T_m([z_m, b])``, and the bottleneck is the mean of what the modalities made of it, ``b = mean_m b_m``
    over those present: all that passes between modalities. ``fused`` is the mean of the bottleneck's tokens and of the
    modalities', ``modalities`` are the latter.

    Args:
        dims: modality name -> width ``l_m``.
        dim: common width, a multiple of ``heads``; default 128.
        layers: of attention; default 2.
        heads: per layer; default 4.
        bottlenecks: ``B``; default 4, as in the paper.
        dropout: in the layers; default 0.1.

    Raises:
        InputError: a value out of range.
    """

    name: ClassVar[str] = "bottleneck"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 128,
        layers: int = 2,
        heads: int = 4,
        bottlenecks: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(dims, dim, layers, heads, dropout)
        if bottlenecks < 1:
            raise InputError(f"bottlenecks must be at least 1, got {bottlenecks}")
        self.bottleneck = nn.Parameter(0.02 * torch.randn(bottlenecks, dim))
        self.layers = nn.ModuleList(
            nn.ModuleDict({m: _layer(dim, heads, dropout) for m in self.dims}) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)

    def fuse(self, rows: Rows) -> FusionOutput:
        """``(R, dim)`` from rows ``(R, l_m)``."""
        tokens, there = self.embedded(rows)
        state, common = list(tokens.unbind(1)), self.bottleneck.expand(rows.count, -1, -1)
        count = len(self.bottleneck)
        weight = there.to(tokens.dtype)
        weight = weight / weight.sum(1, keepdim=True).clamp(min=1)
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleDict)
            seen = [
                block(torch.cat([common, z[:, None]], dim=1)) for block, z in zip(layer.values(), state, strict=True)
            ]
            state = [torch.where(there[:, i, None], s[:, count], 0.0) for i, s in enumerate(seen)]
            made = sum(
                weight[:, i, None, None] * torch.where(there[:, i, None, None], s[:, :count], 0.0)
                for i, s in enumerate(seen)
            )
            common = torch.where(there.any(1)[:, None, None], made, common)
        total = torch.stack(state).sum(0) + common.sum(1)
        fused = self.norm(total / (there.sum(1, keepdim=True) + count))
        return self.output(fused, torch.stack(state, dim=1))

    def config(self) -> dict[str, Any]:
        """Name, widths and options."""
        return {**super().config(), "bottlenecks": len(self.bottleneck)}


@register
class Perceiver(_TokenFusion):
    """Latents that attend to the modalities (Jaegle et al. 2021, arXiv 2103.03206).

    ``L`` learned latents cross-attend to the modalities' tokens and then to each other, in every layer; ``fused`` is
    their mean after the last. ``modalities`` are the tokens. Where no modality is present the latents see nothing new.

    Args:
        dims: modality name -> width ``l_m``.
        dim: common width, a multiple of ``heads``; default 128.
        layers: of cross- and self-attention; default 2.
        heads: per layer; default 4.
        latents: ``L``; default 8.
        dropout: in the layers; default 0.1.

    Raises:
        InputError: a value out of range.
    """

    name: ClassVar[str] = "perceiver"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 128,
        layers: int = 2,
        heads: int = 4,
        latents: int = 8,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(dims, dim, layers, heads, dropout)
        if latents < 1:
            raise InputError(f"latents must be at least 1, got {latents}")
        self.latents = nn.Parameter(0.02 * torch.randn(latents, dim))
        self.cross = nn.ModuleList(nn.MultiheadAttention(dim, heads, dropout, batch_first=True) for _ in range(layers))
        self.query_norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(layers))
        self.token_norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(layers))
        self.layers = nn.ModuleList(_layer(dim, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def fuse(self, rows: Rows) -> FusionOutput:
        """``(R, dim)`` from rows ``(R, l_m)``."""
        tokens, there = self.embedded(rows)
        # A row that has nothing attends to a zero, and what it would get of it is left out.
        hidden = ~there & there.any(1, keepdim=True)
        state = self.latents.expand(rows.count, -1, -1)
        for cross, of_query, of_token, layer in zip(
            self.cross, self.query_norms, self.token_norms, self.layers, strict=True
        ):
            seen, _ = cross(
                of_query(state), of_token(tokens), of_token(tokens), key_padding_mask=hidden, need_weights=False
            )
            state = layer(state + torch.where(there.any(1)[:, None, None], seen, 0.0))
        return self.output(self.norm(state).mean(1), tokens)

    def config(self) -> dict[str, Any]:
        """Name, widths and options."""
        return {**super().config(), "latents": len(self.latents)}
