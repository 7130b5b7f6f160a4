"""Plots: functions from plain values to a matplotlib figure, without a display and without global state.

A notebook shows a figure that a cell returns; :func:`save` writes it.

Example:
    >>> from equifuse.report import plots
    >>> figure = plots.contributions({"text": 0.31, "image": 0.12}, "accuracy")
    >>> figure.axes[0].get_xlabel()
    'contribution to accuracy'
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equifuse.evaluation.robustness import RobustnessReport
from equifuse.extras import require
from equifuse.files import atomic

if TYPE_CHECKING:  # it takes half a second to import
    from matplotlib.figure import Figure

# One mapping of numbers per epoch.
Rows = Sequence[Mapping[str, float | None]]
# Subsets of modalities that still get a name each on an axis.
_MOST_NAMED = 15
# Values of a column that still get a colour each.
_MOST_COLOURS = 20
# Okabe and Ito's palette: colour-blind readers can distinguish it, too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# The same numbers give the same file.
_UNDATED = {".svg": {"Date": None}}


def save(figure: Figure, path: Path) -> None:
    """Write a figure, whole or not at all; the same numbers give the same bytes.

    Args:
        figure: as the functions of this module return it.
        path: PNG, SVG or PDF file; replaced if it is there.
    """
    mpl = require("train", "matplotlib", "a plot")

    with atomic(path) as staging, mpl.rc_context({"svg.hashsalt": "equifuse"}):
        figure.savefig(staging, format=path.suffix.removeprefix("."), metadata=_UNDATED.get(path.suffix))


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Any]]:
    figure: Figure = _figure_class()(figsize=(width, height), dpi=120, layout="constrained")
    axes = [figure.add_subplot(1, columns, i + 1) for i in range(columns)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    return figure, axes


@cache
def _figure_class() -> Any:
    """Matplotlib's figure, which a notebook shows although pyplot does not know it."""
    require("train", "matplotlib", "a plot")
    from matplotlib.figure import Figure  # noqa: PLC0415

    class NotebookFigure(Figure):  # type: ignore[misc, unused-ignore]
        def _repr_png_(self) -> bytes:
            content = io.BytesIO()
            self.savefig(content, format="png")
            return content.getvalue()

    return NotebookFigure


def learning_curves(histories: Rows | Mapping[str, Rows]) -> Figure:
    """Training loss (dashed) and validation loss (solid) over epochs, one colour per label.

    Example:
        >>> rows = [{"epoch": i, "train_task_loss": 1 / (i + 1), "val_loss": 1.2 / (i + 1)} for i in range(5)]
        >>> learning_curves({"deq": rows}).axes[0].get_ylabel()
        'task loss'

    Args:
        histories: one run's history, or label -> history.
    """
    labelled = histories if isinstance(histories, Mapping) else {"": histories}
    figure, (axis,) = _figure(6.5, 4)
    for colour, (label, history) in zip(_cycle(len(labelled)), labelled.items(), strict=True):
        epochs = [_known(row["epoch"]) + 1 for row in history]
        prefix = f"{label}: " if label else ""
        train, val = ([_known(row.get(name)) for row in history] for name in ("train_task_loss", "val_loss"))
        axis.plot(epochs, train, color=colour, linestyle="--", alpha=0.6, label=f"{prefix}training")
        axis.plot(epochs, val, color=colour, label=f"{prefix}validation")
    axis.set_xlabel("epoch")
    axis.set_ylabel("task loss")
    axis.set_yscale("log" if _positive(labelled) else "linear")
    axis.legend(frameon=False, fontsize="small")
    return figure


def _positive(histories: Mapping[str, Rows]) -> bool:
    values = [_known(row.get(k)) for h in histories.values() for row in h for k in ("train_task_loss", "val_loss")]
    return all(value > 0 for value in values if not math.isnan(value))


def _known(value: float | None) -> float:
    """NaN, which a line leaves out, where there is no number."""
    return math.nan if value is None else value


def convergence(traces: Mapping[str, Mapping[str, Any]], *, tol: float | None = None) -> Figure:
    """Relative residual per step, median over samples with the range from the 10th to the 90th percentile.

    Example:
        >>> residuals = np.geomspace(1, 1e-5, 6)[:, None] * np.ones(8)
        >>> len(convergence({"before": {"state": residuals}, "after": {"state": residuals**2}}, tol=1e-4).axes)
        2

    Args:
        traces: panel title -> part of the state -> residuals ``(K, n)``.
        tol: the tolerance, drawn as a line.
    """
    figure, axes = _figure(5.2 * len(traces), 4, len(traces))
    for axis, (title, parts) in zip(axes, traces.items(), strict=True):
        for colour, (name, trace) in zip(_cycle(len(parts)), parts.items(), strict=True):
            values = np.maximum(np.asarray(trace, dtype=np.float64), 1e-12)
            low, median, high = np.percentile(values, [10, 50, 90], axis=1)
            steps = np.arange(1, len(values) + 1)
            axis.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
            axis.plot(steps, median, color=colour, marker="o", markersize=3, label=name)
        if tol is not None:
            axis.axhline(tol, color="grey", linestyle=":", label=f"tolerance {tol:g}")
        axis.set_yscale("log")
        axis.set_xlabel("evaluations")
        axis.set_ylabel("relative residual")
        axis.set_title(title, fontsize="medium")
        axis.legend(frameon=False, fontsize="small")
    return figure


def modality_removal(scores: Mapping[str, Mapping[str, tuple[float, float]]], *, metric: str = "accuracy") -> Figure:
    """A metric with each modality removed, as grouped points with the spread over seeds.

    Example:
        >>> scores = {"deq": {"nothing": (0.98, 0.01), "text": (0.91, 0.02)}, "gmf": {"nothing": (0.97, 0.01)}}
        >>> modality_removal(scores).axes[0].get_xlabel()
        'modality removed'

    Args:
        scores: method -> what was removed -> (mean, standard deviation or NaN).
        metric: its name.
    """
    removed = list(dict.fromkeys(name for by_removed in scores.values() for name in by_removed))
    figure, (axis,) = _figure(max(6.5, 1.6 * len(removed)), 4)
    width = 0.8 / len(scores)
    for i, (colour, (label, by_removed)) in enumerate(zip(_cycle(len(scores)), scores.items(), strict=True)):
        places = [x + (i - (len(scores) - 1) / 2) * width for x, name in enumerate(removed) if name in by_removed]
        means = [by_removed[name][0] for name in removed if name in by_removed]
        spreads = [by_removed[name][1] for name in removed if name in by_removed]
        errors = [0.0 if math.isnan(s) else s for s in spreads]
        # Points and not bars: what matters are differences of a few per cent, far from a bar's foot at 0.
        axis.errorbar(places, means, yerr=errors, fmt="o", color=colour, label=label, capsize=3, elinewidth=1)
    axis.set_xticks(range(len(removed)), removed)
    axis.set_xlabel("modality removed")
    axis.set_ylabel(metric)
    axis.legend(frameon=False, fontsize="small", ncols=len(scores), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def _cycle(count: int) -> list[str]:
    return [_COLOURS[i % len(_COLOURS)] for i in range(count)]


def robustness(report: RobustnessReport) -> Figure:
    """A metric by missing rate, by subset of the modalities, and with one modality corrupted, one colour per run.

    Example:
        >>> from equifuse.evaluation.robustness import Robustness, RobustnessReport, Spread
        >>> corrupted = {"a": {"permuted": Spread(0.5, 0.02)}}
        >>> found = Robustness(0.9, {"a": 0.8, "a + b": 0.9}, {"0.5": Spread(0.85, 0.01)}, corrupted)
        >>> len(robustness(RobustnessReport("test", 3, "accuracy", {"deq": found})).axes)
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
    figure, (rates, kept, corrupted) = _figure(9 + 0.3 * (len(subsets) * named + len(corruptions)), 4.5, 3)
    for colour, (label, found) in zip(_cycle(len(runs)), runs.items(), strict=True):
        x = [float(rate) for rate in found.missing]
        means = [value for value, _ in found.missing.values()]
        spreads = [spread for _, spread in found.missing.values()]
        rates.errorbar(x, means, yerr=spreads, color=colour, marker="o", markersize=3, capsize=2, label=label)
        values = [found.subsets.get(name, math.nan) for name in subsets]
        kept.plot(places, values, "o", color=colour, alpha=1.0 if named else 0.5)
        pairs = [found.corrupted.get(m, {}).get(what, (math.nan, 0.0)) for m, what in corruptions]
        corrupted.errorbar(
            range(len(pairs)), [p[0] for p in pairs], yerr=[p[1] for p in pairs], fmt="o", color=colour, capsize=2
        )
        for axis in (kept, corrupted):
            axis.axhline(found.intact, color=colour, linewidth=0.8, linestyle=":")
    rates.set_xlabel("share of modalities missing")
    rates.set_ylabel(report.metric)
    rates.legend(frameon=False, fontsize="small")
    if named:
        kept.set_xticks(places, subsets, rotation=60, ha="right", fontsize="small")
        kept.set_title("only these modalities", fontsize="medium")
    else:
        kept.set_xticks(sorted(set(places)))
        kept.set_xlabel("modalities kept")
    labels = [f"{m} {what}" for m, what in corruptions]
    corrupted.set_xticks(range(len(labels)), labels, rotation=60, ha="right", fontsize="small")
    corrupted.set_title("one modality corrupted", fontsize="medium")
    return figure


def critical_difference(ranks: Mapping[str, float], critical: float, groups: Sequence[Sequence[int]]) -> Figure:
    """Average ranks on a line, 1 the best; bars join methods whose ranks do not differ (Demšar 2006).

    Example:
        >>> figure = critical_difference({"deq": 1.2, "gmf": 1.8, "concat": 3.0}, 1.1, [(0, 1)])
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
    lines = below + 0.3 * math.ceil(len(names) / 2) + 0.4
    figure, (axis,) = _figure(8, 1.0 + 0.75 * lines)
    axis.axis("off")
    low, high = 1, max(len(names), 2)
    axis.set_xlim(low - 0.02 * (high - low), high + 0.02 * (high - low))
    axis.set_ylim(-lines, 0.9)
    axis.hlines(0, low, high, color="black", linewidth=1)
    for tick in range(low, high + 1):
        axis.vlines(tick, 0, 0.1, color="black", linewidth=1)
        axis.text(tick, 0.14, str(tick), ha="center", va="bottom", fontsize="small")
    if math.isfinite(critical):
        end = low + min(critical, high - low)
        axis.hlines(0.6, low, end, color="grey", linewidth=2)
        axis.text(
            (low + end) / 2, 0.65, f"critical difference {critical:.2f}", ha="center", va="bottom", fontsize="small"
        )
    for i, group in enumerate(groups):
        ends = [values[k] for k in group]
        axis.hlines(-0.1 - 0.16 * i, min(ends) - 0.03, max(ends) + 0.03, color="black", linewidth=3)
    half = math.ceil(len(order) / 2)
    for place, k in enumerate(order):
        left = place < half
        y = -below - 0.3 * ((place if left else len(order) - 1 - place) + 1)
        edge = low if left else high
        axis.plot([values[k], values[k], edge], [0, y, y], color=_COLOURS[place % len(_COLOURS)], linewidth=1)
        label = f"{names[k]} ({values[k]:.2f}) " if left else f" {names[k]} ({values[k]:.2f})"
        axis.text(edge, y, label, ha="right" if left else "left", va="center", fontsize="small")
    return figure


def pareto(points: Mapping[str, tuple[float, float]], front: Sequence[str], cost: str, value: str) -> Figure:
    """A value (lower is better) against a cost on a logarithmic axis, and the front that nothing beats.

    Example:
        >>> points = {"deq": (2e5, 1.2), "concat": (1e5, 2.0)}
        >>> pareto(points, ["concat", "deq"], "parameters", "average rank").axes[0].get_xscale()
        'log'

    Args:
        points: method -> cost and value.
        front: the methods on the front, cheapest first.
        cost: name of the cost.
        value: name of the value.
    """
    figure, (axis,) = _figure(5.2, 4.2)
    for colour, (name, place) in zip(_cycle(len(points)), points.items(), strict=True):
        axis.plot(*place, "o", color=colour)
        axis.annotate(name, place, xytext=(4, 4), textcoords="offset points", fontsize="x-small")
    axis.plot([points[name][0] for name in front], [points[name][1] for name in front], color="grey", linewidth=1)
    axis.set_xscale("log")
    axis.invert_yaxis()
    axis.set_xlabel(cost)
    axis.set_ylabel(value)
    axis.margins(x=0.2)
    return figure


def retained(shares: Mapping[str, Mapping[str, float]]) -> Figure:
    """What is left of a score under each condition, one colour per method.

    Example:
        >>> retained({"missing 0.5": {"deq": 0.95, "gmf": 0.93}}).axes[0].get_ylabel()
        'per cent of the intact score'

    Args:
        shares: condition -> method -> share of the intact score.
    """
    methods = list(dict.fromkeys(m for by_method in shares.values() for m in by_method))
    figure, (axis,) = _figure(max(6.5, 1.3 * len(shares)), 4.4)
    for i, (colour, m) in enumerate(zip(_cycle(len(methods)), methods, strict=True)):
        places = [x + 0.6 * ((i + 0.5) / len(methods) - 0.5) for x, by in enumerate(shares.values()) if m in by]
        axis.plot(places, [100 * by[m] for by in shares.values() if m in by], "o", color=colour, label=m)
    axis.set_xticks(range(len(shares)), list(shares))
    axis.set_ylabel("per cent of the intact score")
    axis.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def contributions(values: Mapping[str, float], metric: str) -> Figure:
    """What each modality contributes to a metric, as bars from 0.

    Example:
        >>> contributions({"text": 0.3, "image": 0.1}, "accuracy").axes[0].get_xlabel()
        'contribution to accuracy'

    Args:
        values: modality -> contribution.
        metric: its name.
    """
    figure, (axis,) = _figure(6.5, 1.0 + 0.4 * len(values))
    axis.barh(list(values), list(values.values()), color=_COLOURS[0])
    axis.axvline(0, color="black", linewidth=0.8)
    axis.invert_yaxis()
    axis.set_xlabel(f"contribution to {metric}")
    return figure


def confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """Samples of each class, rows, by predicted class, columns; the colour is the share of the row.

    Example:
        >>> confusion([[8, 2], [1, 9]], ["cat", "dog"]).axes[0].get_xlabel()
        'predicted'

    Args:
        matrix: numbers of samples ``(K, K)``.
        classes: their names.
    """
    counts = np.asarray(matrix, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = max(4.0, 1.6 + 0.45 * len(classes))
    figure, (axis,) = _figure(size + 0.8, size)
    axis.grid(visible=False)
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axis, label="share of the class", shrink=0.8)
    axis.set_xticks(range(len(classes)), classes, rotation=60, ha="right")
    axis.set_yticks(range(len(classes)), classes)
    if len(classes) <= _MOST_NAMED:
        for (i, j), share in np.ndenumerate(shares):
            colour = "white" if share > 0.5 else "black"
            axis.text(j, i, f"{counts[i, j]:.0f}", ha="center", va="center", color=colour, fontsize="small")
    axis.set_xlabel("predicted")
    axis.set_ylabel("class")
    return figure


def survival_curves(curves: Mapping[str, Mapping[str, Any]], *, p: float | None = None) -> Figure:
    """Kaplan-Meier curves with their intervals, a colour each.

    Example:
        >>> curve = {"n": 2, "events": 1, "time": [1, 2], "share": [1, 0.5], "low": [1, 0], "high": [1, 1]}
        >>> survival_curves({"high risk": curve}, p=0.03).axes[0].get_ylabel()
        'share without the event'

    Args:
        curves: label -> ``n``, ``events``, ``time``, ``share``, ``low`` and ``high``.
        p: of the log-rank test.
    """
    figure, (axis,) = _figure(6.5, 4.4)
    for colour, (label, curve) in zip(_cycle(len(curves)), curves.items(), strict=True):
        starts = {"time": 0, "share": 1, "low": 1, "high": 1}
        time, share, low, high = ([start, *curve[key]] for key, start in starts.items())
        named = f"{label} ({curve['events']} of {curve['n']})"
        axis.step(time, share, where="post", color=colour, label=named)
        axis.fill_between(time, low, high, step="post", color=colour, alpha=0.15, linewidth=0)
    axis.set_ylim(0, 1.02)
    axis.set_xlim(left=0)
    axis.set_xlabel("time")
    axis.set_ylabel("share without the event")
    axis.legend(title=None if p is None else f"log-rank p = {p:.2g}", frameon=False, fontsize="small")
    return figure


def over_time(times: Sequence[float], values: Sequence[float], name: str, *, reference: float | None = None) -> Figure:
    """A score over time, and what it would be by chance.

    Example:
        >>> over_time([1, 2, 3], [0.8, 0.7, 0.75], "AUC", reference=0.5).axes[0].get_ylabel()
        'AUC'

    Args:
        times: in order.
        values: at each.
        name: of the score.
        reference: drawn as a line.
    """
    figure, (axis,) = _figure(6.5, 4)
    axis.plot(times, values, color=_COLOURS[0], marker="o", markersize=4)
    if reference is not None:
        axis.axhline(reference, color="grey", linewidth=1, linestyle=":")
    axis.set_xlabel("time")
    axis.set_ylabel(name)
    return figure


def scatter(places: Any, values: Any = None, name: str = "", *, axes: tuple[str, str] = ("", "")) -> Figure:
    """Samples as points, coloured by a column: names get a colour each, many numbers a scale.

    Example:
        >>> scatter(np.zeros((3, 2)), np.array(["a", "b", "a"]), "label", axes=("PC1", "PC2")).axes[0].get_xlabel()
        'PC1'

    Args:
        places: ``(n, 2)``.
        values: ``(n,)``, or None for one colour.
        name: of the column.
        axes: what the axes are called.
    """
    places = np.asarray(places)
    figure, (axis,) = _figure(6.5, 5)
    size = float(np.clip(4000 / max(len(places), 1), 3, 30))
    kinds = [] if values is None else np.unique(values).tolist()
    if values is None or not kinds:
        axis.scatter(*places.T, s=size, color=_COLOURS[0], alpha=0.7, linewidths=0)
    elif len(kinds) > _MOST_COLOURS and np.asarray(values).dtype.kind in "iuf":
        image = axis.scatter(*places.T, s=size, c=np.asarray(values, dtype=float), cmap="viridis", linewidths=0)
        figure.colorbar(image, ax=axis, label=name, shrink=0.8)
    else:
        for colour, kind in zip(_cycle(len(kinds)), kinds, strict=True):
            some = places[np.asarray(values) == kind]
            axis.scatter(*some.T, s=size, color=colour, alpha=0.7, linewidths=0, label=str(kind))
        if len(kinds) <= _MOST_COLOURS:
            axis.legend(title=name, frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    axis.set_xlabel(axes[0])
    axis.set_ylabel(axes[1])
    return figure


def scores(found: Mapping[str, Mapping[str, tuple[float, float, float]]], metric: str) -> Figure:
    """A score with its interval for each of several parts, one colour per label.

    Example:
        >>> scores({"model": {"Oslo": (0.8, 0.7, 0.9), "Bergen": (0.7, 0.5, 0.85)}}, "accuracy").axes[0].get_xlabel()
        'accuracy'

    Args:
        found: label -> part -> value, and the ends of its interval.
        metric: its name.
    """
    names = list(dict.fromkeys(name for parts in found.values() for name in parts))
    figure, (axis,) = _figure(6.5, 1.2 + 0.4 * len(names) * len(found) ** 0.5)
    for i, (colour, (label, parts)) in enumerate(zip(_cycle(len(found)), found.items(), strict=True)):
        places = [names.index(name) + 0.5 * ((i + 0.5) / len(found) - 0.5) for name in parts]
        values = np.array(list(parts.values()))
        reach = np.abs(values[:, 1:] - values[:, :1]).T
        axis.errorbar(values[:, 0], places, xerr=reach, fmt="o", color=colour, capsize=3, label=label)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlabel(metric)
    if len(found) > 1:
        axis.legend(frameon=False, fontsize="small")
    return figure


def reliability(found: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Accuracy by confidence; the area of a point grows with the samples in it.

    Example:
        >>> bins = {"confidence": [0.6, 0.9], "accuracy": [0.5, 0.95], "count": [20, 80]}
        >>> reliability({"as it is": bins}).axes[0].get_xlabel()
        'confidence'

    Args:
        found: label -> ``confidence``, ``accuracy`` and ``count`` by bin, None where a bin is empty.
    """
    figure, (axis,) = _figure(5, 4.4)
    axis.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle=":")
    for colour, (label, bins) in zip(_cycle(len(found)), found.items(), strict=True):
        filled = [i for i, count in enumerate(bins["count"]) if count]
        sizes = [200 * bins["count"][i] / max(bins["count"]) + 8 for i in filled]
        x, y = ([bins[name][i] for i in filled] for name in ("confidence", "accuracy"))
        axis.plot(x, y, color=colour, linewidth=1, alpha=0.6)
        axis.scatter(x, y, s=sizes, color=colour, alpha=0.6, label=label)
    axis.set_xlabel("confidence")
    axis.set_ylabel("accuracy")
    axis.legend(frameon=False, fontsize="small", loc="upper left")
    return figure


def over_epochs(curves: Mapping[str, Sequence[float | None]], name: str) -> Figure:
    """Numbers over epochs, one colour per label.

    Example:
        >>> over_epochs({"fused state": [0.2, 0.3, None, 0.4]}, "spectral radius").axes[0].get_ylabel()
        'spectral radius'

    Args:
        curves: label -> number by epoch, None where there is none.
        name: of the numbers.
    """
    figure, (axis,) = _figure(6.5, 4)
    for colour, (label, values) in zip(_cycle(len(curves)), curves.items(), strict=True):
        axis.plot(range(1, len(values) + 1), [_known(v) for v in values], color=colour, label=label)
    axis.set_xlabel("epoch")
    axis.set_ylabel(name)
    axis.legend(frameon=False, fontsize="small")
    return figure
