"""Integrated gradients against their formula, and the completeness they owe."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

import equifuse as ef
from equifuse.data.batch import Batch
from equifuse.explain import attribute
from equifuse.tasks import make_task

from .conftest import FUSIONS, SHAPES, build, samples

pytest.importorskip("captum")


def test_of_an_affine_model_they_are_weights_times_distance():
    task, fusion = make_task("regression"), ef.Concat({"a": 3, "b": 2})
    model = ef.FusionModel({"a": None, "b": None}, fusion, nn.Linear(5, 1)).double()
    batch = Batch({"a": torch.randn(4, 3, dtype=torch.float64), "b": torch.randn(4, 2, dtype=torch.float64)})
    start = torch.tensor([1.0, 2.0, 3.0])
    found = attribute(model, task, [batch], baselines={"a": start}, steps=2)
    weight = model.head.weight.detach()[0]
    np.testing.assert_allclose(found.values["a"], (batch.inputs["a"] - start) * weight[:3], rtol=1e-6)
    np.testing.assert_allclose(found.values["b"], batch.inputs["b"] * weight[3:], rtol=1e-6)
    np.testing.assert_allclose(found.delta, 0, atol=1e-6)
    assert found.names == {"a": ("0", "1", "2"), "b": ("0", "1")}


def literal(model, task, batch, steps):
    """Equation 1 of the paper for the predicted class's logit, from the training means, a sample after the other."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    starts = {m: model.encoders[m][0].mean for m in batch.inputs}
    best = model(batch.inputs).prediction.argmax(1)
    found = {m: torch.zeros_like(x) for m, x in batch.inputs.items()}
    for row in range(len(batch)):
        for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            x = {m: (s + node * (batch.inputs[m][row] - s))[None].requires_grad_() for m, s in starts.items()}
            gradients = torch.autograd.grad(model(x).prediction[0, best[row]], list(x.values()))
            for m, g in zip(x, gradients, strict=True):
                found[m][row] += weight * g[0] * (batch.inputs[m][row] - starts[m])
    return found


@pytest.mark.parametrize("fusion", FUSIONS)
def test_they_are_the_published_integral(fusion, task):
    """The equilibrium's by back-propagation through every step of its solver, not by its implicit gradient."""
    model, batch = build(fusion), samples(2)
    found = attribute(model, task, [batch], value="logit", steps=8, tol=np.inf)
    if fusion == "deq":
        assert model.fusion.gradient == ef.Implicit()
        model.fusion.gradient = ef.Unrolled()
        model.fusion.solver = ef.Picard(tol=1e-12, max_steps=300)
    expected = literal(model, task, batch, 8)
    for m, x in found.values.items():
        assert x.shape == (2, *SHAPES[m])
        np.testing.assert_allclose(x, expected[m], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("value", ["probability", "log_probability", "logit"])
@pytest.mark.slow
def test_they_are_complete(fusion, value, task):
    model, batch = build(fusion, encoder="identity", clip=None), samples(4)
    pieces = [batch.select(torch.arange(3)), batch.select(torch.tensor([3]))]
    found = attribute(model.train(), task, pieces, value=value, steps=256)
    assert model.training
    model.eval()
    total = sum(x.reshape(4, -1).sum(1) for x in found.values.values())
    with torch.no_grad():
        means = {m: model.encoders[m][0].mean.expand(1, *s) for m, s in SHAPES.items()}
        ends, start = model(batch.inputs).prediction, model(means).prediction
    best = ends.argmax(1)
    of = {"logit": lambda x: x, "log_probability": lambda x: x.log_softmax(1), "probability": lambda x: x.softmax(1)}
    change = (of[value](ends)[torch.arange(4), best] - of[value](start)[0, best]).numpy()
    np.testing.assert_allclose(found.full - found.baseline, change, atol=1e-8)
    np.testing.assert_allclose(found.delta, total - change, atol=1e-8)
    # The ReLUs of the equilibrium have kinks, which a quadrature feels.
    assert np.abs(found.delta).max() < (5e-3 if fusion == "deq" else 1e-6) * np.abs(change).max()


def test_more_points_come_closer(task):
    model, batch = build("deq"), samples(4)
    few, many = (attribute(model, task, [batch], steps=n, tol=np.inf) for n in (4, 256))
    assert np.abs(many.delta).mean() < 0.1 * np.abs(few.delta).mean()
    off = np.abs(few.delta) / np.abs(few.full - few.baseline)
    tol = float(np.sort(off)[:2].mean())  # between the best sample and the next
    found = attribute(model, task, [batch], steps=4, tol=tol)
    good = off <= tol
    assert good.sum() == 1
    assert (np.abs(found.delta) <= tol * np.abs(found.full - found.baseline)).all()
    for m, x in found.values.items():
        assert (x[good] == few.values[m][good]).all()
        assert (x[~good] != few.values[m][~good]).any()
        np.testing.assert_allclose(x.sum(), many.values[m].sum(), atol=0.1)
    total = sum(x.reshape(4, -1).sum(1) for x in found.values.values())
    np.testing.assert_allclose(found.delta, total - (found.full - found.baseline), atol=1e-12)


def test_an_absent_modality_gets_nothing_whatever_it_holds(task):
    model, batch = build("gmf"), samples(8, missing=True)
    found = attribute(model, task, [batch])
    for i, m in enumerate(SHAPES):
        absent = (np.arange(8) >> i) & 1 == 0
        assert (found.values[m][absent] == 0).all()
        assert np.abs(found.values[m][~absent]).max() > 0
    assert found.delta[0] == found.full[0] - found.baseline[0] == 0
    assert np.isfinite(found.delta).all()
    nobody = attribute(model, task, [batch.select(torch.tensor([0, 2]))])  # of these none has "a", and one has nothing
    np.testing.assert_allclose(nobody.values["b"][1], found.values["b"][2], atol=1e-9)
    assert (nobody.values["a"] == 0).all()
    assert (attribute(model, task, [batch.select(torch.tensor([0]))]).delta == 0).all()
    alone = Batch({m: batch.inputs[m][3:4] for m in ("a", "b")})  # the fourth has these two
    for m, x in attribute(model, task, [alone]).values.items():
        np.testing.assert_allclose(x[0], found.values[m][3], atol=1e-9)


def test_padding_gets_nothing():
    torch.manual_seed(0)
    shapes, task = {"s": (6, 3), "a": (4,)}, make_task("classification")
    model = ef.build_model(shapes, "classification", 2, fusion="concat", sequences=["s"]).double().eval()
    batch = Batch(
        {"s": torch.randn(3, 6, 3, dtype=torch.float64), "a": torch.randn(3, 4, dtype=torch.float64)},
        lengths={"s": torch.tensor([6, 2, 4])},
    )
    found = attribute(model, task, [batch])
    assert found.values["s"].shape == (3, 6, 3)
    assert (found.values["s"][1, 2:] == 0).all()
    assert (found.values["s"][1, :2] != 0).all()
    cropped = Batch({"s": batch.inputs["s"][1:2, :2], "a": batch.inputs["a"][1:2]})
    np.testing.assert_allclose(attribute(model, task, [cropped]).values["s"][0], found.values["s"][1, :2], atol=1e-9)
    assert found.names["s"][:4] == ("0,0", "0,1", "0,2", "1,0")


def test_the_features_that_matter_are_named():
    task = make_task("regression")
    model = ef.FusionModel({"a": None}, ef.Concat({"a": 4}), nn.Linear(4, 1)).double()
    with torch.no_grad():
        model.head.weight.copy_(torch.tensor([[1.0, -3.0, 0.0, 2.0]]))
    model.features = {"a": ("age", "bmi", "noise", "dose")}
    found = attribute(model, task, [Batch({"a": torch.tensor([[1.0, 1, 1, 1], [-1, 1, -1, 1]]).double()})])
    assert [name for name, _ in found.top(3)["a"]] == ["bmi", "dose", "age"]
    assert [size for _, size in found.top(3)["a"]] == pytest.approx([3, 2, 1])
    assert found.summary(1)["features"] == {"a": [{"name": "bmi", "mean_absolute": pytest.approx(3)}]}


def test_mistakes(task, monkeypatch):
    model, batch = build(), samples(3)
    with pytest.raises(ef.InputError, match="steps must be at least 2"):
        attribute(model, task, [batch], steps=1)
    with pytest.raises(ef.InputError, match="tol must be positive"):
        attribute(model, task, [batch], tol=0)
    with pytest.raises(ef.InputError, match=r"baseline of 'a' has shape \(3,\), its samples \(4,\)"):
        attribute(model, task, [batch], baselines={"a": torch.zeros(3)})
    with pytest.raises(ef.InputError, match="no samples"):
        attribute(model, task, [])
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ef.InputError, match=r'pip install "equifuse\[explain\]"'):
        attribute(model, task, [batch])
