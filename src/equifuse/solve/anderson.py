"""Anderson acceleration (Anderson 1965; Walker & Ni 2011, type II), per sample and batched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from equifuse.errors import InputError
from equifuse.registry import SOLVERS
from equifuse.solve.broyden import Broyden
from equifuse.solve.history import Slots, write
from equifuse.solve.loop import Solver, StepRule
from equifuse.solve.recycling import select
from equifuse.solve.sync import known_empty

# Differences that the Gram matrix has room for at first; it doubles when there are more.
_ROOM = 8
# The quality of the history is measured from this many differences on; samples that converge sooner do not need it.
_WATCHED_FROM = 6
# The history counts as misleading when `excess` is larger than its smallest value by this factor.
_MISLEADING = 1.3
# Weight of the latest step in the running mean `excess`.
_LATEST = 0.25


class _Watch(NamedTuple):
    """How much larger residuals are than a linear map would have left them, per sample ``(B,)``.

    Attributes:
        left: ``‖r − ΔR γ‖`` at the latest step; NaN where the next residual is unrelated to it.
        excess: running mean of ``‖r‖`` divided by the ``left`` of the step before.
        least: the smallest ``excess`` so far.
    """

    left: Tensor
    excess: Tensor
    least: Tensor

    @classmethod
    def begin(cls, r: Tensor) -> _Watch:
        """The state before the first step with residuals ``(B, N)``."""
        unknown = r.new_full((len(r),), torch.nan)
        return cls(unknown, unknown, unknown)

    def next(self, r: Tensor, explained: Tensor, restart: Tensor) -> _Watch:
        """The state after a step from the residuals ``r`` ``(B, N)``.

        ``explained`` ``(B,)`` is the part of ``‖r‖²`` that ``γ`` cancels.
        """
        norm = torch.linalg.vector_norm(r, dim=1)
        now = torch.where(restart, torch.nan, norm / self.left)
        mean = torch.where(self.excess.isnan(), now, self.excess.lerp(now, _LATEST))
        excess = torch.where(now.isnan(), self.excess, mean)
        # The difference of two squares has at least this rounding error.
        square = torch.maximum(norm.square() - explained, torch.finfo(r.dtype).eps * norm.square())
        return _Watch(square.sqrt(), excess, torch.fmin(self.least, excess))

    @property
    def stalled_history(self) -> Tensor:
        """Bool ``(B,)``: samples whose history describes the map clearly worse than it once did."""
        return self.excess > _MISLEADING * self.least


class _AndersonRule(StepRule):
    """Differences of the last ``m`` images and residuals, and the Gram matrix of the residual differences.

    With ``r = f(z) − z``, ``ΔR = (r_{k-m+1} − r_{k-m}, …)`` and ``ΔF`` likewise of ``f(z)``, the coefficients solve
    ``min_γ ‖r_k − ΔR γ‖²`` and the next iterate is ``f(z) − ΔF γ − (1 − β) (r − ΔR γ)``. The columns of ``ΔR`` are
    scaled to unit length before the ridge term is added. The ridge is then relative to each column and stays small
    however far the residual falls; an absolute ridge would dominate in the end.

    Where the map is linear, the next residual is ``J (r − ΔR γ)``, so ``‖r_{k+1}‖ / ‖r_k − ΔR γ‖`` stays about the
    same. Where this ratio grows, old differences no longer describe the map, and fitting them leads away from it.
    """

    def __init__(self, z: Tensor, memory: int, ridge: float) -> None:
        self.ridge = max(ridge, 10 * torch.finfo(z.dtype).eps)
        self.df, self.dr = Slots(z, memory), Slots(z, memory)
        room = min(memory, _ROOM)
        # The Gram matrix of unit columns plus the ridge: small systems are solved in float64, because they are tiny and
        # nearly parallel columns are the normal case. A column that is not valid has length⁻¹ 0 and 1 on the diagonal.
        self.system = z.new_zeros(len(z), room, room, dtype=torch.float64)
        self.per_length = z.new_zeros(len(z), room)
        self.last_f: Tensor | None = None
        self.last_r: Tensor | None = None
        self.count = 0
        self._watch: _Watch | None = None

    def step(self, z: Tensor, fz: Tensor, r: Tensor, damping: Tensor | None, restart: Tensor) -> Tensor:
        if self.last_f is None or self.last_r is None:
            self.last_f, self.last_r = fz, r
            return fz if damping is None else z + damping * r
        if not known_empty(restart):
            self._forget(restart)
        slot = self.count % self.dr.size
        self.count += 1
        self.df.store_difference(slot, fz, self.last_f)
        self.dr.store_difference(slot, r, self.last_r)
        self.last_f, self.last_r = fz, r
        row, rhs = self.dr.dots(self.dr[slot], r)
        self._enter(slot, row, restart)
        gamma = self._coefficients(rhs)
        if self.count >= _WATCHED_FROM:
            with torch.no_grad():
                self._watch = (self._watch or _Watch.begin(r)).next(r, (gamma * rhs).sum(1), restart)
        mixed = self.df.add_to(fz, gamma, -1.0)
        if damping is None:
            return mixed
        return mixed - (1 - damping) * self.dr.add_to(r, gamma, -1.0)

    def _enter(self, slot: int, row: Tensor, restart: Tensor) -> None:
        """Add the products ``row`` ``(B, used)`` of the column in ``slot``, which is not valid for ``restart``."""
        used = row.shape[1]
        if used > self.system.shape[1]:
            room = self.system.shape[1]
            self.system = F.pad(self.system, (0, room, 0, room))
            self.per_length = F.pad(self.per_length, (0, room))
        square = row[:, slot]
        useful = (square > 0) & (square < torch.inf) & ~restart
        per_length = torch.where(useful, torch.where(useful, square, 1.0).rsqrt(), 0.0)
        self.per_length = write(self.per_length, (slice(None), slot), per_length)
        scale = self.per_length[:, :used]
        # The products of a column that is not valid may not be finite.
        both = useful[:, None] & (scale > 0)
        cosines = torch.where(both, row * scale * per_length[:, None], 0.0).double()
        self.system = write(self.system, (slice(None), slot, slice(used)), cosines)
        self.system = write(self.system, (slice(None), slice(used), slot), cosines)
        self.system = write(self.system, (slice(None), slot, slot), torch.where(useful, 1.0 + self.ridge, 1.0).double())

    def _forget(self, samples: Tensor) -> None:
        """Drop the history of ``samples``, bool ``(B,)``."""
        identity = torch.eye(self.system.shape[1], dtype=self.system.dtype, device=self.system.device)
        self.system = torch.where(samples[:, None, None], identity, self.system)
        self.per_length = torch.where(samples[:, None], 0.0, self.per_length)

    def _coefficients(self, rhs: Tensor) -> Tensor:
        """``γ`` ``(B, used)`` of the column-scaled ridge least squares; exactly 0 for columns that are not valid."""
        used = rhs.shape[1]
        scale = self.per_length[:, :used]
        target = torch.where(scale > 0, rhs * scale, 0.0).double()
        solution, _ = torch.linalg.solve_ex(self.system[:, :used, :used], target)
        gamma: Tensor = solution.to(scale.dtype) * scale
        return gamma

    def select(self, rows: Tensor) -> None:
        self.df.select(rows)
        self.dr.select(rows)
        self.system, self.per_length = self.system[rows], self.per_length[rows]
        if self.last_f is not None and self.last_r is not None:
            self.last_f, self.last_r = select(self.last_f, rows), select(self.last_r, rows)
        if self._watch is not None:
            self._watch = _Watch(*(tensor[rows] for tensor in self._watch))

    @property
    def stalled_history(self) -> Tensor | None:
        return None if self._watch is None else self._watch.stalled_history

    @property
    def latest(self) -> tuple[Tensor, Tensor] | None:
        if self.last_f is None or self.last_r is None:
            return None
        return self.last_f - self.last_r, self.last_r

    def secant_pairs(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for age in range(self.dr.used, 0, -1):
            slot = (self.count - age) % self.dr.size
            yield self.df[slot] - self.dr[slot], self.dr[slot], self.per_length[:, slot] > 0


@SOLVERS.register
@dataclass(frozen=True, kw_only=True)
class Anderson(Solver):
    """Anderson acceleration: combines the last iterates so that their residuals cancel. The default solver.

    Use it unless you have a reason not to: it needs one evaluation of ``f`` per step, and converges on many maps on
    which plain iteration diverges. Each sample has its own coefficients. A sample that stalls, typically where the map
    has a kink, continues from its best iterate with :class:`~equifuse.solve.Broyden`; the other samples do not change.

    >>> f = lambda z: torch.cos(z)
    >>> z, stats = ef.fixed_point(f, torch.zeros(2, 1), solver=ef.Anderson(tol=1e-6))
    >>> z
    tensor([[0.7391],
            [0.7391]])
    >>> bool((stats.steps < 10).all())
    True

    Args:
        memory: largest number of differences stored, ≥ 1; default 50. Never more than the state has numbers. Memory
            is allocated only when it is needed, so only samples that take many steps pay for a large value. Maps with
            a spectral radius above 1 need one.
        ridge: ridge relative to the unit-length residual differences, ≥ 0; default 0. At least ten machine epsilons
            are used.

    See :class:`equifuse.solve.Solver` for ``tol``, ``max_steps``, ``damping`` and ``patience``.

    Source: Anderson 1965; Walker & Ni 2011, type II.
    """

    memory: int = 50
    ridge: float = 0.0
    name: ClassVar[str] = "anderson"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory < 1:
            raise InputError(f"memory must be at least 1, got {self.memory}")
        if self.ridge < 0:
            raise InputError(f"ridge must not be negative, got {self.ridge}")

    def start(self, z: Tensor, after: StepRule | None = None) -> StepRule:
        """A rule with an empty history for states ``(B, N)``."""
        # No more than N differences are independent.
        return _AndersonRule(z, min(self.memory, max(1, self.max_steps - 1), max(1, z.shape[1])), self.ridge)

    def fallback(self) -> Solver:
        """Broyden's method with unlimited memory."""
        return Broyden(max_steps=self.max_steps, memory=self.max_steps)
