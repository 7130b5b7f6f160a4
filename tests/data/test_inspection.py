import shlex

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv

import equifuse as ef
from equifuse.cli import main
from equifuse.data.inspect import inspect


@pytest.fixture
def table(tmp_path):
    generator = np.random.default_rng(0)
    y = np.arange(120) % 3
    columns = {
        "id": [f"s{i}" for i in range(120)],
        "g_0": generator.standard_normal(120),
        "g_1": np.ones(120),
        "g_2": np.where(y == 0, 0.0, np.where(y == 1, 5.0, 9.0)) + generator.random(120),
        "m_0": pa.array([None if i % 4 == 0 else float(i) for i in range(120)], pa.float64()),
        "label": y,
    }
    columns["m_1"] = pa.array([None if i % 4 == 0 else float(i * i % 7) for i in range(120)], pa.float64())
    columns["g_3"] = columns["g_0"]
    csv.write_csv(pa.table(columns), tmp_path / "t.csv")
    return tmp_path / "t.csv"


OPTIONS = ["--modality", "gene=g_*", "--modality", "meth=m_*"]


def test_what_is_suspicious_is_said(table):
    source = {"modalities": {"gene": "g_*", "meth": "m_*"}}
    found = inspect(ef.datasets.load(table, source=source), str(table))
    gene, meth = found.modalities["gene"], found.modalities["meth"]
    assert gene.constant == ["g_1"]
    assert gene.duplicated == ["g_3"]
    assert gene.leaking == ["g_2"]
    assert meth.leaking == []
    assert sum(meth.missing.values()) == pytest.approx(0.75, abs=0.3)
    assert sum(found.rows.values()) == 120
    assert found.balance == pytest.approx({"0": 1 / 3, "1": 1 / 3, "2": 1 / 3}, abs=0.02)
    said = " ".join(found.warnings)
    for word in ("g_1", "g_2", "g_3"):
        assert word in said


def test_nothing_is_said_about_a_sound_set():
    found = inspect(ef.datasets.load("digits"), "digits")
    assert not [w for w in found.warnings if "tells the target" in w or "are in train as well" in w]
    assert found.command.startswith("equifuse train --data digits")


def test_copies_of_training_samples_in_test_are_found(tmp_path):
    x = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    x[30:35] = x[:5]
    arrays = {"a": x, "y": np.arange(40) % 2, "train_idx": np.arange(20), "val_idx": np.arange(20, 30)}
    np.savez(tmp_path / "s.npz", modalities=["a"], task="classification", test_idx=np.arange(30, 40), **arrays)
    found = inspect(ef.datasets.load(tmp_path / "s.npz"), "s.npz")
    assert any("5 samples of val or test are in train" in w for w in found.warnings)


def test_the_command_says_what_it_can_and_proposes_groups(table, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["datasets", "inspect", str(table)])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "--modality g='g_*' --modality m='m_*'" in error
    assert error.count("\n") == 1
    with pytest.raises(SystemExit) as ended:
        main(["datasets", "inspect", str(table), *OPTIONS])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "tells the target alone" in said
    command = said.strip().splitlines()[-1]
    assert command.startswith("try: equifuse train --data")
    words = shlex.split(command.removeprefix("try: equifuse "))
    with pytest.raises(SystemExit) as ended:  # and the proposal works
        main([*words, "--out", str(table.parent / "run"), "--epochs", "1", "--quiet"])
    assert ended.value.code == 0
    with pytest.raises(SystemExit) as ended:  # so does prediction, by the columns' names
        main(["predict", str(table.parent / "run"), "--input", str(table), "--out", str(table.parent / "p.csv")])
    assert ended.value.code == 0
    assert csv.read_csv(table.parent / "p.csv").column("id").to_pylist()[0] == "s0"


def test_convert(table, capsys):
    out = table.parent / "t.hdf5"
    for expected in (0, 2):  # the second time it is there
        with pytest.raises(SystemExit) as ended:
            main(["datasets", "convert", str(table), str(out), *OPTIONS])
        assert ended.value.code == expected
    assert "already exists" in capsys.readouterr().err
    assert ef.datasets.load(out).dims == {"gene": 4, "meth": 2}
    with pytest.raises(SystemExit) as ended:
        main(["datasets"])
    assert ended.value.code == 0
    assert "digits" in capsys.readouterr().out
