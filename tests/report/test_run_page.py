import json
import re

import numpy as np
import pytest

import equifuse as ef
from equifuse.cli import main
from equifuse.datasets import MultimodalDataset, Split, write_npz
from equifuse.report.run import report_run
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
        "Metrics",
        "Learning",
        "What each modality contributes",
        "Inside of the fusion",
        "What each stage knows of the target",
        "Features",
        "How sure it is",
        "How this was made",
    ]
    assert not re.search(r"<script|(src|href)=.https?:", page)
    found = json.loads((folder / "report/explanation.json").read_text())
    assert page.count("<img") == 7
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
    assert "Features" not in page
    assert "Inside" not in page
    assert "How sure it is" in page
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
    assert ("What each modality contributes" in page) == (task == "regression")
