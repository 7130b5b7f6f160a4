"""Exchange of the shared parts between modalities, and what replaces an absent one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from equifuse.fusion.base import FlatInputs, Fusion, FusionOutput


def recombine(
    invariant: Mapping[str, Tensor], specific: Mapping[str, Tensor], rows: FlatInputs, dims: Mapping[str, int]
) -> dict[str, Tensor]:
    """``Z_m = [inv_{(m+1) mod M} ; spec_m]`` with replacements for what is absent, per row.

    The invariant part of an absent modality is the mean of the invariant parts present in that row; its specific part
    is zero.

    Args:
        invariant: for each modality given, ``(R, l*)``.
        specific: for each modality given, ``(R, l_m)``.
        rows: the call's rows, for the masks.
        dims: all modalities in order.

    Returns:
        For each modality of ``dims``, ``(R, l* + l_m)``.
    """
    names = list(dims)
    all_present = all(name in rows.values and rows.masks[name] is None for name in names)
    kept = {m: inv if rows.masks[m] is None else torch.where(rows.mask(m), inv, 0.0) for m, inv in invariant.items()}
    fill = None
    if not all_present:
        count = torch.stack([rows.mask(m) for m in kept]).sum(0).clamp(min=1)
        fill = torch.stack(list(kept.values())).sum(0) / count
    recombined = {}
    for index, m in enumerate(names):
        k = names[(index + 1) % len(names)]
        if fill is None:
            shared = kept[k]
        else:
            shared = torch.where(rows.mask(k), kept[k], fill) if k in kept else fill
        if m not in specific:
            own = rows.like.new_zeros(rows.count, dims[m])
        else:
            mask = rows.masks[m]
            own = specific[m] if mask is None else torch.where(mask, specific[m], 0.0)
        recombined[m] = torch.cat([shared, own], dim=-1)
    return recombined


def hand_over(parts: dict[str, Tensor], rows: FlatInputs, backend: Fusion | None) -> FusionOutput:
    """Concatenate the recombined features, or fuse those of the modalities present with the backend."""
    if backend is None:
        return FusionOutput(torch.cat(list(parts.values()), dim=-1), parts)
    values = {m: _masked(parts[m], rows.masks[m]) for m in rows.values}
    return backend.fuse(FlatInputs(values, rows.masks, rows.count, rows.index))


def _masked(value: Tensor, mask: Tensor | None) -> Tensor:
    return value if mask is None else torch.where(mask, value, 0.0)


def recombined_dims(dims: Mapping[str, int]) -> dict[str, int]:
    """The widths ``l* + l_m`` of the features that :class:`GMF` passes to its backend.

    >>> ef.fusion.recombined_dims({"text": 300, "image": 512})
    {'text': 600, 'image': 812}
    """
    shared = min(dims.values())
    return {m: shared + width for m, width in dims.items()}
