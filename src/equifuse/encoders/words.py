"""Words to one vector per text."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from equifuse.encoders.sequence import SequenceEncoder
from equifuse.encoders.states import States
from equifuse.errors import InputError


class WordEncoder(nn.Module):
    """Numbers of words to vectors that are learned, and those to one vector by a :class:`SequenceEncoder`.

    >>> encoder = ef.encoders.WordEncoder(tokens=50, dim=32)
    >>> encoder(torch.randint(0, 50, (8, 14, 1)).float(), lengths=torch.full((8,), 6)).shape
    torch.Size([8, 32])

    Args:
        tokens: how many different numbers there are; 0 is padding.
        dim: width of the output, and of a word's vector.
        pooling: of the words' states, as :class:`SequenceEncoder` has them; default "gru".
        dropout: rate in [0, 1); default 0.1.

    Raises:
        UnknownNameError: an unknown pooling.
        InputError: a value is out of range.
    """

    kind: ClassVar[str] = "words"
    takes_lengths: ClassVar[bool] = True

    def __init__(self, tokens: int, dim: int = 128, pooling: str = "gru", *, dropout: float = 0.1) -> None:
        super().__init__()
        if tokens < 2:
            raise InputError(f"tokens must be at least 2, padding and what is unknown, got {tokens}")
        self.tokens = tokens
        self.embedding = nn.Embedding(tokens, dim, padding_idx=0)
        self.sequence = SequenceEncoder(dim, dim, pooling, dropout=dropout)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """``(B, T, 1)`` numbers and int64 lengths ``(B,)`` (None: no padding) ``-> (B, dim)``."""
        return self.states(x, lengths).pooled

    def states(self, x: Tensor, lengths: Tensor | None = None) -> States:
        """The states of the words, and their pooled vector."""
        # What stands behind a text's end may be anything; NaN is no number of a word.
        numbers = torch.nan_to_num(x.squeeze(-1)).long().clamp(0, self.tokens - 1)
        return self.sequence.states(self.embedding(numbers), lengths)
