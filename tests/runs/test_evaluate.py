"""Evaluation of a run: on its own test part, and on all rows of other data, which training has no part in."""

import json

import numpy as np
import pytest
import torch
from pyarrow import csv
from sklearn.metrics import precision_recall_fscore_support

import equifuse as ef
from equifuse.evaluation.intervals import bootstrap_intervals
from equifuse.evaluation.verdict import class_scores, concerns
from equifuse.report.comparison import write_comparison
from equifuse.report.measured import write_measured
from equifuse.report.tables import measured_tables
from equifuse.runs import TrainConfig, compare_run, evaluate_run, load_run, measure_run, predict_run, train
from equifuse.tasks import make_task

N = 60


def write(folder, name, y, seed, skip=()):
    """A table with modality a, and a file with modality b of some of its ids, in another order."""
    generator = np.random.default_rng(seed)
    a, b = generator.normal(size=(2, len(y), 2)) + 1.5 * y[:, None]
    ids = [f"{name}{i}" for i in range(len(y))]
    labels = [["no", "yes"][k] for k in y]
    sites = ["north" if k % 3 else "south" for k in range(len(y))]
    lines = [f"{i},{label},{s},{x},{z}" for i, label, s, (x, z) in zip(ids, labels, sites, a, strict=True)]
    (folder / f"{name}.csv").write_text("id,label,site,a:x,a:y\n" + "\n".join(lines), encoding="utf-8")
    rows = [f"{ids[i]},{b[i, 0]},{b[i, 1]}" for i in reversed(range(len(y))) if i not in skip]
    (folder / f"{name}_b.csv").write_text("id,u,v\n" + "\n".join(rows), encoding="utf-8")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    write(folder, "own", np.arange(N) % 2, 0)
    source = {"modalities": {"a": "a:*", "b": str(folder / "own_b.csv")}}
    config = TrainConfig(str(folder / "own.csv"), source=source, fusion="concat", hidden=(8,), epochs=8, lr=0.02)
    train(config, folder / "run", progress=False)
    write(folder, "new", np.array([1] * 30 + [0] * 10), 1, skip=range(5))
    return folder / "run"


def test_all_rows_of_other_data_are_measured_with_files_of_their_own(run):
    folder = run.parent
    files = {"modalities": {"b": str(folder / "new_b.csv")}}
    found = measure_run(run, str(folder / "new.csv"), source=files, by="site")
    assert found.n == 40
    assert sum(map(sum, found.confusion_matrix)) == 40
    assert [sum(row) for row in found.confusion_matrix] == [10, 30]
    assert found.predictions["id"].tolist() == [f"new{i}" for i in range(40)]
    said = found.predictions
    assert np.mean(said["prediction"] == said["target"]) == pytest.approx(found.metrics["accuracy"])
    assert {name: part.n for name, part in found.by.items()} == {"north": 26, "south": 14}
    mean = sum(part.n * part.metrics["accuracy"] for part in found.by.values()) / 40
    assert mean == pytest.approx(found.metrics["accuracy"])
    low, high = found.intervals["accuracy"]
    assert low <= found.metrics["accuracy"] <= high
    # The classes are balanced in training, so that what knows nothing says the first one.
    assert found.baseline["accuracy"] == pytest.approx(0.25)
    # The rows of b are found by their id, not by their place.
    model = load_run(run).model
    b = {row["id"]: [row["u"], row["v"]] for row in csv.read_csv(folder / "new_b.csv").to_pylist()}
    table = csv.read_csv(folder / "new.csv").to_pylist()
    a = torch.tensor([[row["a:x"], row["a:y"]] for row in table[5:]])
    with torch.no_grad():
        logits = model({"a": a, "b": torch.tensor([b[row["id"]] for row in table[5:]])}).prediction
    np.testing.assert_allclose(said["prob_yes"][5:], logits.softmax(1)[:, 1], rtol=1e-4)


def test_a_modality_without_a_file_counts_as_missing_and_that_is_said(run):
    found = measure_run(run, str(run.parent / "new.csv"), intervals=False)
    assert found.notes[:2] == [
        f"all 40 rows of {run.parent / 'new.csv'} that have a target are measured",
        f"modality 'b' is nowhere in {run.parent / 'new.csv'}: it counts as missing",
    ]
    files = {"modalities": {"b": str(run.parent / "new_b.csv")}}
    without = measure_run(run, str(run.parent / "new.csv"), without=["b"], source=files, intervals=False)
    assert without.metrics == found.metrics


def test_classes_are_found_by_name_and_rows_without_one_are_left_out(run, tmp_path):
    lines = (run.parent / "new.csv").read_text().splitlines()
    (tmp_path / "yes.csv").write_text("\n".join([lines[0], lines[1].replace("yes", ""), *lines[2:31]]))
    found = measure_run(run, str(tmp_path / "yes.csv"), intervals=False)  # of one class, which is the second
    assert found.n == 29
    assert found.confusion_matrix[0] == [0, 0]
    assert found.metrics["auc"] is None
    assert "1 of 30 rows has no target and is left out" in found.notes
    (tmp_path / "other.csv").write_text("\n".join([lines[0], *lines[1:]]).replace("yes", "perhaps"))
    with pytest.raises(ef.DataError, match="30 rows have classes that the model does not know, such as 'perhaps'"):
        measure_run(run, str(tmp_path / "other.csv"))


def test_predictions_join_files_and_keep_ids_and_columns(run, tmp_path):
    files = {"modalities": {"b": str(run.parent / "new_b.csv")}}
    with pytest.warns(UserWarning, match="35 of 40 ids found; none for 5 ids, such as new0, new1, new2"):
        found = predict_run(
            run, run.parent / "new.csv", tmp_path / "out.csv", source={**files, "keep": ["site", "label"]}
        )
    assert list(found) == ["id", "site", "label", "prediction", "prob_no", "prob_yes"]
    measured = measure_run(run, str(run.parent / "new.csv"), source=files, intervals=False).predictions
    np.testing.assert_allclose(found["prob_yes"], measured["prob_yes"], rtol=1e-5)
    assert found["label"].tolist() == measured["target"].tolist()
    assert csv.read_csv(tmp_path / "out.csv").column("site").to_pylist() == found["site"].tolist()
    with pytest.warns(UserWarning, match="modality 'b' is nowhere"):
        without = predict_run(run, run.parent / "new.csv", tmp_path / "without", format="parquet")
    assert not np.allclose(without["prob_yes"][5:], found["prob_yes"][5:])
    np.testing.assert_allclose(without["prob_yes"][:5], found["prob_yes"][:5], rtol=1e-5)
    (tmp_path / "clash.csv").write_text((run.parent / "new.csv").read_text().replace("site", "prediction"))
    with (
        pytest.raises(ef.InputError, match="column 'prediction' cannot be kept"),
        pytest.warns(UserWarning, match="nowhere"),
    ):
        predict_run(run, tmp_path / "clash.csv", tmp_path / "no.csv", source={"keep": ["prediction"]})
    assert not (tmp_path / "no.csv").exists()


def test_longer_sequences_than_in_training_are_predicted(tmp_path):
    steps = np.random.default_rng(0).normal(size=(3, 9, 2)).astype(np.float32)
    steps[2] = np.nan
    np.savez(tmp_path / "long.npz", a=steps, a_len=np.array([9, 4, 0]))
    found = ef.datasets.read_inputs(tmp_path / "long.npz", {"a": (5, 2)})
    assert found.inputs["a"].shape == (3, 9, 2)
    assert found.lengths["a"].tolist() == [9, 4, 0]
    assert found.present["a"].tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"source": {"modalities": {"c": "a:*"}}}, "unknown modality 'c'"),
        ({"source": {"target": "lable"}}, "no target column 'lable'"),
        ({"source": {"modalities": {"b": "nowhere.csv"}}}, "no such file: nowhere.csv"),
        ({"by": "town"}, "no column 'town'"),
        ({"data": "nowhere.csv"}, "no such file"),
        ({"data": None, "source": {"group": "site"}}, "go with --data"),
    ],
)
def test_mistakes(run, options, says):
    with pytest.raises(ef.EquifuseError, match=says):
        measure_run(run, **{"data": str(run.parent / "new.csv"), **options})


def test_the_own_test_part_is_that_of_training(run):
    split = csv.read_csv(run / "split.csv").to_pydict()
    test = [row for row, part in zip(split["id"], split["part"], strict=True) if part == "test"]
    found = measure_run(run, by="site", intervals=False)
    assert found.predictions["id"].tolist() == test
    assert set(found.by) == {"north", "south"}
    stored = json.loads((run / "metrics.json").read_text())
    assert found.metrics == pytest.approx(stored["test"], rel=1e-5)
    assert evaluate_run(run, split="val") == pytest.approx(stored["val"], rel=1e-5)


def test_a_run_beside_other_data_in_one_page(run, tmp_path):
    files = {"modalities": {"b": str(run.parent / "new_b.csv")}}
    found = compare_run(run, str(run.parent / "new.csv"), source=files, by="site", intervals=False)
    assert found.external.n == 40
    assert found.internal.metrics == measure_run(run, intervals=False).metrics
    assert found.missing == {"a": (0.0, 0.0), "b": (0.0, 5 / 40)}
    assert set(found.certainty) == {"internal", "external"}
    page = write_comparison(found, tmp_path / "out", "a title")
    text = page.read_text(encoding="utf-8")
    assert all(word in text for word in ("a title", "What has moved", "Certainty", "south"))
    table = csv.read_csv(tmp_path / "out/shift.csv").to_pydict()
    assert sorted(table["feature"]) == ["a:x", "a:y", "u", "v"]


def test_a_modality_that_training_never_sees_is_an_error_that_names_it(run, tmp_path):
    lines = [
        f"{line},{'label2' if not k else ''}"
        for k, line in enumerate((run.parent / "own.csv").read_text().splitlines())
    ]
    lines[0] = lines[0].replace("label2", "c:z")
    (tmp_path / "none.csv").write_text("\n".join(lines))
    with pytest.raises(ef.DataError, match="modality 'c': no row of the training part has"):
        train(TrainConfig(str(tmp_path / "none.csv"), source={"modalities": {"a": "a:*", "c": "c:*"}}), tmp_path / "r")


def test_a_folder_has_all_of_it(run, tmp_path):
    found = measure_run(run, by="site")
    write_measured(found, tmp_path / "out")
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
    assert files == {
        *("metrics.json", "metrics.csv", "classes.csv", "confusion.csv", "by.csv", "predictions.csv"),
        *("plots/confusion.png", "plots/by.png"),
    }
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == json.loads(json.dumps(found.to_dict()))
    table = csv.read_csv(tmp_path / "out/metrics.csv").to_pydict()
    assert dict(zip(table["metric"], table["value"], strict=True)) == pytest.approx(found.metrics)
    assert [table.header[0] for table in measured_tables(found)] == ["metric", "class", "class", "modality", "rows of"]


def test_scores_of_classes_are_those_of_scikit_learn():
    generator = np.random.default_rng(0)
    truth, said = generator.integers(0, 4, (2, 200))
    said[said == 3] = 0
    confusion = np.bincount(truth * 4 + said, minlength=16).reshape(4, 4)
    found = class_scores(confusion, list("abcd"))
    expected = precision_recall_fscore_support(truth, said, zero_division=np.nan)
    for k, name in enumerate(("precision", "recall", "f1", "n")):
        values = [np.nan if each[name] is None else each[name] for each in found]
        np.testing.assert_allclose(values[:3], expected[k][:3])
    assert found[3].precision is None
    task = make_task("classification")
    assert concerns(task, {"accuracy": 0.5}, {"accuracy": 0.4}, found) == [
        f"never predicted is: d ({confusion[3].sum()} samples); try --balanced, or more epochs"
    ]
    assert "no better than 0.5000" in concerns(task, {"accuracy": 0.5}, {"accuracy": 0.5})[0]
    sure = concerns(task, {"accuracy": 0.9, "loss": 0.6}, {"accuracy": 0.8, "loss": 0.5})
    assert sure == ["loss 0.6000 is no better than 0.5000, which needs no features at all"]


def test_an_interval_over_groups_is_wider_where_rows_repeat():
    right = np.repeat(np.random.default_rng(0).random(20) < 0.7, 10)
    logits = torch.from_numpy(np.stack([right, ~right], axis=1).astype(np.float64))
    target = torch.zeros(200, dtype=torch.int64)
    rows, groups = (
        np.ptp(bootstrap_intervals(make_task("classification"), logits, target, groups=by, draws=60)["accuracy"])
        for by in (None, np.repeat(np.arange(20), 10))
    )
    assert groups > 1.8 * rows
