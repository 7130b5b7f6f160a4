"""Plots of how good predictions are: scores, curves, confusion, calibration, survival."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from equifuse.report.plots.base import (
    COLOURS,
    QUIET,
    WIDTH,
    axis_label,
    colours,
    legend,
    name_rows,
    new_figure,
    short,
    tall,
)
from equifuse.report.plots.modalities import _MOST_NAMED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Three = tuple[float, float, float]
# Curves of single classes that still get a colour each.
_CURVES = 7
# Points of a scatter plot, at most: more say no more, and make a page large.
_POINTS = 800


def compared(found: Mapping[str, Sequence[float | None]], metric: str, *, percent: bool = False) -> Figure:
    """A score with its interval beside what it is compared with; the first one in colour, each with its number.

    Example:
        >>> from equifuse.report import plots
        >>> found = {"deq": (0.96, 0.93, 0.99), "linear": (0.95, 0.91, 0.98), "most frequent class": (0.63, None, None)}
        >>> figure = plots.compared(found, "accuracy", percent=True)
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['96.0', '95.0', '63.0']

    Args:
        found: label -> value, and the ends of its interval or None.
        metric: its name.
        percent: whether numbers are shown as per cent.
    """
    factor = 100.0 if percent else 1.0
    figure, (axis,) = new_figure(WIDTH, tall(len(found), 0.42))
    for place, (value, low, high) in enumerate(found.values()):
        colour = QUIET if place else COLOURS[0]
        x = factor * (math.nan if value is None else value)
        if low is not None and high is not None:
            axis.plot([factor * low, factor * high], [place, place], color=colour, linewidth=2.2, alpha=0.6)
        axis.plot([x], [place], "o", color=colour, markersize=8 if not place else 6)
        shown = "–" if math.isnan(x) else f"{x:.1f}" if percent else f"{x:.3g}"
        axis.annotate(shown, (x, place), (0, 7), textcoords="offset points", ha="center", fontsize=9)
    name_rows(axis, list(found))
    axis.set_yticks(range(len(found)), ["\n".join(wrap(short(name), 18)[:2]) for name in found])
    axis.set_ylim(len(found) - 0.5, -0.75)
    axis.set_xlabel(axis_label(f"{metric}, %" if percent else metric))
    axis.margins(x=0.12)
    return figure


def roc(probabilities: ArrayLike, target: ArrayLike, classes: Sequence[str]) -> Figure:
    """True against false positive rate: of the second of two classes, or of each class against the rest.

    Example:
        >>> from equifuse.report import plots
        >>> figure = plots.roc([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]], [0, 1, 1], ["no", "yes"])
        >>> figure.axes[0].get_xlabel()
        'false positive rate'

    Args:
        probabilities: ``(n, K)``.
        target: number of the true class ``(n,)``.
        classes: their names; of many the seven with the least area are drawn in colour, the others in grey.
    """
    from sklearn.metrics import roc_auc_score, roc_curve  # noqa: PLC0415 - it takes half a second

    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(target)
    shown = [1] if p.shape[1] == 2 else range(p.shape[1])
    curves = {}
    for k in shown:
        own = y == k
        if own.any() and not own.all():
            false, true, _ = roc_curve(own, p[:, k])
            curves[classes[k]] = (false, true, float(roc_auc_score(own, p[:, k])))
    figure, axis = _curves_of(curves, "area")
    axis.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle=":")
    axis.set_xlabel("false positive rate")
    axis.set_ylabel("true positive rate")
    return figure


def precision_recall(probabilities: ArrayLike, target: ArrayLike, labels: Sequence[str]) -> Figure:
    """Precision against recall of each label that occurs.

    Example:
        >>> from equifuse.report import plots
        >>> figure = plots.precision_recall([[0.9, 0.1], [0.6, 0.7]], [[1, 0], [0, 1]], ["drama", "war"])
        >>> figure.axes[0].get_ylabel()
        'precision'

    Args:
        probabilities: ``(n, K)``.
        target: 0 or 1 ``(n, K)``.
        labels: their names; of many the seven of the least precision are drawn in colour, the others in grey.
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve  # noqa: PLC0415

    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(target)
    curves = {}
    for k, label in enumerate(labels):
        if y[:, k].any():
            precision, recall, _ = precision_recall_curve(y[:, k], p[:, k])
            curves[label] = (recall, precision, float(average_precision_score(y[:, k], p[:, k])))
    figure, axis = _curves_of(curves, "average")
    axis.set_xlabel("recall")
    axis.set_ylabel("precision")
    return figure


def _curves_of(curves: Mapping[str, tuple[Any, Any, float]], what: str) -> tuple[Figure, Any]:
    figure, (axis,) = new_figure(WIDTH, 3.5)
    worst = sorted(curves, key=lambda name: curves[name][2])[:_CURVES]
    for name, (x, y, _) in curves.items():
        if name not in worst:
            axis.plot(x, y, color=QUIET, linewidth=0.8, alpha=0.5)
    for colour, name in zip(colours(len(worst)), worst, strict=True):
        x, y, area = curves[name]
        axis.plot(x, y, color=colour, linewidth=1.6, label=f"{short(name)}: {what} {area:.3f}")
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(-0.02, 1.04)
    axis.set_aspect("equal")
    if worst:
        left = len(curves) - len(worst)
        axis.legend(frameon=False, fontsize=8.5, loc="lower right", title=f"lowest of {len(curves)}" if left else None)
    return figure, axis


def predicted_against_true(prediction: ArrayLike, target: ArrayLike, name: str = "") -> Figure:
    """Predicted against true values, with the line where both are the same; at most 800 points are drawn.

    Example:
        >>> from equifuse.report import plots
        >>> plots.predicted_against_true([1.1, 1.9, 3.2], [1, 2, 3], "age").axes[0].get_xlabel()
        'true age'

    Args:
        prediction: ``(n,)``.
        target: ``(n,)``.
        name: of the target.
    """
    p, y = np.asarray(prediction, dtype=np.float64).ravel(), np.asarray(target, dtype=np.float64).ravel()
    if len(p) > _POINTS:
        some = np.sort(np.random.default_rng(0).permutation(len(p))[:_POINTS])
        p, y = p[some], y[some]
    figure, (axis,) = new_figure(WIDTH, 3.5)
    both = np.concatenate([p[np.isfinite(p)], y[np.isfinite(y)], [0.0] if not len(p) else []])
    ends = (float(both.min()), float(both.max()))
    axis.plot(ends, ends, color=QUIET, linewidth=1, linestyle=":")
    axis.plot(y, p, "o", color=COLOURS[0], markersize=4, alpha=0.5, markeredgewidth=0)
    axis.set_xlabel(axis_label(f"true {name}"))
    axis.set_ylabel(axis_label(f"predicted {name}"))
    return figure


def confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """Samples of each class, rows, by predicted class, columns; the colour is the share of the row.

    Example:
        >>> from equifuse.report import plots
        >>> plots.confusion([[8, 2], [1, 9]], ["cat", "dog"]).axes[0].get_xlabel()
        'predicted'

    Args:
        matrix: numbers of samples ``(K, K)``.
        classes: their names.
    """
    counts = np.asarray(matrix, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = max(3.4, 1.6 + 0.27 * len(classes) if len(classes) > _MOST_NAMED else 1.6 + 0.42 * len(classes))
    figure, (axis,) = new_figure(size + 0.8, size)
    axis.grid(visible=False)
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axis, label="share of the class", shrink=0.8)
    names = [short(name, 20) for name in classes]
    axis.set_xticks(range(len(names)), names, rotation=90)
    axis.set_yticks(range(len(names)), names)
    if len(classes) <= _MOST_NAMED:
        for (i, j), share in np.ndenumerate(shares):
            colour = "white" if share > 0.5 else "black"
            axis.text(j, i, f"{counts[i, j]:.0f}", ha="center", va="center", color=colour, fontsize=8)
    axis.set_xlabel("predicted")
    axis.set_ylabel("class")
    return figure


def survival_curves(curves: Mapping[str, Mapping[str, Any]], *, p: float | None = None) -> Figure:
    """Kaplan-Meier curves with their intervals, a colour each.

    Example:
        >>> from equifuse.report import plots
        >>> curve = {"n": 2, "events": 1, "time": [1, 2], "share": [1, 0.5], "low": [1, 0], "high": [1, 1]}
        >>> plots.survival_curves({"high risk": curve}, p=0.03).axes[0].get_ylabel()
        'share without the event'

    Args:
        curves: label -> ``n``, ``events``, ``time``, ``share``, ``low`` and ``high``.
        p: of the log-rank test.
    """
    figure, (axis,) = new_figure(WIDTH, 3.1)
    for colour, (label, curve) in zip(colours(len(curves)), curves.items(), strict=True):
        starts = {"time": 0, "share": 1, "low": 1, "high": 1}
        time, share, low, high = ([start, *curve[key]] for key, start in starts.items())
        named = f"{short(label)} ({curve['events']} of {curve['n']})"
        axis.step(time, share, where="post", color=colour, label=named)
        axis.fill_between(time, low, high, step="post", color=colour, alpha=0.15, linewidth=0)
    axis.set_ylim(0, 1.02)
    axis.set_xlim(left=0)
    axis.set_xlabel("time")
    axis.set_ylabel("share without the event")
    legend(figure, axis, None if p is None else f"log-rank p = {p:.2g}")
    return figure


def over_time(times: Sequence[float], values: Sequence[float], name: str, *, reference: float | None = None) -> Figure:
    """A score over time, and what it would be by chance.

    Example:
        >>> from equifuse.report import plots
        >>> plots.over_time([1, 2, 3], [0.8, 0.7, 0.75], "AUC", reference=0.5).axes[0].get_ylabel()
        'AUC'

    Args:
        times: in order.
        values: at each.
        name: of the score.
        reference: drawn as a line.
    """
    figure, (axis,) = new_figure(WIDTH, 2.8)
    axis.plot(times, values, color=COLOURS[0], marker="o", markersize=4)
    if reference is not None:
        axis.axhline(reference, color=QUIET, linewidth=1, linestyle=":")
    axis.set_xlabel("time")
    axis.set_ylabel(axis_label(name))
    return figure


def scores(found: Mapping[str, Mapping[str, Three]], metric: str) -> Figure:
    """A score with its interval for each of several parts, one colour per label.

    Example:
        >>> from equifuse.report import plots
        >>> found = {"model": {"Oslo": (0.8, 0.7, 0.9), "Bergen": (0.7, 0.5, 0.85)}}
        >>> plots.scores(found, "accuracy").axes[0].get_xlabel()
        'accuracy'

    Args:
        found: label -> part -> value, and the ends of its interval.
        metric: its name.
    """
    names = list(dict.fromkeys(name for parts in found.values() for name in parts))
    figure, (axis,) = new_figure(WIDTH, tall(len(names), max(0.3, 0.14 * len(found))))
    for i, (colour, (label, parts)) in enumerate(zip(colours(len(found)), found.items(), strict=True)):
        places = [names.index(name) + 0.7 * ((i + 0.5) / len(found) - 0.5) for name in parts]
        values = np.array(list(parts.values()))
        reach = np.abs(values[:, 1:] - values[:, :1]).T
        axis.errorbar(values[:, 0], places, xerr=reach, fmt="o", color=colour, capsize=3, label=label)
    name_rows(axis, names)
    axis.set_xlabel(axis_label(metric))
    if len(found) > 1:
        legend(figure, axis, outside=True)
    return figure


def reliability(found: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Accuracy by confidence; the area of a point grows with the samples in it.

    Example:
        >>> from equifuse.report import plots
        >>> bins = {"confidence": [0.6, 0.9], "accuracy": [0.5, 0.95], "count": [20, 80]}
        >>> plots.reliability({"as it is": bins}).axes[0].get_xlabel()
        'confidence'

    Args:
        found: label -> ``confidence``, ``accuracy`` and ``count`` by bin, None where a bin is empty.
    """
    figure, (axis,) = new_figure(WIDTH, 3.5)
    axis.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle=":")
    for colour, (label, bins) in zip(colours(len(found)), found.items(), strict=True):
        filled = [i for i, count in enumerate(bins["count"]) if count]
        sizes = [160 * bins["count"][i] / max(bins["count"]) + 20 for i in filled]
        x, y = ([bins[name][i] for i in filled] for name in ("confidence", "accuracy"))
        axis.scatter(x, y, s=sizes, color=colour, alpha=0.6, label=label, linewidths=0)
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(-0.02, 1.04)
    axis.set_xlabel("confidence")
    axis.set_ylabel("accuracy")
    legend(figure, axis)
    return figure
