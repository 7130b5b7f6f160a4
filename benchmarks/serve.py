"""What a served model answers on loopback: requests per second, how long one takes, and what an attack changes.

    python benchmarks/serve.py --out runs/serve

Trains a run per fusion on the digits (once; runs in ``--out`` are used again), serves all by ``equifuse serve`` in a
process of its own on a free port of 127.0.0.1, and asks for predictions of test rows as JSON, one or 64 of them to a
request, over one connection and over eight. ``wrk`` makes the load where it is installed, else httpx in this process,
which is slower and stops after ``--requests`` at the latest. A figure takes ``--seconds``.

Then ``--load`` requests for ``deq`` are sent over eight connections by httpx, with hostile bodies and half-sent
requests on other connections all the while, and a worker killed after half of them. What is lost, what ``/health``
takes meanwhile, and the memory of the service are the second table. Service and client share the machine;
``machine.json`` tells which client it was, and the load of the machine at the end.
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
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import httpx
import numpy as np

from equifuse.benchmark.config import Method
from equifuse.datasets import load
from equifuse.files import write_json
from equifuse.runs import TrainConfig, train
from machine import describe
from tables import publish

FUSIONS = ("concat", "late", "deq", "gmf+deq")
ROWS, CONNECTIONS = (1, 64), (1, 8)
HEADERS = {"Content-Type": "application/json"}
_FIGURES = ("requests per s", "rows per s", "p50", "p99")
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
def served(*words: str) -> Iterator[tuple[str, int]]:
    """The address and the process of a service that is ready, while the block lasts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from equifuse.cli import main; main()", "serve", *words, "--port", str(port)]
    process = subprocess.Popen([*command, "--no-access-log"], stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                httpx.get(f"{address}/ready").raise_for_status()
                break
            except httpx.HTTPError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the service did not start") from None
                time.sleep(0.1)
        yield address, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def by_wrk(url: str, body: bytes, connections: int, seconds: float) -> Load:
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
        done = subprocess.run([*words, url], capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("figures "))
    count, duration, failed, median, slowest = map(int, line.split()[1:])
    return Load(count / duration * 1e6, median / 1e3, slowest / 1e3, failed)


async def by_client(url: str, body: bytes, connections: int, seconds: float, requests: int) -> Load:
    """A load made here."""
    times: list[float] = []
    failed = 0
    begun = time.perf_counter()

    async def ask(client: httpx.AsyncClient) -> None:
        nonlocal failed
        while time.perf_counter() - begun < seconds and len(times) < requests:
            start = time.perf_counter()
            answer = await client.post(url, content=body, headers=HEADERS)
            times.append(time.perf_counter() - start)
            failed += answer.status_code != 200

    limits = httpx.Limits(max_connections=connections)
    async with httpx.AsyncClient(limits=limits, timeout=30) as client:
        await asyncio.gather(*(ask(client) for _ in range(connections)))
    rate = len(times) / (time.perf_counter() - begun)
    median, slowest = np.percentile(times, (50, 99)) * 1e3
    return Load(rate, float(median), float(slowest), failed)


# Bodies that cost the most to look at, or to make something of.
HOSTILE = (
    b"[[]]," * (2**24 // 5),
    b'{"inputs": {"pixels": [' + b"[[]]," * (2**24 // 5),
    b'{"inputs": {"pixels": [' + b"null," * 3_000_000 + b"null]}}",
    b"[" * 2**20,
    b'{"records": [' + b'{"pixels_0": 1e308},' * 500_000 + b"{}]}",
    b'{"inputs": {"pixels": [[' + b"9" * 2**20 + b"]]}}",
)


@dataclass
class Endured:
    """What was seen while a service was under load."""

    statuses: Counter[int]
    health: list[float]
    memory: list[int]
    hostile: Counter[int]


def memory_of(pid: int) -> int:
    """MiB that a process and its children take, each page of theirs counted once for each."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found = 0
    for process in (str(pid), *children):
        status = Path(f"/proc/{process}/status").read_text()
        found += next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    return found // 1024


async def endure(address: str, pid: int, body: bytes, requests: int) -> Endured:
    """Send many requests, hostile ones beside them, and kill a worker in the middle."""
    seen = Endured(Counter(), [], [], Counter())
    url = f"{address}/v1/models/deq/predict"
    sent, done = 0, asyncio.Event()
    looks = {requests // 10, requests // 2, requests}

    async def ask(client: httpx.AsyncClient) -> None:
        nonlocal sent
        while sent < requests:
            sent += 1
            if sent in looks:
                seen.memory.append(memory_of(pid))
            if sent == requests // 2:
                os.kill(int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]), signal.SIGKILL)
            seen.statuses[(await client.post(url, content=body, headers=HEADERS)).status_code] += 1

    async def attack(client: httpx.AsyncClient) -> None:
        host, port = address.removeprefix("http://").split(":")
        for i in count():
            if done.is_set():
                return
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{" if i % 2 else b"POST")
            answer = await client.post(url, content=HOSTILE[i % len(HOSTILE)], headers=HEADERS)
            seen.hostile[answer.status_code] += 1
            await asyncio.sleep(0.5)
            writer.close()

    async def watch(client: httpx.AsyncClient) -> None:
        while not done.is_set():
            start = time.perf_counter()
            (await client.get(f"{address}/health")).raise_for_status()
            seen.health.append(time.perf_counter() - start)
            await asyncio.sleep(0.05)

    async with httpx.AsyncClient(timeout=60) as client, httpx.AsyncClient(timeout=60) as other:
        beside = [asyncio.create_task(attack(other)), asyncio.create_task(watch(other))]
        await asyncio.gather(*(ask(client) for _ in range(8)))
        done.set()
        await asyncio.gather(*beside)
    return seen


def endured(address: str, pid: int, body: bytes, requests: int) -> list[list[str]]:
    """The rows of the second table."""
    start = time.perf_counter()
    seen = asyncio.run(endure(address, pid, body, requests))
    seconds = time.perf_counter() - start
    lost = requests - seen.statuses[200]
    health = np.array(seen.health) * 1e3
    return [
        ["requests", f"{requests:,} in {seconds:.0f} s"],
        ["answered", f"{seen.statuses[200]:,}"],
        ["lost with the worker that was killed", str(lost)],
        ["hostile bodies beside them", f"{seen.hostile.total()}, answered with {sorted(seen.hostile)}"],
        ["`/health` meanwhile: median, 99 %, longest", " / ".join(f"{x:.0f} ms" for x in _spread(health))],
        ["memory after a tenth, half, all of them", " / ".join(f"{x:,} MiB" for x in seen.memory)],
    ]


def _spread(values: np.ndarray) -> tuple[float, float, float]:
    return float(np.median(values)), float(np.quantile(values, 0.99)), float(values.max())


def main() -> None:
    """Train, serve, ask; print and store the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/serve"))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--load", type=int, default=20_000)
    parser.add_argument("--client", choices=("wrk", "own"), default="wrk" if shutil.which("wrk") else "own")
    options = parser.parse_args()
    test = load("digits").splits["test"]
    for name in FUSIONS:
        run = options.out / name
        if not (run / "metrics.json").is_file():
            train(TrainConfig(data="digits", epochs=20, **Method.of(name).options), run, progress=False)
    bodies = {
        rows: json.dumps({"inputs": {m: x[:rows].tolist() for m, x in test.inputs.items()}}).encode() for rows in ROWS
    }
    table = []
    with served(*(str(options.out / name) for name in FUSIONS)) as (address, pid):
        for name in FUSIONS:
            url = f"{address}/v1/models/{name}/predict"
            for rows, body in bodies.items():
                httpx.post(url, content=body, headers=HEADERS, timeout=60).raise_for_status()
                for connections in CONNECTIONS:
                    if options.client == "wrk":
                        found = by_wrk(url, body, connections, options.seconds)
                    else:
                        found = asyncio.run(by_client(url, body, connections, options.seconds, options.requests))
                    if found.failed:
                        raise RuntimeError(f"{found.failed} requests failed")
                    figures = [f"{found.rate:,.0f}", f"{found.rate * rows:,.0f}"]
                    times = [f"{found.median:.1f} ms", f"{found.slowest:.1f} ms"]
                    table.append([name, str(rows), str(connections), *figures, *times])
        publish(options.out, ["fusion", "rows per request", "connections", *_FIGURES], table)
        lines = endured(address, pid, bodies[1], options.load) if options.load else []
    publish(options.out / "load", ["under attack", "seen"], lines)
    record = {**describe(), "client": options.client, "seconds": options.seconds, "load": list(os.getloadavg())}
    write_json(options.out / "machine.json", record)


if __name__ == "__main__":
    main()
