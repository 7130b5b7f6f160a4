"""Equilibria of sequences whose steps attention couples."""

import pytest
import torch

import equifuse as ef
from equifuse.errors import InputError, UnknownNameError

DIMS = {"question": 6, "image": 5}
EXACT = ef.Anderson(tol=1e-12, max_steps=300)


def fusion_of(**options):
    torch.manual_seed(1)
    return ef.DEQFusion(DIMS, dim=8, tokens="coupled", solver=EXACT, gradient=ef.Implicit(), **options).double()


def batch(rows=3):
    torch.manual_seed(2)
    inputs = {"question": torch.randn(rows, 4, 6).double(), "image": torch.randn(rows, 3, 5).double()}
    valid = {
        "question": torch.tensor([[True] * 4, [True, True, False, False], [True, False, False, False]])[:rows],
        "image": torch.tensor([[True] * 3, [True] * 3, [False] * 3])[:rows],
    }
    return inputs, valid


@pytest.mark.parametrize("contraction", [None, 0.6])
def test_the_output_is_a_fixed_point_and_its_gradient_that_of_a_dense_solve(contraction):
    fusion = fusion_of(contraction=contraction)
    inputs, valid = batch()
    leaf = {m: x.clone().requires_grad_() for m, x in inputs.items()}
    out = fusion(leaf, valid)
    f, start = fusion.equilibrium_map(leaf, valid)
    z = start.detach()
    for _ in range(300):
        z = f(z).detach()
    torch.testing.assert_close(out.fused, z[:, 0], atol=1e-9, rtol=0)
    torch.testing.assert_close(out.modalities["question"], z[:, 1:5], atol=1e-9, rtol=0)

    seed = torch.randn_like(z[:, 0])
    parameters = [*leaf.values(), fusion.coupling.value.weight, fusion.fuse_weights, fusion.project["image"].weight]
    found = torch.autograd.grad((out.fused * seed).sum(), parameters)
    # The adjoint by a dense solve: u = J'u + g.
    jacobian = torch.autograd.functional.jacobian(f, z).reshape(z.numel(), z.numel())
    g = torch.zeros_like(z)
    g[:, 0] = seed
    u = torch.linalg.solve(torch.eye(z.numel()).double() - jacobian.T, g.flatten()).view_as(z)
    expected = torch.autograd.grad((f(z) * u).sum(), parameters)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-8, rtol=1e-6)


def test_padding_and_what_it_holds_change_nothing():
    fusion = fusion_of()
    inputs, valid = batch()
    before = fusion(inputs, valid)
    more = {m: torch.cat([x, torch.full_like(x, torch.nan)], dim=1) for m, x in inputs.items()}
    masks = {m: torch.cat([mask, torch.zeros_like(mask)], dim=1) for m, mask in valid.items()}
    after = fusion(more, masks)
    torch.testing.assert_close(after.fused, before.fused, atol=1e-10, rtol=0)
    assert not after.modalities["image"][:, 3:].any()
    alone = fusion({"question": inputs["question"][1:2, :2], "image": inputs["image"][1:2]})
    torch.testing.assert_close(alone.fused, before.fused[1:2], atol=1e-10, rtol=0)


def test_absent_is_as_if_never_given():
    fusion = fusion_of()
    inputs, valid = batch()
    whole = fusion({"question": inputs["question"]}, {"question": valid["question"]}).fused
    hidden = fusion(inputs, {**valid, "image": torch.zeros(3, dtype=torch.bool)}).fused
    torch.testing.assert_close(hidden, whole, atol=1e-10, rtol=0)
    torch.testing.assert_close(fusion(inputs, valid).fused[2], whole[2], atol=1e-10, rtol=0)


def test_a_contraction_has_one_equilibrium_for_any_weights():
    fusion = fusion_of(contraction=0.8)
    with torch.no_grad():
        for parameter in fusion.coupling.parameters():
            parameter.mul_(30)
    inputs, valid = batch()
    f, start = fusion.equilibrium_map(inputs, valid)
    with torch.no_grad():
        z, other = start, torch.where(f.valid[:, :, None], 100 * torch.randn_like(start), 0.0)
        distance = (z - other).norm(dim=2).amax(1)
        for _ in range(40):
            z, other = f(z), f(other)
            now = (z - other).norm(dim=2).amax(1)
            assert bool((now <= 0.8 * distance + 1e-12).all())
            distance = now
    assert bool(fusion(inputs, valid).stats.converged.all())


def test_vectors_are_sequences_of_one_step():
    fusion = fusion_of()
    inputs, _ = batch()
    vectors = {m: x[:, 0] for m, x in inputs.items()}
    found = fusion(vectors)
    assert found.modalities["image"].shape == (3, 8)
    torch.testing.assert_close(found.fused, fusion({m: x[:, None] for m, x in vectors.items()}).fused)
    assert bool(found.stats.converged.all())
    again = ef.make_fusion(**fusion.config()).double()
    again.load_state_dict(fusion.state_dict())
    torch.testing.assert_close(again(vectors).fused, found.fused)


def test_penalties_are_there_where_they_weigh_something():
    fusion = fusion_of(jacobian_weight=1.0, spectral_weight=1.0, residual_weight=1.0).train()
    inputs, valid = batch()
    assert set(fusion(inputs, valid).losses) == {"jacobian", "spectral", "residual"}


def test_mistakes_are_told():
    with pytest.raises(UnknownNameError, match="tokens"):
        ef.DEQFusion(DIMS, tokens="couple")
    with pytest.raises(InputError, match="neither blocks nor a gate"):
        ef.DEQFusion(DIMS, tokens="coupled", gate=False)
    inputs, valid = batch()
    with pytest.raises(InputError, match="must be bool"):
        fusion_of()(inputs, {"image": valid["question"]})
    with pytest.raises(InputError, match="must be \\(B, steps, 5\\)"):
        fusion_of()({"image": inputs["question"]})


def test_a_model_hands_over_the_steps_of_its_encoders():
    from equifuse.data.contents import Regions, Words

    model = ef.build_model(
        {"image": (5, 7), "question": (6, 1)},
        "classification",
        3,
        fusion="deq",
        fusion_options={"dim": 8, "tokens": "coupled", "solver": {"name": "anderson", "tol": 1e-6, "max_steps": 200}},
        encoder_options={"hidden": (8,), "dropout": 0.0},
        contents={"image": Regions(), "question": Words(tuple("abcdef"))},
        unimodal_heads=True,
    ).eval()
    torch.manual_seed(0)
    inputs = {"image": torch.randn(4, 5, 7), "question": torch.randint(2, 8, (4, 6, 1)).float()}
    lengths = {"image": torch.tensor([5, 2, 3, 1]), "question": torch.tensor([6, 1, 4, 2])}
    before = model(inputs, lengths=lengths)
    assert before.encoded["question"].shape == (4, 6, 8)
    changed = {m: x.clone() for m, x in inputs.items()}
    changed["image"][1, 2:] = 9.0
    changed["question"][3, 2:] = 7.0
    after = model(changed, lengths=lengths)
    torch.testing.assert_close(after.prediction, before.prediction, atol=1e-4, rtol=1e-4)
    mask = {"image": torch.tensor([True, False, True, True])}
    without = model({"question": inputs["question"][1:2]}, lengths={"question": lengths["question"][1:2]})
    hidden = model(inputs, mask, lengths=lengths)
    torch.testing.assert_close(hidden.prediction[1:2], without.prediction, atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match="takes steps"):
        model.predict_encoded(dict(before.encoded))
