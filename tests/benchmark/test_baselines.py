import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import equifuse as ef
from equifuse.benchmark.baselines import fit_linear
from equifuse.datasets import MultimodalDataset, Split
from equifuse.tasks import make_task


def dataset(task, target, present=None):
    generator = np.random.default_rng(0)
    splits = {}
    for part in ("train", "val", "test"):
        inputs = {m: generator.normal(size=(60, l)).astype(np.float32) for m, l in (("a", 5), ("b", 4))}
        y = target(inputs)
        mask = {} if present is None else {"b": present}
        splits[part] = Split(inputs, mask, y)
    return MultimodalDataset("x", splits, task)


def signs(inputs):
    return (inputs["a"][:, 0] + inputs["b"][:, 0] > 0).astype(np.int64)


def test_it_is_logistic_regression_on_standardised_features():
    data = dataset("classification", signs)
    model = fit_linear(data, make_task("classification"))
    x = {part: np.concatenate(list(split.inputs.values()), axis=1) for part, split in data.splits.items()}
    z = {part: ((v - x["train"].mean(0)) / x["train"].std(0)).clip(-5, 5) for part, v in x.items()}
    fits = [LogisticRegression(C=c).fit(z["train"], data.splits["train"].target) for c in (1e-3, 1e-2, 0.1, 1.0)]
    best = max(fits, key=lambda f: f.predict_log_proba(z["val"])[np.arange(60), data.splits["val"].target].mean())
    assert model.metrics(data.splits["test"])["accuracy"] == best.score(z["test"], data.splits["test"].target)
    assert model.parameters == 10


@pytest.mark.parametrize(
    ("task", "target", "metric", "least"),
    [
        ("multilabel", lambda x: np.stack([x["a"][:, 0] > 0, x["b"][:, 0] > 0], 1).astype(np.float32), "f1_micro", 0.8),
        ("regression", lambda x: x["a"][:, :1] + x["b"][:, :1], "r2", 0.9),
        ("classification", lambda x: np.digitize(x["a"][:, 0], [-0.5, 0.5]), "accuracy", 0.6),
    ],
)
def test_every_task(task, target, metric, least):
    data = dataset(task, target)
    assert fit_linear(data, make_task(task)).metrics(data.splits["test"])[metric] > least


def test_retrieval_by_canonical_directions():
    generator = np.random.default_rng(0)
    splits = {}
    for part in ("train", "val", "test"):
        common = generator.normal(size=(60, 3))
        inputs = {
            m: np.concatenate([common, generator.normal(size=(60, l))], axis=1).astype(np.float32)
            for m, l in (("a", 4), ("b", 2))
        }
        splits[part] = Split(inputs, {}, None)
    data = MultimodalDataset("x", splits, "retrieval")
    assert fit_linear(data, make_task("retrieval")).metrics(data.splits["test"])["recall@10"] > 0.8


def test_what_is_missing_is_the_mean():
    present = np.arange(60) % 3 > 0
    data = dataset("classification", signs, present)
    poisoned = {
        part: Split({**s.inputs, "b": np.where(present[:, None], s.inputs["b"], np.nan)}, s.present, s.target)
        for part, s in data.splits.items()
    }
    spoilt = MultimodalDataset("x", poisoned, "classification")
    task = make_task("classification")
    test = poisoned["test"]
    assert fit_linear(data, task).metrics(data.splits["test"]) == fit_linear(spoilt, task).metrics(test)
    alone = fit_linear(spoilt, task).metrics(test.without(["b"]))
    assert 0.5 < alone["accuracy"] < 1
    survival = dataset("survival", lambda x: np.stack([np.abs(x["a"][:, 0]), signs(x)], 1).astype(np.float32))
    with pytest.raises(ef.InputError, match="no linear baseline for survival"):
        fit_linear(survival, make_task("survival"))
