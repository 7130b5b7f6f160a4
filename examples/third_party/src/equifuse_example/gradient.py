"""A gradient rule: that of one evaluation at the solution (Fung et al. 2021, arXiv 2103.12803)."""

from dataclasses import dataclass

from torch import Tensor

from equifuse.solve import Gradient, Solver, SolverStats
from equifuse.solve.maps import FixedPointMap


@dataclass(frozen=True, kw_only=True)
class OneStep(Gradient):
    """The Jacobian of the map in place of the inverse: cheap, biased."""

    name = "one_step"

    def attach(self, f: FixedPointMap, z: Tensor, stats: SolverStats, solver: Solver) -> Tensor:
        """``z``, with the gradient of ``f(z)`` and the value unchanged."""
        once = f(z.detach()).to(z.dtype)
        return z.detach() + (once - once.detach())
