"""From an .npz file to a model that is used: on the embedded set, and on real ones where they are at hand."""

import os

import numpy as np
import pytest
import torch

import equifuse as ef
from equifuse.runs import TrainConfig, evaluate_run, load_run, predict_run, train

pytestmark = pytest.mark.slow

METHODS = {
    "deq": {"fusion": "deq", "dim": 32},
    "gmf": {"fusion": "gmf"},
    "gmf-deq": {"fusion": "gmf", "backend": "deq", "dim": 32},
    "concat": {"fusion": "concat"},
}
SETS = """
avdigits_paired basicmotions bbcsport bdgp_lateral_dorsal brca_mogonet_testpart brca_recurrence_deepkegg cub10
handwritten mmmo_av mosi_utterance pbmc10k_cite pie68 pom_av prokaryotic proteinfold reuters1200 rosmap scene15
snare_seq tcga_brca_pam50 tcga_gbmlgg uci_har_subset utd_mhad wikipedia
"""


@pytest.mark.filterwarnings("default::equifuse.errors.ConvergenceWarning")  # a straggler may remain
@pytest.mark.parametrize("method", METHODS)
def test_digits(method, tmp_path):
    options = {"data": "digits", "hidden": [32], "batch_size": 128, "lr": 3e-3, "epochs": 8, **METHODS[method]}
    result = train(TrainConfig.from_dict(options), tmp_path / "run", progress=False)
    test = result.metrics["test"]
    assert test["accuracy"] > 0.95
    assert test["f1_macro"] > 0.95
    assert all(result.metrics["without"][m] > 0.85 for m in result.metrics["without"])
    if "deq" in method:
        assert result.metrics["convergence"]["converged"] > 0.99
        assert result.metrics["convergence_at_start"]["converged"] == 1
        assert result.metrics["convergence_at_start"]["mean_steps"] < 16
    model = ef.load(tmp_path / "run/model")
    part = ef.datasets.load("digits").splits["test"]
    with torch.no_grad():
        prediction = model({m: torch.from_numpy(x) for m, x in part.inputs.items()}).prediction
    assert float((prediction.argmax(1).numpy() == part.target).mean()) == pytest.approx(test["accuracy"], abs=0.003)


@pytest.mark.data
@pytest.mark.parametrize("method", METHODS)
def test_rosmap(method, data_root, tmp_path):
    """Well above the majority's 51.9 %; the honest figures over seeds are in the README."""
    options = {"data": str(data_root / "rosmap.npz"), "epochs": 15, "input_dropout": 0.5, **METHODS[method]}
    result = train(TrainConfig.from_dict(options), tmp_path / "run", progress=False)
    assert result.metrics["test"]["accuracy"] > 0.65
    assert result.metrics["test"]["auc"] > 0.7
    assert set(result.metrics["without"]) == {"mrna", "methylation", "mirna"}
    # A file without a validation part: one was split off train, and the model never saw test.
    assert load_run(tmp_path / "run").record["data"]["rows"]["test"] == 106
    columns = predict_run(tmp_path / "run", data_root / "rosmap.npz", tmp_path / "out.csv")
    assert len(columns["prediction"]) == 106
    with_one = evaluate_run(tmp_path / "run", without=["methylation", "mirna"])
    assert with_one["accuracy"] > 0.55


@pytest.mark.data
@pytest.mark.parametrize("name", SETS.split())
def test_every_real_set_trains(name, data_root, tmp_path):
    path = data_root / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in {os.environ.get('EQUIFUSE_DATA', 'the default folder')}")
    options = {"data": str(path), "fusion": "deq", "dim": 16, "hidden": [16], "epochs": 1, "batch_size": 512}
    solver = {"solver": {"name": "anderson", "max_steps": 20, "tol": 1e-2}}
    result = train(TrainConfig.from_dict({**options, "fusion_options": solver}), tmp_path / "run", progress=False)
    assert all(np.isfinite(value) for value in result.metrics["test"].values())
    assert (tmp_path / "run/model/model.safetensors").is_file()
