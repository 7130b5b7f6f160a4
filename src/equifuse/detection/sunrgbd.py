"""SUN RGB-D as VoteNet and ImVoteNet have it: classes, sizes, label files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from equifuse.detection.votes import Boxes2D
from equifuse.errors import DataError
from equifuse.files import read_array

# Each class and the mean size (length, width, height) of its boxes in the training part, in metres.
MEAN_SIZES = {
    "bed": (2.114256, 1.620300, 0.927272),
    "table": (0.791118, 1.279516, 0.718182),
    "sofa": (0.923508, 1.867419, 0.845495),
    "chair": (0.591958, 0.552978, 0.827272),
    "toilet": (0.699104, 0.454178, 0.756250),
    "desk": (0.695190, 1.346299, 0.736364),
    "dresser": (0.528526, 1.002642, 1.172878),
    "night_stand": (0.500618, 0.632163, 0.683424),
    "bookshelf": (0.404671, 1.071108, 1.688889),
    "bathtub": (0.765840, 1.398258, 0.472728),
}
CLASSES = tuple(MEAN_SIZES)
# Fields of a label: class, 2D box, centre, half sizes, direction.
_FIELDS = 13
# Detections in the image that are less sure are left out.
_LEAST_SCORE = 0.1


def read_labels(path: Path) -> tuple[NDArray[np.float64], Boxes2D]:
    """Boxes of a label file, in 3D and in the image, of the ten classes.

    A line is ``class xmin ymin width height cx cy cz w l h ox oy``: half sizes, the width first, and the direction of
    the length. In the image they are what people drew, and count as surely found.

    Args:
        path: the file.

    Returns:
        ``(M, 8)``: centre, full length, width, height, heading, class; and the boxes of the image.

    Raises:
        DataError: the file is damaged.
    """
    boxes, flat = [], []
    for number, words in enumerate(_lines(path), 1):
        if words[0] not in CLASSES:
            continue
        if len(words) != _FIELDS:
            raise DataError(f"{path}: line {number} has {len(words)} fields, expected {_FIELDS}")
        left, top, width, height, x, y, z, w, l, h, ox, oy = _numbers(path, number, words[1:])  # noqa: E741
        c = CLASSES.index(words[0])
        boxes.append([x, y, z, 2 * l, 2 * w, 2 * h, -np.arctan2(oy, ox), c])
        flat.append([left, top, left + width, top + height])
    classes = np.array([box[7] for box in boxes], dtype=np.int64)
    corners = np.array(flat, dtype=np.float64).reshape(-1, 4)
    return np.array(boxes, dtype=np.float64).reshape(-1, 8), Boxes2D(corners, classes, np.ones(len(flat)))


def read_prepared_boxes(path: Path) -> NDArray[np.float64]:
    """Boxes of a prepared file ``(M, 8)``, whose sizes are halves: with full sizes.

    Raises:
        DataError: the file is damaged.
    """
    boxes = read_array(path, "a .npy file of boxes")
    if boxes.dtype.kind not in "fiu" or boxes.ndim != 2 or boxes.shape[1] != 8:
        raise DataError(f"{path} holds {boxes.dtype} of shape {boxes.shape}, expected boxes (M, 8)")
    if not np.isfinite(boxes).all():
        raise DataError(f"{path} has boxes with numbers that are not finite")
    if len(boxes) and not 0 <= boxes[:, 7].min() <= boxes[:, 7].max() < len(CLASSES):
        raise DataError(f"{path} has classes from {boxes[:, 7].min():g} to {boxes[:, 7].max():g}, expected 0 to 9")
    return np.asarray(boxes.astype(np.float64) * [1, 1, 1, 2, 2, 2, 1, 1])


def read_boxes_2d(path: Path) -> Boxes2D:
    """Detections in an image of the ten classes: ``class . . . xmin ymin xmax ymax ... score`` in each line.

    Raises:
        DataError: the file is damaged.
    """
    found = []
    for number, words in enumerate(_lines(path), 1):
        if words[0] in CLASSES:
            if len(words) < 9:
                raise DataError(f"{path}: line {number} has {len(words)} fields, expected 9 or more")
            found.append([CLASSES.index(words[0]), *_numbers(path, number, [*words[4:8], words[-1]])])
    table = np.array(found, dtype=np.float64).reshape(-1, 6)
    table = table[table[:, 5] >= _LEAST_SCORE]
    return Boxes2D(table[:, 1:5], table[:, 0].astype(np.int64), table[:, 5])


def _lines(path: Path) -> list[list[str]]:
    try:
        return [words for line in path.read_text(encoding="utf-8").splitlines() if (words := line.split())]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text: {error}") from None


def _numbers(path: Path, line: int, words: list[str]) -> list[float]:
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        raise DataError(f"{path}: line {line} has fields that are no numbers: {' '.join(words)}") from None
    if not np.isfinite(numbers).all():
        raise DataError(f"{path}: line {line} has numbers that are not finite")
    return numbers
