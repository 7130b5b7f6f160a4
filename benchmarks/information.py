"""How far estimates of information are off, and how they spread: gates of known bits among columns of noise.

    python benchmarks/information.py --out runs/information_bias

Each draw is kept in ``--out``, and none is repeated; ``table.md`` there has those that are done.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from equifuse import datasets
from equifuse.files import read_json, write_json, write_text
from equifuse.information import interactions
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


def measured(path: Path, name: str, n: int, width: int, seed: int) -> dict[str, Any]:
    """What is shared, needs both and is found in all, of one draw: as kept there, or measured and kept."""
    if not path.is_file():
        start = time.process_time()
        found = interactions(gate(name, n, width, seed), most_samples=n)
        spent = time.process_time() - start
        pair = found.pairs[0]
        write_json(path, {"bits": [pair.redundancy, pair.synergy, found.joint], "seconds": spent})
    kept: dict[str, Any] = read_json(path)
    return kept


def errors(name: str, found: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Mean error and spread of what is shared, needs both, and of all."""
    for truth, values in zip(GATES[name], zip(*(draw["bits"] for draw in found), strict=True), strict=True):
        spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
        yield f"{statistics.fmean(values) - truth:+.3f}{spread}"


def table(rows: list[list[str]]) -> str:
    """The cases that are done, in words."""
    header = ["gate", "n", "columns each", "draws", "shared", "needs both", "all", "one core"]
    text = "Bits that `predictive` finds beyond the true ones: mean error ± deviation over the draws.\n\n"
    return f"{text}{TextTable(header, rows).markdown()}\n{datetime.now(UTC).date()}, {processor()}.\n"


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/information_bias"))
    parser.add_argument("--seconds", type=float, default=3600, help="after which no further case is begun")
    options = parser.parse_args()
    until, rows = time.monotonic() + options.seconds, []
    for n, width, draws in CASES:
        for name in GATES:
            paths = [options.out / f"{name}-{n}-{width}-{seed}.json" for seed in range(draws)]
            if time.monotonic() > until and not all(path.is_file() for path in paths):
                continue
            found = [measured(path, name, n, width, seed) for seed, path in enumerate(paths)]
            spent = statistics.fmean(draw["seconds"] for draw in found)
            rows.append([name, str(n), str(width), str(draws), *errors(name, found), f"{spent:.0f} s"])
            print(*rows[-1], sep="  ", flush=True)
            write_text(options.out / "table.md", table(rows))


if __name__ == "__main__":
    main()
