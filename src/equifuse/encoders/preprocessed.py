"""Preprocessing followed by an encoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from equifuse.encoders.states import States, looks_at
from equifuse.errors import InputError


def takes_lengths(encoder: nn.Module) -> bool:
    """Whether an encoder takes the lengths of sequences as its second argument."""
    return bool(getattr(encoder, "takes_lengths", False))


def encode(encoder: nn.Module, x: Tensor, lengths: Tensor | None, context: States | None = None) -> Any:
    """Call an encoder, with lengths if it takes them, and with another modality's states if it looks at one.

    Raises:
        InputError: there are lengths, and the encoder does not take them.
    """
    if looks_at(encoder) is not None:
        return encoder(x, lengths, context)
    if takes_lengths(encoder):
        return encoder(x, lengths)
    if lengths is not None:
        raise InputError(f"{type(encoder).__name__} cannot tell padding from data; use a SequenceEncoder for lengths")
    return encoder(x)


class Preprocessed(nn.Sequential):
    """Preprocessing layers followed by an encoder; only the encoder gets the lengths of padded sequences.

    >>> layers = ef.encoders.Preprocessed(ef.encoders.Standardize((5,)), ef.encoders.MLPEncoder(5, hidden=(4,)))
    >>> layers(torch.randn(8, 5)).shape
    torch.Size([8, 4])

    Args:
        *args: the layers, the encoder last.
    """

    # How many of the first layers are left out, because what comes in has been through them.
    skipped = 0
    # Standard deviation of normal noise that is added to what the encoder gets in training.
    noise = 0.0

    @property
    def takes_lengths(self) -> bool:
        """Whether the encoder takes lengths."""
        return takes_lengths(self[-1])

    @property
    def looks_at(self) -> str | None:
        """The other modality that the encoder looks at, or None."""
        return looks_at(self[-1])

    def forward(self, x: Tensor, lengths: Tensor | None = None, context: States | None = None) -> Any:
        """``(B, …) -> (B, …)``."""
        return encode(self[-1], self._prepared(x), lengths, context)

    def states(self, x: Tensor, lengths: Tensor | None = None) -> States:
        """The states that the encoder has, for one that looks at it."""
        found: States = self[-1].states(self._prepared(x), lengths)  # type: ignore[operator]
        return found

    def _prepared(self, x: Tensor) -> Tensor:
        for layer in list(self.children())[self.skipped : -1]:
            x = layer(x)
        if self.noise and self.training:
            x = x + self.noise * torch.randn_like(x)
        return x
