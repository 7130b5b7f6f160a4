"""The base of all solvers, and the step rule of a running solve."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from equifuse.configurable import Configurable
from equifuse.errors import InputError
from equifuse.kernels.rows import RowLimits
from equifuse.solve.maps import Called, FixedPointMap, RowSelector
from equifuse.solve.stats import SolverStats

if TYPE_CHECKING:
    from equifuse.solve.loop import Solution

# Differences of states and of residuals (B, N), and bool (B,), for which samples they are known.
SecantPair = tuple[Tensor, Tensor, Tensor]


class StepRule(ABC):
    """The memory of one running solve: proposes the next iterate of each sample from the latest evaluation."""

    @abstractmethod
    def step(self, z: Tensor, fz: Tensor, r: Tensor) -> Tensor:
        """Propose the next iterate ``(B, N)``.

        Args:
            z: ``(B, N)`` current iterate.
            fz: ``(B, N)`` its image ``f(z)``.
            r: ``(B, N)`` its residual ``fz - z``.
        """

    @abstractmethod
    def select(self, rows: Tensor) -> None:
        """Drop all samples except ``rows`` (sorted indices); the next call to :meth:`step` has only these."""

    def secant_pairs(self) -> Iterator[SecantPair]:
        """What it knows of the map: differences ``Δz`` and ``Δr``, oldest first, and where each is valid."""
        yield from ()


@dataclass(frozen=True, kw_only=True)
class Solver(Configurable, ABC):
    """Base of all fixed-point solvers: tolerance, budget, and the rule for the next iterate.

    Use one of :class:`Anderson` (the default), :class:`Broyden`, :class:`Picard` or :class:`StaticAnderson`. To write
    your own, subclass this class and return a :class:`~equifuse.solve.solver.StepRule` from :meth:`start`.

    >>> solver = ef.Anderson(tol=1e-6, max_steps=100)
    >>> solver.config()["tol"]
    1e-06
    >>> isinstance(solver, ef.solve.Solver)
    True

    Args:
        tol: relative tolerance per sample on ``‖f(z) − z‖ / ‖f(z)‖``, > 0; default 1e-4.
        max_steps: largest number of evaluations of ``f``, ≥ 1; default 50.
        damping: share of the residual that a plain step moves by, in (0, 1]; default 1.
        patience: a sample without a new smallest residual in so many evaluations leaves the solve and is solved from
            its best iterate by the :meth:`fallback`, with the evaluations that are left. Default 15; 0: never.

    Raises:
        InputError: an argument is out of range.
    """

    tol: float = 1e-4
    max_steps: int = 50
    damping: float = 1.0
    patience: int = 15
    name: ClassVar[str]

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
    def start(self, z: Tensor, known: Iterable[SecantPair] = ()) -> StepRule:
        """Begin a solve: the step rule for states shaped like ``z`` ``(B, N)``.

        Args:
            z: the first state that the rule is called with.
            known: what another rule has learnt about the same map; may be used.
        """

    def limits(self) -> RowLimits:
        """When a row stops, for the fused kernels."""
        return RowLimits(self.tol, self.max_steps, self.patience, self.damping)

    def run(self, f: Called, z: Tensor, steps: Tensor, known: Iterable[SecantPair] = ()) -> Solution:
        """Iterate all rows from ``z`` ``(R, N)`` until each has stopped; see :func:`equifuse.solve.loop.iterate`."""
        from equifuse.solve.loop import iterate  # noqa: PLC0415 - the loop runs solvers, and a solver may replace it

        return iterate(f, z, self, steps, known)

    def fallback(self) -> Solver | None:
        """The solver of the samples on which this one stalls; None to give them up."""
        return None

    def solve(self, f: FixedPointMap, z0: Tensor, select_rows: RowSelector | None = None) -> tuple[Tensor, SolverStats]:
        """Solve ``z = f(z)`` from ``z0``; see :func:`equifuse.solve.loop.solve`."""
        from equifuse.solve.loop import solve  # noqa: PLC0415 - as above

        return solve(f, z0, self, select_rows)
