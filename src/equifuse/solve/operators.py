"""The solve and its adjoint as operators of PyTorch, which ``torch.compile`` calls as they are.

A compiled graph cannot hold a solve, whose steps depend on values. It can hold an operator that takes the tensors of a
map, makes the map of them when it runs, and solves it as an eager call does, by the fused kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from equifuse.solve.adjoint import Series, explicit_gradients
from equifuse.solve.krylov import GMRES
from equifuse.solve.maps import Packed, PackedMap
from equifuse.solve.solvers.anderson import Anderson
from equifuse.solve.stats import SolverStats

Map = TypeVar("Map", bound=type[PackedMap])
_MAPS: dict[str, type[PackedMap]] = {}


def operator(cls: Map) -> Map:
    """Let maps of a class be solved inside compiled graphs."""
    _MAPS[cls.__name__] = cls
    return cls


def solve_compiled(
    f: PackedMap, z0: Tensor, solver: Anderson, method: GMRES | Series, strict: bool
) -> tuple[Tensor, SolverStats]:
    """The fixed point with its gradient, as one operator. Of the residuals only the last is known."""
    packed = f.packed()
    forward = [solver.tol, solver.damping], [solver.max_steps, solver.patience, solver.memory]
    if isinstance(method, Series):
        backward = [0.0], [method.terms]
    else:
        tol = min(1e-5, solver.tol) if method.tol is None else method.tol
        backward = [tol], [method.max_steps, method.restart]
    tensors = list(packed.closure), list(packed.constants), list(packed.numbers)
    z, residual, steps, converged = _fixed_point(type(f).__name__, *tensors, z0, *forward, *backward, strict)
    residual = residual.detach()
    return z, SolverStats(converged, residual, steps, residual[None])


@torch.library.custom_op("equifuse::fixed_point", mutates_args=())
def _fixed_point(
    name: str, closure: Sequence[Tensor], constants: Sequence[Tensor], numbers: Sequence[float], z0: Tensor,
    reals: Sequence[float], counts: Sequence[int], adjoint_reals: Sequence[float], adjoint_counts: Sequence[int],
    strict: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    from equifuse.solve.gradient import report  # noqa: PLC0415 - which uses the operators

    f = _MAPS[name].unpacked(Packed(tuple(closure), tuple(constants), tuple(numbers)))
    solver = Anderson(tol=reals[0], damping=reals[1], max_steps=counts[0], patience=counts[1], memory=counts[2])
    with torch.no_grad():
        z, stats = solver.solve(f, z0, f.select)
    report(stats, "forward", strict=strict)
    return z, stats.residual.clone(), stats.steps.clone(), stats.converged.clone()


@_fixed_point.register_fake
def _(
    name: str, closure: Sequence[Tensor], constants: Sequence[Tensor], numbers: Sequence[float], z0: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = z0.shape[0]
    steps, converged = z0.new_empty(rows, dtype=torch.int64), z0.new_empty(rows, dtype=torch.bool)
    return z0.new_empty(z0.shape), z0.new_empty(rows), steps, converged


@torch.library.custom_op("equifuse::fixed_point_gradients", mutates_args=())
def _gradients(
    name: str, closure: Sequence[Tensor], constants: Sequence[Tensor], numbers: Sequence[float], z: Tensor, g: Tensor,
    reals: Sequence[float], counts: Sequence[int],
) -> list[Tensor]:  # fmt: skip
    from equifuse.solve.gradient import report  # noqa: PLC0415 - as above

    f = _MAPS[name].unpacked(Packed(tuple(closure), tuple(constants), tuple(numbers)))
    method = Series(*counts) if len(counts) == 1 else GMRES(tol=reals[0], max_steps=counts[0], restart=counts[1])
    with torch.no_grad():
        gradients, stats = explicit_gradients(f, f.linearize(z).saved, g, method, 1e-5)
    report(stats, "adjoint")
    return [x.clone(memory_format=torch.contiguous_format) for x in gradients]


@_gradients.register_fake
def _(name: str, closure: Sequence[Tensor], *_: Any) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in closure]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.name, closure, constants, ctx.numbers, *_, ctx.reals, ctx.counts, _ = inputs
    ctx.save_for_backward(*closure, *constants, output[0])
    ctx.closure, ctx.constants = len(closure), len(constants)


def _backward(ctx: Any, g: Tensor, *_: Any) -> tuple[Any, ...]:
    *tensors, z = ctx.saved_tensors
    closure, constants = tensors[: ctx.closure], tensors[ctx.closure :]
    gradients = _gradients(ctx.name, closure, constants, ctx.numbers, z, g, ctx.reals, ctx.counts)
    return None, gradients, [None] * ctx.constants, None, None, None, None, None, None, None


_fixed_point.register_autograd(_backward, setup_context=_save)
