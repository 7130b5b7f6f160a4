"""Average precision of boxes in 3D, as SUN RGB-D is measured (Song et al. 2015; VoteNet's evaluation)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equifuse.detection.boxes import box_iou, hulls
from equifuse.errors import InputError

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes found in a scene, each with a class and a score.

    >>> from equifuse.detection import Detections
    >>> len(Detections(np.zeros((2, 7)), np.array([0, 1]), np.array([0.9, 0.4])))
    2

    Attributes:
        boxes: ``(N, 7)``, see :mod:`equifuse.detection.boxes`.
        classes: int ``(N,)``.
        scores: ``(N,)``; the higher, the surer.

    Raises:
        InputError: they do not fit together.
    """

    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]
    scores: NDArray[np.float64]

    def __post_init__(self) -> None:
        shapes = self.boxes.shape, self.classes.shape, self.scores.shape
        if len(shapes[0]) != 2 or not shapes[0][:1] == shapes[1] == shapes[2]:
            raise InputError(f"detections need boxes (N, 7), a class and a score each; got {shapes}")

    def __len__(self) -> int:
        return len(self.boxes)


def suppress(boxes: Floats, classes: NDArray[np.integer[Any]], scores: Floats, least: float = 0.25) -> NDArray[np.intp]:
    """Of boxes of a class that overlap the surest one alone, by the hulls along the axes; the surest first.

    >>> from equifuse.detection import suppress
    >>> boxes = np.array([[0, 0, 0, 1, 1, 1, 0.0], [0.1, 0, 0, 1, 1, 1, 0], [5, 0, 0, 1, 1, 1, 0]])
    >>> suppress(boxes, np.zeros(3, int), np.array([0.5, 0.9, 0.7])).tolist()
    [1, 2]

    Args:
        boxes: ``(N, 7+)``.
        classes: ``(N,)``; boxes of different classes leave each other alone.
        scores: ``(N,)``.
        least: intersection over union above which two boxes are one.

    Returns:
        Numbers of the boxes that stay.
    """
    if not len(boxes):
        return np.zeros(0, dtype=np.intp)
    around = hulls(boxes)
    common = np.maximum(
        np.minimum(around[:, None, 3:], around[None, :, 3:]) - np.maximum(around[:, None, :3], around[None, :, :3]), 0
    ).prod(-1)
    volume = (around[:, 3:] - around[:, :3]).prod(-1)
    union = np.maximum(volume[:, None] + volume[None] - common, np.finfo(np.float64).tiny)
    same = (common / union > least) & (classes[:, None] == classes[None])
    left = np.ones(len(boxes), dtype=np.bool_)
    kept = []
    for i in np.argsort(-np.asarray(scores), kind="stable"):
        if left[i]:
            kept.append(i)
            left &= ~same[i]
    return np.array(kept, dtype=np.intp)


def mean_average_precision(
    found: Sequence[Detections], truth: Sequence[Floats], n_classes: int, threshold: float = 0.25
) -> tuple[float | None, list[float | None]]:
    """Mean over the classes of the area under precision by recall; and each class's own.

    Of a class, the detections of all scenes are taken by falling score. Each goes to the true box of its scene that it
    overlaps most; it is right if that is by more than ``threshold`` and the box was not found before, and wrong
    otherwise. The area is that under the envelope of the precision. A class that is there but never found counts 0; one
    that is nowhere does not count.

    >>> from equifuse.detection import Detections, mean_average_precision
    >>> box = np.array([[0, 0, 0, 1, 1, 1, 0.0]])
    >>> found = Detections(box, np.array([1]), np.array([0.8]))
    >>> mean_average_precision([found], [np.array([[0, 0, 0, 1, 1, 1, 0, 1.0]])], n_classes=3)
    (1.0, [None, 1.0, None])

    Args:
        found: of each scene.
        truth: true boxes of each scene: ``(M, 8)``, the last number is the class.
        n_classes: number of classes.
        threshold: in [0, 1): overlap, intersection over union of oriented boxes, beyond which a detection is right.

    Returns:
        The mean, None where there is no true box; and one value for each class, None where it has no true box.

    Raises:
        InputError: not as many scenes on either side.
    """
    if len(found) != len(truth):
        raise InputError(f"detections of {len(found)} scenes, true boxes of {len(truth)}")
    overlaps = [box_iou(d.boxes, t[:, :7]) for d, t in zip(found, truth, strict=True)]
    each = [_average_precision(found, truth, overlaps, c, threshold) for c in range(n_classes)]
    known = [value for value in each if value is not None]
    return (float(np.mean(known)) if known else None), each


def _average_precision(
    found: Sequence[Detections],
    truth: Sequence[Floats],
    overlaps: Sequence[NDArray[np.float64]],
    c: int,
    threshold: float,
) -> float | None:
    """The area of one class; None where it has no true box."""
    total, hits, scores = 0, [], []
    for detected, boxes, overlap in zip(found, truth, overlaps, strict=True):
        true, of_class = np.flatnonzero(boxes[:, 7] == c), np.flatnonzero(detected.classes == c)
        total += len(true)
        of_class = of_class[np.argsort(-detected.scores[of_class], kind="stable")]
        # Within a scene the order of the scores is that of all scenes, so that its boxes can be given away here.
        right = np.zeros(len(of_class), dtype=np.bool_)
        if len(true) and len(of_class):
            some = overlap[np.ix_(of_class, true)]
            best = some.argmax(1)
            near = np.flatnonzero(some.max(1) > threshold)
            _, first = np.unique(best[near], return_index=True)
            right[near[first]] = True
        hits.append(right)
        scores.append(detected.scores[of_class])
    if not total:
        return None
    order = np.argsort(-np.concatenate(scores), kind="stable")
    right = np.concatenate(hits)[order]
    recall = right.cumsum() / total
    precision = right.cumsum() / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.diff(recall, prepend=0.0)
    return float((steps * envelope).sum())
