"""One call of deep-equilibrium fusion: its constants, its result, and the statistics of its parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from equifuse.fusion.deq.fusion_map import FusionMap, FusionWeights
from equifuse.fusion.deq.modality_map import BlockWeights, ModalityMap
from equifuse.solve import SolverStats

if TYPE_CHECKING:
    from equifuse.fusion.deq.module import DEQFusion


@dataclass
class Problem:
    """The constants of one call: everything besides the state that the maps depend on.

    Attributes:
        names: the ``M'`` modalities given, in order.
        x: ``(M', R, d)`` projected inputs, zero where absent.
        mask: bool ``(M', R, 1)``, or None where everything is present.
        count: ``(R, 1)`` number of modalities present.
        x_fuse: ``(R, d)``.
        blocks: the stacked parameters of the given modalities, in the working dtype; None without blocks.
        fusion: the parameters of the fusion map; None for a weighted sum.
        gate_bias: ``(d,)``, or None without a gate.
    """

    names: list[str]
    x: Tensor
    mask: Tensor | None
    count: Tensor
    x_fuse: Tensor
    blocks: BlockWeights | None
    fusion: FusionWeights | None
    gate_bias: Tensor | None


@dataclass
class Solved:
    """A finished solve, as monitors receive it; see :func:`observed`.

    Attributes:
        names: the ``M'`` modalities given.
        inputs: ``(M', R, d)`` the injected inputs.
        mask: bool ``(M', R, 1)``, or None where everything is present.
        modality_map: the map of the modality states, None without blocks.
        states: ``(M', R, d)`` its fixed point.
        fusion_map: the map of the fusion state.
        fused: ``(R, d)`` its fixed point.
        stats: statistics by modality, and of ``"fusion"``.
    """

    names: list[str]
    inputs: Tensor
    mask: Tensor | None
    modality_map: ModalityMap | None
    states: Tensor
    fusion_map: FusionMap
    fused: Tensor
    stats: dict[str, SolverStats]


@contextmanager
def observed(fusion: DEQFusion) -> Iterator[list[Solved]]:
    """A context that yields a list, to which every solve of ``fusion`` inside it is appended; for monitors."""
    seen: list[Solved] = []
    fusion.observers.append(seen)
    try:
        yield seen
    finally:
        fusion.observers = [other for other in fusion.observers if other is not seen]


def split_stats(stats: SolverStats, p: Problem) -> dict[str, SolverStats]:
    """The statistics of the stacked modality solve by modality; an absent modality counts as converged in no steps."""
    rows = p.x.shape[1]
    parts = {}
    for i, name in enumerate(p.names):
        own = slice(i * rows, (i + 1) * rows)
        part = SolverStats(
            stats.converged[own].clone(), stats.residual[own].clone(), stats.steps[own].clone(),
            stats.trace[:, own].clone(),
            backward=stats.backward, own=own,
        )  # fmt: skip
        if p.mask is not None:
            here = p.mask[i, :, 0]
            part.converged |= ~here
            for numbers in (part.residual, part.steps, part.trace):
                numbers.masked_fill_(~here, 0)
        parts[name] = part
    return parts


def merge_stats(modalities: list[SolverStats], fusion: SolverStats, parts: dict[str, SolverStats]) -> SolverStats:
    """The statistics of the whole solve: all parts converged; steps of the slowest modality plus the fusion state."""
    if not modalities:
        return SolverStats(fusion.converged, fusion.residual, fusion.steps, fusion.trace, parts)
    first = torch.stack([part.steps for part in modalities]).amax(0)
    trace = torch.stack([part.trace for part in modalities]).amax(0)
    return SolverStats(
        converged=torch.stack([part.converged for part in (*modalities, fusion)]).all(0),
        residual=torch.stack([part.residual for part in (*modalities, fusion)]).amax(0),
        steps=first + fusion.steps,
        trace=torch.cat([trace, fusion.trace]),
        parts=parts,
    )
