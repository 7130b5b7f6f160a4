"""A file or folder from elsewhere never makes features of other files of this machine, and its parts fit together."""

import os
import shutil

import h5py
import numpy as np
import pytest

import equifuse as ef
from equifuse.data.selfcontained import check_hdf5
from equifuse.runs.output import write_columns

ROWS = 12


def content(**changes):
    y = np.arange(ROWS) % 2
    arrays = {
        "modalities": np.array(["a", "b"]),
        "task": np.array("classification"),
        "a": np.arange(3.0 * ROWS, dtype=np.float32).reshape(ROWS, 3),
        "b": np.ones((ROWS, 2), np.float32),
        "y": y,
        "train_idx": np.arange(8),
        "test_idx": np.arange(8, ROWS),
        "sample_ids": np.array([f"s{i}" for i in range(ROWS)]),
    }
    return {**arrays, **changes}


def write_h5(path, arrays):
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            file[key] = value.astype("S") if value.dtype.kind == "U" else value


@pytest.fixture
def secret(tmp_path):
    """Another file, whose bytes are no features of anybody's."""
    path = tmp_path / "secret.h5"
    with h5py.File(path, "w") as file:
        file["a"] = np.full((ROWS, 3), 7, np.float32)
    np.full((ROWS, 3), 7, np.float32).tofile(tmp_path / "secret.bin")
    return path


def linked(file, tmp_path, secret):
    file["a"] = h5py.ExternalLink(str(secret), "a")


def stored_outside(file, tmp_path, secret):
    file.create_dataset("a", (ROWS, 3), "f4", external=[(str(tmp_path / "secret.bin"), 0, ROWS * 12)])


def virtual(file, tmp_path, secret):
    layout = h5py.VirtualLayout((ROWS, 3), "f4")
    layout[:] = h5py.VirtualSource(str(secret), "a", (ROWS, 3))
    file.create_virtual_dataset("a", layout)


def in_a_group(file, tmp_path, secret):
    file.create_group("deep")["down"] = h5py.ExternalLink(str(secret), "a")
    file["a"] = h5py.SoftLink("/deep/down")


@pytest.mark.parametrize("attack", [linked, stored_outside, virtual, in_a_group])
def test_hdf5_takes_nothing_from_another_file(attack, secret, tmp_path):
    arrays = content()
    del arrays["a"]
    path = tmp_path / "set.h5"
    write_h5(path, arrays)
    with h5py.File(path, "a") as file:
        attack(file, tmp_path, secret)
    with pytest.raises(ef.DataError, match=r"set\.h5: .* (another|other) files?"):
        ef.datasets.load(path)
    with pytest.raises(ef.DataError, match="only what is in the file itself is read"):
        ef.datasets.read_inputs(path, {"a": (3,), "b": (2,)})
    for name in ("cells.h5ad", "cells.h5mu", "views.mat"):
        shutil.copy(path, tmp_path / name)
        with pytest.raises(ef.EquifuseError):
            ef.datasets.load(tmp_path / name, source={"target": "y"} if name != "views.mat" else None)


def test_hdf5_that_is_whole_is_read_with_its_own_links(tmp_path):
    arrays = content()
    write_h5(tmp_path / "set.h5", arrays)
    with h5py.File(tmp_path / "set.h5", "a") as file:
        file["again"] = file["a"]
        file["soft"] = h5py.SoftLink("/a")
    check_hdf5(tmp_path / "set.h5")
    assert ef.datasets.load(tmp_path / "set.h5").dims == {"a": 3, "b": 2}


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_member_of_a_folder_does_not_lead_out_of_it(secret, tmp_path):
    folder, elsewhere = tmp_path / "set", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    lines = ["id,label,split", *(f"s{i},{i % 2},{'train' if i < 8 else 'test'}" for i in range(ROWS))]
    (folder / "split.csv").write_text("\n".join(lines))
    np.save(folder / "a.npy", np.ones((ROWS, 2), np.float32))
    np.save(elsewhere / "b.npy", np.ones((ROWS, 2), np.float32))
    (folder / "inner.npy").symlink_to(folder / "a.npy")
    assert ef.datasets.load(folder).modalities == ("a", "inner")
    (folder / "b.npy").symlink_to(elsewhere / "b.npy")
    with pytest.raises(ef.DataError, match=r"b\.npy is a link that leaves the folder; copy the file there, or name"):
        ef.datasets.load(folder)
    named = {"a": "a.npy", "b": str(elsewhere / "b.npy")}
    assert ef.datasets.load(folder, source={"modalities": named}).modalities == ("a", "b")


@pytest.mark.parametrize("kind", ["npz", "hdf5"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sample_ids": np.array([f"s{i}" for i in range(ROWS - 1)])}, "11 ids for 12 rows"),
        ({"sample_ids": np.array(["s0", *(f"s{i}" for i in range(ROWS - 1))])}, "occurs more than once"),
        ({"a": np.zeros((ROWS, 0), np.float32)}, "no features"),
        ({"y": np.zeros(ROWS, int)}, "one class"),
    ],
    ids=["too few ids", "the same id", "no features", "one class"],
)
def test_what_makes_no_sense_is_refused_whatever_the_file(kind, change, said, tmp_path):
    path = tmp_path / f"set.{kind}"
    arrays = content(**change)
    if kind == "npz":
        np.savez(path, **arrays)
    else:
        write_h5(path, arrays)
    with pytest.raises(ef.DataError, match=said):
        ef.datasets.load(path)


def test_text_like_a_formula_is_inert_in_csv_and_the_same_again_when_it_is_read(tmp_path):
    texts = ["=1+1", "+A1", "-A1", "@x", "\tx", "'=1", "''-y", "it's", "plain"]
    write_columns(tmp_path / "t.csv", {"id": np.array(texts, object), "=x": np.arange(-4.0, 5)})
    written = (tmp_path / "t.csv").read_text()
    assert [line for line in written.replace('"', "").splitlines() if line.startswith(("=", "+", "-", "@"))] == []
    assert ",-4\n" in written  # numbers stay numbers
    from equifuse.data.tables import read_table

    table = read_table(tmp_path / "t.csv")
    assert table.column_names == ["id", "=x"]
    assert [text.strip() for text in table.column("id").to_pylist()] == [text.strip() for text in texts]
