"""Who may ask, what is noted of it, which pages there are."""

import asyncio
import io
import json
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs equifuse[serve]")

from equifuse import DataError, InputError
from equifuse.serve import server as server_module
from equifuse.serve.access import AccessLog, Keys
from equifuse.serve.app import Application, build
from equifuse.serve.limits import Limits
from equifuse.serve.models import names_of
from equifuse.serve.pages import PAGES, page
from equifuse.serve.pool import Pool
from tests.serve.conftest import Inline, TestClient, client_of

KEY = "a-key-of-some-length"
ROWS = {"inputs": {"a b": [[0.125, 0.25, 0.5]]}}


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"# of the tests\n\n{KEY}\nanother-key-of-some-length\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def locked(sequences, keys):
    return client_of(sequences, keys=Keys(keys), origins=["https://example.org"])


def test_only_who_has_a_key_is_let_in(locked):
    for path in ("/model", "/v1/models", "/metrics", "/openapi.json", "/nowhere"):
        answer = locked.get(path)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    for headers in ({"Authorization": f"Bearer {KEY[:-1]}"}, {"Authorization": f"Basic {KEY}"}, {"X-API-Key": ""}):
        assert locked.post("/predict", json=ROWS, headers=headers).status_code == 401
    for headers in ({"Authorization": f"Bearer {KEY}"}, {"X-API-Key": "another-key-of-some-length"}):
        assert locked.post("/predict", json=ROWS, headers=headers).status_code == 200
    for path in ("/health", "/ready", *PAGES):
        assert locked.get(path).status_code == 200
    described = locked.get("/openapi.json", headers={"X-API-Key": KEY}).json()
    assert "401" in described["paths"]["/predict"]["post"]["responses"]


def test_models_are_read_again_by_who_has_a_key(sequences, keys):
    workers = Inline({"run": sequences})
    client = TestClient(build(Application(workers, ["run"], Limits(), True, Keys(keys))))
    assert client.post("/reload").status_code == 401
    assert client.post("/reload", headers={"X-API-Key": KEY}).json()["status"] == "reloaded"
    assert workers.reloads == 1
    assert client_of(sequences).post("/reload").status_code == 404  # nobody could be told from anybody


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "has no API keys"), ("# none\n", "has no API keys"), ("x\ny\n", "line 1: a key must")],
)
def test_keys_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "keys").write_text(text)
    with pytest.raises(DataError, match=message):
        Keys(tmp_path / "keys")


def test_pages_of_some_other_origins_may_ask(locked):
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    answer = locked.options("/predict", headers={"Origin": "https://example.org", **asked})
    assert answer.headers["access-control-allow-origin"] == "https://example.org"
    answer = locked.options("/predict", headers={"Origin": "https://example.com", **asked})
    assert "access-control-allow-origin" not in answer.headers


def test_requests_have_ids(locked):
    given = {"X-Request-Id": "job-1.2_3"}
    assert locked.get("/health", headers=given).headers["x-request-id"] == "job-1.2_3"
    made = {
        locked.get("/health", headers={"X-Request-Id": bad}).headers["x-request-id"] for bad in ("", "a b", "x" * 65)
    }
    assert len(made) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)


def test_the_log_has_no_payload(sequences):
    stream = io.StringIO()
    log = AccessLog(stream)
    application = Application(Inline({"run": sequences}), ["run"], Limits(), True, None)
    with TestClient(build(application, log=log)) as client:
        client.post("/predict?secret=0.125", json=ROWS)
        client.post("/predict", json=ROWS)
        client.request("BREW", "/caf%C3%A9%0A" + "x" * 500)
    first, second, third = map(json.loads, stream.getvalue().splitlines())
    assert (first["status"], second["status"], third["status"]) == (422, 200, 404)
    assert (second["model"], second["rows"], second["together"]) == ("run", 1, 1)
    assert third["method"] == "other"
    assert len(third["path"]) == 200
    assert "0.125" not in stream.getvalue()
    assert "secret" not in stream.getvalue()


def test_several_models(sequences, table):
    client = client_of({"one": sequences, "two words": table[0]})
    assert [model["name"] for model in client.get("/v1/models").json()["models"]] == ["one", "two words"]
    assert client.get("/v1/models/two words").json()["fusion"] == "concat"
    one, first = (client.post(path, json=ROWS).json() for path in ("/v1/models/one/predict", "/predict"))
    assert one["columns"]["prob_no"] == pytest.approx(first["columns"]["prob_no"])
    rows = {"records": [{"mrna:TP53": 1, "mrna:BRCA1": 2}]}
    assert client.post("/v1/models/two words/predict", json=rows).json()["rows"] == 1
    answer = client.post("/v1/models/three/predict", json=rows)
    assert (answer.status_code, answer.json()["detail"]) == (404, "no model 'three'; there are one, two words")
    assert 'path="/v1/models/{name}/predict"' in client.get("/metrics").text
    assert "three" not in client.get("/metrics").text
    assert "/v1/models/two%20words/explain" in client.get("/openapi.json").json()["paths"]


def test_names_of_models(sequences, table):
    assert names_of([sequences, f"b={table[0]}"]) == {"run": sequences, "b": table[0]}
    with pytest.raises(InputError, match="two runs are called 'run'"):
        names_of([sequences, table[0]])


def test_pages_need_nothing_else_and_make_no_markup(sequences):
    client = client_of(sequences)
    for path in PAGES:
        answer = client.get(path)
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        text = page(path)[0].decode()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|\son\w+=|https?://|<style", text
        )
        for name in re.findall(r'(?:src|href|from)[= ]"(\.?/[^"]*)"', text):
            assert client.get(name.replace("./", "/static/")).status_code == 200


def test_a_folder_that_is_replaced_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(server_module, "_LOOK", 0.02)
    quick = (sys.executable, str(Path(__file__).with_name("quick_worker.py")))
    run = tmp_path / "run"

    def write(folder, generation):
        (folder / "model").mkdir(parents=True)
        for name in ("config.yaml", "metrics.json", "generation"):
            (folder / name).write_text(generation)

    async def main():
        write(run, "1")
        pool = Pool({"m": str(run)}, True, Limits(), 1, quick)
        front = Application(pool, ["m"], Limits(), True, None)
        await pool.start()
        await pool.first()
        watch = asyncio.create_task(server_module._reload_when_replaced(pool, front))
        write(tmp_path / "new", "2")
        await asyncio.sleep(0.1)
        assert pool.loaded.versions == {"generation": "1"}
        run.rename(tmp_path / "old")
        await asyncio.sleep(0.1)  # for a moment there is none
        (tmp_path / "new").rename(run)
        for _ in range(100):
            await asyncio.sleep(0.05)
            if pool.loaded.versions == {"generation": "2"}:
                break
        assert pool.loaded.versions == {"generation": "2"}
        watch.cancel()
        await pool.close()

    asyncio.run(main())
