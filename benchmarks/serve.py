"""What a served model answers on loopback: requests per second, and how long one takes.

    python benchmarks/serve.py --out runs/serve

Trains a run per fusion on the digits (once; runs in ``--out`` are used again), serves each by ``equifuse serve`` in a
process of its own on a free port of 127.0.0.1, and asks for predictions of test rows as JSON, one or 64 of them to a
request, over one connection and over eight. ``wrk`` makes the load where it is installed, else a small client in this
process, which is slower and stops after ``--requests`` at the latest. A figure takes ``--seconds``. Service and client
share the machine; ``machine.json`` tells which client it was, and the machine's load at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from equifuse.datasets import load
from equifuse.files import write_json
from equifuse.runs import TrainConfig, train
from machine import describe
from tables import publish

FUSIONS = ("deq", "gmf", "concat")
ROWS, CONNECTIONS = (1, 64), (1, 8)
_HEADERS = {"Content-Type": "application/json"}
_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
done = function(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  print(string.format("figures %d %d %d %d %d", summary.requests, summary.duration, failed,
    latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass
class Load:
    """What a load measured: requests per second, milliseconds for half and for 99 % of them, requests that failed."""

    rate: float
    median: float
    slowest: float
    failed: int


@contextmanager
def served(run: Path) -> Iterator[str]:
    """The address of a service of the run, while the block lasts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-c", "from equifuse.cli import main; main()", "serve", str(run), "--port", str(port)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                httpx.get(f"{address}/health").raise_for_status()
                break
            except httpx.HTTPError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the service of {run} did not start") from None
                time.sleep(0.1)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def by_wrk(address: str, body: bytes, connections: int, seconds: float) -> Load:
    """A load made by wrk."""
    with tempfile.TemporaryDirectory(prefix="equifuse-serve-") as folder:
        path, script = Path(folder) / "body.json", Path(folder) / "post.lua"
        path.write_bytes(body)
        script.write_text(_SCRIPT.format(body=path), encoding="utf-8")
        words = [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{max(1, round(seconds))}s",
            "--timeout",
            "30s",
            "-s",
            str(script),
        ]
        done = subprocess.run([*words, f"{address}/predict"], capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("figures "))
    count, duration, failed, median, slowest = map(int, line.split()[1:])
    return Load(count / duration * 1e6, median / 1e3, slowest / 1e3, failed)


async def by_client(address: str, body: bytes, connections: int, seconds: float, requests: int) -> Load:
    """A load made here."""
    times: list[float] = []
    failed = 0
    begun = time.perf_counter()

    async def ask(client: httpx.AsyncClient) -> None:
        nonlocal failed
        while time.perf_counter() - begun < seconds and len(times) < requests:
            start = time.perf_counter()
            answer = await client.post("/predict", content=body, headers=_HEADERS)
            times.append(time.perf_counter() - start)
            failed += answer.status_code != 200

    limits = httpx.Limits(max_connections=connections)
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=30) as client:
        await asyncio.gather(*(ask(client) for _ in range(connections)))
    rate = len(times) / (time.perf_counter() - begun)
    median, slowest = np.percentile(times, (50, 99)) * 1e3
    return Load(rate, float(median), float(slowest), failed)


def main() -> None:
    """Train, serve, ask; print and store the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/serve"))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--client", choices=("wrk", "own"), default="wrk" if shutil.which("wrk") else "own")
    options = parser.parse_args()
    test = load("digits").splits["test"]
    table = []
    for fusion in FUSIONS:
        run = options.out / fusion
        if not (run / "metrics.json").is_file():
            train(TrainConfig(data="digits", fusion=fusion, epochs=20), run, progress=False)
        with served(run) as address:
            for rows in ROWS:
                body = json.dumps({"inputs": {m: x[:rows].tolist() for m, x in test.inputs.items()}}).encode()
                httpx.post(f"{address}/predict", content=body, headers=_HEADERS, timeout=30).raise_for_status()
                for connections in CONNECTIONS:
                    if options.client == "wrk":
                        found = by_wrk(address, body, connections, options.seconds)
                    else:
                        found = asyncio.run(by_client(address, body, connections, options.seconds, options.requests))
                    if found.failed:
                        raise RuntimeError(f"{found.failed} requests failed")
                    figures = [f"{found.rate:,.0f}", f"{found.rate * rows:,.0f}"]
                    times = [f"{found.median:.1f} ms", f"{found.slowest:.1f} ms"]
                    table.append([fusion, str(rows), str(connections), *figures, *times])
    header = ["fusion", "rows per request", "connections", "requests per s", "rows per s", "p50", "p99"]
    publish(options.out, header, table)
    record = {**describe(), "client": options.client, "seconds": options.seconds, "load": list(os.getloadavg())}
    write_json(options.out / "machine.json", record)


if __name__ == "__main__":
    main()
