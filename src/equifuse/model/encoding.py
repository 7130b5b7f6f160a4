"""One modality at a time through its encoder: only the samples that have it, and what others look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from equifuse.encoders import Preprocessed, States
from equifuse.encoders.preprocessed import encode
from equifuse.encoders.states import looking
from equifuse.errors import InputError, UnknownNameError
from equifuse.fusion.modes import evaluation_mode
from equifuse.model.outputs import encoder_tensor
from equifuse.solve.sync import can_read


class Steps(dict[str, Tensor]):
    """Encoded modalities for a fusion that takes steps: sequences ``(B, T_m, l_m)``, or vectors, and what is padding.

    >>> from equifuse.model.encoding import Steps
    >>> Steps({"a": torch.zeros(2, 3, 4)}, {"a": torch.ones(2, 3, dtype=torch.bool)}).masks({})["a"].shape
    torch.Size([2, 3])

    Args:
        encoded: modality name -> what its encoder gives.
        valid: modality name -> bool ``(B, T_m)``, for sequences.
    """

    def __init__(self, encoded: Mapping[str, Tensor], valid: Mapping[str, Tensor]) -> None:
        super().__init__(encoded)
        self.valid = dict(valid)

    def masks(self, present: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Which steps are there: no padding, and no steps of samples that lack the modality."""
        found = dict(present or {})
        for name, valid in self.valid.items():
            mask = found.get(name)
            found[name] = valid if mask is None else valid & mask.reshape(len(valid), -1)
        return found


def has_states(encoder: nn.Module) -> bool:
    """Whether an encoder gives the states of steps beside its vector."""
    return hasattr(encoder[-1] if isinstance(encoder, Preprocessed) else encoder, "states")


def check_looks(encoders: Mapping[str, nn.Module | None]) -> None:
    """Refuse encoders that look at a modality that is not there, has no states, or itself looks at another.

    Raises:
        UnknownNameError: there is no such modality.
        InputError: it cannot be looked at.
    """
    for name, other in looking(encoders).items():
        if other not in encoders or other == name:
            raise UnknownNameError(f"modality that the encoder of {name!r} looks at:", other, set(encoders) - {name})
        seen = encoders[other] or nn.Identity()
        if not has_states(seen):
            kind = type(seen[-1] if isinstance(seen, Preprocessed) else seen).__name__
            raise InputError(
                f"the encoder of {name!r} looks at {other!r}, whose encoder ({kind}) has no states to look at"
            )


def states_of(name: str, encoder: nn.Module, x: Tensor, lengths: Tensor | None, mask: Tensor | None) -> States:
    """What there is to look at in a modality; nothing in samples that lack it."""
    _check_mask(mask, x)
    if mask is None:
        found: States = encoder.states(x, lengths)  # type: ignore[operator]
        return found
    if mask.dim() > 1:
        raise InputError(f"modality {name!r} is looked at by another encoder; its mask must be (B,)")
    if not can_read(x):
        found = encoder.states(x.masked_fill(~mask.reshape(-1, *[1] * (x.dim() - 1)), 0), lengths)  # type: ignore[operator]
        return States(found.steps, found.valid & mask[:, None], found.pooled)
    # At least one row, so that the width of the states is known.
    rows = mask.clone()
    rows[:1] |= not bool(mask.any())
    found = encoder.states(  # type: ignore[operator]
        torch.where(mask[rows].reshape(-1, *[1] * (x.dim() - 1)), x[rows], 0.0),
        None if lengths is None else lengths[rows],
    )
    placed = found.placed(rows)
    return States(placed.steps, placed.valid & mask[:, None], placed.pooled)


def _check_mask(mask: Tensor | None, x: Tensor) -> None:
    if mask is None:
        return
    if not isinstance(mask, Tensor):
        raise InputError(f"a mask must be a bool tensor, got {type(mask).__name__}; torch.as_tensor makes one")
    if mask.dtype != torch.bool or mask.dim() < 1 or mask.shape[0] != x.shape[0]:
        raise InputError(f"a mask must be bool with {x.shape[0]} samples, got {mask.dtype} {tuple(mask.shape)}")


def encode_modality(
    name: str,
    encoder: nn.Module,
    x: Tensor,
    lengths: Tensor | None,
    mask: Tensor | None,
    width: int,
    context: States | None = None,
) -> Tensor:
    """Encode the samples that have the modality; the others get zeros, which the fusion ignores."""
    if mask is None:
        return encoder_tensor(name, _encode_some(encoder, x, lengths, context), x.shape[0], width)
    _check_mask(mask, x)
    if mask.dim() > 1 or not can_read(x):
        # Positions cannot be dropped from a sample, nor samples from a graph: what is absent is blanked instead.
        extra = x.dim() - mask.dim()
        blanked = x.masked_fill(~mask.reshape(*mask.shape, *[1] * extra), 0)
        return encoder_tensor(name, encode(encoder, blanked, lengths, context), x.shape[0], width)
    if not bool(mask.any()):
        return x.new_zeros(x.shape[0], width)
    rows, seen = x[mask], None if context is None else context.select(mask)
    some = _encode_some(encoder, rows, None if lengths is None else lengths[mask], seen)
    some = encoder_tensor(name, some, rows.shape[0], width)
    return some.new_zeros(x.shape[0], *some.shape[1:]).index_put((mask.nonzero().squeeze(1),), some)


def _encode_some(encoder: nn.Module, x: Tensor, lengths: Tensor | None, context: States | None) -> Any:
    """Encode samples that have the modality.

    Of a single sample's features there is no variance, so that batch normalisation cannot train on it; it then uses
    its running statistics, as in evaluation mode.
    """
    try:
        encoded = encode(encoder, x, lengths, context)
    except ValueError as error:
        if len(x) != 1 or "more than 1 value per channel" not in str(error):
            raise
        with evaluation_mode(*(m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))):
            encoded = encode(encoder, x, lengths, context)
    return encoded
