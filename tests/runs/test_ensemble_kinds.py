"""Ensembles by seeds and by snapshots: what their members are, and that all that holds of a bag holds of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import equifuse as ef
from equifuse.model import Ensemble
from equifuse.runs import TrainConfig, distill_run, evaluate_run, export_run, load_run, members, predict_run, train
from equifuse.runs.explain import explain_run
from equifuse.runs.kinds import kind_of
from equifuse.training import Trainer

QUICK = {"fusion": "concat", "hidden": (8,), "epochs": 4}
KINDS = ("seeds", "snapshots")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, small_set):
    folder, source, found = tmp_path_factory.mktemp("kinds"), str(small_set), {}
    for kind in KINDS:
        config = TrainConfig(source, ensemble=2, ensemble_by=kind, **QUICK)
        found[kind] = config, train(config, folder / kind, progress=False)
    return folder, found


def outputs(model, split):
    inputs = {m: torch.from_numpy(x) for m, x in split.inputs.items()}
    with torch.no_grad():
        return model(inputs, {m: torch.from_numpy(mask) for m, mask in split.present.items()}).prediction


def same(model, other):
    return all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_has_the_average_of_its_members_also_of_what_it_is_calibrated_on(runs, kind):
    _, found = runs
    _, result = found[kind]
    opened = load_run(result.path)
    assert isinstance(opened.model, Ensemble)
    val = opened.dataset().splits["val"]
    each = [torch.softmax(outputs(member, val), 1) for member in opened.model.members]
    assert len(each) == 2
    assert not torch.equal(*each)
    together = outputs(opened.model, val)
    torch.testing.assert_close(torch.softmax(together, 1), sum(each) / 2)
    unseen, target = opened.validation()
    torch.testing.assert_close(torch.from_numpy(unseen).float(), together)
    assert (target == val.target).all()
    assert (unseen.argmax(1) == target).mean() == pytest.approx(result.metrics.val["accuracy"])
    assert evaluate_run(result.path)["accuracy"] == result.metrics.test["accuracy"]
    assert [row["member"] for row in result.history] == ([1] * 4 + [2] * 4 if kind == "seeds" else [1, 1, 2, 2])


def test_a_member_by_seed_is_a_single_model_of_that_seed(runs):
    folder, found = runs
    config, result = found["seeds"]
    seed = kind_of(config).seed(replace(config, member=1))
    alone = train(replace(config, ensemble=None, ensemble_by="folds", seed=seed), folder / "alone", progress=False)
    assert same(load_run(result.path).model.members[1], load_run(alone.path).model)


def test_the_first_snapshot_is_a_single_model_of_so_many_epochs_along_a_cosine(runs):
    folder, found = runs
    config, result = found["snapshots"]
    options = {"ensemble": None, "ensemble_by": "folds", "schedule": "cosine", "epochs": 2}
    alone = train(replace(config, **options), folder / "cosine", progress=False)
    first, second = load_run(result.path).model.members
    assert same(first, load_run(alone.path).model)
    assert not same(first, second)
    assert result.metrics.epochs == 4
    assert [member.epochs for member in result.metrics.members] == [2, 4]


def test_interrupted_snapshots_go_on_within_a_cycle(runs, monkeypatch):
    folder, found = runs
    config, result = found["snapshots"]

    class Stopping(Trainer):
        def fit(self, *given, **named):
            def stop(row, best):
                if row["epoch"] == 3:
                    raise KeyboardInterrupt

            self.on_epoch_end = stop
            return super().fit(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(members, "Trainer", Stopping)
        with pytest.raises(KeyboardInterrupt):
            train(config, folder / "stopped", progress=False)
    resumed = train(config, folder / "stopped", resume=True, progress=False)
    pairs = zip(load_run(resumed.path).model.members, load_run(result.path).model.members, strict=True)
    assert all(same(a, b) for a, b in pairs)
    assert len(resumed.history) == 4


def test_estimators_have_the_kinds_with_validation_of_ones_own_and_without(small_set):
    found = ef.datasets.load(str(small_set))
    train, val = found.splits["train"], found.splits["val"]
    named = {**QUICK, "modality_dropout": 0.0, "random_state": 0, "ensemble": 2}
    model = ef.FusionClassifier(**named, ensemble_by="seeds").fit(
        train.inputs, train.target, eval_set=(val.inputs, val.target)
    )
    each = [torch.softmax(outputs(member, val), 1).numpy() for member in model.model_.members]
    np.testing.assert_allclose(model.predict_proba(val.inputs), (each[0] + each[1]) / 2, atol=1e-6)
    last = ef.FusionClassifier(**named, ensemble_by="snapshots", validation_fraction=None)
    assert last.fit(train.inputs, train.target).n_iter_ == 4
    assert len(last.model_.members) == 2
    value = ef.FusionRegressor(**named, ensemble_by="snapshots").fit(train.inputs, 100.0 + 10 * train.target)
    assert all(abs(outputs(member, val).mean() - 105) < 5 for member in value.model_.members)
    with pytest.raises(ef.InputError, match="one of its own; give no eval_set"):
        ef.FusionClassifier(**named).fit(train.inputs, train.target, eval_set=(val.inputs, val.target))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ensemble_by": "seeds"}, "say of how many"),
        ({"ensemble": 3, "ensemble_by": "seeds", "repeats": 2}, "repeats draw folds anew"),
        ({"ensemble": 3, "ensemble_by": "snapshots", "fusion": "trees"}, "without a learning rate that could fall"),
        ({"ensemble": 3, "ensemble_by": "seeds", "fusion": "linear"}, "another seed changes little"),
        ({"ensemble": 3, "ensemble_by": "snapshots", "epochs": 2}, "at least 3 epochs"),
        ({"ensemble": 3, "ensemble_by": "snapshots", "epochs": 9, "warmup": 3}, "shorter than its 3 epochs"),
        ({"ensemble": 3, "ensemble_by": "snapshots", "schedule": "plateau"}, "leave out schedule"),
        ({"ensemble": 3, "ensemble_by": "snapshots", "averaging": "soup"}, "leave out averaging"),
        ({"ensemble": 3, "ensemble_by": "snapshots", "patience": 3}, "leave out patience"),
        ({"ensemble": 3, "ensemble_by": "bags"}, "folds, seeds, snapshots"),
        ({"ensemble": 3, "ensemble_by": "snapshots", "member": 3}, "of an ensemble of more members"),
    ],
)
def test_what_means_nothing_is_one_line(options, says):
    with pytest.raises(ef.EquifuseError, match=says) as caught:
        TrainConfig("digits", **options)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_takes_a_bag_takes_each_kind(runs, kind):
    folder, found = runs
    config, result = found[kind]
    in_process = train(config, folder / f"{kind}-process", progress=False, workers=1)
    pairs = zip(load_run(in_process.path).model.members, load_run(result.path).model.members, strict=True)
    assert all(same(a, b) for a, b in pairs)
    assert export_run(result.path, folder / f"{kind}.pt2")["error"] < 1e-4
    columns = predict_run(result.path, config.data, folder / f"{kind}.csv", coverage=0.9)
    assert {"in_set_no", "in_set_yes"} <= set(columns)
    assert explain_run(result.path, samples=20).modalities
    student = distill_run(result.path, folder / f"{kind}-student", fusion="late", epochs=1, progress=False)
    assert student.note is None
    taught = load_run(student.path).config
    assert (taught.ensemble, taught.ensemble_by) == (None, "folds")


def test_a_single_model_takes_over_nothing_of_an_ensemble():
    for options in ({"ensemble_by": "snapshots"}, {"repeats": 3}, {"repeats": 3, "cv": 2, "fold": 5}):
        config = TrainConfig("digits", ensemble=2, **options)
        left = {name: value for name, value in config.to_dict().items() if name not in config.of_ensemble}
        single = TrainConfig.from_dict(left)
        assert (single.members, single.fold) == (1, config.fold)
