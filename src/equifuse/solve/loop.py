"""The one fixed-point loop: per-sample status, best iterate, safeguards, trace. Step rules live in their own files."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from equifuse.errors import InputError
from equifuse.solve.explicit import ExplicitMap
from equifuse.solve.inexact import Evaluated, ReferencePoint, Schedule
from equifuse.solve.recycling import scatter, select, spare
from equifuse.solve.sync import can_sync, is_sync_step, known_empty, known_full

FixedPointMap = Callable[[Tensor], Tensor]
RowSelector = Callable[[Tensor], FixedPointMap]


def row_selector(f: FixedPointMap) -> RowSelector | None:
    """The map's method that gives the map of some samples alone, or None if it has none.

    Warns:
        DeprecationWarning: the method is named ``take``, as in version 0.1.
    """
    if hasattr(f, "select"):
        return cast(RowSelector, f.select)
    if hasattr(f, "take"):
        warnings.warn("name a map's method take(rows) select(rows)", DeprecationWarning, stacklevel=3)
        return cast(RowSelector, f.take)
    return None


# A sample whose residual exceeds its best by this factor has left the basin: go back to the best iterate.
_BLOW_UP = 1e3
# However often a sample stalls, its plain steps never shrink below this share of f(z) - z ...
_LEAST_DAMPING = 1.0 / 16
# ... and a recovery never lasts longer than this many times the solver's patience.
_LONGEST_RECOVERY = 16
# Where what is remembered of a sample misleads, this share of the patience is enough.
_SHORT_PATIENCE = 1.0 / 3
# Converged samples leave the batch once no more than this share is left: copying the rest is not free.
_WORTH_DROPPING = 0.7


@dataclass
class SolverStats:
    """What a fixed-point solve achieved, per sample.

    Attributes:
        converged: bool ``(B,)``, whether the relative residual reached the tolerance.
        residual: ``(B,)``, ``‖f(z) − z‖ / ‖f(z)‖`` of the returned iterate.
        steps: int64 ``(B,)``, evaluations of ``f`` made for the sample until it stopped.
        trace: ``(K, B)``, the relative residual at each evaluation; a stopped sample repeats its last value.
        parts: statistics of the parts of a composite solve (a modality, the fusion state), else empty.
        backward: filled in by the backward pass with the statistics of its solve; see ``adjoint``.
        own: which rows of that solve are these samples'; None for all.
    """

    converged: Tensor
    residual: Tensor
    steps: Tensor
    trace: Tensor
    parts: dict[str, SolverStats] = field(default_factory=dict)
    backward: list[SolverStats] = field(default_factory=list)
    own: slice | None = None

    @property
    def adjoint(self) -> SolverStats | None:
        """Statistics of the latest backward solve, None before there was one."""
        if not self.backward:
            return None
        latest = self.backward[-1]
        return latest if self.own is None else latest.select(self.own)

    def select(self, rows: slice) -> SolverStats:
        """The statistics of some samples."""
        return SolverStats(self.converged[rows], self.residual[rows], self.steps[rows], self.trace[:, rows])

    def summary(self) -> dict[str, float]:
        """Scalars for a log line: share converged, mean and largest steps, largest residual."""
        if self.converged.numel() == 0:
            return {"converged": 1.0, "mean_steps": 0.0, "max_steps": 0.0, "max_residual": 0.0}
        return {
            "converged": self.converged.float().mean().item(),
            "mean_steps": self.steps.float().mean().item(),
            "max_steps": float(self.steps.max().item()),
            "max_residual": self.residual.max().item(),
        }

    def reshape(self, *leading: int) -> SolverStats:
        """The same statistics with the sample axis viewed as ``leading``, parts included."""
        return SolverStats(
            self.converged.reshape(leading),
            self.residual.reshape(leading),
            self.steps.reshape(leading),
            self.trace.reshape(-1, *leading),
            {name: part.reshape(*leading) for name, part in self.parts.items()},
            self.backward,  # the same list: what the backward pass writes is seen in every view
            self.own,
        )


class StepRule(ABC):
    """The state of one solve: proposes the next iterate from the latest evaluation, sample by sample."""

    @abstractmethod
    def step(self, z: Tensor, fz: Tensor, r: Tensor, damping: Tensor | None, restart: Tensor) -> Tensor:
        """The next iterate.

        Args:
            z: ``(B, N)`` current iterate.
            fz: ``(B, N)`` its image.
            r: ``(B, N)`` its residual ``fz - z``.
            damping: ``(B, 1)`` share of the residual to move by, in (0, 1]; None for 1.
            restart: bool ``(B,)``; for these samples ``z`` is unrelated to the previous call, so what was
                remembered about them must be forgotten.

        Returns:
            ``(B, N)``.
        """

    @abstractmethod
    def select(self, rows: Tensor) -> None:
        """Forget all samples but ``rows`` (sorted indices); the next call is for these alone."""

    @property
    def stalled_history(self) -> Tensor | None:
        """Bool ``(B,)``: samples of which what is remembered says less and less about the map; None if not known."""
        return None

    @property
    def latest(self) -> tuple[Tensor, Tensor] | None:
        """``z`` and ``r``, each ``(B, N)``, of the latest call; None if that is not remembered."""
        return None

    def secant_pairs(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """What is remembered of the map, oldest first: ``Δz``, ``Δr`` ``(B, N)``, and bool ``(B,)``, of whom it is."""
        yield from ()


@dataclass(frozen=True, kw_only=True)
class Solver(ABC):
    """A fixed-point solver: tolerance, budget and step rule.

    Args:
        tol: relative tolerance per sample on ``‖f(z) − z‖ / ‖f(z)‖``, > 0.
        max_steps: most evaluations of ``f``, ≥ 1.
        damping: share of the residual a plain step moves by, in (0, 1].
        patience: evaluations without a new best residual after which a sample is sent back to its best iterate, and
            goes on by the solver's fallback method, or else forgets its history and takes plain steps for a while,
            damped from the third time on; other samples are not touched. 0 switches this off.

    Raises:
        InputError: an argument is out of range.
    """

    tol: float = 1e-4
    max_steps: int = 50
    damping: float = 1.0
    patience: int = 15
    name: ClassVar[str]
    # Whether it goes by the point ahead of an image, where a map knows one, and not by the image.
    looks_ahead: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.tol > 0:
            raise InputError(f"tol must be positive, got {self.tol}")
        if self.max_steps < 1:
            raise InputError(f"max_steps must be at least 1, got {self.max_steps}")
        if not 0 < self.damping <= 1:
            raise InputError(f"damping must be in (0, 1], got {self.damping}")
        if self.patience < 0:
            raise InputError(f"patience must not be negative, got {self.patience}")

    @abstractmethod
    def start(self, z: Tensor, after: StepRule | None = None) -> StepRule:
        """A step rule for states shaped like ``z`` ``(B, N)``.

        Args:
            z: the first state it is called with.
            after: the rule that it takes over from, on the same map; what that one remembers may be made use of, and
                one of the same kind may go on itself.
        """

    def fallback(self) -> Solver | None:
        """The method by which stalled samples go on, None for damped steps of this one."""
        return None

    def solve(
        self, f: FixedPointMap, z0: Tensor, select_rows: RowSelector | None = None
    ) -> tuple[Tensor, Tensor, SolverStats]:
        """Run it on ``z = f(z)`` from ``z0``; see :func:`iterate_with_image`."""
        return iterate_with_image(f, z0, self, select_rows)

    def config(self) -> dict[str, Any]:
        """Name and options as plain values; :func:`equifuse.solve.make_solver` reads them back."""
        return {"name": self.name, **asdict(self)}


def work_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype a solve is carried out in: float64 stays, anything narrower than float32 is widened to it."""
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Autocast off; where it is off already, nothing, which leaves a recorded graph in one piece."""
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()


def flatten_batch(x: Tensor) -> Tensor:
    """``(B, …)`` viewed as ``(B, N)``, also where ``B`` is 0."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def relative_residual(r: Tensor, fz: Tensor) -> Tensor:
    """``‖r‖ / ‖f(z)‖`` per row of ``(B, N)``; 0 where both vanish, +inf where anything is not finite.

    Where ``f(z)`` alone vanishes it is the largest number there is, not infinity: nothing is wrong with such a state.
    """
    residual = torch.linalg.vector_norm(r, dim=1)
    scale = torch.linalg.vector_norm(fz, dim=1)
    relative = torch.nan_to_num(residual / scale)  # 0 / 0 is 0
    return torch.where(residual + scale < torch.inf, relative, torch.inf)  # NaN is not below either


def relative_error(error: Tensor, fz: Tensor) -> Tensor:
    """Errors ``(B,)`` relative to ``‖f(z)‖`` per row of ``(B, N)``; 0 where both vanish."""
    return torch.nan_to_num(error / torch.linalg.vector_norm(fz, dim=1))


def scaled(damping: Tensor | None, r: Tensor) -> Tensor:
    """``damping · r`` ``(B, N)``; None is 1."""
    return r if damping is None else damping * r


def choose(mask: Tensor, *pairs: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Of each pair of ``(B, N)``, the first for the samples of ``mask`` ``(B,)``, else the second.

    Nothing is copied if all samples agree, where it costs nothing to ask.
    """
    if can_sync(mask):
        count = int(mask.count_nonzero())
        if count in (0, mask.numel()):
            return tuple(chosen if count else other for chosen, other in pairs)
    column = mask[:, None]
    return tuple(torch.where(column, chosen, other, out=spare(other)) for chosen, other in pairs)


class _Safeguard:
    """Sends stalled samples back to their best iterate, each on its own.

    An accelerated iteration can be trapped where the map has a kink, and a plain one can run in a cycle. So a stalled
    sample goes on from its best iterate by the solver's fallback method, to the end: that one's residual may rise for
    long before it falls, so it gets no patience of its own. A solver without one forgets the sample's history and takes
    plain steps for a while instead; each further stall doubles their number, and every second one halves their damping.
    """

    def __init__(self, solver: Solver, batch: int, like: Tensor) -> None:
        self.patience = solver.patience
        self.short_patience = max(1, round(_SHORT_PATIENCE * solver.patience))
        self.rescues = solver.patience > 0 and solver.fallback() is not None
        self.rescued = torch.zeros(batch, dtype=torch.bool, device=like.device)
        self.first_damping = solver.damping
        self.since_best = torch.zeros(batch, dtype=torch.int64, device=like.device)
        self.damping = None if solver.damping == 1 else like.new_full((batch, 1), solver.damping)
        # Before there is one on its own: (B,) plain steps that a sample has to take, and how often it has stalled.
        self.recovery: Tensor | None = None
        self.stalls: Tensor | None = None

    @property
    def on_their_own(self) -> Tensor:
        """Bool ``(B,)``: samples that have left the solver's first method, for now or to the end."""
        return self.rescued if self.recovery is None else self.rescued | (self.recovery > 0)

    def watch(
        self, relative: Tensor, best: Tensor, better: Tensor, stalled_history: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Note the latest evaluation.

        Args:
            relative: ``(B,)`` residuals.
            best: ``(B,)`` the smallest ones so far.
            better: bool ``(B,)``, whether these are the latest.
            stalled_history: bool ``(B,)``, samples whose patience is shorter; None for none.

        Returns:
            Bool ``(B,)``, the samples to send back to their best iterate, and ``(B,)``, those of them whose history is
            of no more use.
        """
        self.since_best = (self.since_best + 1).masked_fill_(better, 0)
        broken = relative == torch.inf
        back = broken
        if self.patience:
            back = (relative > _BLOW_UP * best) | (self.since_best >= self.patience)
            if stalled_history is not None:
                back = back | (stalled_history & (self.since_best >= self.short_patience))
            if self.recovery is not None:
                self.recovery = (self.recovery - 1).clamp_(min=0)
                back = back & (self.recovery == 0)
            back = (back & ~self.rescued) | broken
        if known_empty(back):
            return back, back
        forget = back
        if self.rescues:
            forget, self.rescued = back & self.rescued, self.rescued | back
        elif self.patience:
            self._damp(back)
        return back, forget

    def _damp(self, back: Tensor) -> None:
        """A plain phase for these samples."""
        stalls = torch.zeros_like(self.since_best) if self.stalls is None else self.stalls
        length = (self.patience * 2**stalls).clamp(max=_LONGEST_RECOVERY * self.patience)
        self.recovery = torch.where(back, length, 0 if self.recovery is None else self.recovery)
        # The patience of the accelerated phase starts when the recovery ends.
        self.since_best = torch.where(back, -length, self.since_best)
        shrunk = self.first_damping * 0.5 ** (stalls // 2)
        shrunk = shrunk.clamp(min=min(_LEAST_DAMPING, self.first_damping))[:, None]
        damping = torch.full_like(shrunk, self.first_damping) if self.damping is None else self.damping
        self.damping = torch.where(back[:, None], shrunk.to(damping.dtype), damping)
        self.stalls = stalls + back

    def select(self, rows: Tensor) -> None:
        """Forget all samples but ``rows`` (indices)."""
        self.since_best, self.rescued = self.since_best[rows], self.rescued[rows]
        self.recovery, self.stalls, self.damping = (
            None if tensor is None else tensor[rows] for tensor in (self.recovery, self.stalls, self.damping)
        )


class _Methods:
    """The step rule of a solver, and that of its fallback method for the samples that are rescued."""

    def __init__(self, solver: Solver, z: Tensor) -> None:
        self._fallback_solver = solver.fallback()
        self._first: StepRule | None = solver.start(z)  # None once there is nobody left for it
        self._fallback: StepRule | None = None  # None until there is somebody for it; may be the first itself

    @property
    def stalled_history(self) -> Tensor | None:
        """See :attr:`StepRule.stalled_history`, of the first."""
        return None if self._first is None else self._first.stalled_history

    def select(self, rows: Tensor) -> None:
        """Forget all samples but ``rows`` (indices)."""
        if self._first is not None:
            self._first.select(rows)
        if self._fallback is not None and self._fallback is not self._first:
            self._fallback.select(rows)

    def prepare(self, z: Tensor, rescued: Tensor, running: Tensor, *, comparable: bool) -> None:
        """Start the fallback method when it is needed, end the first when it no longer is.

        Args:
            z: ``(B, N)`` the states that the next step is from.
            rescued: bool ``(B,)``, samples of the fallback method.
            running: bool ``(B,)``, samples that go on.
            comparable: whether the fallback method is given residuals of the same map as the first.
        """
        if self._fallback_solver is None or known_empty(rescued):
            return
        if self._fallback is None and bool(rescued.any()):
            self._fallback = self._fallback_solver.start(z, self._first if comparable else None)
        if bool((rescued | ~running).all()):
            self._first = None

    def step(self, z: Tensor, fz: Tensor, r: Tensor, guard: _Safeguard, forget: Tensor) -> Tensor:
        """The next iterates ``(B, N)``; see :meth:`StepRule.step`."""
        proposal = fz if self._first is None else self._first.step(z, fz, r, guard.damping, forget)
        if self._fallback is None or self._fallback is self._first or known_empty(guard.rescued):
            return proposal
        return choose(guard.rescued, (self._fallback.step(z, fz, r, guard.damping, forget), proposal))[0]


@dataclass
class _Best:
    """The best iterate of each sample so far, its image or the point ahead, its residual, and the evaluations made."""

    z: Tensor
    image: Tensor
    residual: Tensor
    steps: Tensor

    def select(self, rows: Tensor) -> _Best:
        """The given samples."""
        return _Best(select(self.z, rows), select(self.image, rows), self.residual[rows], self.steps[rows])

    def scatter(self, rows: Tensor, other: _Best) -> _Best:
        """These samples with ``rows`` replaced."""
        return _Best(
            scatter(self.z, rows, other.z),
            scatter(self.image, rows, other.image),
            self.residual.index_copy(0, rows, other.residual),
            self.steps.index_copy(0, rows, other.steps),
        )


class _Evaluations:
    """``f`` on rows ``(n, N)``, given to it in the shape and dtype of ``like``.

    Args:
        f: the map; rough where it offers that.
        like: a state as ``f`` takes it.
        ahead: whether the point ahead is wanted.
    """

    def __init__(self, f: FixedPointMap, like: Tensor, *, ahead: bool) -> None:
        self.f, self.like, self._ahead = f, like, ahead
        self._schedule = Schedule()
        self._anchored = self._anchor(f)

    def _anchor(self, f: FixedPointMap) -> ReferencePoint | None:
        if isinstance(f, ExplicitMap) and f.has_rough and not torch.is_grad_enabled():
            return f.anchored(ahead=self._ahead)
        return None

    def __call__(self, z: Tensor) -> Evaluated:
        """The evaluation at ``z`` ``(n, N)``, in rows too."""
        state = z.view(z.shape[0], *self.like.shape[1:]).to(self.like.dtype)
        if self._anchored is not None:
            exact = self._schedule.exact_next or not self._anchored.known
            found = self._anchored.exact(state) if exact else self._anchored.rough(state)
        elif self._ahead and isinstance(self.f, ExplicitMap):
            found = self.f.look_ahead(state)
        else:
            found = Evaluated(self.f(state))
        image, ahead, error = found
        if image.shape != state.shape:
            shape = tuple(image.shape)
            raise InputError(f"the map must keep its input's shape {tuple(state.shape)}, it returned {shape}")
        return Evaluated(
            flatten_batch(image).to(z.dtype), None if ahead is None else flatten_batch(ahead).to(z.dtype), error
        )

    def plan(self, relative: Tensor, error: Tensor | None, running: Tensor) -> None:
        """Decide how the next one is made: relative residuals ``(B,)``, their errors, and which samples go on."""
        if self._anchored is not None:
            self._schedule.note(relative, relative.new_zeros(()) if error is None else error, running)

    def select(self, f: FixedPointMap, rows: Tensor) -> None:
        """Go on with the map ``f`` of the samples ``rows`` (indices) alone."""
        before, self._anchored = self._anchored, self._anchor(f)
        if before is not None and self._anchored is not None and isinstance(self.f, ExplicitMap):
            self._anchored.adopt(before, partial(self.f.select_saved, rows=rows))
        self.f = f
        self._schedule.select(rows)


def iterate(
    f: FixedPointMap, z0: Tensor, solver: Solver, select_rows: RowSelector | None = None
) -> tuple[Tensor, SolverStats]:
    """:func:`iterate_with_image` without the image."""
    z, _, stats = iterate_with_image(f, z0, solver, select_rows)
    return z, stats


def iterate_with_image(
    f: FixedPointMap, z0: Tensor, solver: Solver, select_rows: RowSelector | None = None
) -> tuple[Tensor, Tensor, SolverStats]:
    """Run ``solver`` on ``z = f(z)`` from ``z0``; each sample stops on its own.

    A sample's iterates depend on that sample alone (as long as ``f`` treats samples independently): once it has
    converged its state is frozen, and safeguards act on it without touching the others. Differentiable with
    respect to everything ``f`` closes over when run with gradients enabled.

    Args:
        f: map ``(B, …) -> (B, …)``.
        z0: ``(B, …)`` start.
        solver: the solver.
        select_rows: row indices (sorted, int64) -> the map of these samples alone. With it, converged samples leave the
            batch, and stragglers cost next to nothing.

    Returns:
        The best iterate of each sample, shaped like ``z0`` and in the working dtype (at least float32), its image or
        the point ahead of that, and the statistics. An iterate is never non-finite if ``z0`` is finite.

    Raises:
        InputError: ``f`` returned another shape than it was given.
    """
    batch = z0.shape[0]
    z = flatten_batch(z0).to(work_dtype(z0.dtype))
    methods = _Methods(solver, z)
    guard = _Safeguard(solver, batch, z)
    running = torch.ones(batch, dtype=torch.bool, device=z.device)
    unknown = torch.full((batch,), torch.inf, dtype=z.dtype, device=z.device)
    best = _Best(z, z, unknown, torch.zeros(batch, dtype=torch.int64, device=z.device))
    whole, index = best, None  # the whole batch, and which of its samples are still here (None: all)
    shown = unknown
    trace: list[Tensor] = []
    may_drop = select_rows is not None and not torch.is_grad_enabled()
    evaluate = _Evaluations(f, z0, ahead=solver.looks_ahead)

    for k in range(solver.max_steps):
        image, ahead, error = evaluate(z)
        r = torch.sub(image, z, out=spare(image))
        with torch.no_grad():
            relative = relative_residual(r, image)
            if error is not None:
                error = relative_error(error, image)
                relative = relative + error  # what cannot be told from a residual counts as one
            shown = torch.where(running, relative, shown)
            trace.append(shown if index is None else trace[-1].index_copy(0, index, shown))
            better = running & (relative < best.residual)
            residual = torch.where(better, relative, best.residual)
            steps = best.steps + running
            running = running & (residual > solver.tol)
            back, forget = guard.watch(relative, residual, better, methods.stalled_history)
            evaluate.plan(relative, error, running)
        fz = image
        if ahead is not None:
            # Who has stalled goes on by the map itself: the point ahead may be fixed where the image is not. What is
            # remembered is of points ahead.
            forget = back
            (fz,) = choose(guard.on_their_own, (image, ahead))
            r = torch.sub(fz, z, out=spare(fz))
        best_z, best_image = choose(better, (z, best.z), (fz, best.image))
        best = _Best(best_z, best_image, residual, steps)
        if k + 1 == solver.max_steps:
            break
        sync_now = is_sync_step(z, k)
        if sync_now:
            left = int(running.count_nonzero())
            if left == 0:
                break
            if may_drop and left <= _WORTH_DROPPING * running.numel():
                assert select_rows is not None
                here = running.nonzero().squeeze(1)
                whole = best if index is None else whole.scatter(index, best)
                index = here if index is None else index[here]
                evaluate.select(select_rows(index), here)
                best, z, fz, r = best.select(here), select(z, here), select(fz, here), select(r, here)
                shown, back, forget, running = shown[here], back[here], forget[here], running[here]
                guard.select(here)
                methods.select(here)
        if not known_empty(back):
            z, fz = choose(back, (best.z, z), (best.image, fz))
            r = torch.sub(fz, z, out=spare(fz))
        if sync_now:
            methods.prepare(z, guard.rescued, running, comparable=ahead is None)
        proposal = methods.step(z, fz, r, guard, forget)
        # Where a step rule broke down numerically, and while recovering, the damped plain step is taken.
        usable = torch.linalg.vector_norm(proposal.detach(), dim=1) < torch.inf
        if guard.recovery is not None:
            usable = usable & (guard.recovery == 0)
        if not known_full(usable):
            proposal = torch.where(usable[:, None], proposal, z + scaled(guard.damping, r))
        (z,) = choose(running, (proposal, z))

    whole = best if index is None else whole.scatter(index, best)
    stats = SolverStats(
        converged=whole.residual <= solver.tol,
        residual=whole.residual,
        steps=whole.steps,
        trace=torch.stack(trace) if trace else whole.residual[None],
    )
    return whole.z.view(z0.shape), whole.image.view(z0.shape), stats
