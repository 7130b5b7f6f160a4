"""The page about a run: a verdict, a dashboard, the samples that were hardest, and all that was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from equifuse.errors import InputError
from equifuse.evaluation.evaluate import tolerance, traces
from equifuse.files import read_json, refuse_existing, write_json, write_text, yaml_text
from equifuse.report import plots
from equifuse.report.dashboard import cards, share_text, tiles
from equifuse.report.explained import flow_section
from equifuse.report.findings import Findings, find, of_one_output
from equifuse.report.machine import processor
from equifuse.report.page import Section, drawn, render_page
from equifuse.report.scenes import scenes_section
from equifuse.report.tables import NONE, Shaded, TextTable, number, undefined_notes
from equifuse.report.verdict import verdict
from equifuse.runs.explain import flow_of_run
from equifuse.runs.folder import HISTORY, PLOTS, PathLike, load_run
from equifuse.runs.metrics import Convergence

PAGE, EXPLANATION = "report.html", "explanation.json"
# Outputs that get a line each.
_OUTPUTS = 12
# Features of a modality in explanation.json.
_TOP = 10
# Modalities up to which the table of hardest samples has room beside another.
_BESIDE = 3


def report_run(
    run: PathLike, out: PathLike | None = None, *, features: bool | None = None, samples: int = 2000
) -> Path:
    """Write a run's page: a verdict, then score, predictions, modalities, certainty, hardest samples, features.

    Args:
        run: the run folder.
        out: folder to create for ``report.html``, ``explanation.json`` and ``plots/``; default ``<run>/report``.
        features: whether to attribute to features, which needs Captum; default where it is installed.
        samples: test samples that are explained, at most.

    Returns:
        The page.

    Raises:
        OutputExistsError: ``out`` exists.
        DataError: no finished run there, or its data have changed.
        InputError: features are asked for and Captum is not installed.
    """
    path = Path(run)
    folder = path / "report" if out is None else Path(out)
    refuse_existing(folder)
    opened = load_run(path)
    found = find(opened, features=features, samples=samples)
    said = verdict(found)
    summary = {} if found.explanation is None else found.explanation.summary(_TOP)
    if summary:
        if found.attributions is not None:
            top = {m: entries[:_TOP] for m, entries in found.attributions["features"].items()}
            summary["attributions"] = {**found.attributions, "features": top}
        write_json(folder / EXPLANATION, {"verdict": said, **summary})
    drawn_in = folder / PLOTS
    sections = [
        Section("At a glance", cards=cards(found, drawn_in)),
        _hardest_section(found),
        _feature_section(found, summary),
        _metrics_section(found),
        _training_section(found, read_json(path / HISTORY), drawn_in),
        scenes_section(opened, drawn_in),
        _contribution_section(found, summary),
        _inside_section(summary),
        _information_section(path, drawn_in),
        _made_section(found),
    ]
    name = opened.method
    title = f"{name} on {opened.record['data']['name']}"
    page = render_page(title, [s for s in sections if s], kind="run report", verdict=said, tiles=tiles(found))
    write_text(folder / PAGE, page)
    return folder / PAGE


def _hardest_section(found: Findings) -> Section | None:
    if not found.hardest:
        return None
    names = list(found.hardest[0].alone)
    rows = [[s.name, s.truth, s.said, *(s.alone.get(m, NONE) for m in names)] for s in found.hardest]
    own = "its own head" if found.alone_by_heads else "the model with nothing else"
    text = [f"The {len(rows)} test samples that are predicted worst, the worst first."]
    if names:
        text[0] += f" What a modality says alone is said by {own}; {NONE} where the sample lacks it."
    table = TextTable(["sample", "truth", "said", *names], rows, file="hardest.csv")
    return Section("Hardest samples", text, tables=[table], half=_hardest_beside_features(found))


def _hardest_beside_features(found: Findings) -> bool:
    """Whether both tables are narrow enough; else the features stand beside all metrics."""
    return found.attributions is not None and bool(found.hardest) and len(found.hardest[0].alone) <= _BESIDE


def _feature_section(found: Findings, summary: Mapping[str, Any]) -> Section | None:
    attributions = found.attributions
    if attributions is None:
        return None
    every = [(f["mean_absolute"], m, f["name"]) for m, top in attributions["features"].items() for f in top]
    every.sort(key=lambda entry: -entry[0])
    most = max((entry[0] for entry in every if not math.isnan(entry[0])), default=0.0) or 1.0
    rows = [[name, m, Shaded(number(size, ".3g"), 0.0 if math.isnan(size) else size / most)] for size, m, name in every]
    table = TextTable(["feature", "modality", "mean size"], rows, file="features.csv", searched=True)
    delta, value = attributions["delta"], summary["value"]
    text = [
        f"How much each feature moves the {value} of a sample on average: integrated gradients from the training mean, "
        f"over {attributions['samples']} test samples. They add up to its change to within "
        f"{_number(delta['mean_absolute'])} on average and {_number(delta['max'])} at most, of a mean change of "
        f"{_number(attributions['mean_change'])}."
    ]
    return Section("Features", text, tables=[table], half=True)


def _metrics_section(found: Findings) -> Section:
    metrics, task = found.metrics, found.task
    parts = {part: values for part, values in (("val", metrics.val), ("test", metrics.test)) if values is not None}
    names = list(dict.fromkeys(name for values in parts.values() for name in values))
    rows = [[name, *(number(values.get(name)) for values in parts.values())] for name in names]
    tables = [TextTable(["metric", *parts], rows, file="metrics.csv")]
    if metrics.without and not found.effects:
        intact = metrics.test.get(task.headline)
        lines = [["nothing", number(intact), ""]]
        for m, value in metrics.without.items():
            change = None if value is None or intact is None else value - intact
            lines.append([m, number(value), number(change, "+.4f")])
        tables.append(TextTable(["taken away on test", task.headline, "change"], lines))
    if metrics.members:
        lines = [[m.method, number(m.weight, ".3f"), number(m.test), str(m.epochs)] for m in metrics.members]
        tables.append(TextTable(["member", "weight", f"{task.headline} on test", "epochs"], lines))
    text = [f"protocol {metrics.protocol}."]
    if metrics.mix:
        text.append(f"{metrics.mix.sentence}.")
    remarks = [*(metrics.notes or []), *undefined_notes(metrics.undefined)]
    remarks += [f"epoch {alert.epoch}: {alert.message}" for alert in metrics.alerts]
    if found.attributions is None and found.explanation is not None:
        remarks.append("no feature was looked into: pip install 'equifuse[explain]', and --features")
    if remarks:
        lines = [[remark] for remark in remarks]
        tables.append(TextTable(["worth knowing"], lines))
    beside = found.attributions is not None and not _hardest_beside_features(found)
    return Section("All metrics", text, tables=tables, half=beside)


def _training_section(found: Findings, history: Sequence[Mapping[str, float]], folder: Path) -> Section:
    metrics = found.metrics
    kept = f"Best epoch {metrics.best_epoch} of {metrics.epochs}; its weights were kept."
    text = [f"{kept} {_convergence(metrics.convergence)}".strip()]
    figures = []
    if history and "val_loss" in history[0]:
        caption = "Where the validation loss turns up while the training loss falls, the model learns by heart."
        figures.append(drawn(plots.learning_curves(history), folder / "learning.svg", caption))
    found_traces = traces(found.run.model, found.dataset)
    if found_traces:
        plot = plots.convergence({"": found_traces}, tol=tolerance(found.run.model))
        caption = (
            "The solver's residual, median and 10th to 90th percentile of samples; below the dotted line it stops."
        )
        figures.append(drawn(plot, folder / "residuals.svg", caption))
    curves = {key.partition("/")[2]: [row.get(key) for row in history] for key in _watched(history)}
    if curves:
        caption = (
            "Spectral radius at 64 equilibria of validation samples, by part of the state; above 1 plain steps diverge."
        )
        figures.append(drawn(plots.over_epochs(curves, "spectral radius"), folder / "equilibrium.svg", caption))
    tables = []
    start, solved = metrics.convergence_at_start, metrics.convergence
    if solved is not None and start is not None and solved.converged < 1:
        lines = [
            ["converged", share_text(start.converged), share_text(solved.converged)],
            ["evaluations per sample", f"{start.mean_steps:.1f}", f"{solved.mean_steps:.1f}"],
            ["largest relative residual", f"{start.max_residual:.1e}", f"{solved.max_residual:.1e}"],
        ]
        tables.append(TextTable(["equilibria on test", "at the start", "after training"], lines))
    return Section("Training", text, figures, tables)


def _convergence(found: Convergence | None) -> str:
    """One line, unless something failed."""
    if found is None:
        return ""
    if found.converged >= 1:
        return (
            f"The equilibria of all test samples were found, in {found.mean_steps:.1f} evaluations on average "
            f"(largest relative residual {found.max_residual:.1e})."
        )
    return (
        f"The equilibria of {100 * (1 - found.converged):.1f} % of the test samples were not found: their predictions "
        f"come from unfinished solves (largest relative residual {found.max_residual:.1e}); raise solver.max_steps."
    )


def _watched(history: Sequence[Mapping[str, float]]) -> list[str]:
    """The columns of the history that hold a spectral radius."""
    return [key for key in (history[0] if history else {}) if key.startswith("equilibrium_radius/")]


def _contribution_section(found: Findings, summary: Mapping[str, Any]) -> Section | None:
    if not summary:
        return None
    each, run = summary["contributions"], found.run
    modalities = list(each["values"])
    rows = [[m, _number(each["values"][m]), _number(each["mean_absolute"][m])] for m in modalities]
    text = [f"Over {summary['samples']:,} test samples, by what the model itself predicts without a modality."]
    text += [f"The {metric} is undefined: {why}." for metric, why in summary["undefined"].items()]
    if summary["converged"] is not None and summary["converged"] < 1:
        text.append(f"{100 * summary['converged']:.1f} % of these solves converged, subsets of modalities included.")
    first = f", of target {next(iter(each['by_output']))}" if of_one_output(run) else ""
    tables = [TextTable(["modality", "mean", "mean size"], rows, f"Contributions to the {summary['value']}{first}.")]
    by_output = list(each["by_output"].items())[:_OUTPUTS]
    if len(each["by_output"]) > 1:
        rows = [[name, *(_number(values.get(m)) for m in modalities)] for name, values in by_output]
        tables.append(TextTable(["predicted", *modalities], rows, f"Mean contribution to the {summary['value']}."))
    return Section("Modalities in single samples", text, tables=tables, folded=True)


def _inside_section(summary: Mapping[str, Any]) -> Section | None:
    tables = []
    if summary.get("gate"):
        gate = summary["gate"]
        rows = [[m, _number(gate["openness"][m]), _number(gate["share"][m])] for m in gate["openness"]]
        caption = "How far the gate is open for each modality, and its share in the purified sum, at the equilibrium."
        tables.append(TextTable(["modality", "gate", "share"], rows, caption))
    if summary.get("parts"):
        parts = summary["parts"]
        rows = [
            [m, share_text(parts["invariant_share"][m]), share_text(parts["share_of_width"][m])]
            for m in parts["invariant_share"]
        ]
        caption = "Energy of GMF's modality-invariant part, beside its share of the numbers."
        tables.append(TextTable(["modality", "invariant energy", "share of numbers"], rows, caption))
    return Section("Inside of the fusion", tables=tables, folded=True) if tables else None


def _information_section(run: Path, folder: Path) -> Section | None:
    """What each stage knows of the target; None where there is nothing to be known in bits, or too few samples."""
    try:
        return replace(flow_section(flow_of_run(run), folder), folded=True)
    except InputError:
        return None


def _made_section(found: Findings) -> Section:
    run, data = found.run, found.run.record["data"]
    rows = " / ".join(f"{count} {part}" for part, count in data["rows"].items())
    facts = [
        ["data", f"{data['name']}, {found.task.name}, {rows}"],
        ["modalities", ", ".join(run.model.modalities)],
        ["made on", processor()],
        ["versions", ", ".join(f"{name} {v}" for name, v in run.record["versions"].items())],
    ]
    text = [f"{name}: {value}" for name, value in facts]
    config = yaml_text(run.config.to_dict()).rstrip()
    return Section("How this was made", text, code=[run.record["command"], config], folded=True)


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.3g}" if abs(value) < 1 else f"{value:.3f}"
