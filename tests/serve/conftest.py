import asyncio
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from equifuse.datasets import MultimodalDataset, Split, write_npz
from equifuse.files import read_json, write_json
from equifuse.runs import TrainConfig, train

pytest.importorskip("starlette", reason="needs equifuse[serve]")

from starlette.testclient import TestClient

from equifuse.serve import Limits
from equifuse.serve.app import Application, build
from equifuse.serve.pool import Timing
from equifuse.serve.service import Services

JSON = {"Content-Type": "application/json"}
PARQUET = {"Content-Type": "application/vnd.apache.parquet"}


class Inline:
    """The workers of a service in the process of the tests, one thread for each request."""

    failure = None
    lost = 0

    def __init__(self, runs, explain=True, **limits):
        self.services = Services(runs, explain, Limits(**limits))
        self.loaded = self.services.describe()
        self.reloads = 0

    def count(self):
        return 1

    async def start(self):
        pass

    async def close(self):
        pass

    async def reload(self):
        self.reloads += 1

    async def ask(self, model, question):
        answers = await asyncio.to_thread(self.services.answer, model, [question])
        return answers[0], Timing()


def client_of(run, explain=True, keys=None, origins=(), **limits):
    """A client of a service whose worker is in this process."""
    runs = run if isinstance(run, dict) else {"run": run}
    application = Application(Inline(runs, explain, **limits), list(runs), Limits(**limits), explain, keys)
    return TestClient(build(application, origins=origins), raise_server_exceptions=False)


@contextmanager
def served(run, log, *options, certificate=None):
    """The service as a process, ready; a client that trusts the certificate, and the file of its log."""
    httpx = pytest.importorskip("httpx", reason="httpx is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-c", "from equifuse.cli import main; main()", "serve", str(run), "--port", str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen([*words, *options], stdout=output, stderr=subprocess.STDOUT, env=environment)
    trusted = ssl.create_default_context(cafile=certificate) if certificate else False
    scheme = "https" if certificate else "http"
    try:
        with httpx.Client(base_url=f"{scheme}://127.0.0.1:{port}", timeout=30, verify=trusted) as client:
            deadline = time.monotonic() + 180
            while time.monotonic() < deadline and process.poll() is None:
                try:
                    if client.get("/ready").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.1)
            else:
                pytest.fail(f"the service did not start: {log.read_text()}")
            yield process, client, log
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def trained(folder, data, **options):
    options = {"dim": 32, "hidden": [16], "epochs": 3, "batch_size": 16, "lr": 5e-3, **options}
    train(TrainConfig.from_dict({"data": str(data), **options}), folder, progress=False)
    return folder


@pytest.fixture(scope="session")
def sequences(tmp_path_factory):
    """A run of an equilibrium on vectors, matrices and sequences, under names that are none in Python."""
    generator = np.random.default_rng(0)
    splits = {}
    for part, n in (("train", 40), ("val", 20), ("test", 24)):
        y = np.arange(n) % 2
        inputs = {
            "a b": generator.normal(size=(n, 3)) + y[:, None],
            "copy": generator.normal(size=(n, 2, 2)) - y[:, None, None],
            "_audio": generator.normal(size=(n, 5, 2)) + y[:, None, None],
        }
        inputs = {m: x.astype(np.float32) for m, x in inputs.items()}
        absent = np.arange(n) % 7 == 3
        inputs["copy"][absent] = np.nan
        lengths = {"_audio": generator.integers(1, 6, size=n)}
        splits[part] = Split(inputs, {"copy": ~absent}, y.astype(np.int64), lengths=lengths)
    folder = tmp_path_factory.mktemp("sequences")
    write_npz(folder / "set.npz", MultimodalDataset("set", splits, "classification", ("no", "yés")))
    return trained(folder / "run", folder / "set.npz")


@pytest.fixture(scope="session")
def impatient(sequences, tmp_path_factory):
    """The same model with a solver that gives up after two evaluations."""
    folder = tmp_path_factory.mktemp("impatient") / "run"
    shutil.copytree(sequences, folder)
    described = read_json(folder / "model/model.json")
    described["fusion"]["solver"] |= {"max_steps": 2, "tol": 1e-12}
    write_json(folder / "model/model.json", described)
    return folder


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    """A run with two targets on a table whose columns have names, and the table."""
    generator = np.random.default_rng(1)
    names = ["mrna:TP53", "mrna:BRCA1", "meth:cg1", "meth:cg2", "meth:cg3"]
    columns = {name: generator.normal(size=60) for name in names}
    columns |= {"id": [f"patient {i}" for i in range(60)], "age": columns["mrna:TP53"] + 50, "dose": np.ones(60)}
    columns["dose"][::2] = columns["meth:cg1"][::2]
    folder = tmp_path_factory.mktemp("table")
    parquet.write_table(pa.table(columns), folder / "table.parquet")
    source = {"target": ["age", "dose"], "task": "regression"}
    return trained(folder / "run", folder / "table.parquet", fusion="concat", source=source), folder / "table.parquet"


@pytest.fixture(scope="session")
def retrieval(tmp_path_factory):
    """A run of a retrieval."""
    generator = np.random.default_rng(2)
    parts = {
        part: {m: generator.normal(size=(24, 3)).astype(np.float32) for m in "ab"} for part in ("train", "val", "test")
    }
    folder = tmp_path_factory.mktemp("retrieval")
    dataset = MultimodalDataset("set", {part: Split(x) for part, x in parts.items()}, "retrieval")
    write_npz(folder / "set.npz", dataset)
    return trained(folder / "run", folder / "set.npz", fusion="concat", embedding=4)


@pytest.fixture(scope="session")
def rows():
    """Twelve rows for the run on sequences, as a request; some of them lack a modality."""
    generator = np.random.default_rng(3)
    steps = generator.integers(1, 7, size=12)
    inputs = {
        "a b": generator.normal(size=(12, 3)).tolist(),
        "copy": generator.normal(size=(12, 2, 2)).tolist(),
        "_audio": [generator.normal(size=(t, 2)).tolist() for t in steps],
    }
    for m, absent in (("a b", (0, 5)), ("copy", (1, 5))):
        for i in absent:
            inputs[m][i] = None
    return {"inputs": inputs}
