"""Ensembles: several models as one, trained on folds, in one folder that everything else takes."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import equifuse as ef
from equifuse.datasets import MultimodalDataset, Split
from equifuse.export import export_model
from equifuse.model import Ensemble
from equifuse.runs import TrainConfig, cross_validate, evaluate_run, load_run, members, predict_run, train
from equifuse.runs.folds import bagged
from equifuse.tasks import make_task

SMALL = {"hidden": (8,), "epochs": 2, "ensemble": 3}
INPUTS = {"a": torch.randn(6, 3, generator=torch.manual_seed(0)), "b": torch.randn(6, 4)}
PRESENT = {"b": torch.tensor([True, False, True, True, False, True])}


def built(fusion, task="classification", outputs=2, **options):
    model = ef.build_model({"a": 3, "b": 4}, task, outputs, fusion=fusion, fusion_options=options, unimodal_heads=True)
    if fusion == "linear":
        torch.nn.init.normal_(model.fusion.linear.weight)
    return model.eval()


def data(path, rows=60, groups=False):
    generator = np.random.default_rng(0)
    y = np.arange(rows) % 2
    inputs = {m: (generator.normal(size=(rows, l)) + y[:, None]).astype(np.float32) for m, l in (("a", 3), ("b", 4))}
    part = Split(inputs, {"b": np.arange(rows) % 5 > 0}, y)
    cut = (np.arange(40), np.arange(40, 50), np.arange(50, rows))
    splits = {name: part.select(index) for name, index in zip(("train", "val", "test"), cut, strict=True)}
    ef.datasets.write_npz(path, MultimodalDataset("x", splits, "classification", ("no", "yes")))
    return str(path)


@pytest.mark.parametrize(
    ("task", "outputs", "read"),
    [
        ("classification", 3, lambda x: torch.softmax(x, -1)),
        ("multilabel", 3, torch.sigmoid),
        ("regression", 2, lambda x: x),
        ("survival", 1, lambda x: x),
    ],
)
def test_an_ensemble_averages_what_the_task_reads(task, outputs, read, tmp_path):
    each = [built(name, task, outputs) for name in ("gmu", "linear", "deq")]
    model = Ensemble(each, [1, 2, 1])
    expected = sum(w * read(m(INPUTS, PRESENT).prediction) for w, m in zip((0.25, 0.5, 0.25), each, strict=True))
    torch.testing.assert_close(read(model(INPUTS, PRESENT).prediction), expected, atol=1e-5, rtol=1e-5)
    model.save(tmp_path / "m")
    again = ef.load(tmp_path / "m")
    assert torch.equal(again(INPUTS, PRESENT).prediction, model(INPUTS, PRESENT).prediction)
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for m in each for p in m.parameters())
    out = again(INPUTS, PRESENT)
    assert out.fusion.stats.converged.all()  # deq's
    assert set(out.unimodal) == {"a", "b"}


def test_cosines_of_embeddings_are_averaged():
    each = [built("gmu", "retrieval", 5), built("concat", "retrieval", 5)]
    model, task = Ensemble(each), make_task("retrieval")
    batch = ef.tasks.Batch(INPUTS)

    def cosines(one):
        z = torch.nn.functional.normalize(task.forward(one, batch).prediction, dim=-1)
        return z[:, 0] @ z[:, 1].T

    torch.testing.assert_close(cosines(model), (cosines(each[0]) + cosines(each[1])) / 2, atol=1e-5, rtol=1e-5)


def test_members_that_do_not_fit_together_are_refused(tmp_path):
    with pytest.raises(ef.InputError, match="different task"):
        Ensemble([built("gmu"), built("gmu", "regression")])
    with pytest.raises(ef.InputError, match="as many weights above 0"):
        Ensemble([built("gmu")], [0.0])
    Ensemble([built("gmu")]).save(tmp_path / "m")
    (tmp_path / "m" / "ensemble.json").write_text(json.dumps({"format": 1, "members": 2, "weights": [1.0]}))
    with pytest.raises(ef.DataError, match="2 members and has 1 weights"):
        ef.load(tmp_path / "m")


@pytest.mark.slow
def test_all_members_are_in_one_exported_graph(tmp_path):
    model = Ensemble([built("gmf", backend="deq", backend_options={"dim": 8}), built("linear"), built("trees")])
    made = export_model(model, tmp_path / "m.pt2")
    program = torch.export.load(tmp_path / "m.pt2").module()
    masks = {"a": torch.ones(6, dtype=torch.bool), **PRESENT}
    torch.testing.assert_close(
        program(INPUTS, masks, {})["logits"], model(INPUTS, PRESENT).prediction, atol=1e-4, rtol=1e-4
    )
    assert made.fusion == "ensemble"


def test_every_row_is_stopped_on_once_groups_stay_together_and_rare_classes_stay_in_training():
    y = np.array([0] * 20 + [1] * 9 + [2])
    part = Split({"a": np.zeros((30, 2), np.float32)}, {}, y, columns={"who": np.arange(30) // 2})
    parts = {"train": np.arange(2, 30), "val": np.arange(2), "test": np.arange(30)}
    splits = {name: part.select(index) for name, index in parts.items()}
    found = MultimodalDataset("x", splits, "classification")
    rows, folds = bagged(found, TrainConfig("x", ensemble=5))
    assert all(set(rows.target[learn]) == {0, 1, 2} for learn, _ in folds)
    assert sorted(np.concatenate([stop for _, stop in folds])) == [*range(27), 28, 29]  # all but the rare one
    rows, folds = bagged(found, TrainConfig("x", ensemble=5, source={"group": "who", "stratify": []}))
    who = rows.columns["who"]
    for learn, stop in folds:
        assert set(who[learn]) & set(who[stop]) <= {14}  # the rare class's


def test_each_repeat_draws_its_folds_anew_and_the_first_is_a_bag_without_repeats(tmp_path):
    found = ef.datasets.load(data(tmp_path / "x.npz"))
    _, once = bagged(found, TrainConfig("x", ensemble=3, seed=4))
    _, every = bagged(found, TrainConfig("x", ensemble=3, seed=4, repeats=2))
    stops = [stop.tolist() for _, stop in every]
    assert stops[:3] == [stop.tolist() for _, stop in once]
    assert len(stops) == 6
    assert not [stop for stop in stops[3:] if stop in stops[:3]]
    for repeat in (stops[:3], stops[3:]):
        assert sorted(row for stop in repeat for row in stop) == list(range(50))


def test_a_repeated_bag_averages_what_members_of_each_repeat_say_of_rows_they_have_not_seen(tmp_path):
    source = data(tmp_path / "x.npz")
    config = TrainConfig(source, fusion="linear", ensemble=2, repeats=2)
    result = train(config, tmp_path / "run", progress=False)
    assert len(result.metrics.members) == 4
    rows, every = bagged(ef.datasets.load(source), config)
    opened = load_run(result.path)
    parts = zip(opened.model.members, every, strict=True)
    probabilities = np.zeros((len(rows), 2))
    for member, (_, stop) in parts:
        some = rows.select(stop)
        inputs = {m: torch.from_numpy(x) for m, x in some.inputs.items()}
        output = member(inputs, {m: torch.from_numpy(mask) for m, mask in some.present.items()}).prediction
        probabilities[stop] += torch.softmax(output, 1).detach().numpy() / 2
    outputs, _ = opened.validation()
    np.testing.assert_allclose(torch.softmax(torch.from_numpy(outputs), 1).numpy(), probabilities, atol=1e-5)
    members.train_member(replace(config, member=3), str(tmp_path / "alone"), ef.datasets.load(source))
    weights = [
        (path / "model.safetensors").read_bytes()
        for path in (tmp_path / "alone/model", result.path / "model/members/4")
    ]
    assert weights[0] == weights[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble")
    source = data(folder / "x.npz")
    result = train(TrainConfig(source, fusion="concat", **SMALL), folder / "run", progress=False)
    return folder, source, result


def test_a_run_of_an_ensemble_is_a_run(run):
    folder, source, result = run
    opened = load_run(result.path)
    assert isinstance(opened.model, Ensemble)
    assert len(result.metrics.members) == 3
    assert result.metrics.members_sentence.startswith("3 members, alone on test: mean")
    assert evaluate_run(result.path)["accuracy"] == result.metrics.test["accuracy"]
    outputs, target = opened.validation()
    assert (len(outputs), len(target)) == (50, 50)
    predicted = (outputs.argmax(1) == target).mean()
    assert predicted == pytest.approx(result.metrics.val["accuracy"])
    columns = predict_run(result.path, source, folder / "p.csv")
    assert len(columns["prediction"]) == len(opened.dataset().splits["test"])
    again = train(TrainConfig(source, fusion="concat", **SMALL), result.path, resume=True, progress=False)
    assert again.metrics.test == result.metrics.test
    with pytest.raises(ef.InputError, match="an ensemble, which cannot go on training"):
        ef.runs.finetune_run(result.path, source, folder / "tuned")


def test_an_interrupted_ensemble_goes_on_with_the_members_that_are_left(run, monkeypatch):
    folder, source, result = run
    from equifuse.runs import ensembles

    config, out = TrainConfig(source, fusion="concat", **SMALL), folder / "stopped"
    trained = members.train_job

    def stopping(job, *others, **named):
        if job.config.member == 2:
            raise KeyboardInterrupt
        return trained(job, *others, **named)

    monkeypatch.setattr(members, "train_job", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(config, out, progress=False)
    monkeypatch.setattr(members, "train_job", trained)
    before = (out / "members" / "1" / "member.json").stat().st_mtime_ns
    resumed = train(config, out, resume=True, progress=False)
    assert (out / "members" / "1" / "member.json").stat().st_mtime_ns == before
    assert resumed.metrics.test == result.metrics.test
    weights = [(f / "model" / "members" / "3" / "model.safetensors").read_bytes() for f in (out, result.path)]
    assert weights[0] == weights[1]
    assert ensembles.MEMBERS == "members"
    shutil.rmtree(out)


def test_estimators_and_cross_validation_take_ensembles(run):
    _, source, result = run
    found = ef.datasets.load(source).splits["train"]
    inputs = {**found.inputs, "b": np.where(found.present["b"][:, None], found.inputs["b"], np.nan)}
    model = ef.FusionClassifier("concat", ensemble=3, epochs=4, lr=0.02, random_state=0).fit(inputs, found.target)
    assert len(model.model_.members) == 3
    assert model.score(inputs, found.target) > 0.7
    value = ef.FusionRegressor("concat", ensemble=2, epochs=3, lr=0.01, random_state=0)
    value.fit(inputs, 100.0 + 10 * found.target)
    assert abs(value.predict(inputs).mean() - 105) < 5
    folder = result.path.parent / "cv"
    config = TrainConfig(source, fusion="linear", ensemble=2, cv=2)
    assert cross_validate(config, folder, progress=False).metrics["accuracy"].mean > 0.7
