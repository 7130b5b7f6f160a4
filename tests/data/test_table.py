import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

import equifuse as ef
from equifuse.datasets import read_inputs

SHAPES = {"rna": (3,), "image": (2, 2)}


def columns(rows=4):
    x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    image = np.linspace(0, 1, rows * 4, dtype=np.float32).reshape(rows, 2, 2)
    named = {f"rna:gene{i}": x[:, i] for i in range(3)} | {f"image_{i}": image.reshape(rows, 4)[:, i] for i in range(4)}
    return x, image, named


def written(tmp_path, named, suffix):
    path = tmp_path / f"rows{suffix}"
    if suffix == ".csv":
        csv.write_csv(pa.table(named), path)
    else:
        parquet.write_table(pa.table(named), path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables(tmp_path, suffix):
    x, image, named = columns()
    # Numbered columns are ordered by their number, wherever they are in the file; others are ignored.
    shuffled = {"id": ["p1", "p2", "p3", "p4"], "age": [1, 2, 3, 4], "image_3": named["image_3"], **named}
    split = read_inputs(written(tmp_path, shuffled, suffix), SHAPES)
    inputs, present, ids = split.inputs, split.present, split.ids
    np.testing.assert_array_equal(inputs["rna"], x)
    np.testing.assert_allclose(inputs["image"], image, rtol=1e-6)
    assert present == {}
    assert ids.tolist() == ["p1", "p2", "p3", "p4"]


def test_archive(tmp_path):
    x, image, _ = columns()
    np.savez(tmp_path / "rows.npz", rna=x, image=image)
    split = read_inputs(tmp_path / "rows.npz", SHAPES)
    inputs, present, ids = split.inputs, split.present, split.ids
    np.testing.assert_array_equal(inputs["image"], image)
    assert present == {}
    assert ids is None


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_empty_rows_are_missing_modalities(tmp_path, suffix):
    x, _, named = columns()
    gaps = {
        name: pa.array([None if row == 2 else float(v) for row, v in enumerate(column)])
        if name.startswith("rna")
        else column
        for name, column in named.items()
    }
    split = read_inputs(written(tmp_path, gaps, suffix), SHAPES)
    inputs, present = split.inputs, split.present
    assert present["rna"].tolist() == [True, True, False, True]
    assert "image" not in present
    np.testing.assert_array_equal(inputs["rna"][[0, 1, 3]], x[[0, 1, 3]])


def test_a_modality_without_columns_is_absent(tmp_path):
    _, _, named = columns()
    only = {name: column for name, column in named.items() if name.startswith("rna")}
    inputs = read_inputs(written(tmp_path, only, ".csv"), SHAPES).inputs
    assert list(inputs) == ["rna"]


def test_mistakes(tmp_path):
    _, _, named = columns()
    with pytest.raises(ef.DataError, match="unknown kind of file"):
        read_inputs(tmp_path / "rows.sav", SHAPES)
    with pytest.raises(ef.DataError, match="no such file"):
        read_inputs(tmp_path / "rows.csv", SHAPES)
    short = {k: v for k, v in named.items() if k != "rna:gene2"}
    with pytest.raises(ef.DataError, match="'rna' has width 2, the model was built for 3"):
        read_inputs(written(tmp_path, short, ".csv"), SHAPES)
    partly = {**named, "rna:gene0": pa.array([1.0, None, 3.0, 4.0])}
    rows = read_inputs(written(tmp_path, partly, ".csv"), SHAPES)
    assert np.isnan(rows.inputs["rna"][1, 0])
    assert "rna" not in rows.present  # it is there, with a gap
    partly["rna:gene0"] = pa.array([1.0, float("inf"), 3.0, 4.0])
    with pytest.raises(ef.DataError, match="'rna' has infinite values in 1 of 4 rows"):
        read_inputs(written(tmp_path, partly, ".csv"), SHAPES)
    words = {**named, "rna:gene0": ["high", "low", "low", "low"]}
    with pytest.raises(ef.DataError, match="'rna:gene0' of modality 'rna' is not numeric"):
        read_inputs(written(tmp_path, words, ".csv"), SHAPES)
    with pytest.raises(ef.DataError, match="none of the model's modalities: rna, image"):
        read_inputs(written(tmp_path, {"age": [1, 2]}, ".csv"), SHAPES)
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ef.DataError, match="cannot be read"):
        read_inputs(tmp_path / "torn.parquet", SHAPES)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ef.DataError, match="cannot be read"):
        read_inputs(tmp_path / "empty.csv", SHAPES)


def test_hdf5_and_columns_by_their_names(tmp_path):
    import h5py

    x, image, _ = columns()
    with h5py.File(tmp_path / "rows.hdf5", "w") as file:
        file["rna_test"], file["image_test"], file["sample_ids_test"] = x, image, ["a", "b", "c", "d"]
    split = read_inputs(tmp_path / "rows.hdf5", SHAPES)
    np.testing.assert_array_equal(split.inputs["image"], image)
    assert split.ids.tolist() == ["a", "b", "c", "d"]
    free = {"TP53": x[:, 0], "EGFR": x[:, 1], "note": ["-"] * 4, "MYC": x[:, 2]}
    names = {"rna": ("MYC", "TP53", "EGFR")}
    found = read_inputs(written(tmp_path, free, ".csv"), {"rna": (3,)}, names).inputs["rna"]
    np.testing.assert_array_equal(found, x[:, [2, 0, 1]])
    del free["EGFR"]
    with pytest.raises(ef.DataError, match="no column 'EGFR'"):
        read_inputs(written(tmp_path, free, ".csv"), {"rna": (3,)}, names)
