"""Sequences and bags of any length to one vector per sample, for every fusion. Padding has no effect."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from equifuse.encoders.states import States
from equifuse.errors import InputError, UnknownNameError

POOLINGS = ("mean", "max", "attention", "bag", "gru", "transformer", "queries")


def valid_steps(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Bool ``(B, T)``: which steps of padded sequences ``(B, T, …)`` are data.

    Raises:
        InputError: the lengths do not fit.
    """
    batch, steps = x.shape[:2]
    if lengths is None:
        return torch.ones(batch, steps, dtype=torch.bool, device=x.device)
    if lengths.shape != (batch,) or lengths.is_floating_point():
        raise InputError(f"lengths must be whole numbers ({batch},), got {lengths.dtype} {tuple(lengths.shape)}")
    return torch.arange(steps, device=x.device) < lengths[:, None]


class SequenceEncoder(nn.Module):
    """Encodes each step of a sequence, and pools the valid steps to one vector.

    >>> encoder = ef.encoders.SequenceEncoder(74, dim=32, pooling="attention")
    >>> encoder(torch.randn(8, 50, 74), lengths=torch.full((8,), 40)).shape  # 50 steps, of which 40 are valid
    torch.Size([8, 32])

    Args:
        width: width of a step ``l``.
        dim: width of the output; even for "gru", a multiple of ``2 · heads`` for "transformer" and "queries".
            Default 128.
        pooling: default "attention"; see below.
        layers: of the GRU or transformer; default 1.
        heads: attention heads in "transformer" and "queries"; default 4.
        queries: number of learned queries; default 4.
        dropout: rate in [0, 1); default 0.1.

    A step is mapped by Linear, LayerNorm, ReLU and Dropout to ``dim``; then the pooling is

    - ``"mean"`` or ``"max"`` over the steps;
    - ``"attention"``: a weighted mean, the weights a softmax of ``v · tanh(U h_t)`` (Lin et al. 2017, one hop);
    - ``"bag"``: likewise, by ``w · (tanh(V h_t) ⊙ σ(U h_t))`` (gated attention, Ilse et al. 2018, 1802.04712), for bags
      of instances of which few decide, in no order;
    - ``"gru"``: the mean of a bidirectional GRU's states;
    - ``"transformer"``: self-attention layers with sinusoidal positions, and the mean;
    - ``"queries"``: learned queries that attend to the steps (Jaegle et al. 2021), joined by a linear map.

    The order of steps matters to "gru" and "transformer" alone. A sequence without a valid step gives the same result
    as a single step of zeros.

    Raises:
        UnknownNameError: an unknown pooling.
        InputError: a value is out of range.
    """

    kind: ClassVar[str] = "sequence"
    takes_lengths: ClassVar[bool] = True

    def __init__(
        self,
        width: int,
        dim: int = 128,
        pooling: str = "attention",
        *,
        layers: int = 1,
        heads: int = 4,
        queries: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise UnknownNameError("pooling", pooling, POOLINGS)
        if not 0 <= dropout < 1:
            raise InputError(f"dropout must be in [0, 1), got {dropout}")
        if min(width, dim, layers, heads, queries) < 1:
            raise InputError("width, dim, layers, heads and queries must be at least 1")
        if (pooling == "gru" and dim % 2) or (pooling in ("transformer", "queries") and dim % (2 * heads)):
            raise InputError(f"dim {dim} does not fit pooling {pooling!r}: make it a multiple of {2 * heads}")
        self.width, self.dim, self.pooling = width, dim, pooling
        self.step = nn.Sequential(nn.Linear(width, dim), nn.LayerNorm(dim), nn.ReLU(), nn.Dropout(dropout))
        if pooling == "attention":
            self.score = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, 1, bias=False))
        elif pooling == "bag":
            self.score = nn.Sequential(GatedTanh(dim), nn.Linear(dim, 1, bias=False))
        elif pooling == "gru":
            between = dropout if layers > 1 else 0.0
            self.gru = nn.GRU(dim, dim // 2, layers, batch_first=True, bidirectional=True, dropout=between)
        elif pooling == "transformer":
            layer = nn.TransformerEncoderLayer(dim, heads, 2 * dim, dropout, batch_first=True, norm_first=True)
            self.transformer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        elif pooling == "queries":
            self.queries = nn.Parameter(torch.randn(queries, dim) / math.sqrt(dim))
            self.attention = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
            self.join = nn.Linear(queries * dim, dim)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """``(B, T, l)`` and int64 lengths ``(B,)`` (None: no padding) ``-> (B, dim)``.

        Raises:
            InputError: not a batch of sequences of this width, or lengths that do not fit.
        """
        return self.states(x, lengths).pooled

    def states(self, x: Tensor, lengths: Tensor | None = None) -> States:
        """The states ``(B, T, dim)`` of the steps, and their pooled vector; see the call."""
        if x.dim() != 3 or x.shape[2] != self.width:
            raise InputError(f"expected sequences (B, T, {self.width}), got {tuple(x.shape)}")
        if x.shape[1] == 0:
            x = x.new_zeros(x.shape[0], 1, self.width)
            lengths = None
        valid = valid_steps(x, lengths)
        # What the padding holds, be it NaN, is gone from here on; an empty sequence is one step of zeros.
        x = torch.where(valid[:, :, None], x, 0.0)
        valid = valid | (~valid.any(1, keepdim=True) & (torch.arange(x.shape[1], device=x.device) == 0))
        h = self.step(x)
        if self.pooling == "gru":
            h = self._recur(h, valid)
        elif self.pooling == "transformer":
            h = self.transformer(h + _positions(h), src_key_padding_mask=~valid)
        return States(h, valid, self._pool(h, valid))

    def _pool(self, h: Tensor, valid: Tensor) -> Tensor:
        if self.pooling == "max":
            return h.masked_fill(~valid[:, :, None], -torch.inf).amax(1)
        if self.pooling in ("attention", "bag"):
            scores: Tensor = self.score(h).squeeze(2)
            weights = torch.softmax(scores.masked_fill(~valid, -torch.inf), dim=1)
            return (weights[:, None] @ h).squeeze(1)
        if self.pooling == "queries":
            asked = self.queries.expand(h.shape[0], -1, -1)
            tokens, _ = self.attention(asked, h, h, key_padding_mask=~valid, need_weights=False)
            joined: Tensor = self.join(tokens.flatten(1))
            return joined
        share = valid.to(h.dtype) / valid.sum(1, keepdim=True)
        return (share[:, None] @ torch.where(valid[:, :, None], h, 0.0)).squeeze(1)

    def _recur(self, h: Tensor, valid: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(h, valid.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        states, _ = self.gru(packed)
        unpacked, _ = nn.utils.rnn.pad_packed_sequence(states, batch_first=True)
        return F.pad(unpacked, (0, 0, 0, h.shape[1] - unpacked.shape[1]))


class GatedTanh(nn.Module):
    """``tanh(V h) ⊙ σ(U h)``: what speaks for an instance, and whether it counts.

    >>> from equifuse.encoders.sequence import GatedTanh
    >>> GatedTanh(8)(torch.randn(2, 5, 8)).shape
    torch.Size([2, 5, 8])

    Args:
        dim: width of ``h`` and of the output.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, h: Tensor) -> Tensor:
        """``(..., d) -> (..., d)``."""
        return torch.tanh(self.value(h)) * torch.sigmoid(self.gate(h))


class AverageSteps(nn.Module):
    """The mean over the valid steps of a sequence, 0 without any: nothing to train.

    >>> from equifuse.encoders.sequence import AverageSteps
    >>> AverageSteps()(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([2]))
    tensor([[2.]])
    """

    takes_lengths: ClassVar[bool] = True

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """``(B, T, l)`` and int64 lengths ``(B,)`` (None: no padding) ``-> (B, l)``."""
        valid = valid_steps(x, lengths)[:, :, None]
        return torch.where(valid, x, 0.0).sum(1) / valid.sum(1).clamp(min=1)


def _positions(h: Tensor) -> Tensor:
    """Sinusoidal positions ``(T, dim)`` (Vaswani et al. 2017)."""
    steps, dim = h.shape[1:]
    rates = torch.exp(torch.arange(0, dim, 2, device=h.device) * (-math.log(10_000.0) / dim))
    angles = torch.arange(steps, device=h.device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :dim].to(h.dtype)
