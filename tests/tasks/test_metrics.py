"""Metrics: undefined ones are None with a reason, and anybody can add one."""

import inspect
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import equifuse as ef
from equifuse.data import MultimodalDataset, Split
from equifuse.registry import METRICS, TASKS
from equifuse.tasks import Detailed, Metric, Quantities, Task, make_task, metric

SOURCE = Path(ef.__file__).parent
EXAMPLE = "task" == "survival"  # noqa: PLR0133 - for the test below
NAMES = "classification|multilabel|regression|retrieval|survival"


def test_only_the_room_of_tasks_asks_for_the_name_of_a_task():
    files = [path for path in sorted(SOURCE.rglob("*.py")) if path.parent != SOURCE / "tasks"]
    assert len(files) > 100
    assert {str(path.relative_to(SOURCE)): found for path in files if (found := comparisons(path))} == {}
    assert comparisons(Path(__file__)) != []  # it finds what it looks for


def comparisons(path):
    """Where a file compares something with the name of a task."""
    text = path.read_text(encoding="utf-8")
    asked = re.findall(rf"(?:==|!=|\bin)\s*\(?\s*[\"'](?:{NAMES})[\"'].*", text)
    asked += re.findall(rf"[\"'](?:{NAMES})[\"']\s*(?:==|!=|not in\b|in\b).*", text)
    return asked + re.findall(rf"case\s+[\"'](?:{NAMES})[\"'].*", text)


LOGITS = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
UNDEFINED = {
    "one class": ("classification", LOGITS, torch.tensor([1, 1, 1]), {"auc": "class '0' does not occur"}),
    "class 1 nowhere": (
        "classification",
        LOGITS[[0, 2]],
        torch.tensor([0, 0]),
        {"auc": "class '1' does not occur", "f1": "class 1 neither occurs nor is predicted"},
    ),
    "no label": (
        "multilabel",
        -torch.ones(3, 2),
        torch.zeros(3, 2),
        {
            "f1_micro": "no label occurs, and none is predicted",
            "f1_macro": "no label occurs, and none is predicted",
            "f1_weighted": "no label occurs",
            "f1_samples": "no label occurs, and none is predicted",
            "map": "no label occurs",
        },
    ),
    "one label that never occurs": (
        "multilabel",
        torch.ones(3, 1),
        torch.zeros(3, 1),
        {"f1_weighted": "no label occurs", "map": "no label occurs"},
    ),
    "constant target": (
        "regression",
        torch.arange(3.0)[:, None],
        torch.ones(3, 1),
        {"r2": "the target is constant", "pearson": "the target is constant"},
    ),
    "constant prediction": (
        "regression",
        torch.full((3, 1), 0.1),
        torch.arange(3.0)[:, None],
        {"pearson": "the prediction is constant"},
    ),
    "one sample": (
        "regression",
        torch.ones(1, 1),
        torch.zeros(1, 1),
        {"r2": "the target is constant", "pearson": "the target is constant"},
    ),
    "no event": (
        "survival",
        torch.randn(3, 1),
        torch.tensor([[1.0, 0], [2, 0], [3, 0]]),
        {"loss": "nobody has the event", "c_index": "nobody has the event"},
    ),
    "nobody left to compare with": (
        "survival",
        torch.randn(3, 1),
        torch.tensor([[1.0, 0], [2, 0], [3, 1]]),
        {"c_index": "no two samples can be compared: the first event is the last time known"},
    ),
    "no sample with two modalities": (
        "retrieval",
        torch.stack([torch.ones(3, 2), torch.full((3, 2), math.nan)], dim=1),
        None,
        dict.fromkeys(("loss", "recall@1", "recall@5", "recall@10"), "no sample has two of the modalities"),
    ),
}


@pytest.mark.parametrize("case", UNDEFINED)
def test_an_undefined_metric_is_none_with_its_reason(case):
    name, prediction, target, reasons = UNDEFINED[case]
    found = make_task(name).assess(prediction, target)
    assert found.undefined == reasons
    assert {key for key, value in found.values.items() if value is None} == set(reasons)
    assert all(math.isfinite(value) for value in found.values.values() if value is not None)


def test_a_diverged_model_has_no_metrics():
    found = make_task("classification").assess(torch.full((2, 2), math.nan), torch.tensor([0, 1]))
    assert set(found.values.values()) == {None}
    assert "diverged" in found.undefined["loss"]


def test_what_means_nothing_for_the_data_is_left_out_unless_it_was_asked_for():
    logits, target = torch.eye(3), torch.arange(3)
    assert "f1" not in make_task("classification").metrics(logits, target)
    found = make_task("classification", metrics=("accuracy", "f1")).measure(logits, target)
    assert found.values["f1"] is None
    assert found.undefined["f1"] == "it is for two classes, there are 3"


def test_labels_and_samples_with_nothing_to_find_do_not_count_in_means():
    logits = torch.tensor([[3.0, -3.0], [3.0, -3.0], [-3.0, -3.0]])
    target = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    found = make_task("multilabel").metrics(logits, target)
    assert {name: found[name] for name in ("f1_macro", "f1_samples", "f1_weighted", "f1_micro")} == {
        "f1_macro": 1.0,
        "f1_samples": 1.0,
        "f1_weighted": 1.0,
        "f1_micro": 1.0,
    }


def test_a_task_is_told_what_to_show_and_what_to_watch():
    task = make_task("classification", metrics="f1_macro", monitor="val_log_loss")
    assert (task.headline, task.monitor, task.mode) == ("f1_macro", "log_loss", "min")
    assert (make_task("classification").headline, make_task("classification").monitor) == ("accuracy", "loss")
    assert make_task("retrieval").metric("val_recall@10 a->b").name == "recall@10"
    with pytest.raises(ef.UnknownNameError, match="did you mean 'f1_macro'"):
        make_task("classification", monitor="val_f1_macr")
    with pytest.raises(ef.UnknownNameError, match="metric of regression"):
        make_task("regression", metrics=("balanced_accuracy",))


def test_metrics_by_name():
    task = make_task("classification", metrics=("balanced_accuracy", "mcc", "top3"))
    y = torch.tensor([0, 0, 0, 1, 2, 3])
    sure = task.metrics(torch.nn.functional.one_hot(y, 4).double(), y)
    assert (sure["balanced_accuracy"], sure["mcc"], sure["top3"]) == (1, pytest.approx(1), 1)
    alike = task.measure(torch.zeros(6, 4), y)
    assert alike.values["top3"] == 0  # ties count against the true class
    assert alike.undefined["mcc"] == "only one class is predicted"
    ranks = make_task("regression", metrics=("spearman",)).metrics(
        torch.arange(4.0)[:, None] ** 3, torch.arange(4.0)[:, None]
    )
    assert ranks["spearman"] == pytest.approx(1)


@pytest.fixture
def registered():
    added = []

    def add(name, fn, **options):
        added.append(name)
        return metric(name, **options)(fn)

    yield add
    for name in added:
        METRICS.unregister(name)


def test_what_the_function_of_a_metric_gets_and_may_return(registered):
    seen = {}

    def of_classes(prediction, target, task):
        seen.update(prediction=prediction, target=target, classes=task.classes)
        return Detailed(0.5, {name: float((target == k).mean()) for k, name in enumerate(task.classes)})

    registered("own", of_classes, tasks="classification", higher_is_better=False, format="percent")
    task = make_task("classification", classes=("a", "b"), metrics=("own",), monitor="own b")
    found = task.metrics(LOGITS, torch.tensor([0, 1, 0]))
    assert list(found)[-3:] == ["own", "own a", "own b"]
    assert found["own b"] == pytest.approx(1 / 3)
    np.testing.assert_allclose(seen["prediction"].sum(axis=1), 1)
    assert seen["classes"] == ("a", "b")
    assert task.mode == "min"
    assert task.metric("own").show(0.5) == "50.0 %"
    assert task.metric("own").show(None) == "-"


@pytest.mark.parametrize(
    ("fn", "reason"),
    [(lambda p, y: math.nan, "its value here is nan"), (lambda p, y: None, "it has no value here")],
)
def test_no_number_is_undefined(registered, fn, reason):
    registered("own", fn)
    found = make_task("regression", metrics=("own",)).measure(torch.ones(2, 1), torch.zeros(2, 1))
    assert (found.values["own"], found.undefined["own"]) == (None, reason)


def test_mistakes_in_metrics_name_them(registered):
    registered("broken", lambda p, y: 1 / 0)
    with pytest.raises(ef.InputError, match="metric 'broken' failed: ZeroDivisionError"):
        make_task("regression", metrics=("broken",)).metrics(torch.ones(2, 1), torch.zeros(2, 1))
    with pytest.raises(ef.InputError, match="already registered"):
        metric("broken")(abs)
    with pytest.raises(ef.InputError, match="no spaces"):
        Metric("two words", abs)


def test_python_tells_what_a_metric_is_made_of():
    assert list(inspect.signature(Metric).parameters)[:3] == ["name", "fn", "higher_is_better"]
    assert inspect.getsource(Metric).startswith(("@dataclass", "class Metric"))


class Counts(Task):
    """Poisson regression, as somebody else would add it."""

    name = "counts"
    targets = Quantities()
    measures = (
        Metric("deviation", lambda p, y: float(np.abs(p - y).mean()), higher_is_better=False),
        Metric("always", lambda p, y: 1.0, undefined_when=lambda p, y: "for a test"),
    )
    headline = "deviation"

    def loss(self, prediction, target, weight=None):
        return torch.nn.functional.poisson_nll_loss(prediction.clamp(max=5), target)

    def readable(self, prediction, target):
        return prediction.clamp(max=5).exp().double().numpy(), target.double().numpy()

    def predict(self, prediction):
        return {"prediction": prediction.exp()[:, 0].numpy()}


@pytest.fixture
def counts(tmp_path):
    TASKS.register(Counts)
    generator = np.random.default_rng(0)
    splits = {}
    for part, rows in (("train", 60), ("val", 30), ("test", 30)):
        a, b = (generator.normal(size=(rows, width)).astype(np.float32) for width in (4, 3))
        rate = np.exp(0.5 * a[:, :1] + 0.5 * b[:, :1])
        splits[part] = Split({"a": a, "b": b}, {}, generator.poisson(rate).astype(np.float32))
    ef.datasets.write_npz(tmp_path / "counts.npz", MultimodalDataset("counts", splits, "counts"))
    yield tmp_path / "counts.npz"
    TASKS.unregister("counts")


@pytest.mark.slow
def test_a_task_and_a_metric_of_somebody_else_are_trained_evaluated_reported_and_compared(counts, tmp_path, registered):
    from equifuse.benchmark import BenchmarkConfig, run_benchmark
    from equifuse.report.run import report_run
    from equifuse.runs import TrainConfig, evaluate_run, predict_run, train
    from equifuse.runs.robustness import robustness

    registered("bias", lambda p, y: float((p - y).mean()), tasks="counts")
    config = TrainConfig(str(counts), fusion="concat", epochs=2, hidden=(8,), metric=("bias",), monitor="val_deviation")
    result = train(config, tmp_path / "run", progress=False)
    assert set(result.metrics.test) == {"loss", "deviation", "always", "bias"}
    assert result.metrics.test["always"] is None
    assert result.metrics["undefined"] == {"val": {"always": "for a test"}, "test": {"always": "for a test"}}
    watched = [row["val_deviation"] for row in result.history]
    assert result.metrics.best_epoch == watched.index(min(watched)) + 1
    assert result.history[0]["val_always"] is None
    assert set(result.metrics.without) == {"a", "b"}
    assert evaluate_run(tmp_path / "run")["bias"] == pytest.approx(result.metrics.test["bias"], rel=1e-5)
    assert "for a test" in report_run(tmp_path / "run").read_text(encoding="utf-8")
    assert len(predict_run(tmp_path / "run", counts, tmp_path / "p.csv")["prediction"]) > 0
    assert (
        robustness(tmp_path / "run", tmp_path / "robust", rates=(0.0, 0.5), noise=(1.0,), repeats=1)["metric"] == "bias"
    )
    asked = {
        "data": [str(counts)],
        "methods": ["concat", "gmf", "linear"],
        "seeds": 1,
        "missing": [0.5, "without"],
        "settings": {"epochs": 1, "hidden": [8], "metric": "deviation"},
    }
    summary = run_benchmark(BenchmarkConfig.from_dict(asked), tmp_path / "bench", workers=0, progress=False)
    assert (summary.metrics, summary.better) == ({"counts": "deviation"}, {"counts": "min"})
    assert summary.scores["clean"]["counts"]["concat"].mean > 0
    assert [pair.b for pair in summary.pairs if pair.a == "concat"] == ["gmf"]
    assert "linear" not in summary.scores["clean"]["counts"]  # it has no linear baseline, and says so
    assert summary.failures == []
