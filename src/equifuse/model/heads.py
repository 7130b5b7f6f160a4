"""Heads: from the fused representation to raw outputs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from equifuse.errors import InputError
from equifuse.fusion.output_map import OutputMap


class InputHead(nn.Module):
    """Base of heads that also look at the inputs, such as one that places what it finds.

    >>> class Beside(ef.model.InputHead):
    ...     def forward(self, fused, inputs, present):
    ...         return torch.cat([fused, inputs["a"]], -1)
    >>> fusion = ef.make_fusion("concat", {"a": 3, "b": 4})
    >>> model = ef.FusionModel({"a": None, "b": None}, fusion, Beside())
    >>> model({"a": torch.randn(8, 3), "b": torch.randn(8, 4)}).prediction.shape
    torch.Size([8, 10])
    """

    @abstractmethod
    def forward(self, fused: Tensor, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """``(B, ..., in_dim) -> (B, K)``, from the model's inputs and masks as well."""


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
        self.linear = OutputMap(in_dim, outputs)

    def forward(self, fused: Tensor) -> Tensor:
        """``(B, in_dim) -> (B, K)``."""
        out: Tensor = self.linear(self.dropout(self.norm(fused)))
        return out


class MLPHead(LinearHead):
    """A head with a hidden layer: what a modality says may depend on what the others say.

    With an affine map alone, a fusion that puts the encoders' outputs side by side adds up what each modality says, and
    no training teaches it that two of them decide together.

    >>> ef.model.MLPHead(64, outputs=3)(torch.randn(8, 64)).shape
    torch.Size([8, 3])

    Args:
        in_dim: width of the fused representation.
        outputs: number of outputs ``K``.
        hidden: width of the hidden layer, ≥ 1; default 128.
        dropout: rate of the fused representation in [0, 1); default 0.
        hidden_dropout: rate of the hidden layer in [0, 1); default 0.3.

    Raises:
        InputError: a value is out of range.

    Formula: ``W relu(U LayerNorm(h) + c) + b``.
    """

    kind: ClassVar[str] = "mlp"

    def __init__(
        self, in_dim: int, outputs: int, hidden: int = 128, dropout: float = 0.0, hidden_dropout: float = 0.3
    ) -> None:
        super().__init__(in_dim, outputs, dropout)
        if hidden < 1:
            raise InputError(f"head_hidden must be at least 1, got {hidden}")
        if not 0 <= hidden_dropout < 1:
            raise InputError(f"hidden_dropout must be in [0, 1), got {hidden_dropout}")
        self.hidden = nn.Sequential(nn.Linear(in_dim, hidden), nn.ReLU(), nn.Dropout(hidden_dropout))
        self.linear = OutputMap(hidden, outputs)

    def forward(self, fused: Tensor) -> Tensor:
        """``(B, in_dim) -> (B, K)``."""
        out: Tensor = self.linear(self.hidden(self.dropout(self.norm(fused))))
        return out
