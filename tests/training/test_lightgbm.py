"""Boosting by LightGBM: its trees are kept as plain arrays, which decide as it does and need it no more."""

import sys

import numpy as np
import pytest
import torch

import equifuse as ef
from equifuse.auto import Candidate, Preset, auto
from equifuse.auto.portfolio import lacking, portfolio_of
from equifuse.benchmark import BenchmarkConfig, run_benchmark
from equifuse.cli import main
from equifuse.datasets import MultimodalDataset, Split
from equifuse.errors import InputError
from equifuse.runs import TrainConfig
from equifuse.runs.prepare import prepare
from equifuse.training import Trainer

lightgbm = pytest.importorskip("lightgbm", reason="needs equifuse[lightgbm]")

INSTALL = r"needs lightgbm: pip install 'equifuse\[lightgbm\]'"
METHODS = Preset(2, 1, 1, ("linear", "lightgbm"), 0)


def dataset(task, target, rows=200):
    """Columns with gaps, few values, one value, and a modality that is often missing."""
    generator = np.random.default_rng(0)
    splits = {}
    for part in ("train", "val", "test"):
        a = generator.normal(size=(rows, 4)).astype(np.float32)
        a[:, 1], a[:, 2] = generator.integers(0, 3, rows), 7
        a[generator.random((rows, 4)) < 0.1] = np.nan
        b = generator.normal(size=(rows, 2)).astype(np.float32)
        weight = generator.random(rows) + 0.1 if part == "train" else None
        splits[part] = Split({"a": a, "b": b}, {"b": generator.random(rows) < 0.7}, target(a, b), weight=weight)
    return MultimodalDataset("x", splits, task)


TARGETS = {
    "classification": lambda a, b: np.digitize(np.nan_to_num(a[:, 0]) + b[:, 0], [-0.5, 0.5]),
    "multilabel": lambda a, b: np.stack([a[:, 0] > 0, b[:, 0] > 0, b[:, 0] > 9], 1).astype(np.float32),
    "regression": lambda a, b: np.stack([np.nan_to_num(a[:, 0]), b[:, 0]], 1) * 100,
}


def fitted(data, fusion="lightgbm", **options):
    prepared = prepare(TrainConfig("x", fusion=fusion, **options), data)
    return prepared.model, Trainer(prepared.config).fit(prepared.model, data, task=prepared.task)


def predicted(model, split):
    inputs = {m: torch.from_numpy(x) for m, x in split.inputs.items()}
    return model(inputs, {m: torch.from_numpy(p) for m, p in split.present.items()}).prediction


def without_lightgbm(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)


@pytest.fixture
def boosters(monkeypatch):
    """Those that LightGBM trains, as they come."""
    found, train = [], lightgbm.train
    monkeypatch.setattr(lightgbm, "train", lambda *args, **options: found.append(train(*args, **options)) or found[-1])
    return found


@pytest.mark.parametrize("task", list(TARGETS))
def test_the_arrays_decide_as_lightgbm_does(task, boosters, monkeypatch, tmp_path):
    data = dataset(task, TARGETS[task])
    model, result = fitted(data, fusion_options={"trees": 12})
    rounds = (3, 6, 12)[result.best_epoch - 1]
    # The columns of all parts; the same with the values of all thresholds, rounded, and the next ones on both sides.
    inputs = [torch.from_numpy(s.inputs[m]) for s in data.splits.values() for m in ("a",)]
    x = torch.cat([model.encode({"a": part})["a"] for part in inputs]).detach().numpy()
    tables = [b.trees_to_dataframe()["threshold"].dropna().to_numpy(np.float32) for b in boosters]
    at = np.concatenate(tables)
    near = np.concatenate([at, np.nextafter(at, np.float32(9)), np.nextafter(at, np.float32(-9))])
    generator = np.random.default_rng(0)
    rows = generator.choice(np.concatenate([near, x.ravel(), [0]]), (500, model.fusion.width)).astype(np.float32)
    found = model.fusion.predict(torch.from_numpy(rows)).detach().numpy()
    known = np.zeros_like(found)
    if task == "classification":
        known = boosters[0].predict(rows, raw_score=True, num_iteration=rounds)
    else:
        for k in range(2):
            known[:, k] = boosters[k].predict(rows, raw_score=True, num_iteration=rounds)
    if task == "multilabel":
        known[:, 2] = -np.log(201)  # a label that nobody has
    np.testing.assert_allclose(found, known, rtol=1e-5, atol=1e-5 * np.abs(known).max())
    test = data.splits["test"]
    model.save(tmp_path / "model")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    again, _ = fitted(data, fusion_options={"trees": 12})
    assert torch.equal(predicted(again, test), predicted(model, test))
    without_lightgbm(monkeypatch)
    assert torch.equal(predicted(ef.load(tmp_path / "model"), test), predicted(model, test))


def test_two_classes_are_one_score_and_weights_count(boosters):
    data = dataset("classification", lambda a, b: (b[:, 0] > 0.3).astype(np.int64))
    model, _ = fitted(data, fusion_options={"trees": 4})
    rows = torch.randn(50, model.fusion.width)
    said = model.fusion.predict(rows).detach()
    raw = boosters[0].predict(rows.numpy(), raw_score=True, num_iteration=len(model.fusion.root) - 1)
    np.testing.assert_allclose(said[:, 1] - said[:, 0], raw, atol=1e-5)
    weighted, _ = fitted(data, fusion_options={"trees": 4}, class_weights="balanced")
    assert not torch.equal(weighted.fusion.predict(rows), model.fusion.predict(rows))


@pytest.mark.parametrize("fusion", ["boosting", "lightgbm"])
@pytest.mark.parametrize("seen", [[2], [0, 2], [0, 2, 3]])
def test_a_class_that_no_sample_has_is_not_predicted(fusion, seen):
    x = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    split = Split({"a": x}, {}, np.array(seen)[np.digitize(x[:, 0], [-0.3, 0.3][: len(seen) - 1])])
    model = ef.build_model({"a": 2}, "classification", 5, fusion=fusion, fusion_options={"trees": 4})
    Trainer().fit(model, split)  # as a fold of few samples may be
    assert set(predicted(model, split).argmax(1).tolist()) == set(seen)


def test_what_is_to_be_installed_is_said(monkeypatch, capsys, tmp_path):
    without_lightgbm(monkeypatch)
    with pytest.raises(InputError, match=INSTALL):
        ef.FusionClassifier("lightgbm").fit(np.eye(4), [0, 1, 0, 1])
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--data", "digits", "--fusion", "lightgbm", "--out", str(tmp_path / "run")])
    assert "'lightgbm' needs lightgbm: pip install 'equifuse[lightgbm]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=INSTALL):
        run_benchmark(BenchmarkConfig.from_dict({"data": "digits", "methods": ["lightgbm"]}), tmp_path / "benchmark")
    with pytest.raises(InputError, match=INSTALL):
        auto(TrainConfig("digits"), tmp_path / "auto", portfolio=[Candidate("x", {"fusion": "lightgbm"})])


def test_a_search_goes_on_without_it_and_says_so(small_set, tmp_path, monkeypatch):
    config = TrainConfig(str(small_set))
    assert [c.name for c in portfolio_of(METHODS, "classification", 2)] == ["linear", "lightgbm"]

    class Stop(Exception):
        pass

    def stop(line):
        raise Stop

    with pytest.raises(Stop):
        auto(config, tmp_path / "begun", preset=METHODS, time_limit="none", tell=stop)
    with monkeypatch.context() as context:
        without_lightgbm(context)
        assert lacking(METHODS, "classification") == ["lightgbm"]
        with pytest.raises(InputError, match=INSTALL):
            auto(config, tmp_path / "begun", preset=METHODS, time_limit="none", resume=True)
        with pytest.raises(Stop):
            auto(config, tmp_path / "other", preset=METHODS, time_limit="none", tell=stop)
    # What was not there at the beginning is not tried later either.
    found = auto(config, tmp_path / "other", preset=METHODS, time_limit="none", resume=True)
    assert {e.method for e in found.entries} == {"ensemble", "linear", "boosting"}
    said = "lightgbm was not tried, since it is not installed; boosting was in its place: pip install"
    assert [line for line in found.report if "lightgbm" in line] == [f"{said} 'equifuse[lightgbm]' adds it."]
