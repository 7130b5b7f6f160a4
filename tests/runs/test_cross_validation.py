"""Cross-validation: every row is predicted by a model that has not seen it, and what was given stays together."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from pyarrow import csv

import equifuse as ef
from equifuse.evaluation.evaluate import evaluate_quietly
from equifuse.runs import TrainConfig, cross_validate, load_run, train
from equifuse.runs.cross_validation import Spread
from equifuse.runs.folder import load_data


def read_metrics(run):
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """120 rows of 30 patients at three sites, two modalities, and no split."""
    generator = np.random.default_rng(0)
    lines = ["id,patient,site,label,a:x,a:y,b:z"]
    for i in range(120):
        patient = i // 4
        x = generator.normal(size=3) + 1.5 * (patient % 2)
        lines.append(f"r{i},p{patient},s{patient % 3},{'no' if patient % 2 else 'yes'}," + ",".join(map(str, x)))
    path = tmp_path_factory.mktemp("data") / "table.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def config(table, source=None, **options):
    quick = {"fusion": "concat", "hidden": (8,), "epochs": 2, "lr": 0.01}
    return TrainConfig(str(table), source={"group": "patient", **(source or {})}, **{**quick, **options})


def test_each_fold_chooses_on_its_own_validation_part(table, tmp_path):
    asked = config(table, cv=2, epochs=1, choose={"lr": [1e-6, 0.01], "fusion": "concat"})
    assert [(each.lr, each.fusion, each.choose) for each in asked.candidates()] == [
        (1e-6, "concat", {}),
        (0.01, "concat", {}),
    ]
    found = cross_validate(asked, tmp_path / "cv", progress=False)
    assert [each["lr"] for each in found.chosen] == [0.01, 0.01]
    runs = [load_run(tmp_path / f"cv/folds/{number}") for number in (1, 2)]
    assert [run.config.lr for run in runs] == [0.01, 0.01]
    worse = train(replace(asked, fold=0, choose={}, lr=1e-6), tmp_path / "worse", progress=False)
    value = runs[0].task.monitor
    assert worse.metrics.val[value] > read_metrics(runs[0].path)["val"][value]
    for wrong, message in (
        ({"cv": None}, "choose is for a cross-validation"),
        ({"choose": {"data": ["x"]}}, "option to choose: 'data'"),
        ({"choose": {"fusion": ["late", "nix"]}}, "nix"),
        ({"choose": {"lr": [0.1] * 101}}, "101 combinations"),
    ):
        with pytest.raises((ef.InputError, ef.UnknownNameError), match=message):
            config(table, **{"cv": 2, "choose": {"lr": [0.1]}, **wrong})


@pytest.mark.slow
def test_every_row_is_tested_on_once_by_a_model_that_has_not_seen_its_group(table, tmp_path):
    found = cross_validate(config(table, cv=2), tmp_path / "cv", progress=False)
    predictions = csv.read_csv(tmp_path / "cv/predictions.csv").to_pydict()
    folds = csv.read_csv(tmp_path / "cv/split.csv").to_pydict()
    assert sorted(predictions["id"]) == sorted(folds["id"]) == sorted(f"r{i}" for i in range(120))
    fold_of_row = dict(zip(folds["id"], folds["fold"], strict=True))
    assert [fold_of_row[row] for row in predictions["id"]] == predictions["fold"]
    assert len(set(zip(folds["patient"], folds["fold"], strict=True))) == 30
    for number in (1, 2):
        run = load_run(tmp_path / f"cv/folds/{number}")
        parts = run.dataset().splits
        patients = [set(parts[part].columns["patient"]) for part in ("train", "val", "test")]
        assert sum(map(len, patients)) == 30 == len(set.union(*patients))
        assert set(parts["test"].ids) == {row for row, fold in fold_of_row.items() if fold == number}
        measured = evaluate_quietly(run.model, run.task, run.dataset()).metrics["accuracy"]
        assert measured == pytest.approx(found.metrics["accuracy"].by_fold[number - 1])
        rows = [i for i, fold in enumerate(predictions["fold"]) if fold == number]
        right = [predictions["target"][i] == predictions["prediction"][i] for i in rows]
        assert np.mean(right) == pytest.approx(measured)
    assert cross_validate(config(table, cv=2), tmp_path / "cv", resume=True) == found.to_dict()
    with pytest.raises(ef.InputError, match="other options"):
        cross_validate(config(table, cv=3), tmp_path / "cv", resume=True)


@pytest.mark.slow
def test_a_test_part_of_the_source_is_in_no_fold_and_every_model_predicts_it(quick, tmp_path):
    seen = []

    def choose(fold):
        seen.append(load_data(fold).splits)
        return replace(fold, lr=0.01)

    found = cross_validate(TrainConfig.from_dict({**quick, "cv": 2, "repeats": 2}), tmp_path / "cv", choose=choose)
    assert found.rows == 130
    assert len(found.test["accuracy"].by_fold) == 4 == len(seen)
    assert load_run(tmp_path / "cv/folds/3").config.lr == 0.01
    tested = csv.read_csv(tmp_path / "cv/test_predictions.csv").to_pydict()
    assert sorted(set(tested["id"])) == sorted(f"test{i}" for i in range(50))
    assert len(tested["id"]) == 200
    assert not any(row.startswith("test") for splits in seen for split in splits.values() for row in split.ids)
    assert csv.read_csv(tmp_path / "cv/split.csv").column_names == ["id", "fold_1", "fold_2"]


def test_leaving_out_one_site_at_a_time(table):
    left_out = []
    with pytest.warns(UserWarning, match="groups of 'site' are too few or too large: val has 40 of 80 rows; .* --cv"):
        load_data(config(table, {"group": "site"}))
    for fold in range(3):
        with pytest.warns(UserWarning, match="it is drawn by row"):
            data = load_data(config(table, {"group": "site"}, cv="group", fold=fold))
        left_out.append(set(data.splits["test"].columns["site"]))
    assert left_out == [{"s0"}, {"s1"}, {"s2"}]


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["concat", "gmf", "deq"])
def test_modalities_that_share_no_samples_train_together(fusion, tmp_path):
    generator = np.random.default_rng(0)
    y = np.arange(120) % 2
    x = generator.normal(size=(120, 3)) + 1.5 * y[:, None]
    rows = [["" if i < 60 else str(a), str(b), str(c) if i < 60 else ""] for i, (a, b, c) in enumerate(x)]
    lines = [f"r{i},{y[i]},{','.join(row)}" for i, row in enumerate(rows)]
    (tmp_path / "t.csv").write_text("\n".join(["id,label,a:x,b:x,c:x", *lines]), encoding="utf-8")
    config = TrainConfig(str(tmp_path / "t.csv"), fusion=fusion, hidden=(8,), epochs=10, lr=0.02)
    found = train(config, tmp_path / "run", progress=False).metrics
    assert found.test["accuracy"] > 0.7


@pytest.mark.parametrize(
    ("options", "source", "says"),
    [
        ({"cv": "group"}, {"group": None}, "--group patient"),
        ({"cv": "group", "repeats": 2}, {}, "repeats would be the same"),
        ({"repeats": 2}, {}, "say with cv"),
        ({"cv": 1}, {}, "of at least 2"),
        ({"cv": 2, "protocol": "loose"}, {}, "without it"),
    ],
)
def test_what_cannot_be_cross_validated(table, options, source, says):
    with pytest.raises(ef.InputError, match=says):
        config(table, source, **options)


def test_more_is_refused_when_the_data_are_read(table, tmp_path):
    with pytest.raises(ef.InputError, match="30 groups do not make 31 folds"):
        cross_validate(config(table, cv=31), tmp_path / "cv")
    assert not (tmp_path / "cv").exists()
    with pytest.raises(ef.InputError, match="use cross_validate"):
        train(config(table, cv=2), tmp_path / "run")


def test_an_interval_is_that_of_the_corrected_t_test():
    found = Spread.of([0.7, 0.8, None, 0.9], test_share=0.25)
    assert found.mean == pytest.approx(0.8)
    assert found.deviation == pytest.approx(0.1)
    reach = 4.302652729911275 * 0.1 * math.sqrt(1 / 3 + 0.25)  # t quantile of two degrees of freedom
    assert found.interval == pytest.approx((0.8 - reach, 0.8 + reach))
    assert Spread.of([0.7, 0.8, 1.0], 0.25, most=1.0).interval[1] == 1.0
    assert Spread.of([None, 0.5], 0.25).interval is None
    assert Spread.of([None], 0.25).mean is None
