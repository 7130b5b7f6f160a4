"""The plots of a run folder, by the names of their files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from equifuse.data import MultimodalDataset
from equifuse.evaluation.evaluate import tolerance, traces
from equifuse.model import FusionModel
from equifuse.report import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from equifuse.runs.metrics import RunMetrics

LEARNING, CONVERGENCE, REMOVAL = "learning_curves.png", "convergence.png", "modality_removal.png"
# File -> what it shows, in words.
CAPTIONS = {
    LEARNING: "Loss on train and validation.",
    CONVERGENCE: "Relative residual by evaluation on test, median and 10th to 90th percentile.",
    REMOVAL: "The test metric with each modality taken away.",
}


def run_figures(
    label: str,
    history: Sequence[Mapping[str, float | None]],
    metrics: RunMetrics,
    headline: str,
    untrained: FusionModel,
    trained: FusionModel,
    dataset: MultimodalDataset,
) -> dict[str, Figure]:
    """The figures of a training: losses; residuals, where the fusion solves for them; each modality taken away.

    Args:
        label: of the method.
        history: one row of numbers per epoch.
        metrics: of the finished run.
        headline: the metric that stands for all.
        untrained: the model before training.
        trained: the model after training.
        dataset: the data.
    """
    found = {LEARNING: plots.learning_curves({label: history})}
    before, after = traces(untrained, dataset), traces(trained, dataset)
    if before and after:
        panels = {"at initialisation": before, "after training": after}
        found[CONVERGENCE] = plots.convergence(panels, tol=tolerance(trained))
    if metrics.without:
        scores = {"nothing": metrics.test.get(headline), **metrics.without}
        points = {name: (value, math.nan) for name, value in scores.items() if value is not None}
        if points:
            found[REMOVAL] = plots.modality_removal({label: points}, metric=headline)
    return found
