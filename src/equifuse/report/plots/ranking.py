"""Plots of many methods: scores by data set, ranks, what they cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from equifuse.report.plots.base import (
    COLOURS,
    LETTER,
    LINE,
    QUIET,
    WIDTH,
    axis_label,
    colours,
    name_rows,
    new_figure,
    short,
    spread,
    tall,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def methods_on_set(
    found: Mapping[str, tuple[float, float | None]], metric: str, *, best: Sequence[str] = (), factor: float = 1.0
) -> Figure:
    """Methods on one data set, as they are given: mean and interval, those that cannot be told from the best in colour.

    Example:
        >>> from equifuse.report import plots
        >>> found = {"late": (0.98, 0.01), "deq": (0.97, 0.02), "linear": (0.94, None)}
        >>> figure = plots.methods_on_set(found, "accuracy", best=["late", "deq"])
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['late', 'deq', 'linear']

    Args:
        found: method -> mean, and half of its interval or None.
        metric: its name.
        best: the methods to draw in colour.
        factor: of the numbers, such as 100 for per cent.
    """
    figure, (axis,) = new_figure(WIDTH, tall(len(found), 0.28))
    for place, (name, (mean, half)) in enumerate(found.items()):
        colour = COLOURS[0] if name in best else QUIET
        axis.errorbar(
            [factor * mean],
            [place],
            xerr=None if half is None else [factor * half],
            fmt="o",
            color=colour,
            elinewidth=1.8,
            capsize=0,
        )
    name_rows(axis, list(found))
    axis.set_xlabel(axis_label(metric))
    return figure


def critical_difference(ranks: Mapping[str, float], critical: float, groups: Sequence[Sequence[int]]) -> Figure:
    """Average ranks on a line, 1 the best; bars join methods whose ranks do not differ (Demšar 2006).

    Example:
        >>> from equifuse.report import plots
        >>> figure = plots.critical_difference({"deq": 1.2, "gmf": 1.8, "concat": 3.0}, 1.1, [(0, 1)])
        >>> sorted(text.get_text().strip() for text in figure.axes[0].texts)[-3:]
        ['critical difference 1.10', 'deq (1.20)', 'gmf (1.80)']

    Args:
        ranks: method -> average rank.
        critical: the critical difference, drawn above the line.
        groups: indices into ``ranks`` of methods that do not differ.
    """
    names, values = list(ranks), list(ranks.values())
    order = sorted(range(len(names)), key=lambda i: values[i])
    below = 0.16 * len(groups)
    longest = max(len(short(name)) for name in names) + 7
    lines = below + 0.3 * math.ceil(len(names) / 2) + 0.4
    figure, (axis,) = new_figure(WIDTH + 2 * LETTER * longest, 1.0 + 0.75 * lines)
    axis.axis("off")
    low, high = 1, max(len(names), 2)
    axis.set_xlim(low - 0.02 * (high - low), high + 0.02 * (high - low))
    axis.set_ylim(-lines, 0.9)
    axis.hlines(0, low, high, color="black", linewidth=1)
    every = 1 if high <= 20 else 5
    for tick in range(low, high + 1):
        axis.vlines(tick, 0, 0.1, color="black", linewidth=1)
        if tick % every == 0 or (tick == low and every == 1):
            axis.text(tick, 0.14, str(tick), ha="center", va="bottom", fontsize=8.5)
    if math.isfinite(critical):
        end = low + min(critical, high - low)
        axis.hlines(0.6, low, end, color=QUIET, linewidth=2)
        axis.text(low, 0.65, f"critical difference {critical:.2f}", ha="left", va="bottom", fontsize=8.5)
    for i, group in enumerate(groups):
        ends = [values[k] for k in group]
        axis.hlines(-0.1 - 0.16 * i, min(ends) - 0.03, max(ends) + 0.03, color="black", linewidth=3)
    half = math.ceil(len(order) / 2)
    for place, k in enumerate(order):
        left = place < half
        y = -below - 0.3 * ((place if left else len(order) - 1 - place) + 1)
        edge = low if left else high
        axis.plot([values[k], values[k], edge], [0, y, y], color=COLOURS[place % len(COLOURS)], linewidth=1)
        name = short(names[k])
        label = f"{name} ({values[k]:.2f}) " if left else f" {name} ({values[k]:.2f})"
        axis.text(edge, y, label, ha="right" if left else "left", va="center", fontsize=8.5)
    return figure


def pareto(
    points: Mapping[str, tuple[float, float]], front: Sequence[str], cost: str, value: str, *, rising: bool = False
) -> Figure:
    """A value against a cost on a logarithmic axis, the better the higher, and the front that nothing beats.

    Example:
        >>> from equifuse.report import plots
        >>> points = {"deq": (2e5, 1.2), "concat": (1e5, 2.0)}
        >>> plots.pareto(points, ["concat", "deq"], "parameters", "average rank").axes[0].get_xscale()
        'log'

    Args:
        points: method -> cost and value.
        front: the methods on the front, cheapest first.
        cost: name of the cost.
        value: name of the value.
        rising: whether a larger value is better; default a smaller one, such as a rank.
    """
    height = max(3.2, 0.9 + LINE * len(points))
    figure, (axis,) = new_figure(WIDTH, height)
    values = [place[1] for place in points.values()]
    span = (max(values) - min(values)) or 1.0
    low, high = min(values) - 0.08 * span, max(values) + 0.08 * span
    # Names stand beside the axes, each on a line of its own and led to its point.
    least = (high - low) * LINE / (height - 0.7)
    for colour, (name, place), line in zip(colours(len(points)), points.items(), spread(values, least), strict=True):
        axis.plot(*place, "o", color=colour, markersize=6 if name in front else 4)
        axis.annotate(
            short(name),
            place,
            (1.04, line),
            textcoords=("axes fraction", "data"),
            fontsize=8.5,
            va="center",
            fontweight="bold" if name in front else "normal",
            arrowprops={"arrowstyle": "-", "color": QUIET, "linewidth": 0.6, "alpha": 0.6, "shrinkA": 1, "shrinkB": 3},
        )
    axis.plot([points[name][0] for name in front], [points[name][1] for name in front], color=QUIET, linewidth=1.2)
    _logarithmic(axis, [place[0] for place in points.values()])
    axis.set_ylim(*((low, high) if rising else (high, low)))
    axis.set_xlabel(axis_label(cost))
    axis.set_ylabel(axis_label(value))
    return figure


def _logarithmic(axis: Any, values: Sequence[float]) -> None:
    """A logarithmic axis with few ticks: of less than two decades also 2 and 5 of each."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter  # noqa: PLC0415 - matplotlib is there by now

    low, high = min(values) / 1.6, max(values) * 1.6
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 50 else (1,), numticks=8))
    large = EngFormatter(sep="\N{THIN SPACE}")
    # Below one there are seconds, and half a second is no 500 m.
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, at: large(x, at) if x >= 1 else f"{x:.3g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
