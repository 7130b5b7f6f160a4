"""Training on two processes: how much faster an epoch is than on one, at the same batch in all.

    python benchmarks/distributed.py --out runs/distributed

Generated data of three modalities of width 512, one thread per process. One process takes batches of 512, each of two
takes 256 of them. Seconds are the median over the epochs after the first, whole ones, in which every process measures
the validation part, and the first writes a checkpoint.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

from equifuse.datasets import MultimodalDataset, Split, write_npz
from equifuse.files import read_json, write_json
from machine import describe
from tables import publish

FUSIONS = ("deq", "gmf", "bottleneck", "concat")
WIDTH, BATCH, EPOCHS = 512, 512, 5
ROWS = {"train": 8192, "val": 512, "test": 512}
HEADER = ["fusion", "seconds per epoch, 1 process", "2 processes", "faster"]


def generate(path: Path) -> None:
    """Ten classes that all modalities tell a little of."""
    generator = np.random.default_rng(0)
    centres = {m: generator.normal(size=(10, WIDTH)) for m in "abc"}
    splits = {}
    for part, n in ROWS.items():
        y = np.arange(n) % 10
        noisy = {m: (0.3 * c[y] + generator.normal(size=(n, WIDTH))).astype(np.float32) for m, c in centres.items()}
        splits[part] = Split(dict(noisy), target=y.astype(np.int64))
    write_npz(path, MultimodalDataset("generated", splits, "classification"))


def seconds(data: Path, fusion: str, processes: int, out: Path) -> float:
    """Median seconds of an epoch."""
    if not (out / "metrics.json").is_file():
        words = [sys.executable, "-m", "equifuse", "train", "--data", str(data), "--fusion", fusion, "--quiet"]
        words += ["--epochs", str(EPOCHS), "--hidden", "256", "--batch-size", str(BATCH // processes)]
        words += ["--devices", str(processes), "--out", str(out)]
        if (out / "config.yaml").is_file():
            words.append("--resume")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        subprocess.run(words, check=True, env=environment, stdout=subprocess.DEVNULL)
    return statistics.median(row["seconds"] for row in read_json(out / "history.json")[1:])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/distributed"))
    parser.add_argument("--fusions", nargs="*", default=FUSIONS)
    options = parser.parse_args()
    data = options.out / "generated.npz"
    if not data.is_file():
        generate(data)
    rows = []
    for fusion in options.fusions:
        one, two = (seconds(data, fusion, n, options.out / f"{fusion}-{n}") for n in (1, 2))
        rows.append([fusion, f"{one:.2f}", f"{two:.2f}", f"{one / two:.2f}"])
    publish(options.out, HEADER, rows)
    write_json(options.out / "machine.json", {**describe(), "threads": 1, "batch": BATCH, "rows": ROWS["train"]})


if __name__ == "__main__":
    main()
