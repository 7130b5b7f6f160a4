"""Columns that are no numbers: codes, days and circles, hashed words; what they stand for goes with the model."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import HashingVectorizer

import equifuse as ef
from equifuse.data.columns import Column, describe_columns, encode_columns, kinds_of, names_of, owners_of
from equifuse.runs import TrainConfig, predict_run, train

RNG = np.random.default_rng(0)
N = 60
Y = np.arange(N) % 2
NOTES = [f"pain in the {part} since {day}" for part in ("knee", "back", "hand") for day in range(20)]
FRAME = pd.DataFrame(
    {
        "age": RNG.normal(50, 9, N).round(1),
        "sex": np.where(RNG.random(N) < 0.5, "f", "m"),
        "site": pd.Categorical(np.array(["Ulm", "Bonn"])[Y]),
        "seen": pd.to_datetime("2024-01-01") + pd.to_timedelta(RNG.integers(0, 300, N), unit="D"),
        "note": NOTES,
        "smoker": RNG.random(N) < 0.3,
        "count": pd.array(RNG.integers(0, 9, N), dtype="Int64"),
    }
)
FRAME.loc[3, "sex"] = None
FRAME.loc[4, "count"] = pd.NA


def test_kinds_are_seen_from_types_and_values():
    kinds = {column.name: column.kind for column in describe_columns(FRAME)}
    assert kinds == {
        "age": "number",
        "sex": "category",
        "site": "category",
        "seen": "date",
        "note": "text",
        "smoker": "boolean",
        "count": "number",
    }
    texts = pd.DataFrame({"d": ["2024-05-01", "2024-12-31T10:00:00Z"], "zip": [1010, 1020]})
    assert [column.kind for column in describe_columns(texts, {"z*": "category"})] == ["date", "category"]
    with pytest.raises(ef.UnknownNameError, match="did you mean 'category'"):
        describe_columns(texts, {"zip": "categorie"})


def test_cells_become_numbers_and_are_stored_in_json():
    columns = describe_columns(FRAME)
    again = tuple(map(Column.of, json.loads(json.dumps([column.stored() for column in columns]))))
    assert again == columns
    x = encode_columns(FRAME, again)
    names = names_of(columns)
    assert x.shape == (N, len(names)) == (N, len(kinds_of(columns)))
    found = {name: x[:, i] for i, name in enumerate(names)}
    np.testing.assert_array_equal(np.isnan(found["sex"]), FRAME["sex"].isna())
    np.testing.assert_array_equal(found["site"], 1 - Y % 2 * 1.0)  # Bonn is 0, Ulm 1
    np.testing.assert_array_equal(found["seen"], (FRAME["seen"] - pd.Timestamp("2000-01-01")).dt.days)
    angle = np.arctan2(found["seen~week.sin"], found["seen~week.cos"]) % (2 * np.pi) * 7 / (2 * np.pi)
    np.testing.assert_allclose(angle.round(3) % 7, FRAME["seen"].dt.dayofweek)
    words = HashingVectorizer(n_features=256, ngram_range=(1, 2)).transform(NOTES).toarray()
    note = owners_of(columns) == [column.name for column in columns].index("note")
    np.testing.assert_allclose(x[:, note], words, atol=1e-6)


@pytest.mark.parametrize(
    ("column", "cells", "message"),
    [
        (Column("age"), [40, "old"], "column 'age' has 'old' in row 1, which is no number"),
        (Column("seen", "date"), pd.Series([50.5, 40.0]), "column 'seen' has numbers such as 50.5, which are no dates"),
        (Column("seen", "date"), ["2024-01-01", "soon"], "column 'seen' has 'soon' in row 1, which is no date"),
    ],
)
def test_cells_of_another_kind_are_named(column, cells, message):
    with pytest.raises(ef.DataError, match=message):
        column.numbers(cells)


def written(tmp_path, frame, name="t.csv"):
    path = tmp_path / name
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_csv(path, index=False)
    return path


SOURCE = {"modalities": {"clinic": "age,sex,site,seen,note,smoker", "lab": "count"}, "target": "y"}


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_table_is_read_with_them(tmp_path, name):
    data = ef.datasets.load(written(tmp_path, FRAME.assign(y=Y), name), source=SOURCE)
    assert data.features["clinic"] == ("age", "sex", "site", "seen", "note", "smoker")
    assert list(data.schema) == ["clinic"]
    assert data.shapes["clinic"] == (len(names_of(data.schema["clinic"])),)


def test_mistakes_in_a_table(tmp_path):
    path = written(tmp_path, FRAME.assign(y=Y, name=[f"p{i}" for i in range(N)]))
    with pytest.raises(ef.DataError, match="'name' has another text in each of the 60 rows; leave it out"):
        ef.datasets.load(path, source={"modalities": {"a": "age,name"}, "target": "y"})
    with pytest.raises(ef.DataError, match="no modality has a column 'zip', which --column gives a kind"):
        ef.datasets.load(path, source={**SOURCE, "kinds": {"zip": "category"}})


def test_plain_arrays_cannot_say_what_columns_hold(tmp_path):
    from equifuse.data.conversion import convert

    path = written(tmp_path, FRAME.assign(y=Y))
    with pytest.raises(ef.InputError, match="'sex' of modality 'clinic' is a category, which plain arrays cannot say"):
        convert(path, tmp_path / "t.npz", SOURCE)


def test_an_unknown_class_is_predicted_as_one_that_was_rare_or_missing(tmp_path):
    path = written(tmp_path, FRAME.assign(y=Y))
    config = TrainConfig(str(path), source=SOURCE, fusion="sum", epochs=3, hidden=(4,), dim=4, lr=0.01)
    run = train(config, tmp_path / "run", progress=False).path
    new = FRAME.head(6).copy()
    new["sex"] = new["sex"].astype(object)
    new.loc[:, "sex"] = ["f", "m", "other", None, "", "f"]
    columns = predict_run(run, written(tmp_path, new, "new.csv"), tmp_path / "p.csv")
    same = new.loc[[2, 2]].assign(sex=["other", None])
    found = predict_run(run, written(tmp_path, same, "same.parquet"), tmp_path / "p2.csv")
    name = next(name for name in columns if name.startswith("prob_"))
    assert np.isfinite(columns[name]).all()
    assert found[name][0] == found[name][1]  # the missing sex of the training part stands for both


def test_an_embedding_of_words_brings_its_weights():
    pytest.importorskip("wordllama")
    x = Column("note", "embedding").numbers(["a cat sat", "a kitten sat", "the stock market fell", None])
    assert x[0] @ x[1] > 0.5 > x[0] @ x[2]
    assert np.isnan(x[3]).all()
