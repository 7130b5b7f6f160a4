"""The demonstration: four fusions on the embedded digits over several seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from equifuse import datasets
from equifuse.errors import OutputExistsError
from equifuse.model import FusionModel
from equifuse.report import plots
from equifuse.report.table import plus_minus, to_markdown
from equifuse.tasks import make_task
from equifuse.training.config import TrainConfig
from equifuse.training.data import as_batch
from equifuse.training.runner import (
    RunResult,
    evaluate,
    make_model,
    read_json,
    residual_trace,
    spread,
    train,
    write_text,
)

_DIM = 64
METHODS: dict[str, dict[str, Any]] = {
    "deq": {"fusion": "deq", "fusion_options": {"dim": _DIM}},
    "gmf": {"fusion": "gmf", "fusion_options": {}},
    "gmf -> deq": {"fusion": "gmf", "fusion_options": {"backend": "deq", "backend_options": {"dim": _DIM}}},
    "concat": {"fusion": "concat", "fusion_options": {}},
}
_SETTINGS = {"data": "digits", "hidden": [_DIM], "batch_size": 128, "lr": 3e-3, "patience": 8}
_HEADER = ["method", "accuracy %", "macro-F1 %", "parameters", "seconds", "converged %", "mean steps"]


def run_demo(
    out: Path, *, seeds: int = 3, epochs: int = 40, resume: bool = False, progress: bool = True
) -> dict[str, Any]:
    """Train every method with every seed, then compare; returns what ``metrics.json`` holds.

    Args:
        out: folder to create; a run folder per method and seed, ``config.yaml``, ``metrics.json``, ``table.md``, ``plots/``.
        seeds: seeds 0, 1, … per method.
        epochs: at most, per run.
        resume: continue an interrupted demonstration.
        progress: show a progress bar.

    Raises:
        OutputExistsError: ``out`` exists and ``resume`` is False.
    """
    if out.exists() and not resume:
        raise OutputExistsError(f"{out} already exists; choose another --out, or continue it with --resume")
    configs = {
        label: [TrainConfig.from_dict({**_SETTINGS, **method, "seed": seed, "epochs": epochs}) for seed in range(seeds)]
        for label, method in METHODS.items()
    }
    described = {label: runs[0].to_dict() for label, runs in configs.items()}
    write_text(out / "config.yaml", yaml.safe_dump({"seeds": seeds, "methods": described}, sort_keys=False))
    results: dict[str, list[RunResult]] = {label: [] for label in configs}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("models"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    with Progress(*columns, disable=not progress) as bar:
        job = bar.add_task("training", total=seeds * len(configs))
        for seed in range(seeds):  # seeds outside: the time left is then an average over the methods
            for label, runs in configs.items():
                bar.update(job, description=f"{label}, seed {seed}")
                folder = out / label.replace(" -> ", "-") / f"seed{seed}"
                results[label].append(train(runs[seed], folder, resume=resume, progress=False))
                bar.advance(job)
    removal = {label: _removal([r.model for r in runs]) for label, runs in results.items()}
    summary = {
        "data": "digits",
        "seeds": seeds,
        "methods": {label: _summary([r.metrics for r in runs]) for label, runs in results.items()},
        "without": removal,
    }
    _draw(out, results, configs["deq"][0], removal)
    rows = [_row(label, method) for label, method in summary["methods"].items()]  # type: ignore[attr-defined]
    write_text(out / "table.md", to_markdown(_HEADER, rows))
    write_text(out / "metrics.json", json.dumps(summary, indent=1) + "\n")
    return summary


def comparison_table(summary: dict[str, Any]) -> Table:
    """The demonstration's result; accuracy and F1 on test, mean ± standard deviation over seeds."""
    table = Table(title=f"digits, five views, test set, {summary['seeds']} seeds")
    for i, name in enumerate(_HEADER):
        table.add_column(name, justify="left" if i == 0 else "right")
    for label, method in summary["methods"].items():
        table.add_row(*_row(label, method))
    return table


def _row(label: str, method: dict[str, Any]) -> list[str]:
    solved = method["converged"]
    return [
        label,
        plus_minus(*method["accuracy"]),
        plus_minus(*method["f1_macro"]),
        f"{method['parameters']:,}",
        f"{method['seconds'][0]:.1f}",
        "-" if solved is None else f"{100 * solved:.1f}",
        "-" if solved is None else f"{method['mean_steps']:.1f}",
    ]


def _summary(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    solves = [m["convergence"] for m in metrics if m["convergence"] is not None]
    return {
        "accuracy": spread([m["test"]["accuracy"] for m in metrics]),
        "f1_macro": spread([m["test"]["f1_macro"] for m in metrics]),
        "parameters": metrics[0]["parameters"],
        "seconds": spread([m["train_seconds"] for m in metrics]),
        "converged": spread([s["converged"] for s in solves])[0] if solves else None,
        "mean_steps": spread([s["mean_steps"] for s in solves])[0] if solves else None,
    }


def _removal(models: list[FusionModel]) -> dict[str, tuple[float, float]]:
    """Test accuracy with nothing and with each modality removed."""
    dataset = datasets.load("digits")
    task, test = make_task(dataset.task), as_batch(dataset.splits["test"])
    cases = {"none": (), **{m: (m,) for m in dataset.modalities}}
    return {
        name: spread([evaluate(model, task, test, without=without)["accuracy"] for model in models])
        for name, without in cases.items()
    }


def _draw(
    out: Path,
    results: dict[str, list[RunResult]],
    config: TrainConfig,
    removal: dict[str, dict[str, tuple[float, float]]],
) -> None:
    histories = {label: json.loads((runs[0].path / "history.json").read_text()) for label, runs in results.items()}
    plots.learning_curves(histories, out / "plots" / "learning_curves.png")
    plots.modality_removal(removal, out / "plots" / "modality_removal.png")
    dataset = datasets.load(config.data)
    train_part, val = as_batch(dataset.splits["train"]), as_batch(dataset.splits["val"])
    fresh = make_model(config, dataset)
    fresh.fit_preprocessing(train_part.inputs, train_part.present)
    before, after = residual_trace(fresh, val), residual_trace(results["deq"][0].model, val)
    assert before is not None
    assert after is not None
    traces = {"deq at initialisation": before, "deq after training": after}
    plots.convergence(traces, out / "plots" / "convergence.png", tol=1e-4)


__all__ = ["METHODS", "comparison_table", "read_json", "run_demo"]
