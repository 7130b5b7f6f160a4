"""torch.func through implicit fixed points: the same as dense solves, and as autograd sample by sample."""

import pytest
import torch
from torch.func import functional_call, grad, jacfwd, jacrev, vjp, vmap

import equifuse as ef

TIGHT = ef.Anderson(tol=1e-12, max_steps=200)
EXACT = ef.Implicit(solver=ef.GMRES(tol=1e-12))
N = 4


def problem():
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(N, N, generator=generator, dtype=torch.float64) * 0.25
    x = torch.randn(3, 2, N, generator=generator, dtype=torch.float64)
    return w, x


def solve(w, x, **options):
    def f(z):
        return torch.tanh(z @ w + x)

    options = {"solver": TIGHT, "gradient": EXACT, **options}
    return ef.fixed_point(f, torch.zeros(x.shape, dtype=x.dtype), **options)[0]


def loss(w, x):
    return solve(w, x).pow(3).sum()


def dense_jacobian(w, x):
    """``dz/dx`` of one row: ``(1 − D Wᵀ)⁻¹ D`` with ``D`` the derivative of tanh."""
    z = solve(w, x[None])[0]
    d = torch.diag(1 - z.square())
    return torch.linalg.solve(torch.eye(N, dtype=w.dtype) - d @ w.T, d)


def by_autograd(w, x):
    w = w.clone().requires_grad_()
    return torch.autograd.grad(loss(w, x), w)[0]


def test_vmap_solves_each_slice():
    w, x = problem()
    torch.testing.assert_close(vmap(solve, (None, 0))(w, x), torch.stack([solve(w, each) for each in x]))
    ensemble = torch.stack([w, 0.5 * w, -w])
    torch.testing.assert_close(
        vmap(solve)(ensemble, x), torch.stack([solve(*each) for each in zip(ensemble, x, strict=True)])
    )


def test_grad_and_vjp():
    w, x = problem()
    expected = by_autograd(w, x[0])
    torch.testing.assert_close(grad(loss)(w, x[0]), expected)
    _, pull = vjp(lambda w: loss(w, x[0]), w)
    torch.testing.assert_close(pull(torch.tensor(2.0, dtype=w.dtype))[0], 2 * expected)


def test_per_sample_gradients():
    w, x = problem()
    expected = torch.stack([by_autograd(w, each) for each in x])
    torch.testing.assert_close(vmap(grad(loss), (None, 0))(w, x), expected)
    torch.testing.assert_close(grad(lambda w: vmap(loss, (None, 0))(w, x).sum())(w), expected.sum(0))
    pairs = torch.stack([w, 0.5 * w])
    nested = vmap(vmap(grad(loss), (None, 0)), (0, None))(pairs, x)
    torch.testing.assert_close(nested, torch.stack([vmap(grad(loss), (None, 0))(each, x) for each in pairs]))


def test_jacobian_is_that_of_the_dense_solve():
    w, x = problem()
    jacobian = jacrev(lambda x: solve(w, x[None])[0])(x[0, 0])
    torch.testing.assert_close(jacobian, dense_jacobian(w, x[0, 0]))
    each = vmap(jacrev(lambda x: solve(w, x[None])[0]))(x[:, 0])
    torch.testing.assert_close(each, torch.stack([dense_jacobian(w, row) for row in x[:, 0]]))


@pytest.mark.parametrize("out", [0, 1])
def test_autograd_outside_of_vmap(out):
    w, x = problem()
    ensemble = torch.stack([w, 0.5 * w, -w], out).requires_grad_()
    vmap(solve, (out, 0), out)(ensemble, x).pow(3).sum().backward()
    expected = torch.stack([by_autograd(*each) for each in zip(ensemble.detach().unbind(out), x, strict=True)], out)
    torch.testing.assert_close(ensemble.grad, expected)
    two = torch.stack([ensemble.detach(), 0.3 * ensemble.detach()]).requires_grad_()
    z = vmap(vmap(solve, (out, 0)), (0, None))(two, x)
    z.pow(3).sum().backward()
    torch.testing.assert_close(two.grad[0], expected)


@pytest.mark.parametrize(
    "gradient",
    [ef.Phantom(steps=60), ef.Neumann(steps=60), ef.Unrolled(), ef.Implicit(solver=TIGHT)],
    ids=lambda rule: rule.name,
)
@pytest.mark.parametrize("solver", [ef.Broyden(tol=1e-12), ef.Picard(tol=1e-12, max_steps=400)], ids=lambda s: s.name)
def test_other_rules_and_solvers(gradient, solver):
    w, x = problem()

    def other(w, x):
        return solve(w, x, solver=solver, gradient=gradient).pow(3).sum()

    expected = torch.stack([by_autograd(w, each) for each in x])
    torch.testing.assert_close(vmap(grad(other), (None, 0))(w, x), expected, rtol=1e-5, atol=1e-8)


def test_second_derivatives_need_the_unrolled_rule():
    w, x = problem()

    def unrolled(x):
        return solve(w, x, gradient=ef.Unrolled()).pow(3).sum()

    second = jacrev(grad(unrolled))(x[0])
    torch.testing.assert_close(second, torch.func.hessian(unrolled)(x[0]), rtol=1e-6, atol=1e-8)
    with pytest.raises(ef.EquifuseError, match=r"double backward.*Unrolled"):
        grad(lambda x: grad(lambda x: loss(w, x))(x).square().sum())(x[0])


def test_forward_mode_needs_a_rule_on_the_tape():
    w, x = problem()
    expected = jacrev(lambda x: solve(w, x))(x[0])
    for gradient in (ef.Unrolled(), ef.Phantom(steps=80)):
        found = jacfwd(lambda x, gradient=gradient: solve(w, x, gradient=gradient))(x[0])
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    with pytest.raises(NotImplementedError, match="jvp"):
        jacfwd(lambda x: solve(w, x))(x[0])


def test_what_does_not_converge_is_reported():
    w, x = problem()
    with pytest.warns(ef.ConvergenceWarning, match="6 of 6 samples"):
        vmap(lambda x: solve(w, x, solver=ef.Picard(tol=1e-12, max_steps=2)))(x)


def test_per_sample_gradients_of_a_fusion():
    torch.manual_seed(0)
    solver = ef.Anderson(tol=1e-10, max_steps=200)
    fusion = ef.DEQFusion({"a": 3, "b": 2}, 8, solver=solver, gradient=ef.Implicit(solver=ef.GMRES(tol=1e-10))).double()
    parameters = dict(fusion.named_parameters())
    a, b, weights = (torch.randn(3, width, dtype=torch.float64) for width in (3, 2, 8))
    here = torch.tensor([True, False, True])

    def of_one(parameters, a, b, here, weights):
        inputs = {"a": a[None], "b": b[None]}
        out = functional_call(fusion, parameters, (inputs, {"b": here[None]}))
        return (out.fused * weights).sum()

    each = vmap(grad(of_one), (None, 0, 0, 0, 0))(parameters, a, b, here, weights)
    for i in range(3):
        total = of_one(parameters, a[i], b[i], here[i], weights[i])
        expected = torch.autograd.grad(total, list(parameters.values()))
        for (name, found), wanted in zip(each.items(), expected, strict=True):
            torch.testing.assert_close(found[i], wanted, rtol=1e-6, atol=1e-8, msg=name)
