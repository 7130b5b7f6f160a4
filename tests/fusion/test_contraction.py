"""The contraction that DEQFusion guarantees, tried on whatever weights and inputs come."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import equifuse as ef
from equifuse.fusion.base import flatten
from equifuse.fusion.deq.contraction import spectral_norm_bound


@given(seed=st.integers(0, 2**20), rows=st.integers(1, 40), columns=st.integers(1, 40), scale=st.floats(1e-8, 1e8))
@settings(deadline=None, max_examples=60)
def test_the_bound_is_above_the_spectral_norm_and_not_far(seed, rows, columns, scale):
    weight = scale * torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    exact = torch.linalg.matrix_norm(weight, ord=2)
    bound = spectral_norm_bound(weight)
    assert bool((bound >= exact * (1 - 1e-12)).all())
    assert bool((bound <= exact * min(rows, columns) ** (1 / 16) * (1 + 1e-12)).all())


def test_the_bound_of_a_zero_matrix_and_its_gradient():
    assert float(spectral_norm_bound(torch.zeros(4, 4))) == 0
    weight = torch.randn(5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(spectral_norm_bound, weight)


def parts(fusion, x, present=None):
    """The modality map and the fusion map of a batch, and its size."""
    _, rows = flatten(x, present, fusion.dims)
    with torch.no_grad():
        problem = fusion._problem(rows)
        states = torch.randn_like(problem.x) * 3  # the fusion map contracts whatever the modality states are
        return fusion._modality_map(problem), fusion._fusion_map(states, problem)


def expansion(f, like, scale):
    """The largest ratio of distances after and before the map, over pairs near and far."""
    z = scale * torch.randn_like(like)
    step = torch.randn_like(like)
    ratios = [(f(z + h * step) - f(z)).norm(dim=1) / (h * step).norm(dim=1) for h in (1e-4, 1e-2, 1.0, 10.0)]
    return max(float(r.max()) for r in ratios)


def lipschitz(f, like, scale):
    """The largest singular value of the Jacobian over rows."""
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: f(row[None])[0]))
    return float(torch.linalg.matrix_norm(jacobian(scale * torch.randn_like(like)), ord=2).max())


@given(
    seed=st.integers(0, 2**20),
    count=st.integers(2, 6),
    weight_scale=st.sampled_from([0.1, 1.0, 10.0, 100.0]),
    input_scale=st.sampled_from([0.0, 1.0, 100.0]),
    state_scale=st.sampled_from([0.01, 1.0, 30.0]),
    combine=st.sampled_from(["sum", "mean"]),
    gate=st.booleans(),
    factor=st.sampled_from([0.5, 0.9]),
)
@settings(deadline=None, max_examples=80)
def test_every_part_contracts_for_any_weights(
    seed, count, weight_scale, input_scale, state_scale, combine, gate, factor
):
    torch.manual_seed(seed)
    dims = {f"m{i}": 5 for i in range(count)}
    fusion = ef.DEQFusion(dims, 16, combine=combine, gate=gate, contraction=factor).double()
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.copy_(weight_scale * torch.randn_like(parameter))
    x = {m: input_scale * torch.randn(6, 5, dtype=torch.float64) for m in dims}
    modality, fuse = parts(fusion, x, {"m0": torch.rand(6) > 0.5})
    with torch.no_grad():
        assert expansion(modality, modality.x.flatten(0, 1), state_scale) <= factor
        assert expansion(fuse, fuse.x_fuse, state_scale) <= factor


def test_the_fusion_jacobian_is_bounded_and_the_bound_is_not_idle():
    """The bound is used up to a sizeable share where weights are large, or it would only cost accuracy."""
    torch.manual_seed(0)
    fusion = ef.DEQFusion({"a": 8, "b": 8}, 16, contraction=0.9).double()
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    x = {m: torch.randn(1, 8, dtype=torch.float64) for m in fusion.dims}
    _, fuse = parts(fusion, x)
    found = max(lipschitz(fuse, fuse.x_fuse, scale) for scale in (0.01, 0.1, 0.3, 1.0) for _ in range(5))
    assert 0.05 < found <= 0.9


@pytest.mark.slow
def test_it_holds_after_training_and_plain_iteration_keeps_its_promise():
    torch.manual_seed(0)
    dims = {"a": 6, "b": 9, "c": 4}
    fusion = ef.DEQFusion(dims, 16, contraction=0.8, solver=ef.Picard(tol=1e-8, max_steps=200, patience=0)).double()
    head = torch.nn.Linear(16, 1).double()
    optimiser = torch.optim.Adam([*fusion.parameters(), *head.parameters()], lr=0.03)
    x = {m: torch.randn(64, width, dtype=torch.float64) for m, width in dims.items()}
    y = (x["a"][:, :1] * x["b"][:, :1]).sign()
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = (head(fusion(x).fused) - y).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    modality, fuse = parts(fusion, x)
    with torch.no_grad():
        assert expansion(modality, modality.x.flatten(0, 1), 1.0) <= 0.8
        assert expansion(fuse, fuse.x_fuse, 1.0) <= 0.8
        out = fusion(x)
    assert bool(out.stats.converged.all())
    # From a distance of D to 1e-8 a factor of 0.8 per step takes at most log(D/1e-8)/log(1/0.8) steps.
    assert int(max(part.steps.max() for part in out.stats.parts.values())) <= 100


@pytest.mark.parametrize("gate", [True, False])
@pytest.mark.parametrize("combine", ["sum", "mean"])
def test_gradients_with_a_bounded_gate(gate, combine):
    """The hand-written derivative of the bounded map is autograd's."""
    torch.manual_seed(0)
    solver = ef.Picard(tol=1e-14, max_steps=500)
    fusion = ef.DEQFusion({"a": 6, "b": 5}, 8, contraction=0.9, gate=gate, combine=combine, solver=solver).double()
    x = {m: torch.randn(4, w, dtype=torch.float64) for m, w in fusion.dims.items()}
    present = {"a": torch.tensor([True, False, True, True])}
    wanted = list(fusion.parameters())
    grads = []
    for gradient in (ef.Implicit(solver=ef.GMRES(tol=1e-14)), ef.Unrolled()):
        fusion.gradient = gradient
        out = fusion(x, present)
        grads.append(torch.autograd.grad(out.fused.square().sum() + out.modalities["b"].sum(), wanted))
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5])
def test_a_factor_that_is_none_is_refused(value):
    with pytest.raises(ef.InputError, match="contraction"):
        ef.DEQFusion({"a": 4, "b": 4}, 8, contraction=value)
