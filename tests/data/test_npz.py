import shutil

import numpy as np
import pytest

import equifuse as ef
from equifuse.cli import main
from equifuse.datasets import read_npz, write_npz


def ready(rows=(12, 4, 6), classes=3):
    """Arrays of the ready-split layout, two modalities."""
    generator = np.random.default_rng(0)
    arrays = {"modalities": np.array(["a", "b"]), "task": np.array("classification")}
    for part, n in zip(("train", "val", "test"), rows, strict=True):
        arrays[f"a_{part}"] = generator.normal(size=(n, 5)).astype(np.float32)
        arrays[f"b_{part}"] = generator.normal(size=(n, 2, 3)).astype(np.float32)
        arrays[f"y_{part}"] = np.arange(n) % classes
    return arrays


def indexed(rows=20):
    generator = np.random.default_rng(0)
    order = generator.permutation(rows)
    return {
        "modalities": np.array(["a"]),
        "task": np.array("classification"),
        "a": generator.normal(size=(rows, 5)).astype(np.float32),
        "y": np.arange(rows) % 2,
        "train_idx": order[:12],
        "test_idx": order[12:],
    }


def stored(tmp_path, arrays):
    path = tmp_path / "set.npz"
    np.savez(path, **arrays)
    return path


def test_ready_layout(tmp_path):
    arrays = ready()
    dataset = read_npz(stored(tmp_path, arrays))
    assert (dataset.name, dataset.task, dataset.n_outputs) == ("set", "classification", 3)
    assert dataset.shapes == {"a": (5,), "b": (2, 3)}
    assert dataset.dims == {"a": 5, "b": 6}
    for part, split in dataset.splits.items():
        np.testing.assert_array_equal(split.inputs["b"], arrays[f"b_{part}"])
        np.testing.assert_array_equal(split.target, arrays[f"y_{part}"])


def test_index_layout_and_a_validation_part_split_off_train(tmp_path):
    arrays = indexed()
    dataset = read_npz(stored(tmp_path, arrays), val_fraction=0.25)
    sizes = {part: len(split) for part, split in dataset.splits.items()}
    assert sizes["test"] == 8
    assert sizes["val"] in (2, 3, 4)  # a quarter of each class, rounded
    assert sizes["train"] + sizes["val"] == 12
    np.testing.assert_array_equal(dataset.splits["test"].inputs["a"], arrays["a"][arrays["test_idx"]])
    together = np.concatenate([dataset.splits[part].inputs["a"] for part in ("train", "val")])
    expected = arrays["a"][arrays["train_idx"]]
    np.testing.assert_array_equal(np.sort(together, axis=0), np.sort(expected, axis=0))
    other = read_npz(stored(tmp_path, arrays), val_fraction=0.25, seed=5)
    assert other.fingerprint() != dataset.fingerprint()
    assert read_npz(stored(tmp_path, arrays), val_fraction=0.25).fingerprint() == dataset.fingerprint()


def test_written_and_read_back(tmp_path):
    arrays = ready()
    arrays["a_train"][3] = np.nan
    arrays["class_names"] = np.array(["x", "y", "z"])
    dataset = read_npz(stored(tmp_path, arrays))
    assert dataset.splits["train"].present["a"].tolist() == [i != 3 for i in range(12)]
    assert "b" not in dataset.splits["train"].present
    write_npz(tmp_path / "copy" / "set.npz", dataset)
    again = read_npz(tmp_path / "copy" / "set.npz")
    assert again.fingerprint() == dataset.fingerprint()
    assert again.classes == ("x", "y", "z")
    assert [p.name for p in (tmp_path / "copy").iterdir()] == ["set.npz"]


def change(key, value):
    return lambda arrays: arrays.__setitem__(key, value(arrays[key]) if callable(value) else value)


def put(where, value):
    def edit(array):
        array = array.copy()
        array[where] = value
        return array

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda a: a.pop("task"), "no key 'task'"),
        (change("task", np.array("clasification")), "did you mean 'classification'"),
        (lambda a: a.pop("b_test"), "b_test"),
        (lambda a: a.pop("y_train"), "no labels"),
        (change("a_train", lambda x: x[:-1]), "rows in split 'train'"),
        (change("a_val", lambda x: x[:, :-1]), r"'a' has shape \(4,\) in split 'val'"),
        (change("a_train", put((1, 2), -np.inf)), "modality 'a' has infinite values in 1 of 12 rows"),
        (change("b_test", put((slice(0, 3), 0, 0), np.inf)), "modality 'b' has infinite values in 3 of 6 rows"),
        (change("y_train", lambda y: y + 1), "class 'x' of split 'val' does not occur in 'train'"),
        (change("y_train", put(0, -1)), "labels must start at 0"),
        (change("y_test", put(0, 7)), "class 7 of split 'test' does not occur in 'train'"),
        (change("y_train", lambda y: y + 0.5), "whole numbers"),
        (change("y_train", lambda y: y[:-1]), "labels for 12 rows"),
        (change("y_train", np.array(1)), "'y_train' must be a list"),
        (change("modalities", np.array(["a", "a"])), "each once; it has"),
        (change("class_names", np.array(["x", "y"])), "too large|does not occur|run from 0 to 1"),
    ],
)
def test_each_mistake_has_its_own_message(tmp_path, edit, message):
    arrays = ready()
    arrays["class_names"] = np.array(["x", "y", "z"])
    edit(arrays)
    with pytest.raises(ef.EquifuseError, match=message) as caught:
        read_npz(stored(tmp_path, arrays))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda a: a.pop("test_idx"), "no 'test_idx'"),
        (change("test_idx", lambda i: i + 100), "outside of the 20 rows"),
        (change("test_idx", lambda i: np.append(i, i[0])), "more than one split, or twice"),
        (lambda a: a.__setitem__("val_idx", a["test_idx"][:2]), "more than one split"),
        (change("y", lambda y: y[:-1]), "19 labels for 20 rows"),
        (change("train_idx", lambda i: i.astype(float)), "list of integers"),
        (change("a", np.array(1.0)), "'a' must be a list"),
        (lambda a: a.__setitem__("sample_ids", np.zeros((20, 2))), "'sample_ids' must be a list"),
        (change("modalities", np.array([], dtype=str)), "at least one modality"),
    ],
)
def test_mistakes_of_the_index_layout(tmp_path, edit, message):
    arrays = indexed()
    edit(arrays)
    with pytest.raises(ef.DataError, match=message):
        read_npz(stored(tmp_path, arrays))


def test_pickles_and_damaged_files_are_refused(tmp_path):
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, modalities=np.array([{"a": 1}], dtype=object), task="classification")
    with pytest.raises(ef.DataError, match="no pickled objects"):
        read_npz(pickled)
    torn = tmp_path / "torn.npz"
    torn.write_bytes(stored(tmp_path, ready()).read_bytes()[:200])
    with pytest.raises(ef.DataError, match="cannot be read"):
        read_npz(torn)
    with pytest.raises(ef.DataError, match="no such file"):
        read_npz(tmp_path / "none.npz")


def test_by_name_from_a_folder(tmp_path, monkeypatch):
    stored(tmp_path, ready())
    assert ef.datasets.available(tmp_path) == ["digits", "set"]
    assert ef.datasets.load("set", tmp_path).name == "set"
    monkeypatch.setenv("EQUIFUSE_DATA", str(tmp_path))
    assert ef.datasets.load("set").name == "set"
    with pytest.raises(ef.UnknownNameError, match="did you mean 'set'"):
        ef.datasets.load("sett")
    with pytest.raises(ef.DataError, match=r"is a folder; name a file in it; known are: \.npz"):
        ef.datasets.load(tmp_path)
    monkeypatch.delenv("EQUIFUSE_DATA")
    assert ef.datasets.available() == ["digits"]
    with pytest.raises(ef.UnknownNameError, match="set EQUIFUSE_DATA"):
        ef.datasets.load("set")


@pytest.mark.data
def test_every_real_set_loads_in_both_layouts(data_root):
    sets = [ef.datasets.load(name, data_root) for name in ef.datasets.available(data_root)]
    assert len(sets) > 20
    layouts = set()
    for dataset in sets[1:]:
        with np.load(data_root / f"{dataset.name}.npz", allow_pickle=False) as file:
            layouts.add("train_idx" in file.files)
            assert dataset.modalities == tuple(str(m) for m in file["modalities"])
            # A stored validation part is used as it is; else one is split off the training part.
            stored_train = (
                len(file["train_idx"]) if "train_idx" in file.files else len(file[f"{dataset.modalities[0]}_train"])
            )
            has_val = "val_idx" in file.files or f"{dataset.modalities[0]}_val" in file.files
        rows = {part: len(split) for part, split in dataset.splits.items()}
        assert rows["train"] + (0 if has_val else rows["val"]) == stored_train
        for split in dataset.splits.values():
            assert all(x.dtype == np.float32 and np.isfinite(x).all() for x in split.inputs.values())
    assert layouts == {True, False}


def test_other_archives_are_not_listed(tmp_path, small_set, capsys):
    shutil.copy(small_set, tmp_path / "mine.npz")
    np.savez(tmp_path / "weights.npz", w=np.zeros(3))
    (tmp_path / "damaged.npz").write_bytes(b"PK\x03\x04 and nothing")
    assert ef.datasets.available(tmp_path) == ["digits", "mine"]
    with pytest.raises(SystemExit) as ended:
        main(["datasets", "--root", str(tmp_path)])
    assert ended.value.code == 0
    assert "mine" in capsys.readouterr().out
    for name in ("weights", "damaged"):
        with pytest.raises(ef.DataError, match=f"{name}.npz"):
            ef.datasets.load(name, tmp_path)
