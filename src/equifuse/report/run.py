"""The page about a run: scores, learning, what decided, how certain the model is."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from equifuse.data.loaders import batches_of
from equifuse.errors import ConvergenceWarning, InputError
from equifuse.explain import explain
from equifuse.explain.attribution import differentiable
from equifuse.files import read_json, refuse_existing, write_json, write_text, yaml_text
from equifuse.report import plots
from equifuse.report.explained import flow_section
from equifuse.report.figures import CAPTIONS
from equifuse.report.machine import processor
from equifuse.report.page import Figure, Section, render_page
from equifuse.report.tables import NONE, TextTable, number, undefined_notes
from equifuse.runs.explain import flow_of_run
from equifuse.runs.folder import HISTORY, METRICS, PLOTS, PathLike, Run, load_run
from equifuse.runs.metrics import RunMetrics
from equifuse.training.protocol import CLEAN

PAGE, EXPLANATION = "report.html", "explanation.json"
# Samples whose features are looked into: each costs a hundred evaluations of the model and more.
_FEATURE_SAMPLES = 64
# Outputs that get a line each.
_OUTPUTS = 12


def report_run(
    run: PathLike, out: PathLike | None = None, *, features: bool | None = None, samples: int = 2000
) -> Path:
    """Write a run's page: metrics, learning, convergence, what each modality and feature contributed, certainty.

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
    metrics, history = RunMetrics.read(path / METRICS), read_json(path / HISTORY)
    if features is None:
        features = find_spec("captum") is not None
    found = _explained(opened, features, samples)
    if found:
        write_json(folder / EXPLANATION, found)
    sections = [
        _metrics_section(opened, metrics),
        _learning_section(path, folder, history, metrics),
        _contribution_section(opened, found, folder / PLOTS),
        _inside_section(found),
        _information_section(path, folder / PLOTS),
        _feature_section(found),
        _certainty_section(found, folder / PLOTS),
        _made_section(path, opened),
    ]
    facts = [
        ("data", f"{opened.record['data']['name']}, {opened.task.name}, {_rows(opened.record)}"),
        ("modalities", ", ".join(opened.model.modalities)),
        ("protocol", metrics.protocol),
        ("made on", processor()),
        ("versions", ", ".join(f"{name} {v}" for name, v in opened.record["versions"].items())),
    ]
    name = opened.config.fusion + (f" and {opened.config.backend}" if opened.config.backend else "")
    page = render_page(f"{name} on {opened.record['data']['name']}", [s for s in sections if s], facts=facts)
    write_text(folder / PAGE, page)
    return folder / PAGE


def _information_section(run: Path, folder: Path) -> Section | None:
    """What each stage knows of the target; None where there is nothing to be known in bits, or too few samples."""
    try:
        return flow_section(flow_of_run(run), folder)
    except InputError:
        return None


def _rows(record: Mapping[str, Any]) -> str:
    return " / ".join(f"{count} {part}" for part, count in record["data"]["rows"].items())


def _explained(run: Run, features: bool, samples: int) -> dict[str, Any]:
    """The explanation's summary; {} for a task that has nothing of the kind."""
    if not run.task.values:
        return {}
    dataset = run.dataset()
    test = batches_of(dataset.splits["test"])
    clean = run.config.protocol == CLEAN
    # Of several targets, single samples are explained for the first.
    output = 0 if _of_one_output(run) else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the page has the share
        # Under the loose protocol there is no part left that calibration could be fitted on.
        validation = run.validation() if clean else None
        found = explain(run.model, run.task, test, validation=validation, samples=samples, output=output).summary()
        if features and differentiable(run.model):
            few = min(samples, _FEATURE_SAMPLES)
            some = explain(run.model, run.task, test, samples=few, output=output, features=True)
            found["attributions"] = {**some.summary()["attributions"], "samples": len(some.outputs)}
    return found


def _metrics_section(run: Run, metrics: RunMetrics) -> Section:
    parts = {part: values for part, values in (("val", metrics.val), ("test", metrics.test)) if values is not None}
    names = list(dict.fromkeys(name for values in parts.values() for name in values))
    rows = [[name, *(number(values.get(name)) for values in parts.values())] for name in names]
    tables = [TextTable(["metric", *parts], rows)]
    if metrics.without:
        headline = run.task.headline
        intact = metrics.test.get(headline)
        lines = [["nothing", number(intact), ""]]
        for m, value in metrics.without.items():
            change = None if value is None or intact is None else value - intact
            lines.append([m, number(value), number(change, "+.4f")])
        tables.append(TextTable(["taken away on test", headline, "change"], lines))
    start, solved = metrics.convergence_at_start, metrics.convergence
    if start is not None and solved is not None:
        lines = [
            ["converged", f"{100 * start.converged:.1f} %", f"{100 * solved.converged:.1f} %"],
            ["evaluations per sample", f"{start.mean_steps:.1f}", f"{solved.mean_steps:.1f}"],
            ["largest relative residual", f"{start.max_residual:.1e}", f"{solved.max_residual:.1e}"],
        ]
        tables.append(TextTable(["equilibria on test", "at the start", "after training"], lines))
    text = [
        f"{metrics.parameters:,} parameters, {metrics.train_seconds:.1f} s of training, best epoch "
        f"{metrics.best_epoch} of {metrics.epochs}.",
        *undefined_notes(metrics.undefined),
    ]
    return Section("Metrics", text, tables=tables)


def _learning_section(run: Path, folder: Path, history: Sequence[Mapping[str, float]], metrics: RunMetrics) -> Section:
    figures = [Figure(run / PLOTS / name, text) for name, text in CAPTIONS.items() if (run / PLOTS / name).is_file()]
    curves = {key.partition("/")[2]: [row.get(key) for row in history] for key in _watched(history)}
    if curves:
        path = folder / PLOTS / "equilibrium.svg"
        plots.save(plots.over_epochs(curves, "spectral radius"), path)
        figures.append(Figure(path, "Spectral radius at 64 equilibria of validation samples, by part of the state."))
    alerts = [f"Epoch {alert.epoch}: {alert.message}" for alert in metrics.alerts]
    return Section("Learning", alerts, figures)


def _of_one_output(run: Run) -> bool:
    """Whether single samples are explained for one of several outputs, none of which is the one predicted."""
    return not run.task.predicts_largest and (run.model.n_outputs or 1) > 1


def _watched(history: Sequence[Mapping[str, float]]) -> list[str]:
    """The columns of the history that hold a spectral radius."""
    return [key for key in (history[0] if history else {}) if key.startswith("equilibrium_radius/")]


def _contribution_section(run: Run, found: Mapping[str, Any], folder: Path) -> Section | None:
    if not found:
        return None
    each, overall = found["contributions"], found["overall"]
    headline = run.task.headline
    tables, figures = [], []
    if headline in overall:
        whole = overall[headline]
        plots.save(plots.contributions(whole["values"], headline), folder / "contributions.svg")
        lower = ", negative where it helps" if run.task.metric(headline).mode == "min" else ""
        figures.append(
            Figure(folder / "contributions.svg", f"Share of each modality in the {headline} on test{lower}.")
        )
        rows = [[m, _number(value), _number(each["mean_absolute"][m])] for m, value in whole["values"].items()]
        caption = (
            f"Shapley values over the subsets of modalities. {headline}: from {_number(whole['empty'])} with none to "
            f"{_number(whole['full'])} with all, to which the column adds up."
        )
        tables.append(TextTable(["modality", headline, f"mean size, {found['value']} per sample"], rows, caption))
    modalities = list(each["values"])
    by_output = list(each["by_output"].items())[:_OUTPUTS]
    if len(each["by_output"]) > 1:
        rows = [[name, *(_number(values.get(m)) for m in modalities)] for name, values in by_output]
        tables.append(TextTable(["predicted", *modalities], rows, f"Mean contribution to the {found['value']}."))
    elif tables and _of_one_output(run):
        tables[0] = replace(
            tables[0], caption=f"{tables[0].caption} Per sample: of target {next(iter(each['by_output']))}."
        )
    text = [f"Over {found['samples']:,} test samples, by what the model itself predicts without a modality."]
    text += [f"The {metric} is undefined: {why}." for metric, why in found["undefined"].items()]
    if found["converged"] is not None:
        text.append(f"{100 * found['converged']:.1f} % of these solves converged, subsets of modalities included.")
    return Section("What each modality contributes", text, figures, tables)


def _inside_section(found: Mapping[str, Any]) -> Section | None:
    tables = []
    if found.get("gate"):
        gate = found["gate"]
        rows = [[m, _number(gate["openness"][m]), _number(gate["share"][m])] for m in gate["openness"]]
        caption = "How far the gate is open for each modality, and its share in the purified sum, at the equilibrium."
        tables.append(TextTable(["modality", "gate", "share"], rows, caption))
    if found.get("parts"):
        parts = found["parts"]
        rows = [
            [m, _percent(parts["invariant_share"][m]), _percent(parts["share_of_width"][m])]
            for m in parts["invariant_share"]
        ]
        caption = "Energy of GMF's modality-invariant part, beside its share of the numbers."
        tables.append(TextTable(["modality", "invariant energy", "share of numbers"], rows, caption))
    return Section("Inside of the fusion", tables=tables) if tables else None


def _feature_section(found: Mapping[str, Any]) -> Section | None:
    attributions = found.get("attributions")
    if not attributions:
        return None
    tables = [
        TextTable(["feature", "mean size"], [[f["name"], _number(f["mean_absolute"])] for f in top], m)
        for m, top in attributions["features"].items()
    ]
    delta = attributions["delta"]
    text = [
        f"Integrated gradients from the training mean, over {attributions['samples']} test samples. They add up to the "
        f"change of the {found['value']} to within {_number(delta['mean_absolute'])} on average and "
        f"{_number(delta['max'])} at most, of a mean change of {_number(attributions['mean_change'])}."
    ]
    return Section("Features", text, tables=tables)


def _certainty_section(found: Mapping[str, Any], folder: Path) -> Section | None:
    text, tables, figures = [], [], []
    calibration, conformal = found.get("calibration"), found.get("conformal")
    if calibration and calibration["raw"]:
        both = {"as it is": calibration["raw"], "scaled": calibration["scaled"]}
        plots.save(plots.reliability(both), folder / "reliability.svg")
        figures.append(Figure(folder / "reliability.svg", "Accuracy by confidence on test; the diagonal is perfect."))
        rows = [[name, *(_number(s[key]) for key in ("log_loss", "brier", "ece"))] for name, s in both.items()]
        caption = f"Temperature {calibration['temperature']:.3f}, fitted on validation."
        tables.append(TextTable(["probabilities", "log loss", "Brier", "calibration error"], rows, caption))
    if conformal:
        text.append(conformal["assumption"])
        if conformal.get("warning"):
            text.append(f"Do not rely on them: this {conformal['warning']}.")
        tables.append(_conformal_table(conformal))
    return Section("How sure it is", text, figures, tables) if tables else None


def _conformal_table(conformal: Mapping[str, Any]) -> TextTable:
    asked = 1 - conformal["alpha"]
    if "radius" in conformal:
        covered = conformal["coverage"] or [None] * len(conformal["radius"])
        rows = [
            [str(k), _number(radius), _percent(share)]
            for k, (radius, share) in enumerate(zip(conformal["radius"], covered, strict=True))
        ]
        return TextTable(["target", "half the width", "covered on test"], rows, f"Intervals for {asked:.0%}.")
    rows = [[str(size), _percent(share)] for size, share in enumerate(conformal["sizes"]) if share]
    covered = "" if conformal["coverage"] is None else f", covered on test {_percent(conformal['coverage'])}"
    caption = f"Prediction sets for {asked:.0%} ({conformal['method'].upper()}){covered}."
    return TextTable(["classes in the set", "share of samples"], rows, caption)


def _made_section(path: Path, run: Run) -> Section:
    text = ["The command, and the configuration in full (config.yaml):"]
    config = yaml_text(run.config.to_dict()).rstrip()
    return Section("How this was made", text, code=[run.record["command"], config])


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.3g}" if abs(value) < 1 else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.1f} %"
