"""Fixed points ``z = f(z)`` of batches: solvers, gradients, regularisers, spectral radius. Tensors only, no fusion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from equifuse.errors import InputError
from equifuse.registry import GRADIENTS, SOLVERS
from equifuse.solve.gradient import JFB, Gradient, Implicit, Neumann, Phantom, Unrolled, fixed_point
from equifuse.solve.krylov import GMRES
from equifuse.solve.layers import VariationalDropout, apply_norm
from equifuse.solve.maps import ExplicitMap, Linearized
from equifuse.solve.regularization import jacobian_penalty, residual_penalty, spectral_penalty
from equifuse.solve.solver import Solver
from equifuse.solve.solvers.anderson import Anderson
from equifuse.solve.solvers.broyden import Broyden
from equifuse.solve.solvers.picard import Picard
from equifuse.solve.solvers.static import StaticAnderson
from equifuse.solve.spectrum import spectral_radius
from equifuse.solve.stats import SolverStats
from equifuse.solve.warm_start import EquilibriumCache

__all__ = [
    "GMRES",
    "JFB",
    "Anderson",
    "Broyden",
    "EquilibriumCache",
    "ExplicitMap",
    "Gradient",
    "Implicit",
    "Linearized",
    "Neumann",
    "Phantom",
    "Picard",
    "Solver",
    "SolverStats",
    "StaticAnderson",
    "Unrolled",
    "VariationalDropout",
    "apply_norm",
    "fixed_point",
    "jacobian_penalty",
    "make_gradient",
    "make_solver",
    "residual_penalty",
    "spectral_penalty",
    "spectral_radius",
]


def make_solver(spec: Solver | str | Mapping[str, Any]) -> Solver:
    """Build a fixed-point solver from its name or from a configuration.

    >>> ef.solve.make_solver("anderson").tol
    0.0001
    >>> ef.solve.make_solver({"name": "picard", "tol": 1e-6, "max_steps": 200}).max_steps
    200

    Args:
        spec: a solver (returned as it is), a name (``"anderson"``), or a name with options, as
            :meth:`Solver.config` gives them.

    Returns:
        The solver.

    Raises:
        UnknownNameError: no registered solver has this name, or it does not have such an option.
        InputError: it solves only linear systems (``"gmres"``), or is something else altogether.
    """
    solver = SOLVERS.make(spec)
    if not isinstance(solver, Solver):
        if isinstance(solver, GMRES):
            raise InputError(f"{solver.name!r} solves linear systems only; use it as Implicit(solver=...)")
        raise InputError(f"a solver is a Solver, its name, or a mapping with its name and options, got {solver!r}")
    return solver


def make_gradient(spec: Gradient | str | Mapping[str, Any]) -> Gradient:
    """Build a gradient rule from its name or from a configuration.

    >>> ef.solve.make_gradient("implicit").name
    'implicit'
    >>> ef.solve.make_gradient({"name": "phantom", "steps": 3}).steps
    3

    Args:
        spec: a gradient rule (returned as it is), a name (``"implicit"``), or a name with options, as
            :meth:`Gradient.config` gives them; among these a ``solver`` may be given likewise.

    Returns:
        The gradient rule.

    Raises:
        UnknownNameError: no registered rule has this name, or it does not have such an option.
        InputError: an option's value does not fit, or it is something else altogether.
    """
    if isinstance(spec, Mapping) and "solver" in spec:
        spec = {**spec, "solver": SOLVERS.make(spec["solver"])}
    gradient = GRADIENTS.make(spec)
    if not isinstance(gradient, Gradient):
        raise InputError(f"a gradient rule is a Gradient, its name, or a mapping with its name, got {gradient!r}")
    return gradient
