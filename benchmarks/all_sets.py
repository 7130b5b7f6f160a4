"""Every data set of a folder: deq, gmf and concat with the library's defaults, and linear models, five seeds.

    python benchmarks/all_sets.py ../shared/data --out runs/all_sets       # 2 CPU cores: over an hour
    python benchmarks/all_sets.py ../shared/data --out runs/all_sets --resume

Models are selected on the validation part and measured on test once. A set without a validation part gets another one
with each seed; otherwise seeds differ in initial weights and the order of samples. The linear models (logistic or
ridge regression of scikit-learn, on standardised features clipped to +-5, their strength chosen on the validation part)
are of each modality alone, of which the best on validation is shown, and of all features together; for retrieval,
canonical correlations. Metrics: accuracy, mean absolute error (lower is better), recall@10 for retrieval.
"""

from __future__ import annotations

import argparse
import os
import statistics
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from sklearn.cross_decomposition import PLSSVD
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, mean_absolute_error
from sklearn.preprocessing import StandardScaler

from equifuse import datasets
from equifuse.files import write_json
from equifuse.tasks import make_task
from equifuse.training import TrainConfig
from equifuse.training.comparison import train_all
from tables import publish

METHODS = ("deq", "gmf", "concat")
METRIC = {"classification": "accuracy", "regression": "mae", "retrieval": "recall@10"}
STRENGTHS = (1e-3, 1e-2, 0.1, 1.0)


def flat(dataset: datasets.MultimodalDataset, modalities: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Standardised, clipped features of each part."""
    parts = {
        part: np.concatenate([split.inputs[m].reshape(len(split), -1) for m in modalities], axis=1)
        for part, split in dataset.splits.items()
    }
    scaler = StandardScaler().fit(parts["train"])
    return {part: scaler.transform(x).clip(-5, 5) for part, x in parts.items()}


def linear(dataset: datasets.MultimodalDataset, modalities: tuple[str, ...]) -> tuple[float, float]:
    """Validation and test metric of the best linear model on validation."""
    x, y = flat(dataset, modalities), {part: split.target for part, split in dataset.splits.items()}
    found = []
    for strength in STRENGTHS:
        if dataset.task == "classification":
            model: Any = LogisticRegression(C=strength, max_iter=500).fit(x["train"], y["train"])
            scores = {part: accuracy_score(y[part], model.predict(x[part])) for part in ("val", "test")}
        else:
            model = Ridge(alpha=1 / strength * 10).fit(x["train"], y["train"])
            scores = {part: -mean_absolute_error(y[part], model.predict(x[part])) for part in ("val", "test")}
        found.append((scores["val"], scores["test"]))
    return max(found, key=lambda pair: pair[0])


def canonical(dataset: datasets.MultimodalDataset) -> float:
    """Test recall@10 between the first two modalities' canonical projections, both directions."""
    a, b = (flat(dataset, (m,)) for m in dataset.modalities[:2])
    best = []
    for count in (2, 5, 10):
        if count > min(a["train"].shape[1], b["train"].shape[1]):
            continue
        model = PLSSVD(n_components=count).fit(a["train"], b["train"])
        task = make_task("retrieval")
        scores = []
        for part in ("val", "test"):
            pair = torch.from_numpy(np.stack(model.transform(a[part], b[part]), axis=1)).float()
            scores.append(task.metrics(pair, None)["recall@10"])
        best.append(tuple(scores))
    return max(best)[1]


def baselines(path: Path, seeds: int) -> tuple[list[float], list[float], str]:
    """Test metrics by seed of the best single modality and of all together, and which modality that was."""
    single, joint, names = [], [], []
    fixed = None
    for seed in range(seeds):
        dataset = datasets.load(path, seed=seed)
        if fixed == dataset.fingerprint():  # an official validation part: the same again
            break
        fixed = dataset.fingerprint()
        if dataset.task == "retrieval":
            single.append(float("nan"))
            joint.append(canonical(dataset))
            names.append("-")
            continue
        by_modality = {m: linear(dataset, (m,)) for m in dataset.modalities}
        best = max(by_modality, key=lambda m: by_modality[m][0])
        names.append(best)
        single.append(abs(by_modality[best][1]))
        joint.append(abs(linear(dataset, dataset.modalities)[1]))
    return single, joint, max(set(names), key=names.count)


def cell(values: list[float], task: str) -> str:
    """Mean ± deviation, or the value where there is one: per cent, or an error with three decimals."""
    if np.isnan(values).any():
        return "-"
    scale, form = (1.0, ".3f") if task == "regression" else (100.0, ".1f")
    mean = format(scale * statistics.fmean(values), form)
    return f"{mean} ± {format(scale * statistics.stdev(values), form)}" if len(values) > 1 else mean


def main() -> None:
    """Run, print and store the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/all_sets"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--only", nargs="*", help="names of data sets")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    record: dict[str, Any] = {}
    rows: list[list[str]] = []
    sizes = sorted(options.folder.glob("*.npz"), key=lambda path: path.stat().st_size)
    for path in [p for p in sizes if not options.only or p.stem in options.only]:
        task = datasets.load(path).task
        metric = METRIC[task]
        jobs = {
            (method, seed): (
                TrainConfig(data=str(path), fusion=method, seed=seed),
                options.out / path.stem / f"{method}-{seed}",
                options.resume and (options.out / path.stem / f"{method}-{seed}" / "config.yaml").exists(),
            )
            for seed in range(options.seeds)
            for method in METHODS
        }
        results = train_all(jobs, progress=False)
        found = {m: [results[m, seed].metrics["test"][metric] for seed in range(options.seeds)] for m in METHODS}
        converged = min(results["deq", seed].metrics["convergence"]["converged"] for seed in range(options.seeds))
        single, joint, name = baselines(path, options.seeds)
        record[path.stem] = {"metric": metric, **found, "single": single, "linear": joint, "modality": name}
        record[path.stem]["converged"] = converged
        rows.append(
            [
                path.stem,
                metric,
                *(cell(found[m], task) for m in METHODS),
                f"{cell(single, task)} ({name})",
                cell(joint, task),
                f"{100 * converged:.1f} %",
            ]
        )
        print(rows[-1], flush=True)
        # After every set: an interrupted run keeps what it has.
        write_json(options.out / "metrics.json", _plain(record))
    header = ["data", "metric", *METHODS, "best single modality, linear", "all, linear", "deq converged"]
    publish(options.out, header, rows)


def _plain(value: Any) -> Any:
    """NaN is no JSON."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and np.isnan(value) else value


if __name__ == "__main__":
    main()
