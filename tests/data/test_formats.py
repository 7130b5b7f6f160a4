"""Every public format, from small files generated in the exact layout; and the mistakes that people make."""

import pickle
import sys

import h5py
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet
from scipy import sparse
from scipy.io import savemat

import equifuse as ef
from equifuse.data.external import Wanted, read_rows
from equifuse.data.formats import is_one_set
from equifuse.data.formats.mmsa import read_mmsa, read_plain_pickle, to_the_front
from equifuse.data.lazy import HDF5Array, LazyArray, ParquetArray

RNG = np.random.default_rng(0)


def numbers(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def whole(dataset, modality):
    """All rows of a modality, in the order train, val, test."""
    return np.concatenate([dataset.splits[part].inputs[modality] for part in ("train", "val", "test")])


# ---- MOGONET --------------------------------------------------------------------------------------------------


def mogonet(folder, views=3, train=20, test=6):
    folder.mkdir()
    arrays = {}
    for i in range(1, views + 1):
        for part, rows in (("tr", train), ("te", test)):
            arrays[i, part] = numbers(rows, 2 + i)
            np.savetxt(folder / f"{i}_{part}.csv", arrays[i, part], delimiter=",", fmt="%.8e")
        (folder / f"{i}_featname.csv").write_text("\n".join(f"gene{j}" for j in range(2 + i)) + "\n")
    for part, rows in (("tr", train), ("te", test)):
        arrays["y", part] = np.arange(rows) % 2
        np.savetxt(folder / f"labels_{part}.csv", arrays["y", part], delimiter=",", fmt="%.18e")
    return arrays


def test_mogonet(tmp_path):
    arrays = mogonet(tmp_path / "ROSMAP")
    dataset = ef.datasets.load(tmp_path / "ROSMAP")
    assert dataset.dims == {"mrna": 3, "methylation": 4, "mirna": 5}
    assert {part: len(split) for part, split in dataset.splits.items()} == {"train": 16, "val": 4, "test": 6}
    np.testing.assert_allclose(dataset.splits["test"].inputs["mirna"], arrays[3, "te"], rtol=1e-6)
    assert dataset.splits["test"].target.tolist() == arrays["y", "te"].tolist()
    assert dataset.features["mrna"] == ("gene0", "gene1", "gene2")
    joint = np.concatenate([dataset.splits[p].inputs["mrna"] for p in ("train", "val")])
    np.testing.assert_allclose(np.sort(joint, 0), np.sort(arrays[1, "tr"], 0), rtol=1e-6)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "2_te.csv").unlink(), "no such file"),
        (lambda f: (f / "1_tr.csv").write_text("a,b\n1,2\n"), "cannot be read as a table of numbers"),
        (lambda f: (f / "labels_te.csv").write_text("0\n1\n"), "labels_te.csv has 2"),
        (lambda f: (f / "labels_te.csv").write_text("0.5\n" * 6), "whole numbers"),
        (lambda f: (f / "1_featname.csv").write_text("one\n"), "names 1 features"),
        (lambda f: [p.unlink() for p in f.glob("*_tr.csv") if p.name != "labels_tr.csv"], "but no 1_tr.csv"),
    ],
)
def test_mogonet_mistakes(tmp_path, spoil, message):
    mogonet(tmp_path / "BRCA")
    spoil(tmp_path / "BRCA")
    with pytest.raises(ef.DataError, match=message):
        ef.datasets.load(tmp_path / "BRCA")


# ---- UCI mfeat and .mat ---------------------------------------------------------------------------------------


def test_mfeat(tmp_path):
    views = ("fac", "fou", "kar", "mor", "pix", "zer")
    arrays = {view: numbers(50, 2 + i) for i, view in enumerate(views)}
    for view, x in arrays.items():
        np.savetxt(tmp_path / f"mfeat-{view}", x, fmt="  %.6f")
    dataset = ef.datasets.load(tmp_path)
    assert dataset.dims == {"fac": 2, "fou": 3, "kar": 4, "mor": 5, "pix": 6, "zer": 7}
    assert [len(dataset.splits[part]) for part in ("train", "val", "test")] == [32, 8, 10]
    for split in dataset.splits.values():  # a row still stands beside its class: five of each, in order
        for row, label in zip(split.inputs["pix"], split.target, strict=True):
            place = int(np.abs(arrays["pix"] - row).sum(1).argmin())
            assert place // 5 == label
    (tmp_path / "mfeat-zer").unlink()
    with pytest.raises(ef.DataError, match="mfeat-zer"):
        ef.datasets.load(tmp_path)


@pytest.mark.parametrize("columns_first", [False, True])
def test_mat_views_in_a_cell(tmp_path, columns_first):
    views = [numbers(20, 3), numbers(20, 4)]
    cell = np.empty((1, 2), dtype=object)
    cell[0, 0] = views[0].T if columns_first else views[0]
    cell[0, 1] = sparse.csc_matrix(views[1].T if columns_first else views[1])
    labels = np.repeat([1, 2], 10)[:, None]
    savemat(tmp_path / "set.mat", {"X": cell, "Y": labels})
    dataset = ef.datasets.load(tmp_path / "set.mat")
    assert dataset.classes == ("1", "2")
    assert dataset.dims == {"view1": 3, "view2": 4}
    np.testing.assert_allclose(np.sort(whole(dataset, "view2"), 0), np.sort(views[1], 0), rtol=1e-6)


def test_mat_of_version_7_3_is_hdf5(tmp_path):
    views = [numbers(20, 3), numbers(20, 4)]
    with h5py.File(tmp_path / "set.mat", "w", userblock_size=512) as file:
        refs = []
        for i, view in enumerate(views):
            file[f"#refs#/{i}"] = view.T  # MATLAB stores columns first
            refs.append(file[f"#refs#/{i}"].ref)
        file.create_dataset("X", data=np.array([refs], dtype=h5py.ref_dtype))
        file["gt"] = np.repeat([0, 1], 10)[None].astype(float)
    with (tmp_path / "set.mat").open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    dataset = ef.datasets.load(tmp_path / "set.mat")
    assert dataset.dims == {"view1": 3, "view2": 4}
    np.testing.assert_allclose(np.sort(whole(dataset, "view1"), 0), np.sort(views[0], 0))


def test_mat_mistakes(tmp_path):
    path = tmp_path / "set.mat"
    savemat(path, {"A": numbers(3, 3)})
    with pytest.raises(ef.DataError, match="expected views in one of"):
        ef.datasets.load(path)
    cell = np.empty((1, 1), dtype=object)
    cell[0, 0] = numbers(7, 3)
    savemat(path, {"X": cell, "Y": np.ones((20, 1))})
    with pytest.raises(ef.DataError, match=r"view 1 has shape \(7, 3\)"):
        ef.datasets.load(path)
    path.write_bytes(b"no matrix")
    with pytest.raises(ef.DataError, match="cannot be read"):
        ef.datasets.load(path)


# ---- MM-IMDB --------------------------------------------------------------------------------------------------


def mmimdb(path, rows=30, split=True):
    arrays = {"features": numbers(rows, 5), "vgg_features": numbers(rows, 7)}
    genres = (RNG.random((rows, 4)) < 0.4).astype(np.int64)
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            file[key] = value
        file["genres"] = genres
        if split:  # as Fuel writes it
            kind = np.dtype([("split", "S5"), ("source", "S12"), ("start", np.int64), ("stop", np.int64)])
            table = [
                (p, s, a, b) for p, a, b in (("train", 0, 18), ("dev", 18, 22), ("test", 22, rows)) for s in arrays
            ]
            file.attrs["split"] = np.array(table, dtype=kind)
    return arrays, genres


def test_mmimdb(tmp_path):
    arrays, genres = mmimdb(tmp_path / "multimodal_imdb.hdf5")
    dataset = ef.datasets.load(tmp_path / "multimodal_imdb.hdf5")
    assert dataset.task == "multilabel"
    assert dataset.dims == {"text": 5, "image": 7}
    assert [len(dataset.splits[part]) for part in ("train", "val", "test")] == [18, 4, 8]
    np.testing.assert_array_equal(whole(dataset, "image"), arrays["vgg_features"])
    np.testing.assert_array_equal(dataset.splits["val"].target, genres[18:22])


def test_mmimdb_without_a_split_must_be_the_official_file(tmp_path):
    mmimdb(tmp_path / "set.hdf5", split=False)
    with pytest.raises(ef.DataError, match="25959"):
        ef.datasets.load(tmp_path / "set.hdf5")


# ---- MMSA -----------------------------------------------------------------------------------------------------


def mmsa(protocol=4, rows=6, unaligned=False):
    content = {}
    for part in ("train", "valid", "test"):
        text = numbers(rows, 5, 4)
        lengths = np.arange(rows) % 5 + 1
        text[np.arange(5)[None] >= lengths[:, None]] = 0
        audio = numbers(rows, 7, 3)
        audio[:, :2] = 0  # padded in front
        audio[0, 3, 0] = -np.inf
        content[part] = {
            "raw_text": ["so good"] * rows,
            "text": text,
            "text_bert": np.stack([np.ones((rows, 5)), np.arange(5)[None] < lengths[:, None], np.zeros((rows, 5))], 1),
            "audio": audio,
            "vision": numbers(rows, 6, 2),
            "id": [f"{part}{i}" for i in range(rows)],
            "regression_labels": numbers(rows),
            "classification_labels": np.arange(rows) % 3,
        }
        if unaligned:
            content[part]["audio_lengths"] = [4] * rows
            content[part]["vision_lengths"] = [6] * rows
    return content


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("out", ["set.npz", "set.hdf5"])
def test_mmsa_is_converted(tmp_path, protocol, out):
    from equifuse.data.conversion import convert

    content = mmsa()
    (tmp_path / "aligned_50.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(ef.DataError, match="equifuse datasets convert"):
        ef.datasets.load(tmp_path / "aligned_50.pkl")
    convert(tmp_path / "aligned_50.pkl", tmp_path / out)
    dataset = ef.datasets.load(tmp_path / out)
    assert dataset.task == "regression"
    assert dataset.shapes == {"text": (5, 4), "audio": (7, 3), "vision": (6, 2)}
    test = dataset.splits["test"]
    np.testing.assert_array_equal(test.inputs["text"], content["test"]["text"])
    assert test.lengths["text"].tolist() == [1, 2, 3, 4, 5, 1]
    assert set(test.lengths["audio"].tolist()) == {5}
    np.testing.assert_array_equal(test.inputs["audio"][1, :5], content["test"]["audio"][1, 2:])
    assert not test.inputs["audio"][:, 5:].any()
    assert test.inputs["audio"][0, 1, 0] == 0  # was infinite
    assert test.ids[0] == "test0"
    np.testing.assert_allclose(test.target[:, 0], content["test"]["regression_labels"])


def test_mmsa_unaligned_and_classes(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(mmsa(unaligned=True)))
    dataset = read_mmsa(tmp_path / "a.pkl", task="classification")
    assert dataset.n_outputs == 3
    assert set(dataset.splits["train"].lengths["audio"].tolist()) == {4}


class Bomb:
    def __reduce__(self):
        return (sys.exit, ("boom",))


@pytest.mark.parametrize(
    "hostile",
    [
        {"train": Bomb()},
        np.array([Bomb()], dtype=object),
        {"x": pa.array},
        {"x": [np.random.default_rng(0)]},
    ],
)
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path, hostile):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(hostile))
    with pytest.raises(ef.DataError, match="not plain data"):
        read_plain_pickle(tmp_path / "x.pkl")


def test_pickles_that_call_what_is_admitted_in_other_ways_are_refused(tmp_path):
    class Claim:
        def __reduce__(self):
            return np._core.multiarray._reconstruct, (np.ndarray, (2**40,), b"b")

    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Claim()))
    with pytest.raises(ef.DataError, match="refused"):
        read_plain_pickle(tmp_path / "x.pkl")
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(mmsa())[:500])
    with pytest.raises(ef.DataError, match="refused"):
        read_plain_pickle(tmp_path / "x.pkl")
    plain = {"a": [1, 2.5, "x", None, True, b"y"], "b": (np.float32(3), {4}), "c": numbers(2, 2)}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(plain))
    found = read_plain_pickle(tmp_path / "x.pkl")
    assert found["a"] == plain["a"]
    assert found["b"] == plain["b"]
    np.testing.assert_array_equal(found["c"], plain["c"])


def test_padding_moves_to_the_end():
    x = np.zeros((3, 4, 1), np.float32)
    x[0, 1:3, 0] = 1, 2
    x[1, :, 0] = 1, 0, 2, 3  # a zero in the middle stays
    moved, lengths = to_the_front(x)
    assert moved[:, :, 0].tolist() == [[1, 2, 0, 0], [1, 0, 2, 3], [0, 0, 0, 0]]
    assert lengths.tolist() == [2, 4, 0]


# ---- folders of features --------------------------------------------------------------------------------------


def write_csv(path, columns):
    csv.write_csv(pa.table(columns), path)


def test_folder_of_features_by_id(tmp_path):
    """As VGGSound and ActivityNet features are passed on: clips as vectors, and as sequences, some missing."""
    ids = [f"v{i}" for i in range(12)]
    split = ["train"] * 6 + ["val"] * 2 + ["test"] * 4
    write_csv(tmp_path / "split.csv", {"id": ids, "label": ["dog", "cat"] * 6, "split": split})
    audio = numbers(12, 5)
    with h5py.File(tmp_path / "audio.h5", "w") as file:
        for i in reversed(range(12)):
            if i != 3:
                file[ids[i]] = audio[i]
    with h5py.File(tmp_path / "video.hdf5", "w") as file:
        for i in range(12):
            file[ids[i]] = numbers(i % 3 + 1, 4)
    dataset = ef.datasets.load(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert dataset.shapes == {"audio": (5,), "video": (3, 4)}
    assert [len(dataset.splits[part]) for part in ("train", "val", "test")] == [6, 2, 4]
    train = dataset.splits["train"]
    assert train.present["audio"].tolist() == [True, True, True, False, True, True]
    np.testing.assert_array_equal(train.inputs["audio"][4], audio[4])
    assert train.lengths["video"].tolist() == [1, 2, 3, 1, 2, 3]
    assert not train.inputs["video"][0, 1:].any()


def test_folder_of_npy_and_arrays_with_ids(tmp_path):
    rows = {
        "id": [f"v{i}" for i in range(10)],
        "label": [0, 1] * 5,
        "split": ["train"] * 5 + ["val"] * 2 + ["test"] * 3,
    }
    write_csv(tmp_path / "labels.csv", rows)
    a, b, c = numbers(10, 3), numbers(10, 4), numbers(10, 2)
    np.save(tmp_path / "a.npy", a)
    order = RNG.permutation(10)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["features"], file["ids"] = b[order], [rows["id"][i] for i in order]
    np.savez(tmp_path / "c.npz", features=c[order], ids=np.array(rows["id"])[order])
    dataset = ef.datasets.load(tmp_path)
    for m, x in (("a", a), ("b", b), ("c", c)):
        np.testing.assert_array_equal(whole(dataset, m), x)


def test_folder_with_a_label_per_modality(tmp_path):
    """As FakeAVCeleb: real or fake, audio and video on their own."""
    table = {"id": ["a", "b", "c", "d"] * 3, "label_audio": [0, 0, 1, 1] * 3, "label_video": [0, 1, 0, 1] * 3}
    table["id"] = [f"{name}{i}" for i, name in enumerate(table["id"])]
    write_csv(tmp_path / "split.csv", {**table, "split": ["train"] * 6 + ["val"] * 2 + ["test"] * 4})
    for m in ("audio", "video"):
        np.save(tmp_path / f"{m}.npy", numbers(12, 3))
    dataset = ef.datasets.load(tmp_path)
    assert dataset.task == "multilabel"
    assert dataset.classes == ("label_audio", "label_video")
    single = ef.datasets.load(tmp_path, source={"target": "label_video"})
    assert (single.task, single.classes) == ("classification", ("0", "1"))


def test_rows_of_a_folder_for_a_trained_model_need_no_labels(tmp_path):
    ids, x, bags = list("pqrst"), numbers(5, 2), [numbers(n, 3) for n in (2, 1, 4, 1, 3)]
    write_csv(tmp_path / "samples.csv", {"id": ids, "ward": list("aabbb")})
    write_csv(tmp_path / "blood.csv", {"id": ids[::-1], "crp": x[::-1, 1], "age": x[::-1, 0]})
    with h5py.File(tmp_path / "cells.h5", "w") as file:
        for name, bag in zip(ids[:4], bags, strict=False):
            file[name] = bag
    np.save(tmp_path / "other.npy", numbers(5, 9))
    wanted = Wanted({"blood": (2,), "cells": (9, 3), "scan": (7,)}, {"blood": ("age", "crp")})
    assert is_one_set(tmp_path)
    found = read_rows(tmp_path, wanted, ef.datasets.SourceOptions(keep=("ward",)))
    np.testing.assert_allclose(found.split.inputs["blood"], x, rtol=1e-6)
    assert found.split.lengths["cells"].tolist() == [2, 1, 4, 1, 0]
    np.testing.assert_array_equal(found.split.inputs["cells"][2], bags[2])
    assert found.split.present["cells"].tolist() == [True] * 4 + [False]
    assert (found.split.ids.tolist(), found.split.columns["ward"].tolist()) == (ids, list("aabbb"))
    assert found.notes[0] == "other.npy is left out: the model has no modality 'other'"
    assert "'scan' is nowhere" in found.notes[1]
    with pytest.raises(ef.DataError, match="no column 'bmi', which the model was trained on"):
        read_rows(tmp_path, Wanted({"blood": (2,)}, {"blood": ("age", "bmi")}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: np.save(f / "a.npy", numbers(9, 3)), "9 rows"),
        (lambda f: (f / "a.npy").unlink(), "no features"),
        (lambda f: (f / "a.npy").write_bytes(b"junk"), "cannot be read as .npy"),
        (lambda f: np.save(f / "a.npy", np.array([{}])), "cannot be read as .npy"),
        (lambda f: np.savez(f / "a.npz", features=numbers(10, 3)), "both a.npy and a.npz"),
        (lambda f: write_csv(f / "split.csv", {"id": list("abcdefghij"), "split": ["train"] * 10}), "is the target"),
        (
            lambda f: write_csv(f / "split.csv", {"id": ["a"] * 10, "label": [0] * 10}),
            "an id occurs more than once, such as .a. .line 2, line 3",
        ),
        (
            lambda f: write_csv(f / "split.csv", {"label": [0, 1] * 5, "split": ["trian"] * 10}),
            "expected train, val or test",
        ),
    ],
)
def test_folder_mistakes(tmp_path, spoil, message):
    write_csv(tmp_path / "split.csv", {"id": list("abcdefghij"), "label": [0, 1] * 5})
    np.save(tmp_path / "a.npy", numbers(10, 3))
    ef.datasets.load(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ef.EquifuseError, match=message):
        ef.datasets.load(tmp_path)


# ---- tables ---------------------------------------------------------------------------------------------------


def table(rows=20):
    x = numbers(rows, 5)
    columns = {"sample": [f"s{i}" for i in range(rows)]}
    columns |= {f"g_{j}": x[:, j] for j in range(3)} | {f"cg{j}": x[:, 3 + j] for j in range(2)}
    columns |= {"status": ["ill", "well"] * (rows // 2), "set": ["train"] * 12 + ["val"] * 3 + ["test"] * 5}
    return x, columns


OWN = {"modalities": {"rna": "g_*", "meth": "cg0,cg1"}, "target": "status", "id": "sample", "split": "set"}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_own_tables(tmp_path, suffix):
    x, columns = table()
    columns["g_1"] = pa.array([None if i == 2 else v for i, v in enumerate(columns["g_1"].tolist())], pa.float32())
    path = tmp_path / f"t{suffix}"
    write_csv(path, columns) if suffix == ".csv" else parquet.write_table(pa.table(columns), path)
    parts = ef.datasets.load(path, source=OWN).splits.values()
    assert sum(int(np.isnan(split.inputs["rna"]).sum()) for split in parts) == 1  # a gap, and the row is there
    assert not any("rna" in split.present for split in parts)
    for j in (0, 2):
        columns[f"g_{j}"] = pa.array([None if i == 2 else v for i, v in enumerate(x[:, j].tolist())], pa.float32())
    write_csv(path, columns) if suffix == ".csv" else parquet.write_table(pa.table(columns), path)
    import os

    os.utime(path, (1, 1))
    dataset = ef.datasets.load(path, source=OWN)
    assert dataset.classes == ("ill", "well")
    assert dataset.features == {"rna": ("g_0", "g_1", "g_2"), "meth": ("cg0", "cg1")}
    assert dataset.splits["train"].present["rna"].tolist() == [i != 2 for i in range(12)]
    np.testing.assert_allclose(whole(dataset, "meth"), x[:, 3:], rtol=1e-6)
    assert dataset.splits["test"].ids.tolist() == [f"s{i}" for i in range(15, 20)]


def test_tables_joined_on_an_id(tmp_path):
    x, columns = table()
    ids = columns["sample"]
    write_csv(tmp_path / "clinic.csv", {k: columns[k] for k in ("sample", "status", "set", "cg0", "cg1")})
    order = [i for i in RNG.permutation(20) if i != 4]
    parquet.write_table(
        pa.table({"sample": [ids[i] for i in order], **{f"g_{j}": x[order, j] for j in range(3)}, "note": ["x"] * 19}),
        tmp_path / "rna.parquet",
    )
    np.savez(tmp_path / "image.npz", features=x[:, :2], ids=np.array(ids))
    source = {**OWN, "modalities": {"rna": "rna.parquet::g_*", "meth": "cg*", "image": "image.npz"}}
    dataset = ef.datasets.load(tmp_path / "clinic.csv", source=source)
    assert dataset.splits["train"].present["rna"].tolist() == [i != 4 for i in range(12)]
    np.testing.assert_allclose(dataset.splits["test"].inputs["rna"], x[15:, :3], rtol=1e-6)
    np.testing.assert_allclose(whole(dataset, "image"), x[:, :2])


def test_a_joined_table_without_rows_or_with_an_id_twice_is_refused(tmp_path):
    x, columns = table()
    write_csv(tmp_path / "clinic.csv", {k: columns[k] for k in ("sample", "status", "set")})
    source = {**OWN, "modalities": {"rna": "rna.parquet"}}
    for ids, message in (
        ([], "it has no rows"),
        (["s0", "s1", "s0"], "occurs more than once, such as 's0' .row 1, row 3.; pass --duplicates first"),
    ):
        rows = {"sample": pa.array(ids, pa.string()), "g": pa.array(x[: len(ids), 0])}
        parquet.write_table(pa.table(rows), tmp_path / "rna.parquet")
        with pytest.raises(ef.DataError, match=message):
            ef.datasets.load(tmp_path / "clinic.csv", source=source)


def test_targets_tell_the_task(tmp_path):
    x, columns = table()
    columns |= {
        "y1": x[:, 0] * 3,
        "a": [0, 1] * 10,
        "b": [1, 1] * 10,
        "time": np.arange(20) + 0.5,
        "event": [1, 0] * 10,
    }
    write_csv(tmp_path / "t.csv", columns)
    found = {}
    for target, task in (("y1", None), ("a", None), (("a", "b"), None), (("time", "event"), "survival")):
        dataset = ef.datasets.load(tmp_path / "t.csv", source={**OWN, "target": target, "task": task})
        found[target] = dataset.task, dataset.n_outputs
    assert list(found.values()) == [("regression", 1), ("classification", 2), ("multilabel", 2), ("survival", 1)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modalities": {"rna": "x_*"}}, "no column like 'x_\\*'"),
        ({"modalities": {"rna": "status2,set2"}}, "no column like"),
        ({"modalities": {"rna": "none.parquet"}}, "no such file: none.parquet"),
        ({"target": "illness"}, "no target column 'illness'"),
        ({"id": "nr"}, "no column 'nr'"),
        ({"split": "nr"}, "no column 'nr'"),
        ({"task": "clasification"}, "did you mean 'classification'"),
        ({"target": "status", "task": "regression"}, "needs numbers"),
        ({"modalities": {"rna": "cg*"}, "target": "g_0", "task": "classification"}, "which are no classes"),
        ({"modality": {}}, "source option 'modality'"),
        ({"modalities": {}}, "which columns are which modality"),
    ],
)
def test_table_mistakes(tmp_path, change, message):
    write_csv(tmp_path / "t.csv", table()[1])
    with pytest.raises(ef.EquifuseError, match=message) as caught:
        ef.datasets.load(tmp_path / "t.csv", source={**OWN, **change})
    assert "\n" not in str(caught.value)


def test_what_is_of_no_use_for_a_format_is_refused(tmp_path):
    with pytest.raises(ef.InputError, match="takes no option 'target'"):
        ef.datasets.load("digits", source={"target": "label"})


# ---- MuData ---------------------------------------------------------------------------------------------------


def test_mudata(tmp_path):
    mudata = pytest.importorskip("mudata")
    import anndata
    import pandas as pd

    cells = [f"c{i}" for i in range(20)]
    rna = anndata.AnnData(sparse.csr_matrix(np.abs(numbers(20, 4))), obs=pd.DataFrame(index=cells))
    protein = anndata.AnnData(numbers(18, 2), obs=pd.DataFrame(index=cells[2:]))
    data = mudata.MuData({"rna": rna, "protein": protein})
    data.obs["type"] = pd.Categorical(["T", "B"] * 10)
    data.obs["part"] = ["train"] * 12 + ["val"] * 3 + ["test"] * 5
    data.write(tmp_path / "set.h5mu")
    order = list(data.obs_names)
    dataset = ef.datasets.load(tmp_path / "set.h5mu", source={"target": "type", "split": "part"})
    assert dataset.dims == {"rna": 4, "protein": 2}
    assert dataset.classes == ("B", "T")
    train = dataset.splits["train"]
    assert {c for c, here in zip(train.ids, train.present["protein"], strict=True) if not here} == {"c0", "c1"}
    np.testing.assert_allclose(whole(dataset, "rna"), rna[order].X.toarray())
    with pytest.raises(ef.InputError, match="Pass target"):
        ef.datasets.load(tmp_path / "set.h5mu")
    (tmp_path / "bad.h5mu").write_bytes(b"no")
    with pytest.raises(ef.DataError, match="cannot be read as HDF5"):
        ef.datasets.load(tmp_path / "bad.h5mu", source={"target": "type"})


# ---- on disk --------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path):
    x = numbers(100, 3, 2)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=x, chunks=(7, 3, 2))
    flat = x.reshape(100, 6)
    parquet.write_table(pa.table({f"f{j}": flat[:, j] for j in range(6)}), tmp_path / "x.parquet", row_group_size=9)
    np.save(tmp_path / "x.npy", x)
    return tmp_path, x


@pytest.mark.parametrize("kind", ["h5", "parquet", "npy"])
def test_rows_on_disk_are_those_of_the_array(stored, kind):
    folder, x = stored
    from equifuse.data.lazy import NpyArray

    names = tuple(f"f{j}" for j in range(6))
    rows: LazyArray = {
        "h5": lambda: HDF5Array(folder / "x.h5", "x"),
        "parquet": lambda: ParquetArray(folder / "x.parquet", names),
        "npy": lambda: NpyArray(folder / "x.npy"),
    }[kind]()
    expected = x.reshape(100, 6) if kind == "parquet" else x
    assert rows.shape == expected.shape
    index = RNG.permutation(100)[:40]
    for wanted in (index, np.array([5, 5, 99, 0]), slice(3, 50), slice(None), np.arange(0)):
        np.testing.assert_array_equal(rows[wanted], expected[wanted])
    some = rows.select(index)
    np.testing.assert_array_equal(some[np.array([3, 1])], expected[index[[3, 1]]])
    np.testing.assert_array_equal(some.select(np.array([2, 0]))[:], expected[index[[2, 0]]])
    again = pickle.loads(pickle.dumps(some))
    np.testing.assert_array_equal(again[:], expected[index])
