"""Intervals, sets and survival beside predictions: what they should be, and the same over HTTP."""

import numpy as np
import pytest
import torch

pytest.importorskip("starlette", reason="needs equifuse[serve]")

import equifuse as ef
from equifuse.datasets import MultimodalDataset, Split, write_npz
from equifuse.runs import predict_run
from tests.serve.conftest import client_of, trained

OPTIONS = {"fusion": "mean", "epochs": 1, "modality_dropout": 0.0, "unimodal": "none"}


def made(folder, task, target):
    generator = np.random.default_rng(0)
    parts = {}
    for part, n in (("train", 60), ("val", 39), ("test", 30)):
        a, b = generator.normal(size=(2, n, 2)).astype(np.float32)
        parts[part] = Split({"a": a, "b": b}, target=target(a[:, 0] + b[:, 0], generator))
    write_npz(folder / "set.npz", MultimodalDataset("set", parts, task))
    rows = {m: np.asarray(x).tolist() for m, x in parts["test"].inputs.items()}
    return trained(folder / "run", folder / "set.npz", **OPTIONS), folder / "set.npz", {"inputs": rows}


def predicted(made_run, split):
    """The outputs of the model itself."""
    with torch.no_grad():
        return (
            ef.load(made_run[0] / "model")({m: torch.from_numpy(x) for m, x in split.inputs.items()})
            .prediction[:, 0]
            .numpy()
        )


def asked(folder, made_run, query, **options):
    """The columns of the command line and of the service, which are the same."""
    run, file, rows = made_run
    told = predict_run(run, file, folder / "out.csv", **options)
    answer = client_of(run).post(f"/predict?{query}", json=rows)
    assert answer.status_code == 200, answer.text
    found = answer.json()["columns"]
    assert set(found) == {*told, "row"} - {"id"}
    for name in told.keys() & found.keys() - {"row", "prediction"}:
        np.testing.assert_allclose(np.array(found[name], float), told[name].astype(float), atol=1e-6)
    return told


def test_intervals_are_as_wide_as_the_errors_of_validation(tmp_path):
    run = made(tmp_path, "regression", lambda x, g: (x + g.normal(size=len(x)))[:, None].astype(np.float32))
    told = asked(tmp_path, run, "coverage=0.9", coverage=0.9)
    data = ef.datasets.load(run[1]).splits["val"]
    errors = abs(predicted(run, data) - data.target[:, 0])
    radius = np.sort(errors)[35]  # the 36th of 39
    np.testing.assert_allclose(told["prediction_high"] - told["prediction"], radius, rtol=1e-4)
    np.testing.assert_allclose(told["prediction"] - told["prediction_low"], radius, rtol=1e-4)
    for query, said in (("coverage=1", "between 0 and 1"), ("coverage=0.99", "39 samples of validation are too few"),
                        ("coverage=x", "must be a number"), ("survival_at=1", "times to an event")):  # fmt: skip
        answer = client_of(run[0]).post(f"/predict?{query}", json=run[2])
        assert (answer.status_code, said in answer.json()["detail"]) == (422, True)


@pytest.mark.slow
def test_sets_of_classes(tmp_path):
    run = made(tmp_path, "classification", lambda x, g: (x > 0).astype(np.int64))
    few, many = (asked(tmp_path / name, run, f"coverage={c}", coverage=c) for name, c in (("few", 0.5), ("many", 0.95)))
    assert [name for name in few if name.startswith("in_set_")] == ["in_set_0", "in_set_1"]
    for name in ("in_set_0", "in_set_1"):
        assert (few[name] <= many[name]).all()


@pytest.mark.slow
def test_survival_is_breslow_s(tmp_path):
    def times(x, g):
        return np.stack([g.exponential(size=len(x)), g.random(len(x)) < 0.7], 1).astype(np.float32)

    run = made(tmp_path, "survival", times)
    told = asked(tmp_path, run, "survival_at=0&survival_at=0.5&survival_at=2", survival_at=[0, 0.5, 2])
    np.testing.assert_allclose(told["survival_0"], 1)
    assert (told["survival_0.5"] > told["survival_2"]).all()
    sksurv = pytest.importorskip("sksurv.linear_model.coxph")
    train = ef.datasets.load(run[1]).splits["train"]
    risk = predicted(run, train).astype(float)
    breslow = sksurv.BreslowEstimator().fit(risk, train.target[:, 1] > 0, train.target[:, 0])
    expected = [curve(0.5) for curve in breslow.get_survival_function(told["risk"])]
    np.testing.assert_allclose(told["survival_0.5"], expected, rtol=1e-4)
