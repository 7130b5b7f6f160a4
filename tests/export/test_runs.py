"""Exporting runs by the command line, and their model cards."""

import numpy as np
import pytest
import torch
import yaml

import equifuse as ef
from equifuse.cli import main
from equifuse.datasets import MultimodalDataset, Split, write_npz
from equifuse.export import describe, model_card
from equifuse.runs import TrainConfig, load_run, train

from .conftest import feed, session

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder of finished runs on two modalities, one of which may be missing."""
    generator = np.random.default_rng(0)
    splits = {}
    for part, n in (("train", 60), ("val", 20), ("test", 20)):
        y = np.arange(n) % 2
        inputs = {m: (generator.normal(size=(n, 5)) + y[:, None]).astype(np.float32) for m in "ab"}
        absent = np.arange(n) % 5 == 3
        inputs["b"][absent] = np.nan
        splits[part] = Split(inputs, {"b": ~absent}, y.astype(np.int64))
    folder = tmp_path_factory.mktemp("runs")
    write_npz(folder / "small.npz", MultimodalDataset("small", splits, "classification", ("no", "yes")))
    options = {"data": str(folder / "small.npz"), "hidden": [8], "epochs": 2}
    equilibrium = {"contraction": 0.3, "solver": {"name": "anderson", "tol": 1e-3}}
    train(TrainConfig(**options, fusion="deq", dim=16, fusion_options=equilibrium), folder / "deq", progress=False)
    train(TrainConfig(**options, fusion="gmf"), folder / "gmf", progress=False)
    return folder


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(*words):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        streams = capsys.readouterr()
        return stop.value.code, streams.out, streams.err

    return call


def test_a_run_becomes_an_onnx_file_that_predicts_the_same(runs, call, tmp_path, onnxruntime):
    code, out, err = call("export", runs / "gmf", "--out", "model.onnx")
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert first == "model.onnx: a, b, present_a, present_b -> logits"
    assert second.startswith("20 validation samples: largest difference ")
    opened = load_run(runs / "gmf")
    test = opened.dataset().splits["test"]
    inputs = {m: torch.from_numpy(x) for m, x in test.inputs.items()}
    present = {m: torch.from_numpy(x) for m, x in test.present.items()}
    with torch.no_grad():
        expected = opened.model(inputs, present).prediction
    (logits,) = session(onnxruntime, tmp_path / "model.onnx").run(None, feed(inputs, present))
    np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("default::equifuse.errors.ConvergenceWarning")
def test_a_run_whose_data_are_gone_and_mistakes(runs, call, tmp_path):
    code, _, err = call("export", runs / "deq", "--out", "model.pth")
    assert (code, err) == (2, "error: model.pth: end the name in .onnx or .pt2\n")
    code, _, err = call("export", runs / "gmf", "--out", "model.pt2", "--steps", "3")
    assert (code, err) == (2, "error: this fusion solves for no equilibrium; leave out steps and loop\n")
    code, _, err = call("export", "nowhere", "--out", "model.pt2")
    assert code == 2
    assert "no run at nowhere" in err
    data = runs / "small.npz"
    data.rename(runs / "away.npz")
    try:
        code, out, err = call("export", runs / "deq", "--out", "model.pt2", "--format", "torch", "--steps", "1")
    finally:
        (runs / "away.npz").rename(data)
    assert code == 0
    assert err.startswith("warning: 100.0% of the examples do not converge in 1 evaluations")
    assert len(err.splitlines()) == 1
    assert "equilibrium: 1 evaluations, 0.0% converged, largest relative residual " in out
    assert "64 made-up samples: " in out
    description = describe("model.pt2")
    assert description["examples"] == {"count": 64, "made_up": True}
    assert description["solver"]["largest_residual"] > description["solver"]["tol"] == 1e-3
    before = (tmp_path / "model.pt2").read_bytes()
    code, _, err = call("export", runs / "deq", "--out", "model.pt2")
    assert code == 2
    assert "model.pt2 already exists and is not overwritten" in err
    assert (tmp_path / "model.pt2").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt2"]


def test_a_model_card_says_what_was_measured(runs):
    run = runs / "deq"
    opened = load_run(run)
    card = model_card(opened)
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front) == {"library_name": "equifuse", "tags": ["multimodal", "deq"]}
    metrics = yaml.safe_load((run / "metrics.json").read_text())
    assert "# deq on small" in text
    assert f"{metrics['parameters']:,} parameters" in text
    assert "small: 60 train, 20 val, 20 test." in text
    rows = [line for line in text.splitlines() if line.startswith("| test |")]
    assert [float(cell) for cell in rows[0].split("|")[2:-1]] == pytest.approx(list(metrics["test"].values()), rel=1e-3)
    assert f"in {metrics['convergence']['mean_steps']:.1f} evaluations on average" in text
    assert 'model({"a": a, "b": b})' in text
    assert "license" not in front
    assert str(run.parent) not in card


def test_models_on_the_hub(runs, tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub", reason="needs equifuse[hub]")
    opened = load_run(runs / "deq")
    remote = tmp_path / "remote"

    class Api:
        def __init__(self, token):
            assert token == "secret"

        def create_repo(self, repository, private, exist_ok):
            assert (repository, private, exist_ok) == ("lab/model", True, True)
            return type("Url", (), {"repo_id": repository})

        def upload_folder(self, repo_id, folder_path, commit_message):
            assert (repo_id, commit_message) == ("lab/model", "First")
            folder_path.rename(remote)
            folder_path.mkdir()
            return type("Commit", (), {"commit_url": "address"})

    monkeypatch.setattr(hub, "HfApi", Api)
    card = model_card(opened)
    address = opened.model.push_to_hub("lab/model", card=card, message="First", private=True, token="secret")
    assert address == "address"
    assert sorted(p.name for p in remote.iterdir()) == ["README.md", "model.json", "model.safetensors"]
    assert (remote / "README.md").read_text() == card

    def snapshot_download(repository, allow_patterns, revision):
        assert (repository, sorted(allow_patterns)) == (
            "lab/model",
            ["ensemble.json", "members/*", "model.json", "model.safetensors"],
        )
        if revision != "main":
            raise OSError("no such\nrevision")
        return str(remote)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    again = ef.FusionModel.from_pretrained("lab/model", revision="main")
    inputs = {m: torch.randn(4, 5) for m in "ab"}
    with torch.no_grad():
        torch.testing.assert_close(again(inputs).prediction, opened.model(inputs).prediction, rtol=0, atol=0)
    with pytest.raises(
        ef.DataError, match="no model at 'lab/model', neither a folder nor on the hub: no such revision"
    ):
        ef.FusionModel.from_pretrained("lab/model", revision="other")
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ef.InputError, match=r"pip install 'equifuse\[hub\]'"):
        ef.FusionModel.from_pretrained("lab/model")


def test_a_pretrained_folder(tmp_path):
    model = ef.build_model({"a": 3, "b": 4}, "regression", 1, fusion="gmf").eval()
    folder = tmp_path / "model"
    folder.mkdir()
    model.save_pretrained(folder)
    assert sorted(p.name for p in folder.iterdir()) == ["model.json", "model.safetensors"]
    with pytest.raises(ef.OutputExistsError):
        model.save_pretrained(folder)
    model.save_pretrained(folder, card="# Mine\n", overwrite=True)
    assert (folder / "README.md").read_text() == "# Mine\n"
    again = ef.FusionModel.from_pretrained(folder)
    inputs = {"a": torch.randn(4, 3), "b": torch.randn(4, 4)}
    torch.testing.assert_close(again(inputs).prediction, model(inputs).prediction, rtol=0, atol=0)
