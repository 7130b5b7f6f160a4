"""The service as a process: started, asked, stopped."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from equifuse.cli import main
from equifuse.serve import create_app

pytest.importorskip("fastapi", reason="needs equifuse[serve]")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="signals")]
# A number that would be found in the logs, if bodies were.
MARK = 0.424242424242


@pytest.fixture
def started(sequences, tmp_path):
    """Start the service with some options; gives the process, a client, and its log."""
    processes = []

    def start(*options):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = [sys.executable, "-c", "from equifuse.cli import main; main()", "serve", str(sequences)]
        log = tmp_path / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*words, "--port", str(port), *options],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        processes.append(process)
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if client.get("/health").status_code == 200:
                    return process, client, log
            except httpx.TransportError:
                time.sleep(0.05)
        pytest.fail(f"the service did not start: {log.read_text()}")

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


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
    assert process.wait(timeout=60) in (0, -signal.SIGTERM)
    text = log.read_text()
    assert "Traceback" not in text
    assert "Application shutdown complete" in text
    return text


def test_asked_and_stopped_with_a_request_under_way(started):
    process, client, log = started("--max-rows", "8")
    request = {"inputs": {"a b": [[MARK, 0.2, 0.3], None]}}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post("/predict", json=request), range(24)))
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert len({answer.text for answer in answers if answer.status_code == 200}) == 1
    assert client.post("/predict", json={"inputs": {"a b": [None] * 9}}).status_code == 422
    assert client.post("/predict", content=iter([b"{"] * 3)).status_code == 415
    assert "a b" in client.get("/model").json()["modalities"]

    # One that is on its way when the service is told to stop is still answered.
    body = json.dumps(request).encode()
    with connected(client) as late:
        late.sendall(head(len(body), "Expect: 100-continue"))
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
    assert '"POST /predict HTTP/1.1" 200' in text
    assert "424242" not in text


def test_workers_count_together(started):
    from prometheus_client.parser import text_string_to_metric_families

    process, client, log = started("--workers", "2")
    request = {"inputs": {"a b": [[0.1, 0.2, 0.3]] * 3}}
    for _ in range(12):  # each on a connection of its own, so that both workers get some
        assert httpx.post(client.base_url.join("/predict"), json=request, timeout=30).status_code == 200
    for _ in range(4):
        text = httpx.get(client.base_url.join("/metrics"), timeout=30).text
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
        assert [s.value for s in samples if s.name == "equifuse_rows_total"] == [36]
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
    assert "no run at nowhere" in refused(capsys, "nowhere")
    assert "no run at nowhere" in refused(capsys, "nowhere", "--workers", 2)
    assert "timeout must be positive" in refused(capsys, sequences, "--timeout", 0)
    assert "--port" in refused(capsys, sequences, "--port", 70000)


@pytest.mark.parametrize("missing", ["fastapi", "prometheus_client", "uvicorn"])
def test_without_the_extra_it_says_what_to_install(capsys, sequences, monkeypatch, missing):
    for name in [name for name in sys.modules if name.startswith("equifuse.serve.")]:
        if name != "equifuse.serve.limits":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    assert f"serving needs {missing}: pip install 'equifuse[serve]'" in refused(capsys, sequences)
    if missing == "fastapi":
        from equifuse import InputError

        with pytest.raises(InputError, match="pip install"):
            create_app(sequences)
