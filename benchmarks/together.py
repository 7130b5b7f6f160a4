"""Modalities that only decide together: which fusions learn it, and what the head's hidden layer is for.

    python benchmarks/together.py --out runs/together

Three made-up sets of 800 rows with two modalities, neither of which says anything alone: the product of a number of
one and a number of the other is positive, each among eight columns of noise (``product``), or nothing else is there
(``bare``); of two answers, yes or no, among seven others, one is yes (``either``). Everything else is as
``equifuse train`` has it. What is in the folder already is not repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from equifuse import datasets
from equifuse.benchmark import BenchmarkConfig, run_benchmark
from equifuse.datasets import MultimodalDataset, Split
from equifuse.files import write_text
from equifuse.report.tables import NONE, TextTable

ROWS = 800
FUSIONS = ("deq", "gmf", "gmf+deq", "concat", "mean", "gmu", "late", "linear", "trees", "lightgbm")
# Those that add up what the modalities say, so that their head has a hidden layer.
ADDITIVE = ("gmf", "concat", "mean")
SHIPPED, AFFINE = "as shipped", "affine head"


def made() -> dict[str, MultimodalDataset]:
    """The sets."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, ROWS, 9))
    yes, other = (rng.random(size=(2, ROWS, 4)) < 0.5).astype(float)
    product = a[:, 0] * b[:, 0] > 0
    return {
        "product": _parted(a, b, product),
        "bare": _parted(a[:, :1], b[:, :1], product),
        "either": _parted(yes, other, yes[:, 0] != other[:, 0]),
    }


def _parted(a: NDArray[np.float64], b: NDArray[np.float64], y: NDArray[np.bool_]) -> MultimodalDataset:
    """Three fifths of the rows to train on, one fifth each for validation and test."""
    places = {"train": slice(0, 480), "val": slice(480, 640), "test": slice(640, ROWS)}
    x = {"a": a.astype(np.float32), "b": b.astype(np.float32)}
    splits = {part: Split({m: v[rows] for m, v in x.items()}, target=y[rows] * 1) for part, rows in places.items()}
    return MultimodalDataset("together", splits, "classification", ("no", "yes"))


def main() -> None:
    """Train all, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/together"))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    files = []
    for name, dataset in made().items():
        datasets.write_npz(options.out / f"{name}.npz", dataset)
        files.append(str(options.out / f"{name}.npz"))
    methods = []
    for label in FUSIONS:
        fusion, _, backend = label.partition("+")
        asked = {"fusion": fusion, **({"backend": backend} if backend else {})}
        methods.append({"label": f"{label}, {SHIPPED}", **asked})
        if label in ADDITIVE:
            methods.append({"label": f"{label}, {AFFINE}", **asked, "head_hidden": 0})
    config = BenchmarkConfig.from_dict({"data": files, "methods": methods, "seeds": options.seeds})
    store = options.out / "trainings"
    summary = run_benchmark(config, store, resume=(store / "store.sqlite").is_file())
    tables = [_table(name, scores) for name, scores in summary["scores"]["clean"].items()]
    text = f"{options.seeds} seeds; accuracy on 160 test samples in %, mean ± half of Student's 95 % interval.\n\n"
    write_text(options.out / "together.md", text + "\n".join(table.markdown() for table in tables))


def _table(name: str, scores: dict[str, dict[str, float]]) -> TextTable:
    """Fusions in rows, heads in columns."""
    rows = []
    for fusion in FUSIONS:
        cells = []
        for head in (SHIPPED, AFFINE):
            found = scores.get(f"{fusion}, {head}")
            cells.append(NONE if found is None else f"{100 * found['mean']:.1f} ± {100 * found['interval']:.1f}")
        rows.append([fusion, *cells])
    return TextTable([name, SHIPPED, AFFINE], rows)


if __name__ == "__main__":
    main()
