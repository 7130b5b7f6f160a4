"""A folder of files predicted shard by shard: as one file, in any number of processes, and on from where it stopped."""

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import equifuse as ef
from equifuse.cli import main
from equifuse.data import inputs as tables
from equifuse.runs import TrainConfig, predict_run, predict_shards, train

pytestmark = pytest.mark.slow

SIZES = (7, 1, 300, 50)


@pytest.fixture(scope="module")
def run(small_set, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "deq"
    train(TrainConfig(data=str(small_set), fusion="deq", dim=8, hidden=(8,), epochs=2), folder, progress=False)
    return folder


def rows(n, seed):
    generator = np.random.default_rng(seed)
    x = {"a": generator.normal(size=(n, 6)), "b": generator.normal(size=(n, 4))}
    x["b"][::5] = np.nan
    columns = {f"{m}_{j}": values[:, j] for m, values in x.items() for j in range(values.shape[1])}
    return pa.table({**columns, "id": [f"{seed}-{i}" for i in range(n)]})


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for i, n in enumerate(SIZES):
        parquet.write_table(rows(n, i), folder / f"part-{i}.parquet", row_group_size=64)
    (folder / "_SUCCESS").touch()
    (folder / ".part.crc").touch()
    return folder


def read(path):
    return parquet.read_table(path).to_pydict()


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_are_predicted_as_single_files_are(run, shards, tmp_path, workers):
    summary = predict_shards(run, shards, tmp_path / "out", workers=workers, progress=False)
    assert summary["shards"] == len(SIZES)
    assert summary["rows"] == sum(SIZES)
    assert summary["converged"] == 1
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        *(f"part-{i}.parquet" for i in range(len(SIZES))),
        "predictions.json",
    ]
    for i in range(len(SIZES)):
        predict_run(run, shards / f"part-{i}.parquet", tmp_path / f"{i}.parquet")
        assert read(tmp_path / "out" / f"part-{i}.parquet") == read(tmp_path / f"{i}.parquet")


def test_a_file_larger_than_memory_is_predicted_in_pieces(run, shards, tmp_path, monkeypatch):
    whole = predict_run(run, shards / "part-2.parquet", tmp_path / "whole.parquet")
    longest = 0
    pieces = tables.split_of

    def watched(flat, *rest):
        nonlocal longest
        longest = max(longest, *(len(x) for x in flat.values()))
        return pieces(flat, *rest)

    monkeypatch.setattr(tables, "split_of", watched)
    monkeypatch.setattr(tables.read_input_pieces, "__defaults__", (None, 50, None))
    columns = predict_run(run, shards / "part-2.parquet", tmp_path / "pieces.parquet")
    assert longest <= 50
    for name, values in whole.items():
        if name.startswith("prob_"):  # another batch, another order of summation, within the solver's tolerance
            np.testing.assert_allclose(columns[name], values, atol=1e-4)
        elif name not in ("steps", "residual"):
            np.testing.assert_array_equal(columns[name], values)
    without = parquet.read_table(shards / "part-2.parquet").drop(["id"])
    parquet.write_table(without, tmp_path / "no-id.parquet")
    assert predict_run(run, tmp_path / "no-id.parquet", tmp_path / "rows.csv")["row"].tolist() == list(range(300))


def test_nothing_finished_is_repeated_and_nothing_mixed_up(run, shards, tmp_path, small_set):
    out = tmp_path / "out"
    broken = (shards / "part-1.parquet").read_bytes()
    (shards / "part-1.parquet").write_bytes(b"broken")
    with pytest.raises(ef.DataError, match=r"1 of 4 shards failed.*part-1\.parquet.*cannot be read as Parquet"):
        predict_shards(run, shards, out, workers=0, progress=False)
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("part-*")}
    assert sorted(before) == ["part-0.parquet", "part-2.parquet", "part-3.parquet"]
    (shards / "part-1.parquet").write_bytes(broken)
    with pytest.raises(ef.OutputExistsError):
        predict_shards(run, shards, out, workers=0, progress=False)
    assert predict_shards(run, shards, out, resume=True, workers=0, progress=False)["rows"] == sum(SIZES)
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    other = tmp_path / "other"
    train(TrainConfig(data=str(small_set), fusion="concat", hidden=(8,), epochs=1), other, progress=False)
    with pytest.raises(ef.InputError, match="of another model"):
        predict_shards(other, shards, out, resume=True, workers=0, progress=False)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/part-0.parquet").write_bytes(broken)
    with pytest.raises(ef.InputError, match="of another folder"):
        predict_shards(run, tmp_path / "elsewhere", out, resume=True, workers=0, progress=False)


def test_on_a_dask_cluster(run, shards, tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        found = predict_shards(run, shards, tmp_path / "dask", scheduler=cluster.scheduler_address, progress=False)
    assert found["rows"] == sum(SIZES)
    predict_shards(run, shards, tmp_path / "here", workers=0, progress=False)
    for i in range(len(SIZES)):
        assert read(tmp_path / "dask" / f"part-{i}.parquet") == read(tmp_path / "here" / f"part-{i}.parquet")


def test_the_command(run, shards, tmp_path, capsys):
    def call(*words):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        streams = capsys.readouterr()
        return stop.value.code, streams.out, streams.err

    base = ["predict", run, "--input", shards, "--out", tmp_path / "out"]
    assert call(*base, "--workers", 0, "--quiet")[:2] == (0, f"358 predictions: {tmp_path / 'out'}, 100.0% converged\n")
    assert json.loads((tmp_path / "out/predictions.json").read_text())["input"] == str(shards)
    for words, message in (
        (base, "already exists"),
        (
            [*base[:2], "--input", shards / "part-0.parquet", "--out", tmp_path / "p.csv", "--resume"],
            "are for a folder",
        ),
        ([*base[:4], "--out", shards, "--resume"], "nothing to resume"),
        ([*base[:2], "--input", tmp_path / "out", "--out", shards], "already exists"),
    ):
        code, out, err = call(*words)
        assert code == 2
        assert out == ""
        assert message in err
    (tmp_path / "empty").mkdir()
    assert "no file of a known kind" in call(*base[:2], "--input", tmp_path / "empty", "--out", tmp_path / "x")[2]
    (shards / "part-0.csv").write_text("a_0\n1\n")
    assert "two shards named 'part-0'" in call(*base[:4], "--out", tmp_path / "x")[2]
