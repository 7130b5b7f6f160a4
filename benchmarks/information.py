"""How far estimates of information are off, and how they spread: gates of known bits among columns of noise.

python benchmarks/information.py --out results/information.md
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from equifuse import datasets
from equifuse.files import write_text
from equifuse.information import Interactions, interactions
from equifuse.report.machine import processor
from equifuse.report.tables import TextTable

# Samples, columns of each modality, draws.
CASES = (
    *((n, 2, 5) for n in (100, 300, 1000)),
    (3000, 2, 3),
    (10_000, 2, 1),
    *((n, 50, 3) for n in (100, 300, 1000)),
    (3000, 50, 2),
    (300, 500, 3),
    (1000, 500, 2),
)
GATES = {"and": (0.3113, 0.5, 0.8113), "xor": (0.0, 1.0, 1.0), "none": (0.0, 0.0, 0.0)}


def gate(name: str, n: int, width: int, seed: int) -> datasets.MultimodalDataset:
    """A gate of one bit in each modality, beside ``width - 1`` columns of noise."""
    generator = np.random.default_rng(seed)
    a, b, other = generator.integers(0, 2, (3, n))
    y = {"and": a & b, "xor": a ^ b, "none": other}[name]
    noise = [np.column_stack([z, generator.normal(size=(n, width - 1))]).astype(np.float32) for z in (a, b)]
    split = datasets.Split({"a": noise[0], "b": noise[1]}, target=y.astype(np.int64))
    rows, cut = np.arange(n), 4 * n // 5
    parts = {"train": split.select(rows[:cut]), "val": split.select(rows[cut:]), "test": split.select(rows[:cut])}
    return datasets.MultimodalDataset(name, parts, "classification")


def errors(name: str, found: list[Interactions]) -> Iterator[str]:
    """Mean error and spread of what is shared, needs both, and of all."""
    for truth, values in zip(
        GATES[name],
        ([f.pairs[0].redundancy for f in found], [f.pairs[0].synergy for f in found], [f.joint for f in found]),
        strict=True,
    ):
        spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
        yield f"{statistics.fmean(values) - truth:+.3f}{spread}"


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/information.md"))
    parser.add_argument("--seconds", type=float, default=3600, help="after which no further case is begun")
    options = parser.parse_args()
    began, rows = time.monotonic(), []
    for n, width, draws in CASES:
        for name in GATES:
            if time.monotonic() - began > options.seconds:
                continue
            start = time.process_time()
            found = [interactions(gate(name, n, width, seed), most_samples=n) for seed in range(draws)]
            spent = (time.process_time() - start) / draws
            rows.append([name, str(n), str(width), str(draws), *errors(name, found), f"{spent:.0f} s"])
            print(rows[-1], flush=True)
            caption = f"{datetime.now(UTC).date()}, {processor()}"
            header = ["gate", "n", "columns each", "draws", "shared", "needs both", "all", "one core"]
            text = "Bits that `predictive` finds beyond the true ones: mean error ± deviation over the draws.\n\n"
            write_text(options.out, f"{text}{TextTable(header, rows).markdown()}\n{caption}.\n")


if __name__ == "__main__":
    main()
