"""Rows without a target are left out with their number, or teach reconstruction and nothing else."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import equifuse as ef
from equifuse.data.sources import understood
from equifuse.runs import TrainConfig
from equifuse.runs.prepare import initial_model, prepare
from equifuse.training import Trainer

N = 60
SOURCE = {"modalities": {"a": "a*", "b": "b*"}, "target": "y", "task": "classification"}


@pytest.fixture
def table(tmp_path):
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(generator.normal(size=(N, 6)), columns=["a0", "a1", "a2", "b0", "b1", "b2"])
    frame["y"] = np.where(np.arange(N) % 2, "yes", "no")
    frame["part"] = np.where(np.arange(N) < 40, "train", np.where(np.arange(N) < 50, "val", "test"))
    frame.loc[[1, 2, 3, 45, 55], "y"] = None
    path = tmp_path / "t.csv"
    frame.to_csv(path, index=False)
    frame.dropna(subset="y").to_csv(tmp_path / "labelled.csv", index=False)
    return path


def test_they_are_left_out_with_their_number(table):
    source = {**SOURCE, "split": "part"}
    data = ef.datasets.load(table, source=source)
    assert "5 of 60 rows have no target and are left out" in understood(data)[0]
    assert data.fingerprint() == ef.datasets.load(table.with_name("labelled.csv"), source=source).fingerprint()


def test_those_of_training_are_used_if_asked_for(table):
    data = ef.datasets.load(table, source={**SOURCE, "split": "part", "unlabelled": True})
    sizes = {part: len(split) for part, split in data.splits.items()}
    assert sizes == {"train": 40, "val": 9, "test": 9}
    assert (data.splits["train"].weight == 0).sum() == 3
    labelled = data.splits["train"].labelled()
    assert len(labelled) == 37
    assert "classes: no: 29, yes: 26" in understood(data)


def test_what_stands_for_their_target_is_never_looked_at(table):
    config = TrainConfig(str(table), source={**SOURCE, "unlabelled": True}, fusion="gmf", hidden=(4,), epochs=2)
    data = ef.datasets.load(table, source=config.source)
    train = data.splits["train"]
    assert (train.weight == 0).sum() == 5
    other = replace(train, target=np.where(train.weight == 0, 1 - train.target, train.target))
    found = []
    for part in (train, other):
        prepared = prepare(config, replace(data, splits={**data.splits, "train": part}))
        Trainer(config, watch=False).fit(prepared.model, part, task=prepared.task)
        found.append(prepared.model.state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=0, atol=0, msg=name)
    without = prepare(config, replace(data, splits={**data.splits, "train": train.labelled()}))
    Trainer(config, watch=False).fit(without.model, train.labelled(), task=without.task)
    moved = [not torch.equal(value, found[0][name]) for name, value in without.model.state_dict().items()]
    assert any(moved)  # their reconstruction teaches something


def test_a_fusion_that_reconstructs_nothing_refuses_them(table):
    config = TrainConfig(str(table), source={**SOURCE, "unlabelled": True}, fusion="concat", epochs=1)
    with pytest.raises(ef.InputError, match="teach fusion 'concat' nothing; use one that reconstructs, such as gmf"):
        initial_model(config, ef.datasets.load(table, source=config.source))


def test_no_target_at_all_is_an_error(table):
    frame = pd.read_csv(table)
    frame["y"] = None
    frame.to_csv(table, index=False)
    with pytest.raises(ef.DataError, match="target y is empty in all 60 rows"):
        ef.datasets.load(table, source=SOURCE)
