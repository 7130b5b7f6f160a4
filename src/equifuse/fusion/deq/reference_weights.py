"""Weights in the key layout of the authors' public code.

``func_.branches.{m}.conv1|conv2.weight|bias`` and ``.gn1|gn2|gn3.weight|bias`` are the block of modality ``m``; the
last branch has ``gate``, ``fuse`` and ``gn3``; ``weights.{m}`` and ``bias`` make the weighted sum. There are no
projections: inputs have width ``d``. The dtype of the tensors becomes the module's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from equifuse.errors import InputError

if TYPE_CHECKING:
    from equifuse.fusion.deq.module import DEQFusion

F = TypeVar("F", bound="DEQFusion")


def from_reference(kind: type[F], state_dict: Mapping[str, Tensor], **options: Any) -> F:
    """A fusion with the weights of a state dict in this layout; see :meth:`DEQFusion.from_reference`."""
    state = {key: torch.as_tensor(value) for key, value in state_dict.items()}
    count = sum(1 for key in state if key.startswith("weights."))
    if count < 1 or f"func_.branches.{count}.gate.weight" not in state:
        raise InputError(
            "not a reference state dict: expected 'weights.{m}' for each modality and "
            f"'func_.branches.{count}.gate.weight'; got {', '.join(sorted(state)[:4]) or 'no keys'}, ..."
        )
    dim = state[f"func_.branches.{count}.gate.weight"].shape[0]
    fusion = kind({str(m): dim for m in range(count)}, dim, projection=False, **options)
    fusion = fusion.to(state["bias"].dtype if "bias" in state else torch.float32)
    expected = reference_layout(count)
    unexpected = sorted(set(state) - set(expected))
    missing = sorted(set(expected) - set(state))
    if missing or unexpected:
        raise InputError(f"reference state dict: missing keys {missing or 'none'}, unexpected {unexpected or 'none'}")
    parameters = dict(fusion.named_parameters())
    with torch.no_grad():
        for key, (name, index, transposed) in expected.items():
            target = parameters[name] if index is None else parameters[name][index]
            value = state[key].t() if transposed else state[key]
            if value.numel() != target.numel():
                raise InputError(f"{key} has shape {tuple(state[key].shape)}, expected {tuple(target.shape)}")
            target.copy_(value.reshape(target.shape))
    return fusion


def reference_layout(count: int) -> dict[str, tuple[str, int | None, bool]]:
    """Key of the authors' code -> (parameter of :class:`DEQFusion`, index into it, whether it is stored transposed)."""
    layout: dict[str, tuple[str, int | None, bool]] = {"bias": ("fuse_bias", None, False)}
    for m in range(count):
        branch = f"func_.branches.{m}"
        layout[f"weights.{m}"] = ("fuse_weights", m, False)
        for i in (1, 2):
            layout[f"{branch}.conv{i}.weight"] = (f"blocks.weight{i}", m, True)
            layout[f"{branch}.conv{i}.bias"] = (f"blocks.bias{i}", m, False)
        for i in (1, 2, 3):
            for kind in ("weight", "bias"):
                layout[f"{branch}.gn{i}.{kind}"] = (f"blocks.norm{i}.{kind}", m, False)
    for kind in ("weight", "bias"):
        layout[f"func_.branches.{count}.gate.{kind}"] = (f"gate.{kind}", None, False)
        layout[f"func_.branches.{count}.fuse.{kind}"] = (f"mix.{kind}", None, False)
        layout[f"func_.branches.{count}.gn3.{kind}"] = (f"norm.{kind}", None, False)
    return layout
