"""Rows over HTTP are read as those of training were: codes of missing values, the column of ids."""

import io

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("starlette", reason="needs equifuse[serve]")

from equifuse.datasets import load
from equifuse.runs import predict_run
from tests.serve.conftest import PARQUET, client_of, trained

SOURCE = {"na": ["-9", "unknown"], "id": "pid", "target": ["label"]}


def cells():
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"pid": [f"p{i}" for i in range(50)], **{n: generator.normal(size=50) for n in ("a:x", "a:y", "b:z")}}
    )
    frame["b:k"] = generator.choice(["u", "v", "unknown"], 50)
    frame["label"] = np.where(frame["a:x"] > 0, "pos", "neg")
    frame.loc[::5, ["a:x", "b:z"]] = -9.0
    frame.loc[::10, "a:y"] = -9.0
    return frame


@pytest.mark.parametrize("kind", ["csv", "semicolons", "parquet", "feather", "xlsx"])
def test_a_code_that_is_a_number_is_meant_however_a_file_writes_it(tmp_path, kind):
    frame, path = cells(), tmp_path / f"t.{'csv' if kind == 'semicolons' else kind}"
    if kind == "xlsx":
        pytest.importorskip("openpyxl")
        frame.to_excel(path, index=False)
    elif kind == "semicolons":
        frame.to_csv(path, sep=";", decimal=",", index=False)
    else:
        getattr(frame, f"to_{kind}")(path, **({"index": False} if kind == "csv" else {}))
    parts = load(path, source=SOURCE).splits.values()
    a, b = (np.concatenate([np.asarray(part.inputs[m]) for part in parts]) for m in "ab")
    assert np.isnan(a).sum(0).tolist() == [10, 5]
    assert np.isnan(b).sum(0).tolist() == [10, (frame["b:k"] == "unknown").sum()]


def test_the_service_reads_as_predict_does(tmp_path):
    frame = cells()
    frame.to_csv(tmp_path / "t.csv", index=False)
    options = {"fusion": "mean", "epochs": 1, "modality_dropout": 0.0, "unimodal": "none"}
    run = trained(tmp_path / "run", tmp_path / "t.csv", source=SOURCE, **options)
    rows = frame.drop(columns="label").head(12)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    expected = predict_run(run, tmp_path / "rows.csv", tmp_path / "out.csv")
    packed, client = io.BytesIO(), client_of(run)
    rows.to_parquet(packed, index=False)
    by_modality = {m: rows[[c for c in rows if c.startswith(m)]].to_dict("records") for m in "ab"}
    answers = [
        client.post("/predict", content=(tmp_path / "rows.csv").read_bytes(), headers={"Content-Type": "text/csv"}),
        client.post("/predict", content=packed.getvalue(), headers=PARQUET),
        client.post("/predict", json={"records": rows.to_dict("records")}),
        client.post("/predict", json={"inputs": by_modality}),
        client.post("/predict", json={"inputs": {m: [list(row.values()) for row in by_modality[m]] for m in "ab"}}),
    ]
    for i, answer in enumerate(answers):
        found = answer.json()["columns"]
        np.testing.assert_allclose(found["prob_pos"], expected["prob_pos"], atol=1e-9)
        assert found.get("id") == (expected["id"].tolist() if i < 3 else None)
