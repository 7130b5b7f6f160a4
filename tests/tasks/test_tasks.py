import math

import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification
from torch import nn

import equifuse as ef
from equifuse.data.batch import Batch
from equifuse.tasks import make_task


def test_classification_metrics_by_hand():
    task = make_task("classification", classes=("no", "yes"))
    p = torch.tensor([0.9, 0.6, 0.4, 0.2])  # probability of "yes"
    logits = torch.stack([torch.zeros(4), torch.logit(p)], dim=1)
    target = torch.tensor([1, 0, 1, 0])
    found = task.metrics(logits, target)
    assert found["accuracy"] == 0.5
    assert found["f1"] == pytest.approx(0.5)
    assert found["f1_macro"] == pytest.approx(0.5)
    assert found["auc"] == pytest.approx(0.75)
    expected = -np.mean(np.log([0.9, 0.4, 0.4, 0.8]))
    assert found["log_loss"] == pytest.approx(expected, rel=1e-6)
    assert float(task.loss(logits, target)) == pytest.approx(expected, rel=1e-6)
    columns = task.predict(logits)
    assert columns["prediction"].tolist() == ["yes", "yes", "no", "no"]
    np.testing.assert_allclose(columns["prob_yes"], p, rtol=1e-6)
    np.testing.assert_allclose(columns["prob_yes"] + columns["prob_no"], 1, rtol=1e-12)


def test_auc_is_undefined_where_a_class_is_missing():
    task = make_task("classification")
    found = task.measure(torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 0]))
    assert found.values["auc"] is None
    assert found.undefined == {"auc": "class '2' does not occur"}
    assert 0 <= task.metrics(torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 0]))["auc"] <= 1


def test_label_smoothing_is_in_the_loss():
    logits, target = torch.tensor([[4.0, 0.0]]), torch.tensor([0])
    smooth = make_task("classification", label_smoothing=0.2)
    log_p = torch.log_softmax(logits, 1)[0]
    assert float(smooth.loss(logits, target)) == pytest.approx(float(-(0.9 * log_p[0] + 0.1 * log_p[1])))
    with pytest.raises(ef.InputError, match="label_smoothing"):
        make_task("classification", label_smoothing=1.0)


def test_multilabel():
    task = make_task("multilabel", classes=("x", "y", "z"))
    logits = torch.tensor([[3.0, -1.0, 2.0], [-2.0, 1.0, -4.0]])
    target = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    found = task.metrics(logits, target)
    assert found["f1_micro"] == pytest.approx(2 * 2 / (2 * 2 + 1))
    assert found["map"] == 1.0  # of the labels that occur
    assert task.predict(logits)["prediction"].tolist() == ["x;z", "y"]
    assert float(task.loss(logits, target)) == pytest.approx(
        float(nn.functional.binary_cross_entropy(torch.sigmoid(logits), target))
    )


def test_regression_in_the_targets_units():
    task = make_task("regression", classes=("height", "age"))
    target = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    found = task.metrics(target + 1, target)
    assert found["mae"] == pytest.approx(1)
    assert found["rmse"] == pytest.approx(1)
    assert found["pearson"] == pytest.approx(1)
    assert found["r2"] == pytest.approx(((1 - 3 / 2) + (1 - 3 / 200)) / 2)
    assert list(task.predict(target)) == ["prediction_height", "prediction_age"]
    constant = task.measure(torch.zeros(3, 2), target)
    assert constant.values["pearson"] is None
    assert constant.undefined == {"pearson": "the prediction is constant"}


class Embedder(nn.Module):
    """Stands for a model whose embeddings are its inputs."""

    modalities = ("a", "b")

    def forward(self, inputs, present=None, lengths=None):
        (x,) = inputs.values()
        return ef.ModelOutput(x, ef.FusionOutput(x, {}))


def test_retrieval_finds_partners():
    task = make_task("retrieval", modalities=("a", "b"))
    x = torch.eye(12)
    found = task.metrics(task.forward(Embedder(), Batch({"a": x, "b": x})).prediction, None)
    assert found["recall@1"] == found["recall@1 a->b"] == found["recall@10 b->a"] == 1
    turned = task.metrics(task.forward(Embedder(), Batch({"a": x, "b": x.roll(1, 0)})).prediction, None)
    assert turned["recall@1"] == 0
    collapsed = task.metrics(torch.ones(12, 2, 3), None)
    assert collapsed["recall@10"] == 0  # ties count against the partner


def test_retrieval_loss_and_map_with_labels():
    task = make_task("retrieval", modalities=("a", "b"))
    a = torch.nn.functional.normalize(torch.randn(6, 4), dim=1)
    b = torch.nn.functional.normalize(torch.randn(6, 4), dim=1)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    similarity = a @ b.T / 0.07
    same = (labels[:, None] == labels[None]).float()
    rows = -(torch.log_softmax(similarity, 1) * same / same.sum(1, keepdim=True)).sum(1).mean()
    cols = -(torch.log_softmax(similarity.T, 1) * same / same.sum(1, keepdim=True)).sum(1).mean()
    stacked = torch.stack([a, b], dim=1)
    torch.testing.assert_close(task.loss(stacked, labels), (rows + cols) / 2)
    perfect = torch.nn.functional.one_hot(labels).float()
    assert task.metrics(torch.stack([perfect, perfect], 1), labels)["map"] == pytest.approx(1)


def test_retrieval_leaves_out_samples_without_a_partner():
    task = make_task("retrieval", modalities=("a", "b"))
    x = torch.eye(12)
    mask = torch.arange(12) < 10
    output = task.forward(Embedder(), Batch({"a": x, "b": x}, {"b": mask}))
    assert bool(output.prediction[10:, 1].isnan().all())
    assert math.isfinite(float(task.loss(output.prediction, None)))
    assert task.metrics(output.prediction, None)["recall@1"] == 1


def test_evaluation_measures_all_batches_together():
    x, y = make_classification(90, 6, random_state=0)
    x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    torch.manual_seed(0)
    model = ef.build_model({"a": 3, "b": 3}, "classification", 2, fusion_options={"dim": 8})
    task = make_task("classification")
    whole = Batch({"a": x[:, :3], "b": x[:, 3:]}, target=y)
    pieces = [whole.select(torch.arange(i, min(i + 40, 90))) for i in range(0, 90, 40)]
    once, often = task.evaluate(model.train(), [whole]), task.evaluate(model, pieces)
    assert model.training  # as it was before
    for name, value in once.metrics.items():
        assert often.metrics[name] == pytest.approx(value, rel=1e-3)
    convergence = often.convergence()
    assert convergence["converged"] == 1
    assert often.steps.shape == (90,)
    assert convergence["mean_steps"] == pytest.approx(float(once.steps.float().mean()), rel=0.02)


def test_mistakes():
    with pytest.raises(ef.UnknownNameError, match="did you mean 'multilabel'"):
        make_task("multilabels")
    with pytest.raises(ef.InputError, match="needs labels"):
        make_task("classification").loss(torch.zeros(2, 2), None)
    with pytest.raises(ef.InputError, match="nothing to evaluate"):
        make_task("classification").evaluate(nn.Linear(1, 1), [])
