"""Pictures to one vector each, and to the cells of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from equifuse.encoders.states import States
from equifuse.errors import InputError

# Bytes become numbers from about -1 to 1.
_MIDDLE = 127.5


class PictureEncoder(nn.Module):
    """A small convolutional network, trained from scratch: ``(B, 3, H, W)`` bytes to one vector each.

    Each layer is a 3x3 convolution, batch normalisation and ReLU, and halves the picture; what is left is a grid of
    cells, of which mean and maximum are mapped to the output. For photographs features of a pretrained network are
    better, see :mod:`equifuse.encoders.pretrained`.

    >>> encoder = ef.encoders.PictureEncoder(64, dim=32)
    >>> encoder(torch.randint(0, 256, (2, 3, 64, 64)).float()).shape
    torch.Size([2, 32])

    Args:
        size: ``H`` and ``W``.
        dim: width of the output.
        channels: of each layer; the last one is ``dim`` wide beside them.
        dropout: rate in [0, 1) before the output; default 0.

    Raises:
        InputError: the picture is too small for so many layers.
    """

    kind: ClassVar[str] = "cnn"

    def __init__(
        self, size: int, dim: int = 128, channels: Sequence[int] = (16, 32, 64), *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if size < 2 ** (len(channels) + 1):
            raise InputError(f"pictures of {size} pixels are too small for {len(channels)} layers that halve them")
        layers: list[nn.Module] = []
        width = 3
        for channel in channels:
            layers += [
                nn.Conv2d(width, channel, 3, padding=1, bias=False),
                nn.BatchNorm2d(channel),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            width = channel
        self.layers = nn.Sequential(*layers)
        self.cells = nn.Sequential(nn.Conv2d(width, dim, 3, padding=1, bias=False), nn.BatchNorm2d(dim), nn.ReLU())
        self.join = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Dropout(dropout))

    def grid(self, x: Tensor) -> Tensor:
        """The cells ``(B, cells, dim)`` of pictures ``(B, 3, H, W)``."""
        cells: Tensor = self.cells(self.layers(x / _MIDDLE - 1))
        return cells.flatten(2).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 3, H, W) -> (B, dim)``."""
        return self.states(x).pooled

    def states(self, x: Tensor, lengths: Tensor | None = None) -> States:
        """The cells, and their pooled vector."""
        cells = self.grid(x)
        pooled: Tensor = self.join(torch.cat([cells.mean(1), cells.amax(1)], dim=1))
        return States(cells, torch.ones(cells.shape[:2], dtype=torch.bool, device=x.device), pooled)
