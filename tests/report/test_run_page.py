import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import equifuse as ef
from equifuse.cli import main
from equifuse.datasets import MultimodalDataset, Split, write_npz
from equifuse.explain.shapley import CoalitionOutputs, all_coalitions
from equifuse.registry import TASKS
from equifuse.report.findings import Rival, effects_of
from equifuse.report.run import report_run
from equifuse.report.verdict import _against
from equifuse.runs import TrainConfig, train

pytestmark = pytest.mark.slow


def run(quick, tmp_path, **options):
    train(TrainConfig.from_dict({**quick, **options}), tmp_path / "run", progress=False)
    return tmp_path / "run"


def test_a_page_tells_everything_about_a_run(quick, tmp_path, capsys):
    folder = run(quick, tmp_path, fusion="gmf", backend="deq")
    with pytest.raises(SystemExit) as done:
        main(["report", str(folder)])
    assert done.value.code == 0
    assert "report.html" in capsys.readouterr().out
    page = (folder / "report/report.html").read_text()
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == [
        "At a glance",
        "Hardest samples",
        "Features",
        "All metrics",
        "Training",
        "Modalities in single samples",
        "Inside of the fusion",
        "What each stage knows of the target",
        "How this was made",
    ]
    shown = re.findall(r"<h3>(.*?)</h3>", page)
    assert shown[:4] == ["Score", "Separating the classes", "Confusion", "What each modality adds"]
    verdict = re.search(r'<div class="verdict">\s*<p>(.*?)</p>', page, re.DOTALL)[1]
    for words in ("predicts", "(no or yes)", "from a and b", "95 % interval", "on 50 test samples", "linear model"):
        assert words in verdict
    assert not re.search(r"(src|href)=.https?:|@import|url\(.?http", page)
    assert len(page) < 3_000_000
    ids = re.findall(r'\bid="(.*?)"', page)
    assert len(set(ids)) == len(ids)
    found = json.loads((folder / "report/explanation.json").read_text())
    assert page.count("<svg") >= 6
    assert page.count("<script") == 1
    metrics = json.loads((folder / "metrics.json").read_text())
    overall = found["overall"]["accuracy"]
    assert overall["full"] == pytest.approx(metrics["test"]["accuracy"])
    assert sum(overall["values"].values()) == pytest.approx(overall["full"] - overall["empty"])
    assert found["samples"] == 50
    assert set(found["attributions"]["features"]) == {"a", "b"}
    with pytest.raises(ef.OutputExistsError):
        report_run(folder)
    with pytest.raises(ef.DataError, match="no run at"):
        report_run(tmp_path)


def test_without_captum_or_an_equilibrium_there_is_less_to_tell(quick, tmp_path, monkeypatch):
    folder = run(quick, tmp_path, fusion="concat", dim=None)
    page = report_run(folder, tmp_path / "page", features=False).read_text()
    assert "<h2>Features" not in page
    assert "equifuse[explain]" in page
    assert "Inside" not in page
    assert "How sure it is" in page
    assert not re.search(r"equilibria", page, re.IGNORECASE)
    assert not (folder / "report").exists()


def test_a_run_selected_on_test_says_so_and_is_not_calibrated(quick, tmp_path):
    folder = run(quick, tmp_path, fusion="concat", dim=None, protocol="loose")
    page = report_run(folder, features=False).read_text()
    assert "chosen on the test part" in page
    assert "How sure it is" not in page


@pytest.mark.parametrize("task", ["regression", "retrieval"])
def test_other_tasks(task, tmp_path):
    generator = np.random.default_rng(0)
    splits = {}
    for part in ("train", "val", "test"):
        inputs = {m: generator.normal(size=(40, 4)).astype(np.float32) for m in ("a", "b")}
        splits[part] = Split(inputs, {}, inputs["a"][:, :2] if task == "regression" else None)
    path = tmp_path / "set.npz"
    write_npz(path, MultimodalDataset("set", splits, task))
    quick = {"data": str(path), "fusion": "deq", "dim": 16, "hidden": [16], "epochs": 2}
    page = report_run(run(quick, tmp_path), features=False).read_text()
    assert ("Intervals for 90%" in page) == (task == "regression")
    assert ("What each modality adds" in page) == (task == "regression")
    assert ("Predicted against true" in page) == (task == "regression")


def test_a_verdict_says_whether_a_linear_model_does_as_well():
    task = ef.tasks.make_task("classification")
    lines = [
        _against(task, 0.9, Rival("linear model", 0.8, None, better))
        for better in ((0.02, 0.2), (-0.3, -0.1), (-0.1, 0.2))
    ]
    assert "better than the linear model by 10.0 points" in lines[0]
    assert "The linear model is better" in lines[1]
    assert "cannot be told apart" in lines[2]


def test_effects_of_modalities_add_up_and_know_how_sure_they_are():
    generator = np.random.default_rng(0)
    y = np.arange(200) % 2
    codes = all_coalitions(2)
    outputs = torch.zeros(200, 4, 2)
    outputs[:, 1, 1] = torch.from_numpy(np.where(generator.random(200) < 0.2, -1.0, 1.0) * (2 * y - 1))  # a alone
    outputs[:, 3, 1] = torch.from_numpy(2.0 * y - 1)  # both; b alone says nothing
    table = CoalitionOutputs(("a", "b"), codes, outputs, np.ones((200, 2), bool), y)
    a, b = effects_of(table, ef.tasks.make_task("classification"))
    assert a.adds + b.adds == pytest.approx(0.5)
    assert a.alone == pytest.approx(0.8, abs=0.1)
    assert b.lost == pytest.approx(1 - a.alone)
    assert a.adds_interval[0] > 0
    assert a.adds_interval[0] < a.adds < a.adds_interval[1]


def test_no_name_of_a_task_decides_what_a_page_draws():
    folder = Path(report_run.__code__.co_filename).parent
    names = "|".join(TASKS.names())
    for path in folder.rglob("*.py"):
        assert not re.search(rf"""[!=]= *["']({names})["']""", path.read_text()), path


def test_a_run_on_hostile_names_is_shown_as_text(tmp_path):
    generator = np.random.default_rng(0)
    hostile, splits = '<img src=x onerror="alert(1)">', {}
    for part in ("train", "val", "test"):
        x = generator.normal(size=(40, 4)).astype(np.float32)
        ids = np.array([f"{hostile}{i}" for i in range(40)])
        splits[part] = Split({hostile: x, "$b_{$": x}, {}, np.arange(40) % 2, ids)
    write_npz(tmp_path / "set.npz", MultimodalDataset("set", splits, "classification", (hostile, "$x$")))
    quick = {"data": str(tmp_path / "set.npz"), "fusion": "concat", "hidden": [8], "epochs": 1, "unimodal": "none"}
    page = report_run(run(quick, tmp_path), features=False).read_text()
    assert hostile not in page
    assert "&lt;img src=x" in page
