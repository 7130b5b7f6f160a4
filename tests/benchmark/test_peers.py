"""Peers of the search: what they are given, how their answers are measured, and the table of several of them."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from equifuse.data import Split
from equifuse.files import write_json

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
# Predicts the first column of the second modality, and tells the seed.
SCRIPT = """
import argparse
import numpy as np
parser = argparse.ArgumentParser()
for name in ("given", "answer", "--task", "--time-limit", "--cores", "--seed", "--clock", "--work"):
    parser.add_argument(name)
options = parser.parse_args()
with np.load(options.given) as arrays:
    assert len(arrays["train"]) == len(arrays["target"])
    second = np.split(arrays["test"], np.cumsum(arrays["widths"])[:-1], axis=1)[1]
np.savez(options.answer, prediction=second[:, 0], version="1.0", decided=f"{options.task}, seed {options.seed}")
"""


@pytest.fixture(scope="module")
def auto():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("auto")


@pytest.fixture
def setting(auto, tmp_path):
    environment = tmp_path / "environment"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").symlink_to(sys.executable)
    return auto.Setting(tmp_path, "1m", "good", 1, {"mine": environment})


def stored(folder, y, task="classification"):
    """Two modalities, of which the second holds the target in its first column; a third of the rows is for test."""
    rng = np.random.default_rng(0)
    two = np.column_stack([np.reshape(y, (len(y), -1))[:, 0], rng.normal(size=len(y))])
    arrays = {"one": rng.normal(size=(len(y), 3)), "two": two, "y": y}
    rows = np.arange(len(y))
    np.savez(
        folder / "set.npz", **arrays, train_idx=rows[20:], test_idx=rows[:20], modalities=["one", "two"], task=task
    )
    return folder / "set.npz"


def test_a_peer_gets_the_layers_and_its_answer_is_measured(auto, setting, tmp_path, monkeypatch):
    (tmp_path / "peer.py").write_text(SCRIPT)
    monkeypatch.setitem(auto.PEERS, "mine", auto.Peer(str(tmp_path / "peer.py"), (), ("classification",)))
    found = auto.run_peer("mine", stored(tmp_path, np.arange(60) % 3), 4, setting)
    assert (found["metric"], found["score"]) == ("accuracy", 1.0)
    assert (found["version"], found["decided"]) == ("1.0", "classification, seed 4")


def test_what_a_peer_is_not_made_for_is_left_out(auto, setting, tmp_path, monkeypatch):
    monkeypatch.setitem(auto.PEERS, "mine", auto.Peer("none.py", (), ("regression",)))
    with pytest.raises(auto.Left, match="mine has no classification"):
        auto.run_peer("mine", stored(tmp_path, np.arange(60) % 3), 0, setting)
    with pytest.raises(auto.Left, match="mine has one target"):
        auto.run_peer("mine", stored(tmp_path, np.random.default_rng(0).normal(size=(60, 2)), "regression"), 0, setting)
    monkeypatch.setitem(auto.PEERS, "other", auto.PEERS["mine"])
    with pytest.raises(auto.Left, match="there is no environment"):
        auto.run_peer("other", tmp_path / "set.npz", 0, setting)


def test_missing_modalities_are_missing_columns(auto):
    inputs = {"a": np.ones((2, 2, 3), np.float32), "b": np.ones((2, 1), np.float32)}
    rows = Split(inputs, target=np.zeros(2), present={"a": np.array([True, False])})
    given = auto.handed_over(rows, rows)
    assert given["widths"].tolist() == [6, 1]
    assert np.isnan(given["train"]).sum(1).tolist() == [0, 6]


def test_scores_of_tasks(auto):
    times = np.array([[1.0, 1.0], [2.0, 1.0], [3.0, 0.0]])
    assert auto.score_of("survival", times, np.array([[2.0], [1.0], [0.0]])) == ("c_index", 1.0)
    assert auto.score_of("regression", times, times + np.array([1.0, 3.0])) == ("mae", 2.0)
    with pytest.raises(auto.Left, match="compared"):
        auto.score_of("survival", times * [1.0, 0.0], np.zeros((3, 1)))


def test_the_table_has_a_column_for_each_peer(auto, tmp_path):
    path = stored(tmp_path, np.arange(60) % 3)
    setting = auto.Setting(tmp_path, "5m", "good", 2)
    for tool, score in {"auto": 0.9, "autogluon": 0.88, "flexynesis": 0.95}.items():
        found = {"metric": "accuracy", "score": score, "single": 0.9, "seconds": 300.0, "load": 1.0}
        write_json(setting.result("set", 0, tool), found)
    peers = ["autogluon", "flexynesis"]
    found = auto.summary(setting, [path], 1, peers)
    assert {name: round(gain["mean"], 6) for name, gain in found["ahead"].items()} == {
        "its best single method": 0,
        "autogluon": 2,
        "flexynesis": -5,
    }
    row = next(line for line in auto.tables(found, setting, peers).splitlines() if line.startswith("| set "))
    assert "0.9000 | 0.9000 | 0.8800 | 0.9500 | +2.0 | -5.0 | 300 / 300 / 300 | 1 / 1 / 1" in row
