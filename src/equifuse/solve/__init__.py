"""Fixed points ``z = f(z)`` of batches: solvers, gradients, regularisers, spectral radius. Tensors only, no fusion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from equifuse.errors import InputError, UnknownNameError
from equifuse.solve import gradient as _gradient
from equifuse.solve.anderson import Anderson
from equifuse.solve.broyden import Broyden
from equifuse.solve.explicit import ExplicitMap, Linearized
from equifuse.solve.gradient import Gradient, Implicit, Phantom, Unrolled, fixed_point
from equifuse.solve.inexact import Evaluated
from equifuse.solve.krylov import GMRES
from equifuse.solve.loop import Solver, SolverStats
from equifuse.solve.picard import Picard
from equifuse.solve.regularization import jacobian_penalty, residual_penalty, spectral_penalty
from equifuse.solve.spectrum import spectral_radius
from equifuse.solve.static import StaticAnderson
from equifuse.solve.warm_start import EquilibriumCache

__all__ = [
    "GMRES",
    "Anderson",
    "Broyden",
    "EquilibriumCache",
    "Evaluated",
    "ExplicitMap",
    "Gradient",
    "Implicit",
    "Linearized",
    "Phantom",
    "Picard",
    "Solver",
    "SolverStats",
    "StaticAnderson",
    "Unrolled",
    "fixed_point",
    "jacobian_penalty",
    "make_gradient",
    "make_solver",
    "residual_penalty",
    "spectral_penalty",
    "spectral_radius",
]

_SOLVERS: dict[str, type[Solver] | type[GMRES]] = {
    kind.name: kind for kind in (Anderson, Broyden, Picard, StaticAnderson, GMRES)
}


def _any_solver(spec: Solver | GMRES | str | Mapping[str, Any]) -> Solver | GMRES:
    if isinstance(spec, Solver | GMRES):
        return spec
    options: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = str(options.pop("name", None))
    if name not in _SOLVERS:
        raise UnknownNameError("solver", name, _SOLVERS)
    try:
        return _SOLVERS[name](**options)
    except TypeError as error:
        raise InputError(f"solver {name!r}: {error}") from None


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
        UnknownNameError: no solver has this name.
        InputError: the solver does not have such an option, or it solves only linear systems (``"gmres"``).
    """
    solver = _any_solver(spec)
    if not isinstance(solver, Solver):
        raise InputError(f"{solver.name!r} solves linear systems only; use it as Implicit(solver=...)")
    return solver


def make_gradient(spec: Gradient | str | Mapping[str, Any]) -> Gradient:
    """Build a gradient rule from its name or from a configuration.

    >>> ef.solve.make_gradient("implicit").name
    'implicit'
    >>> ef.solve.make_gradient({"name": "phantom", "steps": 3}).steps
    3

    Args:
        spec: a gradient rule (returned as it is), a name (``"implicit"``), or a name with options, as
            :meth:`Gradient.config` gives them.

    Returns:
        The gradient rule.

    Raises:
        UnknownNameError: no gradient rule has this name.
        InputError: the rule does not have such an option.
    """
    return _gradient.make_gradient(spec if isinstance(spec, Gradient | str) else dict(spec), _any_solver)
