"""What the service answers: that it is what the command line and the library say, and what it says of itself."""

import io
import json
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

pytest.importorskip("starlette", reason="needs equifuse[serve]")

from prometheus_client.parser import text_string_to_metric_families

import equifuse as ef
from equifuse.data import Split
from equifuse.data.batch import Batch
from equifuse.data.loaders import batches_of
from equifuse.explain import evaluate_coalitions
from equifuse.runs import load_run, predict_run
from equifuse.serve import Limits
from equifuse.serve import service as service_module
from equifuse.serve.messages import Question
from equifuse.serve.service import Services
from tests.serve.conftest import PARQUET, client_of


@pytest.fixture(scope="module")
def client(sequences):
    return client_of(sequences)


@pytest.fixture(scope="module")
def table_client(table):
    return client_of(table[0])


def padded(rows, shape):
    """A request's rows as an array, NaN where there are none, and the sequences' lengths."""
    x = np.full((len(rows), *shape), np.nan, np.float32)
    for i, row in enumerate(rows):
        if row is not None:
            x[i] = 0
            x[i, : len(row)] = row
    return x, np.array([0 if row is None else len(row) for row in rows])


def written(rows, path):
    """A request as the file that the command line reads."""
    audio, lengths = padded(rows["inputs"]["_audio"], (6, 2))
    flat = {m: padded(rows["inputs"][m], shape)[0] for m, shape in (("a b", (3,)), ("copy", (2, 2)))}
    np.savez(path, **flat, _audio=audio, _audio_len=lengths)
    return path


def numbers(client):
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def test_predictions_are_those_of_the_command_line(client, sequences, rows, tmp_path):
    told = predict_run(sequences, written(rows, tmp_path / "rows.npz"), tmp_path / "out.parquet")
    answer = client.post("/predict", json=rows)
    assert answer.status_code == 200
    assert answer.json()["rows"] == 12
    found = answer.json()["columns"]
    assert list(found) == list(told)
    assert {"row", "prediction", "prob_no", "prob_yés", "converged", "residual", "steps"} == set(found)
    for name, column in told.items():
        assert found[name] == column.tolist(), name
    sent = client.post("/predict", json=rows, headers={"Accept": PARQUET["Content-Type"]})
    assert sent.headers["content-type"] == PARQUET["Content-Type"]
    assert parquet.read_table(io.BytesIO(sent.content)).equals(parquet.read_table(tmp_path / "out.parquet"))


def test_a_parquet_body_is_read_as_the_command_line_reads_the_file(table_client, table, tmp_path):
    told = predict_run(table[0], table[1], tmp_path / "out.parquet")
    body = table[1].read_bytes()
    answer = table_client.post(
        "/predict", content=body, headers={**PARQUET, "Accept": "*/*;q=0.1," + PARQUET["Content-Type"]}
    )
    assert answer.status_code == 200
    assert parquet.read_table(io.BytesIO(answer.content)).equals(parquet.read_table(tmp_path / "out.parquet"))
    found = table_client.post("/predict", content=body, headers=PARQUET).json()["columns"]
    assert found == {name: column.tolist() for name, column in told.items()}
    assert found["id"][3] == "patient 3"
    # The same rows as JSON.
    frame = parquet.read_table(table[1])
    inputs = {
        m: np.stack([frame[name] for name in frame.column_names if name.startswith(m)], axis=1).tolist()
        for m in ("mrna", "meth")
    }
    again = table_client.post("/predict", json={"inputs": inputs}).json()["columns"]
    assert again["prediction_age"] == found["prediction_age"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.int64()])
def test_ids_come_back(table_client, table, kind):
    frame = parquet.read_table(table[1]).slice(0, 3)
    ids = [7, None, 9] if pa.types.is_integer(kind) else ["x", None, "z"]
    frame = frame.set_column(frame.column_names.index("id"), "id", pa.array(ids).cast(kind))
    sink = io.BytesIO()
    parquet.write_table(frame, sink)
    answer = table_client.post("/predict", content=sink.getvalue(), headers=PARQUET)
    assert answer.json()["columns"]["id"] == ids


def test_what_is_missing_was_never_given(client, rows):
    inputs = {m: [row for i, row in enumerate(x) if i not in (0, 1, 5)] for m, x in rows["inputs"].items()}
    given = {m: x for m, x in inputs.items() if m != "a b"}
    without = client.post("/predict", json={"inputs": given}).json()["columns"]
    nulls = client.post("/predict", json={"inputs": {**given, "a b": [None] * 9}}).json()["columns"]
    whole = client.post("/predict", json={"inputs": inputs}).json()["columns"]
    assert without["prob_no"] == pytest.approx(nulls["prob_no"], abs=1e-5)
    assert not np.allclose(without["prob_no"], whole["prob_no"], atol=1e-3)


def test_every_row_is_predicted_alone(client, rows):
    together = client.post("/predict", json=rows).json()["columns"]
    for i in (0, 4, 5):
        one = {"inputs": {m: [x[i]] for m, x in rows["inputs"].items()}}
        assert client.post("/predict", json=one).json()["columns"]["prob_no"][0] == pytest.approx(
            together["prob_no"][i], abs=1e-3
        )


def test_lengths_cut_sequences(client, rows):
    audio = [row + [[9.0, -9.0]] * (7 - len(row)) for row in rows["inputs"]["_audio"]]
    lengths = {"_audio": [len(row) for row in rows["inputs"]["_audio"]]}
    cut = client.post("/predict", json={"inputs": {**rows["inputs"], "_audio": audio}, "lengths": lengths})
    plain = client.post("/predict", json=rows)
    assert cut.json()["columns"]["prob_no"] == pytest.approx(plain.json()["columns"]["prob_no"], abs=1e-5)
    # A null row has no length to fit, and a sequence may have no step at all.
    assert (
        client.post("/predict", json={"inputs": {"_audio": [None, []]}, "lengths": {"_audio": [4, 0]}}).json()["rows"]
        == 2
    )


def test_explanations_are_the_librarys(client, sequences, rows):
    run = load_run(sequences)
    answer = client.post("/explain", json=rows, params={"value": "logit", "output": "no"}).json()
    import torch

    x = {m: torch.from_numpy(padded(rows["inputs"][m], shape)[0]) for m, shape in (("a b", (3,)), ("copy", (2, 2)))}
    audio, lengths = padded(rows["inputs"]["_audio"], (6, 2))
    present = {m: ~values.flatten(1).isnan().any(1) for m, values in x.items()}
    batch = Batch({**x, "_audio": torch.from_numpy(audio)}, present, lengths={"_audio": torch.from_numpy(lengths)})
    told = evaluate_coalitions(run.model, run.task, [batch]).per_sample(run.task, "logit", 0)
    assert answer["output"] == ["no"] * 12
    assert answer["errors"] is None
    assert 0 <= answer["converged"] <= 1
    for m, values in told.values.items():
        assert answer["contributions"][m] == pytest.approx(values.tolist(), abs=1e-6)
    sums = np.sum(list(answer["contributions"].values()), axis=0)
    np.testing.assert_allclose(sums, np.subtract(answer["full"], answer["empty"]), atol=1e-9)
    assert answer["contributions"]["a b"][0] == 0
    # Of what is predicted, by default its probability.
    answer = client.post("/explain", json=rows).json()
    columns = client.post("/predict", json=rows).json()["columns"]
    assert answer["value"] == "probability"
    assert answer["output"] == columns["prediction"]
    probabilities = [columns[f"prob_{name}"][i] for i, name in enumerate(answer["output"])]
    assert answer["full"] == pytest.approx(probabilities, abs=1e-3)


def test_a_parquet_body_is_explained(table_client, table):
    answer = table_client.post("/explain", content=table[1].read_bytes(), headers=PARQUET, params={"output": "dose"})
    assert answer.json()["value"] == "output"
    assert set(answer.json()["contributions"]) == {"mrna", "meth"}
    answer = table_client.post("/explain", content=table[1].read_bytes(), headers=PARQUET)
    assert answer.status_code == 422
    assert "say which one to explain" in answer.json()["detail"]


def test_retrieval_embeds_and_explains_nothing(retrieval):
    client = client_of(retrieval)
    columns = client.post("/predict", json={"inputs": {"a": [[1, 2, 3]], "b": [None]}}).json()["columns"]
    assert np.linalg.norm([columns[f"embedding_{k}"][0] for k in range(4)]) == pytest.approx(1)
    assert client.post("/explain", json={"inputs": {"a": [[1, 2, 3]]}}).status_code == 404
    assert client.get("/model").json()["explained"] == []


def test_no_explanations_where_none_are_wanted(sequences):
    client = client_of(sequences, explain=False)
    assert "/explain" not in client.get("/openapi.json").json()["paths"]


def test_the_model_is_described(client, table_client):
    health = client.get("/health").json()
    assert (health["status"], health["model"], health["task"], health["fusion"]) == (
        "ok",
        "run",
        "classification",
        "deq",
    )
    assert health["versions"]["equifuse"] == ef.__version__
    model = client.get("/model").json()
    assert model["modalities"]["_audio"] == {"shape": [5, 2], "sequence": True, "features": None, "columns": None}
    assert model["classes"] == ["no", "yés"]
    assert model["columns"] == ["prediction", "prob_no", "prob_yés", "converged", "residual", "steps"]
    assert model["limits"]["max_rows"] == 1024
    model = table_client.get("/model").json()
    assert model["modalities"]["mrna"]["features"] == ["mrna:TP53", "mrna:BRCA1"]
    assert model["columns"] == ["prediction_age", "prediction_dose"]


def test_metrics_count_what_happened(impatient, rows):
    client = client_of(impatient)
    found = client.post("/predict", json=rows).json()["columns"]  # a warning would be an error here
    assert not any(found["converged"])
    client.post("/predict", json={})
    client.get("/made/up")
    client.get("/made/up/2")
    assert client.post("/explain", json=rows).json()["converged"] < 1
    seen = numbers(client)
    assert seen["equifuse_requests_total", "/predict", "200"] == 1
    assert seen["equifuse_requests_total", "/predict", "422"] == 1
    assert seen["equifuse_requests_total", "other", "404"] == 2
    assert seen["equifuse_rows_total", "run"] == seen["equifuse_unconverged_rows_total", "run"] == 12
    buckets = [v for k, v in seen.items() if k[0] == "equifuse_request_seconds_bucket" and "/predict" in k]
    assert buckets[-1] == 2
    assert all(a <= b for a, b in pairwise(buckets))


@pytest.mark.slow
def test_what_is_no_number_in_json_is_null(sequences, rows, monkeypatch):
    client = client_of(sequences)
    columns = {"row": np.arange(3), "prob_no": np.array([np.nan, -np.inf, 1 / 3])}
    monkeypatch.setattr(service_module, "predict_split", lambda *_: columns)
    found = client.post("/predict", json=rows).json()["columns"]
    assert found == {"row": [0, 1, 2], "prob_no": [None, None, 1 / 3]}


def test_an_error_of_ours_is_a_500_that_tells_nothing(sequences, rows, monkeypatch):
    client = client_of(sequences)
    monkeypatch.setattr(service_module, "predict_split", lambda *_: 1 / 0)
    answer = client.post("/predict", json=rows)
    assert (answer.status_code, answer.json()) == (500, {"detail": "internal error"})
    assert numbers(client)["equifuse_requests_total", "/predict", "500"] == 1


def test_limits_are_checked():
    for name in ("max_rows", "max_bytes", "max_waiting", "max_explained", "timeout"):
        with pytest.raises(ef.InputError, match=f"{name} must be positive, got 0"):
            Limits(**{name: 0})
    with pytest.raises(ef.InputError, match="timeout must be positive"):
        Limits(timeout=float("nan"))


def test_modalities_can_be_left_out(client, rows):
    given = {m: x for m, x in rows["inputs"].items() if m != "copy"}
    left = client.post("/predict", json=rows, params={"without": "copy"}).json()
    never = client.post("/predict", json={"inputs": given}).json()
    assert left["columns"]["prediction"] == never["columns"]["prediction"]
    np.testing.assert_allclose(left["columns"]["prob_no"], never["columns"]["prob_no"], atol=1e-5)
    both = client.post("/explain", json=rows, params=[("without", "copy"), ("without", "a b")]).json()
    assert both["contributions"]["copy"] == both["contributions"]["a b"] == [0.0] * 12
    answer = client.post("/predict", json={"inputs": given}, params=[("without", m) for m in given])
    assert (answer.status_code, "no modality is left" in answer.text) == (422, True)
    assert "did you mean 'copy'?" in client.post("/embed", json=rows, params={"without": "coppy"}).text


def test_embeddings_are_the_librarys(client, sequences, rows):
    found = client.post("/embed", json=rows).json()
    assert found["rows"] == 12
    assert set(found["vectors"]) == {"fused", "a b.encoded", "copy.encoded", "_audio.encoded"}
    assert set(found["vectors"]["a b.encoded"][0]) == {None}  # the first row lacks it
    from equifuse.explain import embeddings

    split = Split({"a b": np.array([rows["inputs"]["a b"][1]], dtype=np.float32)})
    told = embeddings(load_run(sequences).model, batches_of(split))["fused"]
    one = client.post("/embed", json={"inputs": {"a b": [rows["inputs"]["a b"][1]]}}).json()
    np.testing.assert_allclose(one["vectors"]["fused"], told, rtol=1e-4, atol=1e-5)


def test_rows_are_given_by_the_names_of_their_columns(table_client, table):
    frame = parquet.read_table(table[1])
    records = frame.select([name for name in frame.column_names if ":" in name or name == "id"]).slice(0, 5).to_pylist()
    records[1]["meth:cg2"] = None
    del records[2]["mrna:TP53"], records[2]["mrna:BRCA1"]
    found = table_client.post("/predict", json={"records": records}).json()["columns"]
    assert found["id"] == [f"patient {i}" for i in range(5)]
    whole = [
        [None if m == "mrna" and i == 2 else [r.get(c) for c in cs] for i, r in enumerate(records)]
        for m, cs in (("mrna", ["mrna:TP53", "mrna:BRCA1"]), ("meth", ["meth:cg1", "meth:cg2", "meth:cg3"]))
    ]
    listed = table_client.post("/predict", json={"inputs": dict(zip(("mrna", "meth"), whole, strict=True))})
    assert listed.json()["columns"]["prediction_age"] == pytest.approx(found["prediction_age"])
    # The cells of one modality by their names, too; and a table as text, with commas for decimals.
    named = [{c: v for c, v in record.items() if c.startswith("mrna")} or None for record in records]
    objects = table_client.post("/predict", json={"inputs": {"mrna": named, "meth": whole[1]}}).json()["columns"]
    assert objects["prediction_age"] == listed.json()["columns"]["prediction_age"]
    lines = [
        ";".join(frame.column_names),
        *(";".join(str(x).replace(".", ",") for x in row.values()) for row in frame.to_pylist()),
    ]
    answer = table_client.post("/predict", content="\n".join(lines).encode(), headers={"Content-Type": "text/csv"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["columns"]["prediction_age"][0] == pytest.approx(found["prediction_age"][0], rel=1e-4)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ({"records": [{"mrna:TP54": 1}]}, "did you mean 'mrna:TP53'?"),
        ({"records": [{"mrna:TP53": "high"}]}, "column 'mrna:TP53' has 'high', which is no number"),
        ({"records": [{"mrna:TP53": True}]}, "which is no number"),
        ({"records": [{"mrna:TP53": 1e300}]}, "too large for float32"),
        ({"records": [{"id": "x"}]}, "no column of a modality given"),
        ({"records": [{"mrna:TP53": 1, "id": "x" * 300}]}, "'id' must be text of at most 200 bytes"),
        ({"records": [{"mrna:TP53": [1]}]}, "records[0]"),
        ({"records": [1]}, "records[0] must be a JSON object"),
        ({"records": []}, "records has no rows"),
        ({"records": [{"mrna:TP53": 1}], "inputs": {}}, "give one or the other"),
        ({"inputs": {"mrna": [{"mrna:TP54": 1}]}}, "did you mean 'mrna:TP53'?"),
        ({"inputs": {"mrna": [{"mrna:TP53": "x"}]}}, "which is no number"),
    ],
)
def test_records_that_do_not_fit(table_client, request_, text):
    answer = table_client.post("/predict", json=request_)
    assert answer.status_code == 422
    assert text in answer.json()["detail"]


def test_several_requests_at_once_are_answered_as_one_by_one(sequences, table):
    services = Services({"table": table[0]}, True, Limits())
    whole = parquet.read_table(table[1])
    bodies = []
    for i, m in ((0, "mrna"), (1, "meth"), (2, "mrna")):
        names = [name for name in whole.column_names if name.startswith(m)]
        bodies.append(
            json.dumps({"records": whole.select([*names, "id"][: len(names) + i % 2]).slice(i, 1).to_pylist()})
        )
    questions = [Question("predict", body.encode(), "application/json") for body in [*bodies, "{", '{"records": []}']]
    together = services.answer("table", questions)
    alone = [services.answer("table", [question])[0] for question in questions]
    assert [answer.status for answer in together] == [200, 200, 200, 400, 422]
    for answers in zip(together[:3], alone[:3], strict=True):
        one, other = (json.loads(answer.content)["columns"] for answer in answers)
        assert one.keys() == other.keys()
        np.testing.assert_allclose(one["prediction_age"], other["prediction_age"], rtol=1e-5)
    assert together[3:] == alone[3:]
