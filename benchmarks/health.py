"""How long ``/health`` takes beside bodies of up to 16 MiB that are costly to look at, asked by a process of its own.

python benchmarks/health.py --out runs/health
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path

import httpx
import numpy as np

from equifuse.runs import TrainConfig, train
from serve import HEADERS, HOSTILE, served
from tables import publish


def ask(address: str, end: Connection) -> None:
    """Ask every few milliseconds until something is sent; send back how long each took."""
    times = []
    with httpx.Client(base_url=address, timeout=60) as client:
        end.send("ready")
        while not end.poll():
            start = time.perf_counter()
            client.get("/health").raise_for_status()
            times.append(time.perf_counter() - start)
            time.sleep(0.002)
    end.send(times)


def main() -> None:
    """Train, serve, ask; print and store the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/health"))
    parser.add_argument("--seconds", type=float, default=10.0, help="with bodies, and without")
    options = parser.parse_args()
    run, table = options.out / "run", []
    if not (run / "metrics.json").is_file():
        train(TrainConfig(data="digits", fusion="concat", epochs=1), run, progress=False)
    with served(str(run)) as (address, _), httpx.Client(base_url=address, timeout=60) as client:
        for beside in ((), HOSTILE):
            here, there = multiprocessing.Pipe()
            process = multiprocessing.get_context("spawn").Process(target=ask, args=(address, there))
            process.start()
            here.recv()
            until, sent = time.monotonic() + options.seconds, 0
            while time.monotonic() < until:
                if not beside:
                    time.sleep(0.1)
                    continue
                client.post("/predict", content=beside[sent % len(beside)], headers=HEADERS)
                sent += 1
            here.send("stop")
            found = 1000 * np.array(here.recv())
            process.join()
            spread = (np.median(found), np.quantile(found, 0.99), found.max())
            table.append([str(sent), str(len(found)), *(f"{x:.1f} ms" for x in spread)])
    publish(options.out, ["bodies meanwhile", "asked", "median", "99 %", "longest"], table)


if __name__ == "__main__":
    main()
