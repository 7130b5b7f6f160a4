"""The page about a search for the best model: its leaderboard in words, in plots, in a table."""

from __future__ import annotations

from pathlib import Path

from equifuse.auto.limits import duration
from equifuse.auto.result import ENSEMBLE, AutoResult
from equifuse.benchmark.statistics import pareto
from equifuse.files import write_text
from equifuse.information import Interactions
from equifuse.report import plots
from equifuse.report.information import PICTURE, interactions_section
from equifuse.report.page import Card, Section, Tile, drawn, render_page
from equifuse.report.tables import TextTable
from equifuse.report.verdict import metric_name, percent, shown
from equifuse.tasks import Task, make_task

PAGE, PLOTS = "leaderboard.html", "leaderboard"


def write_search(
    found: AutoResult,
    folder: Path,
    name: str,
    task: Task | None = None,
    known: Interactions | str | None = None,
) -> Path:
    """Write ``leaderboard.html`` beside what a search left; one that is there is replaced.

    Args:
        found: what the search gave.
        folder: to write into.
        name: of the data.
        task: of the search, with the metrics that it was asked for; default the task of that name.
        known: what the modalities know of the target, or why that was not measured; None of a search that was finished
            before, whose page stays as it is.

    Returns:
        The page.
    """
    if known is None and (folder / PAGE).is_file():
        return folder / PAGE
    task = task or make_task(found.task, metrics=[found.headline])
    header, rows = found.table(full=True)
    table = TextTable(header, rows, file="leaderboard.csv", searched=len(rows) > 15)
    sections = [
        Section("At a glance", cards=_cards(found, task, folder / PLOTS)),
        Section("Leaderboard", [_about(found)], tables=[table]),
    ]
    if isinstance(known, str):
        sections.append(Section("What the modalities know", [known]))
    elif known is not None:
        sections.append(interactions_section(known, folder / PLOTS / PICTURE))
    text = render_page(
        f"The best model of {name}", sections, kind="search", verdict=found.report, tiles=_tiles(found, task)
    )
    write_text(folder / PAGE, text)
    return folder / PAGE


def _about(found: AutoResult) -> str:
    return (
        f"Selected by {metric_name(found.selected_by)} on rows that the models were not trained on (val); test decided "
        "nothing. The ensemble is a weighted mean of the methods that have a weight."
    )


def _tiles(found: AutoResult, task: Task) -> list[Tile]:
    whole = next((entry for entry in found.entries if entry.method == ENSEMBLE), found.best)
    value, part = (whole.score, "val") if whole.test is None else (whole.test, "test")
    tiles = [] if value is None else [Tile(metric_name(found.headline), shown(task, value), f"{ENSEMBLE}, {part}")]
    trained = sum(entry.models for entry in found.entries if entry.method != ENSEMBLE)
    return [
        *tiles,
        Tile("best single method", found.best.method),
        Tile("tried", str(sum(entry.method != ENSEMBLE for entry in found.entries)), f"{trained} models trained"),
        Tile("took", duration(found.seconds)),
    ]


def _cards(found: AutoResult, task: Task, folder: Path) -> list[Card]:
    factor = 100.0 if percent(task) else 1.0
    called = metric_name(found.headline) + (", %" if factor != 1 else "")
    better = "higher" if task.metric(found.headline).mode == "max" else "lower"
    scored = {entry.method: entry for entry in found.entries if entry.score is not None}
    cards = []
    if scored:
        values = {name: (entry.score or 0.0, None) for name, entry in scored.items()}
        used = [name for name, entry in scored.items() if entry.weight > 0]
        plot = plots.methods_on_set(values, called, best=used, factor=factor)
        caption = f"On rows that the models were not trained on; {better} is better; in colour what the ensemble uses."
        cards.append(Card("Scores", figures=[drawn(plot, folder / "scores.svg", caption)]))
    sign = 1.0 if better == "lower" else -1.0
    points = {
        name: (entry.fit_seconds, entry.score or 0.0)
        for name, entry in scored.items()
        if entry.fit_seconds > 0 and name != ENSEMBLE
    }
    if len(points) > 1:
        labels = list(points)
        front = pareto([points[m][0] for m in labels], [-sign * points[m][1] for m in labels])
        plot = plots.pareto(
            {name: (cost, factor * value) for name, (cost, value) in points.items()},
            [labels[i] for i in front],
            "seconds of training",
            called,
            rising=better == "higher",
        )
        caption = "Up and left is better: the line joins those that no other beats in both."
        cards.append(Card("What it costs", figures=[drawn(plot, folder / "costs.svg", caption)]))
    return cards
