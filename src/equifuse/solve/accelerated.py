"""Anderson acceleration by the fused kernels: one pass over each row per evaluation, nothing recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor

from equifuse import kernels
from equifuse.kernels import Kernels, Run
from equifuse.kernels.rows import CONVERGED, EXHAUSTED, RUNNING, RowLimits, Rows
from equifuse.solve.loop import WORTH_DROPPING, Solution
from equifuse.solve.maps import CapturableEvaluation, Evaluation
from equifuse.solve.solver import SecantPair
from equifuse.solve.sync import is_recorded

# Directions stored on a GPU at most: memory is allocated there whether it is used or not.
_MEMORY_ON_CUDA = 10


def accelerate(
    evaluation: Callable[[], Evaluation],
    z: Tensor,
    memory: int,
    limits: RowLimits,
    steps: Tensor | None = None,
    scale: Tensor | None = None,
) -> Solution | None:
    """Solve all rows from ``z`` ``(R, N)``, which is not changed.

    Args:
        evaluation: makes the map's evaluation; called only if there are kernels for the state.
        z: the start.
        memory: directions stored per row.
        limits: when a row stops.
        steps: int64 ``(R,)`` evaluations that each row has had before; None for none.
        scale: ``(R,)`` what residuals are relative to; None for the norm of the image.

    Returns:
        The solution; None where no kernels serve the state: another device or dtype, while a graph is recorded or
        compiled, or inside a transform of ``torch.func``.
    """
    fused = kernels.fused(z)
    if fused is None or z.numel() == 0:
        return None
    f = evaluation()
    if z.is_cuda:
        return _on_cuda(f, z, memory, limits, steps, scale)
    z = z.clone(memory_format=torch.contiguous_format)
    rows = Rows.begin(z, memory, scale)
    if scale is not None:  # what is relative to nothing is solved by its start
        rows.status.masked_fill_(scale == 0, CONVERGED)
        rows.residual.masked_fill_(scale == 0, 0)
    if steps is not None and bool(steps.any()):
        rows.status.masked_fill_(steps >= limits.max_steps, EXHAUSTED)
        rows.steps.copy_(steps)
        rows.q.zero_()
        rows.g.zero_()
    which = torch.arange(len(z), device=z.device)
    trace = z.new_empty(limits.max_steps, len(z))
    step, update = _prepare(fused, f, z, which, rows, limits, trace)
    for k in range(limits.max_steps):
        step()
        going = int(update(k))
        if going == 0:
            break
        if z.numel() >= f.worth_selecting and going <= WORTH_DROPPING * len(which):
            here = (rows.status[which] == RUNNING).nonzero().squeeze(1)
            some = f.select(here)
            if some is not None:
                f, which, z = some, which[here], z[here]
                trace[k + 1 :] = trace[k]
                step, update = _prepare(fused, f, z, which, rows, limits, trace)

    def pairs(chosen: Tensor) -> Iterator[SecantPair]:
        made = rows.steps[chosen].long() - 1
        for age in range(memory, 0, -1):
            known = made >= age
            slot = torch.where(known, (made - age) % memory, 0)
            q, g = (torch.where(known[:, None], ring[chosen, slot], 0.0) for ring in (rows.q, rows.g))
            yield g - q, q, (q != 0).any(1)

    return Solution(rows.best, rows.residual, rows.steps.long(), rows.status, trace[: k + 1].clone(), pairs)


def _prepare(
    fused: Kernels, f: Evaluation, z: Tensor, which: Tensor, rows: Rows, limits: RowLimits, trace: Tensor
) -> tuple[Run, Callable[[int], int | Tensor]]:
    """The two halves of a step: the evaluation of ``z``, and the update of ``z`` and of the rows."""
    fz = torch.empty_like(z)
    ahead = torch.empty_like(z) if f.looks_ahead else fz
    idle = rows.status if len(which) == len(rows.status) else None
    return f.prepare(z, fz, ahead, idle), fused.anderson(z, fz, ahead, which, rows, limits, trace)


def _on_cuda(
    f: Evaluation, z: Tensor, memory: int, limits: RowLimits, steps: Tensor | None, scale: Tensor | None
) -> Solution:
    """By replays of recorded steps where the map can be recorded."""
    from equifuse.kernels import capture  # noqa: PLC0415 - needs Triton

    start, memory = capture.Start(z, scale, steps), min(memory, _MEMORY_ON_CUDA)
    if is_recorded(z):
        found = capture.within(f, start, memory, limits)
    elif hasattr(f, "key") and kernels.recording():
        found = capture.solve(cast(CapturableEvaluation, f), start, memory, limits)
    else:
        found = capture.launch(f, start, memory, limits)

    def pairs(chosen: Tensor) -> Iterator[SecantPair]:
        if found.history is None:
            return
        failed, q, g = found.history
        place = torch.searchsorted(failed, chosen)
        for slot in range(q.shape[1]):
            yield g[place, slot] - q[place, slot], q[place, slot], (q[place, slot] != 0).any(1)

    return Solution(found.best, found.residual, found.steps.long(), found.status, found.trace, pairs, found.failed)
