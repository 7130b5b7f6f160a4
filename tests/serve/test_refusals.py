"""Requests that are wrong, broken or malicious: one line that says why, and nothing else happens."""

import asyncio
import io
import json
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

pytest.importorskip("starlette", reason="needs equifuse[serve]")

from equifuse.errors import InputError
from equifuse.serve.limits import Limits
from equifuse.serve.request_parsing import rows_of_json
from equifuse.serve.schema import RequestFormat
from tests.serve.conftest import JSON, PARQUET, client_of

ROW = [0.1, 0.2, 0.3]


@pytest.fixture(scope="module")
def client(sequences):
    return client_of(sequences, max_rows=20, max_explained=4, max_bytes=20_000)


def refused(answer, status, text=""):
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"detail"}
    detail = answer.json()["detail"]
    assert text in detail
    assert "\n" not in detail
    assert "Traceback" not in detail
    assert len(detail) < 400
    return True


def as_parquet(columns, **options):
    sink = io.BytesIO()
    parquet.write_table(pa.table(columns), sink, **options)
    return sink.getvalue()


def flat(n=3, **columns):
    return {**{f"a b_{i}": np.zeros(n) for i in range(3)}, **columns}


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ({}, "no 'inputs'"),
        ([], "the body must be a JSON object"),
        ({"inputs": []}, "inputs must be a JSON object"),
        ({"inputs": {}}, "no modality given; expected some of a b, copy, _audio"),
        ({"input": {"a b": [ROW]}}, "unknown field 'input'; did you mean 'inputs'?"),
        ({"inputs": {"coppy": [ROW]}}, "unknown modality 'coppy'; did you mean 'copy'?"),
        ({"inputs": {"x" * 5000: [ROW]}}, "unknown modality 'xxx"),
        ({"inputs": {"a b": []}}, "inputs.a b has no rows"),
        ({"inputs": {"a b": None}}, "inputs.a b must be a list"),
        ({"inputs": {"a b": [0.1]}}, "inputs.a b[0] must be a list"),
        ({"inputs": {"a b": [ROW, [0.1]]}}, "inputs.a b[1] must have 3 entries; the model was built"),
        ({"inputs": {"a b": [ROW, [*ROW, 0]]}}, "the model was built for rows of shape (3,)"),
        ({"inputs": {"copy": [[[1, 2], [1, 2, 3]]]}}, "inputs.copy[0][1] must have 2 entries"),
        ({"inputs": {"copy": [[1, 2, 3, 4]]}}, "inputs.copy[0][0] must be a list"),
        ({"inputs": {"_audio": [[[1, 2], [1]]]}}, "inputs._audio[0][1] must have 2 entries"),
        ({"inputs": {"a b": [["1", 2, 3]]}}, "inputs.a b[0][0] must be a finite number"),
        ({"inputs": {"a b": [[True, 2, 3]]}}, "inputs.a b[0][0] must be a finite number"),
        ({"inputs": {"a b": [[1, 1e39, 3]]}}, "inputs.a b[0][1] must be a finite number (float32)"),
        ({"inputs": {"a b": [[1, 10**400, 3]]}}, "inputs.a b[0][1] must be a finite number"),
        ({"inputs": {"a b": [ROW], "_audio": [None] * 2}}, "modalities differ in rows"),
        ({"inputs": {"_audio": [[]]}, "lengths": {"_audio": [0, 0]}}, "modalities differ in rows"),
        ({"inputs": {"_audio": [[[1, 2]]]}, "lengths": {"_audio": [2]}}, "lengths._audio[0] is 2, the row has 1 steps"),
        ({"inputs": {"_audio": [[[1, 2]]]}, "lengths": {"_audio": [-1]}}, "lengths._audio[0]"),
        ({"inputs": {"_audio": [[[1, 2]]]}, "lengths": {"_audio": [1.5]}}, "lengths._audio[0]"),
        ({"inputs": {"a b": [ROW]}, "lengths": {"a b": [1]}}, "unknown modality 'a b'"),
        ({"inputs": {"a b": [ROW]}, "lengths": {"_audio": [1]}}, "lengths of '_audio' are given, and no inputs"),
    ],
)
@pytest.mark.slow
def test_a_mistake_is_one_line(client, request_, text):
    body = json.dumps(request_)
    refused(client.post("/predict", content=body, headers=JSON), 422, text)
    refused(client.post("/explain", content=body, headers=JSON), 422, text)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"nul", b'{"inputs": {"a b": [[1, NaN, 3]]}}'])
@pytest.mark.slow
def test_what_is_no_json_is_broken(client, body):
    refused(client.post("/predict", content=body, headers=JSON), 400, "the body is not JSON")


@pytest.mark.parametrize(
    "body", [b"[" * 9000, b'{"inputs": ' * 1500, b'{"inputs": {"a b": [' + b"[[]]," * 3000 + b"[]]}}"]
)
def test_depth_is_that_of_the_model(client, body):
    assert client.post("/predict", content=body, headers=JSON).status_code == 422


def test_numbers_that_take_long_are_not_read(sequences):
    form = RequestFormat({"x": (2,)}, [], 10)
    few, many = (b'{"inputs": {"x": [' + b"[1e-300, 1e-300]," * n + b"[1, 2]]}}" for n in (9, 10_000))
    assert len(rows_of_json(few, form, Limits())) == 10
    with pytest.raises(InputError, match="out of the range of float32"):
        rows_of_json(many, form, Limits())


def test_all_mistakes_are_not_listed(client):
    body = json.dumps({"inputs": {"a b": [["x"] * 3] * 19, "copy": [["y"] * 2] * 19}})
    refused(client.post("/predict", content=body, headers=JSON), 422, "inputs.a b[0][0]")


def test_rows_and_bytes_are_limited(client):
    refused(client.post("/predict", json={"inputs": {"a b": [None] * 21}}), 422, "the limit is 20")
    refused(client.post("/explain", json={"inputs": {"a b": [None] * 5}}), 422, "the limit is 4")
    assert client.post("/predict", json={"inputs": {"a b": [ROW] * 20}}).status_code == 200
    large = b" " * 20_001
    refused(client.post("/predict", content=large, headers=JSON), 413, "more than 20000 bytes")

    def pieces():
        for _ in range(30):
            yield b" " * 1000
        pytest.fail("read on after the limit")

    refused(client.post("/predict", content=iter([large]), headers=JSON), 413, "more than 20000 bytes")
    refused(client.post("/predict", content=b"{}", headers={**JSON, "Content-Length": "9" * 5000}), 413)
    # One long sequence would make all others as long.
    padding = {"inputs": {"_audio": [[[0, 0]] * 1500] + [[]] * 19}}
    refused(
        client.post("/predict", content=json.dumps(padding).replace(" ", ""), headers=JSON), 413, "padding included"
    )


def asked(app, receive):
    """The status and body of an answer to a body that comes as ``receive`` gives it."""
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": "/predict"}
    scope |= {"query_string": b"", "headers": [(b"content-type", b"application/json")], "raw_path": b"/predict"}
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])["detail"]


def test_a_body_that_does_not_come_is_not_waited_for(sequences):
    app = client_of(sequences, timeout=0.1, max_waiting=1).app

    async def never():
        await asyncio.sleep(60)

    async def gone():
        return {"type": "http.disconnect"}

    assert asked(app, never) == (408, "the body did not arrive within 0.1 s")
    assert asked(app, gone) == (400, "the connection was closed before the body had arrived")
    assert asked(app, never)[0] == 408


@pytest.mark.parametrize(
    ("headers", "status", "text"),
    [
        ({"Content-Type": "text/html"}, 415, "got text/html"),
        ({}, 415, "got none"),
        ({**JSON, "Content-Encoding": "gzip"}, 415, "gzip is not known"),
        ({**JSON, "Accept": "text/html"}, 406, "got text/html"),
        ({**JSON, "Accept": "application/json;q=0, text/*"}, 406, "Accept must allow"),
        ({**JSON, "Accept": "application/json;q=nan"}, 406, "Accept must allow"),
        ({**JSON, "Accept": "*/*;q=0.1, application/json;q=0, application/vnd.apache.parquet;q=0"}, 406, ""),
    ],
)
def test_media_types_are_negotiated(client, headers, status, text):
    body = json.dumps({"inputs": {"a b": [ROW]}})
    refused(client.post("/predict", content=body, headers=headers), status, text)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "json"),
        ("*/*", "json"),
        ("application/*, text/html", "json"),
        ("application/json;q=0.5, application/vnd.apache.parquet", "parquet"),
        ("application/vnd.apache.parquet;q=0.5, */*;q=0.1", "parquet"),
        ("application/json;q=0, */*", "parquet"),
    ],
)
def test_the_client_gets_what_it_likes_best(client, accept, kind):
    answer = client.post("/predict", json={"inputs": {"a b": [ROW]}}, headers={"Accept": accept})
    assert answer.headers["content-type"].endswith(kind)


def test_options_of_an_explanation(client):
    request = {"inputs": {"a b": [ROW]}}
    refused(client.post("/explain", json=request, params={"value": "probabilty"}), 422, "did you mean 'probability'?")
    refused(client.post("/explain", json=request, params={"output": "maybe"}), 422, "unknown output 'maybe'")
    refused(client.post("/explain", json=request, params={"outputs": "no"}), 422, "unknown option 'outputs'")
    refused(client.post("/explain", json=request, headers={"Accept": PARQUET["Content-Type"]}), 406)


def test_other_paths_and_methods(client):
    refused(client.get("/nowhere"), 404)
    refused(client.get("/predict"), 405)


@pytest.mark.parametrize(
    ("columns", "options", "status", "text"),
    [
        (flat(0), {}, 422, "the body has no rows"),
        (flat(21), {}, 422, "21 rows, the limit is 20"),
        (flat(1_000_000), {"compression": "zstd"}, 422, "1000000 rows, the limit is 20"),
        ({"x": [1.0]}, {}, 422, "none of the model's modalities"),
        ({"a b_0": [1.0]}, {}, 422, "modality 'a b' has width 1, the model was built for 3"),
        (flat(3, copy_0=["x"] * 3), {}, 422, "column 'copy_0' of modality 'copy' is not numeric (string)"),
        (flat(3, copy_0=[[1.0]] * 3), {}, 422, "is not numeric (list"),
        (flat(3, **{"a b_1": [1.0, math.inf, 2.0]}), {}, 422, "infinite values in 1 of 3 rows"),
        (flat(3, **{"a b_1": [1.0, 1e300, 2.0]}), {}, 422, "infinite values in 1 of 3 rows"),
        (flat(3, id=[[1], [2, 3], []]), {}, 422, "column 'id' must be text or whole numbers"),
        (flat(3, id=[b"a", b"b", b"c"]), {}, 422, "column 'id' must be text or whole numbers"),
        (flat(20, id=["x" * 10_000_000] * 20), {"compression": "zstd"}, 413, "unfolds to"),
        (flat(20, id=["x" * 10_000] * 20), {"compression": "zstd"}, 422, "an entry of 10000 bytes"),
        (flat(3, id=[{"a": 1}] * 3, **{"id.a": [1] * 3}), {}, 422, "column 'id' must be text or whole numbers"),
        (flat(3, **{"a b_1.x": ["y"] * 3}), {}, 422, "cannot be told from the parts of 'a b_1'"),
    ],
)
@pytest.mark.slow
def test_parquet_that_does_not_fit(client, columns, options, status, text):
    refused(client.post("/predict", content=as_parquet(columns, **options), headers=PARQUET), status, text)


def test_many_columns_of_next_to_nothing(sequences):
    client = client_of(sequences, max_rows=5000, max_bytes=40_000)
    body = as_parquet({f"a b:{i}": np.zeros(5000) for i in range(100)})
    refused(client.post("/predict", content=body, headers=PARQUET), 413, "5000 rows of 100 columns")


def test_columns_that_are_not_needed_are_not_read_but_count(client):
    columns = flat(20, notes=["some text"] * 20, lists=[[0] * 10] * 20)
    assert client.post("/predict", content=as_parquet(columns), headers=PARQUET).json()["rows"] == 20
    # Unpacked, these would take more than the whole request may.
    body = as_parquet(flat(20, notes=["x" * 1_000_000] * 20), compression="zstd")
    refused(client.post("/predict", content=body, headers=PARQUET), 413, "send only the model's columns")


def test_a_column_that_occurs_twice(client):
    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_arrays([pa.array([1.0])] * 4, ["a b_0", "a b_1", "a b_2", "a b_2"]), sink)
    refused(client.post("/predict", content=sink.getvalue(), headers=PARQUET), 422, "'a b_2' occurs more than once")


@pytest.mark.parametrize("body", [b"", b"PAR1", b"PAR1PAR1", b"PAR1" + b"\xff" * 100 + b"PAR1", b"\x00" * 5000])
def test_what_is_no_parquet_is_broken(client, body):
    refused(client.post("/predict", content=body, headers=PARQUET), 400, "cannot be read as Parquet")


VALID = as_parquet(flat(5, id=["v", "w", "x", "y", "z"]), compression="snappy")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=6), st.integers(0, 40)
)
@pytest.mark.slow
def test_damaged_parquet_is_refused_or_read(client, changes, cut):
    body = bytearray(VALID)
    for place, byte in changes:
        body[place] = byte
    del body[len(VALID) // 2 : len(VALID) // 2 + cut]
    answer = client.post("/predict", content=bytes(body), headers=PARQUET)
    if answer.status_code != 200:
        assert answer.status_code in (400, 413, 422)
        refused(answer, answer.status_code)


anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-5, 5) | st.text(max_size=3) | st.just(ROW),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a b", "copy", "_audio", "x"]), inner),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries({}, optional={"inputs": anything, "lengths": anything, "more": anything}))
@pytest.mark.slow
def test_any_json_is_refused_or_predicted(client, request_):
    answer = client.post("/predict", content=json.dumps(request_), headers=JSON)
    if answer.status_code != 200:
        refused(answer, answer.status_code if answer.status_code in (413, 422) else 422)
