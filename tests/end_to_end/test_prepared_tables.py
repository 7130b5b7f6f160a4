"""A table with categories, dates, texts, gaps and a preparation gives the same predictions wherever the model is."""

import io
import json

import numpy as np
import pandas as pd
import pytest
import torch

import equifuse as ef
from equifuse.data.columns import encode_columns
from equifuse.data.loaders import batches_of
from equifuse.explain import attribute
from equifuse.runs import TrainConfig, evaluate_run, load_run, predict_run, train

pytestmark = pytest.mark.slow
N = 90
RNG = np.random.default_rng(0)
Y = np.arange(N) % 2


def patients(n=N, y=Y):
    frame = pd.DataFrame(
        {
            "age": RNG.normal(50 + 9 * y, 9).round(1),
            "sex": np.where(RNG.random(n) < 0.5, "f", "m"),
            "site": np.array(["Ulm", "Bonn", "Köln"])[RNG.integers(0, 3, n)],
            "seen": [f"2024-{m:02d}-11" for m in RNG.integers(1, 13, n)],
            "note": [f"pain in the {'knee' if one else 'back'} since day {i}" for i, one in enumerate(y)],
            **{f"g_{i}": RNG.gamma(2 + y) for i in range(6)},
        }
    )
    frame = frame.mask(RNG.random(frame.shape) < 0.05)
    frame.loc[0, [f"g_{i}" for i in range(6)]] = np.nan
    return frame


SOURCE = {"modalities": {"clinic": "age,sex,site,seen,note", "rna": "g_*"}, "target": "y", "task": "classification"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    table = folder / "t.csv"
    patients().assign(y=Y).to_csv(table, index=False)
    prepare = {"clinic": "batch:site,impute:indicator", "rna": "log1p,impute:knn:3,correlation:0.99,pca:3"}
    options = {"fusion": "sum", "dim": 8, "hidden": (8,), "epochs": 4, "lr": 0.01, "row_missing": 0.6}
    return train(
        TrainConfig(str(table), source=SOURCE, prepare=prepare, **options), folder / "run", progress=False
    ).path


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    frame = patients(12, np.arange(12) % 2)
    frame.loc[1, ["sex", "site"]] = ["other", "Paris"]
    path = tmp_path_factory.mktemp("new") / "new.csv"
    frame.to_csv(path, index=False)
    return frame, path


def test_everywhere_the_same(run, new, tmp_path):
    frame, path = new
    columns = predict_run(run, path, tmp_path / "p.csv")
    name = next(name for name in columns if name.startswith("prob_"))
    expected = columns[name]
    frame.to_parquet(tmp_path / "new.parquet")
    other = predict_run(run, tmp_path / "new.parquet", tmp_path / "p2.csv")
    np.testing.assert_allclose(other[name], expected, rtol=1e-5)

    opened = load_run(run)
    model = opened.model
    clinic = list(model.features["clinic"])
    x = {
        "clinic": torch.from_numpy(encode_columns(frame[clinic], model.schema["clinic"])),
        "rna": torch.from_numpy(frame[list(model.features["rna"])].to_numpy(np.float32)),
    }
    with torch.no_grad():
        output = model(x).prediction
    np.testing.assert_allclose(output.softmax(1)[:, 0].numpy(), expected, rtol=1e-4)

    from equifuse.export import describe, export_model

    export_model(model, tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    present = {m: torch.ones(12, dtype=torch.bool) for m in x}
    torch.testing.assert_close(program(x, present, {})["logits"], output, rtol=1e-4, atol=1e-5)
    described = describe(tmp_path / "model.pt2").columns["clinic"]
    assert {"name": "site", "kind": "category", "values": ["Bonn", "Köln", "Ulm"]} in described

    pytest.importorskip("starlette", reason="needs equifuse[serve]")
    from tests.serve.conftest import client_of

    client = client_of(run)

    def rows(columns):
        return json.loads(frame[columns].to_json(orient="values"))

    body = {"inputs": {"clinic": rows(clinic), "rna": rows(list(model.features["rna"]))}}
    answer = client.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    np.testing.assert_allclose(answer.json()["columns"][name], expected, rtol=1e-4)
    parquet = io.BytesIO()
    frame.to_parquet(parquet)
    sent = {"Content-Type": "application/vnd.apache.parquet"}
    answer = client.post("/predict", content=parquet.getvalue(), headers=sent)
    np.testing.assert_allclose(answer.json()["columns"][name], expected, rtol=1e-4)
    bad = {"inputs": {"clinic": [["old", "f", "Ulm", "2024-01-01", "pain"]]}}
    answer = client.post("/predict", json=bad)
    assert answer.status_code in (400, 422)
    assert "column 'age' has 'old' in row 0, which is no number" in answer.text
    modality = client.get("/model").json()["modalities"]["clinic"]
    assert modality["shape"] == [5]
    assert [column["kind"] for column in modality["columns"]] == ["number", "category", "category", "date", "text"]


def test_another_table_is_measured_by_the_names_of_its_categories(run, tmp_path):
    """There, other categories get other codes."""
    path = tmp_path / "other.csv"
    frame = patients().assign(y=Y)
    frame["site"] = frame["site"].where(frame["site"] != "Bonn", "Aachen")
    frame.to_csv(path, index=False)
    whole = evaluate_run(run, data=str(path))
    frame["site"] = frame["site"].where(frame["site"] != "Aachen", "Zürich")  # as unknown as before
    frame.to_csv(path, index=False)
    assert evaluate_run(run, data=str(path)) == whole


def test_explanations_are_of_the_table_s_own_columns(run):
    pytest.importorskip("captum")
    opened = load_run(run)
    split = opened.dataset().splits["test"]
    found = attribute(opened.model, opened.task, batches_of(split))
    assert found.names["clinic"] == ("age", "sex", "site", "seen", "note")
    assert found.values["clinic"].shape == (len(split), 5)
    assert found.values["rna"].shape == (len(split), 6)
    total = sum(x.sum(1) for x in found.values.values())
    np.testing.assert_allclose(total, found.full - found.baseline, atol=0.02 + np.abs(found.delta).max())


def test_the_record_says_what_was_prepared(run):
    record = load_run(run).record
    assert record["preparation"]["rna"][:2] == ["log1p -> 6", "impute:knn:3 -> 6"]
    assert record["data"]["columns"]["clinic"] == [
        "category: sex (2 values), site (3 values)",
        "date: seen",
        "text: note",
    ]
    assert 0 < record["data"]["gaps"]["rna"] < 0.1


def test_an_estimator_takes_the_same_frame():
    frame = patients()
    options = {"dim": 8, "hidden": (8,), "epochs": 2, "random_state": 0}
    clinic = ["age", "sex", "site", "seen", "note"]
    by_name = ef.FusionClassifier("sum", modalities={"clinic": clinic, "rna": "g_*"}, **options).fit(frame, Y)
    pieces = {"clinic": frame[clinic], "rna": frame.filter(like="g_")}
    of_pieces = ef.FusionClassifier("sum", **options).fit(pieces, Y)
    np.testing.assert_allclose(by_name.predict_proba(frame), of_pieces.predict_proba(pieces), rtol=1e-5)
    assert by_name.model_.features["clinic"] == tuple(clinic)
    with pytest.raises(ef.InputError, match="kinds are for the columns of data frames"):
        ef.FusionClassifier("sum", kinds={"a": "category"}, **options).fit(np.zeros((N, 2)), Y)
