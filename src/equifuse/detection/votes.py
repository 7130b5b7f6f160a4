"""Votes for the centres of objects: those that points should cast, and those that boxes in the image suggest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equifuse.detection.boxes import inside_boxes
from equifuse.detection.camera import Calibration
from equifuse.errors import DataError

Floats = NDArray[np.floating[Any]]
# Votes of a point that is in several boxes, at most.
VOTES = 3
# Of an image vote beside the classes' scores: offset (x', z'), ray (3), and colour (3).
_GEOMETRY, _COLOUR = 5, 3
_LEAST_AHEAD = 1e-6


def point_votes(points: Floats, boxes: Floats) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """For each point whether it is in a box, and its way to the centres of up to three boxes that it is in.

    As VoteNet prepares them: a point in one box has three equal votes; in two, the first, the second, and the first; in
    more, the first, the second, and the last.

    >>> from equifuse.detection import point_votes
    >>> inside, votes = point_votes(np.array([[0.5, 0, 0], [9, 9, 9.0]]), np.array([[0, 0, 0, 2, 2, 2, 0.0]]))
    >>> inside.tolist(), votes[0].tolist()
    ([True, False], [[-0.5, 0.0, 0.0], [-0.5, 0.0, 0.0], [-0.5, 0.0, 0.0]])

    Args:
        points: ``(P, 3+)``.
        boxes: ``(M, 7+)``, see :mod:`equifuse.detection.boxes`.

    Returns:
        Bool ``(P,)``, and ``(P, 3, 3)``: votes, of which each is a way; zeros outside of all boxes.
    """
    points = np.asarray(points, dtype=np.float64)
    votes = np.zeros((len(points), VOTES, 3))
    if not len(boxes):
        return np.zeros(len(points), dtype=np.bool_), votes
    within = inside_boxes(points, boxes)
    nth = within.cumsum(1)
    for slot in range(VOTES):
        last = slot == VOTES - 1
        here = within & ((nth > slot) if last else (nth == slot + 1))
        # Of several in the last slot the last one counts, and without any the first box that the point is in.
        box = here.shape[1] - 1 - here[:, ::-1].argmax(1) if last else here.argmax(1)
        box = np.where(here.any(1), box, within.argmax(1))
        votes[:, slot] = np.asarray(boxes, dtype=np.float64)[box, :3] - points[:, :3]
    inside: NDArray[np.bool_] = np.asarray(within.any(1))
    votes[~inside] = 0
    return inside, votes


@dataclass(frozen=True, eq=False)
class Boxes2D:
    """Boxes in an image, as a detector of objects in images finds them.

    >>> from equifuse.detection import Boxes2D
    >>> len(Boxes2D(np.array([[10, 20, 50, 80.0]]), np.array([3]), np.array([0.9])))
    1

    Attributes:
        corners: ``(N, 4)``: left, top, right and bottom, in pixels.
        classes: int ``(N,)``, which class each is of.
        scores: ``(N,)``, how sure the detector is.

    Raises:
        DataError: they do not fit together.
    """

    corners: NDArray[np.float64]
    classes: NDArray[np.int64]
    scores: NDArray[np.float64]

    def __post_init__(self) -> None:
        shapes = self.corners.shape, self.classes.shape, self.scores.shape
        if shapes[0][1:] != (4,) or not shapes[0][:1] == shapes[1] == shapes[2]:
            raise DataError(f"boxes of an image need corners (N, 4), a class and a score each; got {shapes}")

    def __len__(self) -> int:
        return len(self.corners)


def image_votes(
    points: Floats, colours: Floats, camera: Calibration, found: Boxes2D, n_classes: int
) -> NDArray[np.float32]:
    """What the image says of points: of the 2D box that a point's pixel is in, where it points to, and what it is.

    Each row is that of ImVoteNet (Qi et al. 2020, Section 3.2): the offset ``(x', z')`` on the point's plane of equal
    ``y`` to the ray through the box's centre, that ray's direction (3), the box's score in its class's place
    (``n_classes``), and the pixel's colour (3). Of several boxes over a pixel the surest counts, of equally sure ones
    the smallest. A point without a box has zeros.

    >>> from equifuse.detection import Boxes2D, Calibration, image_votes
    >>> camera = Calibration(np.eye(3), np.array([[500, 0, 320], [0, 500, 240], [0, 0, 1.0]]))
    >>> box = Boxes2D(np.array([[300.0, 200, 500, 280]]), np.array([1]), np.array([1.0]))
    >>> vote = image_votes(np.array([[0, 2.0, 0]]), np.ones((1, 3)), camera, box, 2)[0]
    >>> [round(float(x), 3) for x in vote]
    [0.324, -0.004, 0.16, 0.987, -0.002, 0.0, 1.0, 1.0, 1.0, 1.0]

    Args:
        points: ``(P, 3+)``.
        colours: ``(P, 3)``, of their pixels, from 0 to 1.
        camera: of the image.
        found: boxes in it.
        n_classes: number of classes ``C``.

    Returns:
        ``(P, 5 + C + 3)``.
    """
    votes = np.zeros((len(points), _GEOMETRY + n_classes + _COLOUR), dtype=np.float32)
    if not len(found):
        return votes
    points = np.asarray(points, dtype=np.float64)[:, :3]
    where, ahead = camera.project(points)
    left, top, right, bottom = found.corners.T
    column, row = (where - 1)[:, :1], (where - 1)[:, 1:]
    with np.errstate(invalid="ignore"):
        over = (column >= left) & (column <= right) & (row >= top) & (row <= bottom)
    size = (right - left) * (bottom - top)
    rank = np.empty(len(found), dtype=np.int64)
    rank[np.lexsort((size, -found.scores))] = np.arange(len(found))
    box = np.where(over, rank, len(found)).argmin(1)
    centre = np.stack([left + right, top + bottom], -1)[box] / 2 + 1
    focal = np.diag(camera.intrinsics)[:2]
    sideways = np.nan_to_num((centre - where) * ahead[:, None] / focal)
    ray = points + camera.placed(np.concatenate([sideways, np.zeros((len(points), 1))], -1))
    ray /= np.maximum(np.linalg.norm(ray, axis=-1, keepdims=True), _LEAST_AHEAD)
    counted = over.any(1) & (ray[:, 1] > _LEAST_AHEAD)
    box, ray, points = box[counted], ray[counted], points[counted]
    reached = ray * (points[:, 1:2] / ray[:, 1:2])
    score = np.zeros((len(box), n_classes))
    score[np.arange(len(box)), found.classes[box]] = found.scores[box]
    votes[counted] = np.concatenate([(reached - points)[:, [0, 2]], ray, score, colours[counted]], -1)
    return votes
