import math
import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import equifuse as ef
from equifuse.solve import make_gradient, make_solver
from tests.solve.problems import PROBLEMS, SOLVERS, linear

solvers = pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s.name)


@solvers
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())
def test_finds_the_known_solution(solver, problem):
    p = problem()
    z, stats = ef.fixed_point(p.f, p.z0, solver=solver)
    assert bool(stats.converged.all())
    torch.testing.assert_close(z, p.solution, rtol=1e-7, atol=1e-8)
    residual = (p.f(z) - z).flatten(1).norm(dim=1) / p.f(z).flatten(1).norm(dim=1)
    torch.testing.assert_close(stats.residual, residual, rtol=1e-3, atol=1e-14)


@solvers
def test_a_sample_does_not_depend_on_its_batch_mates(solver):
    p = linear(0.95, batch=5)
    together, stats = ef.fixed_point(p.f, p.z0, solver=solver)
    for i in range(5):

        def alone(z, i=i):
            return p.f(z.expand(5, -1))[i : i + 1]

        z, single = ef.fixed_point(alone, p.z0[i : i + 1], solver=solver)
        torch.testing.assert_close(z[0], together[i], rtol=1e-9, atol=1e-11)
        assert abs(int(single.steps[0]) - int(stats.steps[i])) <= 1  # rounding may shift the last step


@solvers
def test_a_diverging_batch_mate_changes_nothing(solver):
    p = linear(0.5, batch=3)
    calm, _ = ef.fixed_point(p.f, p.z0, solver=solver)

    def with_divergence(z):
        out = p.f(z)
        return torch.cat([out[:2], 1e3 * (z[2:] ** 2 + z[2:] + 1)])  # has no fixed point

    with pytest.warns(ef.ConvergenceWarning, match="1 of 3 samples"):
        z, stats = ef.fixed_point(with_divergence, p.z0, solver=replace(solver, max_steps=200))
    assert stats.converged.tolist() == [True, True, False]
    torch.testing.assert_close(z[:2], calm[:2], rtol=1e-9, atol=1e-11)
    assert bool(torch.isfinite(z).all())


@solvers
def test_a_map_to_zero_is_solved_from_anywhere(solver):
    z, stats = ef.fixed_point(lambda z: 0 * z, torch.ones(3, 4, dtype=torch.float64), solver=solver)
    assert bool(stats.converged.all())
    assert float(z.abs().max()) == 0


@solvers
def test_finite_input_never_gives_nan(solver):
    with pytest.warns(ef.ConvergenceWarning):
        z, stats = ef.fixed_point(lambda z: z / 0 * 0, torch.ones(2, 3), solver=replace(solver, max_steps=30))
    assert bool(torch.isfinite(z).all())
    assert not bool(stats.converged.any())


@solvers
def test_the_best_iterate_is_kept(solver):
    a = linear(1.3, batch=4)  # no attracting fixed point for plain iteration
    budget = replace(solver, max_steps=25, tol=1e-300)
    with pytest.warns(ef.ConvergenceWarning):
        z, stats = ef.fixed_point(a.f, a.z0, solver=budget)
    residual = (a.f(z) - z).norm(dim=1) / a.f(z).norm(dim=1)
    torch.testing.assert_close(residual, stats.trace.amin(0), rtol=1e-6, atol=1e-15)


def test_anderson_and_broyden_solve_what_plain_iteration_cannot():
    p = linear(1.3, batch=4)
    for solver in SOLVERS[1:]:
        z, stats = ef.fixed_point(p.f, p.z0, solver=replace(solver, max_steps=300, patience=0))
        assert bool(stats.converged.all()), solver.name
        torch.testing.assert_close(z, p.solution, rtol=1e-6, atol=1e-7)


def test_a_limit_cycle_is_damped_away():
    """z = -z + 2c swaps two points forever; damped by a half it is solved at once. Samples have their own damping."""
    c = torch.tensor([[1.0], [5.0]], dtype=torch.float64)

    def f(z):
        return torch.cat([0.5 * z[:1] + 0.5 * c[:1], -z[1:] + 2 * c[1:]])

    z, stats = ef.fixed_point(f, torch.zeros(2, 1, dtype=torch.float64), solver=ef.Picard(tol=1e-6, max_steps=200))
    torch.testing.assert_close(z, c, rtol=1e-5, atol=0.0)
    assert int(stats.steps[0]) < 30


@pytest.mark.filterwarnings("ignore::equifuse.errors.ConvergenceWarning")
@settings(max_examples=20, deadline=None)
@given(radius=st.floats(0.05, 0.95), damping=st.floats(0.2, 1.0), seed=st.integers(0, 10_000))
def test_damping_changes_the_way_and_not_the_fixed_point(radius, damping, seed):
    """z <- β f(z) + (1 - β) z step by step, and the known solution at its end."""
    p = linear(radius, batch=2, width=5, seed=seed)
    _, stats = ef.fixed_point(p.f, p.z0, solver=ef.Picard(tol=1e-300, max_steps=4, damping=damping, patience=0))
    z = p.z0
    for relative in stats.trace:
        fz = p.f(z)
        torch.testing.assert_close(relative, (fz - z).norm(dim=1) / fz.norm(dim=1))
        z = damping * fz + (1 - damping) * z
    z, stats = ef.fixed_point(p.f, p.z0, solver=ef.Picard(tol=1e-10, max_steps=5000, damping=damping, patience=0))
    assert bool(stats.converged.all())
    assert float((z - p.solution).norm() / p.solution.norm()) < 1e-6


@solvers
def test_trace_holds_the_residual_of_every_evaluation(solver):
    p = linear(0.7)
    _, stats = ef.fixed_point(p.f, p.z0, solver=solver)
    assert stats.trace.shape == (int(stats.steps.max()), 6)
    for i, last in enumerate(stats.steps.tolist()):
        assert stats.trace[last - 1, i] == stats.residual[i]
        assert bool((stats.trace[: last - 1, i] > solver.tol).all())
        assert bool((stats.trace[last - 1 :, i] == stats.residual[i]).all())


def test_already_solved_takes_one_evaluation():
    calls = []

    def f(z):
        calls.append(1)
        return z.clone()

    with torch.no_grad():
        _, stats = ef.fixed_point(f, torch.randn(3, 4))
    assert len(calls) == 1
    assert stats.steps.tolist() == [1, 1, 1]
    assert float(stats.residual.max()) == 0


def test_empty_batch():
    z, stats = ef.fixed_point(torch.cos, torch.zeros(0, 3))
    assert z.shape == (0, 3)
    assert stats.summary()["converged"] == 1.0


def test_warns_once_or_raises():
    def f(z):
        return z + 1

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ef.fixed_point(f, torch.zeros(4, 2), solver=ef.Anderson(max_steps=5))
    assert [w.category for w in caught] == [ef.ConvergenceWarning]
    with pytest.raises(ef.NotConvergedError, match="4 of 4 samples did not converge"):
        ef.fixed_point(f, torch.zeros(4, 2), solver=ef.Anderson(max_steps=5), strict=True)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: ef.Anderson(tol=0), "tol must be positive"),
        (lambda: ef.Anderson(max_steps=0), "max_steps"),
        (lambda: ef.Anderson(memory=0), "memory"),
        (lambda: ef.Anderson(ridge=-1.0), "ridge"),
        (lambda: ef.Broyden(memory=0), "memory"),
        (lambda: ef.Picard(damping=0), "damping"),
        (lambda: ef.Picard(patience=-1), "patience"),
        (lambda: ef.GMRES(tol=-1.0), "tol"),
        (lambda: ef.GMRES(restart=0), "restart"),
        (lambda: ef.Phantom(steps=0), "steps"),
        (lambda: ef.Phantom(damping=2.0), "damping"),
        (lambda: ef.fixed_point(torch.cos, torch.zeros(2, dtype=torch.int64)), "floating-point"),
        (lambda: ef.fixed_point(torch.cos, torch.tensor(1.0)), "floating-point"),
        (lambda: ef.fixed_point(lambda z: z[:, :1], torch.zeros(2, 3)), "must keep its input's shape"),
        (lambda: ef.fixed_point(torch.cos, torch.zeros(2, 3), solver="anderson"), "must be a Solver"),
        (lambda: ef.fixed_point(torch.cos, torch.zeros(2, 3), gradient="implicit"), "must be a Gradient"),
        (lambda: make_solver("gmres"), "linear systems only"),
    ],
)
def test_mistakes_are_refused_with_a_reason(call, error):
    with pytest.raises(ef.InputError, match=error):
        call()


def test_unknown_names_and_keywords_are_refused():
    with pytest.raises(ef.UnknownNameError, match="did you mean 'anderson'"):
        make_solver("andersen")
    with pytest.raises(ef.UnknownNameError, match="did you mean 'implicit'"):
        make_gradient("implicite")
    with pytest.raises(ef.UnknownNameError, match="'memry'; did you mean 'memory'"):
        make_solver({"name": "anderson", "memry": 3})
    with pytest.raises(ef.UnknownNameError, match="'step'; did you mean 'steps'"):
        make_gradient({"name": "phantom", "step": 3})
    with pytest.raises(TypeError, match="tolerance"):
        ef.Anderson(tolerance=1e-3)
    with pytest.raises(TypeError, match="max_iter"):
        ef.fixed_point(torch.cos, torch.zeros(1, 1), max_iter=3)


def test_configurations_round_trip():
    for solver in (ef.Picard(tol=1e-3, damping=0.5), ef.Anderson(memory=3), ef.Broyden(memory=7, patience=0)):
        assert make_solver(solver.config()) == solver
    for gradient in (ef.Implicit(), ef.Implicit(solver=ef.Anderson(tol=1e-6)), ef.Phantom(steps=2), ef.Unrolled()):
        assert make_gradient(gradient.config()) == gradient


@settings(max_examples=25, deadline=None)
@given(
    radius=st.floats(0.05, 0.95),
    batch=st.integers(1, 5),
    width=st.integers(1, 10),
    seed=st.integers(0, 10_000),
    index=st.integers(0, 2),
)
def test_any_contraction_is_solved(radius, batch, width, seed, index):
    p = linear(radius, batch, width, seed)
    z, stats = ef.fixed_point(p.f, p.z0, solver=SOLVERS[index])
    assert bool(stats.converged.all())
    # A relative residual of 1e-10 bounds the relative error by 1e-10 · ‖(I − A)⁻¹‖, generously bounded here.
    assert float((z - p.solution).norm() / p.solution.norm()) < 1e-5


@solvers
def test_float32_reaches_its_tolerance_and_half_precision_is_solved_in_float32(solver):
    p = linear(0.9)
    b = p.f(p.z0).float()
    a = torch.stack([p.f(e.expand(6, -1)) - p.f(p.z0) for e in torch.eye(12, dtype=torch.float64)], dim=2).float()

    def f(z):
        assert z.dtype == torch.float32
        return torch.einsum("bij,bj->bi", a, z) + b

    z, stats = ef.fixed_point(f, torch.zeros(6, 12), solver=replace(solver, tol=1e-6))
    assert bool(stats.converged.all())
    assert z.dtype == torch.float32
    assert float((z - p.solution).norm() / p.solution.norm()) < 1e-4


def test_anderson_small_residuals_are_not_spoilt_by_the_ridge():
    p = linear(0.9, batch=16, width=40)
    steps = [ef.fixed_point(p.f, p.z0, solver=ef.Anderson(tol=tol, max_steps=300))[1].steps for tol in (1e-5, 1e-10)]
    plain = ef.fixed_point(p.f, p.z0, solver=ef.Picard(tol=1e-10, max_steps=3000))[1].steps
    # Twice the digits for about twice the evaluations, and far fewer than plain iteration.
    assert steps[1].float().mean() < 2.6 * steps[0].float().mean()
    assert steps[1].float().mean() < 0.6 * plain.float().mean()
    assert math.isfinite(float(plain.max()))
