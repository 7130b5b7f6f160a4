"""Benchmarks on made-up tables: their parts, methods in variants, and a table for each.

Imported by the scripts that make them; each set is stored, each training kept, and neither repeated.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equifuse import datasets
from equifuse.benchmark import BenchmarkConfig, Method, run_benchmark
from equifuse.datasets import MultimodalDataset, Split
from equifuse.files import write_text
from equifuse.report.tables import NONE, TextTable

ROWS = 800


def parted(name: str, inputs: Mapping[str, NDArray[np.float64]], y: NDArray[np.bool_]) -> MultimodalDataset:
    """Three fifths of 800 rows to train on, one fifth each for validation and test."""
    places = {"train": slice(0, 480), "val": slice(480, 640), "test": slice(640, ROWS)}
    x = {m: values.astype(np.float32) for m, values in inputs.items()}
    splits = {part: Split({m: v[rows] for m, v in x.items()}, target=y[rows] * 1) for part, rows in places.items()}
    return MultimodalDataset(name, splits, "classification", ("no", "yes"))


def measure(
    about: str,
    sets: Mapping[str, MultimodalDataset],
    fusions: Sequence[str],
    variants: Mapping[str, tuple[Sequence[str], Mapping[str, Any]]],
    page: str,
) -> None:
    """Train every fusion in its variants on every set, and write a page with a table for each set.

    Args:
        about: what the command line says of itself.
        sets: by name.
        fusions: such as ``gmf+deq``, rows of the tables.
        variants: columns of the tables; for which fusions, and with which options.
        page: name of the page, ``page.md``, in the folder that the command line names.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs", page))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    files = []
    for name, dataset in sets.items():
        datasets.write_npz(options.out / f"{name}.npz", dataset)
        files.append(str(options.out / f"{name}.npz"))
    methods = []
    for label in fusions:
        asked = Method.of(label).options
        methods += [
            {"label": f"{label}, {variant}", **asked, **more} for variant, (of, more) in variants.items() if label in of
        ]
    config = BenchmarkConfig.from_dict({"data": files, "methods": methods, "seeds": options.seeds})
    store = options.out / "trainings"
    summary = run_benchmark(config, store, resume=(store / "store.sqlite").is_file())
    text = f"{options.seeds} seeds; accuracy on 160 test samples in %, mean ± half of Student's 95 % interval.\n"
    for name, scores in summary["scores"]["clean"].items():
        text += f"\n## {name}\n\n{_table(name, scores, fusions, variants).markdown()}"
    write_text(options.out / f"{page}.md", text)


def _table(
    name: str, scores: dict[str, dict[str, float]], fusions: Sequence[str], variants: Mapping[str, Any]
) -> TextTable:
    """Fusions in rows, variants in columns."""
    rows = []
    for fusion in fusions:
        cells = []
        for variant in variants:
            found = scores.get(f"{fusion}, {variant}")
            cells.append(NONE if found is None else f"{100 * found['mean']:.1f} ± {100 * found['interval']:.1f}")
        rows.append([fusion, *cells])
    return TextTable([name, *variants], rows)
