"""GMF on unequal widths against projecting to equal ones."""

from __future__ import annotations

import statistics

from claim import CONTRASTS, Claim, Result, Study, TextTable, overall, verdict_of
from torch import nn

import equifuse as ef
from equifuse.benchmark.statistics import mean_interval
from equifuse.data.loaders import batches_of
from equifuse.files import read_json, write_json
from equifuse.model import LinearHead, Piece
from equifuse.runs import TrainConfig
from equifuse.runs.folder import load_data, task_of
from equifuse.training import Trainer
from equifuse.training.randomness import own_random_numbers

SETS = ("handwritten", "scene15", "prokaryotic", "snare_seq", "pie68", "mosi_utterance")
ARMS = {"unequal widths": None, "projected to the median": statistics.median_low, "projected to the narrowest": min}


def measure(config: TrainConfig, width_of: object) -> float:
    """Test accuracy of GMF on the features as they are, or on linear projections of them to one width."""
    dataset = load_data(config)
    with own_random_numbers(config.seed):
        model = ef.build_model(
            dataset.shapes, dataset.task, dataset.n_outputs, fusion="gmf", encoder="identity", classes=dataset.classes
        )
        if callable(width_of):
            width = width_of(dataset.dims.values())
            encoders = {
                m: nn.Sequential(encoder, nn.Linear(dataset.dims[m], width)) for m, encoder in model.encoders.items()
            }
            fusion = ef.GMF(dict.fromkeys(dataset.dims, width))
            head = LinearHead(fusion.out_dim, dataset.n_outputs)
            model = ef.FusionModel(encoders, fusion, head, task=dataset.task, classes=dataset.classes)
    train = batches_of(dataset.splits["train"])
    model.fit_preprocessing_in_pieces(Piece(b.inputs, b.present, b.lengths, b.weight) for b in train)
    task = task_of(model, config)
    Trainer(config, watch=False).fit(model, dataset, task=task)
    return task.evaluate(model, batches_of(dataset.splits["test"])).metrics["accuracy"]


def run(study: Study) -> Result:
    """Train each arm on each data set."""
    found: dict[str, dict[str, list[float]]] = {}
    for name in SETS:
        path = study.data / f"{name}.npz"
        if not path.is_file():
            continue
        kept = study.out / f"{name}.json"
        known = read_json(kept) if kept.is_file() else {}
        for label, width_of in ARMS.items():
            values = known.setdefault(label, [])
            for seed in range(len(values), study.seeds):
                config = TrainConfig.from_dict({"data": str(path), "fusion": "gmf", "seed": seed, **study.settings})
                values.append(measure(config, width_of))
                write_json(kept, known)
        found[name] = known
    rows = []
    for name, arms in found.items():
        described = [mean_interval(arms[label]) for label in ARMS]
        rows.append([name, *(f"{100 * mean:.1f} ± {100 * half:.1f}" for mean, half in described)])
    contrasts = []
    for label in list(ARMS)[1:]:
        by_seed = [
            [100 * (a - b) for a, b in zip(arms["unequal widths"], arms[label], strict=True)] for arms in found.values()
        ]
        means = [statistics.fmean(differences) for differences in by_seed]
        contrasts.append(verdict_of("unequal widths", label, means, by_seed))
    worse = any(verdict == "does not hold" for verdict, _ in contrasts)
    better = overall([verdict for verdict, _ in contrasts])
    verdict = f"nothing is lost: {'does not hold' if worse else 'no loss shown'}; something is gained: {better}"
    tables = [
        TextTable(["data", *ARMS], rows, "Test accuracy, per cent, mean ± half the 95 % interval over the seeds."),
        TextTable(CONTRASTS, [row for _, row in contrasts]),
    ]
    return Result(verdict, tables)


CLAIM = Claim(
    "widths",
    "GMF takes features of unequal widths as they are, and nothing is lost against projecting them to equal widths.",
    "Xiong et al. 2024",
    "Six data sets with modalities of different width, no encoder: GMF on the standardised features, or on "
    "learned affine projections of them to the median or the narrowest width.",
    run,
)

if __name__ == "__main__":
    CLAIM.main()
