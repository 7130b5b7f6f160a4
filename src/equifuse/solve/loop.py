"""The loop that every solver shares: evaluate the map, propose the next iterate, stop each sample on its own."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from equifuse.configurable import Configurable
from equifuse.errors import InputError
from equifuse.solve.explicit import ExplicitMap
from equifuse.solve.inexact import Evaluated, ReferencePoint, Schedule
from equifuse.solve.recycling import scatter, select, spare
from equifuse.solve.sync import can_sync, is_sync_step, known_empty, known_full

FixedPointMap = Callable[[Tensor], Tensor]
RowSelector = Callable[[Tensor], FixedPointMap]


def row_selector(f: FixedPointMap) -> RowSelector | None:
    """The map's method that returns the map of some samples alone, or None if it has none.

    Warns:
        DeprecationWarning: the method is named ``take``, as in version 0.1.
    """
    if hasattr(f, "select"):
        return cast(RowSelector, f.select)
    if hasattr(f, "take"):
        warnings.warn("name a map's method take(rows) select(rows)", DeprecationWarning, stacklevel=3)
        return cast(RowSelector, f.take)
    return None


# A sample whose residual exceeds its smallest one by this factor goes back to its best iterate.
_BLOW_UP = 1e3
# However often a sample stalls, its plain steps never become smaller than this share of f(z) - z ...
_LEAST_DAMPING = 1.0 / 16
# ... and a recovery never lasts longer than this many times the solver's patience.
_LONGEST_RECOVERY = 16
# A sample whose history no longer describes the map gets this share of the patience.
_SHORT_PATIENCE = 1.0 / 3
# Converged samples leave the batch only when at most this share is left, because copying the rest costs time.
_WORTH_DROPPING = 0.7


@dataclass
class SolverStats:
    """What a fixed-point solve achieved, sample by sample.

    >>> z, stats = ef.fixed_point(lambda z: 0.5 * z + 1, torch.zeros(3, 2))
    >>> stats.converged
    tensor([True, True, True])
    >>> sorted(stats.summary())
    ['converged', 'max_residual', 'max_steps', 'mean_steps']

    Attributes:
        converged: bool ``(B,)``, whether the relative residual reached the tolerance.
        residual: ``(B,)``, the relative residual ``‖f(z) − z‖ / ‖f(z)‖`` of the returned iterate.
        steps: int64 ``(B,)``, evaluations of ``f`` made for the sample until it stopped.
        trace: ``(K, B)``, the relative residual at each of ``K`` evaluations; a sample that has stopped repeats its
            last value.
        parts: statistics of each part of a composite solve (one modality, the fusion state) by name; {} otherwise.
        backward: list that the backward pass fills with the statistics of its own solve; read it as ``adjoint``.
        own: which rows of the backward solve belong to these samples; None for all.
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
        """Statistics of the latest backward solve; None before the first one."""
        if not self.backward:
            return None
        latest = self.backward[-1]
        return latest if self.own is None else latest.select(self.own)

    def select(self, rows: slice) -> SolverStats:
        """The statistics of the samples ``rows`` alone."""
        return SolverStats(self.converged[rows], self.residual[rows], self.steps[rows], self.trace[:, rows])

    def summary(self) -> dict[str, float]:
        """Numbers for a log line: share converged, mean and largest number of steps, largest residual."""
        if self.converged.numel() == 0:
            return {"converged": 1.0, "mean_steps": 0.0, "max_steps": 0.0, "max_residual": 0.0}
        return {
            "converged": self.converged.float().mean().item(),
            "mean_steps": self.steps.float().mean().item(),
            "max_steps": float(self.steps.max().item()),
            "max_residual": self.residual.max().item(),
        }

    def reshape(self, *leading: int) -> SolverStats:
        """The same statistics with the sample axis viewed as ``leading``, including those of the parts."""
        return SolverStats(
            self.converged.reshape(leading),
            self.residual.reshape(leading),
            self.steps.reshape(leading),
            self.trace.reshape(len(self.trace), *leading),
            {name: part.reshape(*leading) for name, part in self.parts.items()},
            self.backward,  # the same list: what the backward pass writes is seen in every view
            self.own,
        )


class StepRule(ABC):
    """The state of one running solve: proposes the next iterate of each sample from the latest evaluation."""

    @abstractmethod
    def step(self, z: Tensor, fz: Tensor, r: Tensor, damping: Tensor | None, restart: Tensor) -> Tensor:
        """Propose the next iterate.

        Args:
            z: ``(B, N)`` current iterate.
            fz: ``(B, N)`` its image ``f(z)``.
            r: ``(B, N)`` its residual ``fz - z``.
            damping: ``(B, 1)`` share of the residual to move by, in (0, 1]; None for 1.
            restart: bool ``(B,)``; for these samples ``z`` is unrelated to the previous call, so everything stored
                about them must be dropped.

        Returns:
            ``(B, N)``.
        """

    @abstractmethod
    def select(self, rows: Tensor) -> None:
        """Drop all samples except ``rows`` (sorted indices); the next call to :meth:`step` has only these."""

    @property
    def stalled_history(self) -> Tensor | None:
        """Bool ``(B,)``: samples whose stored history describes the map worse and worse; None if not measured."""
        return None

    @property
    def latest(self) -> tuple[Tensor, Tensor] | None:
        """``z`` and ``r``, each ``(B, N)``, of the latest call to :meth:`step`; None if they are not stored."""
        return None

    def secant_pairs(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Stored differences ``Δz`` and ``Δr`` ``(B, N)``, oldest first, each with bool ``(B,)``, where it is valid."""
        yield from ()


@dataclass(frozen=True, kw_only=True)
class Solver(Configurable, ABC):
    """Base of all fixed-point solvers: tolerance, budget, and the rule for the next iterate.

    Use one of :class:`Anderson` (the default), :class:`Broyden`, :class:`Picard` or :class:`StaticAnderson`. To write
    your own, subclass this class and return a :class:`~equifuse.solve.loop.StepRule` from :meth:`start`.

    >>> solver = ef.Anderson(tol=1e-6, max_steps=100)
    >>> solver.config()["tol"]
    1e-06
    >>> isinstance(solver, ef.solve.Solver)
    True

    Args:
        tol: relative tolerance per sample on ``‖f(z) − z‖ / ‖f(z)‖``, > 0; default 1e-4.
        max_steps: largest number of evaluations of ``f``, ≥ 1; default 50.
        damping: share of the residual that a plain step moves by, in (0, 1]; default 1.
        patience: after so many evaluations without a new smallest residual a sample returns to its best iterate and
            continues with the solver's fallback method. A solver without a fallback drops the sample's history and
            takes plain steps for a while, damped from the third time on. Other samples are not affected. Default 15;
            0 switches this off.

    Raises:
        InputError: an argument is out of range.
    """

    tol: float = 1e-4
    max_steps: int = 50
    damping: float = 1.0
    patience: int = 15
    name: ClassVar[str]
    # Whether it uses the point ahead of an image, where the map has one, instead of the image.
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
        """Begin a solve: the step rule for states shaped like ``z`` ``(B, N)``.

        Args:
            z: the first state that the rule is called with.
            after: the rule that this one replaces in the middle of a solve of the same map. Its history may be reused,
                and a rule of the same kind may be returned unchanged.
        """

    def fallback(self) -> Solver | None:
        """The solver that stalled samples continue with; None for damped steps of this one."""
        return None

    def solve(
        self, f: FixedPointMap, z0: Tensor, select_rows: RowSelector | None = None
    ) -> tuple[Tensor, Tensor, SolverStats]:
        """Solve ``z = f(z)`` from ``z0``; see :func:`iterate_with_image`."""
        return iterate_with_image(f, z0, self, select_rows)


def work_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of a solve's own state: float64 stays, everything narrower than float32 is widened to it."""
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A context without autocast. Does nothing where autocast is off already, so that a traced graph is not broken."""
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()


def flatten_batch(x: Tensor) -> Tensor:
    """``(B, …)`` viewed as ``(B, N)``; also works for ``B = 0``."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def relative_residual(r: Tensor, fz: Tensor) -> Tensor:
    """``‖r‖ / ‖f(z)‖`` per row of ``(B, N)``; 0 where both norms are 0, +inf where anything is not finite.

    Where only ``f(z)`` is 0 the result is the largest finite number, because such a state is valid.
    """
    residual = torch.linalg.vector_norm(r, dim=1)
    scale = torch.linalg.vector_norm(fz, dim=1)
    relative = torch.nan_to_num(residual / scale)  # 0 / 0 is 0
    return torch.where(residual + scale < torch.inf, relative, torch.inf)  # NaN is not below either


def relative_error(error: Tensor, fz: Tensor) -> Tensor:
    """Errors ``(B,)`` relative to ``‖f(z)‖`` per row of ``(B, N)``; 0 where both vanish."""
    return torch.nan_to_num(error / torch.linalg.vector_norm(fz, dim=1))


def scaled(damping: Tensor | None, r: Tensor) -> Tensor:
    """``damping · r`` ``(B, N)``; None stands for 1."""
    return r if damping is None else damping * r


def choose(mask: Tensor, *pairs: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """For each pair of tensors ``(B, N)``: the first one in the samples of ``mask`` ``(B,)``, the second one elsewhere.

    On a CPU nothing is copied if the mask is the same for all samples.
    """
    if can_sync(mask):
        count = int(mask.count_nonzero())
        if count in (0, mask.numel()):
            return tuple(chosen if count else other for chosen, other in pairs)
    column = mask[:, None]
    return tuple(torch.where(column, chosen, other, out=spare(other)) for chosen, other in pairs)


class _Safeguard:
    """Detects samples that no longer make progress and sends each back to its best iterate.

    An accelerated iteration can be trapped where the map has a kink, and a plain one can run in a cycle. A stalled
    sample therefore continues from its best iterate with the solver's fallback method until it stops. The residual of
    the fallback method may rise for long before it falls, so it is not watched again. If the solver has no fallback,
    the sample's history is dropped and it takes plain steps for a while; each further stall doubles their number, and
    every second one halves their damping.
    """

    def __init__(self, solver: Solver, batch: int, like: Tensor) -> None:
        self.patience = solver.patience
        self.short_patience = max(1, round(_SHORT_PATIENCE * solver.patience))
        self.rescues = solver.patience > 0 and solver.fallback() is not None
        self.rescued = torch.zeros(batch, dtype=torch.bool, device=like.device)
        self.first_damping = solver.damping
        self.since_best = torch.zeros(batch, dtype=torch.int64, device=like.device)
        self.damping = None if solver.damping == 1 else like.new_full((batch, 1), solver.damping)
        # (B,) plain steps that a sample still has to take, and how often it has stalled; None before the first stall.
        self.recovery: Tensor | None = None
        self.stalls: Tensor | None = None

    @property
    def on_their_own(self) -> Tensor:
        """Bool ``(B,)``: samples that do not use the solver's first method now."""
        return self.rescued if self.recovery is None else self.rescued | (self.recovery > 0)

    def watch(
        self, relative: Tensor, best: Tensor, better: Tensor, stalled_history: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Take note of the latest evaluation and find the stalled samples.

        Args:
            relative: ``(B,)`` residuals.
            best: ``(B,)`` the smallest residuals so far.
            better: bool ``(B,)``, whether the latest residual is the smallest.
            stalled_history: bool ``(B,)``, samples that get less patience; None for none.

        Returns:
            Bool ``(B,)``, the samples to send back to their best iterate, and bool ``(B,)``, those of them whose
            history must be dropped.
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
        """Start a phase of plain steps for the samples ``back``."""
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
        """Drop all samples except ``rows`` (indices)."""
        self.since_best, self.rescued = self.since_best[rows], self.rescued[rows]
        self.recovery, self.stalls, self.damping = (
            None if tensor is None else tensor[rows] for tensor in (self.recovery, self.stalls, self.damping)
        )


class _Methods:
    """The step rule of a solver, and the step rule of its fallback for the samples that have stalled."""

    def __init__(self, solver: Solver, z: Tensor) -> None:
        self._fallback_solver = solver.fallback()
        self._first: StepRule | None = solver.start(z)  # None when no sample uses it any more
        self._fallback: StepRule | None = None  # None until a sample needs it; may be the first itself

    @property
    def stalled_history(self) -> Tensor | None:
        """:attr:`StepRule.stalled_history` of the first method."""
        return None if self._first is None else self._first.stalled_history

    def select(self, rows: Tensor) -> None:
        """Drop all samples except ``rows`` (indices)."""
        if self._first is not None:
            self._first.select(rows)
        if self._fallback is not None and self._fallback is not self._first:
            self._fallback.select(rows)

    def prepare(self, z: Tensor, rescued: Tensor, running: Tensor, *, comparable: bool) -> None:
        """Start the fallback method when the first sample needs it; end the first method when no sample uses it.

        Args:
            z: ``(B, N)`` the states that the next step starts from.
            rescued: bool ``(B,)``, samples that use the fallback method.
            running: bool ``(B,)``, samples that have not stopped.
            comparable: whether the fallback method sees residuals of the same map as the first method did.
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
    """The best iterate of each sample so far, its image (or the point ahead), its residual, and the evaluations."""

    z: Tensor
    image: Tensor
    residual: Tensor
    steps: Tensor

    def select(self, rows: Tensor) -> _Best:
        """Only the given samples."""
        return _Best(select(self.z, rows), select(self.image, rows), self.residual[rows], self.steps[rows])

    def scatter(self, rows: Tensor, other: _Best) -> _Best:
        """These samples with ``rows`` replaced by ``other``."""
        return _Best(
            scatter(self.z, rows, other.z),
            scatter(self.image, rows, other.image),
            self.residual.index_copy(0, rows, other.residual),
            self.steps.index_copy(0, rows, other.steps),
        )


class _Evaluations:
    """Evaluates ``f`` on states ``(n, N)``, converted to the shape and dtype that ``f`` takes.

    Args:
        f: the map; evaluated in low precision where it offers that.
        like: a state as ``f`` takes it.
        ahead: whether points ahead of the image are wanted.
    """

    def __init__(self, f: FixedPointMap, like: Tensor, *, ahead: bool) -> None:
        self.f, self.like, self._ahead = f, like, ahead
        self._schedule = Schedule()
        self._anchored = self._anchor(f)

    def _anchor(self, f: FixedPointMap) -> ReferencePoint | None:
        if isinstance(f, ExplicitMap) and f.has_low_precision and not torch.is_grad_enabled():
            return f.anchored(ahead=self._ahead)
        return None

    def __call__(self, z: Tensor) -> Evaluated:
        """The evaluation at ``z`` ``(n, N)``, flattened in the same way."""
        state = z.view(z.shape[0], *self.like.shape[1:]).to(self.like.dtype)
        if self._anchored is not None:
            exact = self._schedule.exact_next or not self._anchored.known
            found = self._anchored.exact(state) if exact else self._anchored.low_precision(state)
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
        """Decide how the next evaluation is made.

        Args:
            relative: ``(B,)`` relative residuals.
            error: ``(B,)`` estimates of their errors; None for exact ones.
            running: bool ``(B,)``, samples that have not stopped.
        """
        if self._anchored is not None:
            self._schedule.note(relative, relative.new_zeros(()) if error is None else error, running)

    def select(self, f: FixedPointMap, rows: Tensor) -> None:
        """Continue with ``f``, the map of the samples ``rows`` (indices) alone."""
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

    A sample's iterates depend on that sample alone, as long as ``f`` treats samples independently. A sample that has
    converged keeps its state, and the safeguards act on one sample without changing the others. With gradients enabled
    the result is differentiable with respect to everything that ``f`` closes over.

    Args:
        f: map ``(B, …) -> (B, …)``.
        z0: ``(B, …)`` start.
        solver: the solver.
        select_rows: function from row indices (sorted, int64) to the map of these samples alone. If it is given,
            samples that have converged leave the batch, so a few slow ones cost little.

    Returns:
        The best iterate of each sample, shaped like ``z0`` and in the working dtype (at least float32); its image, or
        the point ahead of it; and the statistics. An iterate is never non-finite if ``z0`` is finite.

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
                relative = relative + error  # an error may hide a residual of its size, so it counts as one
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
            # Stalled samples continue with the image, because a point ahead can be fixed where the image is not. Their
            # history, which is of points ahead, is dropped.
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
