"""ROSMAP: the four methods and logistic regression, five seeds, everything chosen on validation.

    python benchmarks/rosmap.py ../shared/data/rosmap.npz --out runs/rosmap

The file has a train and a test part. Each seed splits its own fifth off the training part (stratified) for early
stopping, and for the strength of the logistic regression; test is looked at once per model, at the end. The settings
were chosen by the mean validation loss over the seeds.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score
from sklearn.preprocessing import StandardScaler

from equifuse import datasets
from equifuse.benchmark import BenchmarkConfig, run_benchmark
from equifuse.benchmark.presets import four_methods
from equifuse.report.tables import NONE, plus_minus
from tables import publish

SETTINGS: dict[str, Any] = {
    "hidden": [32],
    "input_dropout": 0.5,
    "dropout": 0.5,
    "weight_decay": 3.0,
    "epochs": 200,
    "patience": 25,
    # The methods alone, without what training adds to every fusion.
    "unimodal": "none",
    "modality_dropout": 0,
}


def logistic_regression(path: str, seed: int) -> dict[str, float]:
    """Test metrics of logistic regression on all features, its strength chosen on the validation part."""
    splits = datasets.load(path, seed=seed).splits
    flat = {part: np.concatenate(list(split.inputs.values()), axis=1) for part, split in splits.items()}
    scaler = StandardScaler().fit(flat["train"])
    x = {part: scaler.transform(values) for part, values in flat.items()}
    y = {part: split.target for part, split in splits.items()}
    fitted = [LogisticRegression(C=c, max_iter=5000).fit(x["train"], y["train"]) for c in (1e-4, 1e-3, 0.01, 0.1, 1)]
    best = min(fitted, key=lambda model: log_loss(y["val"], model.predict_proba(x["val"])))
    probability = best.predict_proba(x["test"])[:, 1]
    return {
        "accuracy": accuracy_score(y["test"], probability > 0.5),
        "f1": f1_score(y["test"], probability > 0.5),
        "auc": roc_auc_score(y["test"], probability),
    }


def main() -> None:
    """Run, print and store the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="rosmap.npz")
    parser.add_argument("--out", type=Path, default=Path("runs/rosmap"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    config = BenchmarkConfig((options.data,), four_methods(), tuple(range(options.seeds)), settings=SETTINGS)
    summary = run_benchmark(config, options.out, resume=options.resume)
    (data,) = summary.sets
    baseline = [logistic_regression(options.data, seed) for seed in range(options.seeds)]
    rows = []
    for label in summary.methods:
        measured, solved = summary.measures[data][label], summary.convergence.get(label)
        spreads = [(measured[name].mean, measured[name].deviation) for name in ("accuracy", "f1", "auc")]
        steps = [NONE, NONE] if solved is None else [f"{solved.steps_at_start:.1f}", f"{solved.steps:.1f}"]
        rows.append([label, *map(plus_minus, spreads), f"{summary.costs[label].parameters:,.0f}", *steps])
    means = [
        (statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)
        for values in ([run[name] for run in baseline] for name in ("accuracy", "f1", "auc"))
    ]
    rows.append(["logistic regression", *(plus_minus(value) for value in means), "601", NONE, NONE])
    header = ["method", "accuracy %", "F1 %", "AUC %", "parameters", "steps at start", "steps after training"]
    publish(options.out, header, rows)


if __name__ == "__main__":
    main()
