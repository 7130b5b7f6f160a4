"""torch.compile without graph breaks: the fixed-step path, and the step that a solver takes."""

import shutil

import pytest
import torch

import equifuse as ef
from equifuse.fusion.deq.problem import observed

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


@pytest.mark.parametrize(
    "options",
    [{}, {"gate": False, "combine": "mean"}, {"contraction": 0.8, "gradient": "neumann"}],
    ids=["default", "no gate", "contraction"],
)
def test_the_default_solver_with_gradients(options):
    """The solve is one operator: the same steps as without a compiler, for any batch."""
    torch.manual_seed(0)
    fusion = ef.DEQFusion(DIMS, 16, solver=ef.Anderson(tol=1e-6), **options)
    compiled = torch.compile(fusion, fullgraph=True, backend="aot_eager")
    weights = torch.randn(9, 16)
    for count, masked in ((9, False), (5, True)):
        x = {m: value[:count].clone().requires_grad_() for m, value in inputs().items()}
        present = {"b": torch.arange(count) % 3 > 0} if masked else None
        outputs = compiled(x, present), fusion(x, present)
        got, expected = outputs
        torch.testing.assert_close(got.fused, expected.fused, rtol=1e-4, atol=1e-5)
        assert torch.equal(got.stats.steps, expected.stats.steps)
        grads = [
            torch.autograd.grad((out.fused * weights[:count]).sum(), [*fusion.parameters(), *x.values()])
            for out in outputs
        ]
        for a, b in zip(*grads, strict=True):
            assert float((a - b).norm()) <= 1e-3 * float(b.norm()) + 1e-5


def test_the_operators_are_what_they_say():
    """Their schema, shapes and gradients, on both maps of a fusion."""
    fusion = ef.DEQFusion(DIMS, 16)
    with observed(fusion) as seen:
        fusion(inputs())
    for f in (seen[0].modality_map, seen[0].fusion_map):
        packed = f.packed()
        closure = [tensor.detach().clone().requires_grad_() for tensor in packed.closure]
        options = [1e-4, 1.0], [100, 15, 10], [1e-5], [60, 30], False
        tensors = closure, list(packed.constants), list(packed.numbers), f.start().detach()
        torch.library.opcheck(torch.ops.equifuse.fixed_point.default, (type(f).__name__, *tensors, *options))


def test_what_does_not_converge_is_reported_from_a_compiled_graph():
    fusion = ef.DEQFusion(DIMS, 16, solver=ef.Anderson(tol=1e-6, max_steps=2))
    with pytest.warns(ef.ConvergenceWarning, match="did not converge in the forward solve"):
        out = torch.compile(fusion, fullgraph=True, backend="aot_eager")(inputs())
    assert not bool(out.stats.converged.any())
    fusion.strict = True
    with pytest.raises(ef.NotConvergedError):
        torch.compile(fusion, fullgraph=True, backend="aot_eager")(inputs())


def test_a_whole_equilibrium():
    """With the solver of fixed shape; the same evaluations, so the same result."""
    fusion = ef.DEQFusion(DIMS, 16, solver={"name": "static", "max_steps": 7}).eval()
    with torch.no_grad():
        compiled = torch.compile(fusion, fullgraph=True, backend="aot_eager")
        got, expected = compiled(inputs()), fusion(inputs())
    assert bool(got.stats.converged.all())
    torch.testing.assert_close(got.fused, expected.fused, rtol=1e-4, atol=1e-5)
