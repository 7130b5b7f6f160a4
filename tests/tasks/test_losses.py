"""Options of the tasks, against their definitions."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import equifuse as ef
from equifuse.tasks import make_task
from equifuse.tasks.survival import concordance


def test_class_weights_and_focal_loss():
    torch.manual_seed(0)
    logits, y = torch.randn(20, 3), torch.arange(20) % 3
    p = torch.softmax(logits, 1)[torch.arange(20), y]
    plain = make_task("classification").loss(logits, y)
    torch.testing.assert_close(make_task("classification", class_weights=[1, 1, 1]).loss(logits, y), plain)
    torch.testing.assert_close(
        make_task("classification", focal=2.0).loss(logits, y), (-((1 - p) ** 2) * p.log()).mean()
    )
    w = torch.tensor([1.0, 2.0, 0.5])
    both = make_task("classification", class_weights=w.tolist(), focal=1.5).loss(logits, y)
    torch.testing.assert_close(both, (-w[y] * (1 - p) ** 1.5 * p.log()).sum() / w[y].sum())
    weighted = make_task("classification", class_weights=w.tolist()).loss(logits, y)
    torch.testing.assert_close(weighted, F.cross_entropy(logits, y, weight=w))
    with pytest.raises(ef.InputError, match="2 class weights for 3 classes"):
        make_task("classification", class_weights=[1, 1]).loss(logits, y)
    with pytest.raises(ef.InputError, match="focal"):
        make_task("classification", focal=-1)


def test_sentiment_metrics_of_cmu_mosi():
    task = make_task("regression", sentiment=True)
    y = torch.tensor([[-3.0], [-1.0], [0.0], [0.6], [2.2], [3.0]])
    p = torch.tensor([[-2.6], [0.2], [0.1], [1.4], [2.6], [9.0]])
    found = task.metrics(p, y)
    assert found["acc7"] == pytest.approx(4 / 6)  # -3, 0, 1 and 3 are met; 0.2 is 0, and 2.6 is 3
    assert found["acc5"] == pytest.approx(5 / 6)
    assert found["acc2"] == pytest.approx(5 / 6)
    assert found["acc2_nonzero"] == pytest.approx(4 / 5)
    assert 0 < found["f1_nonzero"] < found["f1"] < 1
    assert "acc7" not in make_task("regression").metrics(p, y)
    with pytest.raises(ef.InputError, match="one target"):
        task.metrics(torch.zeros(3, 2), torch.randn(3, 2))


def test_regression_losses():
    y, p = torch.zeros(4, 1), torch.tensor([[0.5], [0.5], [3.0], [3.0]])
    values = {kind: float(make_task("regression", loss=kind).loss(p, y)) for kind in ("mse", "l1", "huber")}
    assert values == pytest.approx({"mse": 4.625, "l1": 1.75, "huber": (0.125 + 2.5) / 2})
    with pytest.raises(ef.UnknownNameError, match="loss"):
        make_task("regression", loss="l3")


def test_cox_loss_is_the_partial_likelihood():
    risk = torch.randn(6, 1, dtype=torch.float64, requires_grad=True)
    time = torch.tensor([5.0, 1.0, 3.0, 3.0, 2.0, 8.0], dtype=torch.float64)
    event = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(6):
        if event[i]:
            among = risk[time >= time[i], 0]
            expected = expected - (risk[i, 0] - among.exp().sum().log())
    got = make_task("survival").loss(risk, torch.stack([time, event], 1))
    torch.testing.assert_close(got, expected / 4)
    shifted = make_task("survival").loss(risk + 100, torch.stack([time, event], 1))
    torch.testing.assert_close(shifted, got)  # only differences of risks count
    nothing = make_task("survival").loss(risk, torch.stack([time, torch.zeros_like(event)], 1))
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert float(risk.grad.abs().max()) == 0


def test_concordance_counts_pairs():
    generator = np.random.default_rng(0)
    time, event = generator.integers(1, 6, 30).astype(float), generator.integers(0, 2, 30).astype(float)
    risk = generator.integers(0, 5, 30).astype(float)
    good = all_pairs = 0.0
    for i in range(30):
        for j in range(30):
            if event[i] and (time[j] > time[i] or (time[j] == time[i] and not event[j])):
                all_pairs += 1
                good += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    assert concordance(risk, time, event) == pytest.approx(good / all_pairs)
    assert concordance(-time, time, np.ones(30)) == pytest.approx(1)
    assert concordance(risk, time, np.zeros(30)) is None
    when = np.arange(30.0)
    target = torch.from_numpy(np.stack([when, event], 1))
    assert make_task("survival").metrics(torch.from_numpy(-when[:, None]), target) == {"c_index": pytest.approx(1)}


def test_triplet_loss():
    a, b = (F.normalize(torch.randn(5, 4, dtype=torch.float64), dim=1) for _ in range(2))
    labels = torch.tensor([0, 0, 1, 2, 2])
    cosines = a @ b.T
    total = 0.0
    for c in (cosines, cosines.T):
        for i in range(5):
            same = labels == labels[i]
            total += float(torch.relu(0.3 - c[i][same].min() + c[i][~same].max()))
    got = make_task("retrieval", loss="triplet", margin=0.3).loss(torch.stack([a, b], 1), labels)
    assert float(got) == pytest.approx(total / 10)


def test_map_at_ten_and_recall_at_five():
    task = make_task("retrieval")
    queries = torch.eye(12)
    found = task.metrics(torch.stack([queries, queries], 1), torch.arange(12) % 3)
    assert found["recall@5"] == 1
    assert found["map@10"] < 1  # four partners of the same label each, of which three are as far as all others
    perfect = torch.nn.functional.one_hot(torch.arange(12) % 3).float()
    assert task.metrics(torch.stack([perfect, perfect], 1), torch.arange(12) % 3)["map@10"] == pytest.approx(1)
