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
    histories: Mapping[str, Sequence[Mapping[str, float | None]]],
    metrics: RunMetrics,
    headline: str,
    trained: FusionModel,
    dataset: MultimodalDataset,
    untrained: FusionModel | None = None,
) -> dict[str, Figure]:
    """The figures of a training: losses; residuals, where the fusion solves for them; each modality taken away.

    Args:
        histories: label of the method, or of each member -> one row of numbers per epoch.
        metrics: of the finished run.
        headline: the metric that stands for all.
        trained: the model after training.
        dataset: the data.
        untrained: the model before training, where there is one.
    """
    found = {LEARNING: plots.learning_curves(histories)}
    solved = {"at initialisation": untrained, "after training": trained}
    panels = {name: traces(model, dataset) for name, model in solved.items() if model is not None}
    if all(panels.values()):
        found[CONVERGENCE] = plots.convergence(panels, tol=tolerance(trained))
    if metrics.without:
        scores = {"nothing": metrics.test.get(headline), **metrics.without}
        points = {name: (value, math.nan) for name, value in scores.items() if value is not None}
        if points:
            found[REMOVAL] = plots.modality_removal({next(iter(histories)): points}, metric=headline)
    return found
