"""Heads: from the fused representation to raw outputs."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from equifuse.errors import InputError


class LinearHead(nn.Module):
    """The usual last layer of a model: LayerNorm, dropout and one affine map to the outputs.

    >>> ef.model.LinearHead(64, outputs=3)(torch.randn(8, 64)).shape
    torch.Size([8, 3])

    Args:
        in_dim: width of the fused representation.
        outputs: number of outputs ``K``.
        dropout: rate in [0, 1); default 0.

    Raises:
        InputError: ``dropout`` is out of range.
    """

    kind: ClassVar[str] = "linear"

    def __init__(self, in_dim: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise InputError(f"head_dropout must be in [0, 1), got {dropout}")
        self.norm = nn.LayerNorm(in_dim)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(in_dim, outputs)

    def forward(self, fused: Tensor) -> Tensor:
        """``(B, in_dim) -> (B, K)``."""
        out: Tensor = self.linear(self.dropout(self.norm(fused)))
        return out
