"""When fusion pays: what can be known of a data set before training, against what fusion gained in a benchmark.

    EQUIFUSE_DATA=../shared/data python benchmarks/claims/when_fusion_pays.py --benchmark results/grand_recipe

``--benchmark`` is a folder with the ``summary.json`` of ``equifuse benchmark``. No fusion is trained: each modality
alone is, and its information is estimated. Both are kept in ``--out`` and not repeated, so that the command goes on
where it was stopped; ``study.json`` and ``tables.md`` there are about the sets that are complete.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from claim import SETTINGS
from scipy.stats import spearmanr

from equifuse.benchmark.statistics import mean_interval
from equifuse.datasets import MultimodalDataset, load
from equifuse.errors import ConvergenceWarning, InputError
from equifuse.evaluation.evaluate import evaluate_quietly
from equifuse.files import read_json, write_json, write_text
from equifuse.information import interactions
from equifuse.report.machine import processor
from equifuse.report.tables import TextTable
from equifuse.runs import TrainConfig
from equifuse.runs.prepare import prepare
from equifuse.training import Trainer
from information import correlation, kept

LATE, ALONE, HALF = "late", "concat", "missing 0.5"
OURS = ("deq", "gmf+deq")
JOINT = ("deq", "gmf", "gmf+deq", "concat", "gmu")
SAMPLES = 1000

# Feature -> what it is, for the page.
FEATURES = {
    "rows": "training rows",
    "columns": "columns of all modalities, per training row",
    "modalities": "number of modalities",
    "missing": "share of the training cells (row, modality) that are missing",
    "noise": "share of the target's entropy that all modalities together do not tell",
    "adds": "what all together say beyond the best one, share of the entropy",
    "interacts": "what all together say beyond each asked alone, share of the entropy",
    "synergy": "what some two say only together, share of the entropy",
    "shared": "what two modalities share, mean of the pairs, share of what they say",
}
GAINS = {
    "over one": "deq and gmf+deq over the best modality alone",
    "over late": "deq and gmf+deq over late",
    "half": "the same with half of the modalities missing",
    "joint over late": "five joint fusions over late",
}
# What the verdict of `equifuse interactions` says -> in short.
ADVICE = {
    "Nothing is found": "nothing is found",
    "nothing for fusion to add": "one modality says all",
    "late fusion will do": "they add evidence, late fusion will do",
    "may gain more than late fusion": "methods that see all may gain more",
    "interact:": "two interact: fuse early",
}


@dataclass(frozen=True)
class Scores:
    """What a benchmark found on one data set."""

    summary: Mapping[str, Any]
    name: str

    @property
    def errors(self) -> bool:
        """Whether lower is better."""
        return bool(self.summary["better"][self.name] == "min")

    def gain(self, value: float, other: float) -> float:
        """How much better a value is than another: in points of a score, in per cent of an error."""
        return 100 * (other - value) / abs(other) if self.errors else 100 * (value - other)

    def of(self, method: str) -> dict[str, float]:
        """Seed -> score on the whole test part."""
        return dict(self.summary["scores"]["clean"][self.name][method]["values"])

    def half(self, method: str) -> float:
        """Mean score with half of the modalities missing."""
        left = self.summary["conditions_by_set"][HALF][self.name][method]
        mean = self.summary["scores"]["clean"][self.name][method]["mean"]
        return float(mean / left if self.errors else mean * left)

    def over_late(self, methods: Iterable[str]) -> list[float]:
        """Seed by seed the mean gain of methods over late fusion."""
        late, scores = self.of(LATE), [self.of(method) for method in methods]
        return [statistics.fmean(self.gain(found[seed], late[seed]) for found in scores) for seed in late]

    def over_one(self, alone: Mapping[str, float]) -> list[float]:
        """Seed by seed our mean gain over the best modality, for the seeds that it was trained with."""
        scores = [self.of(method) for method in OURS]
        return [statistics.fmean(self.gain(found[s], alone[s]) for found in scores) for s in alone]


def features_of(dataset: MultimodalDataset, found: Mapping[str, Any]) -> dict[str, float]:
    """What is known before any training, of a data set and the estimate of its information."""
    train = dataset.splits["train"]
    lacking = [1 - float(train.present[m].mean()) if m in train.present else 0.0 for m in dataset.modalities]
    entropy = found["target_entropy"]
    together = max(found["joint"], found["evidence"])
    shared = [pair["redundancy"] / pair["joint"] for pair in found["pairs"] if pair["joint"] > 0]
    return {
        "rows": float(len(train)),
        "columns": sum(dataset.dims.values()) / len(train),
        "modalities": float(len(dataset.modalities)),
        "missing": statistics.fmean(lacking),
        "noise": 1 - min(together / entropy, 1.0),
        "adds": (together - max(found["modalities"].values())) / entropy,
        "interacts": (found["joint"] - found["evidence"]) / entropy,
        "synergy": max(pair["synergy"] for pair in found["pairs"]) / entropy,
        "shared": statistics.fmean(shared) if shared else 0.0,
    }


def alone(source: str, m: str, metric: str, seed: int) -> dict[str, float]:
    """One training on a modality alone: the loss on validation, by which it is chosen, and a metric on test."""
    whole = load(source, seed=seed)
    others = [name for name in whole.modalities if name != m]
    dataset = replace(whole, splits={part: split.without(others) for part, split in whole.splits.items()})
    options = {**SETTINGS, "fusion": ALONE, "unimodal": "none", "modality_dropout": 0, "seed": seed}
    prepared = prepare(TrainConfig.from_dict({"data": source, **options}), dataset)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        trained = Trainer(prepared.config, watch=False).fit(prepared.model, dataset, task=prepared.task)
        value = evaluate_quietly(prepared.model, prepared.task, dataset).metrics[metric]
    if trained.best_value is None or value is None:
        raise InputError(f"{m} of {source} alone has no {metric}")
    return {"val": trained.best_value, "test": value}


def best_alone(
    source: str, modalities: Sequence[str], metric: str, seeds: int, out: Path, going: Callable[[], bool]
) -> dict[str, float]:
    """Seed -> the metric on test of the modality that is best on validation; the seeds that there is time for."""
    best = {}
    for seed in range(seeds):
        found = []
        for m in modalities:
            path = out / "alone" / f"{Path(source).stem}.{m}.{seed}.json"
            if path.is_file() or going():
                found.append(kept(path, partial(alone, source, m, metric, seed)))
        if len(found) == len(modalities):
            best[str(seed)] = float(min(found, key=lambda each: each["val"])["test"])
    return best


def estimated(dataset: MultimodalDataset) -> dict[str, Any]:
    """What the modalities say of the target, on training and validation rows."""
    return interactions(dataset, most_samples=SAMPLES).to_dict()


def study(
    summary: Mapping[str, Any], data: Sequence[str], seeds: int, out: Path, going: Callable[[], bool]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Features and gains of every data set that is estimated, and why others are left out."""
    found: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    for name in data:
        source, metric = summary["sets"][name]["source"], summary["metrics"][name]
        stored = out / "estimates" / f"{name}.json"
        if summary["sets"][name]["task"] == "retrieval":
            skipped[name] = "retrieval: no target that could be told"
            continue
        if not stored.is_file() and not going():
            skipped[name] = "not estimated within the time"
            continue
        dataset = load(source)
        said = kept(stored, partial(estimated, dataset))
        one = best_alone(source, list(dataset.modalities), metric, seeds, out, going)
        scores = Scores(summary, name)
        by_seed = {
            "over one": scores.over_one(one),
            "over late": scores.over_late(OURS),
            "joint over late": scores.over_late(JOINT),
        }
        found[name] = {
            "task": summary["sets"][name]["task"],
            "advice": next(short for words, short in ADVICE.items() if words in said["verdict"]),
            **features_of(dataset, said),
            **{gain: statistics.fmean(values) if values else None for gain, values in by_seed.items()},
            "half": statistics.fmean(scores.gain(scores.half(m), scores.half(LATE)) for m in OURS),
            "seeds": by_seed,
        }
        print(name, {key: found[name][key] for key in GAINS}, flush=True)
    return found, skipped


def correlations(found: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Feature -> gain -> rank correlation over the sets that have both, its 95 % interval, and p."""
    told: dict[str, dict[str, list[float]]] = {}
    for feature in FEATURES:
        if len({row[feature] for row in found.values()}) > 1:
            for gain in GAINS:
                pairs = [(row[feature], row[gain]) for row in found.values() if row[gain] is not None]
                told.setdefault(feature, {})[gain] = list(correlation(*np.array(pairs).T))
    return told


def repeats(found: Mapping[str, Any], gain: str) -> float:
    """Mean rank correlation of a gain between two seeds: more than this no feature can be expected to tell."""
    most = max(len(row["seeds"][gain]) for row in found.values())
    by_seed = list(zip(*(row["seeds"][gain] for row in found.values() if len(row["seeds"][gain]) == most), strict=True))
    return statistics.fmean(float(spearmanr(a, b).statistic) for a, b in combinations(by_seed, 2))


def _mean(values: Sequence[float]) -> str:
    """A mean with its 95 % interval."""
    if not values:
        return "–"
    mean, half = mean_interval(values)
    return f"{mean:+.1f}" if len(values) < 3 else f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"


def page(found: Mapping[str, Any], told: Mapping[str, Any], skipped: Mapping[str, str], source: str) -> str:
    """Tables, one below the other."""
    classes = {name: row for name, row in found.items() if row["task"] == "classification"}
    header = ["sets", *GAINS.values()]
    groups = [("all", classes)] + [
        (short, {name: row for name, row in classes.items() if row["advice"] == short}) for short in ADVICE.values()
    ]
    lines = [
        [
            f"{words}: {len(rows)}",
            *(_mean([row[gain] for row in rows.values() if row[gain] is not None]) for gain in GAINS),
        ]
        for words, rows in groups
        if rows
    ]
    cells = [
        [
            f"{feature}: {FEATURES[feature]}",
            *(f"{r:+.2f} ({low:+.2f} to {high:+.2f})" for r, low, high, _ in row.values()),
        ]
        for feature, row in told.items()
    ]
    columns = [name for name in (*FEATURES, *GAINS) if name in GAINS or name in told]
    rows = [
        [name, row["advice"], *("–" if row[column] is None else f"{row[column]:.3g}" for column in columns)]
        for name, row in sorted(found.items(), key=lambda entry: -entry[1]["over late"])
    ]
    again = ", ".join(f"{GAINS[g]} {repeats(found, g):+.2f}" for g in ("over one", "over late", "joint over late"))
    constant = [feature for feature in FEATURES if feature not in told]
    sure = sum(low > 0 or high < 0 for row in told.values() for _, low, high, _ in row.values())
    several = len(told) * len(GAINS)
    text = [
        "# Tables",
        f"{len(found)} data sets of `{source}`, gains in points of accuracy, of regressions in per cent of the error. "
        "What is known before training is an estimate by `equifuse interactions` on at most "
        f"{SAMPLES:,} training and validation rows. The best modality alone: the same encoder and options, the "
        "modality chosen on validation.",
        "## By what `equifuse interactions` advised",
        TextTable(header, lines, "Classification only. Mean over the sets, 95 % interval.").markdown(),
        "## Rank correlations",
        TextTable(["before training", *GAINS.values()], cells, "Over all sets, 95 % of bootstrap draws.").markdown(),
        f"{sure} of {several} intervals leave out 0; by chance about {several / 20:.1f} of {several} would. "
        f"A gain repeats from one seed to another with rank correlation: {again}.",
        *([f"The same on all sets, so that nothing can be said of it: {', '.join(constant)}."] if constant else []),
        "## Data set by data set",
        TextTable(["data", "advice", *columns], rows).markdown(),
        *([f"Left out: {'; '.join(f'{name} ({why})' for name, why in skipped.items())}."] if skipped else []),
        f"{datetime.now(UTC).date()}, {processor()}.",
    ]
    return "\n\n".join(text) + "\n"


def main() -> None:
    """Measure what is not known yet, and write numbers and tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", type=Path, default=Path("results/grand_recipe"))
    parser.add_argument("--out", type=Path, default=Path("runs/when_fusion_pays"))
    parser.add_argument("--data", action="append", help="data sets; default all of the benchmark")
    parser.add_argument("--seeds", type=int, default=3, help="of the modalities alone")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no further set is begun")
    options = parser.parse_args()
    summary = read_json(options.benchmark / "summary.json")
    lacking = [m for m in (*JOINT, LATE) if m not in summary["methods"]]
    if lacking:
        parser.error(f"the benchmark has no {lacking[0]!r}; it has {', '.join(summary['methods'])}")
    until = time.monotonic() + 60 * options.minutes
    data = options.data or list(summary["sets"])
    found, skipped = study(summary, data, options.seeds, options.out, lambda: time.monotonic() < until)
    told = correlations(found)
    write_json(options.out / "study.json", {"sets": found, "correlations": told})
    write_text(options.out / "tables.md", page(found, told, skipped, options.benchmark.as_posix()))


if __name__ == "__main__":
    main()
