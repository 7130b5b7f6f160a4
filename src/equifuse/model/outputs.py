"""What an encoder gives, of whatever kind, as the one tensor that the fusion takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from equifuse.errors import InputError

# Names of one vector per sample in the outputs of transformers and the like, the likeliest first.
_VECTORS = ("pooler_output", "image_embeds", "text_embeds", "audio_embeds", "embeddings", "last_hidden_state", "logits")
_NAMED = 6


def encoder_tensor(name: str, output: Any, rows: int, width: int) -> Tensor:
    """The tensor ``(B, ..., width)`` of an encoder's output.

    >>> from equifuse.model.outputs import encoder_tensor
    >>> hidden = torch.zeros(2, 7, 16)
    >>> encoder_tensor("text", {"last_hidden_state": hidden, "pooler_output": hidden[:, 0]}, 2, 16).shape
    torch.Size([2, 16])

    A tensor is taken as it is. Of a tuple, a list, a dictionary or an output of transformers it is the pooled vector,
    or else the only entry of the shape ``(B, width)``.

    Args:
        name: of the modality.
        output: what its encoder returned.
        rows: ``B``.
        width: that the fusion was built for.

    Raises:
        InputError: there is no such tensor, or more than one; or it has other rows or another width.
    """
    found = output if isinstance(output, Tensor) else _picked(name, output, rows, width)
    if torch.compiler.is_compiling():  # a check would tie a graph to one size of batch
        return found
    if found.dim() < 2 or found.shape[0] != rows:
        raise InputError(
            f"the encoder of {name!r} gives shape {tuple(found.shape)} for {rows} samples; expected ({rows}, {width})"
        )
    if found.shape[-1] != width:
        raise InputError(f"the encoder of {name!r} gives width {found.shape[-1]}, the fusion was built for {width}")
    return found


def _picked(name: str, output: Any, rows: int, width: int) -> Tensor:
    entries = _entries(output)
    tensors = {key: value for key, value in entries.items() if isinstance(value, Tensor)}
    fitting = [key for key, value in tensors.items() if tuple(value.shape) == (rows, width)]
    chosen = next((key for key in _VECTORS if key in fitting), fitting[0] if len(fitting) == 1 else None)
    if chosen is None and len(tensors) == 1:
        chosen = next(iter(tensors))
    if chosen is not None:
        return tensors[chosen]
    kind = "None" if output is None else f"a {type(output).__name__}"
    has = ", ".join(f"{key} {tuple(value.shape)}" for key, value in list(tensors.items())[:_NAMED])
    raise InputError(
        f"the encoder of {name!r} gives {kind}{f' with {has}' if has else ''}; it must give one tensor "
        f"({rows}, {width}): wrap it in a module that returns that"
    )


def _entries(output: Any) -> dict[str, Any]:
    """The parts of an output by name, or by number."""
    if isinstance(output, Mapping):
        return {str(key): value for key, value in output.items()}
    if hasattr(output, "_fields"):
        return dict(zip(output._fields, output, strict=True))
    if isinstance(output, tuple | list):
        return {str(i): value for i, value in enumerate(output)}
    return dict(getattr(output, "__dict__", {}))
