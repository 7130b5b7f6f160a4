"""Heads: which a model has, that they are stored, and what the hidden layer is for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score

import equifuse as ef

SHAPES = {"a": 5, "b": 3}


def built(**options):
    return ef.build_model(SHAPES, "classification", 3, fusion="concat", **options)


def inputs(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(n, width, generator=generator) for name, width in SHAPES.items()}


def test_a_model_has_the_head_that_was_asked_for():
    assert type(built().head) is ef.model.LinearHead
    assert type(built(head_hidden=7).head) is ef.model.MLPHead
    assert built(head_hidden=7).head.linear.in_features == 7
    late = ef.build_model(SHAPES, "classification", 3, fusion="late", head_hidden=7)
    assert isinstance(late.head, torch.nn.Identity)  # it decides by what each modality says
    alone = ef.build_model({"a": 5}, "classification", 3, fusion="concat", head_hidden="auto")
    assert type(alone.head) is ef.model.LinearHead  # there is nothing that it adds up


def test_the_hidden_layer_is_the_formula():
    head = ef.model.MLPHead(6, 2, hidden=4).double().eval()
    h = torch.randn(5, 6, dtype=torch.float64)
    normal = (h - h.mean(1, keepdim=True)) / (h.var(1, correction=0, keepdim=True) + head.norm.eps).sqrt()
    inner, outer = head.hidden[0], head.linear
    torch.testing.assert_close(
        head(h), (normal @ inner.weight.T + inner.bias).clamp(min=0) @ outer.weight.T + outer.bias
    )


def test_a_stored_model_has_its_head_again(tmp_path):
    model = built(head_hidden=7, encoder_options={"dropout": 0.1}).eval()
    model.save(tmp_path / "model")
    again = ef.load(tmp_path / "model").eval()
    assert again.head.hidden[2].p == 0.1
    x = inputs(4)
    assert torch.equal(again(x).prediction, model(x).prediction)


@pytest.mark.parametrize(
    ("options", "said"), [({"hidden": 0}, "head_hidden"), ({"hidden_dropout": 1.0}, "hidden_dropout")]
)
def test_sizes_out_of_range_are_refused(options, said):
    with pytest.raises(ef.InputError, match=said):
        ef.model.MLPHead(4, 2, **options)


@pytest.mark.parametrize("fusion", ["concat", "gmf"])
def test_two_modalities_that_decide_together_are_learnt(fusion):
    rng = np.random.default_rng(0)
    x = {name: rng.normal(size=(600, 2)).astype(np.float32) for name in "ab"}
    y = np.where(x["a"][:, 0] * x["b"][:, 0] > 0, "alike", "apart")
    train, test = slice(400), slice(400, None)
    model = ef.FusionClassifier(fusion=fusion, random_state=0, epochs=60)
    model.fit({name: values[train] for name, values in x.items()}, y[train])
    said = model.predict({name: values[test] for name, values in x.items()})
    assert accuracy_score(y[test], said) > 0.9
