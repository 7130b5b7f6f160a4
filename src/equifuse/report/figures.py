"""The plots of a run folder."""

from __future__ import annotations

import math
from pathlib import Path

from equifuse.data import MultimodalDataset
from equifuse.evaluation.evaluate import tolerance, traces
from equifuse.model import FusionModel
from equifuse.report import plots

History = list[dict[str, float]]


def draw_learning(folder: Path, histories: dict[str, History]) -> None:
    """``learning_curves.png``: losses over epochs, one colour per label."""
    plots.learning_curves(histories, folder / "learning_curves.png")


def draw_convergence(folder: Path, initial: FusionModel, trained: FusionModel, dataset: MultimodalDataset) -> None:
    """``convergence.png``: residuals per step before and after training; nothing for a closed-form fusion."""
    before, after = traces(initial, dataset), traces(trained, dataset)
    if before and after:
        panels = {"at initialisation": before, "after training": after}
        plots.convergence(panels, folder / "convergence.png", tol=tolerance(trained))


def draw_removal(folder: Path, scores: dict[str, dict[str, tuple[float, float]]], metric: str) -> None:
    """``modality_removal.png``: method -> what was removed -> mean and deviation (NaN for a single run)."""
    plots.modality_removal(scores, folder / "modality_removal.png", metric=metric)


def single(scores: dict[str, float]) -> dict[str, tuple[float, float]]:
    """Scores of one run, as means without a deviation."""
    return {name: (value, math.nan) for name, value in scores.items()}
