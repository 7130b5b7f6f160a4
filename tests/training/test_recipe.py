"""What training may add to plain steps: each switched off, or set to nothing, is plain training bit for bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import equifuse as ef
from equifuse.data.batch import Batch
from equifuse.datasets import Split
from equifuse.runs import TrainConfig, initial_model, train
from equifuse.training import Trainer, TrainingOptions
from equifuse.training.mixup import pairs_of
from equifuse.training.sharpness import sharpened

OPTIONS = {"epochs": 3, "batch_size": 32, "lr": 5e-3}


@pytest.fixture(scope="module")
def data(small_set):
    return ef.datasets.load(small_set)


def model_for(data, **options):
    return initial_model(TrainConfig("digits", fusion="concat", hidden=[8], dropout=0.2, **options), data)


def trained(data, model=None, **options):
    model = model_for(data) if model is None else model
    result = Trainer(**{**OPTIONS, **options}).fit(model, data)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}, result


@pytest.fixture(scope="module")
def plain(data):
    return trained(data)


def same(a, b):
    return all(torch.equal(x, b[name]) for name, x in a.items())


def without_seconds(result):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in result.history]


@pytest.mark.parametrize(
    "options",
    [
        {"averaging": "ema", "ema_decay": 0.0},
        {"averaging": "soup", "soup_epochs": 1},
        {"mixup": 1e-9},  # the share of one of the two is 1
        {"sam": 1e-30},  # a radius below what a weight can be moved by
    ],
)
def test_set_to_nothing_it_is_plain_training(data, plain, options):
    weights, result = trained(data, **options)
    assert same(weights, plain[0])
    assert without_seconds(result) == without_seconds(plain[1])
    assert result.best_value == plain[1].best_value


@pytest.mark.parametrize("options", [{"averaging": "ema"}, {"averaging": "soup"}, {"mixup": 0.4}, {"sam": 0.05}])
def test_each_changes_the_weights_and_learns(data, plain, options):
    weights, result = trained(data, **options)
    changed = not same(weights, plain[0])
    assert changed or (options == {"averaging": "soup"} and len(result.soup) == 1)
    assert result.history[-1]["train_task_loss"] < result.history[0]["train_task_loss"]


def test_a_moving_average_is_that_of_all_steps(data):
    seen = []

    def sgd(groups):
        made = torch.optim.SGD(groups, lr=0.1)
        made.register_step_post_hook(lambda optimizer, *_: seen.append(model.head.linear.weight.detach().clone()))
        return made

    model = model_for(data)
    start = model.head.linear.weight.detach().clone()
    Trainer(**OPTIONS, averaging="ema", ema_decay=0.5, optimizer=sgd).fit(model, data.splits["train"])
    for t, weight in enumerate(seen):
        decay = min(0.5, (1 + t) / (10 + t))
        start = decay * start + (1 - decay) * weight
    torch.testing.assert_close(model.head.linear.weight, start)


class Normed(nn.Module):
    """An encoder with batch normalisation."""

    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(6), nn.Linear(6, 4)

    def forward(self, x):
        return self.linear(self.norm(x))


@pytest.mark.parametrize("averaging", ["ema", "soup"])
def test_running_statistics_are_those_of_the_averaged_weights(data, averaging):
    def build():
        torch.manual_seed(0)
        encoders = {"a": Normed(), "b": nn.Sequential(nn.Flatten(), nn.Linear(4, 4))}
        fusion = ef.make_fusion("concat", {"a": 4, "b": 4})
        return ef.FusionModel(encoders, fusion, nn.Linear(fusion.out_dim, 2), task="classification")

    options = {"unimodal": "none", "modality_dropout": 0.0, "lr": 0.05, "averaging": averaging}
    weights, result = trained(data, build(), **options, **({"ema_decay": 0.9} if averaging == "ema" else {}))
    plainly, _ = trained(data, build(), **{**options, "averaging": "none"})
    mean, other = weights["encoders.a.norm.running_mean"], plainly["encoders.a.norm.running_mean"]
    assert mean.isfinite().all()
    if averaging == "ema" or len(result.soup) > 1:
        assert not torch.equal(mean, other)
    if averaging == "soup" and len(result.soup) > 1:  # taken anew, as a mean over all batches
        x = torch.from_numpy(data.splits["train"].inputs["a"])
        torch.testing.assert_close(mean, x.mean(0), atol=0.1, rtol=0)


def test_a_soup_is_never_worse_on_validation_than_its_best_epoch(data):
    _, alone = trained(data, epochs=6)
    _, soup = trained(data, epochs=6, averaging="soup", soup_epochs=4)
    assert soup.best_value <= alone.best_value
    assert soup.soup[0] == alone.best_epoch
    assert len(set(soup.soup)) == len(soup.soup) <= 4


def test_noise_is_added_to_prepared_features_in_training_only(data):
    model = model_for(data)
    x = {m: torch.from_numpy(array) for m, array in data.splits["train"].inputs.items()}
    encoder, (layers, last) = model.encoders["a"], (list(model.encoders["a"])[:-1], model.encoders["a"][-1])
    seen = []
    last.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    encoder.noise = 0.5
    for training in (True, False):
        encoder.train(training)(x["a"])
    for layer in layers:
        x["a"] = layer(x["a"])
    assert torch.equal(seen[1], x["a"])
    assert (seen[0] - x["a"]).std() == pytest.approx(0.5, abs=0.05)
    weights, _ = trained(data, feature_noise=0.5)
    assert not same(weights, trained(data)[0])


def test_partners_have_the_same_modalities():
    masks = {m: torch.from_numpy(np.random.default_rng(i).random(40) < 0.6) for i, m in enumerate("ab")}
    batch = Batch({m: torch.randn(40, 3) for m in "ab"}, masks)
    pairs = pairs_of(batch, 0.4, [1, 2, 3])
    for mask in masks.values():
        assert torch.equal(mask[pairs.partner], mask)
    assert sorted(pairs.partner.tolist()) == list(range(40))
    assert (pairs.partner != torch.arange(40)).sum() > 30
    again = pairs_of(batch, 0.4, [1, 2, 3])
    assert (again.share, again.partner.tolist()) == (pairs.share, pairs.partner.tolist())


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
def test_the_mixed_loss_is_that_against_the_mixed_target(task):
    torch.manual_seed(0)
    prediction = torch.randn(8, 3, requires_grad=True)
    batch = Batch({"a": torch.zeros(8, 2)})
    target = {"classification": torch.arange(8) % 3, "multilabel": (torch.randn(8, 3) > 0).float()}.get(task)
    batch.target = torch.randn(8, 3) if target is None else target
    made = ef.tasks.make_task(task)
    pairs = pairs_of(batch, 1.0, [0])
    mixed = pairs.loss(lambda b: made.loss(prediction, b.target), batch)
    soft = nn.functional.one_hot(batch.target, 3).float() if task == "classification" else batch.target
    soft = pairs.mixed(soft)
    loss = nn.functional.cross_entropy(prediction, soft) if task == "classification" else made.loss(prediction, soft)
    for a, b in zip(*(torch.autograd.grad(each, prediction, retain_graph=True) for each in (mixed, loss)), strict=True):
        torch.testing.assert_close(a, b)


def test_a_sharp_step_is_by_the_gradient_at_the_worst_point_nearby():
    torch.manual_seed(0)
    layer, x, dropout = nn.Linear(3, 1), torch.randn(5, 3), nn.Dropout(0.5)
    sgd = torch.optim.SGD(layer.parameters(), lr=0.1)

    def closure():
        sgd.zero_grad()
        loss = dropout(layer(x)).square().sum()
        loss.backward()
        return loss

    torch.manual_seed(1)
    closure()
    grads = [p.grad.clone() for p in layer.parameters()]
    after = torch.rand(())
    norm = torch.cat([g.flatten() for g in grads]).norm()
    moved = {name: p.detach() + 0.3 * g / norm for (name, p), g in zip(layer.named_parameters(), grads, strict=True)}
    torch.manual_seed(1)
    dropped = dropout(torch.func.functional_call(layer, {n: v.requires_grad_() for n, v in moved.items()}, (x,)))
    expected = torch.autograd.grad(dropped.square().sum(), list(moved.values()))
    torch.manual_seed(1)
    before = [p.detach().clone() for p in layer.parameters()]
    sharpened(closure, sgd, 0.3, layer)()
    assert torch.equal(torch.rand(()), after)  # random numbers go on as after one pass
    for p, old, grad in zip(layer.parameters(), before, expected, strict=True):
        assert torch.equal(p, old)
        torch.testing.assert_close(p.grad, grad)


@pytest.mark.parametrize("fusion", ["gmf", "concat"])
def test_a_new_skip_connection_adds_nothing_and_what_it_learns_is_stored(data, fusion, tmp_path):
    options = {"encoder_options": {"hidden": [8]}, "fusion": fusion, "unimodal_heads": True}
    models = []
    for skip in (False, True):
        torch.manual_seed(0)
        models.append(ef.build_model({"a": 5, "b": 6}, "classification", 3, skip=skip, **options).eval())
    x = {"a": torch.randn(7, 5), "b": torch.randn(7, 6)}
    present = {"b": torch.arange(7) % 2 == 0}
    without, model = models
    assert torch.equal(without(x, present).prediction, model(x, present).prediction)
    with torch.no_grad():
        for linear in model.skip.maps.values():
            linear.weight.normal_()
    out = model(x, present)
    way = model.skip({"a": out.encoded["a"][1:2]})  # of a row without b
    torch.testing.assert_close(out.fused[1:2], model.head(out.fusion.fused[1:2] + way))
    model.save(tmp_path / "model")
    assert torch.equal(ef.load(tmp_path / "model")(x, present).prediction, out.prediction)


@pytest.mark.slow
def test_with_gradient_clipping_and_a_schedule_all_go_together_and_resume_bit_for_bit(quick, tmp_path):
    class Stopped(Exception):
        pass

    def stop(row, best):
        if row["epoch"] == 1:
            raise Stopped

    together = {
        "sam": 0.05,
        "mixup": 0.4,
        "feature_noise": 0.1,
        "skip": True,
        "gradient_clip": 1.0,
        "schedule": "cosine",
    }
    for averaging in ("ema", "soup"):
        config = TrainConfig.from_dict({**quick, "fusion": "concat", "dim": None, **together, "averaging": averaging})
        whole = train(config, tmp_path / averaging / "whole", progress=False)
        with pytest.raises(Stopped):
            train(config, tmp_path / averaging / "cut", progress=stop)
        resumed = train(config, tmp_path / averaging / "cut", resume=True, progress=False)
        assert without_seconds(whole) == without_seconds(resumed)
        models = [ef.load(run.path / "model").state_dict() for run in (whole, resumed)]
        assert same(*models)
        assert (whole.metrics.soup is None) == (averaging == "ema")


def test_what_means_nothing_is_refused_in_one_line(data):
    for options, message in (
        ({"ema_decay": 0.5}, "ema_decay goes with averaging 'ema'"),
        ({"soup_epochs": 2, "averaging": "ema"}, "soup_epochs goes with averaging 'soup'"),
        ({"sam": 0.1, "accumulate": 2}, "two gradients of every batch"),
        ({"mixup": 0.1, "balance": "ogm_ge"}, "leave out mixup"),
        ({"averaging": "ema", "strategy": "fsdp"}, "whole model"),
    ):
        with pytest.raises(ef.InputError, match=message):
            TrainingOptions(**options)
    with pytest.raises(ef.InputError, match="chosen by validation"):
        Trainer(averaging="soup").fit(model_for(data), data.splits["train"])
    with pytest.raises(ef.InputError, match="decides itself"):
        ef.build_model({"a": 3}, "classification", 2, fusion="late", skip=True)
    x = {m: np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32) for m in "ab"}
    target = np.abs(np.stack([x["a"][:, 0], np.ones(20)], 1)).astype(np.float32)
    for task, y in (("survival", target), ("retrieval", None)):
        model = ef.build_model({"a": 3, "b": 3}, task, 1 if y is not None else 4, fusion="concat")
        with pytest.raises(ef.InputError, match=f"mixup has no meaning in {task}"):
            Trainer(mixup=0.2).fit(model, Split(x, target=y))
    model = ef.FusionModel({"a": None}, ef.make_fusion("concat", {"a": 3}), nn.Linear(3, 2), task="classification")
    with pytest.raises(ef.InputError, match="the encoder of 'a' prepares none"):
        Trainer(feature_noise=0.1).fit(
            model, replace(Split(x, target=target[:, 1].astype(np.int64)), inputs={"a": x["a"]})
        )
