"""Several methods on one data set over several seeds, side by side."""

from __future__ import annotations

import logging
import statistics
import warnings
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

from equifuse.errors import ConvergenceWarning
from equifuse.files import refuse_existing, write_json, write_text, write_yaml
from equifuse.model import load as load_model
from equifuse.report.figures import draw_convergence, draw_learning, draw_removal
from equifuse.report.tables import plus_minus, to_markdown
from equifuse.runs.config import TrainConfig
from equifuse.runs.executors import executor
from equifuse.runs.folder import CONFIG, METRICS, MODEL, PLOTS, load_data
from equifuse.runs.prepare import initial_model
from equifuse.runs.progress import count_bar
from equifuse.runs.training import RunResult, train

Methods = dict[str, dict[str, Any]]
HEADER = ["method", "accuracy %", "macro-F1 %", "params", "seconds", "converged", "steps"]


def four_methods(dim: int | None = None) -> Methods:
    """The methods at the library's heart, and plain concatenation, with a common width for the equilibria."""
    return {
        "deq": {"fusion": "deq", "dim": dim},
        "gmf": {"fusion": "gmf"},
        "gmf -> deq": {"fusion": "gmf", "backend": "deq", "dim": dim},
        "concat": {"fusion": "concat"},
    }


def compare(
    out: Path,
    methods: Methods,
    settings: dict[str, Any],
    *,
    seeds: int,
    resume: bool = False,
    progress: bool = True,
    processes: int | None = None,
) -> dict[str, Any]:
    """Train every method with every seed, then compare; returns what ``metrics.json`` holds.

    Each model is trained in a process of its own with one thread: on layers this small, threads only wait for each
    other.

    Args:
        out: folder to create: a run folder per method and seed, ``config.yaml``, ``metrics.json``, ``table.md`` and
            ``plots/``.
        methods: label -> options of :class:`TrainConfig`.
        settings: options of all of them; ``data`` is needed.
        seeds: seeds 0, 1, … per method.
        resume: continue an interrupted comparison.
        progress: show a progress bar on standard error.
        processes: models trained at a time; default one per core, at most 4.

    Raises:
        OutputExistsError: ``out`` exists and ``resume`` is False.
        InputError: ``resume`` with other options than before.
    """
    if not resume:
        refuse_existing(out)
    configs = {
        (label, seed): TrainConfig.from_dict({**settings, **method, "seed": seed})
        for seed in range(seeds)  # seeds outside: the time left is then an average over the methods
        for label, method in methods.items()
    }
    described = {label: configs[label, 0].to_dict() for label in methods}
    write_yaml(out / CONFIG, {"seeds": list(range(seeds)), "methods": described})
    jobs = {key: (config, _folder(out, *key), resume) for key, config in configs.items()}
    results = train_all(jobs, processes, progress)
    runs = {label: [results[label, seed] for seed in range(seeds)] for label in methods}
    summary = {
        "data": str(settings["data"]),
        "seeds": list(range(seeds)),
        "methods": {label: _summary([r.metrics for r in of_method]) for label, of_method in runs.items()},
    }
    _draw(out / PLOTS, runs, configs, summary)
    write_text(out / "table.md", to_markdown(HEADER, rows(summary)))
    write_json(out / METRICS, summary)
    return summary


def rows(summary: dict[str, Any]) -> list[list[str]]:
    """The table's rows of text under :data:`HEADER`: one per method, mean ± standard deviation over the seeds."""
    return [
        [
            label,
            plus_minus(method["accuracy"]),
            plus_minus(method["f1_macro"]),
            f"{method['parameters']:,}",
            f"{method['seconds'][0]:.1f}",
            "-" if method["converged"] is None else f"{100 * method['converged']:.1f} %",
            "-" if method["mean_steps"] is None else f"{method['mean_steps']:.1f}",
        ]
        for label, method in summary["methods"].items()
    ]


def _folder(out: Path, label: str, seed: int) -> Path:
    return out / label.replace(" -> ", "-") / f"seed{seed}"


Job = tuple[TrainConfig, Path, bool]
Key = tuple[str, int]


def train_all(jobs: dict[Key, Job], processes: int | None = None, progress: bool = True) -> dict[Key, RunResult]:
    """Train models side by side, each in a process with one thread.

    Args:
        jobs: label and seed -> configuration, run folder, and whether it may be there already.
        processes: models trained at a time; default one per core, at most 4.
        progress: show a progress bar on standard error.
    """
    results: dict[Key, RunResult] = {}
    with count_bar(len(jobs), progress) as advance, executor(processes) as pool:
        futures = {pool.submit(_train_one, job): key for key, job in jobs.items()}
        for future in as_completed(futures):
            key = futures[future]
            results[key] = future.result()
            advance(f"{key[0]}, seed {key[1]}")
    return results


def _train_one(job: Job) -> RunResult:
    config, folder, resume = job
    with warnings.catch_warnings():
        # The table has a column for it, and each run's metrics.json its alerts.
        warnings.simplefilter("ignore", ConvergenceWarning)
        logging.getLogger("equifuse").setLevel(logging.ERROR)
        return train(config, folder, resume=resume and (folder / CONFIG).is_file(), progress=False)


def _mean_and_deviation(values: list[float]) -> list[float]:
    """Mean and sample standard deviation, the latter 0 for a single value."""
    return [statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0]


def _summary(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    def of(values: list[float]) -> list[float]:
        return _mean_and_deviation(values)

    solved = [m["convergence"] for m in metrics if m["convergence"] is not None]
    at_start = [m["convergence_at_start"] for m in metrics if m["convergence_at_start"] is not None]
    without = {"nothing": of([m["test"]["accuracy"] for m in metrics])}
    without |= {name: of([m["without"][name] for m in metrics]) for name in metrics[0]["without"]}
    return {
        **{name: of([m["test"][name] for m in metrics]) for name in metrics[0]["test"]},
        "val_loss": of([m["val"]["loss"] for m in metrics]),
        "parameters": metrics[0]["parameters"],
        "seconds": of([m["train_seconds"] for m in metrics]),
        "converged": statistics.fmean(s["converged"] for s in solved) if solved else None,
        "mean_steps": statistics.fmean(s["mean_steps"] for s in solved) if solved else None,
        "mean_steps_at_start": statistics.fmean(s["mean_steps"] for s in at_start) if at_start else None,
        "accuracy_without": without,
    }


def _draw(
    folder: Path, runs: dict[str, list[RunResult]], configs: dict[Key, TrainConfig], summary: dict[str, Any]
) -> None:
    draw_learning(folder, {label: of_method[0].history for label, of_method in runs.items()})
    solved = [label for label, of_method in runs.items() if of_method[0].metrics["convergence"] is not None]
    for label in solved[:1]:
        config = configs[label, 0]
        dataset = load_data(config)
        draw_convergence(folder, initial_model(config, dataset), load_model(runs[label][0].path / MODEL), dataset)
    scores = {label: method["accuracy_without"] for label, method in summary["methods"].items()}
    draw_removal(folder, scores, "accuracy")
