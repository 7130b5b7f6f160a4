"""What each modality says alone joins the fusion's prediction: identities of the mix, the losses, and their storing."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import equifuse as ef
from equifuse.data.batch import Batch, as_batch
from equifuse.export import export_model
from equifuse.runs import TrainConfig
from equifuse.runs.prepare import prepare
from equifuse.tasks import make_task
from equifuse.training import Trainer
from equifuse.training.mix import FACTORS, fit_mix

SHAPES = {"a": 5, "b": 6}


def built(fusion="gmf", task="classification", outputs=3, **options):
    torch.manual_seed(0)
    options = {"encoder_options": {"hidden": [8]}, "unimodal_heads": True, **options}
    return ef.build_model(SHAPES, task, outputs, fusion=fusion, **options).eval()


def inputs(rows=7):
    generator = torch.Generator().manual_seed(1)
    return {m: torch.randn(rows, width, generator=generator) for m, width in SHAPES.items()}


def toy(task="classification", rows=60):
    """A set in which modality ``a`` tells nearly all."""
    generator = np.random.default_rng(0)
    x = {m: generator.standard_normal((rows, width)).astype(np.float32) for m, width in SHAPES.items()}
    score = x["a"][:, 0] + 0.1 * generator.standard_normal(rows)
    target = {
        "classification": (score > 0).astype(np.int64),
        "regression": (100 + 5 * score)[:, None].astype(np.float32),
        "multilabel": (np.stack([score, -score], 1) > 0).astype(np.float32),
        "survival": np.stack([np.exp(-score), (score > -1)], 1).astype(np.float32),
    }.get(task)
    return ef.datasets.Split(x, target=target)


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (0.0, 2.0), (1.0, 0.0), (0.5, 1.5)])
def test_the_prediction_is_the_mix_of_its_parts(a, b):
    model = built()
    model.unimodal.set_mix(a, b)
    out = model(inputs())
    mean = torch.stack(list(out.unimodal.values())).mean(0)
    torch.testing.assert_close(out.prediction, a * out.fused + b * mean)
    torch.testing.assert_close(out.fused, model.head(out.fusion.fused))


def test_the_offset_is_not_moved_by_the_mix():
    model = built(task="regression", outputs=2)
    units = torch.tensor([20.0, 1.0]), torch.tensor([100.0, -3.0])
    for part in (model.unimodal, model.head.linear):
        part.set_units(*units)
    with torch.no_grad():
        for last in (model.head.linear, *model.unimodal.maps()):
            last.weight.zero_()
    for a, b in ((1.0, 1.0), (2.0, 0.5), (0.0, 2.0)):
        model.unimodal.set_mix(a, b)
        torch.testing.assert_close(model(inputs()).prediction, model.unimodal.offset.expand(7, 2))


@pytest.mark.parametrize("fusion", ["gmf", "deq", "concat"])
def test_an_absent_modality_is_as_if_never_given(fusion):
    model, x = built(fusion), inputs()
    absent = {**x, "b": torch.full_like(x["b"], torch.nan)}
    masked = model(absent, {"b": torch.zeros(7, dtype=torch.bool)})
    never = model({"a": x["a"]})
    assert torch.equal(masked.prediction, never.prediction)
    assert torch.equal(masked.unimodal["a"], never.unimodal["a"])


def test_positions_of_a_sequence_are_averaged_where_they_are_present():
    heads = ef.model.UnimodalHeads({"a": 4}, outputs=2)
    x, mask = torch.randn(3, 5, 4), torch.tensor([[True] * 5, [True] * 2 + [False] * 3, [False] * 5])
    said = heads({"a": x.masked_fill(~mask[..., None], 99.0)}, {"a": mask})["a"]
    expected = heads.heads["a"](torch.stack([x[0].mean(0), x[1, :2].mean(0)]))
    torch.testing.assert_close(said[:2], expected)
    assert torch.equal(heads.mixed(torch.ones(3, 2), {"a": said}, {"a": mask})[2], torch.ones(2))


def test_a_fusion_of_decisions_gets_no_heads_and_keeps_its_prediction():
    model = built("late")
    out = model(inputs())
    assert model.unimodal is None
    assert out.unimodal.keys() == SHAPES.keys()
    torch.testing.assert_close(out.prediction, torch.stack(list(out.unimodal.values())).mean(0))


def test_a_model_with_heads_is_stored_and_one_without_as_before(tmp_path):
    model = built()
    model.unimodal.set_mix(0.5, 2.0)
    model.save(tmp_path / "new")
    assert torch.equal(ef.load(tmp_path / "new")(inputs()).prediction, model(inputs()).prediction)
    old = built(unimodal_heads=False)
    old.save(tmp_path / "old")
    described = json.loads((tmp_path / "old" / "model.json").read_text())
    del described["unimodal_outputs"]  # as version 0.1 has it
    (tmp_path / "old" / "model.json").write_text(json.dumps(described))
    assert torch.equal(ef.load(tmp_path / "old")(inputs()).prediction, old(inputs()).prediction)


def test_an_own_model_with_heads_is_loaded_with_its_modules(tmp_path):
    def model():
        fusion = ef.make_fusion("concat", SHAPES)
        heads = ef.model.UnimodalHeads(SHAPES, 2)
        return ef.FusionModel({"a": None, "b": None}, fusion, torch.nn.Linear(fusion.out_dim, 2), unimodal=heads)

    own = model().eval()
    own.save(tmp_path / "own")
    again = ef.load(tmp_path / "own", encoders={"a": None, "b": None}, head=torch.nn.Linear(11, 2))
    assert torch.equal(again(inputs()).prediction, own(inputs()).prediction)


@pytest.mark.slow
def test_an_exported_model_has_the_mix(tmp_path):
    model = built()
    model.unimodal.set_mix(0.5, 2.0)
    export_model(model, tmp_path / "m.pt2")
    program = torch.export.load(tmp_path / "m.pt2").module()
    x, present = inputs(), {m: torch.ones(7, dtype=torch.bool) for m in SHAPES}
    present["b"][3] = False
    torch.testing.assert_close(program(x, present, {})["logits"], model(x, present).prediction, atol=1e-5, rtol=0)


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression", "survival"])
def test_the_loss_of_a_modality_is_the_tasks_own_over_the_samples_that_have_it(task):
    batch = as_batch(toy(task))
    mask = torch.arange(60) % 3 > 0
    batch = replace(batch, present={"b": mask})
    outputs = {"classification": 2, "multilabel": 2}.get(task, 1)
    model, kind = built(task=task, outputs=outputs), make_task(task)
    out = kind.forward(model, batch)
    losses = kind.unimodal_losses(out, batch)
    torch.testing.assert_close(losses["a"], kind.loss(out.unimodal["a"], batch.target))
    torch.testing.assert_close(losses["b"], kind.loss(out.unimodal["b"][mask], batch.target[mask]))
    found = kind.evaluate(model, [batch.select(torch.arange(20)), batch.select(torch.arange(20, 60))])
    assert torch.equal(found.unimodal["b"].isnan().any(1), ~mask)
    alone = kind.measure_alone(found.unimodal, batch.target)
    assert alone["b"].values["loss"] == pytest.approx(losses["b"].item(), rel=1e-5)


def test_retrieval_compares_the_encoders_own_embeddings():
    batch = Batch(inputs(12), {"b": torch.arange(12) > 1})
    task, model = make_task("retrieval"), built(task="retrieval", outputs=4)
    out = task.forward(model, batch)
    own = torch.stack(list(model(batch.inputs, batch.present).unimodal.values()), 1)
    own[:2, 1] = torch.nan
    torch.testing.assert_close(task.unimodal_losses(out, batch)["encoders alone"], task.loss(own, None))
    assert fit_mix(model, task, [[batch]]) is not None


@pytest.mark.parametrize("task", ["classification", "regression", "survival"])
def test_the_fitted_mix_is_the_best_of_the_grid_and_never_worse_than_either_part(task):
    batch, kind = as_batch(toy(task)), make_task(task)
    model = built(task=task, outputs=2 if task == "classification" else 1)
    mix = fit_mix(model, kind, [[batch]])
    losses = {}
    for a in FACTORS:
        for b in FACTORS:
            model.unimodal.set_mix(a, b)
            losses[a, b] = kind.loss(model(batch.inputs).prediction, batch.target).item()
    del losses[0, 0]
    assert mix.loss == pytest.approx(min(losses.values()), rel=1e-4)
    assert mix.loss == pytest.approx(losses[mix.fused, mix.unimodal], rel=1e-4)
    assert mix.loss <= min(mix.fused_loss, mix.unimodal_loss)


def test_training_adds_the_losses_and_fits_the_mix():
    def fitted(**options):
        model = built(outputs=2)
        return model, Trainer(epochs=2, watch=False, **options).fit(model, toy(), toy(rows=40))

    model, result = fitted()
    assert result.mix is not None
    assert {"train_unimodal_loss/a", "train_unimodal_loss/b"} <= set(result.history[0])
    row = result.history[0]
    total = row["train_task_loss"] + row["train_unimodal_loss/a"] + row["train_unimodal_loss/b"]
    total += model.fusion.loss_weights["reconstruction"] * row["train_reconstruction"]
    assert row["train_loss"] == pytest.approx(total)
    model, result = fitted(unimodal="sum", unimodal_loss_epochs=1)
    assert result.mix is None
    assert model.unimodal.mix.tolist() == [1, 1]
    assert "train_unimodal_loss/a" not in result.history[1]
    _, result = fitted(unimodal="none")
    assert "train_unimodal_loss/a" not in result.history[0]


def test_the_estimators_keep_their_units():
    split = toy("regression", 120)
    X = np.concatenate(list(split.inputs.values()), 1)
    model = ef.FusionRegressor("concat", epochs=60, lr=1e-2, random_state=0)
    model.fit(X, split.target[:, 0])
    assert model.score(X, split.target[:, 0]) > 0.5
    assert model.model_.unimodal.offset.item() == pytest.approx(100, abs=3)


def test_loss_alone_leaves_the_prediction_to_the_fusion():
    model = prepare(TrainConfig("digits", fusion="concat", unimodal="loss")).model
    assert model.unimodal.mix.tolist() == [1, 0]
