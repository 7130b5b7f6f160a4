"""Hidden layers for the flattened features of a modality."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

from equifuse.errors import InputError


class MLPEncoder(nn.Module):
    """Hidden layers for a modality of plain features: Linear, LayerNorm, ReLU and Dropout, one after the other.

    >>> encoder = ef.encoders.MLPEncoder(1000, hidden=(256, 128))
    >>> encoder(torch.randn(8, 1000)).shape
    torch.Size([8, 128])

    Args:
        width: width of the input, flattened.
        hidden: width of each hidden layer, the last of which is the output width; default (128,).
        dropout: rate after each hidden layer, in [0, 1); default 0.3.
        input_dropout: rate of each input feature, in [0, 1); default 0. Useful if there are more features than samples.

    Raises:
        InputError: there is no hidden layer, or a value is out of range.

    It uses LayerNorm and not BatchNorm, because a sample's result must not depend on the other samples of its batch.
    """

    kind: ClassVar[str] = "mlp"

    def __init__(
        self, width: int, hidden: tuple[int, ...] = (128,), dropout: float = 0.3, input_dropout: float = 0.0
    ) -> None:
        super().__init__()
        if not hidden or min(hidden) < 1:
            raise InputError(f"hidden must list at least one positive width, got {hidden}")
        for name, value in (("dropout", dropout), ("input_dropout", input_dropout)):
            if not 0 <= value < 1:
                raise InputError(f"{name} must be in [0, 1), got {value}")
        widths = [width, *hidden]
        self.input_dropout = nn.Dropout(input_dropout)
        self.layers = nn.Sequential()
        for before, after in pairwise(widths):
            self.layers.extend([nn.Linear(before, after), nn.LayerNorm(after), nn.ReLU(), nn.Dropout(dropout)])

    def forward(self, x: Tensor) -> Tensor:
        """``(B, …) -> (B, hidden[-1])``."""
        out: Tensor = self.layers(self.input_dropout(x.flatten(1)))
        return out
