"""Clips to one vector each: frames, and spectrograms of their sound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from equifuse.encoders.pictures import PictureEncoder
from equifuse.errors import InputError


class FrameEncoder(nn.Module):
    """The mean over frames of a :class:`PictureEncoder`: ``(B, F, 3, H, W)`` bytes to one vector each.

    >>> encoder = ef.encoders.FrameEncoder(64, dim=32)
    >>> encoder(torch.randint(0, 256, (2, 4, 3, 64, 64)).float()).shape
    torch.Size([2, 32])

    Args:
        size: ``H`` and ``W``.
        dim: width of the output.
        dropout: rate in [0, 1) before the output; default 0.

    Raises:
        InputError: the frames are too small.
    """

    kind: ClassVar[str] = "cnn"

    def __init__(self, size: int, dim: int = 128, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.frame = PictureEncoder(size, dim, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, F, 3, H, W) -> (B, dim)``."""
        each: Tensor = self.frame(x.flatten(0, 1))
        return each.reshape(*x.shape[:2], -1).mean(1)


class SpectrogramEncoder(nn.Module):
    """A small convolutional network, trained from scratch: spectrograms ``(B, bins, steps)`` to one vector each.

    The first convolution takes every second bin and fourth step; each layer halves what is left, of which mean and
    maximum are mapped to the output.

    >>> ef.encoders.SpectrogramEncoder((129, 626), dim=32)(torch.randn(2, 129, 626)).shape
    torch.Size([2, 32])

    Args:
        shape: bins and steps.
        dim: width of the output.
        channels: of each layer; the last one is ``dim`` wide beside them.
        dropout: rate in [0, 1) before the output; default 0.

    Raises:
        InputError: the spectrogram is too small for so many layers.
    """

    kind: ClassVar[str] = "cnn"

    def __init__(
        self, shape: Sequence[int], dim: int = 128, channels: Sequence[int] = (32, 64, 64), *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        least = 2 ** (len(channels) + 1)
        if min(shape) < least:
            raise InputError(f"spectrograms of {shape[0]} x {shape[1]} are too small; each side needs {least}")
        layers: list[nn.Module] = []
        width = 1
        for layer, channel in enumerate((*channels, dim)):
            stride = (2, 4 if shape[1] >= 4 * least else 2) if layer == 0 else 1
            layers += [
                nn.Conv2d(width, channel, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(channel),
                nn.ReLU(),
                *([nn.MaxPool2d(2)] if 0 < layer < len(channels) else []),
            ]
            width = channel
        self.layers = nn.Sequential(*layers)
        self.join = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, bins, steps) -> (B, dim)``."""
        cells = self.layers(x.unsqueeze(1)).flatten(2)
        out: Tensor = self.join(torch.cat([cells.mean(2), cells.amax(2)], dim=1))
        return out
