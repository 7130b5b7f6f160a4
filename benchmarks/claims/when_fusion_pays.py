"""When fusion pays: features of data sets against what fusion gained there, in a benchmark that has been run.

EQUIFUSE_DATA=../shared/data python benchmarks/claims/when_fusion_pays.py --benchmark results/grand --out results

``--benchmark`` is a folder with the ``summary.json`` of ``equifuse benchmark``. What is measured of a data set is kept
in ``<out>/when_fusion_pays.json``, so that the command goes on where it was stopped. ``--data rosmap`` takes one set.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from scipy.stats import spearmanr

from equifuse.datasets import MultimodalDataset, load
from equifuse.errors import InputError
from equifuse.evaluation.evaluate import evaluate_quietly
from equifuse.files import read_json, write_json, write_text
from equifuse.information import interactions
from equifuse.report.machine import processor
from equifuse.report.tables import TextTable
from equifuse.runs.config import TrainConfig
from equifuse.runs.prepare import prepare
from equifuse.training.trainer import Trainer

NAME = "when_fusion_pays"
LATE = "late"
# Feature -> what it is, for the page.
FEATURES = {
    "rows": "training rows",
    "modalities": "number of modalities",
    "missing": "share of the training cells (row, modality) that are missing",
    "noise": "share of the target's entropy that all modalities together do not tell",
    "complementarity": "what all modalities say beyond the best one, as a share of the target's entropy",
    "synergy": "what the pair that interacts most says only together, likewise",
}
GAINS = {"over late": "over late fusion", "over one": "over the best modality alone"}


def features_of(dataset: MultimodalDataset, most: int) -> dict[str, float]:
    """What is known of a data set before any fusion is trained.

    Raises:
        InputError: its information is not measured, as in retrieval.
    """
    train = dataset.splits["train"]
    lacking = [1 - float(train.present[m].mean()) if m in train.present else 0.0 for m in dataset.modalities]
    found = interactions(dataset, most_samples=most)
    entropy = max(found.target_entropy, 1e-9)
    return {
        "rows": float(len(train)),
        "modalities": float(len(dataset.modalities)),
        "missing": statistics.fmean(lacking),
        "noise": 1 - min(found.joint / entropy, 1.0),
        "complementarity": max(found.joint - max(found.modalities.values()), 0.0) / entropy,
        "synergy": max((pair.synergy for pair in found.pairs), default=0.0) / entropy,
    }


def best_alone(dataset: MultimodalDataset, metric: str) -> float:
    """A metric on test of the modality whose linear model is best on validation."""
    best: tuple[float, float] | None = None
    for m in dataset.modalities:
        one = _only(dataset, m)
        prepared = prepare(TrainConfig(dataset.name, fusion="linear"), one)
        trained = Trainer().fit(prepared.model, one, task=prepared.task)
        assert trained.best_value is not None
        value = evaluate_quietly(prepared.model, prepared.task, one).metrics[metric]
        if value is not None and (best is None or trained.best_value < best[0]):
            best = trained.best_value, value
    if best is None:
        raise InputError(f"no modality of {dataset.name} predicts anything alone")
    return best[1]


def _only(dataset: MultimodalDataset, m: str) -> MultimodalDataset:
    """The data set with one modality; rows that lack it stay."""
    others = [name for name in dataset.modalities if name != m]
    return replace(dataset, splits={part: split.without(others) for part, split in dataset.splits.items()})


def gain(value: float, other: float, better: str) -> float:
    """How much better a value is than another: in points of a score, in percent of an error."""
    return 100 * (value - other) if better == "max" else 100 * (other - value) / abs(other)


def study(
    summary: Mapping[str, Any],
    data: Sequence[str],
    methods: Sequence[str],
    known: dict[str, Any],
    most: int,
    kept: Path,
) -> dict[str, dict[str, float]]:
    """Features and gains of every data set; what is new is written to ``kept`` at once."""
    found: dict[str, dict[str, float]] = {}
    for name in data:
        scores, better = summary["scores"]["clean"][name], summary["better"][name]
        if name not in known:
            try:
                dataset = load(summary["sets"][name]["source"])
                known[name] = {**features_of(dataset, most), "alone": best_alone(dataset, summary["metrics"][name])}
            except InputError as error:
                known[name] = {"skipped": str(error)}
            write_json(kept, known)
        print(name, known[name], flush=True)
        if "skipped" in known[name]:
            continue
        fused = statistics.fmean(scores[method]["mean"] for method in methods)
        late = scores[LATE]["mean"]
        found[name] = {
            **{feature: known[name][feature] for feature in FEATURES},
            "over late": gain(fused, late, better),
            "over one": gain(fused, known[name]["alone"], better),
        }
    return found


def page(
    found: Mapping[str, Mapping[str, float]], methods: Sequence[str], known: Mapping[str, Any], source: str
) -> str:
    """The study in words and tables."""
    header = ["data", *FEATURES, *GAINS]
    rows = [
        [name, *(f"{row[column]:.3g}" for column in header[1:])]
        for name, row in sorted(found.items(), key=lambda entry: -entry[1]["over late"])
    ]
    lines = []
    for feature, words in FEATURES.items():
        cells = [f"{feature}: {words}"]
        for of in GAINS:
            x, y = ([row[column] for row in found.values()] for column in (feature, of))
            varied = len(set(x)) > 1 and len(x) > 3
            rho, p = spearmanr(x, y) if varied else (math.nan, math.nan)
            cells.append(f"{rho:+.2f} (p = {p:.2f})" if varied else "–")
        lines.append(cells)
    fused = " and ".join(methods)
    won = [sum(row[of] > 0 for row in found.values()) for of in GAINS]
    skipped = [f"{name} ({entry['skipped']})" for name, entry in known.items() if "skipped" in entry]
    by = [f"rank correlation with the gain {words}" for words in GAINS.values()]
    text = [
        f"What `{fused}` gained (the mean of them) on {len(found)} data sets of `{source}`: over late fusion on "
        f"{won[0]}, over the best modality alone on {won[1]}. Gains are points of a score, or percent of an error. "
        "Alone: the modality whose linear model is best on validation. Features: what `equifuse interactions` finds on "
        "training and validation.",
        TextTable(["feature", *by], lines).markdown(),
        "Of twelve p-values one is below 0.05 by chance in about every second such table.",
        TextTable(header, rows).markdown(),
        *([f"Left out: {'; '.join(skipped)}."] if skipped else []),
        f"{datetime.now(UTC).date()}, {processor()}.",
    ]
    return "\n\n".join(text) + "\n"


def picture(found: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Gains against complementarity and synergy."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    for axes, feature in zip(figure.subplots(1, 2, sharey=True), ("complementarity", "synergy"), strict=True):
        for of, mark in zip(GAINS, "ox", strict=True):
            x, y = ([row[column] for row in found.values()] for column in (feature, of))
            axes.plot(x, y, mark, label=GAINS[of], alpha=0.8)
        axes.axhline(0, color="0.6", linewidth=0.8)
        axes.set_xlabel(f"{feature}, share of the target's entropy")
    figure.axes[0].set_ylabel("gain of fusion (points, or %)")
    figure.axes[0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> None:
    """Measure what is not known yet, and write page and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", type=Path, default=Path("results/grand"))
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--method", action="append", help="fusions that count; default deq and gmf+deq")
    parser.add_argument("--data", action="append", help="data sets; default all of the benchmark")
    parser.add_argument("--most", type=int, default=1000, help="samples that information is measured on")
    options = parser.parse_args()
    summary = json.loads((options.benchmark / "summary.json").read_text(encoding="utf-8"))
    methods = options.method or ["deq", "gmf+deq"]
    lacking = [m for m in (*methods, LATE) if m not in summary["methods"]]
    if lacking:
        parser.error(f"the benchmark has no {lacking[0]!r}; it has {', '.join(summary['methods'])}")
    kept = options.out / f"{NAME}.json"
    known = read_json(kept) if kept.is_file() else {}
    options.out.mkdir(parents=True, exist_ok=True)
    found = study(summary, options.data or list(summary["sets"]), methods, known, options.most, kept)
    write_text(options.out / f"{NAME}.md", page(found, methods, known, options.benchmark.as_posix()))
    picture(found, options.out / f"{NAME}.svg")


if __name__ == "__main__":
    main()
