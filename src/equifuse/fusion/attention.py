"""Attention over tokens of the modalities: self-attention, bottlenecks, latents, and cross-attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from equifuse.errors import InputError
from equifuse.fusion.base import FlatInputs, FusionOutput, require_two
from equifuse.fusion.make import register
from equifuse.fusion.projected import ProjectedFusion


def _layer(dim: int, heads: int, dropout: float) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(dim, heads, 4 * dim, dropout, "gelu", batch_first=True, norm_first=True)


class _TokenFusion(ProjectedFusion):
    """Base: one token per modality, with a learned embedding that identifies the modality.

    Args:
        dims: modality name -> width ``l_m``.
        dim: common width, a multiple of ``heads``.
        layers: attention layers, ≥ 1.
        heads: heads per layer, ≥ 1.
        dropout: rate in the layers, in [0, 1).

    Raises:
        InputError: a value is out of range.
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

    def embedded(self, rows: FlatInputs) -> tuple[Tensor, Tensor]:
        """``(R, M, dim)`` tokens with their embeddings, zeros where absent, and bool ``(R, M)``."""
        tokens, there = self.tokens(rows)
        return torch.where(there[:, :, None], tokens + self.embedding, 0.0), there


def _with(token: Tensor, tokens: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Common tokens ``(k, d)`` or ``(R, k, d)`` before those of the modalities, and the mask of tokens to ignore."""
    common = token if token.dim() == 3 else token.expand(tokens.shape[0], -1, -1)
    always = there.new_ones(there.shape[0], common.shape[1])
    return torch.cat([common, tokens], dim=1), ~torch.cat([always, there], dim=1)


@register
class SelfAttention(_TokenFusion):
    """A transformer over one token per modality and a class token; absent modalities are not attended to.

    >>> fusion = ef.fusion.SelfAttention({"text": 300, "image": 512}, dim=64)
    >>> fusion({"text": torch.randn(8, 300), "image": torch.randn(8, 512)}).fused.shape
    torch.Size([8, 64])

    Args:
        dims: modality name -> width ``l_m``.
        dim: common width, a multiple of ``heads``; default 128.
        layers: attention layers; default 2.
        heads: heads per layer; default 4.
        dropout: rate in the layers; default 0.1.

    ``fused`` is the class token after the last layer, ``modalities`` are the other tokens.

    Raises:
        InputError: a value is out of range.

    Source: Vaswani et al. 2017; class token as in Dosovitskiy et al. 2021.
    """

    name: ClassVar[str] = "self_attention"

    def __init__(
        self, dims: Mapping[str, int], dim: int = 128, layers: int = 2, heads: int = 4, dropout: float = 0.1
    ) -> None:
        super().__init__(dims, dim, layers, heads, dropout)
        self.summary = nn.Parameter(0.02 * torch.randn(1, dim))
        self.layers = nn.ModuleList(_layer(dim, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """``(R, dim)`` from rows ``(R, l_m)``."""
        tokens, there = self.embedded(rows)
        state, hidden = _with(self.summary, tokens, there)
        for layer in self.layers:
            state = layer(state, src_key_padding_mask=hidden)
        state = self.norm(state)
        return self.output(state[:, 0], torch.where(there[:, :, None], state[:, 1:], 0.0))


@register
class BottleneckTransformer(_TokenFusion):
    """Bottleneck transformer: the modalities exchange information only through a few shared tokens.

    >>> fusion = ef.fusion.BottleneckTransformer({"audio": 128, "video": 512}, dim=64)
    >>> fusion({"audio": torch.randn(8, 128), "video": torch.randn(8, 512)}).fused.shape
    torch.Size([8, 64])

    Args:
        dims: modality name -> width ``l_m``.
        dim: common width, a multiple of ``heads``; default 128.
        layers: attention layers; default 2.
        heads: heads per layer; default 4.
        bottlenecks: number of shared tokens ``B``; default 4, as in the paper.
        dropout: rate in the layers; default 0.1.

    ``fused`` is the mean of the shared tokens and of the modalities' tokens, ``modalities`` are the latter.

    Raises:
        InputError: a value is out of range.

    Formula (Nagrani et al. 2021, arXiv 2107.00135): in each layer every modality attends to itself and to the shared
    tokens ``b``, ``[z_m, b_m] = T_m([z_m, b])``, and the new shared tokens are ``b = mean_m b_m`` over the modalities
    present.
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

    def fuse(self, rows: FlatInputs) -> FusionOutput:
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


@register
class Perceiver(_TokenFusion):
    """Perceiver: a fixed number of learned vectors read from the modalities by cross-attention.

    The cost grows only linearly with the number of modalities.

    >>> fusion = ef.fusion.Perceiver({"text": 300, "image": 512}, dim=64, latents=8)
    >>> fusion({"text": torch.randn(8, 300), "image": torch.randn(8, 512)}).fused.shape
    torch.Size([8, 64])

    Args:
        dims: modality name -> width ``l_m``.
        dim: common width, a multiple of ``heads``; default 128.
        layers: layers of cross- and self-attention; default 2.
        heads: heads per layer; default 4.
        latents: number of learned vectors ``L``; default 8.
        dropout: rate in the layers; default 0.1.

    ``fused`` is the mean of the latents after the last layer, ``modalities`` are the tokens. If no modality is present
    the cross-attention adds nothing.

    Raises:
        InputError: a value is out of range.

    Formula (Jaegle et al. 2021, arXiv 2103.03206): in every layer ``L`` latents cross-attend to the modalities' tokens
    and then to each other.
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

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """``(R, dim)`` from rows ``(R, l_m)``."""
        tokens, there = self.embedded(rows)
        # A row without modalities attends to zeros, and the result is not used.
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


class _CrossLayer(nn.Module):
    """A layer of a crossmodal transformer: the target's tokens attend to the source's; then an MLP on each of them.

    Args:
        width: width of a token.
        heads: attention heads.
        dropout: rate in [0, 1).
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.target_norm, self.source_norm, self.norm = (nn.LayerNorm(width) for _ in range(3))
        self.attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.network = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, state: Tensor, source: Tensor, there: Tensor) -> Tensor:
        """The next state ``(R, T, w)`` of the target; it attends to the source only where the source is present.

        Args:
            state: ``(R, T, w)``.
            source: ``(R, T, w)``.
            there: bool ``(R, 1, 1)``, True where the source is present.
        """
        source = self.source_norm(source)
        seen, _ = self.attention(self.target_norm(state), source, source, need_weights=False)
        state = state + torch.where(there, self.dropout(seen), 0.0)
        out: Tensor = state + self.dropout(self.network(self.norm(state)))
        return out


@register
class CrossAttention(_TokenFusion):
    """Cross-attention between each pair of modalities in both directions, as in the multimodal transformer (MulT).

    >>> fusion = ef.fusion.CrossAttention({"text": 300, "audio": 74}, dim=32)
    >>> fusion({"text": torch.randn(8, 300), "audio": torch.randn(8, 74)}).fused.shape
    torch.Size([8, 64])

    Args:
        dims: modality name -> width ``l_m``; at least two.
        dim: common width, a multiple of ``tokens · heads``; default 128. ``out_dim`` is ``M (M − 1) dim``.
        layers: layers of each crossmodal transformer and of each target's own; default 2.
        heads: heads per layer; default 4.
        tokens: number of tokens that each vector is cut into; default 4.
        dropout: rate in the layers; default 0.1.

    ``modalities`` are the results ``Z_t``, with their tokens concatenated; ``fused`` is all of them. An absent source
    adds nothing to a direction, which then passes the target's own tokens through its MLP, so that a target without any
    source still reaches the output; an absent target is 0.

    Raises:
        InputError: there are fewer than two modalities, or a value is out of range.

    Formula (Tsai et al. 2019, arXiv 1906.00295): each target ``t`` has a crossmodal transformer for each source
    ``s ≠ t``. Its state ``z`` starts from the target's tokens, and each layer is
    ``z += Attention(LN z, LN Z_s, LN Z_s)``, ``z += MLP(LN z)``, with the source's original tokens ``Z_s``. The states
    for all sources, concatenated token by token, go through a transformer of the target.

    Tokens: MulT is made for sequences, but a modality here is one vector, and attention to a single token has no
    choice: its softmax is always 1. So each projected vector is cut into ``tokens`` tokens of width ``dim / tokens``,
    identified by the learned biases of the projection where a sequence has positions. With ``tokens=1`` a direction
    reduces to ``z + A Z_s`` and the MLP, with ``A`` affine after LN. The paper uses the last position as output; the
    tokens of a vector have no last one, so all of them are used.
    """

    name: ClassVar[str] = "cross_attention"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 128,
        layers: int = 2,
        heads: int = 4,
        tokens: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(dims, dim, layers, heads, dropout)
        require_two(self.dims, type(self).__name__, "attends")
        if tokens < 1 or dim % (tokens * heads):
            raise InputError(f"dim must be a multiple of tokens times heads, got {dim}, {tokens} and {heads}")
        self.count, width, joined = tokens, dim // tokens, (len(self.dims) - 1) * dim // tokens
        self.out_dim = len(self.dims) * (len(self.dims) - 1) * dim
        self.directions = nn.ModuleDict(
            {
                target: nn.ModuleDict(
                    {
                        source: nn.ModuleList(_CrossLayer(width, heads, dropout) for _ in range(layers))
                        for source in self.dims
                        if source != target
                    }
                )
                for target in self.dims
            }
        )
        self.layers = nn.ModuleDict(
            {m: nn.ModuleList(_layer(joined, heads, dropout) for _ in range(layers)) for m in self.dims}
        )
        self.norms = nn.ModuleDict({m: nn.LayerNorm(joined) for m in self.dims})

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """``(R, out_dim)`` from rows ``(R, l_m)``."""
        embedded, there = self.embedded(rows)
        tokens = dict(zip(self.dims, embedded.view(*embedded.shape[:2], self.count, -1).unbind(1), strict=True))
        masks = dict(zip(self.dims, there[:, :, None, None].unbind(1), strict=True))
        states = []
        for target, directions in self.directions.items():
            assert isinstance(directions, nn.ModuleDict)
            seen = []
            for source, layers in directions.items():
                state = tokens[target]
                for layer in layers:  # type: ignore[attr-defined]
                    state = layer(state, tokens[source], masks[source])
                seen.append(state)
            joined = torch.cat(seen, dim=2)
            for layer in self.layers[target]:  # type: ignore[attr-defined]
                joined = layer(joined)
            states.append(torch.where(masks[target], self.norms[target](joined), 0.0).flatten(1))
        return self.output(torch.cat(states, dim=1), torch.stack(states, dim=1))
