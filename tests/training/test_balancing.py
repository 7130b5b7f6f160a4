"""Balancing of modalities: the formulas, what a step does to gradients, and whole runs."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import equifuse as ef
from equifuse.data.batch import Batch
from equifuse.data.loaders import MemoryBatches
from equifuse.datasets import MultimodalDataset, Split, write_npz
from equifuse.model import FusionModel, build_model
from equifuse.runs import TrainConfig, evaluate_run, load_run, train
from equifuse.tasks import make_task
from equifuse.training import balancing as bal
from equifuse.training.balancing import make_balancer

METHODS = {"ogm_ge": {}, "pmr": {"share": 0.5}, "gradient_blending": {"every": 1}}
positive = st.floats(0.01, 1.0)


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


# --- the formulas -------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(positive, positive, st.floats(0, 2))
def test_two_modalities_have_the_coefficients_of_the_papers(first, second, alpha):
    ratio = bal.discrepancy(doubles(first, second))
    rho = first / second
    torch.testing.assert_close(ratio, doubles(rho, 1 / rho))
    # OGM-GE, eq. 10
    expected = [1 - math.tanh(alpha * r) if r > 1 else 1.0 for r in ratio.tolist()]
    torch.testing.assert_close(bal.modulation(ratio, alpha), doubles(*expected))
    # PMR, eqs. 11 and 13: what accelerates one holds the other back.
    beta = min(max(1 / rho - 1, 0), 1) if rho < 1 else 0.0
    gamma = min(max(rho - 1, 0), 1) if rho >= 1 else 0.0
    faster, slower = bal.rebalance(ratio)
    torch.testing.assert_close(faster, doubles(beta, gamma), atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(slower, doubles(gamma, beta), atol=1e-12, rtol=1e-9)


@settings(deadline=None)
@given(st.lists(positive, min_size=3, max_size=6))
def test_more_modalities_are_each_held_against_the_mean_of_the_others(values):
    ratio = bal.discrepancy(doubles(*values))
    for m, value in enumerate(values):
        others = values[:m] + values[m + 1 :]
        assert ratio[m].item() == pytest.approx(value / np.mean(others))
    faster, slower = bal.rebalance(ratio)
    assert not bool(((faster > 0) & (slower > 0)).any())


def test_a_modality_without_others_or_without_any_score_is_left_alone():
    assert bal.discrepancy(doubles(0.3)).tolist() == [1.0]
    assert torch.isfinite(bal.discrepancy(doubles(0.0, 0.0))).all()
    faster, slower = bal.rebalance(bal.discrepancy(doubles(0.0, 0.5)))
    assert (faster.tolist(), slower.tolist()) == ([1.0, 0.0], [0.0, 1.0])


def test_scores():
    torch.manual_seed(0)
    logits, y = torch.randn(7, 4, dtype=torch.float64), torch.arange(7) % 4
    expected = torch.exp(-F.cross_entropy(logits, y, reduction="none"))
    torch.testing.assert_close(bal.scores("classification", logits, y), expected)
    labels = (torch.randn(7, 4) > 0).double()
    p = 1 / (1 + torch.exp(-logits))
    expected = (labels * p + (1 - labels) * (1 - p)).mean(1)
    torch.testing.assert_close(bal.scores("multilabel", logits, labels), expected)
    values = torch.randn(7, 4, dtype=torch.float64) * doubles(1, 10, 100, 1000)
    assert (bal.scores("regression", values, values) == 1).all()
    off = bal.scores("regression", values + values.std(0, correction=0), values)
    torch.testing.assert_close(off, torch.full((7,), 0.5, dtype=torch.float64))
    assert torch.isfinite(bal.scores("regression", torch.ones(1, 1), torch.zeros(1, 1))).all()


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(0.2, 1)), min_size=2, max_size=5))
def test_blending_weights_are_those_of_the_paper(pairs):
    gain, gap = (np.array(x) for x in zip(*pairs, strict=True))
    expected = (gain / gap**2) / (gain / gap**2).sum()
    for sign in (1, -1):
        found = bal.blending_weights(doubles(*gain), sign * doubles(*gap), floor=0.0)
        np.testing.assert_allclose(found.numpy(), expected)


def test_blending_without_progress_and_with_gaps_by_chance():
    assert bal.blending_weights(doubles(-1, 0, math.nan), doubles(1, 1, 1)) is None
    found = bal.blending_weights(doubles(1, -1, math.nan, 1), doubles(1, 1, math.nan, 1))
    assert found.tolist() == [0.5, 0, 0, 0.5]
    assert bal.blending_weights(doubles(1, 3), doubles(0, 0)).tolist() == [0.25, 0.75]
    found = bal.blending_weights(doubles(1, 1), doubles(0, 2))
    torch.testing.assert_close(found, doubles(100, 1) / 101)


def test_progress_of_losses_between_two_times():
    before, now = doubles(1.0, 0.9), doubles(0.4, 0.7)  # training, validation
    generalisation, overfitting = bal.progress(before[:, None], now[:, None])
    assert generalisation.item() == pytest.approx(0.9 - 0.7)
    assert overfitting.item() == pytest.approx((0.7 - 0.4) - (0.9 - 1.0))


def test_entropy_of_known_distributions():
    assert bal.entropy(torch.zeros(3, 5)).item() == pytest.approx(math.log(5))
    p = np.array([0.2, 0.3, 0.5])
    logits = torch.from_numpy(np.log(p))[None]
    assert bal.entropy(logits).item() == pytest.approx(-(p * np.log(p)).sum())


def test_prototypes_are_class_means_with_momentum():
    torch.manual_seed(0)
    own = bal.Prototypes(4, 3).double()
    z, y = torch.randn(30, 3, dtype=torch.float64), torch.arange(30) % 3  # class 3 never occurs
    first = torch.stack([z[y == k].mean(0) for k in range(3)])

    def renew(z, y):
        members = F.one_hot(y, 4).double().T
        own.renew(members @ z, members.sum(1), 0.2)

    renew(z, y)
    torch.testing.assert_close(own.means[:3], first)
    assert own.known.tolist() == [True, True, True, False]
    renew(z[y < 2] + 1, y[y < 2])  # class 2 not this time
    torch.testing.assert_close(own.means[:2], 0.2 * first[:2] + 0.8 * (first[:2] + 1))
    torch.testing.assert_close(own.means[2], first[2])

    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    logits = own.logits(x)
    distances = torch.stack([(x - c).square().sum(1).sqrt() for c in own.means[:3]], 1)
    torch.testing.assert_close(torch.softmax(logits, 1)[:, :3], torch.softmax(-distances, 1))
    assert bool((torch.softmax(logits, 1)[:, 3] == 0).all())
    torch.testing.assert_close(bal.entropy(logits), bal.entropy(-distances))
    (bal.entropy(logits) + F.cross_entropy(logits, torch.arange(5) % 3)).backward()
    assert torch.isfinite(x.grad).all()


def test_noise_has_the_standard_deviation_of_the_gradient():
    torch.manual_seed(0)
    g = 3 * torch.randn(40_000) + 1
    extra = bal.modulated(g, torch.tensor(0.4), True) - 0.4 * g
    assert extra.std().item() == pytest.approx(g.std().item(), rel=0.02)
    assert abs(extra.mean().item()) < 0.1
    assert abs(torch.corrcoef(torch.stack([extra, g]))[0, 1].item()) < 0.02
    assert torch.equal(bal.modulated(g, torch.tensor(0.4), False), 0.4 * g)
    one = torch.tensor([2.0])
    assert torch.equal(bal.modulated(one, torch.tensor(0.5), True), one / 2)


# --- one step -----------------------------------------------------------------------------------------------------


def batch_of(n=64, seed=0):
    """``strong`` gives the class away, ``weak`` hardly, ``rare`` is missing in half of the samples."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    noise = {m: torch.randn(n, width, generator=generator) for m, width in (("strong", 6), ("weak", 4), ("rare", 5))}
    centres = 4 * F.one_hot(y, 3).float()
    inputs = {
        "strong": noise["strong"] + F.pad(centres, (0, 3)),
        "weak": noise["weak"] + F.pad(0.1 * centres, (0, 1)),
        "rare": noise["rare"] + F.pad(0.1 * centres, (0, 2)),
    }
    has = torch.arange(n) % 2 == 0
    inputs["rare"][~has] = math.nan
    return Batch(inputs, {"rare": has}, y)


def model_of(fusion):
    """Three modalities whose encoders give 8, 8 and 5 numbers; the last has nothing to learn."""
    torch.manual_seed(0)
    model = build_model(
        {"strong": 6, "weak": 4, "rare": 5},
        "classification",
        3,
        fusion=fusion,
        fusion_options={"dim": 32} if fusion == "deq" else {},
        encoder={"rare": "identity"},
        encoder_options={"hidden": [8]},
    )
    return model.train(), make_task("classification")


def gradients(model, task, batch, balancer):
    """Gradients of one step by parameter, with what the balancer does to them, and its numbers."""
    model = copy.deepcopy(model)
    torch.manual_seed(1)
    loss, output = task.forward_loss(model, batch)
    loss, numbers = balancer.balanced(model, task, batch, output, loss)
    loss.backward()
    balancer.after_backward(model)
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, numbers


@pytest.mark.parametrize("fusion", ["deq", "gmf", "concat"])
def test_ogm_ge_lowers_the_gradients_of_a_dominant_encoder_and_no_others(fusion):
    model, task = model_of(fusion)
    batch = batch_of()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(8):
        optimiser.zero_grad()
        task.forward_loss(model, batch)[0].backward()
        optimiser.step()
    plain, _ = gradients(model, task, batch, make_balancer(None, {}))
    balanced, numbers = gradients(model, task, batch, make_balancer("ogm_ge", {"alpha": 0.5, "noise": False}))
    assert numbers["strong"] < 1 - math.tanh(0.5)
    assert numbers["weak"] == numbers["rare"] == 1
    assert set(plain) == set(balanced)
    for name, g in plain.items():
        k = numbers["strong"] if name.startswith("encoders.strong") else 1.0
        torch.testing.assert_close(balanced[name], k * g)


def test_ogm_ge_scores_a_modality_by_the_model_without_the_others():
    """For a sum with a linear head that is the paper's share of the logits."""
    torch.manual_seed(0)
    widths = {"a": 3, "b": 5}
    head = nn.Linear(8, 4, bias=False)
    model = FusionModel({m: nn.Linear(w, w) for m, w in widths.items()}, ef.Concat(widths), head).train()
    x, y = {m: torch.randn(10, w) for m, w in widths.items()}, torch.arange(10) % 4
    z = {m: model.encoders[m](x[m]) for m in widths}
    own = {"a": z["a"] @ head.weight[:, :3].T, "b": z["b"] @ head.weight[:, 3:].T}
    total = {m: sum(torch.softmax(own[m], 1)[i, y[i]] for i in range(10)).item() for m in own}
    _, numbers = gradients(model, make_task("classification"), Batch(x, {}, y), make_balancer("ogm_ge", {"alpha": 0.7}))
    for m, other in (("a", "b"), ("b", "a")):
        rho = total[m] / total[other]
        assert numbers[m].item() == pytest.approx(1 - math.tanh(0.7 * rho) if rho > 1 else 1.0, rel=1e-5)


def prepared(name, model, task, batch, epoch=0, **options):
    balancer = make_balancer(name, options)
    balancer.prepare(model, task)
    batches = MemoryBatches(batch, 32)
    balancer.start_epoch(model, task, epoch, batches, batches)
    return balancer


@pytest.mark.parametrize(("epoch", "restrained"), [(0, True), (5, False)])
def test_pmr_adds_the_terms_of_the_paper(epoch, restrained):
    model, task = model_of("concat")
    batch = batch_of()
    balancer = prepared("pmr", model, task, batch, epoch, alpha=2.0, mu=0.1)
    with torch.no_grad():
        model.eval()
        z = model.encode(batch.inputs, batch.present)
        model.train()
        loss, output = task.forward_loss(model, batch)
        found, numbers = balancer.balanced(model, task, batch, output, loss)
    parts, score = {}, {}
    for m in z:
        rows = batch.present.get(m, torch.ones(64, dtype=torch.bool))
        y, before, now = batch.target[rows], z[m][rows], output.encoded[m][rows]
        centres = torch.stack([before[y == k].mean(0) for k in range(3)])
        p = torch.softmax(-(now[:, None] - centres).norm(dim=2), 1)
        own = p[torch.arange(len(y)), y]
        parts[m] = (-own.log().mean(), -(p * p.log()).sum(1).mean())
        score[m] = own.mean().item()
    expected = loss
    for m, (slow, dominant) in parts.items():
        rho = score[m] / np.mean([score[other] for other in score if other != m])
        assert numbers[m].item() == pytest.approx(np.clip(1 / rho - 1, 0, 1), rel=1e-4, abs=1e-6)
        expected = expected + 2.0 * np.clip(1 / rho - 1, 0, 1) * slow
        expected = expected - restrained * 0.1 * np.clip(rho - 1, 0, 1) * dominant
    torch.testing.assert_close(found, expected.float())
    assert max(numbers.values()) > 0


def test_pmr_prototypes_come_from_a_share_and_drive_the_slow_encoders_only():
    model, task = model_of("concat")
    batch = batch_of()
    balancer = prepared("pmr", model, task, batch, share=0.5, mu=0.0)
    with torch.no_grad():
        z = model.eval().encode(batch.inputs, batch.present)["strong"]
        model.train()
    y = batch.target[:32]
    torch.testing.assert_close(
        balancer.prototypes["strong"].means, torch.stack([z[:32][y == k].mean(0) for k in range(3)])
    )
    plain, _ = gradients(model, task, batch, make_balancer(None, {}))
    balanced, numbers = gradients(model, task, batch, balancer)
    for name, g in plain.items():
        m = name.split(".")[1] if name.startswith("encoders") else None
        assert torch.equal(g, balanced[name]) == (m is None or numbers[m].item() == 0), name


def own_losses(heads, batch, output):
    """Cross-entropy of each modality's head over the samples that have it."""
    rows = {m: batch.present.get(m, slice(None)) for m in output.encoded}
    return [F.cross_entropy(heads[m](z[rows[m]]), batch.target[rows[m]]) for m, z in output.encoded.items()]


def test_gradient_blending_starts_with_the_plain_sum_and_weighs_by_what_it_measures():
    model, task = model_of("gmf")
    batch = batch_of()
    balancer = prepared("gradient_blending", model, task, batch, every=2)
    model.eval()
    heads = balancer.heads.eval()
    loss, output = task.forward_loss(model, batch)
    losses = own_losses(heads, batch, output)
    found, numbers = balancer.balanced(model, task, batch, output, loss)
    torch.testing.assert_close(found, loss + sum(losses))
    assert all(number.item() == pytest.approx(0.25) for number in numbers.values())
    # Measured over the whole part, batches of which lack different samples.
    torch.testing.assert_close(balancer.losses[0], torch.stack([*losses, loss]).detach())

    before = balancer.losses.clone()
    with torch.no_grad():
        for p in (*model.parameters(), *heads.parameters()):
            p.mul_(0.9)
    other = MemoryBatches(batch_of(seed=1), 16)
    balancer.start_epoch(model, task, 1, MemoryBatches(batch, 16), other)
    assert torch.equal(balancer.losses, before)
    balancer.start_epoch(model, task, 2, MemoryBatches(batch, 16), other)
    expected = bal.blending_weights(*bal.progress(before, balancer.losses))
    torch.testing.assert_close(balancer.weights, expected)
    assert balancer.weights.sum().item() == pytest.approx(1)
    found, _ = balancer.balanced(model, task, batch, output, loss)
    losses = own_losses(heads, batch, output)
    torch.testing.assert_close(found, 4 * (torch.stack([*losses, loss]) * balancer.weights).sum())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("fusion", ["deq", "gmf", "concat"])
def test_a_modality_that_a_whole_batch_lacks_is_as_one_never_given(name, fusion):
    model, task = model_of(fusion)
    balancer = prepared(name, model, task, batch_of())
    batch = batch_of()
    gone = Batch(batch.inputs, {"rare": torch.zeros(64, dtype=torch.bool)}, batch.target)
    without = Batch({m: x for m, x in batch.inputs.items() if m != "rare"}, {}, batch.target)
    for part in (model.encoders, balancer):
        part.eval()  # dropout would draw differently
    first, numbers = gradients(model, task, gone, balancer)
    second, again = gradients(model, task, without, balancer)
    assert numbers == again
    for key, g in second.items():
        torch.testing.assert_close(first[key], g)


# --- whole runs ---------------------------------------------------------------------------------------------------


def config(quick, **options):
    return TrainConfig.from_dict({**quick, **options})


def three_modalities(folder, task="classification"):
    generator = np.random.default_rng(0)
    splits = {}
    for part, n in (("train", 60), ("val", 30), ("test", 30)):
        hidden = generator.normal(size=(n, 3))
        time = np.stack([np.exp(-hidden[:, 0]), generator.random(n) > 0.3], 1)
        target = {
            "classification": hidden.argmax(1),
            "multilabel": (hidden > 0).astype(np.float32),
            "regression": (10 + hidden[:, :2]).astype(np.float32),
            "survival": time.astype(np.float32),
            "retrieval": None,
        }[task]
        noise = generator.normal(size=(n, 5))
        inputs = {"a": hidden, "b": hidden @ np.ones((3, 7)) + noise @ np.ones((5, 7)), "c": noise + hidden[:, :1]}
        present = {"c": np.arange(n) % 3 > 0}
        splits[part] = Split({m: x.astype(np.float32) for m, x in inputs.items()}, present, target)
    classes = ("x", "y", "z") if task == "classification" else None
    write_npz(folder / f"{task}.npz", MultimodalDataset(task, splits, task, classes))
    return {"data": str(folder / f"{task}.npz"), "hidden": [8], "epochs": 2, "batch_size": 16}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("fusion", [{"fusion": "deq", "dim": 32}, {"fusion": "gmf"}, {"fusion": "concat"}])
@pytest.mark.slow
def test_every_balancer_trains_every_kind_of_fusion(name, fusion, tmp_path):
    options = {**three_modalities(tmp_path), **fusion, "modality_dropout": 0.2, "balance": name}
    result = train(config(options, balance_options=METHODS[name]), tmp_path / "run", progress=False)
    for row in result.history:
        assert {key for key in row if "balance" in key} == {f"train_balance/{m}" for m in "abc"}
        assert all(0 <= row[f"train_balance/{m}"] <= 1 for m in "abc")
    run = load_run(tmp_path / "run")
    assert run.config.balance == name
    assert run.config.balance_options == METHODS[name]
    assert not any("balancer" in key or key.startswith("heads") for key in run.model.state_dict())
    assert evaluate_run(tmp_path / "run") == pytest.approx(
        {**result.metrics["test"], **(result.metrics["convergence"] or {})}
    )


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("ogm_ge", "multilabel"),
        ("ogm_ge", "regression"),
        ("gradient_blending", "multilabel"),
        ("gradient_blending", "regression"),
        ("gradient_blending", "survival"),
    ],
)
@pytest.mark.slow
def test_other_tasks_that_a_method_is_for(name, task, tmp_path):
    options = {**three_modalities(tmp_path, task), "fusion": "concat", "balance": name}
    result = train(config(options, balance_options=METHODS[name]), tmp_path / "run", progress=False)
    assert all(math.isfinite(row[f"train_balance/{m}"]) for row in result.history for m in "abc")


@pytest.mark.slow
def test_looking_disturbs_nothing(quick, tmp_path):
    """Methods whose effect is switched off give the run without them, bit for bit, warm starts and dropout included."""
    options = {**quick, "epochs": 2, "warm_start": True, "modality_dropout": 0.3}
    plain = train(config(options), tmp_path / "plain", progress=False)
    weights = load_run(tmp_path / "plain").model.state_dict()
    for name, neutral in (("ogm_ge", {"alpha": 0, "noise": False}), ("pmr", {"alpha": 0, "mu": 0, "share": 0.1})):
        looked = train(config(options, balance=name, balance_options=neutral), tmp_path / name, progress=False)
        for a, b in zip(plain.history, looked.history, strict=True):
            assert {**a, "seconds": 0} == {**{key: b[key] for key in a}, "seconds": 0}
        found = load_run(tmp_path / name).model.state_dict()
        assert all(torch.equal(found[key], tensor) for key, tensor in weights.items())


class Interrupted(Exception):
    pass


@pytest.mark.parametrize(("name", "fusion"), [("ogm_ge", "gmf"), ("pmr", "concat"), ("gradient_blending", "concat")])
@pytest.mark.slow
def test_interrupted_and_resumed_equals_uninterrupted(name, fusion, quick, tmp_path):
    options = {**quick, "fusion": fusion, "dim": None, "modality_dropout": 0.2}
    method = {"every": 2} if name == "gradient_blending" else {}
    chosen = config(options, balance=name, balance_options=method, epochs=5)
    whole = train(chosen, tmp_path / "whole", progress=False)

    def stop(row, best):
        if row["epoch"] == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(chosen, tmp_path / "cut", progress=stop)
    resumed = train(chosen, tmp_path / "cut", resume=True, progress=False)
    for a, b in zip(whole.history, resumed.history, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}
    first, second = (load_run(tmp_path / run).model.state_dict() for run in ("whole", "cut"))
    assert all(torch.equal(first[key], second[key]) for key in first)


# --- mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("ogm", {}, ef.UnknownNameError, "unknown balance 'ogm'; did you mean 'ogm_ge'"),
        (3, {}, ef.UnknownNameError, "unknown balance '3'"),
        (None, {"alpha": 1}, ef.InputError, "balance_options go with balance: gradient_blending, ogm_ge, pmr"),
        ("ogm_ge", {"alfa": 1}, ef.UnknownNameError, "option of balance 'ogm_ge': 'alfa'; did you mean 'alpha'"),
        ("ogm_ge", {"alpha": -1}, ef.InputError, "alpha must be a number of at least 0, got -1"),
        ("ogm_ge", {"alpha": "much"}, ef.InputError, "alpha"),
        ("ogm_ge", {"noise": 1}, ef.InputError, "noise must be true or false"),
        ("pmr", {"momentum": 1}, ef.InputError, r"momentum must be in \[0, 1\)"),
        ("pmr", {"share": 0}, ef.InputError, r"share must be in \(0, 1\]"),
        ("pmr", {"mu": True}, ef.InputError, "mu"),
        ("pmr", {"entropy_epochs": 2.5}, ef.InputError, "entropy_epochs must be a whole number"),
        ("gradient_blending", {"every": 0}, ef.InputError, "every must be a whole number of at least 1"),
        ("gradient_blending", ["every"], ef.InputError, "balance_options must be a mapping"),
    ],
)
def test_mistakes_in_options(name, options, error, message):
    with pytest.raises(error, match=message):
        TrainConfig.from_dict({"data": "digits", "balance": name, "balance_options": options})


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("regression", {"balance": "pmr"}, "balance 'pmr' is for classification, the task is regression"),
        ("retrieval", {"balance": "gradient_blending"}, "is for .*, the task is retrieval"),
        ("survival", {"balance": "ogm_ge"}, "the task is survival"),
        ("classification", {"balance": "pmr", "encoder": "identity"}, "none of them learns; use encoder 'mlp'"),
    ],
)
def test_what_cannot_be_balanced_is_refused_before_anything_is_written(task, options, message, tmp_path):
    chosen = config({**three_modalities(tmp_path, task), "fusion": "concat"}, **options)
    with pytest.raises(ef.InputError, match=message):
        train(chosen, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_one_modality_is_refused():
    model = build_model({"a": 3}, "classification", 2, fusion="concat")
    with pytest.raises(ef.InputError, match="nothing to balance with a single modality, 'a'"):
        make_balancer("ogm_ge", {}).prepare(model, make_task("classification"))


def test_settings_of_the_command_line():
    chosen = TrainConfig.from_options(None, {"data": "digits", "balance": "pmr"}, None, None, ["mu=1e-3", "alpha=2"])
    assert chosen.balance_options == {"mu": 1e-3, "alpha": 2}
