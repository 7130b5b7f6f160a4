"""What becomes of samples on which Anderson stalls: the fallback method starts from what is known of their map."""

import warnings
from dataclasses import dataclass

import pytest
import torch

import equifuse as ef
from tests.solve.problems import linear


def walk(rule, f, z, steps):
    """States, images and residuals of ``steps`` evaluations by a rule, and the next state."""
    seen = []
    for _ in range(steps):
        fz = f(z)
        seen.append((z, fz, fz - z))
        z = rule.step(z, fz, fz - z)
    return seen, z


@torch.no_grad()
def test_broyden_is_told_what_anderson_knows():
    """Differences of a linear map; the rule that is told them satisfies the newest secant equation."""
    p = linear(1.2, batch=3, width=10)
    first = ef.Anderson(memory=6).start(p.z0)
    walk(first, p.f, p.z0, 7)
    told = ef.Broyden().start(p.z0, first.secant_pairs())
    pairs = list(first.secant_pairs())
    assert len(pairs) == 6
    for s, y, valid in pairs:
        assert bool(valid.all())
        torch.testing.assert_close(p.f(s) - p.f(torch.zeros_like(s)) - s, y, rtol=1e-9, atol=1e-11)
    s, y, _ = pairs[-1]
    torch.testing.assert_close(told._apply(told.u, told.v, y), s, rtol=1e-7, atol=1e-9)


@dataclass(frozen=True, kw_only=True)
class Forgetful(ef.Anderson):
    """The fallback method starts from nothing."""

    def fallback(self):
        @dataclass(frozen=True, kw_only=True)
        class Fresh(ef.Broyden):
            def start(self, z, known=()):
                return super().start(z)

        return Fresh(tol=self.tol, max_steps=self.max_steps, memory=self.max_steps, patience=0)


def test_what_is_known_of_the_map_is_not_lost():
    """Sent to the fallback method early, samples arrive sooner than those that start it from nothing."""
    steps = {}
    for kind in (ef.Anderson, Forgetful):
        found = []
        for seed in range(5):
            p = linear(1.3, batch=8, width=24, seed=seed)
            z, stats = ef.fixed_point(p.f, p.z0, solver=kind(tol=1e-8, max_steps=300, patience=2))
            assert bool(stats.converged.all())
            torch.testing.assert_close(z, p.solution, rtol=1e-4, atol=1e-5)
            found.append(stats.steps.double().mean())
        steps[kind] = float(torch.stack(found).mean())
    assert steps[ef.Anderson] < 0.97 * steps[Forgetful]


@pytest.mark.parametrize("kernels", ["fused", "reference"])
def test_a_sample_that_stalls_keeps_its_best_iterate(kernels, monkeypatch):
    monkeypatch.setenv("EQUIFUSE_KERNELS", kernels)
    p = linear(3.0, batch=8, width=40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ef.errors.ConvergenceWarning)
        z, stats = ef.fixed_point(lambda z: torch.tanh(p.f(z)), p.z0, solver=ef.Anderson(tol=1e-12, max_steps=60))
    fz = torch.tanh(p.f(z))
    true = torch.linalg.vector_norm(fz - z, dim=1) / torch.linalg.vector_norm(fz, dim=1)
    torch.testing.assert_close(stats.residual, true, rtol=1e-6, atol=1e-14)
    torch.testing.assert_close(stats.residual, stats.trace.amin(0), rtol=1e-6, atol=1e-14)
