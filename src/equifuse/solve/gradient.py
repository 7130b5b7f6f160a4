"""``fixed_point`` and its gradient rules: implicit (adjoint equation), its series, phantom, unrolled."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, cast, overload

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from equifuse.configurable import Configurable
from equifuse.errors import ConvergenceWarning, EquifuseError, InputError, NotConvergedError
from equifuse.registry import GRADIENTS
from equifuse.solve.adjoint import Method, Series, explicit_gradients, solve_adjoint
from equifuse.solve.krylov import GMRES, Product
from equifuse.solve.maps import ExplicitMap, FixedPointMap, PackedMap, RowSelector, Saved, TupleMap, row_selector
from equifuse.solve.operators import solve_compiled
from equifuse.solve.scope import one_solve
from equifuse.solve.solver import Solver
from equifuse.solve.solvers.anderson import Anderson
from equifuse.solve.spectrum import transposed_jacobian
from equifuse.solve.stats import SolverStats
from equifuse.solve.sync import can_read
from equifuse.solve.tensors import without_autocast
from equifuse.solve.transforms import leaf, transformed, values

_NO_SECOND_DERIVATIVE = "double backward through an implicit fixed point is not supported; use gradient=Unrolled()"


class Gradient(Configurable, ABC):
    """Base of the rules by which a gradient passes through a fixed point; independent of the solver that found it.

    Use one of :class:`Implicit` (the default), :class:`Neumann`, :class:`JFB`, :class:`Phantom` or :class:`Unrolled`.

    >>> w = torch.tensor(0.5, requires_grad=True)
    >>> z, _ = ef.fixed_point(lambda z: w * z + 1, torch.zeros(1, 1), gradient=ef.Unrolled())
    >>> z.sum().backward()
    >>> round(w.grad.item(), 2)  # z = 1 / (1 − w), so dz/dw = 1 / (1 − w)²
    4.0
    """

    name: ClassVar[str]

    @abstractmethod
    def attach(self, f: FixedPointMap, z: Tensor, stats: SolverStats, solver: Solver) -> Tensor:
        """Give ``z`` a gradient with respect to everything that ``f`` closes over; called with gradients enabled.

        Args:
            f: the map.
            z: its fixed point, as the solver found it.
            stats: the statistics of the solve.
            solver: the solver that was used.
        """

    def method(self) -> Method | None:
        """How the adjoint equation is solved; None (default) if the rule does not solve it."""
        return None


@GRADIENTS.register
@dataclass(frozen=True, kw_only=True)
class Implicit(Gradient):
    """The exact gradient by the implicit function theorem. The default.

    Memory does not depend on the number of solver steps, and the backward pass has a tolerance of its own. Use it for
    training; to differentiate twice, use :class:`Unrolled`.

    >>> w = torch.tensor(0.5, requires_grad=True)
    >>> z, _ = ef.fixed_point(lambda z: w * z + 1, torch.zeros(1, 1), gradient=ef.Implicit())
    >>> z.sum().backward()
    >>> round(w.grad.item(), 2)  # z = 1 / (1 − w), so dz/dw = 1 / (1 − w)²
    4.0

    Args:
        solver: solves the linear equation of the backward pass: :class:`GMRES` (default) or any fixed-point solver.

    Formula: with ``J = ∂f/∂z`` at the solution ``z*`` and the incoming gradient ``g``, solve ``u = Jᵀu + g``, then
    back-propagate ``u`` through one evaluation of ``f`` (Bai et al. 2019, eq. 3). The start ``z0`` gets no gradient,
    because the fixed point does not depend on it.
    """

    solver: Solver | GMRES = field(default_factory=GMRES)
    name: ClassVar[str] = "implicit"

    def attach(self, f: FixedPointMap, z: Tensor, stats: SolverStats, solver: Solver) -> Tensor:
        """Evaluate ``f`` once more; the backward pass solves the adjoint equation with products of this evaluation."""
        return _attach(f, z, stats, self.method(), min(1e-5, solver.tol))

    def method(self) -> Solver | GMRES:
        """Its solver."""
        return self.solver


@GRADIENTS.register
@dataclass(frozen=True, kw_only=True)
class Neumann(Gradient):
    """An approximate gradient: the first terms of the Neumann series of the implicit one.

    At a fixed point it is the gradient of :class:`Phantom` with as many steps and damping 1, from the products with one
    recorded evaluation: memory does not grow with the number of terms. The error shrinks like ``ρ(J)^steps``.

    >>> w = torch.tensor(0.5, requires_grad=True)
    >>> z, _ = ef.fixed_point(lambda z: w * z + 1, torch.zeros(1, 1), gradient=ef.Neumann(steps=3))
    >>> z.sum().backward()
    >>> round(w.grad.item(), 2)  # exact: 4
    3.5

    Args:
        steps: terms of the series, ≥ 1; default 5. The first is the incoming gradient itself.

    Raises:
        InputError: an argument is out of range.

    Formula: ``u = Σ_k (Jᵀ)^k g`` for ``k < steps`` in place of the solution of ``u = Jᵀu + g`` (Lorraine et al. 2020).
    """

    steps: int = 5
    name: ClassVar[str] = "neumann"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"steps must be at least 1, got {self.steps}")

    def attach(self, f: FixedPointMap, z: Tensor, stats: SolverStats, solver: Solver) -> Tensor:
        """Evaluate ``f`` once more; the backward pass sums products of this evaluation."""
        return _attach(f, z, stats, self.method())

    def method(self) -> Series:
        """Its terms."""
        return Series(self.steps)


@GRADIENTS.register
@dataclass(frozen=True, kw_only=True)
class JFB(Gradient):
    """Jacobian-free backpropagation: the gradient of one evaluation at the solution, which is taken as a constant.

    The cheapest rule, and the most biased: ``Neumann(steps=1)``. For a map that contracts it is a direction of descent
    under the conditions of the paper.

    >>> w = torch.tensor(0.5, requires_grad=True)
    >>> z, _ = ef.fixed_point(lambda z: w * z + 1, torch.zeros(1, 1), gradient=ef.JFB())
    >>> z.sum().backward()
    >>> round(w.grad.item(), 2)  # exact: 4
    2.0

    Source: Fung et al. 2022, arXiv 2103.12803.
    """

    name: ClassVar[str] = "jfb"

    def attach(self, f: FixedPointMap, z: Tensor, stats: SolverStats, solver: Solver) -> Tensor:
        """Evaluate ``f`` once more."""
        return _attach(f, z, stats, self.method())

    def method(self) -> Series:
        """One term."""
        return Series(1)


@GRADIENTS.register
@dataclass(frozen=True, kw_only=True)
class Phantom(Gradient):
    """An approximate gradient: back-propagation through a few damped steps at the solution.

    Cheaper than :class:`Implicit`, and needs no linear solve. The gradient is biased: the error shrinks like
    ``ρ(J)^steps``. The value returned is the fixed point itself.

    >>> w = torch.tensor(0.5, requires_grad=True)
    >>> z, _ = ef.fixed_point(lambda z: w * z + 1, torch.zeros(1, 1), gradient=ef.Phantom(steps=3))
    >>> z.sum().backward()
    >>> round(w.grad.item(), 2)  # exact: 4
    3.5

    Args:
        steps: evaluations of ``f`` recorded, ≥ 1; default 5.
        damping: share of the residual that each step moves by, in (0, 1]; default 1.

    Raises:
        InputError: an argument is out of range.

    Source: Geng et al. 2021, in the unrolled form.
    """

    steps: int = 5
    damping: float = 1.0
    name: ClassVar[str] = "phantom"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"steps must be at least 1, got {self.steps}")
        if not 0 < self.damping <= 1:
            raise InputError(f"damping must be in (0, 1], got {self.damping}")

    def attach(self, f: FixedPointMap, z: Tensor, stats: SolverStats, solver: Solver) -> Tensor:
        """Record ``steps`` damped evaluations, shifted so that the value stays ``z``."""
        walked = z.detach()
        for _ in range(self.steps):
            walked = walked + self.damping * (f(walked).to(walked.dtype) - walked)
        return z.detach() + (walked - walked.detach())


@GRADIENTS.register
@dataclass(frozen=True, kw_only=True)
class Unrolled(Gradient):
    """Back-propagation through every step of the solver: the reference for the other two rules.

    Exact for the iterate returned, and can be differentiated twice. It is the slowest rule, and its memory grows with
    the number of steps.

    >>> w = torch.tensor(0.5, requires_grad=True)
    >>> z, _ = ef.fixed_point(lambda z: w * z + 1, torch.zeros(1, 1), gradient=ef.Unrolled())
    >>> (first,) = torch.autograd.grad(z.sum(), w, create_graph=True)
    >>> (second,) = torch.autograd.grad(first, w)
    >>> round(first.item(), 2), round(second.item(), 2)
    (4.0, 16.0)
    """

    name: ClassVar[str] = "unrolled"

    def attach(self, f: FixedPointMap, z: Tensor, stats: SolverStats, solver: Solver) -> Tensor:
        """Returns ``z``: the solver's own steps were recorded, so there is nothing to add."""
        return z


def _attach(f: FixedPointMap, z: Tensor, stats: SolverStats, method: Method, default_tol: float = 1e-5) -> Tensor:
    """``z`` with a backward pass that solves the adjoint equation by ``method``; evaluates ``f`` once."""
    if isinstance(f, ExplicitMap) and not transformed():
        if not any(tensor.requires_grad for tensor in f.closure):
            return z
        with torch.no_grad():
            saved = f.linearize(z).saved
        explicit = cast(Callable[..., Tensor], _ExplicitFunction.apply)
        return explicit(f, z, saved, method, default_tol, stats, *f.closure)
    z_in = leaf(z)
    fz = f(z_in)
    if not transformed() and not _needs_more_than(fz, z_in):
        return z
    how = _Backward(method, default_tol, stats, None if transformed() else row_selector(f), transformed())
    return cast(Callable[..., Tensor], _ImplicitFunction.apply)(fz, z.detach(), z_in, how)


@dataclass(frozen=True)
class _Backward:
    """How the backward pass of a fixed point is solved.

    Attributes:
        method: the solver.
        default_tol: tolerance if it has none of its own.
        stats: those of the forward solve, to which its own are added.
        select_rows: function from row indices to the map of these rows.
        transformed: whether the fixed point was found inside a transform of ``torch.func``.
        mapped: where in ``z_in`` the axes are that ``vmap`` has folded into the batch, the last one first.
    """

    method: Method
    default_tol: float
    stats: SolverStats
    select_rows: RowSelector | None
    transformed: bool
    mapped: tuple[int, ...] = ()

    def solve(self, product: Product, g: Tensor, select_rows: Callable[[Tensor], Product] | None) -> Tensor:
        """The solution of ``u = Jᵀu + g``."""
        with torch.no_grad(), torch.autocast(g.device.type, enabled=False):  # the pass may be run inside of one
            u, adjoint = solve_adjoint(product, g, self.method, self.default_tol, select_rows=select_rows)
        if self.transformed:
            report(adjoint, "adjoint")
        else:
            _note(self.stats, adjoint)
        return u


class _ImplicitFunction(torch.autograd.Function):
    """Returns ``z*`` unchanged; its backward replaces the gradient ``g`` by the solution of ``u = Jᵀu + g``.

    It is an autograd function and not a hook, because hooks keep the graph alive, and fail under ``torch.compile`` and
    distributed training. ``fz = f(z_in)`` is recorded: products with ``Jᵀ`` are vector-Jacobian products of that one
    evaluation.
    """

    @staticmethod
    def forward(fz: Tensor, z: Tensor, z_in: Tensor, how: _Backward) -> Tensor:
        return z.to(fz.dtype, copy=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        # Not among the saved tensors, which hooks may replace by copies without a graph.
        ctx.fz, _, ctx.z_in, ctx.how = inputs
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: FunctionCtx, *grad_outputs: Any) -> Any:
        c = cast(Any, ctx)
        how: _Backward = c.how
        (g,) = grad_outputs
        if g is None:
            return None, None, None, None
        if not how.transformed:
            _refuse_double_backward()
        fz, z_in, shape = c.fz, c.z_in, g.shape

        def product(u: Tensor) -> Tensor:
            with torch.enable_grad():
                (image,) = torch.autograd.grad(
                    fz, z_in, u.view(shape).to(fz.dtype), retain_graph=True, create_graph=False, allow_unused=True
                )
            if image is None:
                return torch.zeros_like(u)
            for place, axis in enumerate(reversed(how.mapped)):
                image = image.movedim(axis + place, place)
            return cast(Tensor, image).reshape(u.shape).to(u.dtype)

        def select_rows(index: Tensor) -> Product:
            assert how.select_rows is not None
            return transposed_jacobian(how.select_rows(index), z_in.detach()[index])

        u = how.solve(product, g, select_rows if how.select_rows else None).to(fz.dtype)
        if how.transformed:
            u = cast(Callable[..., Tensor], _OnceDifferentiable.apply)(u, g, fz)
        return u, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], fz: Tensor, z: Tensor, z_in: Tensor, how: _Backward) -> Any:
        """Samples are independent, so those of all mapped slices are one batch."""
        at_fz, at_z, at_leaf, _ = in_dims
        if at_leaf is None:
            raise EquifuseError("under vmap a solver must return a state that depends on the map; this one does not")

        def fold(x: Tensor, axis: int | None) -> Tensor:
            return (x.expand(info.batch_size, *x.shape) if axis is None else x.movedim(axis, 0)).flatten(0, 1)

        folded = replace(how, mapped=(*how.mapped, at_leaf))
        apply = cast(Callable[..., Tensor], _ImplicitFunction.apply)
        image = apply(fold(fz, at_fz), fold(z, at_z), z_in, folded)
        return image.reshape(info.batch_size, len(image) // info.batch_size, *image.shape[1:]), 0


class _OnceDifferentiable(torch.autograd.Function):
    """Returns ``u``, which depends on the other tensors in a way that has no derivative here."""

    generate_vmap_rule = True

    @staticmethod
    def forward(u: Tensor, *depends_on: Tensor) -> Tensor:
        return u.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        raise EquifuseError(_NO_SECOND_DERIVATIVE)


class _ExplicitFunction(torch.autograd.Function):
    """Returns ``z*`` unchanged; its backward solves ``u = Jᵀu + g`` and passes ``u`` on to the tensors the map uses."""

    @staticmethod
    def forward(
        ctx: Any,
        f: ExplicitMap,
        z: Tensor,
        saved: Saved,
        method: Method,
        default_tol: float,
        stats: SolverStats,
        *closure: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(*saved, *closure)  # with the closure, so that autograd notices weights changed in place
        ctx.f, ctx.method, ctx.default_tol, ctx.stats, ctx.count = f, method, default_tol, stats, len(saved)
        ctx.set_materialize_grads(False)
        return z.clone()

    @staticmethod
    def backward(ctx: FunctionCtx, *grad_outputs: Any) -> Any:
        c = cast(Any, ctx)
        _refuse_double_backward()
        (g,) = grad_outputs
        saved = c.saved_tensors[: c.count]
        if g is None:
            return (None,) * (6 + len(c.saved_tensors) - c.count)
        with torch.autocast(g.device.type, enabled=False):
            gradients, adjoint = explicit_gradients(c.f, saved, g, c.method, c.default_tol)
        _note(c.stats, adjoint)
        return (None, None, None, None, None, None, *gradients)


def _refuse_double_backward() -> None:
    if torch.is_grad_enabled():
        raise EquifuseError(_NO_SECOND_DERIVATIVE)


def _note(stats: SolverStats, adjoint: SolverStats) -> None:
    """Add the statistics of the backward solve to those of the forward one, and warn of what did not converge."""
    stats.backward[:] = [adjoint]
    report(adjoint, "adjoint")


def _needs_more_than(fz: Tensor, z_in: Tensor) -> bool:
    """Whether ``fz`` needs a gradient with respect to anything besides ``z_in``; stops at the first such tensor."""
    stack, seen = [fz.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if getattr(node, "variable", z_in) is not z_in:
            return True
        stack.extend(parent for parent, _ in node.next_functions)
    return False


@overload
def fixed_point(
    f: FixedPointMap,
    z0: Tensor,
    *,
    solver: Solver | None = None,
    gradient: Gradient | None = None,
    strict: bool = False,
    warn: bool = True,
    iterates: Sequence[int] = (),
) -> tuple[Tensor, SolverStats]: ...
@overload
def fixed_point(
    f: Callable[..., tuple[Tensor, ...]],
    z0: tuple[Tensor, ...],
    *,
    solver: Solver | None = None,
    gradient: Gradient | None = None,
    strict: bool = False,
    warn: bool = True,
    iterates: Sequence[int] = (),
) -> tuple[tuple[Tensor, ...], SolverStats]: ...
def fixed_point(
    f: Callable[..., Any],
    z0: Tensor | tuple[Tensor, ...],
    *,
    solver: Solver | None = None,
    gradient: Gradient | None = None,
    strict: bool = False,
    warn: bool = True,
    iterates: Sequence[int] = (),
) -> tuple[Any, SolverStats]:
    """Solve ``z = f(z)`` for every sample of a batch, differentiably.

    >>> z, stats = ef.fixed_point(torch.cos, torch.zeros(2, 3))
    >>> z[0]
    tensor([0.7391, 0.7391, 0.7391])
    >>> stats.converged
    tensor([True, True])
    >>> f = lambda a, b: (b.mean(1), (a / 2 + 1)[:, None].expand(-1, 3))  # two states that depend on each other
    >>> (a, b), _ = ef.fixed_point(f, (torch.zeros(2), torch.zeros(2, 3)))
    >>> a, b.shape
    (tensor([2., 2.]), torch.Size([2, 3]))

    Args:
        f: map ``(B, …) -> (B, …)``. It may close over tensors and modules that need gradients, and must treat samples
            independently: no batch statistics, no randomness that changes between calls (for dropout inside ``f`` draw
            one mask outside). If it has a method ``select(rows)`` that returns the map of some samples alone (``rows``:
            sorted int64 indices into the batch), samples that have converged leave the batch, so that a few slow ones
            cost little.
        z0: ``(B, …)`` floating-point start; gets no gradient. Or a tuple of such tensors, of any shapes with the same
            batch axis: then ``f`` takes as many states and returns a tuple of them, and a sample stops when its whole
            state is within the tolerance.
        solver: default ``Anderson()``: relative tolerance 1e-4 per sample, at most 50 evaluations.
        gradient: default ``Implicit()``. None is computed under ``torch.no_grad``.
        strict: raise an error instead of a warning when a sample does not converge.
        warn: whether to warn when a sample does not converge; the statistics have it in any case.
        iterates: numbers of evaluations. ``stats.iterates`` then has the best state after each, for losses on the way;
            each costs as many evaluations more. Its gradient is that of one evaluation at it (as :class:`JFB`), or with
            :class:`Unrolled` of all of them.

    Returns:
        ``z`` ``(B, …)`` in the dtype of ``z0``, or a tuple of such, and the :class:`SolverStats`. A sample that did not
        converge holds its best iterate, with ``stats.converged`` False; there is at most one
        :class:`ConvergenceWarning` per call.

    Raises:
        InputError: ``z0`` is not a floating-point tensor with a batch axis, or ``f`` changes its shape.
        NotConvergedError: ``strict`` is set and a sample did not converge.

    Precision: ``f`` is always evaluated outside ``torch.autocast``, in the dtype of ``z0``. The solver's own state is
    float32 (float64 for a float64 ``z0``), because a half-precision iterate cannot reach a tolerance of 1e-4.
    """
    solver = Anderson() if solver is None else solver
    gradient = Implicit() if gradient is None else gradient
    if not isinstance(solver, Solver):
        raise InputError(f"solver must be a Solver such as Anderson(), got {type(solver).__name__}")
    if not isinstance(gradient, Gradient):
        raise InputError(f"gradient must be a Gradient such as Implicit(), got {type(gradient).__name__}")
    if isinstance(z0, tuple):
        joint = TupleMap(f, z0)
        z, stats = fixed_point(
            joint, joint.join(z0), solver=solver, gradient=gradient, strict=strict, warn=warn, iterates=iterates
        )
        stats.iterates = [joint.split(state) for state in stats.iterates]
        return joint.split(z), stats
    if any(isinstance(count, bool) or not isinstance(count, int) or count < 1 for count in iterates):
        raise InputError(f"iterates must be numbers of evaluations, at least 1 each, got {list(iterates)}")
    if not z0.is_floating_point() or z0.dim() == 0:
        raise InputError(f"z0 must be a floating-point tensor (B, ...), got {z0.dtype} of shape {tuple(z0.shape)}")
    with without_autocast(z0.device), one_solve():
        z, stats = _solve(f, z0, solver, gradient, strict)
        rule = gradient if isinstance(gradient, Unrolled) else JFB()
        for count in iterates:
            stats.iterates.append(_solve(f, z0, replace(solver, max_steps=count), rule, False)[0])
        if strict or warn:
            report(stats, "forward", strict=strict)
    return z, stats


def _solve(
    f: FixedPointMap, z0: Tensor, solver: Solver, gradient: Gradient, strict: bool
) -> tuple[Tensor, SolverStats]:
    """What the solver finds, with a gradient where one is recorded."""
    if torch.compiler.is_compiling() and isinstance(f, PackedMap) and isinstance(solver, Anderson):
        method = gradient.method()
        if isinstance(method, GMRES | Series):
            return solve_compiled(f, z0.detach(), solver, method, strict)
    differentiable = torch.is_grad_enabled()
    with torch.set_grad_enabled(differentiable and isinstance(gradient, Unrolled)):
        z, stats = solver.solve(f, z0.detach(), None if transformed() else row_selector(f))
    z = z.to(z0.dtype)
    return gradient.attach(f, z, stats, solver) if differentiable else z, stats


def report(
    stats: SolverStats, which: str, *, strict: bool = False, cause: Callable[[], str | None] = lambda: None
) -> None:
    """Warn once, or raise :class:`NotConvergedError`, if a sample of a solve did not converge.

    Does nothing in a compiled or recorded graph, whose statistics are available to the caller.

    Args:
        stats: the statistics of the solve.
        which: ``"forward"`` or ``"adjoint"``.
        strict: raise instead of warning.
        cause: gives a reason that the caller knows of, and what to do; asked only if a sample did not converge.
    """
    if not can_read(stats.converged) or stats.all_converged():
        return
    converged, residual, steps = (values(x) for x in (stats.converged, stats.residual, stats.steps))
    failed = int((~converged).sum())
    advice = None if transformed() else cause()
    lost = int((residual == torch.inf).sum())
    if advice is None and lost:
        advice = f"values of the map, or its start, are not finite in {lost} of them"
        if which == "adjoint":
            advice = f"the gradient that came in is not finite, or too large, in {lost} of them and is passed on as NaN"
    message = (
        f"{failed} of {converged.numel()} samples did not converge in the {which} solve "
        f"(largest relative residual {residual.max().item():.1e} after {int(steps.max())} evaluations); "
        f"{advice or 'raise max_steps or tol, or lower the spectral radius of the map'}"
    )
    if strict:
        raise NotConvergedError(message)
    warnings.warn(message, ConvergenceWarning, stacklevel=3)
