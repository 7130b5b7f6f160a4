"""A student of a run: its loss, what it is told of the teacher, and that it is a run like any other."""

import pytest
import torch

import equifuse as ef
from equifuse.data.batch import Batch
from equifuse.runs import TrainConfig, load_run, train
from equifuse.runs.distill import distill_run
from equifuse.runs.folder import read_run_config
from equifuse.tasks.teaching import SoftTargets

QUICK = {"fusion": "concat", "epochs": 2, "hidden": [8], "lr": 0.01, "batch_size": 32}
TASKS = {
    "classification": torch.arange(12) % 3,
    "multilabel": (torch.arange(36).reshape(12, 3) % 2).float(),
    "regression": torch.arange(36).reshape(12, 3) / 10,
    "survival": torch.stack([torch.arange(1.0, 13), torch.arange(12) % 2], 1),
    "retrieval": None,
}


def outputs(task, width=3):
    shape = {"survival": (12, 1), "retrieval": (12, 2, width)}.get(task, (12, 3))
    return torch.randn(shape)


@pytest.mark.parametrize("task", list(TASKS))
def test_who_says_the_same_has_nothing_to_learn(task):
    made = ef.tasks.make_task(task)
    taught, said = outputs(task), outputs(task)
    at_it = taught.clone().requires_grad_()
    loss = made.soft_loss(at_it, taught, 2.0)
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert torch.autograd.grad(loss, at_it)[0].abs().max() < 1e-4
    assert made.soft_loss(said, taught, 2.0) > 0


def test_at_temperature_one_soft_targets_that_are_sure_are_the_targets():
    task = ef.tasks.make_task("classification")
    said, target = outputs("classification"), TASKS["classification"]
    sure = 100.0 * torch.nn.functional.one_hot(target, 3)
    torch.testing.assert_close(task.soft_loss(said, sure, 1.0), task.loss(said, target))
    batch = Batch({"a": said}, target=target, index=torch.arange(12).flip(0))
    loss = task.loss(said, target)
    joined = SoftTargets(sure.flip(0), 1.0, 0.3).joined(task, said, batch, loss)
    torch.testing.assert_close(joined, loss)


def test_only_differences_of_log_risks_are_taught():
    task, taught = ef.tasks.make_task("survival"), outputs("survival")
    assert task.soft_loss(taught + 5, taught).item() == pytest.approx(0, abs=1e-6)


def test_several_targets_are_taught_together():
    task = ef.tasks.make_task("several", offered={"classes": ("type=A", "type=B", "age"), "spreads": [1.0, 1.0, 2.0]})
    said, taught = torch.randn(8, 3), torch.randn(8, 3)
    classes = ef.tasks.make_task("classification").soft_loss(said[:, :2], taught[:, :2], 2.0)
    age = ((said[:, 2] - taught[:, 2]) ** 2).mean() / 2 / 4
    torch.testing.assert_close(task.soft_loss(said, taught, 2.0), classes + age)


def test_members_of_several_targets_average_probabilities_and_values():
    names = ("type=A", "type=B", "age")
    members = [ef.build_model({"a": 3}, "several", 3, fusion="concat", classes=names) for _ in range(2)]
    x = {"a": torch.randn(6, 3)}
    each = [member.eval()(x).prediction for member in members]
    found = ef.model.Ensemble(members).eval()(x).prediction
    chances = [torch.softmax(prediction[:, :2], 1) for prediction in each]
    torch.testing.assert_close(torch.softmax(found[:, :2], 1), (chances[0] + chances[1]) / 2)
    torch.testing.assert_close(found[:, 2], (each[0][:, 2] + each[1][:, 2]) / 2)


@pytest.mark.slow
def test_a_student_goes_on_where_it_was_interrupted_and_only_with_its_teacher(small_set, tmp_path):
    teacher = train(TrainConfig(str(small_set), fusion="linear"), tmp_path / "linear", progress=False).path
    told = []

    def stop(row, best):
        told.append(row)
        if len(told) == 2:
            raise KeyboardInterrupt

    options = {**QUICK, "epochs": 3}
    whole = distill_run(teacher, tmp_path / "whole", progress=False, **options)
    out = tmp_path / "student"
    with pytest.raises(KeyboardInterrupt):
        distill_run(teacher, out, progress=stop, **options)
    with pytest.raises(ef.InputError, match="taught by another run; go on with 'equifuse distill'"):
        train(read_run_config(out)[0], out, resume=True, progress=False)
    with pytest.raises(ef.InputError, match=r"share=0\.5, not 0\.9"):
        distill_run(teacher, out, resume=True, share=0.9, progress=False, **options)
    with pytest.raises(ef.DataError, match="nothing to resume"):
        distill_run(teacher, teacher, resume=True, progress=False, **options)
    found = distill_run(teacher, out, resume=True, progress=False, **options)
    assert [part.student_interval for part in found.parts] == [part.student_interval for part in whole.parts]
    models = [load_run(folder).model.state_dict() for folder in (out, whole.path)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    assert found.note is None


@pytest.mark.slow
def test_a_student_is_a_run_like_any_other(small_set, tmp_path):
    teacher = train(TrainConfig(str(small_set), ensemble=2, **QUICK), tmp_path / "bag", progress=False)
    found = distill_run(teacher.path, tmp_path / "student", fusion="late", progress=False)
    run = load_run(found.path)
    assert (run.config.fusion, run.config.ensemble, run.config.lr) == ("late", None, 0.01)
    assert found.note.startswith("members of the teacher have seen")
    assert found.parameters["student"] < found.parameters["teacher"]
    for part in found.parts:
        low, high = part.student_interval
        assert low <= part.student <= high
    assert run.task.teacher is None
    again = distill_run(teacher.path, tmp_path / "again", fusion="late", progress=False)
    x = {m: torch.from_numpy(x) for m, x in run.dataset().splits["test"].inputs.items()}
    assert torch.equal(load_run(again.path).model(x).prediction, run.model(x).prediction)
    trees = train(
        TrainConfig(str(small_set), fusion="trees", fusion_options={"trees": 5}), tmp_path / "t", progress=False
    )
    with pytest.raises(ef.InputError, match="'linear' is fitted at once, and not taught"):
        distill_run(trees.path, tmp_path / "x", fusion="linear")
    for options, message in (({"share": 0}, "share must be in"), ({"temperature": 0}, "temperature must be positive")):
        with pytest.raises(ef.InputError, match=message):
            distill_run(trees.path, tmp_path / "x", **options)
