"""Weights of samples: whole numbers are as good as repeated samples, 0 as leaving one out."""

import numpy as np
import pytest
import torch

import equifuse as ef
from equifuse.data.batch import Batch, as_batch
from equifuse.data.loaders import DiskBatches, MemoryBatches
from equifuse.datasets import MultimodalDataset, Split
from equifuse.encoders import Standardize
from equifuse.evaluation.conditions import drop_modalities
from equifuse.tasks import make_task
from equifuse.training.protocol import LOOSE, arrange

COUNTS = torch.tensor([2, 0, 1, 3, 1, 0, 2, 1])
N = len(COUNTS)


def _targets(task):
    torch.manual_seed(1)
    return {
        "classification": torch.arange(N) % 3,
        "multilabel": (torch.rand(N, 3) > 0.5).double(),
        "regression": torch.randn(N, 3, dtype=torch.float64),
        "survival": torch.stack(
            [torch.tensor([3.0, 1, 4, 1, 5, 5, 2, 3]), (torch.arange(N) % 3 > 0).float()], 1
        ).double(),
    }[task]


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("classification", {}),
        ("classification", {"focal": 1.5}),
        ("classification", {"class_weights": [0.5, 2, 1], "label_smoothing": 0.1, "focal": 1.0}),
        ("multilabel", {}),
        ("regression", {}),
        ("regression", {"loss": "l1"}),
        ("regression", {"loss": "huber"}),
        ("survival", {}),
    ],
)
def test_whole_numbers_repeat(task, options):
    loss, y = make_task(task, **options).loss, _targets(task)
    outputs = torch.randn(N, 1 if task == "survival" else 3, dtype=torch.float64, requires_grad=True)
    weighted = loss(outputs, y, COUNTS.double())
    repeated = loss(outputs.repeat_interleave(COUNTS, 0), y.repeat_interleave(COUNTS, 0))
    torch.testing.assert_close(weighted, repeated)
    grads = [torch.autograd.grad(value, outputs)[0] for value in (weighted, repeated)]
    torch.testing.assert_close(*grads)
    torch.testing.assert_close(loss(outputs, y, torch.ones(N)), loss(outputs, y))
    (scaled,) = torch.autograd.grad(loss(outputs, y, 0.01 * COUNTS.double()), outputs)
    torch.testing.assert_close(scaled, grads[0])  # only proportions count
    assert loss(outputs, y, torch.zeros(N)).item() == 0


def test_retrieval_has_no_weights():
    with pytest.raises(ef.InputError, match="weights"):
        make_task("retrieval").loss(torch.randn(N, 2, 3), None, torch.ones(N))


def test_the_evaluated_loss_is_weighted():
    y = _targets("classification")
    model = ef.build_model({"a": 4}, "classification", 3, fusion="concat").double()
    x, task = torch.randn(N, 4, dtype=torch.float64), make_task("classification")
    batch = Batch({"a": x}, target=y, weight=COUNTS.double())
    repeated = Batch({"a": x.repeat_interleave(COUNTS, 0)}, target=y.repeat_interleave(COUNTS))
    found, expected = (task.evaluate(model, MemoryBatches(b, 3)).metrics["loss"] for b in (batch, repeated))
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("lengths", [None, torch.tensor([3, 1, 2, 3, 0, 2, 1, 3])])
def test_standardising_with_weights(lengths):
    x = torch.randn(N, 3, 2)
    shape = (3, 2) if lengths is None else (2,)
    weighted, repeated = Standardize(shape), Standardize(shape)
    for rows in (slice(0, 3), slice(3, N)):
        weighted.update(x[rows], None if lengths is None else lengths[rows], COUNTS[rows].float())
    weighted.finish()
    repeated.fit(x.repeat_interleave(COUNTS, 0), None if lengths is None else lengths.repeat_interleave(COUNTS))
    torch.testing.assert_close(weighted.mean, repeated.mean)
    torch.testing.assert_close(weighted.scale, repeated.scale)


def test_weights_stay_with_their_samples():
    x = np.arange(N, dtype=np.float32)[:, None]
    split = Split({"a": x, "b": x}, target=np.zeros(N, np.int64), weight=x[:, 0])
    rows = np.array([5, 2, 7])
    assert split.select(rows).weight.tolist() == [5, 2, 7]
    assert split.without(["b"]).weight is split.weight
    for batches in (MemoryBatches(as_batch(split), 3, 0), DiskBatches(split, 3, 0)):
        seen = [
            b for batch in batches for b in zip(batch.weight.tolist(), batch.inputs["a"][:, 0].tolist(), strict=True)
        ]
        assert len(seen) == N
        assert all(weight == value for weight, value in seen)
    assert drop_modalities(as_batch(split), 0.5).weight is not None
    assert as_batch(split).to("cpu").weight.tolist() == x[:, 0].tolist()


@pytest.mark.parametrize("weight", [[-1.0, 1, 1], [0.0, 0, 0], [1.0, np.nan, 1], [1.0, 1]])
def test_refused_weights(weight):
    x, y = np.ones((3, 1), np.float32), np.array([0, 1, 0])
    part = Split({"a": x}, target=y)
    bad = Split({"a": x}, target=y, weight=np.array(weight))
    with pytest.raises(ef.DataError, match="weights of split 'train' must be 3 numbers|2 weights for 3 rows"):
        MultimodalDataset("d", {"train": bad, "val": part, "test": part}, "classification")
    good = MultimodalDataset("d", {"train": part, "val": part, "test": part}, "classification")
    weighted = {"train": Split({"a": x}, target=y, weight=np.ones(3)), "val": part, "test": part}
    assert MultimodalDataset("d", weighted, "classification").fingerprint() != good.fingerprint()


def test_the_loose_protocol_joins_weights():
    x, y = np.ones((3, 1), np.float32), np.array([0, 1, 0])
    part, weighted = Split({"a": x}, target=y), Split({"a": x}, target=y, weight=np.array([2.0, 0, 5]))
    joined = arrange(MultimodalDataset("d", {"train": weighted, "val": part, "test": part}, "classification"), LOOSE)
    assert joined.splits["train"].weight.tolist() == [2, 0, 5, 1, 1, 1]
    plain = arrange(MultimodalDataset("d", {"train": part, "val": part, "test": part}, "classification"), LOOSE)
    assert plain.splits["train"].weight is None
