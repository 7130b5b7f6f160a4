"""Calls at the border of what makes sense: no rows, one row for batch normalisation, what is no tensor."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import equifuse as ef

DIMS = {"text": 6, "image": 5}


def build(name):
    options = {"outputs": 3} if "outputs" in ef.fusion.fusion_options(name) else {}
    return ef.make_fusion(name, DIMS, **options)


@pytest.mark.parametrize("leading", [(0,), (0, 3), (2, 0)])
@pytest.mark.parametrize("name", ef.available_fusions())
def test_a_batch_without_rows_has_results_without_rows(name, leading):
    fusion = build(name)
    inputs = {m: torch.randn(*leading, width, requires_grad=True) for m, width in DIMS.items()}
    out = fusion(inputs, {"image": torch.ones(leading, dtype=torch.bool)})
    assert out.fused.shape == (*leading, fusion.out_dim)
    for found in (out.modalities, out.decisions, out.confidence):
        assert all(state.shape[:-1] == leading for state in found.values())
    assert all(loss == 0 for loss in out.losses.values())
    if out.stats is not None:
        assert out.stats.converged.shape == leading
    # As in a process that has no samples of the last batch: nothing to learn, and nothing that breaks.
    (out.fused.sum() + sum(out.losses.values())).backward()
    assert all(p.grad is None or bool((p.grad == 0).all()) for p in fusion.parameters())
    assert all(x.grad.shape == x.shape for x in inputs.values() if x.grad is not None)


@pytest.mark.parametrize("fusion", ["deq", "gmf", "concat", "late"])
def test_a_model_predicts_no_samples(fusion):
    model = ef.build_model(DIMS, "classification", 3, fusion=fusion)
    prediction = model({m: torch.randn(0, width) for m, width in DIMS.items()}).prediction
    assert prediction.shape == (0, 3)


X = {m: torch.randn(4, width) for m, width in DIMS.items()}


@pytest.mark.parametrize(
    ("inputs", "present", "message"),
    [
        ({**X, "image": None}, None, "modality 'image' is None; leave it out"),
        ({**X, "image": X["image"].numpy()}, None, r"modality 'image' is a numpy\.ndarray; pass a tensor"),
        ({**X, "image": [[0.0] * 5] * 4}, None, "modality 'image' is a list; pass a tensor"),
        (X["text"], None, "inputs must map modality names to tensors, got Tensor"),
        (X, {"image": [True] * 4}, r"present\['image'\] must be a bool tensor, got a list"),
        (X, {"image": True}, r"present\['image'\] must be a bool tensor, got a bool"),
        (X, {"image": np.ones(4, bool)}, r"present\['image'\] must be a bool tensor, got a numpy\.ndarray"),
        (X, torch.ones(4, 2, dtype=torch.bool), "present must map modality names to tensors, got Tensor"),
    ],
)
@pytest.mark.parametrize("name", ["deq", "gmf", "late"])
def test_what_is_no_tensor_is_named(name, inputs, present, message):
    with pytest.raises(ef.InputError, match=message) as raised:
        build(name)(inputs, present)
    assert "\n" not in str(raised.value)
    assert "tensor([" not in str(raised.value)


def test_batch_normalisation_of_a_modality_that_one_sample_has():
    def encoder(width):
        return nn.Sequential(nn.Linear(width, 8), nn.BatchNorm1d(8))

    fusion = ef.Concat({"text": 8, "image": 8})
    model = ef.FusionModel(
        {m: encoder(width) for m, width in DIMS.items()}, fusion, nn.Linear(fusion.out_dim, 3)
    ).train()
    norm = model.encoders["image"][1]
    before = norm.running_mean.clone()
    one = torch.tensor([True, False, False, False])
    prediction = model(X, {"image": one}).prediction
    prediction.sum().backward()
    assert torch.isfinite(prediction).all()
    assert norm.training
    assert torch.equal(norm.running_mean, before)  # one sample says nothing of a mean and a variance
    model(X, {"image": ~one})
    assert not torch.equal(norm.running_mean, before)


def test_another_mistake_of_an_encoder_is_not_hidden():
    class Broken(nn.Module):
        def forward(self, x):
            raise ValueError("something else")

    model = ef.FusionModel({"text": Broken(), "image": None}, ef.Concat({"text": 6, "image": 5}), nn.Identity())
    with pytest.raises(ValueError, match="something else"):
        model({m: x[:1] for m, x in X.items()})


class Gives(nn.Module):
    """An encoder whose output is made of its vectors by a function."""

    def __init__(self, width, kind):
        super().__init__()
        self.linear, self.kind = nn.Linear(width, 4), kind

    def forward(self, x):
        return self.kind(self.linear(x))


def model_of(kind):
    torch.manual_seed(0)
    fusion = ef.make_fusion("sum", {"text": 4, "image": 5}, dim=4)
    return ef.FusionModel({"text": Gives(6, kind), "image": None}, fusion, nn.Linear(fusion.out_dim, 3))


MASK = {"text": torch.tensor([True, False, True, True])}


@pytest.mark.parametrize(
    "kind",
    [
        lambda h: (h,),
        lambda h: [h, None],
        lambda h: {"features": h, "attention": None},
        lambda h: {"last_hidden_state": h[:, None].expand(-1, 3, -1), "pooler_output": h},
        lambda h: SimpleNamespace(last_hidden_state=h[:, None].expand(-1, 3, -1), pooler_output=h),
        lambda h: SimpleNamespace(logits=h, loss=None),
        lambda h: (h[:, None].expand(-1, 3, -1), h),
    ],
)
@pytest.mark.parametrize("present", [None, MASK])
def test_what_encoders_give_beside_a_tensor(kind, present):
    expected = model_of(lambda h: h)(X, present).prediction
    torch.testing.assert_close(model_of(kind)(X, present).prediction, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (lambda h: None, r"the encoder of 'text' gives None; it must give one tensor \(4, 4\): wrap it"),
        (lambda h: (h, h + 1), r"gives a tuple with 0 \(4, 4\), 1 \(4, 4\); it must give one tensor"),
        (lambda h: {"a": h[:, :3], "b": h[:2]}, r"gives a dict with a \(4, 3\), b \(2, 4\)"),
        (lambda h: h.detach().numpy(), "gives a ndarray; it must give one tensor"),
        (lambda h: h[:, :3], "the encoder of 'text' gives width 3, the fusion was built for 4"),
        (lambda h: h[:1], r"the encoder of 'text' gives shape \(1, 4\) for 4 samples"),
        (lambda h: h.sum(), r"the encoder of 'text' gives shape \(\) for 4 samples"),
    ],
)
def test_what_encoders_may_not_give(kind, message):
    with pytest.raises(ef.InputError, match=message):
        model_of(kind)(X)


@pytest.mark.parametrize("given", [None, [[0.0] * 5] * 4, np.zeros((4, 5))])
def test_a_model_names_what_is_no_tensor(given):
    with pytest.raises(ef.InputError, match="modality 'image' is .*; (leave it out|pass a tensor)"):
        model_of(lambda h: h)({**X, "image": given})


def test_a_sample_without_a_batch():
    fusion = ef.make_fusion("sum", DIMS)
    with pytest.raises(ef.InputError, match=r"modality 'text' has shape \(6,\), without an axis of samples"):
        fusion({m: x[0] for m, x in X.items()})
