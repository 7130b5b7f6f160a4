"""A run folder belongs to one process at a time, and to the data it was begun with."""

import os
import subprocess
import sys

import numpy as np
import pytest

import equifuse as ef
from equifuse.files import LOCK
from equifuse.runs import TrainConfig, cross_validate, predict_shards, train

HOLD = """
import sys
from pathlib import Path
from equifuse.files import locked
with locked(Path(sys.argv[1])):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_by_name_and_a_dead_one_s_lock_is_none(small_set, tmp_path):
    out = tmp_path / "run"
    words = [sys.executable, "-c", HOLD, str(out)]
    other = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "ready\n"
    config = TrainConfig(data=str(small_set), fusion="concat", hidden=(4,), epochs=1)
    named = rf"run is being written by process {other.pid} on .*; wait for it, or choose another folder"
    with pytest.raises(ef.OutputError, match=named if os.name != "nt" else "is being written by"):
        train(config, out, progress=False)
    other.kill()
    other.communicate()
    assert (out / LOCK).exists()  # it is a file and nothing else now
    train(config, out, progress=False)
    assert not (out / LOCK).exists()


def test_a_lock_leaves_no_folder_behind(tmp_path):
    with pytest.raises(ef.DataError):
        train(TrainConfig(data="nowhere.csv", fusion="concat"), tmp_path / "a" / "b", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_cross_validation_does_not_mix_two_states_of_its_data(small_set, tmp_path):
    config = TrainConfig(data=str(tmp_path / "set.npz"), fusion="concat", hidden=(4,), epochs=1, cv=2)
    (tmp_path / "set.npz").write_bytes(small_set.read_bytes())
    stopped = []

    def choose(fold):
        stopped.append(fold)
        if len(stopped) == 2:
            raise KeyboardInterrupt
        return fold

    with pytest.raises(KeyboardInterrupt):
        cross_validate(config, tmp_path / "cv", progress=False, choose=choose)
    with np.load(small_set) as file:
        content = dict(file)
    content["a_train"] = content["a_train"] + 1
    np.savez(tmp_path / "set.npz", **content)
    with pytest.raises(ef.DataError, match="has changed since"):
        cross_validate(config, tmp_path / "cv", progress=False, resume=True)
    (tmp_path / "set.npz").write_bytes(small_set.read_bytes())
    assert cross_validate(config, tmp_path / "cv", progress=False, resume=True).folds == 2


def test_predictions_of_shards_do_not_mix_two_states_of_a_shard(small_set, tmp_path):
    config = TrainConfig(data=str(small_set), fusion="concat", hidden=(4,), epochs=1)
    run = train(config, tmp_path / "run", progress=False).path
    (tmp_path / "shards").mkdir()
    for name, rows in (("one", 4), ("two", 5)):
        arrays = {"a": np.zeros((rows, 6), np.float32), "b": np.zeros((rows, 2, 2), np.float32)}
        np.savez(tmp_path / f"shards/{name}.npz", **arrays)
    out = tmp_path / "out"
    predict_shards(run, tmp_path / "shards", out, workers=0, progress=False)
    np.savez(tmp_path / "shards/one.npz", a=np.ones((6, 6), np.float32), b=np.ones((6, 2, 2), np.float32))
    with pytest.raises(ef.InputError, match=r"one\.npz has changed since it was predicted; remove .*one\.parquet"):
        predict_shards(run, tmp_path / "shards", out, workers=0, progress=False, resume=True)
    (out / "one.parquet").unlink()
    found = predict_shards(run, tmp_path / "shards", out, workers=0, progress=False, resume=True)
    assert found["rows"] == 11


def test_divergence_is_told_with_its_epoch_also_where_the_loss_stays_finite(small_set, tmp_path):
    config = TrainConfig(data=str(small_set), fusion="concat", hidden=(4,), epochs=3, lr=100.0, optimizer="sgd")
    with pytest.raises(
        ef.InputError, match=r"training diverged in epoch [12]: the loss is .*; lower the learning rate"
    ):
        train(config, tmp_path / "run", progress=False)
