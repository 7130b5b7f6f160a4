"""Scenes from above, with the boxes that are there and those that were found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from equifuse.data.lazy import in_memory
from equifuse.data.loaders import batches_of
from equifuse.detection.boxes import box_corners
from equifuse.report.page import Section, drawn
from equifuse.report.plots.base import COLOURS, QUIET, new_figure, short
from equifuse.runs.folder import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Scenes that are drawn, points of each, and how sure a box must be.
_SCENES, _POINTS, _SURE = 4, 2000, 0.3


def draw_scene(
    points: NDArray[np.floating[Any]],
    truth: NDArray[np.floating[Any]],
    found: NDArray[np.floating[Any]],
    labels: Sequence[str] = (),
    title: str = "",
) -> Figure:
    """A scene from above: points, boxes that are there (dashed), boxes that were found.

    >>> from equifuse.report.scenes import draw_scene
    >>> box = np.array([[0, 3, 0, 2, 1, 1, 0.3]])
    >>> len(draw_scene(np.random.rand(50, 3), box, box, ["bed 0.9"]).axes[0].lines)
    2

    Args:
        points: ``(P, 3+)``.
        truth: ``(M, 7+)``.
        found: ``(N, 7+)``.
        labels: of the boxes that were found.
        title: above it.
    """
    figure, (axis,) = new_figure(4.2, 4.2)
    axis.scatter(*points[:_POINTS, :2].T, s=1.5, color=QUIET, linewidths=0)
    for boxes, colour, style in ((truth, COLOURS[2], "--"), (found, COLOURS[1], "-")):
        for box in boxes:
            corners = box_corners(box)[[0, 1, 2, 3, 0], :2]
            axis.plot(*corners.T, style, color=colour, linewidth=1.6)
    for box, label in zip(found, labels, strict=False):
        axis.annotate(short(label), box[:2], color=COLOURS[1], fontsize=7, ha="center", va="center")
    axis.set_aspect("equal")
    axis.set(xlabel="right, m", ylabel="ahead, m", title=short(title) if title else "")
    return figure


def scenes_section(run: Run, folder: Path) -> Section | None:
    """Pictures of the first test scenes; None for a task that finds no boxes.

    Args:
        run: the run.
        folder: for the pictures.
    """
    if not run.task.finds_boxes:
        return None
    split = run.dataset().splits["test"]
    some = split.select(np.arange(min(_SCENES, len(split)), dtype=np.intp))
    found = run.task.evaluate(run.model, batches_of(some)).prediction
    target = None if some.target is None else torch.from_numpy(some.target)
    detections, truth = run.task.readable(found, target)
    clouds = in_memory(next(iter(some.inputs.values())))
    figures = []
    for i, scene in enumerate(detections):
        sure = np.flatnonzero(scene.scores > _SURE)
        names = run.task.classes or ()
        labels = [f"{names[scene.classes[j]]} {scene.scores[j]:.2f}" for j in sure]
        called = str(i) if some.ids is None else str(some.ids[i])
        boxes = np.zeros((0, 7)) if truth is None else truth[i]
        picture = draw_scene(clouds[i], boxes, scene.boxes[sure], labels, f"scene {called}")
        count = f"{len(sure)} boxes found with a score over {_SURE:g}, {len(boxes)} there"
        figures.append(drawn(picture, folder / f"scene-{i + 1}.svg", f"Scene {called} from above: {count}."))
    text = ["Dashed: boxes that are there. Solid: boxes that were found. Grey: points."]
    return Section("Scenes", text, figures)
