"""Anderson acceleration (Anderson 1965; Walker & Ni 2011, type II), per sample and batched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from equifuse.errors import InputError
from equifuse.solve.broyden import Broyden
from equifuse.solve.history import Slots, write
from equifuse.solve.loop import Solver, StepRule
from equifuse.solve.recycling import pick

# Differences that the Gram matrix has room for at first; it doubles when there are more.
_ROOM = 8
# From so many differences on it is watched what they are worth: who converges sooner needs no watching.
_WATCHED_FROM = 6
# They mislead where residuals exceed what a linear map would have left by so much more than they once did.
_MISLED = 1.3
# Weight of the latest step in that.
_LATEST = 0.25


class _Watch(NamedTuple):
    """How far residuals exceed what a linear map would have left, per sample ``(B,)``.

    Attributes:
        left: ``‖r − ΔR γ‖`` at the latest step; NaN where the next residual has nothing to do with it.
        excess: ``‖r‖`` over what was left before, a running mean.
        least: the smallest ``excess`` so far.
    """

    left: Tensor
    excess: Tensor
    least: Tensor

    @classmethod
    def begin(cls, r: Tensor) -> _Watch:
        """Nothing is known of residuals ``(B, N)``."""
        unknown = r.new_full((len(r),), torch.nan)
        return cls(unknown, unknown, unknown)

    def next(self, r: Tensor, explained: Tensor, restart: Tensor) -> _Watch:
        """After a step from the residuals ``r`` ``(B, N)``, ``explained`` ``(B,)`` of whose squares ``γ`` cancels."""
        norm = torch.linalg.vector_norm(r, dim=1)
        now = torch.where(restart, torch.nan, norm / self.left)
        mean = torch.where(self.excess.isnan(), now, self.excess.lerp(now, _LATEST))
        excess = torch.where(now.isnan(), self.excess, mean)
        # The difference of two squares is not known better than this.
        square = torch.maximum(norm.square() - explained, torch.finfo(r.dtype).eps * norm.square())
        return _Watch(square.sqrt(), excess, torch.fmin(self.least, excess))

    @property
    def misled(self) -> Tensor:
        """Bool ``(B,)``."""
        return self.excess > _MISLED * self.least


class _AndersonRule(StepRule):
    """Differences of the last ``m`` images and residuals, and the Gram matrix of the latter.

    With ``r = f(z) − z``, ``ΔR = (r_{k-m+1} − r_{k-m}, …)`` and ``ΔF`` likewise of ``f(z)``, the coefficients solve
    ``min_γ ‖r_k − ΔR γ‖²`` and the next iterate is ``f(z) − ΔF γ − (1 − β) (r − ΔR γ)``. The columns of ``ΔR`` are
    scaled to unit length before the ridge term is added, so the ridge is relative to each column: the residual may
    fall by ten orders of magnitude and the term never dominates (an absolute one does).

    Where the map is linear, the next residual is ``J (r − ΔR γ)``, so that ``‖r_{k+1}‖ / ‖r_k − ΔR γ‖`` stays about
    what it is. Where it grows, old differences say nothing about the map here, and fitting them misleads.
    """

    def __init__(self, z: Tensor, memory: int, ridge: float) -> None:
        batch = z.shape[0]
        self.ridge = max(ridge, 10 * torch.finfo(z.dtype).eps)
        self.df, self.dr = Slots(z, memory), Slots(z, memory)
        room = min(memory, _ROOM)
        self.gram = z.new_zeros(batch, room, room)
        self.valid = torch.zeros(batch, memory, dtype=torch.bool, device=z.device)
        self.last_f: Tensor | None = None
        self.last_r: Tensor | None = None
        self.count = 0
        self._watch: _Watch | None = None

    def step(self, z: Tensor, fz: Tensor, r: Tensor, damping: Tensor, restart: Tensor) -> Tensor:
        damped = damping.device.type != "cpu" or bool((damping != 1).any())
        if self.last_f is None or self.last_r is None:
            self.last_f, self.last_r = fz, r
            return z + damping * r if damped else fz
        slot = self.count % self.dr.size
        self.count += 1
        self.df.put_difference(slot, fz, self.last_f)
        self.dr.put_difference(slot, r, self.last_r)
        self.last_f, self.last_r = fz, r
        used = self.dr.used
        row, rhs = self.dr.dots(self.dr[slot], r)
        if used > self.gram.shape[1]:
            self.gram = F.pad(self.gram, (0, self.gram.shape[1]) * 2)
        self.gram = write(self.gram, (slice(None), slot, slice(used)), row)
        self.gram = write(self.gram, (slice(None), slice(used), slot), row)
        with torch.no_grad():
            valid = self.valid & ~restart[:, None]  # a new tensor: the last one may be on a tape
            valid[:, slot] = ~restart & (row[:, slot] > 0) & torch.isfinite(row[:, slot])
            self.valid = valid
        gamma = self._coefficients(rhs, used)
        if self.count >= _WATCHED_FROM:
            with torch.no_grad():
                self._watch = (self._watch or _Watch.begin(r)).next(r, (gamma * rhs).sum(1), restart)
        mixed = self.df.add_to(fz, gamma, -1.0)
        if not damped:
            return mixed
        return mixed - (1 - damping) * self.dr.add_to(r, gamma, -1.0)

    def keep(self, rows: Tensor) -> None:
        self.df.keep(rows)
        self.dr.keep(rows)
        self.gram, self.valid = self.gram[rows], self.valid[rows]
        if self.last_f is not None and self.last_r is not None:
            self.last_f, self.last_r = pick(self.last_f, rows), pick(self.last_r, rows)
        if self._watch is not None:
            self._watch = _Watch(*(tensor[rows] for tensor in self._watch))

    @property
    def misled(self) -> Tensor | None:
        return None if self._watch is None else self._watch.misled

    @property
    def latest(self) -> tuple[Tensor, Tensor] | None:
        if self.last_f is None or self.last_r is None:
            return None
        return self.last_f - self.last_r, self.last_r

    def secants(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for age in range(self.dr.used, 0, -1):
            slot = (self.count - age) % self.dr.size
            yield self.df[slot] - self.dr[slot], self.dr[slot], self.valid[:, slot]

    def _coefficients(self, rhs: Tensor, used: int) -> Tensor:
        """``γ`` ``(B, used)`` of the column-scaled ridge least squares; exactly 0 on columns that are not valid."""
        valid = self.valid[:, :used]
        gram = self.gram[:, :used, :used]
        diagonal = torch.where(valid, gram.diagonal(dim1=1, dim2=2), 1.0)
        scale = diagonal.rsqrt()
        scale = torch.where(valid, scale, 0.0)
        both = valid[:, :, None] & valid[:, None, :]
        scaled = torch.where(both, gram, 0.0) * scale[:, :, None] * scale[:, None, :]
        # The small systems are solved in float64: they are tiny, and nearly parallel columns are the normal case.
        system = scaled.double() + torch.diag_embed(torch.where(valid, self.ridge, 1.0).double())
        target = (torch.where(valid, rhs, 0.0) * scale).double()
        solution, _ = torch.linalg.solve_ex(system, target)
        return torch.where(valid, solution.to(scale.dtype) * scale, 0.0)


@dataclass(frozen=True, kw_only=True)
class Anderson(Solver):
    """Anderson acceleration: the next iterate combines the last ``memory`` ones so that their residuals cancel.

    The default. Each sample has its own coefficients; a sample that stalls, typically where the map has a kink, goes on
    by :class:`~equifuse.solve.Broyden` from its best iterate, alone.

    Args:
        memory: differences remembered, ≥ 1. Room is made as it is needed, so only samples that take many steps pay for
            a long memory, and maps with a spectral radius above 1 need one.
        ridge: relative ridge on the unit-length residual differences, ≥ 0; at least ten machine epsilons is used.

    See :class:`equifuse.solve.Solver` for ``tol``, ``max_steps``, ``damping`` and ``patience``.
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
        """Empty history for states ``(B, N)``."""
        return _AndersonRule(z, min(self.memory, max(1, self.max_steps - 1)), self.ridge)

    def second(self) -> Solver:
        """Broyden's method, remembering everything."""
        return Broyden(max_steps=self.max_steps, memory=self.max_steps)
