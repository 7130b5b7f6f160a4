"""What an encoder knows of a modality beside its one vector, for the encoders of others that may look at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class States:
    """The states of a modality's steps: words, regions, cells.

    >>> from equifuse.encoders import States
    >>> States.absent(rows=2, width=8, like=torch.zeros(1)).valid.any()
    tensor(False)

    Attributes:
        steps: ``(B, T, d)``.
        valid: bool ``(B, T)``, which steps are data; none in samples that lack the modality.
        pooled: ``(B, d)``, the encoder's output.
    """

    steps: Tensor
    valid: Tensor
    pooled: Tensor

    @property
    def present(self) -> Tensor:
        """Bool ``(B,)``: which samples have the modality."""
        return self.valid.any(1)

    @classmethod
    def absent(cls, rows: int, width: int, like: Tensor) -> States:
        """Of samples that all lack the modality."""
        steps = like.new_zeros(rows, 1, width)
        return cls(steps, torch.zeros(rows, 1, dtype=torch.bool, device=like.device), steps[:, 0])

    def select(self, rows: Tensor) -> States:
        """Of some samples, by indices or a bool mask."""
        return States(self.steps[rows], self.valid[rows], self.pooled[rows])

    def placed(self, mask: Tensor) -> States:
        """Of these samples where ``mask`` ``(B,)`` is true, and of none elsewhere."""
        where = (mask.nonzero().squeeze(1),)
        count = len(mask)
        return States(
            self.steps.new_zeros(count, *self.steps.shape[1:]).index_put(where, self.steps),
            self.valid.new_zeros(count, *self.valid.shape[1:]).index_put(where, self.valid),
            self.pooled.new_zeros(count, *self.pooled.shape[1:]).index_put(where, self.pooled),
        )


def looks_at(encoder: nn.Module | None) -> str | None:
    """The other modality that an encoder wants to see, or None: what it declares as ``looks_at``.

    >>> from equifuse.encoders import looks_at
    >>> looks_at(ef.encoders.GuidedAttention(ef.encoders.RegionStates(64, 32), "question", 32))
    'question'
    """
    return getattr(encoder, "looks_at", None)


def looking(encoders: Mapping[str, nn.Module | None] | nn.ModuleDict) -> dict[str, str]:
    """Modality -> the other one that its encoder looks at, for those whose does.

    >>> from equifuse.encoders.states import looking
    >>> guided = ef.encoders.GuidedAttention(ef.encoders.RegionStates(64, 32), "question", 32)
    >>> looking({"image": guided, "question": None})
    {'image': 'question'}
    """
    found = {name: looks_at(encoder) for name, encoder in encoders.items()}
    return {name: other for name, other in found.items() if other is not None}
