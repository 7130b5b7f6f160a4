"""The first screen of a run's page: a card each for score, predictions, confusion, modalities, certainty."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from equifuse.report import plots
from equifuse.report.findings import Effect, Findings
from equifuse.report.page import Card, Figure, Tile, drawn
from equifuse.report.tables import NONE, Shaded, TextTable, number
from equifuse.report.verdict import difference, metric_name, percent, shown, signed
from equifuse.tasks import Task
from equifuse.tasks.base import output_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

# Classes whose confusion has room in a table beside others, and in a table at all.
_NARROW, _MOST_CLASSES = 6, 40
# Targets that are drawn.
_DRAWN = 4
_CONFUSIONS = 10


def tiles(found: Findings) -> list[Tile]:
    """The numbers that are seen first."""
    task, metrics = found.task, found.metrics
    made = []
    if found.value is not None:
        spread = "" if found.interval is None else shown(task, *found.interval)
        made.append(Tile(metric_name(task.headline), shown(task, found.value), spread))
    made += [
        Tile(rival.name.removeprefix("the "), shown(task, rival.value))
        for rival in found.rivals
        if rival.value is not None
    ]
    rows = found.run.record["data"]["rows"]
    made.append(Tile("test samples", f"{len(found.samples):,}", f"{rows.get('train', 0):,} trained on"))
    solved = metrics.convergence
    if solved is not None:
        steps = f"{solved.mean_steps:.1f} steps on average"
        made.append(Tile("equilibria found", f"{100 * solved.converged:.4g} %", steps))
    made.append(Tile("parameters", f"{metrics.parameters:,}", f"trained in {_duration(metrics.train_seconds)}"))
    return made


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.1f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def cards(found: Findings, folder: Path) -> list[Card]:
    """The dashboard.

    Args:
        found: of the run.
        folder: for the plots.
    """
    made = [_score(found, folder), *_predictions(found, folder), _confusion(found), _modalities(found, folder)]
    made += [_calibration(found, folder), _classes(found), _conformal(found)]
    there = [card for card in made if card is not None]
    return [card for card in there if not card.wide] + [card for card in there if card.wide]


def _score(found: Findings, folder: Path) -> Card | None:
    task = found.task
    if found.value is None:
        return None
    low, high = found.interval or (None, None)
    rows: dict[str, tuple[float | None, float | None, float | None]] = {"this model": (found.value, low, high)}
    for rival in found.rivals:
        ends = rival.interval or (None, None)
        rows[rival.name.removeprefix("the ")] = (rival.value, *ends)
    better = "higher" if task.metric(task.headline).mode == "max" else "lower"
    caption = f"{metric_name(task.headline).capitalize()} on the test part; {better} is better."
    if found.interval is not None:
        caption += " Bars are 95 % intervals over draws of the test samples."
    if found.without_linear:
        caption += f" No linear model: {found.without_linear}."
    plot = plots.compared(rows, metric_name(task.headline), percent=percent(task))
    return Card("Score", figures=[drawn(plot, folder / "score.svg", caption)])


def _predictions(found: Findings, folder: Path) -> list[Card]:
    """What the task draws of its predictions; of several targets a card each."""
    target = found.target
    if target is None:
        return []
    made: list[Card] = []
    for i, (name, (task, prediction, own)) in enumerate(found.task.apart(found.evaluation.prediction, target).items()):
        draw = _DRAW.get(task.drawn_as)
        if draw is None or i >= _DRAWN:
            continue
        for title, plot, caption in draw(task, prediction, own):
            path = folder / f"{task.drawn_as}_{i}_{len(made)}.svg"
            made.append(Card(f"{title}: {name}" if name else title, figures=[drawn(plot, path, caption)]))
    return made


Drawn = list[tuple[str, "Plot", str]]


def _roc(task: Task, prediction: Tensor, target: Tensor) -> Drawn:
    p, y = task.readable(prediction, target)
    classes = output_names(task.classes, p.shape[1])
    assert y is not None
    if p.shape[1] < 2 or len(np.unique(y)) < 2:
        return []
    area = task.measure(prediction, target, ["auc"]).values.get("auc")
    if p.shape[1] == 2:
        told = (
            f" In {100 * (area or 0):.0f} of 100 pairs of one sample each, {classes[1]!r} gets the higher probability."
        )
        caption = f"Further up and left is better; on the dotted line it is a guess.{told}"
    else:
        caption = "Each class against the rest; further up and left is better, on the dotted line it is a guess."
    return [("Separating the classes", plots.roc(p, y, classes), caption)]


def _precision_recall(task: Task, prediction: Tensor, target: Tensor) -> Drawn:
    p, y = task.readable(prediction, target)
    assert y is not None
    caption = "How many of the found labels are right (up) as more of them are found (right); the hardest labels first."
    return [("Finding the labels", plots.precision_recall(p, y, output_names(task.classes, p.shape[1])), caption)]


def _predicted_against_true(task: Task, prediction: Tensor, target: Tensor) -> Drawn:
    p, y = task.readable(prediction, target)
    assert y is not None
    made: Drawn = []
    for k, name in enumerate(output_names(task.classes, p.shape[1])[:_DRAWN]):
        spread = float(np.ptp(y[:, k]))
        flat = spread > 0 and float(np.ptp(p[:, k])) < 0.6 * spread
        caption = "On the dotted line a prediction is right."
        caption += " Predictions keep closer to the middle than the truth: extremes are underestimated." if flat else ""
        title = "Predicted against true" + (f": {name}" if p.shape[1] > 1 else "")
        made.append((title, plots.predicted_against_true(p[:, k], y[:, k], name if task.classes else "value"), caption))
    return made


def _survival_curves(task: Task, prediction: Tensor, target: Tensor) -> Drawn:
    from equifuse.report.survival import halves  # noqa: PLC0415

    curves, p = halves(prediction, target)
    told = "" if p is None else f" A difference like this comes by chance with p = {p:.2g} (log-rank test)."
    caption = f"The half of the test samples with the higher predicted risk, and the other; bands: 95 %.{told}"
    return [("Survival by predicted risk", plots.survival_curves(curves, p=p), caption)]


_DRAW: Mapping[str, Callable[[Task, Tensor, Tensor], Drawn]] = {
    "roc": _roc,
    "precision_recall": _precision_recall,
    "predicted_against_true": _predicted_against_true,
    "survival_curves": _survival_curves,
}


def _confusion(found: Findings) -> Card | None:
    if found.confusion is None:
        return None
    matrix, names = found.confusion, output_names(found.task.classes, len(found.confusion))
    wrong = matrix.astype(np.float64) * (1 - np.eye(len(matrix)))
    pairs = sorted(
        ((wrong[i, j], i, j) for i, j in np.ndindex(*wrong.shape) if wrong[i, j]),
        key=lambda pair: (-pair[0], *pair[1:]),
    )
    if not pairs:
        text = "No test sample is predicted wrongly."
    else:
        count, i, j = pairs[0]
        text = f"Most often {names[i]!r} is taken for {names[j]!r}: {count:.0f} of {matrix[i].sum():,} samples."
    if len(matrix) > _MOST_CLASSES:
        rows = [
            [names[i], names[j], f"{count:.0f}", f"{100 * count / matrix[i].sum():.1f} %"]
            for count, i, j in pairs[:_CONFUSIONS]
        ]
        table = TextTable(["class", "taken for", "samples", "of the class"], rows)
        return Card("Confusion", [text], tables=[table])
    totals = np.maximum(matrix.sum(axis=1), 1)
    rows = [
        [name, *(Shaded(str(n), n / totals[i]) for n in matrix[i].tolist()), f"{100 * matrix[i, i] / totals[i]:.1f} %"]
        for i, name in enumerate(names)
    ]
    table = TextTable(
        ["class", *names, "right"], rows, "Rows are true classes, columns predicted ones.", "confusion.csv"
    )
    return Card("Confusion", [text], tables=[table], wide=len(matrix) > _NARROW)


def _classes(found: Findings) -> Card | None:
    if not found.by_class:
        return None
    rows = [
        [c.name, str(c.n), str(c.predicted), *(number(value, ".3f") for value in (c.precision, c.recall, c.f1))]
        for c in found.by_class
    ]
    known = [c for c in found.by_class if c.f1 is not None]
    text = []
    if len(known) > 1:
        worst = min(known, key=lambda c: c.f1 or 0.0)
        text = [f"Weakest is {worst.name!r}, F1 {worst.f1:.3f}."]
    table = TextTable(["class", "n", "said", "precision", "recall", "F1"], rows, file="classes.csv")
    return Card("Each class", text, tables=[table])


def _modalities(found: Findings, folder: Path) -> Card | None:
    effects, task = found.effects, found.task
    if not effects:
        return None
    factor = 100.0 if percent(task) else 1.0
    rising = task.metric(task.headline).mode == "max"
    label = ("" if rising else "a lower ") + metric_name(task.headline) + (", points" if factor != 1 else "")
    intervals = {e.name: (factor * e.adds_interval[0], factor * e.adds_interval[1]) for e in effects if e.adds_interval}
    lost = {e.name: factor * e.lost for e in effects if e.lost is not None and len(effects) > 1}
    plot = plots.contributions({e.name: factor * e.adds for e in effects}, label, intervals=intervals, lost=lost)
    caption = (
        "Bars are fair shares (Shapley values) of what the modalities add together, with 95 % intervals. A modality "
        "whose diamond is near 0 is not missed: the others say the same."
    )
    rows = [
        [
            e.name,
            signed(task, e.adds),
            _half(task, e.adds_interval),
            NONE if e.lost is None else signed(task, e.lost),
            _half(task, e.lost_interval),
            NONE if e.alone is None else shown(task, e.alone),
        ]
        for e in effects
    ]
    alone = "its own head" if found.alone_by_heads else "the model with nothing else"
    unit = "points" if percent(task) else metric_name(task.headline)
    table = TextTable(
        ["modality", "adds", "±", "lost without", "±", "alone"],
        rows,
        f"In {unit}, positive is better, ± half of the 95 % interval; alone: what {alone} reaches.",
        "modalities.csv",
    )
    picture = drawn(plot, folder / "contributions.svg", caption)
    return Card("What each modality adds", [_modality_sentence(found)], [picture], [table])


def _half(task: Task, ends: tuple[float, float] | None) -> str:
    """Half of the width of an interval."""
    return NONE if ends is None else signed(task, (ends[1] - ends[0]) / 2)[1:]


def _modality_sentence(found: Findings) -> str:
    effects, task = found.effects, found.task

    def words(effect: Effect) -> str:
        if effect.lost is None:
            return ""
        if effect.lost_interval is not None and effect.lost_interval[0] <= 0:
            return "; no loss without it is shown"
        return f"; without it, {difference(task, effect.lost)} are lost"

    best = max(effects, key=lambda e: e.adds)
    said = f"{best.name!r} adds most{words(best)}."
    idle = [e.name for e in effects if e.adds_interval is not None and e.adds_interval[0] <= 0 <= e.adds_interval[1]]
    if idle and len(effects) > 1:
        said += f" Not shown to add anything: {', '.join(map(repr, idle))}."
    return said


def _calibration(found: Findings, folder: Path) -> Card | None:
    summary = None if found.explanation is None else found.explanation.summary(0)
    text: list[str] = []
    figures: list[Figure] = []
    tables: list[TextTable] = []
    if summary and summary["calibration"] and summary["calibration"]["raw"]:
        calibration = summary["calibration"]
        both = {"as it is": calibration["raw"], "scaled": calibration["scaled"]}
        text.append(_sureness(calibration))
        caption = "On the dotted line it is as often right as it says. Larger points stand for more samples."
        figures.append(drawn(plots.reliability(both), folder / "reliability.svg", caption))
        rows = [[name, *(number(s[key], ".3f") for key in ("log_loss", "brier", "ece"))] for name, s in both.items()]
        told = f"Temperature {calibration['temperature']:.3f}, fitted on validation."
        tables.append(TextTable(["probabilities", "log loss", "Brier", "calibration error"], rows, told))
    return Card("How sure it is", text, figures, tables) if tables else None


def _conformal(found: Findings) -> Card | None:
    sets = None if found.explanation is None else found.explanation.conformal
    if sets is None:
        return None
    conformal = sets.summary()
    text = [f"Do not rely on them: this {conformal['warning']}."] if conformal.get("warning") else []
    said = str(conformal["assumption"])
    return Card(
        "Sets that hold the truth", [*text, f"{said[:1].upper()}{said[1:]}."], tables=[conformal_table(conformal)]
    )


def _sureness(calibration: Mapping[str, Any]) -> str:
    """Whether it is too sure, in words."""
    bins = calibration["raw"]
    total = max(1, sum(bins["count"]))
    mean = {
        key: sum(n * (x or 0.0) for n, x in zip(bins["count"], bins[key], strict=True)) / total
        for key in ("confidence", "accuracy")
    }
    gap = 100 * (mean["confidence"] - mean["accuracy"])
    said = f"It says {100 * mean['confidence']:.0f} % on average and is right in {100 * mean['accuracy']:.0f} %"
    if abs(gap) < 1:
        return f"{said}."
    return f"{said}: {abs(gap):.0f} points too {'sure' if gap > 0 else 'careful'}."


def conformal_table(conformal: Mapping[str, Any]) -> TextTable:
    """Sets of classes or intervals that are to hold the truth, and whether they did."""
    asked = 1 - conformal["alpha"]
    if "radius" in conformal:
        covered = conformal["coverage"] or [None] * len(conformal["radius"])
        rows = [
            [str(k), number(radius, ".4g"), share_text(share)]
            for k, (radius, share) in enumerate(zip(conformal["radius"], covered, strict=True))
        ]
        caption = f"Intervals for {asked:.0%}."
        return TextTable(["target", "half the width", "covered on test"], rows, caption)
    rows = [[str(size), share_text(share)] for size, share in enumerate(conformal["sizes"]) if share]
    covered = "" if conformal["coverage"] is None else f", covered on test {share_text(conformal['coverage'])}"
    caption = f"Prediction sets for {asked:.0%} ({conformal['method'].upper()}){covered}."
    return TextTable(["classes in the set", "share of samples"], rows, caption)


def share_text(value: float | None) -> str:
    """A share in per cent, and a dash where there is none."""
    return NONE if value is None else f"{100 * value:.1f} %"
