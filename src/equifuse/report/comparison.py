"""The page about a run and other data: scores beside each other, sites, certainty, features that moved."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np

from equifuse.evaluation.shift import FAR, UNLIKELY, Shift
from equifuse.files import atomic_folder, write_json, write_text
from equifuse.report import plots
from equifuse.report.page import Figure, Section, render_page
from equifuse.report.tables import TextTable, interval_text, number
from equifuse.runs.compare import Comparison
from equifuse.runs.output import write_columns

PAGE = "comparison.html"
_SHOWN = 25


def write_comparison(found: Comparison, folder: Path, title: str) -> Path:
    """Write what :func:`~equifuse.runs.compare.compare_run` gives into a new folder.

    Args:
        found: the comparison.
        folder: to create: ``comparison.html``, ``comparison.json``, ``shift.csv``, ``predictions.csv`` and ``plots/``.
        title: of the page.

    Returns:
        The page.

    Raises:
        OutputExistsError: the folder exists.
    """
    with atomic_folder(folder) as staging:
        write_json(staging / "comparison.json", found.to_dict())
        write_columns(staging / "predictions.csv", found.external.predictions)
        if found.shifts:
            names = [field.name for field in fields(Shift)]
            columns = {name: np.array([getattr(shift, name) for shift in found.shifts]) for name in names}
            write_columns(staging / "shift.csv", {**columns, "moved": np.array([s.moved for s in found.shifts])})
        sections = [_scores(found, staging / "plots"), _classes(found), _certainty(found), _moved(found)]
        facts = [("own test part", f"{found.internal.n} samples"), ("other data", f"{found.external.n} samples")]
        page = render_page(title, [section for section in sections if section], lead=found.notes, facts=facts)
        write_text(staging / PAGE, page)
    return folder / PAGE


def comparison_table(found: Comparison) -> TextTable:
    """Every metric on both, with intervals."""
    rows = []
    for name, value in found.internal.metrics.items():
        ends = (found.internal.intervals.get(name), found.external.intervals.get(name))
        other = found.external.metrics.get(name)
        rows.append([name, number(value), interval_text(ends[0]), number(other), interval_text(ends[1])])
    header = ["metric", "own", "95 % interval", "other", "95 % interval"]
    caption = f"{found.internal.n} samples of the own test part, {found.external.n} of the other data"
    return TextTable(header, rows, caption)


def _scores(found: Comparison, folder: Path) -> Section:
    name = found.internal.headline
    places = {"own test": found.internal, "other data": found.external}
    drawn = {}
    for label, measured in places.items():
        value = measured.metrics.get(name)
        if value is not None and name in measured.intervals:
            drawn[label] = (value, *measured.intervals[name])
    for label, part in found.external.by.items():
        value = part.metrics.get(name)
        if value is not None and name in part.intervals:
            drawn[label] = (value, *part.intervals[name])
    figures = []
    if drawn:
        plots.save(plots.scores({"": drawn}, name), folder / "scores.svg")
        figures.append(Figure(folder / "scores.svg", f"{name} with its 95 % interval."))
    tables = [comparison_table(found)]
    if found.external.by:
        rows = [
            [label, str(part.n), number(part.metrics.get(name)), interval_text(part.intervals.get(name))]
            for label, part in found.external.by.items()
        ]
        tables.append(TextTable(["rows of", "samples", name, "95 % interval"], rows))
    return Section("Scores", figures=figures, tables=tables)


def _classes(found: Comparison) -> Section | None:
    if not found.external.by_class:
        return None
    own = {c.name: c for c in found.internal.by_class}
    rows = [
        [c.name, str(own[c.name].n), number(own[c.name].recall), str(c.n), number(c.recall), number(c.precision)]
        for c in found.external.by_class
        if c.name in own
    ]
    header = ["class", "own samples", "recall", "other samples", "recall", "precision"]
    return Section("Classes", tables=[TextTable(header, rows)])


def _certainty(found: Comparison) -> Section | None:
    rows = []
    for name, sure in found.certainty.items():
        covered = sure.coverage
        shares = [] if covered is None else np.atleast_1d(covered).tolist()
        shown = ", ".join(f"{100 * share:.1f} %" for share in shares)
        rows.append([name, f"{100 * (1 - sure.alpha):.3g} %", shown, "too low" if sure.warning else "as promised"])
    if not rows:
        return None
    text = ["Sets of classes, or intervals, that are to hold the truth, calibrated on the run's validation part."]
    return Section("Certainty", text, tables=[TextTable(["samples", "promised", "covered", ""], rows)])


def _moved(found: Comparison) -> Section:
    moved = [shift for shift in found.shifts if shift.moved]
    text = [
        f"{len(moved)} of {len(found.shifts)} features have moved: their distribution is not that of training (p < "
        f"{UNLIKELY}, corrected for their number), and the mean has moved by more than {FAR} standard deviations, or "
        f"the distribution function by more than {FAR}. shift.csv has all of them."
    ]
    rows = [[m, f"{before:.1%}", f"{now:.1%}"] for m, (before, now) in found.missing.items()]
    tables = [TextTable(["modality", "missing in training", "missing now"], rows)]
    if moved:
        lines = [
            [s.modality, s.feature, f"{s.mean_before:.4g}", f"{s.mean_now:.4g}", f"{s.distance:+.2f}", f"{s.p:.1g}"]
            for s in moved[:_SHOWN]
        ]
        header = ["modality", "feature", "mean in training", "mean now", "deviations", "p"]
        tables.append(TextTable(header, lines, f"the first {len(lines)}"))
    return Section("What has moved", text, tables=tables)
