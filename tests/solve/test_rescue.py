"""What becomes of samples on which Anderson stalls: when it is noticed, and what the fallback method starts from."""

from dataclasses import dataclass

import pytest
import torch

import equifuse as ef
from equifuse.solve import anderson
from tests.solve.problems import linear


def walk(rule, f, z, steps):
    """States, images and residuals of ``steps`` evaluations by a rule, and the next state."""
    seen = []
    damping = z.new_ones(len(z), 1)
    nobody = torch.zeros(len(z), dtype=torch.bool)
    for _ in range(steps):
        fz = f(z)
        seen.append((z, fz, fz - z))
        z = rule.step(z, fz, fz - z, damping, nobody)
    return seen, z


@pytest.mark.parametrize("memory", [4, 50], ids=["some forgotten", "all remembered"])
@torch.no_grad()
def test_broyden_takes_over_as_if_it_had_been_there(memory):
    """The next step is that of a Broyden rule that was shown every state that Anderson still remembers."""
    p = linear(1.2, batch=3, width=10)
    damping, nobody = torch.ones(3, 1, dtype=torch.float64), torch.zeros(3, dtype=torch.bool)
    first = ef.Anderson(memory=memory).start(p.z0)
    seen, z = walk(first, p.f, p.z0, 9)
    taken_over = ef.Broyden().start(z, first)
    shown = ef.Broyden().start(z)
    for state, image, residual in seen[-1 - memory :]:
        shown.step(state, image, residual, damping, nobody)
    fz = p.f(z)
    expected, got = (rule.step(z, fz, fz - z, damping, nobody) for rule in (shown, taken_over))
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
    assert float((got - ef.Broyden().start(z).step(z, fz, fz - z, damping, nobody)).norm()) > 1e-3


@dataclass(frozen=True, kw_only=True)
class Forgetful(ef.Anderson):
    """The fallback method starts from nothing."""

    def fallback(self):
        @dataclass(frozen=True, kw_only=True)
        class Fresh(ef.Broyden):
            def start(self, z, after=None):
                return super().start(z)

        return Fresh(max_steps=self.max_steps, memory=self.max_steps)


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
    assert steps[ef.Anderson] < 0.95 * steps[Forgetful]


@torch.no_grad()
def test_nothing_misleads_where_the_map_is_linear():
    """Lengths are multiplied by 1.1 exactly, so each residual is 1.1 times what was left of the one before."""
    turn, _ = torch.linalg.qr(torch.randn(4, 40, 40, generator=torch.Generator().manual_seed(0)).double())
    b = torch.linspace(-1, 1, 160).double().view(4, 40)
    rule = ef.Anderson().start(b)
    walk(rule, lambda z: 1.1 * torch.einsum("bij,bj->bi", turn, z) + b, torch.zeros_like(b), 30)
    assert rule.stalled_history is not None
    assert not bool(rule.stalled_history.any())


@torch.no_grad()
def test_old_differences_mislead_where_the_map_bends():
    p = linear(3.0, batch=8, width=40)
    rule = ef.Anderson().start(p.z0)
    walk(rule, lambda z: torch.tanh(p.f(z)), p.z0, 30)
    assert rule.stalled_history is not None
    assert bool(rule.stalled_history.any())


@pytest.mark.slow
def test_a_stalled_history_goes_to_the_fallback_sooner(monkeypatch):
    """A third of the patience: the same solve takes fewer evaluations than with patience alone."""
    p = linear(3.0, batch=64, width=40)
    steps = []
    for limit in (anderson._MISLEADING, float("inf")):
        monkeypatch.setattr(anderson, "_MISLEADING", limit)
        _, stats = ef.fixed_point(
            lambda z: torch.tanh(p.f(z)), p.z0, solver=ef.Anderson(tol=1e-6, max_steps=300), warn=False
        )
        steps.append(float(stats.steps.double().mean()))
    assert steps[0] < steps[1]
