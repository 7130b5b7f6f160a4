"""Solves that repeat what comes after a block's products: what they evaluate, and that they end where others do."""

import pytest
import torch

import equifuse as ef
from equifuse.fusion.deq.group_norm import group_norm
from equifuse.fusion.deq.modality_map import ModalityMap
from equifuse.fusion.deq.module import DEQFusion
from equifuse.fusion.deq.problem import observed
from equifuse.solve import Evaluated
from equifuse.solve.explicit import ExplicitMap
from equifuse.solve.loop import iterate


def steep_fusion(**options):
    """Gains of 1, as the published method starts from."""
    torch.manual_seed(0)
    dims = {"a": 32, "b": 32, "c": 32}
    fusion = DEQFusion(dims, 32, projection=False, **options).double()
    with torch.no_grad():
        fusion.blocks.norm3.weight.fill_(1.0)
    return fusion, {m: torch.randn(20, 32, dtype=torch.float64) for m in dims}


def modality_map(fusion, inputs):
    with observed(fusion) as seen, torch.no_grad():
        fusion(inputs)
    return seen[0].modality_map


def test_the_point_ahead_is_fixed_where_the_state_is():
    fusion, inputs = steep_fusion(solver=ef.Anderson(tol=1e-12, max_steps=200))
    f = modality_map(fusion, inputs)
    assert f.steep
    z, _ = iterate(f, torch.zeros_like(f.at_zero()), ef.Picard(tol=1e-12, max_steps=500))
    with torch.no_grad():
        image, ahead, _ = f.look_ahead(z)
    torch.testing.assert_close(image, z, rtol=0, atol=1e-10)
    torch.testing.assert_close(ahead, z, rtol=0, atol=1e-9)


def test_the_point_ahead_repeats_the_end_of_the_map():
    fusion, inputs = steep_fusion()
    f = modality_map(fusion, inputs)
    w, x = f.weights, f.x
    with torch.no_grad():
        z = torch.randn_like(f.at_zero())
        stacked = z.view_as(x)
        hidden = torch.relu(group_norm(stacked @ w.weight1 + w.bias1, w.gain1, w.shift1))
        u = group_norm(hidden @ w.weight2 + w.bias2 + x, w.gain2, w.shift2)
        points = [stacked]
        for _ in range(3):
            points.append(group_norm(torch.relu(u + points[-1]), w.gain3, w.shift3))
        image, ahead, error = f.look_ahead(z)
    torch.testing.assert_close(image, points[1].flatten(0, 1))
    torch.testing.assert_close(image, f(z).detach())
    torch.testing.assert_close(ahead, points[3].flatten(0, 1))
    assert error is None


class Cycle(ExplicitMap):
    """A point ahead that is fixed anywhere, as repeating may have it in a cycle."""

    closure = ()

    def __call__(self, z):
        return 1 - 0.99 * z

    def look_ahead(self, z):
        return Evaluated(self(z), z)

    def select(self, rows):
        return self

    def linearize(self, z, slack=0.0):
        raise NotImplementedError

    select_saved = transposed = pull = linearize


@pytest.mark.parametrize("solver", [ef.Anderson(tol=1e-10, max_steps=60), ef.Broyden(tol=1e-10, max_steps=300)])
def test_a_point_ahead_that_leads_nowhere_is_given_up(solver):
    with torch.no_grad():
        z, stats = iterate(Cycle(), torch.zeros(3, 4, dtype=torch.float64), solver)
    assert bool(stats.converged.all())
    torch.testing.assert_close(z, torch.full_like(z, 1 / 1.99), rtol=1e-8, atol=0)


def test_a_solve_that_looks_ahead_takes_fewer_evaluations_to_the_same_point(monkeypatch):
    fusion, inputs = steep_fusion(solver=ef.Anderson(tol=1e-9, max_steps=200))
    with torch.no_grad():
        ahead = fusion(inputs)
        monkeypatch.setattr(ModalityMap, "steep", False)
        plain = fusion(inputs)
    assert bool(ahead.stats.converged.all())
    assert bool(plain.stats.converged.all())
    for name in fusion.dims:
        torch.testing.assert_close(ahead.modalities[name], plain.modalities[name], rtol=0, atol=1e-6)
        assert ahead.stats.parts[name].steps.sum() < 0.8 * plain.stats.parts[name].steps.sum()


@pytest.mark.parametrize("solver", [ef.Anderson(tol=1e-10), ef.Broyden(tol=1e-10), ef.Picard(tol=1e-10)])
def test_every_solver_finds_the_same_equilibrium(solver):
    fusion, inputs = steep_fusion(solver=ef.Anderson(tol=1e-12, max_steps=300))
    with torch.no_grad():
        expected = fusion(inputs).fused
        fusion.solver = type(solver)(tol=1e-10, max_steps=500)
        torch.testing.assert_close(fusion(inputs).fused, expected, rtol=0, atol=1e-7)


def test_a_sample_alone_and_absent_modalities():
    fusion, inputs = steep_fusion(solver=ef.Anderson(tol=1e-12, max_steps=300))
    present = {"b": torch.arange(20) % 3 > 0}
    with torch.no_grad():
        together = fusion(inputs, present)
        assert float(together.modalities["b"][~present["b"]].abs().max()) == 0
        for i in (0, 1):
            given_ = {m: x[i : i + 1] for m, x in inputs.items() if m != "b" or bool(present["b"][i])}
            torch.testing.assert_close(fusion(given_).fused[0], together.fused[i], rtol=0, atol=1e-8)


def test_gradients_are_those_of_the_joint_map():
    """The implicit gradient does not depend on how the equilibrium was found."""
    fusion, inputs = steep_fusion(
        solver=ef.Anderson(tol=1e-12, max_steps=300), gradient=ef.Implicit(solver=ef.GMRES(tol=1e-12))
    )
    wanted = list(fusion.parameters())
    got = torch.autograd.grad(fusion(inputs).fused.square().sum(), wanted)
    f, start = fusion.equilibrium_map(inputs)
    z, _ = ef.fixed_point(
        f, start, solver=ef.Anderson(tol=1e-12, max_steps=500), gradient=ef.Implicit(solver=ef.GMRES(tol=1e-12))
    )
    expected = torch.autograd.grad(z[:, -1].square().sum(), wanted)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6 * float(b.abs().max()) + 1e-9)


def test_plain_iteration_stays_plain():
    fusion, inputs = steep_fusion()
    f = modality_map(fusion, inputs)
    with torch.no_grad():
        start = f.at_zero()
        z = start
        for _ in range(3):
            z = f(z)
        got, _ = iterate(f, start, ef.Picard(tol=1e-12, max_steps=4))
    torch.testing.assert_close(got, z, rtol=0, atol=1e-12)
