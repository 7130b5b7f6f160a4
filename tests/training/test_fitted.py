import numpy as np
import pytest
import torch
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC, SVR

import equifuse as ef
from equifuse.benchmark.job import Job, measure
from equifuse.datasets import MultimodalDataset, Split
from equifuse.runs import TrainConfig
from equifuse.runs.prepare import prepare
from equifuse.training import Trainer

WIDTHS = {"a": 5, "b": 4}


def dataset(task, target, present=None, rows=60):
    generator = np.random.default_rng(0)
    splits = {}
    for part in ("train", "val", "test"):
        inputs = {m: generator.normal(size=(rows, l)).astype(np.float32) for m, l in WIDTHS.items()}
        splits[part] = Split(inputs, {} if present is None else {"b": present}, target(inputs))
    return MultimodalDataset("x", splits, task)


def signs(x):
    return (x["a"][:, 0] + x["b"][:, 0] > 0).astype(np.int64)


TARGETS = {
    "classification": lambda x: np.digitize(x["a"][:, 0], [-0.5, 0.5]),
    "multilabel": lambda x: np.stack([x["a"][:, 0] > 0, x["b"][:, 0] > 0, x["b"][:, 0] > 9], 1).astype(np.float32),
    "regression": lambda x: np.stack([x["a"][:, 0], x["b"][:, 0]], 1) * 100,
}


def fitted(data, fusion, **options):
    prepared = prepare(TrainConfig("x", fusion=fusion, fusion_options=options), data)
    result = Trainer().fit(prepared.model, data, task=prepared.task)
    return prepared.model, prepared.task, result


def columns(model, split):
    """What a model's fusion gets, as scikit-learn takes it."""
    inputs = {m: torch.from_numpy(x) for m, x in split.inputs.items()}
    with torch.no_grad():
        encoded = model.encode(inputs)
    x = torch.cat([*encoded.values(), torch.zeros(len(split), len(WIDTHS))], 1)
    return x.numpy().astype(np.float32), model(inputs).prediction.detach()


def shuffled(data):
    """The training rows in the order in which training has them."""
    from equifuse.data.loaders import batches_of

    batches = list(batches_of(data.splits["train"], 64, 0))
    return np.concatenate([b.index.numpy() for b in batches])


def test_linear_is_logistic_regression_on_standardised_features():
    data = dataset("classification", signs)
    model, _, result = fitted(data, "linear")
    x = {part: columns(model, split)[0] for part, split in data.splits.items()}
    y = {part: split.target for part, split in data.splits.items()}
    fits = [LogisticRegression(C=c).fit(x["train"], y["train"]) for c in (1e-3, 1e-2, 0.1, 1.0)]
    losses = [-f.predict_log_proba(x["val"])[np.arange(60), y["val"]].mean() for f in fits]
    best = fits[int(np.argmin(losses))]
    assert result.best_epoch == np.argmin(losses) + 1
    assert result.best_value == pytest.approx(min(losses), abs=1e-3)
    predicted = torch.softmax(columns(model, data.splits["test"])[1], 1).numpy()
    np.testing.assert_allclose(predicted, best.predict_proba(x["test"]), atol=2e-3)


@pytest.mark.parametrize("task", list(TARGETS))
@pytest.mark.parametrize("kind", ["extra", "boosting"])
def test_trees_are_those_of_scikit_learn(task, kind, tmp_path):
    data = dataset(task, TARGETS[task])
    model, _, result = fitted(data, "trees", kind=kind, trees=4)
    order = shuffled(data)
    x, y = columns(model, data.splits["train"])[0][order], data.splits["train"].target[order]
    test, prediction = columns(model, data.splits["test"])
    if kind == "extra":
        classes = task != "regression"
        estimator = ExtraTreesClassifier if classes else ExtraTreesRegressor
        options = {"min_samples_leaf": (1, 3)[result.best_epoch - 1], "max_features": "sqrt" if classes else 1 / 3}
        known = estimator(4, random_state=0, **options).fit(x, y)
        ends = model.fusion.ends(torch.from_numpy(test)) - model.fusion.root
        np.testing.assert_array_equal(ends.numpy(), known.apply(test))  # the same leaf of every tree
        if task == "regression":
            np.testing.assert_allclose(prediction, known.predict(test), rtol=1e-5, atol=1e-4)
        elif task == "classification":
            expected = (4 * known.predict_proba(test) + 1 / 3) / 5
            np.testing.assert_allclose(torch.softmax(prediction, 1), expected, atol=1e-6)
        else:
            expected = [p[:, 1] if p.shape[1] == 2 else np.zeros(60) for p in known.predict_proba(test)]
            np.testing.assert_allclose(torch.sigmoid(prediction), (4 * np.stack(expected, 1) + 0.5) / 5, atol=1e-6)
    else:
        options = {"max_iter": (1, 2, 4)[result.best_epoch - 1], "early_stopping": False, "random_state": 0}
        if task == "classification":
            known = HistGradientBoostingClassifier(**options).fit(x, y)
            np.testing.assert_allclose(torch.softmax(prediction, 1), known.predict_proba(test), atol=1e-5)
        elif task == "multilabel":
            known = [HistGradientBoostingClassifier(**options).fit(x, y[:, k]).predict_proba(test) for k in (0, 1)]
            np.testing.assert_allclose(torch.sigmoid(prediction[:, :2]), np.stack(known)[:, :, 1].T, atol=1e-5)
            assert torch.sigmoid(prediction[:, 2]).max() < 0.1  # a label that nobody has
        else:
            known = [HistGradientBoostingRegressor(**options).fit(x, y[:, k]).predict(test) for k in (0, 1)]
            np.testing.assert_allclose(prediction, np.stack(known, 1), rtol=1e-4, atol=1e-3)
    model.save(tmp_path / "model")
    inputs = {m: torch.from_numpy(x) for m, x in data.splits["test"].inputs.items()}
    assert torch.equal(ef.load(tmp_path / "model")(inputs).prediction, prediction)


@pytest.mark.parametrize("task", list(TARGETS))
def test_boosting_by_name_is_that_of_trees(task):
    data = dataset(task, TARGETS[task])
    named, _, _ = fitted(data, "boosting", trees=4)
    kind, _, _ = fitted(data, "trees", kind="boosting", trees=4)
    x = {m: torch.from_numpy(x) for m, x in data.splits["test"].inputs.items()}
    assert torch.equal(named(x).prediction, kind(x).prediction)


@pytest.mark.parametrize("task", list(TARGETS))
def test_support_vectors_are_those_of_scikit_learn(task, tmp_path):
    data = dataset(task, TARGETS[task])
    model, _, result = fitted(data, "svm")
    order = shuffled(data)
    x, y = columns(model, data.splits["train"])[0][order], data.splits["train"].target[order]
    test, prediction = columns(model, data.splits["test"])
    cost = (0.3, 3.0, 30.0)[result.best_epoch - 1]
    machines = []
    for k in range(y.shape[1] if y.ndim == 2 else 3):
        target = y[:, k] if y.ndim == 2 else y == k
        if task == "regression":
            scaled = (target - target.mean()) / target.std()
            machines.append(SVR(C=cost, gamma="scale").fit(x, scaled).predict(test) * target.std() + target.mean())
        elif len(np.unique(target)) == 2:
            machines.append(SVC(C=cost, gamma="scale").fit(x, target).decision_function(test))
        else:
            machines.append(np.zeros(60))
    known, found = np.stack(machines, 1), prediction.numpy()
    if task == "regression":
        np.testing.assert_allclose(found, known, rtol=1e-3, atol=0.2)
    else:  # calibrated: an affine map of what the machines say
        basis = np.concatenate([known, np.ones((60, 1))], 1)
        fit = np.linalg.lstsq(basis, found, rcond=None)[0]
        np.testing.assert_allclose(basis @ fit, found, atol=2e-3)
    if task == "classification":
        assert (found.argmax(1) == data.splits["test"].target).mean() > 0.7
    model.save(tmp_path / "model")
    inputs = {m: torch.from_numpy(x) for m, x in data.splits["test"].inputs.items()}
    assert torch.equal(ef.load(tmp_path / "model")(inputs).prediction, prediction)


@pytest.mark.parametrize("task", list(TARGETS))
def test_stacking_joins_what_each_modality_says_and_a_missing_one_says_nothing(task, tmp_path, monkeypatch):
    monkeypatch.setattr("equifuse.fusion.stacking._TREES", 5)
    data = dataset(task, TARGETS[task], np.arange(60) % 4 > 0)
    model, _, result = fitted(data, "stacking")
    inputs = {m: torch.from_numpy(x) for m, x in data.splits["test"].inputs.items()}
    out = model(inputs, {"b": torch.arange(60) % 2 == 0})
    said = {m: model({m: inputs[m]}).fusion.decisions[m] for m in inputs}
    if task == "classification":
        said = {m: x.log_softmax(1).clamp(min=-20) for m, x in said.items()}
    stacked = model.fusion
    parts = [(x - stacked.center[i]) / stacked.scale[i] for i, x in enumerate(said.values())]
    lacks = torch.zeros(60, 2)
    lacks[1::2, 1] = 1
    parts[1] = parts[1] * (1 - lacks[:, 1:])
    torch.testing.assert_close(out.prediction, stacked.linear(torch.cat([*parts, lacks], 1)), rtol=1e-3, atol=1e-3)
    unread = {**inputs, "b": torch.where((torch.arange(60) % 2 == 0)[:, None], inputs["b"], torch.nan)}
    torch.testing.assert_close(model(unread, {"b": torch.arange(60) % 2 == 0}).prediction, out.prediction)
    model.save(tmp_path / "model")
    again = ef.load(tmp_path / "model")
    torch.testing.assert_close(again(inputs).prediction, model(inputs).prediction)
    assert result.best_value < (3e3 if task == "regression" else 0.8)


def test_what_is_stacked_is_said_of_samples_that_were_not_seen(monkeypatch):
    """On noise, trees that were seen say what they learnt by heart; unseen, they say nothing."""
    monkeypatch.setattr("equifuse.fusion.stacking._TREES", 10)
    noise = dataset("classification", lambda x: np.arange(60) % 2)
    model, _, _ = fitted(noise, "stacking")
    x = {m: torch.from_numpy(array) for m, array in noise.splits["train"].inputs.items()}
    assert (model(x).prediction.argmax(1).numpy() == noise.splits["train"].target).mean() < 0.9


def test_thresholds_between_two_floats_are_kept_exactly():
    x = np.array([1024, np.nextafter(np.float32(1024), np.float32(2000))], np.float32)
    split = Split({"a": np.repeat(x, 10)[:, None]}, {}, np.repeat([0, 1], 10))
    model = ef.build_model({"a": 1}, "classification", 2, fusion="trees", fusion_options={"trees": 3}, clip=None)
    Trainer().fit(model, split)  # standardising would make them one: it is not fitted here
    assert model({"a": torch.from_numpy(x)[:, None]}).prediction.argmax(1).tolist() == [0, 1]


@pytest.mark.parametrize("fusion", ["linear", "trees"])
def test_what_is_missing_counts_as_average_and_as_missing(fusion):
    present = np.arange(60) % 3 > 0
    data = dataset("classification", signs, present)
    poisoned = {
        part: Split({**s.inputs, "b": np.where(present[:, None], s.inputs["b"], np.nan)}, s.present, s.target)
        for part, s in data.splits.items()
    }
    model, task, _ = fitted(data, fusion)
    spoilt, _, _ = fitted(MultimodalDataset("x", poisoned, "classification"), fusion)
    from equifuse.data.loaders import batches_of

    one, other = (task.evaluate(m, batches_of(data.splits["test"])) for m in (model, spoilt))
    assert torch.equal(one.prediction, other.prediction)
    alone = task.evaluate(model, batches_of(data.splits["test"].without(["b"])))
    assert 0.5 < alone.metrics["accuracy"] < 1


def test_weights_of_samples_and_classes_count():
    data = dataset("classification", signs, rows=90)
    train = data.splits["train"]
    twice = {**data.splits, "train": train.joined(train.select(np.arange(30)))}
    weight = np.where(np.arange(90) < 30, 2.0, 1.0)
    model, _, _ = fitted(MultimodalDataset("x", twice, "classification"), "linear")
    weighted = MultimodalDataset(
        "x", {**data.splits, "train": Split(train.inputs, {}, train.target, weight=weight)}, "classification"
    )
    other, _, _ = fitted(weighted, "linear")
    torch.testing.assert_close(model.fusion.linear.weight, other.fusion.linear.weight, atol=2e-3, rtol=0)


def test_sequences_are_averaged_and_other_tasks_have_their_own_linear_models():
    generator = np.random.default_rng(0)
    splits = {}
    for part in ("train", "val", "test"):
        common = generator.normal(size=(60, 3))
        inputs = {
            m: np.concatenate([common, generator.normal(size=(60, l))], axis=1).astype(np.float32)
            for m, l in (("a", 4), ("b", 2))
        }
        steps = np.repeat(inputs["b"][:, None], 4, 1)
        steps[:, 2:] = np.nan
        inputs["b"] = steps
        splits[part] = Split(inputs, {}, None, lengths={"b": np.full(60, 2)})
    data = MultimodalDataset("x", splits, "retrieval")
    model, task, _ = fitted(data, "linear")
    from equifuse.data.loaders import batches_of

    assert task.evaluate(model, batches_of(data.splits["test"])).metrics["recall@10"] > 0.8


def test_what_does_not_fit_is_said():
    survival = dataset("survival", lambda x: np.stack([np.abs(x["a"][:, 0]), signs(x)], 1).astype(np.float32))
    with pytest.raises(ef.InputError, match="no linear model for survival"):
        fitted(survival, "linear")
    with pytest.raises(ef.InputError, match="'trees' is for classification, multilabel, regression"):
        fitted(survival, "trees")
    with pytest.raises(ef.InputError, match="without encoder 'mlp'"):
        ef.build_model({"a": 3}, "classification", 2, fusion="linear", encoder="mlp")


def test_estimators_and_the_benchmark_take_them():
    data = dataset("regression", TARGETS["regression"])
    train, test = data.splits["train"], data.splits["test"]
    model = ef.FusionRegressor("linear", random_state=0).fit(train.inputs, train.target)
    assert model.score(test.inputs, test.target) > 0.9
    trees = ef.FusionRegressor("trees", fusion_options={"trees": 10}, random_state=0).fit(train.inputs, train.target)
    assert trees.score(test.inputs, test.target) > 0.2
    config = TrainConfig("digits", fusion="trees", fusion_options={"trees": 5})
    result = measure(Job("digits", "trees", config, "0" * 16, missing=(0.5,)))
    assert result.scores["intact"]["accuracy"] > max(0.5, result.scores["missing 0.5"]["accuracy"])


def test_what_is_given_and_has_no_use_is_refused(tmp_path):
    given = {"lr": 0.01, "epochs": 3, "modality_dropout": 0.5, "hidden": [8]}
    with pytest.raises(ef.InputError, match="'linear' is fitted at once and has no use for hidden, epochs, lr and mod"):
        TrainConfig("digits", fusion="linear", **given)
    # On the command line also a value that is the default.
    with pytest.raises(ef.InputError, match="'trees' is fitted at once and has no use for batch_size"):
        TrainConfig.from_options(None, {"data": "digits", "fusion": "trees", "batch_size": 64})
    data = dataset("classification", signs)
    with pytest.raises(ef.InputError, match="no use for lr"):
        ef.FusionClassifier("linear", lr=0.1).fit(data.splits["train"].inputs, data.splits["train"].target)
    with pytest.raises(ef.InputError, match="fitted at once to all samples; use fit"):
        ef.FusionClassifier("trees").partial_fit(data.splits["train"].inputs, data.splits["train"].target, [0, 1])
    model = ef.build_model(data.shapes, "classification", 2, fusion="linear")
    with pytest.raises(ef.InputError, match="no use for sch"):
        Trainer(schedule="cosine").fit(model, data)
    with pytest.raises(ef.InputError, match="without an optimiser"):
        Trainer(optimizer=torch.optim.SGD).fit(model, data)
    (tmp_path / "config.yaml").write_text("fusion: linear\ndata: digits\nepochs: 100\n")  # as a run stores it
    assert TrainConfig.from_options(tmp_path / "config.yaml", {}).fits_at_once


def test_what_is_set_for_several_methods_is_of_those_that_have_a_use_for_it():
    from equifuse.benchmark import BenchmarkConfig

    config = BenchmarkConfig.from_dict({"data": "digits", "methods": ["deq", "linear"], "settings": {"lr": 0.1}})
    deq, linear = (config.train_config("digits", method, 0) for method in config.methods)
    assert (deq.lr, linear.lr) == (0.1, 1e-3)
    with pytest.raises(ef.InputError, match="no use for lr"):
        BenchmarkConfig.from_dict({"data": "digits", "methods": ["linear"], "settings": {"lr": 0.1}})
    with pytest.raises(ef.InputError, match="no use for lr"):
        BenchmarkConfig.from_dict({"data": "digits", "methods": ["deq", {"fusion": "linear", "lr": 0.1}]})
    chosen = TrainConfig("digits", cv=2, choose={"fusion": ["deq", "linear"], "lr": [0.1, 0.2]}).candidates()
    assert [(c.fusion, c.lr) for c in chosen] == [("deq", 0.1), ("deq", 0.2), ("linear", 1e-3)]
