"""Training an equilibrium leaves nothing behind."""

import gc
import weakref

import pytest
import torch

import equifuse as ef
from tests.growth import assert_no_growth

pytestmark = pytest.mark.slow

DIMS = {"a": 3, "b": 2}


def test_graph_is_freed_without_the_garbage_collector():
    fusion = ef.DEQFusion(DIMS, 16)
    x = {m: torch.randn(4, w) for m, w in DIMS.items()}
    gc.collect()
    gc.disable()
    try:
        out = fusion(x)
        solve = out.fused.grad_fn
        while "ExplicitFunction" not in type(solve).__name__:  # past the reshaping of the output
            solve = solve.next_functions[0][0]
        node = weakref.ref(solve)
        out.fused.sum().backward()
        del out, solve
        assert node() is None
    finally:
        gc.enable()


def test_memory_does_not_grow_over_a_thousand_training_steps():
    fusion = ef.DEQFusion(DIMS, 16, solver=ef.Anderson(tol=1e-2))
    optimiser = torch.optim.SGD(fusion.parameters(), lr=1e-4)
    x = {m: torch.randn(5, w) for m, w in DIMS.items()}

    def train(steps):
        for _ in range(steps):
            optimiser.zero_grad()
            fusion(x).fused.square().sum().backward()
            optimiser.step()

    assert_no_growth(train)


def test_memory_does_not_depend_on_the_steps_of_the_solver():
    """Tensors that the gradient keeps: the same for a loose and for a tight solve."""
    fusion = ef.DEQFusion(DIMS, 16).double()
    x = {m: torch.randn(5, w, dtype=torch.float64) for m, w in DIMS.items()}
    kept = []
    for tol in (1e-1, 1e-12):
        fusion.solver = ef.Anderson(tol=tol, max_steps=100)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: (sizes.append(t.numel()), t)[1], lambda t: t
        ):
            out = fusion(x)
        kept.append((sum(sizes), int(out.stats.steps.max())))
    (loose, few), (tight, many) = kept
    assert many > few + 5
    assert loose == tight
