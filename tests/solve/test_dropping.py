"""Maps that can be restricted to some samples: converged ones leave the batch, and nothing else changes."""

from dataclasses import replace

import pytest
import torch

import equifuse as ef
from equifuse.solve.adjoint import solve_adjoint
from equifuse.solve.krylov import GMRES
from tests.solve.problems import SOLVERS

WIDTH = 40  # more than the steps of an easy sample: a long memory solves width 12 in 12 steps, whatever the matrix


class Rowwise:
    """tanh(A z + b) with a matrix per sample, from very easy to slow; records the batch sizes it is called with."""

    def __init__(self, a, b, calls):
        self.a, self.b, self.calls = a, b, calls

    def __call__(self, z):
        self.calls.append(len(z))
        return torch.tanh(torch.einsum("bij,bj->bi", self.a, z) + self.b)

    def select(self, rows):
        assert bool((rows.diff() > 0).all())
        return Rowwise(self.a[rows], self.b[rows], self.calls)


def problem(batch=9):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(batch, WIDTH, WIDTH, dtype=torch.float64, generator=generator)
    a = a / torch.linalg.matrix_norm(a, ord=2)[:, None, None] * torch.linspace(0.05, 0.99, batch)[:, None, None]
    b = 0.3 * torch.randn(batch, WIDTH, dtype=torch.float64, generator=generator)
    shuffled = torch.randperm(batch, generator=generator)
    return a[shuffled].requires_grad_(), b[shuffled].requires_grad_()


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s.name)
@pytest.mark.parametrize("gradient", [ef.Implicit(), ef.Implicit(solver=ef.Anderson(tol=1e-12, max_steps=300))])
def test_dropping_changes_nothing_but_the_work(solver, gradient):
    results = []
    for plain in (True, False):
        a, b = problem()
        f = Rowwise(a, b, [])
        called = f.calls
        z, stats = ef.fixed_point(
            (lambda z, f=f: f(z)) if plain else f, torch.zeros_like(b), solver=solver, gradient=gradient
        )
        forward = list(called)
        grads = torch.autograd.grad((z * torch.arange(WIDTH)).sum(), [a, b])
        results.append((z, stats, grads, forward, stats.adjoint))
    (z, stats, grads, forward, adjoint), (z2, stats2, grads2, forward2, adjoint2) = results
    torch.testing.assert_close(z2, z, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(stats2.steps, stats.steps)
    torch.testing.assert_close(adjoint2.steps, adjoint.steps)
    torch.testing.assert_close(stats2.trace, stats.trace, rtol=1e-3, atol=1e-13)
    torch.testing.assert_close(grads2, grads, rtol=1e-7, atol=1e-10)
    assert bool(adjoint2.converged.all())
    assert set(forward) == {9}
    assert min(forward2) < 4
    assert sum(forward2) < 0.9 * sum(forward)


def test_gmres_drops_solved_rows_also_across_restarts():
    a, _ = problem()
    a = a.detach()
    g = torch.randn(9, WIDTH, dtype=torch.float64)
    g[3] = 0
    sizes = []

    def restricted(matrix):
        def product(u):
            sizes.append(len(u))
            return torch.einsum("bij,bj->bi", matrix, u)

        return product

    u, stats = solve_adjoint(
        restricted(a), g, GMRES(restart=5, max_steps=400), 1e-10, select_rows=lambda rows: restricted(a[rows])
    )
    exact = torch.linalg.solve(torch.eye(WIDTH, dtype=torch.float64) - a, g)
    torch.testing.assert_close(u, exact, rtol=1e-7, atol=1e-8)
    assert bool(stats.converged.all())
    assert stats.steps[3] == 0
    assert sizes[0] == 8  # the row without a right-hand side is solved
    assert sizes[-1] <= 3


def test_a_sample_that_never_converges_is_left_alone_with_its_budget():
    a, b = problem()
    a = a.detach().clone()
    a[0] = 0
    f = Rowwise(a, b.detach(), [])

    class Growing(Rowwise):
        """One sample moves on for ever."""

        def __call__(self, z):
            out = super().__call__(z)
            return torch.where((self.a.abs().sum((1, 2)) == 0)[:, None], z + 1, out)

        def select(self, rows):
            return Growing(self.a[rows], self.b[rows], self.calls)

    growing = Growing(a, b.detach(), f.calls)
    with pytest.warns(ef.ConvergenceWarning, match="1 of 9"):
        z, stats = ef.fixed_point(growing, torch.zeros(9, WIDTH, dtype=torch.float64), solver=ef.Anderson(max_steps=80))
    assert stats.converged.tolist() == [False] + [True] * 8
    assert int(stats.steps[0]) == 80
    assert f.calls[-2] == 1  # the last call is the one a gradient would be taken through
    alone, _ = ef.fixed_point(f, torch.zeros(9, WIDTH, dtype=torch.float64), solver=replace(ef.Anderson(), tol=1e-4))
    torch.testing.assert_close(z[1:], alone[1:], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("solver", SOLVERS[1:], ids=lambda s: s.name)
def test_samples_leave_after_others_have_stalled(solver):
    """The fallback method, which may be the first one itself, forgets those that leave once."""
    solver = replace(solver, patience=1)
    a, b = problem()
    a = 1.5 * a.detach()  # the hardest have no attracting fixed point
    f = Rowwise(a, b.detach(), [])
    with torch.no_grad():
        z, stats = ef.fixed_point(f, torch.zeros_like(b), solver=solver)
        plain, expected = ef.fixed_point(f.__call__, torch.zeros_like(b), solver=solver)  # has no take
    assert len(set(f.calls)) > 2
    assert bool(stats.converged.all())
    torch.testing.assert_close(z, plain, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(stats.steps, expected.steps)


def test_a_map_that_calls_it_take_works_and_warns():
    class Halved:
        def __init__(self, shift):
            self.shift = shift

        def __call__(self, z):
            return 0.5 * z + self.shift

        def take(self, rows):
            return Halved(self.shift[rows])

    shift = torch.arange(12.0).reshape(4, 3)
    with pytest.warns(DeprecationWarning, match=r"select\(rows\)"):
        z, stats = ef.fixed_point(Halved(shift), torch.zeros(4, 3), solver=ef.Picard(tol=1e-6))
    assert stats.converged.all()
    torch.testing.assert_close(z, 2 * shift, rtol=1e-4, atol=1e-4)
