"""Files made to harm: code in pickles, archives that unpack to more than there is, numbers beyond measure, bombs."""

import contextlib
import io
import json
import os
import pickle
import re
import struct
import tempfile
import tracemalloc
import types
import zipfile

import h5py
import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from pyarrow import parquet
from scipy import sparse
from scipy.io import savemat

import equifuse as ef
from equifuse import files
from equifuse.benchmark.runner import read_benchmark
from equifuse.cli import main
from equifuse.data.formats import mat
from equifuse.data.formats.mmsa import read_plain_pickle
from equifuse.data.lazy import columns_of, rows_of_groups
from equifuse.data.selfcontained import open_hdf5
from equifuse.data.tables.dialect import sniff
from equifuse.datasets import read_inputs
from equifuse.registry import FUSIONS
from equifuse.runs import TrainConfig, load_run, train
from tests.fuzz.guard import Violation, guarded
from tests.fuzz.targets import SHAPES, arrays, make_examples


class Payload:
    """Whoever unpickles this makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("valid")
    make_examples(folder)
    return folder


@pytest.fixture
def little_memory(monkeypatch):
    """A machine with a mebibyte."""
    for place in (files, mat):
        monkeypatch.setattr(place, "memory", lambda: 2**20)


def test_the_guard_itself_sees_what_it_must(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    with guarded(inside):
        (inside / "file").write_text("fine")
    with pytest.raises(Violation), guarded(inside):
        (outside / "file").write_text("no")
    with pytest.raises(Violation), guarded(inside):
        os.system("true")
    # A reader that hides it is still found out.
    with pytest.raises(Violation), guarded(inside), contextlib.suppress(BaseException):
        pickle.loads(pickle.dumps(Payload(outside / "made")))
    assert list(outside.iterdir()) == []


def test_no_pickle_is_ever_run(tmp_path, valid):
    made = tmp_path / "made"
    load = pickle.dumps(Payload(made))
    hostile = np.array([Payload(made)], dtype=object)
    np.savez(tmp_path / "objects.npz", **{**arrays(), "a": hostile})
    with pytest.raises(ef.DataError, match="no pickled objects"):
        ef.datasets.load(tmp_path / "objects.npz")
    with pytest.raises(ef.DataError, match="no pickled objects"):
        read_inputs(tmp_path / "objects.npz", SHAPES)
    for name in ("set.pkl", "set.pickle", "set.pt", "set.pth", "set.joblib"):
        (tmp_path / name).write_bytes(load)
        with pytest.raises(ef.DataError, match="is a pickle, which could run any code"):
            ef.datasets.load(tmp_path / name)
    with pytest.raises(SystemExit):
        main(["datasets", "convert", str(tmp_path / "set.pkl"), str(tmp_path / "out.npz")])
    folder = tmp_path / "views"
    folder.mkdir()
    (folder / "split.csv").write_bytes((valid / "views/split.csv").read_bytes())
    np.save(folder / "a.npy", hostile)
    with pytest.raises(ef.DataError, match=r"cannot be read as \.npy"):
        ef.datasets.load(folder)
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.json").write_bytes((valid / "model-gmf/model.json").read_bytes())
    (model / "model.safetensors").write_bytes(load)
    with pytest.raises(ef.DataError, match="cannot be read as safetensors"):
        ef.load(model)
    config = TrainConfig(data=str(valid / "plain.npz"), fusion="concat", hidden=(4,), epochs=2)
    train(config, tmp_path / "run", progress=False)
    (tmp_path / "run/metrics.json").unlink()
    for content in (load, _zipped({"last/data.pkl": load, "last/version": b"3"})):
        (tmp_path / "run/checkpoints/last.ckpt").write_bytes(content)
        with pytest.raises(ef.DataError, match="cannot be read as a checkpoint"):
            train(config, tmp_path / "run", resume=True, progress=False)
    torch.save({"equifuse": Payload(made)}, tmp_path / "run/checkpoints/last.ckpt")
    with pytest.raises(ef.DataError, match="cannot be read as a checkpoint"):
        train(config, tmp_path / "run", resume=True, progress=False)
    for text in (f"data: !!python/object/apply:builtins.open ['{made}', w]", "!!python/name:os.system"):
        (tmp_path / "options.yaml").write_text(text)
        with pytest.raises(ef.DataError, match="cannot be read as YAML"):
            TrainConfig.from_options(tmp_path / "options.yaml", {})
    assert not made.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04]r" + struct.pack("<I", 2**28) + b".",  # remembered under a number far beyond the first
        b"\x80\x05\x96" + struct.pack("<Q", 2**33) + b"x.",  # a bytearray of 8 GiB
        b"\x80\x04\x95" + struct.pack("<Q", 2**33) + b"].",  # a frame of 8 GiB
        b"cnumpy\nndarray\n(I8589934592\ntR.",  # an array made by calling its class
    ],
)
def test_a_pickle_cannot_claim_memory(tmp_path, content):
    (tmp_path / "mosi.pkl").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ef.DataError, match="is refused"):
        read_plain_pickle(tmp_path / "mosi.pkl")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**24


def test_numbers_too_large_for_a_float_are_rounded(tmp_path):
    """And not refused: they become float32 in any case."""
    table = pa.table({"a:0": [2**60 + 1, 1, 2, 3] * 10, "label": [-(2**62) - 1, 0, 1, 2] * 10})
    parquet.write_table(table, tmp_path / "set.parquet")
    dataset = ef.datasets.load(tmp_path / "set.parquet", source={"target": "label"})
    assert dataset.n_outputs == 4
    assert max(split.inputs["a"].max() for split in dataset.splits.values()) == 2.0**60


def test_rows_that_a_parquet_file_only_declares(tmp_path):
    class Damaged:
        num_row_groups, num_rows = 2, 40

        def row_group(self, i):
            return types.SimpleNamespace(num_rows=(-40, 80)[i])

    with pytest.raises(ef.DataError, match="its row groups 40; it is damaged"):
        rows_of_groups(tmp_path / "set.parquet", Damaged())
    with pytest.raises(ef.DataError, match="column 'a' has 3 values for 2 rows"):
        columns_of(types.SimpleNamespace(num_rows=2, column=lambda _: pa.chunked_array([[1, 2, 3]])), ("a",))


def test_what_a_message_quotes_is_abridged():
    line = str(ef.DataError("x" * 10_000 + "; expected train, val or test"))
    assert len(line) < 2010
    assert line.startswith("xxx")
    assert line.endswith("expected train, val or test")


def _zipped(members):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return sink.getvalue()


@pytest.mark.usefixtures("little_memory")
def test_what_unpacks_to_more_than_memory_is_refused_unread(tmp_path):
    zeros = np.zeros((2**18, 2))
    y = np.arange(2**18) % 2
    np.savez_compressed(tmp_path / "bomb.npz", **{**arrays(), "a": zeros})
    assert (tmp_path / "bomb.npz").stat().st_size < 2**15
    savemat(tmp_path / "bomb.mat", {"X": zeros, "Y": y}, do_compression=True)
    savemat(tmp_path / "wide.mat", {"X": sparse.csc_matrix((2**20, 2**10)), "Y": np.ones(3)})
    with h5py.File(tmp_path / "bomb.hdf5", "w") as file:
        for key, value in arrays().items():
            file[key] = value.astype("S") if value.dtype.kind == "U" else value
        del file["y"]
        file.create_dataset("y", shape=(2**40,), dtype="i8", chunks=(2**20,))  # of which nothing is stored
    with h5py.File(tmp_path / "rows.hdf5", "w") as file:
        for key, value in arrays().items():
            file[key] = value.astype("S") if value.dtype.kind == "U" else value
        del file["a"]
        file.create_dataset("a", shape=(2**50, 3), dtype="f4", chunks=(2**10, 3))
    same = pa.array(np.zeros(2**19))
    columns = {"a:0": same, "label": same.cast(pa.int8())}
    parquet.write_table(pa.table(columns), tmp_path / "bomb.parquet", compression="zstd")
    assert (tmp_path / "bomb.parquet").stat().st_size < 2**15
    for name in ("bomb.npz", "bomb.mat", "bomb.hdf5", "rows.hdf5", "bomb.parquet"):
        with pytest.raises(ef.DataError, match=r"declares [\d,]+ GiB, this machine has"):
            ef.datasets.load(tmp_path / name, source={"target": "label"} if name.endswith("parquet") else None)
    with pytest.raises(ef.DataError, match="a sparse matrix of 1048576 x 1024"):
        ef.datasets.load(tmp_path / "wide.mat")
    with pytest.raises(ef.DataError, match="declares"):
        read_inputs(tmp_path / "bomb.npz", SHAPES)


def test_an_h5mu_of_a_sparse_universe_is_refused(tmp_path):
    mudata, anndata = pytest.importorskip("mudata"), pytest.importorskip("anndata")
    small = anndata.AnnData(sparse.csr_matrix(np.eye(4, dtype=np.float32)))
    mudata.MuData({"rna": small}).write(tmp_path / "wide.h5mu")
    with h5py.File(tmp_path / "wide.h5mu", "r+") as file:
        file["mod/rna/X"].attrs["shape"] = np.array([4, 2**50])
    with pytest.raises(ef.DataError, match="wide.h5mu"):
        ef.datasets.load(tmp_path / "wide.h5mu", source={"task": "retrieval"})


@pytest.mark.parametrize("shape", ["(1000000000000,)", "(4611686018427387904, 4)", "(-1,)", "(1.5,)", "((1,),)"])
def test_a_header_may_declare_anything(tmp_path, shape, valid):
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (64 - (len(text) + 11) % 64) + b"\n"
    header = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text
    with zipfile.ZipFile(valid / "plain.npz") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (tmp_path / "set.npz").write_bytes(_zipped({**members, "a.npy": header + bytes(64)}))
    with pytest.raises(ef.DataError, match="cannot be read as"):
        ef.datasets.load(tmp_path / "set.npz")
    folder = tmp_path / "views"
    folder.mkdir()
    (folder / "split.csv").write_bytes((valid / "views/split.csv").read_bytes())
    (folder / "a.npy").write_bytes(header + bytes(64))
    with pytest.raises(ef.DataError, match="cannot be read as"):
        ef.datasets.load(folder)


def edited(valid, folder, change):
    folder.mkdir()
    described = json.loads((valid / "model-gmf/model.json").read_text())
    change(described)
    (folder / "model.json").write_text(json.dumps(described))
    (folder / "model.safetensors").write_bytes((valid / "model-gmf/model.safetensors").read_bytes())
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["recipe"]["encoder_options"].update(hidden=[10**12]), "beyond what its weights can be of"),
        (lambda d: d["recipe"]["encoder_options"].update(hidden=[9000, 9000]), "do not fit the model"),
        (lambda d: d["shapes"].update(a=[10**15]), "beyond what its weights can be of"),
        (lambda d: d["recipe"].update(n_outputs=10**9), "beyond what its weights can be of"),
        (lambda d: d["recipe"].update(n_outputs=3), "classes names 2 outputs|do not fit"),
        (lambda d: d["fusion"].update(name="__import__"), "unknown fusion"),
        (lambda d: d["recipe"].update(path="/etc/passwd"), "unexpected keyword"),
        (lambda d: d.update(recipe=[]), "cannot be read as a model's description"),
        (lambda d: d.update(format=99), "model format 99"),
    ],
)
def test_a_model_is_no_larger_than_its_weights(valid, tmp_path, change, message):
    with pytest.raises(ef.EquifuseError, match=message):
        ef.load(edited(valid, tmp_path / "model", change))


def test_a_model_whose_header_lies(valid, tmp_path):
    folder = edited(valid, tmp_path / "model", lambda d: None)
    for header in (
        {"x": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}},
        {"x": {"dtype": "F32", "shape": [4], "data_offsets": [8, 0]}},
        {},
    ):
        text = json.dumps(header).encode()
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
        with pytest.raises(ef.DataError, match="cannot be read as safetensors|do not fit the model"):
            ef.load(folder)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**63))
    with pytest.raises(ef.DataError, match="cannot be read as safetensors"):
        ef.load(folder)


@pytest.mark.slow
def test_bombs_of_text(tmp_path, valid):
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    laughs += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    for name, text in {
        "laughs": laughs,
        "itself": "data: &d [*d]\nhidden: [*d, *d]",
        "nested": "data: " + "[" * 5000,
        "number": "seed: " + "9" * 5000,
        "date": "data: 2026-13-45",
        "list": "- 1",
        "merge": "<<: 1",
    }.items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        with pytest.raises(ef.EquifuseError):
            TrainConfig.from_options(path, {})
        (tmp_path / "benchmark.yaml").write_text(text)
        with pytest.raises(ef.EquifuseError):
            read_benchmark(tmp_path)
    # References as such are fine.
    (tmp_path / "fine.yaml").write_text("data: &d digits\nfusion: gmf\nencoder: auto\ntask_options: {}\n")
    assert TrainConfig.from_options(tmp_path / "fine.yaml", {}).fusion == "gmf"
    folder = edited(valid, tmp_path / "model", lambda d: None)
    for text in ("[" * 100_000, '{"format": 1' + "1" * 10_000 + "}", '{"format": 1, "format": [NaN]}', "\x00", ""):
        (folder / "model.json").write_text(text)
        with pytest.raises(ef.DataError, match="description|format"):
            ef.load(folder)


def test_names_are_text_wherever_they_are_shown(tmp_path, monkeypatch):
    """A class or modality named by somebody else is no part of a page or a path."""
    pytest.importorskip("captum")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    content = arrays()
    evil = "<script>alert(1)</script>"
    content["modalities"] = np.array([evil, "b & <b>"])
    content[evil], content["b & <b>"] = content.pop("a"), content.pop("b")
    content["class_names"] = np.array(["<img src=x onerror=alert(2)>", "{{ 7 * 7 }}"])
    np.savez(tmp_path / "evil.npz", **content)
    config = TrainConfig(data=str(tmp_path / "evil.npz"), fusion="concat", hidden=(4,), epochs=1)
    from equifuse.report.run import report_run

    with guarded(tmp_path, seconds=300):
        train(config, tmp_path / "run", progress=False)
        page = report_run(tmp_path / "run")
    text = page.read_text()
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert "{{ 7 * 7 }}" in text


def test_a_crash_of_another_librarys_reader_is_one_line(tmp_path, monkeypatch):
    crashing = tmp_path / "loadmat.py"
    crashing.write_text("import os\nos.abort()\n")
    monkeypatch.setattr(mat, "_READER", crashing)
    savemat(tmp_path / "set.mat", {"X": np.ones((3, 3)), "Y": np.ones(3)})
    with pytest.raises(ef.DataError, match="its reader crashed"):
        ef.datasets.load(tmp_path / "set.mat")


def test_a_run_that_is_none(tmp_path, valid):
    for content in ("data: x", "run: {}", "data: digits\nrun: {data: {fingerprint: [1]}}", "data: digits\nrun: 3"):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(yaml.safe_load(content)))
        with pytest.raises(ef.EquifuseError):
            load_run(tmp_path)


@pytest.mark.parametrize(
    "options",
    [{"data": "digits", "fusion": "deq", "fusion_options": {None: 1}}, {"data": "digits", "fusion": []}],
    ids=["no name of an option", "no name of a fusion"],
)
def test_a_configuration_without_names_is_one_line(options):
    with pytest.raises(ef.EquifuseError):
        TrainConfig.from_dict(options).resolved_fusion_options()


def test_a_registry_knows_names_only():
    with pytest.raises(ef.UnknownNameError, match=r"unknown fusion '\[\]'"):
        FUSIONS.get([])


@pytest.mark.parametrize("read", [ef.datasets.load, lambda path: read_inputs(path, {"a": (1,), "b": (1,)})])
def test_a_parquet_column_given_twice_is_refused_where_it_is_used(tmp_path, read):
    path = tmp_path / "t.parquet"
    split = pa.array(["train"] * 12 + ["val"] * 6 + ["test"] * 6)
    number, label = pa.array(np.arange(24.0)), pa.array(np.arange(24) % 2)

    def write(first, second):
        columns = [number, number, number, number, label, split]
        parquet.write_table(
            pa.Table.from_arrays(columns, ["a:0", first, "b:0", second, "label", "split"]), path, row_group_size=7
        )

    write("a:0", "note")
    with pytest.raises(ef.DataError, match="'a:0'.* occurs more than once"):
        read(path)
    write("note", "note")
    read(path)


def test_text_of_no_width_in_an_array(tmp_path):
    """NumPy's dtype ``<U0``: entries without any bytes."""
    entries = {**arrays(), "sample_ids": np.zeros(24, "<U1")}
    np.savez(tmp_path / "set.npz", **entries)
    archive = tmp_path / "none.npz"
    with zipfile.ZipFile(tmp_path / "set.npz") as old, zipfile.ZipFile(archive, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "sample_ids.npy":
                content = content[: len(content) - 24 * 4].replace(b"<U1", b"<U0")
            new.writestr(name, content)
    with pytest.raises(ef.DataError):
        ef.datasets.load(archive)


def test_signs_that_only_python_takes_for_the_end_of_a_line():
    """A comment before a table of one line; and a separator of records within a cell."""
    assert sniff(b"# m\x1d\xe6\xb4\xcaa,b\n1.5,NA\n", "t.csv", whole=True).names == ("m\x1dæ´Êa", "b")
    assert sniff("a,b\n1,x\u2028y\n2,z\n".encode(), "t.csv", whole=True).first == (("1", "x\u2028y"), ("2", "z"))


@pytest.mark.parametrize("read", [ef.datasets.load, open_hdf5])
def test_a_heap_that_libhdf5_would_go_over_for_ever(tmp_path, read):
    path = tmp_path / "set.hdf5"
    with h5py.File(path, "w") as file:
        file["a"] = np.ones((24, 3))
        file.attrs["x"] = "hello"
    content = bytearray(path.read_bytes())
    end = content.index(b"GCOL") + 16 + 24  # behind the head of the heap, and the text with its own head
    assert content[end : end + 2] == b"\0\0"
    content[end + 8 : end + 16] = bytes(8)
    path.write_bytes(content)
    with pytest.raises(ef.DataError, match="a heap of texts is damaged"):
        read(path)


def test_a_workbook_without_sheets_is_one_line(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["id", "a"])
    book.save(tmp_path / "whole.xlsx")
    with zipfile.ZipFile(tmp_path / "whole.xlsx") as old, zipfile.ZipFile(tmp_path / "none.xlsx", "w") as new:
        for name in old.namelist():
            new.writestr(name, re.sub(rb"<sheets>.*</sheets>", b"<sheets/>", old.read(name)))
    with pytest.raises(ef.DataError, match="none.xlsx"):
        ef.datasets.load(tmp_path / "none.xlsx")
