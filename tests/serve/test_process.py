"""The service as a process: started, asked, attacked, stopped."""

import contextlib
import json
import os
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from equifuse.cli import main
from equifuse.serve import create_app
from tests.serve.conftest import JSON, served

pytest.importorskip("starlette", reason="needs equifuse[serve]")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="signals")]
# A number that would be found in the logs, if bodies were.
MARK = 0.424242424242


@pytest.fixture
def started(sequences, tmp_path):
    """Start the service with some options; gives the process, a client, and its log."""
    with contextlib.ExitStack() as ends:
        yield lambda *options: ends.enter_context(served(sequences, tmp_path / "log", *options))


def connected(client):
    return socket.create_connection((client.base_url.host, client.base_url.port), timeout=30)


def until_nobody_listens(client):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            connected(client).close()
        except ConnectionError:
            return
    pytest.fail("the service goes on listening")


def head(length, *more):
    lines = ["POST /predict HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {length}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


def stopped(process, log):
    """Its log, once it has ended after SIGTERM."""
    assert process.wait(timeout=60) == 0
    text = log.read_text()
    assert "Traceback" not in text
    return text


def test_asked_and_stopped_with_a_request_under_way(started):
    process, client, log = started("--max-rows", "8")
    request = {"inputs": {"a b": [[MARK, 0.2, 0.3], None]}}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post("/predict", json=request), range(24)))
    assert {answer.status_code for answer in answers} <= {200, 503}
    # Some were answered together, and differ in the last digits.
    found = np.array([a.json()["columns"]["prob_no"] for a in answers if a.status_code == 200])
    assert np.ptp(found, axis=0).max() < 1e-3
    assert client.post("/predict", json={"inputs": {"a b": [None] * 9}}).status_code == 422
    assert client.post("/predict", content=iter([b"{"] * 3)).status_code == 415
    assert "a b" in client.get("/model").json()["modalities"]

    # One that is on its way when the service is told to stop is still answered.
    body = json.dumps(request).encode()
    with connected(client) as late:
        late.sendall(head(len(body), "Expect: 100-continue", "X-Request-Id: mine-1"))
        assert late.recv(4096).startswith(b"HTTP/1.1 100")
        process.send_signal(signal.SIGTERM)
        until_nobody_listens(client)
        late.sendall(body)
        answer = late.recv(65536)
        while piece := late.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["rows"] == 2
    client.close()
    text = stopped(process, log)
    entries = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    of_late = entries[-1]
    assert (of_late["path"], of_late["status"], of_late["rows"], of_late["id"]) == ("/predict", 200, 2, "mine-1")
    assert "424242" not in text


def workers_of(process):
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(word) for word in children.read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_nothing_freezes_it(started):
    """Bodies that cost much, connections that send nothing, a worker that is killed: others are served."""
    process, client, log = started("--workers", "2", "--idle", "1", "--max-connections", "40")
    request = {"inputs": {"a b": [[MARK, 0.2, 0.3]] * 3}}
    waits = []

    def alive(seconds):
        deadline = time.monotonic() + seconds
        with httpx.Client(base_url=client.base_url, timeout=30) as other:
            while time.monotonic() < deadline:
                start = time.perf_counter()
                assert other.get("/health").status_code == 200
                waits.append(time.perf_counter() - start)
                time.sleep(0.01)

    with ThreadPoolExecutor(2) as pool:
        watched = pool.submit(alive, 2)
        body = b"[[]]," * (2**24 // 5)
        for content in (body, b'{"inputs": {"_audio": [' + body):
            assert client.post("/predict", content=content, headers=JSON).status_code in (400, 413, 422)
        tiny = b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\n[\r\n" * 50_000
        with connected(client) as chunks, contextlib.suppress(ConnectionError):
            chunks.sendall(tiny)
            assert chunks.recv(64).startswith(b"HTTP/1.1 4")
        watched.result()
    # On two busy cores it is the client that waits for a core now and then.
    assert np.median(waits) < 0.05
    assert np.quantile(waits, 0.98) < 0.25

    # Half-sent and idle connections are closed, and do not keep others out.
    silent = [connected(client) for _ in range(20)]
    for i, one in enumerate(silent):
        one.sendall(b"" if i % 3 == 0 else b"POST /pre" if i % 3 == 1 else head(1000) + b"{")
    assert client.post("/predict", json=request).status_code == 200
    more = [connected(client) for _ in range(40)]  # as many as there may be at a time
    time.sleep(1.5)
    for one in more:
        one.settimeout(5)
        with contextlib.suppress(ConnectionError):
            assert one.recv(100) == b""
        one.close()
    assert client.get("/health").status_code == 200
    for one in silent:
        one.close()

    # With workers that are idle nothing is lost.
    for worker in workers_of(process):
        os.kill(worker, signal.SIGKILL)
    assert client.post("/predict", json=request).status_code == 200

    # Of requests under way, one worker's is lost at most.
    for worker in workers_of(process)[:1]:
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(client.post, "/explain", json=request) for _ in range(6)]
            time.sleep(0.02)
            os.kill(worker, signal.SIGKILL)
            statuses = [answer.result().status_code for answer in asked]
        assert statuses.count(200) >= 5
        assert set(statuses) <= {200, 503}
    assert client.post("/predict", json=request).status_code == 200
    client.close()
    process.send_signal(signal.SIGTERM)
    stopped(process, log)


def refused(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in ("serve", *words)])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_mistakes_are_told_before_anything_listens(capsys, sequences):
    assert "no run at" in refused(capsys, "nowhere")
    assert "two runs are called 'run'" in refused(capsys, sequences, sequences)
    assert "--keyfile needs --certfile" in refused(capsys, sequences, "--keyfile", "key.pem")
    assert "no such file: cert.pem" in refused(capsys, sequences, "--certfile", "cert.pem")
    assert "keys in none.txt cannot be read" in refused(capsys, sequences, "--api-key-file", "none.txt")
    assert "is no origin" in refused(capsys, sequences, "--cors-origin", "example.org")
    assert "timeout must be positive" in refused(capsys, sequences, "--timeout", 0)
    assert "--port" in refused(capsys, sequences, "--port", 70000)


@pytest.mark.parametrize("missing", ["starlette", "prometheus_client", "uvicorn"])
def test_without_the_extra_it_says_what_to_install(capsys, sequences, monkeypatch, missing):
    for name in [name for name in sys.modules if name.startswith("equifuse.serve.")]:
        if name != "equifuse.serve.limits":
            monkeypatch.delitem(sys.modules, name)
    for name in [missing, *(name for name in sys.modules if name.startswith(f"{missing}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    assert f"serving needs {missing}: pip install 'equifuse[serve]'" in refused(capsys, sequences)
    if missing == "starlette":
        from equifuse import InputError

        with pytest.raises(InputError, match="pip install"):
            create_app(sequences)
