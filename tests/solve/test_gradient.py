import gc
import weakref

import pytest
import torch
from torch import nn

import equifuse as ef
from equifuse.solve.adjoint import solve_adjoint
from tests.growth import assert_no_growth

TIGHT = ef.Anderson(tol=1e-13, max_steps=500)
EXACT = {
    "gmres": ef.Implicit(),
    "gmres restarted": ef.Implicit(solver=ef.GMRES(tol=1e-12, max_steps=400, restart=5)),
    "anderson": ef.Implicit(solver=ef.Anderson(tol=1e-13, max_steps=500)),
    "broyden": ef.Implicit(solver=ef.Broyden(tol=1e-13, max_steps=500, memory=50)),
    "picard": ef.Implicit(solver=ef.Picard(tol=1e-13, max_steps=3000)),
    "unrolled": ef.Unrolled(),
}


class Layer(nn.Module):
    def __init__(self, width=8, dtype=torch.float64):
        super().__init__()
        self.w = nn.Parameter(torch.randn(width, width, dtype=dtype) * 0.5 / width**0.5)
        self.x = nn.Parameter(torch.randn(5, width, dtype=dtype))

    def forward(self, z):
        return torch.tanh(z @ self.w + self.x)


def dense_gradients(layer, cotangent):
    """The implicit function theorem by dense linear algebra, one sample at a time."""
    z, _ = ef.fixed_point(layer, torch.zeros_like(layer.x), solver=TIGHT, gradient=ef.Phantom())
    z = z.detach()
    u = torch.empty_like(z)
    for i in range(len(z)):
        jacobian = torch.autograd.functional.jacobian(
            lambda row, i=i: torch.tanh(row @ layer.w + layer.x[i]), z[i]
        ).detach()
        u[i] = torch.linalg.solve(torch.eye(z.shape[1], dtype=z.dtype) - jacobian.T, cotangent[i])
    return torch.autograd.grad((layer(z) * u).sum(), (layer.w, layer.x))


@pytest.mark.parametrize("gradient", EXACT.values(), ids=EXACT.keys())
def test_gradient_equals_the_dense_solve(gradient):
    layer = Layer()
    cotangent = torch.randn(5, 8, dtype=torch.float64)
    expected = dense_gradients(layer, cotangent)
    z, stats = ef.fixed_point(layer, torch.zeros_like(layer.x), solver=TIGHT, gradient=gradient)
    got = torch.autograd.grad((z * cotangent).sum(), (layer.w, layer.x))
    for a, b in zip(got, expected, strict=True):
        assert float((a - b).norm() / b.norm()) < 1e-9
    if isinstance(gradient, ef.Implicit):
        assert bool(stats.adjoint.converged.all())
    else:
        assert stats.adjoint is None


def test_phantom_gradient_bias_falls_with_steps_and_keeps_the_value():
    layer = Layer()
    cotangent = torch.randn(5, 8, dtype=torch.float64)
    expected = torch.cat([g.flatten() for g in dense_gradients(layer, cotangent)])
    exact, _ = ef.fixed_point(layer, torch.zeros_like(layer.x), solver=TIGHT)
    errors = []
    for steps in (1, 4, 16, 64):
        z, _ = ef.fixed_point(layer, torch.zeros_like(layer.x), solver=TIGHT, gradient=ef.Phantom(steps=steps))
        assert torch.equal(z.detach(), exact.detach())
        got = torch.cat([g.flatten() for g in torch.autograd.grad((z * cotangent).sum(), (layer.w, layer.x))])
        errors.append(float((got - expected).norm() / expected.norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-2
    assert errors[-1] < 1e-9


@pytest.mark.parametrize("steps", [1, 4])
def test_neumann_gradient_is_the_phantom_gradient_at_a_fixed_point(steps):
    layer = Layer()
    rules = [ef.Phantom(steps=steps), ef.Neumann(steps=steps)] + ([ef.JFB()] if steps == 1 else [])
    found = []
    for gradient in rules:
        z, stats = ef.fixed_point(layer, torch.zeros_like(layer.x), solver=TIGHT, gradient=gradient)
        found.append(torch.autograd.grad(z.pow(3).sum(), (layer.w, layer.x)))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])
    assert stats.adjoint.steps.tolist() == 5 * [steps - 1]


def test_neumann_gradient_of_a_fusion_tends_to_the_implicit_one():
    torch.manual_seed(0)
    fusion = ef.DEQFusion({"a": 3, "b": 2}, 8, contraction=0.5, solver=ef.Anderson(tol=1e-12, max_steps=200)).double()
    x = {m: torch.randn(4, width, dtype=torch.float64) for m, width in fusion.dims.items()}
    weights, found = torch.randn(4, 8, dtype=torch.float64), []
    for gradient in (ef.Implicit(solver=ef.GMRES(tol=1e-12)), ef.Neumann(steps=60), ef.JFB()):
        fusion.gradient = gradient
        gradients = torch.autograd.grad((fusion(x).fused * weights).sum(), list(fusion.parameters()))
        found.append(torch.cat([g.flatten() for g in gradients]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-8, atol=1e-10)
    assert torch.nn.functional.cosine_similarity(found[2], found[0], dim=0) > 0.5


def test_a_gradient_that_is_not_finite_stays_so_in_a_series():
    layer = Layer()
    z, stats = ef.fixed_point(layer, torch.zeros_like(layer.x), gradient=ef.Neumann())
    cotangent = torch.ones_like(z)
    cotangent[1, 0] = torch.inf
    with pytest.warns(ef.ConvergenceWarning, match="not finite"):
        (got,) = torch.autograd.grad(z, layer.x, cotangent)
    assert torch.isfinite(got).all(1).tolist() == [True, False, True, True, True]
    assert stats.adjoint.converged.tolist() == [True, False, True, True, True]


def test_gradcheck_through_the_solver():
    b = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    w = (torch.randn(4, 4, dtype=torch.float64) * 0.3).requires_grad_()

    def solve(w, b):
        return ef.fixed_point(lambda z: torch.tanh(z @ w + b), torch.zeros_like(b), solver=TIGHT)[0]

    assert torch.autograd.gradcheck(solve, (w, b))


def test_stages_compose():
    """A fixed point inside the map of another one: the adjoints chain in reverse order by themselves."""
    a, b = Layer(), Layer()
    cotangent = torch.randn(5, 8, dtype=torch.float64)

    def run(gradient):
        first, _ = ef.fixed_point(a, torch.zeros_like(a.x), solver=TIGHT, gradient=gradient)
        z, _ = ef.fixed_point(
            lambda z: torch.tanh(z @ b.w + b.x * first), torch.zeros_like(b.x), solver=TIGHT, gradient=gradient
        )
        return torch.autograd.grad((z * cotangent).sum(), (a.w, a.x, b.w, b.x))

    for got, expected in zip(run(ef.Implicit()), run(ef.Unrolled()), strict=True):
        assert float((got - expected).norm() / expected.norm()) < 1e-8


def test_double_backward_is_refused_and_unrolled_supports_it():
    layer = Layer()
    z, _ = ef.fixed_point(layer, torch.zeros_like(layer.x), solver=TIGHT)
    with pytest.raises(ef.EquifuseError, match=r"double backward.*Unrolled"):
        torch.autograd.grad(z.sum(), layer.w, create_graph=True)
    z, _ = ef.fixed_point(layer, torch.zeros_like(layer.x), solver=TIGHT, gradient=ef.Unrolled())
    (g,) = torch.autograd.grad(z.sum(), layer.w, create_graph=True)
    (second,) = torch.autograd.grad(g.square().sum(), layer.w)
    assert bool(torch.isfinite(second).all())
    assert float(second.abs().max()) > 0


def test_backward_twice_with_retain_graph_accumulates():
    layer = Layer()
    z, _ = ef.fixed_point(layer, torch.zeros_like(layer.x), solver=TIGHT)
    z.sum().backward(retain_graph=True)
    once = layer.w.grad.clone()
    z.sum().backward()
    torch.testing.assert_close(layer.w.grad, 2 * once)


def test_no_grad_and_nothing_to_differentiate():
    layer = Layer()
    with torch.no_grad():
        z, _ = ef.fixed_point(layer, torch.zeros_like(layer.x))
    assert not z.requires_grad
    with torch.inference_mode():
        z, _ = ef.fixed_point(layer, torch.zeros_like(layer.x))
    assert not z.requires_grad
    z, _ = ef.fixed_point(torch.cos, torch.zeros(2, 2))
    assert not z.requires_grad


def test_start_gets_no_gradient():
    layer = Layer()
    z0 = torch.zeros(5, 8, dtype=torch.float64, requires_grad=True)
    for gradient in (ef.Implicit(), ef.Phantom(), ef.Unrolled()):
        z, _ = ef.fixed_point(layer, z0, solver=TIGHT, gradient=gradient)
        z.sum().backward()
        assert z0.grad is None


def test_autocast_keeps_the_solver_in_float32():
    layer = Layer(dtype=torch.float32)
    seen = set()

    def f(z):
        out = layer(z)
        seen.update({z.dtype, out.dtype})
        return out

    plain, _ = ef.fixed_point(f, torch.zeros(5, 8), solver=ef.Anderson(tol=1e-6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, stats = ef.fixed_point(f, torch.zeros(5, 8), solver=ef.Anderson(tol=1e-6))
        z.sum().backward()
    assert seen == {torch.float32}
    assert bool(stats.converged.all())
    assert torch.equal(z, plain)


def test_an_adjoint_that_does_not_converge_is_reported():
    layer = Layer()
    z, stats = ef.fixed_point(
        layer,
        torch.zeros_like(layer.x),
        solver=TIGHT,
        gradient=ef.Implicit(solver=ef.GMRES(tol=1e-12, max_steps=2)),
    )
    with pytest.warns(ef.ConvergenceWarning, match="adjoint"):
        z.sum().backward()
    assert not bool(stats.adjoint.converged.all())


def test_graph_is_freed_without_the_garbage_collector():
    layer = Layer()
    gc.collect()
    gc.disable()
    try:
        z, stats = ef.fixed_point(layer, torch.zeros_like(layer.x), solver=TIGHT)
        node = weakref.ref(z.grad_fn)
        z.sum().backward()
        del z, stats
        assert node() is None
    finally:
        gc.enable()


@pytest.mark.slow
def test_memory_does_not_grow_over_a_thousand_training_steps():
    layer = Layer(width=4, dtype=torch.float32)
    optimiser = torch.optim.SGD(layer.parameters(), lr=1e-3)

    def train(steps):
        for _ in range(steps):
            z, _ = ef.fixed_point(layer, torch.zeros(5, 4), solver=ef.Anderson(tol=1e-2))
            optimiser.zero_grad()
            z.square().sum().backward()
            optimiser.step()

    assert_no_growth(train)


@pytest.mark.parametrize("good", [0, 1, 3])
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_an_adjoint_that_breaks_down_is_not_called_solved(good, wrong):
    """After so many good products one row gets none; it keeps what it had, and the others never know."""
    torch.manual_seed(0)
    a = 0.2 * torch.randn(3, 8, 8, dtype=torch.float64)
    g = torch.randn(3, 8, dtype=torch.float64)
    calls = []

    def product(u):
        calls.append(1)
        image = torch.einsum("bij,bi->bj", a, u)
        return image if len(calls) <= good else image * torch.tensor([[1.0], [wrong], [1.0]], dtype=torch.float64)

    u, stats = solve_adjoint(product, g, ef.solve.GMRES(restart=5), 1e-10)
    assert stats.converged.tolist() == [True, False, True]
    assert stats.residual[1] > 1e-10
    assert bool(torch.isfinite(u).all())
    expected = torch.linalg.solve(torch.eye(8, dtype=torch.float64) - a.mT, g)
    torch.testing.assert_close(u[[0, 2]], expected[[0, 2]], rtol=1e-8, atol=1e-9)
