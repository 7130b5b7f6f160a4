"""Training on files larger than one likes to hold: peak memory at two sizes, and the share of time spent waiting for
data.

    python benchmarks/streaming.py --gigabytes 1 10 --out runs/streaming

For each size an HDF5 file of three modalities (1000, 500 and 500 features, two classes) is generated, and GMF is
trained for one epoch at batch size 1024 in a process of its own. ``peak`` is the process's largest resident memory, the
interpreter and PyTorch included (about 0.5 GB); pages that the system keeps of the file are not in it. ``waiting`` is
the share of the epoch's training time that passed between asking for a batch and having it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from machine import describe
from tables import publish

WIDTHS = {"a": 1000, "b": 500, "c": 500}
BATCH = 1024
_BLOCK = 20_000


def generate(path: Path, gigabytes: float) -> int:
    """Write a set of this size; returns the number of samples."""
    rows = int(gigabytes * 1e9 / (4 * sum(WIDTHS.values())))
    generator = np.random.default_rng(0)
    y = generator.integers(0, 2, rows)
    with h5py.File(path, "w") as file:
        file.attrs["modalities"], file.attrs["task"] = list(WIDTHS), "classification"
        file["y"] = y
        order = generator.permutation(rows)
        for part, (start, stop) in {"train": (0.0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1.0)}.items():
            file[f"{part}_idx"] = np.sort(order[int(start * rows) : int(stop * rows)])
        for m, width in WIDTHS.items():
            target = file.create_dataset(m, (rows, width), np.float32)
            for start in range(0, rows, _BLOCK):
                stop = min(start + _BLOCK, rows)
                block = generator.standard_normal((stop - start, width), dtype=np.float32)
                block[:, :5] += y[start:stop, None]
                target[start:stop] = block
    return rows


def train_one(path: Path, out: Path) -> None:
    """In a process of its own: one epoch, and what it took."""
    from equifuse.data.loaders import DiskBatches  # noqa: PLC0415
    from equifuse.runs import TrainConfig, train  # noqa: PLC0415

    waited = {"seconds": 0.0, "epoch": 0.0}
    original = DiskBatches.__iter__

    def timed(self: DiskBatches) -> Iterator[object]:
        if self.size != BATCH or self.seed is None:
            yield from original(self)
            return
        batches = original(self)
        begun = time.perf_counter()
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            waited["seconds"] += time.perf_counter() - asked
            if batch is None:
                break
            yield batch
            waited["epoch"] = time.perf_counter() - begun

    DiskBatches.__iter__ = timed  # type: ignore[method-assign,assignment]
    begun = time.perf_counter()
    result = train(TrainConfig(data=str(path), fusion="gmf", epochs=1, batch_size=BATCH), out / "run", progress=False)
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - begun,
                "epoch": waited["epoch"],
                "waiting": waited["seconds"] / max(waited["epoch"], 1e-9),
                "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
                "accuracy": result.metrics["test"]["accuracy"],
            }
        )
    )


def main() -> None:
    """Run, print and store the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1.0, 4.0])
    parser.add_argument("--out", type=Path, default=Path("runs/streaming"))
    parser.add_argument("--one", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        train_one(*options.one)
        return
    rows = []
    for size in options.gigabytes:
        with tempfile.TemporaryDirectory(prefix="equifuse-streaming-") as folder:
            path = Path(folder) / "set.hdf5"
            samples = generate(path, size)
            command = [sys.executable, __file__, "--one", str(path), folder]
            found = json.loads(
                subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
            )
        rows.append(
            [
                f"{size:g} GB",
                f"{samples:,}",
                f"{found['peak']:.2f} GB",
                f"{found['epoch']:.0f} s",
                f"{100 * found['waiting']:.1f} %",
                f"{found['seconds']:.0f} s",
                f"{100 * found['accuracy']:.1f} %",
            ]
        )
        print(rows[-1], flush=True)
    print(describe())
    publish(options.out, ["file", "samples", "peak memory", "epoch", "waiting for data", "in all", "accuracy"], rows)


if __name__ == "__main__":
    main()
