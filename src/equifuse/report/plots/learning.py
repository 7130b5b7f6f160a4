"""Plots of a training: losses, residuals of the equilibria, numbers over epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from equifuse.report.plots.base import (
    QUIET,
    WIDTH,
    axis_label,
    colours,
    known,
    legend,
    new_figure,
    short,
    whole_numbers,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# One mapping of numbers per epoch.
Rows = Sequence[Mapping[str, float | None]]


def learning_curves(histories: Rows | Mapping[str, Rows]) -> Figure:
    """Training loss (dashed) and validation loss (solid) over epochs, one colour per label.

    Example:
        >>> from equifuse.report import plots
        >>> rows = [{"epoch": i, "train_task_loss": 1 / (i + 1), "val_loss": 1.2 / (i + 1)} for i in range(5)]
        >>> plots.learning_curves({"deq": rows}).axes[0].get_ylabel()
        'task loss'

    Args:
        histories: one run's history, or label -> history.
    """
    labelled = histories if isinstance(histories, Mapping) else {"": histories}
    figure, (axis,) = new_figure(WIDTH, 2.8)
    many = len(labelled) > 2
    for colour, (label, history) in zip(colours(len(labelled)), labelled.items(), strict=True):
        epochs = [known(row["epoch"]) + 1 for row in history]
        prefix = f"{short(label)}: " if label and not many else ""
        train, val = ([known(row.get(name)) for row in history] for name in ("train_task_loss", "val_loss"))
        single = "." if len(epochs) == 1 else ""
        axis.plot(
            epochs,
            train,
            color=colour,
            marker=single,
            linestyle="--",
            alpha=0.6,
            label="_" if many else f"{prefix}training",
        )
        axis.plot(epochs, val, color=colour, marker=single, label=label if many else f"{prefix}validation")
    axis.set_xlabel("epoch")
    axis.set_ylabel("task loss")
    axis.set_yscale("log" if _positive(labelled) else "linear")
    whole_numbers(axis.xaxis)
    legend(figure, axis, "validation; dashed: training" if many else None)
    return figure


def _positive(histories: Mapping[str, Rows]) -> bool:
    values = [known(row.get(k)) for h in histories.values() for row in h for k in ("train_task_loss", "val_loss")]
    return all(value > 0 for value in values if not math.isnan(value))


def convergence(traces: Mapping[str, Mapping[str, Any]], *, tol: float | None = None) -> Figure:
    """Relative residual per step, median over samples with the range from the 10th to the 90th percentile.

    Example:
        >>> import numpy as np
        >>> from equifuse.report import plots
        >>> residuals = np.geomspace(1, 1e-5, 6)[:, None] * np.ones(8)
        >>> len(plots.convergence({"before": {"state": residuals}, "after": {"state": residuals**2}}, tol=1e-4).axes)
        2

    Args:
        traces: panel title -> part of the state -> residuals ``(K, n)``.
        tol: the tolerance, drawn as a line.
    """
    figure, axes = new_figure(WIDTH * len(traces), 2.9, len(traces))
    for axis, (title, parts) in zip(axes, traces.items(), strict=True):
        for colour, (name, trace) in zip(colours(len(parts)), parts.items(), strict=True):
            values = np.maximum(np.asarray(trace, dtype=np.float64), 1e-12)
            low, median, high = np.percentile(values, [10, 50, 90], axis=1)
            steps = np.arange(1, len(values) + 1)
            axis.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
            axis.plot(steps, median, color=colour, marker="o", markersize=3, label=short(name))
        if tol is not None:
            axis.axhline(tol, color=QUIET, linestyle=":", label=f"tolerance {tol:g}")
        axis.set_yscale("log")
        axis.set_xlabel("evaluations")
        axis.set_ylabel("relative residual")
        whole_numbers(axis.xaxis)
        if title:
            axis.set_title(axis_label(title), fontsize=9)
        axis.legend(frameon=False, fontsize=8.5)
    return figure


def over_epochs(curves: Mapping[str, Sequence[float | None]], name: str) -> Figure:
    """Numbers over epochs, one colour per label.

    Example:
        >>> from equifuse.report import plots
        >>> plots.over_epochs({"fused state": [0.2, 0.3, None, 0.4]}, "spectral radius").axes[0].get_ylabel()
        'spectral radius'

    Args:
        curves: label -> number by epoch, None where there is none.
        name: of the numbers.
    """
    figure, (axis,) = new_figure(WIDTH, 2.8)
    for colour, (label, values) in zip(colours(len(curves)), curves.items(), strict=True):
        axis.plot(range(1, len(values) + 1), [known(v) for v in values], color=colour, label=label)
    axis.set_xlabel("epoch")
    axis.set_ylabel(axis_label(name))
    whole_numbers(axis.xaxis)
    legend(figure, axis)
    return figure
