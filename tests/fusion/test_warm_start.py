"""Warm starts: fewer steps, the same equilibria, whatever the order of the samples."""

import pytest
import torch

import equifuse as ef

DIMS = {"a": 6, "b": 5}


def setup(n=40):
    torch.manual_seed(0)
    fusion = ef.DEQFusion(DIMS, 16, solver=ef.Anderson(tol=1e-10, max_steps=200)).double().train()
    return fusion, {m: torch.randn(n, w, dtype=torch.float64) for m, w in DIMS.items()}


def test_a_second_pass_needs_one_evaluation_and_finds_the_same():
    fusion, x = setup()
    cold = fusion(x)
    fusion.warm_start = ef.EquilibriumCache()
    index = torch.arange(40)
    first = fusion(x, index=index)
    torch.testing.assert_close(first.fused, cold.fused)
    order = torch.randperm(40)
    second = fusion({m: v[order] for m, v in x.items()}, index=order)
    torch.testing.assert_close(second.fused, cold.fused[order], rtol=1e-8, atol=1e-8)
    assert int(second.stats.parts["a"].steps.max()) == 1
    assert fusion.warm_start.hits == 3 * 40


def test_with_other_weights_and_some_unknown_samples_only_the_start_differs():
    fusion, x = setup()
    fusion.warm_start = ef.EquilibriumCache()
    fusion({m: v[:25] for m, v in x.items()}, index=torch.arange(25))
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(1e-4 * torch.randn_like(parameter))
    present = {"b": torch.rand(40) > 0.3}
    warm = fusion(x, present, index=torch.arange(40))
    fusion.warm_start = None
    cold = fusion(x, present)
    torch.testing.assert_close(warm.fused, cold.fused, rtol=1e-8, atol=1e-8)
    grads = [torch.autograd.grad(out.fused.square().sum(), list(fusion.parameters())) for out in (warm, cold)]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-8)
    assert float(warm.stats.steps[:25].double().mean()) < float(cold.stats.steps[:25].double().mean())


def test_only_in_training_and_only_with_numbers():
    fusion, x = setup()
    fusion.warm_start = ef.EquilibriumCache()
    fusion(x)
    fusion.eval()(x, index=torch.arange(40))
    assert fusion.warm_start.hits == fusion.warm_start.misses == 0


def test_position_wise_and_behind_a_gmf():
    gmf = ef.GMF(DIMS, backend="deq", backend_options={"dim": 16}).train()
    gmf.backend.warm_start = ef.EquilibriumCache()
    x = {m: torch.randn(3, 4, w) for m, w in DIMS.items()}
    index = torch.arange(12).reshape(3, 4)
    gmf(x, index=index)
    again = gmf(x, index=index)
    assert gmf.backend.warm_start.hits == 3 * 12
    assert int(again.stats.parts["fusion"].steps.max()) == 1
    with pytest.raises(ef.InputError, match="index"):
        gmf(x, index=torch.arange(3))


def test_the_table_grows_forgets_and_keeps_what_is_not_finite_out():
    cache = ef.EquilibriumCache()
    zeros = torch.zeros(2, 3)
    cache.store("a", torch.tensor([5, 0]), torch.ones(2, 3))
    cache.store("a", torch.tensor([100]), torch.full((1, 3), torch.nan))
    cache.store("a", torch.tensor([1000]), torch.full((1, 3), 2.0))
    assert cache.start("a", torch.tensor([5, 1]), zeros).tolist() == [[1, 1, 1], [0, 0, 0]]
    assert cache.start("a", torch.tensor([100, 1000]), zeros).tolist() == [[0, 0, 0], [2, 2, 2]]
    assert cache.start("a", torch.tensor([10**6, 0]), zeros).tolist() == [[0, 0, 0], [1, 1, 1]]
    assert cache.start("b", torch.tensor([5, 0]), zeros) is zeros
    assert cache.start("a", torch.tensor([5]), torch.zeros(1, 4)).shape == (1, 4)  # another width: as if unknown
    cache.clear()
    assert cache.start("a", torch.tensor([5, 0]), zeros) is zeros


@pytest.mark.parametrize("index", [torch.tensor([0.0, 1.0]), torch.tensor([0, -1]), torch.tensor([0])])
def test_indices_that_are_none_are_refused(index):
    with pytest.raises(ef.InputError, match="index"):
        ef.EquilibriumCache().store("a", index, torch.zeros(2, 3))


def test_cache_is_a_deprecated_name_of_warm_start():
    fusion, cache = ef.DEQFusion({"a": 4}, dim=8), ef.EquilibriumCache()
    with pytest.warns(DeprecationWarning, match="warm_start"):
        fusion.cache = cache
    assert fusion.warm_start is cache
    with pytest.warns(DeprecationWarning, match="warm_start"):
        assert fusion.cache is cache
