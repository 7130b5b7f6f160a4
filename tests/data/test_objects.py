"""Data sets of frames and single-cell objects in memory."""

import numpy as np
import pytest

import equifuse as ef

pd = pytest.importorskip("pandas")
N = 40
IDS = [f"p{i}" for i in range(N)]
X = np.random.default_rng(0).standard_normal((N, 5)).astype(np.float32)
Y = np.array(["low", "high"])[np.arange(N) % 2]


def frames():
    rna = pd.DataFrame(X[:, :3], IDS, ["g0", "g1", "g2"])
    protein = pd.DataFrame(X[:, 3:], IDS, ["s", "t"])
    return {"rna": rna, "protein": protein, "clinic": pd.DataFrame({"label": Y, "batch": 1}, IDS)}


def by_id(dataset, m):
    return {k: x for s in dataset.splits.values() for k, x in zip(s.ids.tolist(), s.inputs[m], strict=True)}


def assert_is_x(dataset, m="rna", columns=slice(0, 3), known=N):
    found = by_id(dataset, m)
    for i, key in enumerate(IDS):
        np.testing.assert_array_equal(found[key], X[i, columns] if i < known else np.full_like(X[i, columns], np.nan))


def test_a_frame_is_read_as_its_file_is(tmp_path):
    frame = pd.concat([frames()["rna"], frames()["clinic"]], axis=1)
    source = {"modalities": {"rna": "g*", "batch": "batch"}}
    found = ef.datasets.load(frame, source=source)
    assert_is_x(found)
    frame.to_csv(tmp_path / "t.csv")
    assert ef.datasets.load(tmp_path / "t.csv", source=source).fingerprint() == found.fingerprint()
    pa, polars = pytest.importorskip("pyarrow"), pytest.importorskip("polars")
    for other in (pa.Table.from_pandas(frame, preserve_index=False), polars.from_pandas(frame), frame.convert_dtypes()):
        assert ef.datasets.load(other, source=source).fingerprint() == found.fingerprint()


def test_frames_of_modalities_are_joined_by_index():
    given = frames()
    given["protein"] = given["protein"].iloc[:30].sample(frac=1, random_state=0)
    dataset = ef.datasets.load(given)
    assert dataset.modalities == ("rna", "protein", "clinic")
    assert dataset.classes == ("high", "low")
    assert_is_x(dataset)
    assert_is_x(dataset, "protein", slice(3, 5), 30)
    assert dataset.features["clinic"] == ("batch",)
    assert [source.ids.matched for source in dataset.sources[1:]] == [40, 30, 40]
    given["clinic"] = given["clinic"].drop(columns="batch")
    assert ef.datasets.load(given).modalities == ("rna", "protein")


def test_frames_without_ids_go_by_order_if_they_have_the_same_rows():
    given = {m: frame.reset_index(drop=True) for m, frame in frames().items()}
    dataset = ef.datasets.load(given)
    rows = np.concatenate([split.inputs["rna"] for split in dataset.splits.values()])
    np.testing.assert_array_equal(np.sort(rows, axis=0), np.sort(X[:, :3], axis=0))
    given["rna"] = given["rna"].iloc[:-1]
    with pytest.raises(ef.DataError, match="frame 'rna' has 39 rows, frame 'clinic' has 40 and no ids; give both an"):
        ef.datasets.load(given)


def test_columns_of_two_levels_are_modalities():
    parts = frames()
    frame = pd.concat({m: parts[m] for m in ("rna", "protein")}, axis=1)
    frame["label"] = Y
    frame.columns = [":".join(name).rstrip(":") for name in frame.columns]
    expected = ef.datasets.load(frame)
    assert expected.dims == {"rna": 3, "protein": 2}
    assert_is_x(expected)
    levels = pd.concat({"rna": parts["rna"], "protein": parts["protein"], "": parts["clinic"][["label"]]}, axis=1)
    assert ef.datasets.load(levels, source={"target": ":label"}).fingerprint() == expected.fingerprint()


def test_objects_of_cells(tmp_path):
    anndata, mudata = pytest.importorskip("anndata"), pytest.importorskip("mudata")
    parts = frames()
    cells = anndata.AnnData(parts["rna"], obs=parts["clinic"][["label"]], obsm={"protein": parts["protein"]})
    source = {"target": "label"}
    dataset = ef.datasets.load(cells, source=source)
    assert_is_x(dataset, "x")
    assert_is_x(dataset, "protein", slice(3, 5))
    assert dataset.features == {"x": ("g0", "g1", "g2"), "protein": ("s", "t")}
    cells.write_h5ad(tmp_path / "c.h5ad")
    named = {**source, "modalities": {"rna": "X", "protein": "protein"}}
    assert_is_x(ef.datasets.load(tmp_path / "c.h5ad", source=named))
    with pytest.raises(ef.DataError, match="has no array 'Y'; it has X, protein"):
        ef.datasets.load(cells, source={**source, "modalities": {"rna": "Y"}})
    several = mudata.MuData({"rna": cells, "protein": anndata.AnnData(parts["protein"].iloc[:30])})
    several.obs["label"] = Y
    assert_is_x(ef.datasets.load(several, source=source), "protein", slice(3, 5), 30)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (3, ef.InputError, "cannot make a data set of a int; pass a path, a frame, or a dict of them"),
        ({"a": X}, ef.InputError, "needs frames with a target among their columns, got ndarray for 'a'"),
        ({}, ef.InputError, "an empty mapping"),
        ({"rna": frames()["rna"]}, ef.InputError, "no frame has the target; pass target as the name"),
        (
            {"a": frames()["clinic"], "b": frames()["clinic"]},
            ef.DataError,
            "more than one frame has a column 'label': a, b",
        ),
        (
            {**frames(), "rna": frames()["rna"].add_prefix("q", axis=0)},
            ef.DataError,
            "frame 'rna' knows none of the 40",
        ),
    ],
)
def test_what_is_no_data_set(given, error, message):
    with pytest.raises(error, match=message):
        ef.datasets.load(given)
