"""torch.compile without graph breaks: the fixed-step path, and the step that a solver takes."""

import shutil

import pytest
import torch

import equifuse as ef

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not any(shutil.which(name) for name in ("g++", "c++", "clang++")), reason="torch.compile needs a C++ compiler"
    ),
]
DIMS = {"a": 12, "b": 7}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()


def inputs():
    torch.manual_seed(0)
    return {m: torch.randn(9, w) for m, w in DIMS.items()}


@pytest.mark.parametrize("masked", [False, True])
def test_fixed_steps_with_gradients(masked):
    x = inputs()
    fusion = ef.DEQFusion(DIMS, 16, iterations=5)
    present = {"b": torch.arange(9) % 3 > 0} if masked else None
    compiled = torch.compile(fusion, fullgraph=True)
    got, expected = compiled(x, present), fusion(x, present)
    torch.testing.assert_close(got.fused, expected.fused, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.stats.trace, expected.stats.trace, rtol=1e-2, atol=1e-5)
    grads = [torch.autograd.grad(out.fused.square().sum(), list(fusion.parameters())) for out in (got, expected)]
    for a, b in zip(*grads, strict=True):
        assert float((a - b).norm()) <= 1e-3 * float(b.norm()) + 1e-5


def test_the_step_that_a_solver_takes():
    """A compiled map is solved like any other, to the same fixed point."""
    fusion = ef.DEQFusion(DIMS, 16).eval()
    with torch.no_grad():
        f, start = fusion.equilibrium_map(inputs())
        step = torch.compile(f, fullgraph=True)
        got, stats = ef.fixed_point(step, start, solver=ef.Anderson(tol=1e-5))
        expected = fusion(inputs())
    assert bool(stats.converged.all())
    torch.testing.assert_close(got[:, -1], expected.fused, rtol=1e-3, atol=1e-3)


def test_a_whole_equilibrium():
    """With the solver of fixed shape; the same evaluations, so the same result."""
    fusion = ef.DEQFusion(DIMS, 16, solver={"name": "static", "max_steps": 7}).eval()
    with torch.no_grad():
        compiled = torch.compile(fusion, fullgraph=True, backend="aot_eager")
        got, expected = compiled(inputs()), fusion(inputs())
    assert bool(got.stats.converged.all())
    torch.testing.assert_close(got.fused, expected.fused, rtol=1e-4, atol=1e-5)
