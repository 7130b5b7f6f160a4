"""Plots of what modalities give: contributions, and what is left without them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from equifuse.evaluation.robustness import RobustnessReport
from equifuse.report.plots.base import (
    COLOURS,
    QUIET,
    WIDTH,
    axis_label,
    colours,
    legend,
    name_rows,
    new_figure,
    tall,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Subsets of modalities that still get a name each on an axis.
_MOST_NAMED = 15
Interval = tuple[float, float]


def contributions(
    values: Mapping[str, float],
    metric: str,
    *,
    intervals: Mapping[str, Interval] | None = None,
    lost: Mapping[str, float] | None = None,
) -> Figure:
    """What each modality contributes to a metric, as bars from 0; a diamond for what is lost without it.

    Example:
        >>> from equifuse.report import plots
        >>> found = {"text": 0.3, "image": 0.1}
        >>> figure = plots.contributions(found, "accuracy", intervals={"text": (0.2, 0.4)}, lost={"text": 0.25})
        >>> figure.axes[0].get_xlabel()
        'contribution to accuracy'

    Args:
        values: modality -> contribution.
        metric: its name.
        intervals: modality -> ends of the contribution's interval.
        lost: modality -> how much worse the metric is without it.
    """
    figure, (axis,) = new_figure(WIDTH, tall(len(values) + (0.8 if lost else 0)))
    axis.barh(range(len(values)), list(values.values()), height=0.55, color=COLOURS[0], label="what it adds")
    for place, name in enumerate(values):
        if intervals and name in intervals:
            axis.plot(intervals[name], (place, place), color="black", linewidth=1.4)
        if lost and name in lost:
            label = "lost without it" if name == next(iter(lost)) else None
            axis.plot([lost[name]], [place], "D", color=COLOURS[1], markersize=6, label=label)
    axis.axvline(0, color="black", linewidth=0.8)
    name_rows(axis, list(values))
    axis.set_xlabel(axis_label(f"contribution to {metric}"))
    if lost:
        figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8.5)
    return figure


def modality_removal(scores: Mapping[str, Mapping[str, tuple[float, float]]], *, metric: str = "accuracy") -> Figure:
    """A metric with each modality removed, as points with the spread over seeds, one colour per method.

    Example:
        >>> from equifuse.report import plots
        >>> scores = {"deq": {"nothing": (0.98, 0.01), "text": (0.91, 0.02)}, "gmf": {"nothing": (0.97, 0.01)}}
        >>> plots.modality_removal(scores).axes[0].get_ylabel()
        'modality removed'

    Args:
        scores: method -> what was removed -> (mean, standard deviation or NaN).
        metric: its name.
    """
    removed = list(dict.fromkeys(name for by_removed in scores.values() for name in by_removed))
    each = max(0.34, 0.1 * len(scores))
    figure, (axis,) = new_figure(WIDTH, tall(len(removed), each, 1.8))
    for i, (colour, (label, by_removed)) in enumerate(zip(colours(len(scores)), scores.items(), strict=True)):
        shift = 0.7 * ((i + 0.5) / len(scores) - 0.5)
        places = [y + shift for y, name in enumerate(removed) if name in by_removed]
        means = [by_removed[name][0] for name in removed if name in by_removed]
        spreads = [by_removed[name][1] for name in removed if name in by_removed]
        errors = [0.0 if math.isnan(s) else s for s in spreads]
        # Points and not bars: what matters are differences of a few per cent, far from a bar's foot at 0.
        axis.errorbar(means, places, xerr=errors, fmt="o", color=colour, label=label, capsize=3, elinewidth=1)
    name_rows(axis, removed)
    axis.set_ylabel("modality removed")
    axis.set_xlabel(axis_label(metric))
    if len(scores) > 1:
        legend(figure, axis, outside=True)
    return figure


def robustness(report: RobustnessReport) -> Figure:
    """A metric by missing rate, by subset of the modalities, and with one modality corrupted, one colour per run.

    Example:
        >>> from equifuse.evaluation.robustness import Robustness, RobustnessReport, Spread
        >>> from equifuse.report import plots
        >>> corrupted = {"a": {"permuted": Spread(0.5, 0.02)}}
        >>> found = Robustness(0.9, {"a": 0.8, "a + b": 0.9}, {"0.5": Spread(0.85, 0.01)}, corrupted)
        >>> len(plots.robustness(RobustnessReport("test", 3, "accuracy", {"deq": found})).axes)
        3

    Args:
        report: as :func:`equifuse.runs.robustness.robustness` returns it.
    """
    runs = report.runs
    first = next(iter(runs.values()))
    subsets = list(first.subsets)
    corruptions = [(m, what) for m, levels in first.corrupted.items() for what in levels]
    named = len(subsets) <= _MOST_NAMED
    # Many subsets are placed by how many modalities they keep, a few by name.
    places = list(range(len(subsets))) if named else [name.count(" + ") + 1 for name in subsets]
    rows = max(len(subsets) if named else 0, len(corruptions))
    figure, (rates, kept, corrupted) = new_figure(12.5, tall(rows, 0.26, 3.6), 3)
    for colour, (label, found) in zip(colours(len(runs)), runs.items(), strict=True):
        x = [float(rate) for rate in found.missing]
        means = [value for value, _ in found.missing.values()]
        spreads = [spread for _, spread in found.missing.values()]
        rates.errorbar(x, means, yerr=spreads, color=colour, marker="o", markersize=3, capsize=2, label=label)
        values = [found.subsets.get(name, math.nan) for name in subsets]
        kept.plot(values, places, "o", color=colour, alpha=1.0 if named else 0.5)
        pairs = [found.corrupted.get(m, {}).get(what, (math.nan, 0.0)) for m, what in corruptions]
        corrupted.errorbar(
            [p[0] for p in pairs], range(len(pairs)), xerr=[p[1] for p in pairs], fmt="o", color=colour, capsize=2
        )
        for axis in (kept, corrupted):
            axis.axvline(found.intact, color=colour, linewidth=0.8, linestyle=":")
    rates.set_xlabel("share of modalities missing")
    rates.set_ylabel(axis_label(report.metric))
    if named:
        name_rows(kept, subsets)
        kept.set_title("only these modalities", fontsize=9)
    else:
        kept.set_yticks(sorted(set(places)))
        kept.set_ylabel("modalities kept")
    name_rows(corrupted, [f"{m} {what}" for m, what in corruptions])
    corrupted.set_title("one modality corrupted", fontsize=9)
    for axis in (kept, corrupted):
        axis.set_xlabel(axis_label(report.metric))
    legend(figure, rates)
    return figure


def retained(shares: Mapping[str, Mapping[str, float]]) -> Figure:
    """What is left of a score under each condition, one colour per method.

    Example:
        >>> from equifuse.report import plots
        >>> plots.retained({"missing 0.5": {"deq": 0.95, "gmf": 0.93}}).axes[0].get_xlabel()
        'per cent of the intact score'

    Args:
        shares: condition -> method -> share of the intact score.
    """
    methods = list(dict.fromkeys(m for by_method in shares.values() for m in by_method))
    figure, (axis,) = new_figure(WIDTH, tall(len(shares), max(0.5, 0.12 * len(methods)), 1.8))
    for i, (colour, m) in enumerate(zip(colours(len(methods)), methods, strict=True)):
        shift = 0.7 * ((i + 0.5) / len(methods) - 0.5)
        places = [y + shift for y, by in enumerate(shares.values()) if m in by]
        axis.plot([100 * by[m] for by in shares.values() if m in by], places, "o", color=colour, label=m)
    name_rows(axis, list(shares))
    for edge in range(1, len(shares)):
        axis.axhline(edge - 0.5, color=QUIET, linewidth=0.5, linestyle=":")
    axis.set_xlabel("per cent of the intact score")
    legend(figure, axis, outside=True)
    return figure
