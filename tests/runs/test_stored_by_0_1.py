"""Runs and models stored by version 0.1.0 still load, and say what they said then."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import equifuse as ef
from equifuse.runs import evaluate_run, load_run

STORED = Path(__file__).resolve().parents[1] / "fixtures" / "version_0_1"
RUNS = sorted(path.name for path in STORED.iterdir())


def test_there_are_some():
    assert RUNS == ["deq", "gmf_deq"]


@pytest.mark.parametrize("name", RUNS)
def test_a_model_predicts_what_it_did(name):
    model = ef.load(STORED / name / "model")
    samples = ef.datasets.load("digits").splits["test"]
    with torch.no_grad():
        output = model({m: torch.from_numpy(x[:8]) for m, x in samples.inputs.items()})
    with np.load(STORED / name / "expected.npz", allow_pickle=False) as expected:
        # An equilibrium is known to the solver's tolerance of 1e-4 only.
        torch.testing.assert_close(output.prediction, torch.from_numpy(expected["prediction"]), rtol=2e-3, atol=2e-3)
    assert output.fusion.stats.converged.all()


@pytest.mark.parametrize("name", RUNS)
def test_a_run_gives_its_metrics(name):
    stored = json.loads((STORED / name / "metrics.json").read_text(encoding="utf-8"))
    found = evaluate_run(STORED / name)
    for metric, value in stored["test"].items():
        assert found[metric] == pytest.approx(value, abs=2e-3), metric
    run = load_run(STORED / name)
    assert run.config.data == "digits"
    assert run.record["versions"]["equifuse"] == "0.1.0"


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_page_is_made_of_it(name, tmp_path):
    from equifuse.report.run import report_run

    shutil.copytree(STORED / name, tmp_path / name)
    page = report_run(tmp_path / name, tmp_path / "report", features=False, samples=40)
    assert "pixels" in page.read_text(encoding="utf-8")
