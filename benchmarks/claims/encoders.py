"""How much training a fusion damages each encoder."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from claim import CONTRASTS, Claim, Result, Study, TextTable, overall, verdict_of
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from equifuse.data.loaders import batches_of
from equifuse.datasets import MultimodalDataset
from equifuse.files import read_json, write_json
from equifuse.model import FusionModel
from equifuse.runs import TrainConfig
from equifuse.runs.folder import load_data
from equifuse.runs.prepare import prepare
from equifuse.training import Trainer

SETS = ("rosmap", "tcga_gbmlgg", "prokaryotic", "handwritten", "mosi_utterance", "cub10")
FUSIONS = ("concat", "gmf", "deq", "bottleneck")
BALANCED = "concat, ogm_ge"


def train_on(dataset: MultimodalDataset, config: TrainConfig) -> FusionModel:
    """A model with the best weights on validation."""
    prepared = prepare(config, dataset)
    Trainer(config, watch=False).fit(prepared.model, dataset, task=prepared.task, balancer=prepared.balancer)
    return prepared.model


def probe(model: FusionModel, dataset: MultimodalDataset, modality: str) -> float:
    """Test accuracy of logistic regression on one encoder's outputs, its strength chosen on validation."""
    x, y = {}, {}
    for part, split in dataset.splits.items():
        with torch.no_grad():
            pieces = [model.encode({modality: batch.inputs[modality]})[modality] for batch in batches_of(split)]
        x[part], y[part] = torch.cat(pieces).numpy(), split.target
    scaler = StandardScaler().fit(x["train"])
    z = {part: scaler.transform(values) for part, values in x.items()}
    fits = [LogisticRegression(C=c, max_iter=1000).fit(z["train"], y["train"]) for c in (1e-3, 1e-2, 0.1, 1.0)]
    best = max(fits, key=lambda fit: fit.score(z["val"], y["val"]))
    return float(best.score(z["test"], y["test"]))


def only(dataset: MultimodalDataset, modality: str) -> MultimodalDataset:
    """The data set with a single modality."""
    others = [m for m in dataset.modalities if m != modality]
    return replace(dataset, splits={part: split.without(others) for part, split in dataset.splits.items()})


def measure(path: Path, seed: int, settings: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Label -> modality -> accuracy of the probe: of encoders trained alone, and with each fusion."""
    base = {"data": str(path), "seed": seed, **settings}
    dataset = load_data(TrainConfig.from_dict(base))
    alone = TrainConfig.from_dict({**base, "fusion": "concat"})
    found = {"alone": {m: probe(train_on(only(dataset, m), alone), dataset, m) for m in dataset.modalities}}
    for label in (*FUSIONS, BALANCED):
        fusion, _, balance = label.partition(", ")
        config = TrainConfig.from_dict({**base, "fusion": fusion, "balance": balance or None})
        model = train_on(dataset, config)
        found[label] = {m: probe(model, dataset, m) for m in dataset.modalities}
    return found


def run(study: Study) -> Result:
    """Probe every encoder after each training."""
    damage: dict[str, dict[str, list[list[float]]]] = {}
    rows = []
    for path in [path for name in SETS if (path := study.data / f"{name}.npz").is_file()]:
        found = []
        for seed in range(study.seeds):
            kept = study.out / f"{path.stem}-{seed}.json"
            if not kept.is_file():
                write_json(kept, measure(path, seed, study.settings))
            found.append(read_json(kept))
        damage[path.stem] = {
            label: [[100 * (f["alone"][m] - f[label][m]) for m in f["alone"]] for f in found]
            for label in (*FUSIONS, BALANCED)
        }
        for m in found[0]["alone"]:
            cells = [f"{100 * statistics.fmean(f[label][m] for f in found):.1f}" for label in found[0]]
            rows.append([f"{path.stem}, {m}", *cells])
    contrasts = [_contrast(damage, other) for other in (*FUSIONS[:1], *FUSIONS[2:], BALANCED)]
    means = [
        [label, f"{np.mean([np.mean(by[label]) for by in damage.values()]):+.2f}"] for label in (*FUSIONS, BALANCED)
    ]
    tables = [
        TextTable(["data, modality", "alone", *FUSIONS, BALANCED], rows, "Test accuracy of the probes, per cent."),
        TextTable(["trained with", "damage"], means, "Accuracy lost against the encoder trained alone, in points."),
        TextTable(CONTRASTS, [row for _, row in contrasts], "Difference of the damage."),
    ]
    return Result(overall([verdict for verdict, _ in contrasts]), tables)


def _contrast(damage: dict[str, dict[str, list[list[float]]]], other: str) -> tuple[str, list[str]]:
    by_seed = [
        [statistics.fmean(b) - statistics.fmean(a) for a, b in zip(by["gmf"], by[other], strict=True)]
        for by in damage.values()
    ]
    return verdict_of("gmf", other, _means(by_seed), by_seed)


def _means(by_seed: Iterable[list[float]]) -> list[float]:
    return [statistics.fmean(values) for values in by_seed]


CLAIM = Claim(
    "encoders",
    "Training with GMF leaves each modality's encoder more of its own ability than training with other fusions.",
    "Xiong et al. 2024, who attribute the loss of single-modality accuracy to the fusion",
    "Six data sets. Each encoder is trained alone, and with each fusion; then it is frozen, and logistic "
    "regression on its outputs is fitted on train, chosen on validation, measured on test.",
    run,
)

if __name__ == "__main__":
    CLAIM.main()
