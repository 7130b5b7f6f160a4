"""The command line as a user meets it: in a process of its own where it matters, else in this one."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from equifuse.cli import main
from equifuse.datasets import load

QUICK = [
    "--fusion",
    "concat",
    "--epochs",
    "2",
    "--hidden",
    "16",
    "--quiet",
    "--modality-dropout",
    "0",
    "--unimodal",
    "none",
]


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run a command line in a fresh folder; returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EQUIFUSE_DATA", raising=False)

    def call(*words):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        streams = capsys.readouterr()
        return stop.value.code, streams.out, streams.err

    return call


@pytest.mark.slow
def test_train_evaluate_predict(run, tmp_path):
    code, out, _ = run("train", "--data", "digits", *QUICK, "--head-hidden", "0")
    folder = tmp_path / "runs/digits-concat-seed0"
    assert code == 0
    assert "f1_macro" in out
    assert str(folder.relative_to(tmp_path)) in out
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["test"]["accuracy"] > 0.8
    assert (folder / "plots/learning_curves.png").is_file()

    code, out, _ = run("evaluate", folder, "--json")
    assert code == 0
    assert json.loads(out)["accuracy"] == pytest.approx(metrics["test"]["accuracy"])
    code, out, _ = run("evaluate", folder, "--without", "pixels", "--split", "val", "--json")
    assert json.loads(out)["accuracy"] < 1

    test = load("digits").splits["test"]
    np.savez(tmp_path / "new.npz", pixels=test.inputs["pixels"], zernike=test.inputs["zernike"])
    code, out, _ = run("predict", folder, "--input", "new.npz", "--out", "predictions.csv")
    assert code == 0
    assert "359 predictions: predictions.csv" in out
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    assert lines[0].replace('"', "").startswith("row,prediction,prob_0")
    assert len(lines) == 360

    # A stored configuration is a configuration file.
    code, _, _ = run("train", "--config", folder / "config.yaml", "--out", "again", "--quiet")
    assert code == 0
    again = json.loads((tmp_path / "again/metrics.json").read_text())
    assert again["test"] == metrics["test"]


@pytest.mark.slow
def test_one_json_object_and_nothing_else(run, tmp_path):
    """Also in folders with spaces and umlauts."""
    folder = tmp_path / "mit Leerzeichen" / "größe"
    code, out, _ = run("train", "--data", "digits", *QUICK, "--out", folder, "--json", "--logger", "csv")
    assert code == 0
    trained = json.loads(out)
    assert (folder / "logs/version_0/metrics.csv").is_file()
    code, out, _ = run("evaluate", folder, "--json")
    evaluated = json.loads(out)
    test = load("digits").splits["test"]
    for found in (trained, evaluated):
        assert found["n"] == len(test) == 359
        assert found["classes"] == [str(i) for i in range(10)]
        confusion = np.array(found["confusion_matrix"])
        np.testing.assert_array_equal(confusion.sum(axis=1), np.bincount(test.target))
        assert found["metrics"]["accuracy"] == pytest.approx(np.trace(confusion) / 359)
        for name, (low, high) in found["intervals"].items():
            assert low < found["metrics"][name] < high, name
        low, high = found["intervals"]["accuracy"]
        error = np.sqrt(found["metrics"]["accuracy"] * (1 - found["metrics"]["accuracy"]) / 359)
        assert high - low == pytest.approx(2 * 1.96 * error, rel=0.3)
    assert trained["run"] == str(folder)
    assert trained["metrics"] == evaluated["metrics"]
    np.savez(tmp_path / "neue Daten.npz", pixels=test.inputs["pixels"][:7])
    code, out, _ = run("predict", folder, "--input", "neue Daten.npz", "--out", folder / "tränen.csv", "--json")
    assert json.loads(out) == {"n": 7, "out": str(folder / "tränen.csv"), "convergence": None}


def test_balance_and_its_options_are_used_and_recorded(run, tmp_path):
    given = ["--balance", "ogm_ge", "--balance-option", "alpha=0.2", "--balance-option", "noise=false"]
    code, _, _ = run("train", "--data", "digits", *QUICK, *given, "--out", "balanced")
    assert code == 0
    stored = yaml.safe_load((tmp_path / "balanced/config.yaml").read_text())
    assert (stored["balance"], stored["balance_options"]) == ("ogm_ge", {"alpha": 0.2, "noise": False})
    row = json.loads((tmp_path / "balanced/history.json").read_text())[-1]
    assert min(row[f"train_balance/{m}"] for m in ("pixels", "morphology")) < 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train"], "no data set given"),
        (["train", "--data", "none.npz"], "no such file: none.npz"),
        (["train", "--data", "digit"], "did you mean 'digits'?"),
        (["train", "--data", "digits", "--fusion", "degf"], "unknown fusion 'degf'"),
        (["train", "--data", "digits", "--set", "solver=andersen"], "did you mean 'anderson'?"),
        (["train", "--data", "digits", "--set", "dims=3"], "did you mean 'dim'?"),
        (["train", "--data", "digits", "--balance", "ogm"], "did you mean 'ogm_ge'?"),
        (["train", "--data", "digits", "--balance", "pmr", "--balance-option", "alfa=1"], "did you mean 'alpha'?"),
        (["train", "--data", "digits", "--dim", "10"], "multiple of 4"),
        (["train", "--data", "digits", "--lr", "-1"], "lr must be a positive number"),
        (
            ["train", "--data", "digits", "--epochs", "many"],
            "epochs must be a whole number of at least 1, got 'many'; or 'auto'",
        ),
        (["train", "--data", "digits", "--speed", "9"], "--speed"),
        (["train", "--config", "none.yaml"], "no such file: none.yaml"),
        (["trian"], "trian"),
        (["evaluate", "nowhere"], "no run at nowhere"),
        (["predict", "nowhere", "--input", "a.csv", "--out", "b.csv"], "no run at nowhere"),
        (["predict", "nowhere", "--input", "a.csv", "--out", "b.docx"], "cannot write '.docx'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2_and_leaves_nothing(run, tmp_path, words, message):
    code, out, err = run(*words)
    assert code == 2
    assert all(
        line.startswith(("modality ", "classes: ", "parts: ")) for line in out.splitlines()
    )  # what it understood
    assert message in err
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_mistakes_in_the_data_are_named(run, tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    x[3, 1] = np.inf
    arrays = {"modalities": np.array(["rna"]), "task": np.array("classification"), "y": np.arange(20) % 2}
    index = {"train_idx": np.arange(14), "test_idx": np.arange(14, 20)}
    np.savez(tmp_path / "holes.npz", rna=x, **arrays, **index)
    code, _, err = run("train", "--data", "holes.npz", *QUICK)
    assert code == 2
    assert "modality 'rna' has infinite values in 1 of" in err
    arrays["y"] = np.arange(20) % 2 + 1
    np.savez(tmp_path / "labels.npz", rna=np.nan_to_num(x), **arrays, **index)
    code, _, err = run("train", "--data", "labels.npz", *QUICK)
    assert code == 2
    assert "labels must" in err
    assert not (tmp_path / "runs").exists()


def test_nothing_is_overwritten(run, tmp_path):
    assert run("train", "--data", "digits", *QUICK, "--out", "run")[0] == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    code, _, err = run("train", "--data", "digits", *QUICK, "--out", "run")
    assert code == 2
    assert "run already exists and is not overwritten" in err
    code, _, err = run("evaluate", "run", "--without", "pixel")
    assert code == 2
    assert "did you mean 'pixels'?" in err
    narrow = {"pixels": np.zeros((2, 3), np.float32)}
    np.savez(tmp_path / "narrow.npz", **narrow)
    code, _, err = run("predict", "run", "--input", "narrow.npz", "--out", "p.csv")
    assert code == 2
    assert "modality 'pixels' has width 3, the model was built for 64" in err
    assert not (tmp_path / "p.csv").exists()
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == before
    assert run("train", "--data", "digits", *QUICK, "--out", "run", "--resume")[0] == 0


def test_help_version_and_list(run):
    for words in ([], ["--help"]):
        code, out, _ = run(*words)
        assert code == 0
        assert all(command in out for command in ("train", "evaluate", "predict", "datasets", "demo"))
    for command in ("train", "evaluate", "predict", "datasets", "demo"):
        code, out, _ = run(command, "--help")
        assert code == 0
        assert "--help" in out
    assert run("--version")[1].startswith("equifuse ")
    code, out, _ = run("datasets")
    assert code == 0
    assert "digits" in out


@pytest.mark.slow
def test_importing_is_light():
    code = "import sys, equifuse; print([m for m in sys.modules if m.split('.')[0] in {'lightning', 'pandas', 'rich', "
    code += "'onnx', 'huggingface_hub', 'typer', 'matplotlib', 'pyarrow', 'sklearn', 'torchmetrics', 'scipy'}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_interrupted_then_resumed(name, tmp_path):
    # A job in a shell's background ignores the signal, and so would its children.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from equifuse.cli import main; main()"
    words = [sys.executable, "-c", code, "train", "--data", "digits", "--fusion", "concat"]
    words += ["--hidden", "16", "--epochs", "400", "--patience", "400", "--quiet", "--out", "run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment)
    checkpoint = tmp_path / "run/checkpoints/last.ckpt"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + getattr(signal, name)
    assert "--resume" in err
    assert "Traceback" not in err
    assert checkpoint.exists()
    assert not (tmp_path / "run/metrics.json").exists()
