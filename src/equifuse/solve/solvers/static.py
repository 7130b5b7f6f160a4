"""Anderson acceleration whose operations do not depend on values, so that it can be compiled and exported."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor

from equifuse.errors import InputError
from equifuse.registry import SOLVERS
from equifuse.solve.maps import FixedPointMap, RowSelector
from equifuse.solve.solver import SecantPair, Solver, StepRule
from equifuse.solve.stats import SolverStats
from equifuse.solve.tensors import flatten_batch, relative_residual, work_dtype
from equifuse.solve.transforms import values

# A difference of which less than this share is new, in units of machine epsilon, is only rounding.
_LEAST_NEWS = 32
# A sample whose residual exceeds its best by this factor starts again from its best iterate.
_BLOW_UP = 1e3


class _History(NamedTuple):
    """The stored history of each sample.

    Attributes:
        q: ``(B, k, N)`` orthonormal residual differences, the newest first.
        g: ``(B, k, N)`` the same combinations of the images' differences.
        valid: ``(B, k)`` 1 for a direction that counts, else 0.
        last_f: ``(B, N)`` the last image.
        last_r: ``(B, N)`` the last residual.
        fresh: bool ``(B, 1)``, whether there is no last image and residual yet.
    """

    q: Tensor
    g: Tensor
    valid: Tensor
    last_f: Tensor
    last_r: Tensor
    fresh: Tensor


def _empty(z: Tensor, slots: int) -> _History:
    count, width = z.shape
    q, g = (z.new_zeros(count, slots, width) for _ in range(2))
    last_f, last_r = (z.new_zeros(count, width) for _ in range(2))
    return _History(q, g, z.new_zeros(count, slots), last_f, last_r, z.new_ones(count, 1, dtype=torch.bool))


def _advance(h: _History, fz: Tensor, r: Tensor, damping: float, memory: int) -> tuple[Tensor, _History]:
    """The next iterate ``(B, N)`` and the history after it.

    The newest difference is made orthogonal to the older ones, and the images' differences are combined in the same
    way; the share of ``r`` that they explain is then a sum of projections. It takes two passes over ``q`` and one over
    ``g``.
    """
    if memory == 0:
        return fz if damping == 1 else fz - (1 - damping) * r, h
    dr, df = r - h.last_r, fz - h.last_f
    length = left = torch.linalg.vector_norm(dr, dim=1, keepdim=True)
    image, rest = fz, r
    if h.q.shape[1]:
        along = (h.q @ torch.stack([dr, r], dim=2)).mT * h.valid.unsqueeze(1)  # (B, 2, k)
        of_difference, of_residual = (along @ h.g).unbind(1)
        df, image = df - of_difference, fz - of_residual
        of_difference, of_residual = (along @ h.q).unbind(1)
        dr, rest = dr - of_difference, r - of_residual
        left = torch.linalg.vector_norm(dr, dim=1, keepdim=True)
    # Differences that are only rounding, or between unrelated points, are not used.
    useful = (left > _LEAST_NEWS * torch.finfo(r.dtype).eps * length) & (left < torch.inf) & ~h.fresh
    q, g = torch.where(useful, dr / left, 0.0), torch.where(useful, df / left, 0.0)
    newest = (q * rest).sum(1, keepdim=True)
    proposal = image - newest * g
    if damping != 1:
        proposal = proposal - (1 - damping) * (rest - newest * q)

    def joined(first: Tensor, others: Tensor) -> Tensor:
        return torch.cat([first.unsqueeze(1), others.narrow(1, 0, min(others.shape[1], memory - 1))], dim=1)

    valid = joined(useful.squeeze(1).to(r.dtype), h.valid)
    return proposal, _History(joined(q, h.q), joined(g, h.g), valid, fz, r, torch.zeros_like(h.fresh))


def _forget(h: _History, samples: Tensor) -> _History:
    """The history without that of ``samples``, bool ``(B, 1)``."""
    return h._replace(valid=h.valid.masked_fill(samples, 0.0), fresh=h.fresh | samples)


class _Rule(StepRule):
    """The same step for the loop that the other solvers use."""

    def __init__(self, z: Tensor, memory: int, damping: float) -> None:
        self.memory, self.damping = memory, damping
        self.history = _empty(z, 0)

    def step(self, z: Tensor, fz: Tensor, r: Tensor) -> Tensor:
        proposal, self.history = _advance(self.history, fz, r, self.damping, self.memory)
        return proposal

    def select(self, rows: Tensor) -> None:
        self.history = _History(*(tensor[rows] for tensor in self.history))


class _State(NamedTuple):
    """Everything that a solve passes from one evaluation to the next: only tensors, of fixed shapes."""

    z: Tensor
    best: Tensor
    residual: Tensor
    steps: Tensor
    evaluations: Tensor
    q: Tensor
    g: Tensor
    valid: Tensor
    last_f: Tensor
    last_r: Tensor
    fresh: Tensor


@SOLVERS.register
@dataclass(frozen=True, kw_only=True)
class StaticAnderson(Solver):
    """Anderson acceleration for compiled and exported models: the sequence of operations never depends on values.

    ``torch.compile(fullgraph=True)``, ``torch.export`` and ONNX accept it, because every sample is evaluated equally
    often and no linear system is solved. :func:`equifuse.export.export_model` selects it for you. As long as nothing is
    dropped from the memory the iterates are those of :class:`Anderson`.

    >>> z, stats = ef.fixed_point(torch.cos, torch.zeros(1, 2), solver=ef.StaticAnderson(max_steps=8))
    >>> z
    tensor([[0.7391, 0.7391]])
    >>> stats.trace.shape  # always eight evaluations
    torch.Size([8, 1])

    Args:
        memory: directions stored, ≥ 0; default 10. Each costs two tensors of the state's size and three passes over
            one of them per evaluation. 0 is plain iteration: the smallest graph, for maps that contract well.
        loop: False (default) writes ``max_steps`` evaluations one after the other and makes all of them. True makes a
            loop (``torch.while_loop``, a prototype in PyTorch) that ends when every sample has converged; a converged
            sample is frozen, so its result does not depend on the other samples of its batch.

    ``max_steps`` is 20 here, and ``patience`` has no effect. See :class:`equifuse.solve.Solver` for ``tol``,
    ``max_steps`` and ``damping``. A sample whose residual is not finite or a thousand times its smallest one starts
    again from its best iterate.

    Source: Gram-Schmidt form of Anderson acceleration (Tang et al. 2024, arXiv 2403.14961).
    """

    max_steps: int = 20
    memory: int = 10
    loop: bool = False
    name: ClassVar[str] = "static"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory < 0:
            raise InputError(f"memory must not be negative, got {self.memory}")

    def start(self, z: Tensor, known: Iterable[SecantPair] = ()) -> StepRule:
        """A rule with an empty history for states ``(B, N)``."""
        return _Rule(z, self.memory, self.damping)

    def solve(self, f: FixedPointMap, z0: Tensor, select_rows: RowSelector | None = None) -> tuple[Tensor, SolverStats]:
        """The best of ``max_steps`` iterates per sample; see :meth:`Solver.solve`. ``select_rows`` is not used."""
        # Copies: their layout is known whatever the batch size is, and what a loop carries must not share memory.
        z, best = (
            flatten_batch(z0).to(work_dtype(z0.dtype)).clone(memory_format=torch.contiguous_format) for _ in range(2)
        )
        unknown = z.new_full((z.shape[0],), torch.finfo(z.dtype).max / (10 * _BLOW_UP))
        none = z.new_zeros(z.shape[0], dtype=torch.int64)
        slots = min(self.memory, max(1, self.max_steps - 1))
        history = _empty(z, slots if self.loop else 0)
        state = _State(z, best, unknown, none, none.new_zeros(()), *history)

        def evaluate(*tensors: Tensor) -> tuple[Tensor, ...]:
            return tuple(self._evaluate(f, _State(*tensors), z0, slots))

        trace = []
        if self.loop:
            state = _State(*_while(self._goes_on, evaluate, tuple(state)))
        else:
            for _ in range(self.max_steps):
                state = _State(*evaluate(*state))
                trace.append(state.residual)
        stats = SolverStats(
            converged=state.residual <= self.tol,
            residual=state.residual,
            steps=state.steps,
            trace=torch.stack(trace or [state.residual]),
        )
        return state.best.view(z0.shape), stats

    def _goes_on(self, *tensors: Tensor) -> Tensor:
        s = _State(*tensors)
        return (s.evaluations < self.max_steps) & (s.residual > self.tol).any()

    def _evaluate(self, f: FixedPointMap, s: _State, like: Tensor, slots: int) -> _State:
        """One evaluation, and the step that follows from it."""
        fz = flatten_batch(f(s.z.view(like.shape).to(like.dtype))).to(s.z.dtype)
        r = fz - s.z
        relative = relative_residual(r, fz)
        better = relative < s.residual
        running = s.residual > self.tol
        if self.loop:
            better = better & running
        residual = torch.where(better, relative, s.residual)
        lost = (relative > _BLOW_UP * residual).unsqueeze(1)
        better = better.unsqueeze(1)
        best = torch.where(better, s.z, s.best)
        proposal, history = _advance(_History(*s[5:]), fz, r, self.damping, slots)
        # After a bad step start again from the best iterate. A proposal that is not finite shows when it is evaluated.
        z, history = torch.where(lost, best, proposal), _forget(history, lost)
        return _State(z, best, residual, s.steps + running, s.evaluations + 1, *history)


def _while(
    goes_on: Callable[..., Tensor], body: Callable[..., tuple[Tensor, ...]], state: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """``while goes_on(*state): state = body(*state)``, as one operator where a graph is recorded."""
    if torch.compiler.is_compiling():
        loop = cast(Callable[..., tuple[Tensor, ...]], torch.while_loop)
        return loop(goes_on, body, state)
    while bool(values(goes_on(*state)).any()):
        state = body(*state)
    return state
