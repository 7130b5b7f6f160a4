"""What kinds of ensembles gain over a single model, and what they cost: test accuracy and time, over sets and seeds.

    python benchmarks/ensembles.py ../shared/data --out runs/ensembles

Everything but the fusion, the seed and the ensemble is as ``equifuse train`` has it. Time is that of the processor, of
this process alone, so that other work on the machine counts little. What one set, fusion, seed and kind gave is a file
of its own: a command that was stopped goes on with those that are left, and ``--show`` makes the tables of what there
is. The first repeat of the repeated bag is the bag, and the single model is the first of those that differ in their
seed; what two kinds share is trained once.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

from equifuse import datasets
from equifuse.benchmark.statistics import mean_interval, paired_test, signed_rank_test
from equifuse.data import MultimodalDataset
from equifuse.evaluation.evaluate import evaluate_quietly
from equifuse.files import read_json, write_json, write_text
from equifuse.model import Ensemble, FusionModel
from equifuse.report.tables import TextTable, number
from equifuse.runs import TrainConfig
from equifuse.runs.executors import TRAINING
from equifuse.runs.members import Job, jobs_of, train_job
from equifuse.runs.prepare import prepare
from machine import describe

SETS = ("rosmap", "proteinfold", "prokaryotic", "cub10", "tcga_gbmlgg", "brca_mogonet_testpart", "mosi_utterance")
FUSIONS = ("gmf", "deq")
SINGLE = "single"
# Way -> its options, and what it is called.
WAYS: dict[str, tuple[dict[str, Any], str]] = {
    SINGLE: ({}, "single model"),
    "snapshots": ({"ensemble": 5, "ensemble_by": "snapshots"}, "5 snapshots"),
    "seeds": ({"ensemble": 5, "ensemble_by": "seeds"}, "5 seeds"),
    "folds": ({"ensemble": 5}, "5 folds"),
    "repeats": ({"ensemble": 5, "repeats": 3}, "5 folds, 3 repeats"),
}
# Sets from which on there is an interval worth to be shown.
_LEAST = 3
# Way -> the one whose members are its first ones.
FIRST = {"repeats": "folds", SINGLE: "seeds"}


def measure(config: TrainConfig, dataset: MultimodalDataset, folder: Path) -> dict[str, float]:
    """Accuracy and loss on test of all models together, mean accuracy of each alone, and seconds."""
    models: list[FusionModel] = []
    seconds = 0.0
    for job in jobs_of(config, folder) if config.ensemble else [Job(config, (str(folder / "1"),))]:
        clock = Path(job.folders[0]) / "seconds.json"
        began = time.process_time()
        members = train_job(job, dataset, checkpoints=False)
        if not clock.is_file():
            write_json(clock, {"seconds": time.process_time() - began})
        seconds += read_json(clock)["seconds"]
        models += [member.model().eval() for member in members]
    task = prepare(config, dataset).task
    together = evaluate_quietly(Ensemble(models).eval(), task, dataset).metrics
    alone = [evaluate_quietly(model, task, dataset).metrics["accuracy"] or 0.0 for model in models]
    return {
        "accuracy": together["accuracy"] or 0.0,
        "loss": together["loss"] or 0.0,
        "alone": sum(alone) / len(alone),
        "seconds": seconds,
    }


def tables(out: Path) -> str:
    """What was measured, as text."""
    results = [read_json(file) for file in sorted((out / "results").glob("*.json"))]
    found = {(each["fusion"], each["way"], each["data"], each["seed"]): each for each in results}
    text: list[str] = []
    for fusion in FUSIONS:
        some = [key for key in found if key[0] == fusion]
        ways = [way for way in WAYS if any(key[1] == way for key in some)]
        if not ways:
            continue
        sets = [name for name in SETS if any(key[2] == name for key in some)]

        def means(way: str, what: str, like: str, fusion: str = fusion, sets: Sequence[str] = sets) -> dict[str, float]:
            """Set -> mean over the seeds that were measured in another way, too."""
            shared = {
                name: [
                    each[what]
                    for (f, w, n, seed), each in found.items()
                    if (f, w, n) == (fusion, way, name) and (fusion, like, name, seed) in found
                ]
                for name in sets
            }
            return {name: sum(values) / len(values) for name, values in shared.items() if values}

        accuracy = {way: means(way, "accuracy", way) for way in ways}
        rows = [[name, *(number(_percent(accuracy[way].get(name)), ".1f") for way in ways)] for name in sets]
        text += [f"## {fusion}", "Accuracy on test in %, mean over the seeds:"]
        text.append(TextTable(["set", *(WAYS[way][1] for way in ways)], rows).markdown())
        rows = []
        for way in ways[1:]:
            one, several = means(SINGLE, "accuracy", way), means(way, "accuracy", SINGLE)
            if len(one) < _LEAST:
                continue
            a, b = ([100 * each[name] for name in one] for each in (one, several))
            gain, half = mean_interval([y - x for x, y in zip(a, b, strict=True)])
            loss = mean_interval([means(way, "loss", SINGLE)[name] - means(SINGLE, "loss", way)[name] for name in one])
            before, after = means(SINGLE, "seconds", way), means(way, "seconds", SINGLE)
            cost = sum(after[name] / before[name] for name in one) / len(one)
            row = [WAYS[way][1], str(len(one)), f"{gain:+.2f}", f"{gain - half:+.2f} to {gain + half:+.2f}"]
            row += [f"{paired_test(b, a):.3f}", f"{signed_rank_test(b, a):.3f}"]
            rows.append([*row, f"{loss[0]:+.3f} ± {loss[1]:.3f}", f"{cost:.1f}"])
        header = [
            "against a single model",
            "sets",
            "points",
            "95 % interval",
            "p (t)",
            "p (signed ranks)",
            "loss",
            "times its time",
        ]
        text += ["Mean difference of the sets:", TextTable(header, rows).markdown()] if rows else []
    return "\n\n".join(part.strip() for part in text) + "\n"


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def main() -> None:
    """Measure what is not measured yet, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder of results")
    parser.add_argument("--seeds", type=int, default=2, help="seeds of every set and fusion")
    parser.add_argument("--set", action="append", help="a set; several times for several; default all")
    parser.add_argument("--fusion", action="append", choices=FUSIONS, help="likewise")
    parser.add_argument("--show", action="store_true", help="measure nothing")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    for module in TRAINING:  # the time of the first training is not to be that of importing
        import_module(module)
    cells = product(range(given.seeds), WAYS, given.set or SETS, given.fusion or FUSIONS)
    for seed, way, name, fusion in [] if given.show else cells:
        file = given.out / "results" / f"{name}-{fusion}-{seed}-{way}.json"
        if file.is_file():
            continue
        path = given.data / f"{name}.npz"
        config = TrainConfig(str(path), fusion=fusion, seed=seed, **WAYS[way][0])
        folder = given.out / "work" / f"{name}-{fusion}-{seed}-{FIRST.get(way, way)}"
        result = measure(config, datasets.load(str(path), seed=seed), folder)
        write_json(file, {"data": name, "fusion": fusion, "seed": seed, "way": way, **result, **describe()})
        print(file.stem, f"{result['accuracy']:.3f}", f"{result['seconds']:.0f} s", flush=True)
    write_text(given.out / "ensembles.md", tables(given.out))
    print(tables(given.out))


if __name__ == "__main__":
    main()
