"""Data that stay on disk: the same samples, a bounded buffer, and the same commands."""

import h5py
import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

import equifuse as ef
from equifuse.data import loaders
from equifuse.data.lazy import base as on_disk
from equifuse.data.loaders import DiskBatches, MemoryBatches, batches_of
from equifuse.runs import TrainConfig, evaluate_run, train

pytestmark = pytest.mark.slow

ROWS = 300


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A data set as HDF5, as Parquet and in memory; on disk, whatever its size."""
    generator = np.random.default_rng(0)
    y = np.arange(ROWS) % 2
    a = (generator.standard_normal((ROWS, 5)) + y[:, None]).astype(np.float32)
    b = generator.standard_normal((ROWS, 2, 3)).astype(np.float32)
    a[7] = np.nan
    order = generator.permutation(ROWS)
    parts = {"train": np.sort(order[:200]), "val": np.sort(order[200:240]), "test": np.sort(order[240:])}
    arrays = {"a": a, "b": b, "y": y, **{f"{part}_idx": rows for part, rows in parts.items()}}
    np.savez(tmp_path / "set.npz", modalities=np.array(["a", "b"]), task=np.array("classification"), **arrays)
    with h5py.File(tmp_path / "set.hdf5", "w") as file:
        file.attrs["modalities"], file.attrs["task"] = ["a", "b"], "classification"
        for key, value in arrays.items():
            file[key] = value
    names = np.empty(ROWS, dtype="U5")
    for part, rows in parts.items():
        names[rows] = part
    columns = {f"a_{j}": a[:, j] for j in range(5)} | {f"b_{j}": b.reshape(ROWS, 6)[:, j] for j in range(6)}
    parquet.write_table(pa.table({**columns, "label": y, "split": names}), tmp_path / "set.parquet", row_group_size=64)
    monkeypatch.setattr(on_disk, "_SMALL_BYTES", 0)
    monkeypatch.setattr(loaders, "_PIECE_BYTES", 4 * 11 * 16)
    monkeypatch.setattr(loaders, "_POOL_BYTES", 4 * 11 * 64)
    return tmp_path


SOURCE = {"modalities": {"a": "a_*", "b": "b_*"}, "target": "label", "split": "split"}


def joined(batches, modality="a"):
    return torch.cat([batch.inputs[modality] for batch in batches])


@pytest.mark.parametrize("name", ["set.hdf5", "set.parquet"])
def test_batches_from_disk_are_those_from_memory(stored, name):
    source = SOURCE if name.endswith("parquet") else None
    disk, memory = ef.datasets.load(stored / name, source=source), ef.datasets.load(stored / "set.npz")
    assert disk.splits["train"].on_disk
    assert not memory.splits["train"].on_disk
    for part in ("train", "val", "test"):
        one, other = (batches_of(dataset.splits[part], 16) for dataset in (disk, memory))
        assert isinstance(one, DiskBatches)
        assert isinstance(other, MemoryBatches)
        assert len(one) == len(other) == len(list(one))
        for x, y in zip(one, other, strict=True):
            assert len(x) == len(y)
            torch.testing.assert_close(x.inputs["a"], y.inputs["a"], equal_nan=True)
            assert torch.equal(x.inputs["b"].flatten(1), y.inputs["b"].flatten(1))
            assert torch.equal(x.target, y.target)
            assert torch.equal(x.index, y.index)
            assert {m: mask.tolist() for m, mask in x.present.items()} == {m: v.tolist() for m, v in y.present.items()}


def test_shuffled_batches_from_disk_cover_everything_once_in_another_order_each_epoch(stored):
    split = ef.datasets.load(stored / "set.hdf5").splits["train"]
    batches = batches_of(split, 16, seed=3)
    first = torch.cat([batch.index for batch in batches])
    assert torch.equal(first, torch.cat([batch.index for batch in batches]))
    batches.epoch = 1
    second = torch.cat([batch.index for batch in batches])
    assert not torch.equal(first, second)
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(200))
    assert [len(batch) for batch in batches] == [16] * 12 + [8]
    expected = torch.from_numpy(split.inputs["b"][:])
    for batch in batches:
        assert torch.equal(batch.inputs["b"], expected[batch.index])


def test_no_more_than_a_pool_is_read_ahead(stored):
    split = ef.datasets.load(stored / "set.hdf5").splits["train"]
    read = []
    rows = type(split.inputs["b"])

    class Counting(rows):
        def _read(self, places):
            read.append(len(places))
            return super()._read(places)

    split.inputs["b"].__class__ = Counting
    split.inputs["b"]._with = lambda index: Counting(split.inputs["b"]._path, "b", index)
    list(batches_of(split, 16, seed=0))
    assert sum(read) == 200
    assert max(read) <= 64


def test_a_run_on_disk_is_trained_evaluated_and_resumed(stored):
    config = {"fusion": "gmf", "hidden": [8], "head_hidden": 0, "epochs": 3, "batch_size": 32}
    results = {}
    for name in ("set.npz", "set.hdf5", "set.parquet"):
        source = SOURCE if name.endswith("parquet") else {}
        settings = TrainConfig.from_dict({"data": str(stored / name), "source": source, **config})
        results[name] = train(settings, stored / f"run-{name}", progress=False)
        test = evaluate_run(stored / f"run-{name}")
        assert test["accuracy"] == pytest.approx(results[name].metrics["test"]["accuracy"])
        assert evaluate_run(stored / f"run-{name}", without=["b"])["accuracy"] > 0.6
    # Preprocessing is fitted on the same numbers, in pieces or at once.
    layers = [ef.load(stored / f"run-{name}" / "model").encoders["a"] for name in results]
    means = [next(layer.mean for layer in each if hasattr(layer, "mean")) for each in layers]
    torch.testing.assert_close(means[0], means[1])
    torch.testing.assert_close(means[0], means[2])


def test_large_sources_are_converted_piece_by_piece(stored):
    from equifuse.data.conversion import convert

    convert(stored / "set.hdf5", stored / "copy.hdf5")
    assert ef.datasets.load(stored / "copy.hdf5").fingerprint() == ef.datasets.load(stored / "set.hdf5").fingerprint()
    assert not list(stored.glob(".*staging*"))


def test_an_evaluation_keeps_predictions_and_nothing_larger(stored, monkeypatch):
    """What a batch's fusion returned is gone when the next one comes."""
    import gc
    import weakref

    from equifuse.runs.folder import load_run

    config = TrainConfig(data=str(stored / "set.hdf5"), fusion="deq", dim=8, hidden=(8,), epochs=1)
    train(config, stored / "run", progress=False)
    run = load_run(stored / "run")
    alive = []
    forward = type(run.task).forward

    def watched(task, model, batch):
        assert sum(ref() is not None for ref in alive) <= 1
        output = forward(task, model, batch)
        alive.extend(weakref.ref(state) for state in [output.fusion.modalities["a"]])
        return output

    monkeypatch.setattr(type(run.task), "forward", watched)
    evaluation = run.task.evaluate(run.model, batches_of(run.dataset().splits["train"], 16))
    gc.collect()
    assert len(alive) == 13
    assert evaluation.prediction.shape == (200, 2)
