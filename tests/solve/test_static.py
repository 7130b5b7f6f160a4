"""Anderson acceleration of fixed shape: the same iterates as Anderson's, as a graph."""

from itertools import pairwise

import pytest
import torch

import equifuse as ef
from equifuse.solve import StaticAnderson, make_solver


def affine(radius, batch=5, width=12, seed=0):
    """``z A + b`` per sample, and its fixed points."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(batch, width, width, dtype=torch.float64, generator=generator)
    a = a * (radius / torch.linalg.eigvals(a).abs().amax(1))[:, None, None]
    b = torch.randn(batch, width, dtype=torch.float64, generator=generator)
    solution = torch.linalg.solve(torch.eye(width, dtype=torch.float64) - a, b)
    return (lambda z: (a @ z[..., None]).squeeze(-1) + b), torch.zeros_like(b), solution


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("radius", [0.5, 0.95, 1.5])
def test_a_linear_map_is_solved_exactly_in_one_step_more_than_it_has_dimensions(radius, loop):
    f, start, solution = affine(radius)
    solver = StaticAnderson(tol=1e-9, max_steps=14, memory=13, loop=loop)
    z, stats = ef.fixed_point(f, start, solver=solver)
    assert bool(stats.converged.all())
    torch.testing.assert_close(z, solution, rtol=1e-6, atol=1e-7)


def test_its_iterates_are_andersons():
    """Of equation γ = argmin ‖r − ΔR γ‖, z⁺ = f(z) − ΔF γ, solved here by QR."""
    f, start, _ = affine(0.9)
    curved = lambda z: torch.tanh(f(z))  # noqa: E731
    z, images, residuals, expected = start, [], [], []
    for _ in range(6):
        fz = curved(z)
        images.append(fz)
        residuals.append(fz - z)
        expected.append(torch.linalg.vector_norm(fz - z, dim=1) / torch.linalg.vector_norm(fz, dim=1))
        if len(images) == 1:
            z = fz
            continue
        dr = torch.stack([b - a for a, b in pairwise(residuals)], dim=2)
        df = torch.stack([b - a for a, b in pairwise(images)], dim=2)
        gamma = torch.linalg.lstsq(dr, residuals[-1][..., None]).solution
        z = fz - (df @ gamma).squeeze(-1)
    _, stats = ef.fixed_point(curved, start, solver=StaticAnderson(tol=1e-15, max_steps=6), warn=False)
    best = torch.stack(expected).cummin(0).values
    torch.testing.assert_close(stats.trace, best, rtol=1e-8, atol=0)


def test_in_the_common_loop_it_takes_the_same_steps():
    """Its step rule there, its own graph here."""
    f, start, solution = affine(0.5)
    solver = StaticAnderson(tol=1e-10, max_steps=40, memory=4, patience=0)
    z, stats = super(StaticAnderson, solver).solve(f, start)
    _, own = solver.solve(f, start)
    assert bool(stats.converged.all())
    torch.testing.assert_close(z, solution, rtol=1e-7, atol=1e-8)
    assert torch.equal(stats.steps, own.steps)


def test_without_memory_it_is_plain_iteration():
    f, start, _ = affine(0.9)
    for damping in (1.0, 0.7):
        expected = ef.Picard(tol=1e-12, max_steps=9, patience=0, damping=damping).solve(f, start)
        for loop in (False, True):
            solver = StaticAnderson(tol=1e-12, max_steps=9, memory=0, damping=damping, loop=loop)
            z, stats = solver.solve(f, start)
            torch.testing.assert_close(z, expected[0], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(stats.residual, expected[1].residual, rtol=1e-9, atol=0)


def test_a_sample_does_not_feel_its_batch_mates():
    f, start, _ = affine(0.9, batch=4)
    other, _, _ = affine(1.4, batch=4, seed=3)

    def both(z):
        return torch.cat([f(z[:4]), other(z[4:])])

    for loop in (False, True):
        solver = StaticAnderson(tol=1e-6, max_steps=30, memory=3, loop=loop)
        alone, of_alone = solver.solve(f, start)
        together, of_both = solver.solve(both, torch.cat([start, start]))
        torch.testing.assert_close(together[:4], alone, rtol=0, atol=0)
        assert torch.equal(of_both.steps[:4], of_alone.steps)
        assert torch.equal(of_both.residual[:4], of_alone.residual)


def test_what_is_not_finite_never_comes_out():
    f, start, _ = affine(0.5)

    def broken(z):
        return torch.where((z.abs() > 0.9).any(1, keepdim=True), torch.nan, f(z))

    z, stats = StaticAnderson(max_steps=12).solve(broken, start)
    assert bool(torch.isfinite(z).all())
    torch.testing.assert_close(
        stats.residual,
        torch.linalg.vector_norm(broken(z) - z, dim=1) / torch.linalg.vector_norm(broken(z), dim=1),
    )


def test_gradients_through_the_written_out_steps():
    torch.manual_seed(0)
    w = (0.1 * torch.randn(6, 6, dtype=torch.float64)).requires_grad_()
    x = torch.randn(3, 6, dtype=torch.float64)

    def solve(gradient, solver):
        z, _ = ef.fixed_point(lambda z: torch.tanh(z @ w + x), torch.zeros_like(x), solver=solver, gradient=gradient)
        return torch.autograd.grad(z.square().sum(), w)[0]

    exact = solve(ef.Implicit(), ef.Anderson(tol=1e-13, max_steps=100))
    unrolled = solve(ef.Unrolled(), StaticAnderson(tol=1e-10, max_steps=12))
    torch.testing.assert_close(unrolled, exact, rtol=1e-5, atol=1e-8)


def test_it_is_stored_and_checked_like_other_solvers():
    solver = StaticAnderson(tol=1e-5, memory=7, loop=True)
    assert make_solver(solver.config()) == solver
    with pytest.raises(ef.InputError, match="memory must not be negative"):
        StaticAnderson(memory=-1)
