import json

import numpy as np
import pytest

import equifuse as ef
from equifuse.cli import main
from equifuse.datasets import Split
from equifuse.evaluation.conditions import add_noise, hide, permute
from equifuse.runs import TrainConfig, evaluate_run, train
from equifuse.runs.robustness import robustness

RNG = np.random.default_rng


def split(rows=400):
    generator = RNG(0)
    inputs = {m: generator.standard_normal((rows, 3)).astype(np.float32) for m in "abc"}
    return Split(inputs, {"b": generator.random(rows) > 0.3}, np.arange(rows) % 2)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_hiding_keeps_one_and_adds_none(rate):
    whole = split()
    hidden = hide(whole, rate, RNG(1))
    kept = np.stack([hidden.present[m] for m in "abc"])
    assert kept.any(axis=0).all()
    assert not (hidden.present["b"] & ~whole.present["b"]).any()
    assert not np.array_equal(hide(whole, 0.5, RNG(1)).present["a"], hide(whole, 0.5, RNG(2)).present["a"])
    if rate == 0:
        assert kept[[0, 2]].all()
        np.testing.assert_array_equal(kept[1], whole.present["b"])
    if rate == 0.3:
        assert 0.2 < 1 - kept[0].mean() < 0.32


def test_permuting_moves_rows_with_their_masks_and_nothing_else():
    whole = split()
    moved = permute(whole, "b", RNG(0))
    np.testing.assert_array_equal(moved.inputs["a"], whole.inputs["a"])
    places = [int(np.abs(whole.inputs["b"] - row).sum(1).argmin()) for row in moved.inputs["b"]]
    assert sorted(places) == list(range(400))
    assert places != list(range(400))
    np.testing.assert_array_equal(moved.present["b"], whole.present["b"][places])
    np.testing.assert_array_equal(moved.target, whole.target)


def test_noise_has_the_size_that_was_asked_for():
    whole = split()
    scale = np.array([0.0, 1.0, 5.0], dtype=np.float32)
    added = add_noise(whole, "a", scale, RNG(0)).inputs["a"] - whole.inputs["a"]
    np.testing.assert_allclose(added.std(axis=0), scale, rtol=0.1, atol=1e-6)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs on a set in which "a" tells the class, "b" a little, "c" nothing."""
    folder = tmp_path_factory.mktemp("robustness")
    generator = RNG(0)
    y = np.arange(360) % 3
    centres = generator.standard_normal((3, 4)) * 3
    arrays = {
        "a": (centres[y] + generator.standard_normal((360, 4))).astype(np.float32),
        "b": (centres[y, :2] * 0.2 + generator.standard_normal((360, 2))).astype(np.float32),
        "c": generator.standard_normal((360, 3)).astype(np.float32),
    }
    index = {"train_idx": np.arange(200), "val_idx": np.arange(200, 240), "test_idx": np.arange(240, 360)}
    np.savez(folder / "set.npz", modalities=list("abc"), task="classification", y=y, **arrays, **index)
    for fusion in ("gmf", "concat"):
        quick = {"hidden": (8,), "head_hidden": 0, "epochs": 15}
        config = TrainConfig(data=str(folder / "set.npz"), fusion=fusion, modality_dropout=0.2, **quick)
        train(config, folder / fusion, progress=False)
    return folder


@pytest.mark.slow
def test_the_experiment(runs, tmp_path):
    out = tmp_path / "out"
    record = robustness([runs / "gmf", runs / "concat"], out, rates=(0.0, 0.5, 0.9), noise=(3.0,), repeats=3)
    assert json.loads((out / "robustness.json").read_text()) == record
    assert {p.name for p in out.iterdir()} == {"robustness.json", "robustness.png", "table.md"}
    for name, found in record["runs"].items():
        assert found["intact"] == pytest.approx(evaluate_run(runs / name)["accuracy"])
        assert len(found["subsets"]) == 7
        assert found["subsets"]["a + b + c"] == pytest.approx(found["intact"])
        assert found["subsets"]["a"] == pytest.approx(evaluate_run(runs / name, without=["b", "c"])["accuracy"])
        assert found["missing"]["0"] == [pytest.approx(found["intact"]), 0]
        assert found["missing"]["0.9"][0] < found["missing"]["0.5"][0] < found["intact"]
        assert found["corrupted"]["a"]["permuted"][0] < found["intact"] - 0.2
        assert abs(found["corrupted"]["c"]["permuted"][0] - found["intact"]) < 0.1
        assert found["corrupted"]["a"]["noise 3"][0] < found["intact"]
    assert "| gmf | missing rate 0.5 |" in (out / "table.md").read_text()
    with pytest.raises(ef.OutputExistsError):
        robustness(runs / "gmf", out)


@pytest.mark.slow
def test_the_command_and_its_mistakes(runs, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["robustness", str(runs / "gmf"), "--out", str(tmp_path / "r"), "--rate", "0.5", "--repeats", "1"])
    assert ended.value.code == 0
    assert "missing rate 0.5" in capsys.readouterr().out
    for words in (["--rate", "1.0"], ["--split", "tset"], ["--noise", "-1"]):
        with pytest.raises(SystemExit) as ended:
            main(["robustness", str(runs / "gmf"), "--out", str(tmp_path / "s"), *words])
        assert ended.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert not (tmp_path / "s").exists()
