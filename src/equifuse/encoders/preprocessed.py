"""Preprocessing and an encoder in a row."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from equifuse.errors import InputError


def takes_lengths(encoder: nn.Module) -> bool:
    """Whether an encoder's call has the lengths of sequences as its second argument."""
    return bool(getattr(encoder, "takes_lengths", False))


def encode(encoder: nn.Module, x: Tensor, lengths: Tensor | None) -> Any:
    """Call an encoder, with lengths where it takes them.

    Raises:
        InputError: there are lengths, and it does not.
    """
    if takes_lengths(encoder):
        return encoder(x, lengths)
    if lengths is not None:
        raise InputError(f"{type(encoder).__name__} cannot tell padding from data; use a SequenceEncoder for lengths")
    return encoder(x)


class Preprocessed(nn.Sequential):
    """Layers without an idea of lengths, and an encoder, which may have one."""

    @property
    def takes_lengths(self) -> bool:
        """Whether the encoder at the end takes lengths."""
        return takes_lengths(self[-1])

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Any:
        """``(B, …) -> (B, …)``."""
        *layers, encoder = self.children()
        for layer in layers:
            x = layer(x)
        return encode(encoder, x, lengths)
