"""The one call: consistent with its parts, and ready for a report."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import equifuse as ef
from equifuse.data.batch import Batch
from equifuse.explain import attribute, calibrate, evaluate_coalitions, explain, intervals, look_inside, prediction_sets
from equifuse.tasks import make_task

from .conftest import FUSIONS, SHAPES, build, samples


@pytest.mark.parametrize("fusion", FUSIONS)
def test_it_is_what_its_parts_are(fusion, task):
    pytest.importorskip("captum")
    model, test, val = build(fusion), samples(16, missing=True), samples(30, seed=5)
    pieces = [test.select(torch.arange(9)), test.select(torch.arange(9, 16))]
    found = explain(model.train(), task, iter(pieces), validation=[val], features=True, steps=8, tol=np.inf, alpha=0.2)
    assert model.training
    table = evaluate_coalitions(model, task, [test])
    for metric in ("accuracy", "loss"):
        for m, x in table.overall(task, metric).values.items():
            np.testing.assert_allclose(found.overall[metric].values[m], x, atol=1e-6)
    own, inside = table.per_sample(task), look_inside(model, [test])
    features = attribute(model, task, [test], steps=8, tol=np.inf)
    for m in SHAPES:
        np.testing.assert_allclose(found.contributions.values[m], own.values[m], atol=1e-7)
        np.testing.assert_allclose(found.attributions.values[m], features.values[m], atol=1e-7)
        if fusion == "deq":
            np.testing.assert_allclose(found.internals.gate.share[m], inside.gate.share[m], atol=1e-6)
        if fusion == "gmf":
            np.testing.assert_allclose(found.internals.parts.invariant[m], inside.parts.invariant[m])
    model.eval()
    with torch.no_grad():
        outputs, fitted = model(test.inputs, test.present).prediction, model(val.inputs).prediction
    np.testing.assert_allclose(found.outputs, outputs, atol=1e-7)
    assert found.chosen.tolist() == outputs.argmax(1).tolist()
    scaled = calibrate("classification", (fitted, val.target), (outputs, test.target))
    assert found.calibration.temperature == pytest.approx(scaled.temperature, rel=1e-5)
    assert found.calibration.scaled.brier == pytest.approx(scaled.scaled.brier, rel=1e-5)
    sets = prediction_sets((fitted.softmax(1), val.target), outputs.softmax(1), test.target, alpha=0.2)
    assert found.conformal.coverage == sets.coverage
    assert found.conformal.threshold == pytest.approx(sets.threshold)


def test_the_summary_is_plain(task):
    model = build("deq", classes=("x", "y", "z"))
    found = explain(model, task, [samples(16, missing=True)], validation=[samples(30, seed=5)])
    summary = json.loads(json.dumps(found.summary(), allow_nan=False))
    assert summary["samples"] == 16
    assert summary["share_present"] == {"a": 0.5, "b": 0.5, "c": 0.5}
    contributions = found.contributions.values["a"]
    has_a = found.present[:, 0]
    assert summary["contributions"]["values"]["a"] == pytest.approx(contributions[has_a].mean())
    assert summary["contributions"]["mean_absolute"]["a"] == pytest.approx(np.abs(contributions[has_a]).mean())
    for k, name in enumerate("xyz"):
        of_class = has_a & (found.chosen == k)
        if of_class.any():
            assert summary["contributions"]["by_output"][name]["a"] == pytest.approx(contributions[of_class].mean())
    accuracy = summary["overall"]["accuracy"]
    assert sum(accuracy["values"].values()) == pytest.approx(accuracy["full"] - accuracy["empty"])
    assert "approximate" in summary["conformal"]["assumption"]
    assert summary["converged"] == 1


@pytest.mark.parametrize(
    ("kind", "outputs"), [("regression", 1), ("regression", 2), ("multilabel", 3), ("survival", 1)]
)
def test_other_tasks(kind, outputs):
    task, model = make_task(kind), build("gmf", kind, outputs)
    test, val = (samples(20, task=kind, outputs=outputs, seed=seed) for seed in (1, 2))
    found = explain(model, task, [test], validation=[val], output=outputs - 1, conformal="aps")
    json.dumps(found.summary(), allow_nan=False)
    assert (found.chosen == outputs - 1).all()
    assert set(found.overall) == {task.headline, "loss"}
    predictions = [model(b.inputs).prediction.detach() for b in (val, test)]
    if kind == "regression":
        own = intervals((predictions[0], val.target), predictions[1], test.target)
        np.testing.assert_allclose(found.conformal.radius, own.radius, rtol=1e-6)
        np.testing.assert_allclose(found.conformal.coverage, own.coverage)
    else:
        assert found.conformal is None
    assert (found.calibration is not None) == (kind == "multilabel")


def test_only_the_first_samples_without_labels_or_validation(task):
    model, test = build("concat"), samples(12)
    unlabelled = Batch(test.inputs)
    pieces = [unlabelled.select(torch.arange(i, i + 4)) for i in (0, 4, 8)]
    found = explain(model, task, pieces, samples=6)
    assert len(found.outputs) == 6
    np.testing.assert_allclose(found.outputs, model(test.inputs).prediction[:6].detach())
    assert found.overall == {}
    assert found.calibration is found.conformal is found.attributions is None
    assert explain(model, task, [unlabelled], validation=[test]).calibration.raw is None


def test_mistakes_are_told_before_the_work(task):
    model, test = build(), samples(6)

    def untouched():
        raise AssertionError
        yield

    for options, message in (
        ({"alpha": 2}, "alpha must be"),
        ({"conformal": "apx"}, "did you mean 'aps'"),
        ({"value": "logits"}, "did you mean 'logit'"),
        ({"samples": 0}, "samples must be"),
    ):
        with pytest.raises(ef.EquifuseError, match=message):
            explain(model, task, untouched(), **options)
    with pytest.raises(ef.InputError, match="no labels"):
        explain(model, task, [test], validation=[Batch(test.inputs)])
    with pytest.raises(ef.InputError, match="no samples"):
        explain(model, task, [])
    with pytest.raises(ef.InputError, match="nothing to explain in retrieval"):
        explain(model, make_task("retrieval"), [test])


@pytest.mark.slow
def test_importing_it_stays_light():
    heavy = ("captum", "sklearn", "scipy", "pandas", "matplotlib", "lightning")
    code = f"import sys, equifuse.explain; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
