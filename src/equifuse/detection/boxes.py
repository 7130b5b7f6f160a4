"""Oriented boxes in 3D: corners, what is inside, how much two of them overlap.

A box is ``(cx, cy, cz, l, w, h, heading, ...)``: centre and full sizes in metres, in upright coordinates (X to the
right, Y forward, Z up). The length ``l`` lies along ``(cos heading, -sin heading)``: headings turn from +X towards -Y,
as in VoteNet (Qi et al. 2019).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
# Corners seen from above, counter-clockwise, in halves of length and width.
_SIGNS = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)], dtype=np.float64) / 2
# Metres by which a corner on another box's side may be off.
_SLACK = 1e-9
# Pairs of boxes that are clipped at a time.
_PAIRS = 16_384


def box_corners(boxes: Floats) -> NDArray[np.float64]:
    """Corners of boxes ``(..., 7+)``: ``(..., 8, 3)``, four at the bottom, counter-clockwise, then four at the top.

    >>> from equifuse.detection import box_corners
    >>> box_corners(np.array([0.0, 0.0, 0.5, 4.0, 2.0, 1.0, 0.0]))[0].tolist()
    [2.0, 1.0, 0.0]
    """
    given = np.asarray(boxes, dtype=np.float64)
    plane = _rectangles(given)
    half = given[..., None, 5] / 2
    bottom, top = (np.broadcast_to(given[..., None, 2] + side * half, plane.shape[:-1]) for side in (-1, 1))
    return np.concatenate([np.concatenate([plane, z[..., None]], -1) for z in (bottom, top)], -2)


def inside_boxes(points: Floats, boxes: Floats) -> NDArray[np.bool_]:
    """Which points ``(P, 3+)`` are inside of which boxes ``(M, 7+)``, sides included: bool ``(P, M)``.

    >>> from equifuse.detection import inside_boxes
    >>> inside_boxes(np.zeros((1, 3)), np.array([[0, 0, 0, 1, 1, 1, 0.3], [2, 0, 0, 1, 1, 1, 0.0]])).tolist()
    [[True, False]]
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    away = np.asarray(points, dtype=np.float64)[:, None, :3] - boxes[None, :, :3]
    cos, sin = np.cos(boxes[:, 6]), np.sin(boxes[:, 6])
    along, across = cos * away[..., 0] - sin * away[..., 1], sin * away[..., 0] + cos * away[..., 1]
    length, width, height = boxes[:, 3:6].T / 2
    return np.asarray((abs(along) <= length) & (abs(across) <= width) & (abs(away[..., 2]) <= height))


def box_iou(one: Floats, other: Floats) -> NDArray[np.float64]:
    """Intersection over union of boxes ``(N, 7+)`` with boxes ``(M, 7+)``: ``(N, M)``; that of oriented volumes.

    A box and itself, turned by a right angle:

    >>> from equifuse.detection import box_iou
    >>> box = np.array([[0, 0, 0, 2, 1, 1, 0.0]])
    >>> box_iou(box, box + [0, 0, 0, 0, 0, 0, np.pi / 2]).round(6).tolist()
    [[0.333333]]
    """
    one, other = (np.asarray(boxes, dtype=np.float64) for boxes in (one, other))
    found = np.zeros((len(one), len(other)))
    if not found.size:
        return found
    top = np.minimum(one[:, None, 2] + one[:, None, 5] / 2, other[None, :, 2] + other[None, :, 5] / 2)
    low = np.maximum(one[:, None, 2] - one[:, None, 5] / 2, other[None, :, 2] - other[None, :, 5] / 2)
    height = np.maximum(top - low, 0)
    reach = np.hypot(one[:, 3], one[:, 4])[:, None] + np.hypot(other[:, 3], other[:, 4])[None]
    apart = np.hypot(*np.moveaxis(one[:, None, :2] - other[None, :, :2], -1, 0))
    rows, columns = np.nonzero((height > 0) & (2 * apart < reach))
    planes = _rectangles(one), _rectangles(other)
    for start in range(0, len(rows), _PAIRS):
        i, j = rows[start : start + _PAIRS], columns[start : start + _PAIRS]
        common = _overlap(planes[0][i], planes[1][j]) * height[i, j]
        volumes = one[i, 3:6].prod(-1) + other[j, 3:6].prod(-1)
        found[i, j] = common / np.maximum(volumes - common, np.finfo(np.float64).tiny)
    return found


def hulls(boxes: Floats) -> NDArray[np.float64]:
    """The least boxes along the axes around boxes ``(N, 7+)``: ``(N, 6)``, lowest and highest corner."""
    corners = box_corners(boxes)
    return np.concatenate([corners.min(-2), corners.max(-2)], -1)


def _rectangles(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Boxes seen from above: ``(..., 4, 2)``, counter-clockwise."""
    along, across = np.moveaxis(_SIGNS * boxes[..., None, 3:5], -1, 0)
    cos, sin = np.cos(boxes[..., None, 6]), np.sin(boxes[..., None, 6])
    turned = np.stack([cos * along + sin * across, cos * across - sin * along], -1)
    return np.asarray(boxes[..., None, :2] + turned)


def _overlap(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Common area of pairs of rectangles ``(N, 4, 2)``: of the hull of their common corners and crossings."""
    corners = [(one, _within(one, other)), (other, _within(other, one))]
    crossings, cross = _crossings(one, other)
    points = np.concatenate([one, other, crossings], 1)
    counted = np.concatenate([corners[0][1], corners[1][1], cross], 1)
    count = np.maximum(counted.sum(1), 1)
    middle = np.where(counted[..., None], points, 0).sum(1) / count[:, None]
    away = points - middle[:, None]
    # In order of their angle, with those that do not count at the end, in the place of the first.
    angle = np.where(counted, np.arctan2(away[..., 1], away[..., 0]), np.inf)
    order = angle.argsort(1)
    ring = np.take_along_axis(away, order[..., None], 1)
    ring = np.where(np.take_along_axis(counted, order, 1)[..., None], ring, ring[:, :1])
    following = np.roll(ring, -1, 1)
    area = (ring[..., 0] * following[..., 1] - ring[..., 1] * following[..., 0]).sum(1) / 2
    return np.where(counted.sum(1) > 2, np.maximum(area, 0), 0)


def _within(points: NDArray[np.float64], rectangle: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points ``(N, P, 2)`` are in a rectangle ``(N, 4, 2)``, sides included: bool ``(N, P)``."""
    sides = np.roll(rectangle, -1, 1) - rectangle
    away = points[:, :, None] - rectangle[:, None]
    turn = sides[:, None, :, 0] * away[..., 1] - sides[:, None, :, 1] * away[..., 0]
    return np.asarray((turn >= -_SLACK * np.maximum(1, np.hypot(*np.moveaxis(sides, -1, 0)))[:, None]).all(-1))


def _crossings(one: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Where sides of rectangles cross: points ``(N, 16, 2)``, and which of them there are."""
    start, step = one[:, :, None], (np.roll(one, -1, 1) - one)[:, :, None]
    begin, stride = other[:, None], (np.roll(other, -1, 1) - other)[:, None]
    away = begin - start
    turn = step[..., 0] * stride[..., 1] - step[..., 1] * stride[..., 0]
    parallel = abs(turn) < _SLACK
    safe = np.where(parallel, 1, turn)
    s = (away[..., 0] * stride[..., 1] - away[..., 1] * stride[..., 0]) / safe
    t = (away[..., 0] * step[..., 1] - away[..., 1] * step[..., 0]) / safe
    there = ~parallel & (s >= 0) & (s <= 1) & (t >= 0) & (t <= 1)
    points = start + s[..., None] * step
    return points.reshape(len(one), 16, 2), there.reshape(len(one), 16)
