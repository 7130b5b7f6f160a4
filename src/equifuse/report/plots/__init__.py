"""Plots: functions from plain values to a matplotlib figure, without a display and without global state.

A notebook shows a figure that a cell returns; :func:`save` writes it. Colours are those of Okabe and Ito, which
colour-blind readers can distinguish, too; long names lose their middle, so that labels never overlap.

Example:
    >>> from equifuse.report import plots
    >>> figure = plots.contributions({"text": 0.31, "image": 0.12}, "accuracy")
    >>> figure.axes[0].get_xlabel()
    'contribution to accuracy'
"""

from equifuse.report.plots.base import save
from equifuse.report.plots.learning import convergence, learning_curves, over_epochs
from equifuse.report.plots.modalities import contributions, modality_removal, retained, robustness
from equifuse.report.plots.prediction import (
    compared,
    confusion,
    over_time,
    precision_recall,
    predicted_against_true,
    reliability,
    roc,
    scores,
    survival_curves,
)
from equifuse.report.plots.ranking import critical_difference, methods_on_set, pareto
from equifuse.report.plots.samples import scatter

__all__ = [
    "compared",
    "confusion",
    "contributions",
    "convergence",
    "critical_difference",
    "learning_curves",
    "methods_on_set",
    "modality_removal",
    "over_epochs",
    "over_time",
    "pareto",
    "precision_recall",
    "predicted_against_true",
    "reliability",
    "retained",
    "robustness",
    "roc",
    "save",
    "scatter",
    "scores",
    "survival_curves",
]
