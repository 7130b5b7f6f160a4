"""Boxes in 3D as targets of scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from equifuse.errors import DataError
from equifuse.tasks.targets import Array, Targets, listed

# Numbers of a box: centre, size, heading, class.
BOX = 8
# The class of a place that no box is in.
NO_BOX = -1


class Boxes(Targets):
    """Oriented boxes of scenes: float32 ``(n, M, 8)``: centre (3), size (3), heading, class, which is -1 for none.

    What the numbers mean is said in :mod:`equifuse.detection.boxes`.

    >>> import numpy as np
    >>> Boxes().understood(np.array([[[0, 0, 0, 1, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0, 0, -1]]]), ("bed", "chair"))
    'boxes: bed: 0, chair: 1'
    """

    outputs_called = "classes"
    named = True

    def encode(self, values: Array, names: Sequence[str], task: str) -> tuple[Array, tuple[str, ...] | None]:
        """Never: no columns of a table are boxes.

        Raises:
            DataError: always.
        """
        raise DataError(f"task {task!r} has boxes of scenes, which are no columns of a table; use --format votenet")

    def recoded(self, target: Array, names: tuple[str, ...] | None, known: tuple[str, ...] | None, where: str) -> Array:
        """The same boxes; the classes have to be those of the model."""
        if names != known:
            raise DataError(f"{where} has boxes of {listed(names or ())}, the model knows {listed(known or ())}")
        return target

    def typed(self, target: Array) -> Array:
        """float32 ``(n, M, 8)``."""
        if target.dtype.kind not in "fiu" or target.ndim != 3 or target.shape[2] != BOX:
            raise DataError(f"boxes must be numbers (n, M, {BOX}), got {target.dtype} of shape {target.shape}")
        return target.astype(np.float32)

    def check(self, parts: Mapping[str, Array], classes: tuple[str, ...] | None, task: str) -> None:
        """Finite numbers, sizes above 0, classes that have a name; some box to train on."""
        for part, target in parts.items():
            boxes = boxes_of(self.typed(target))
            if not np.isfinite(boxes).all() or (boxes[:, 3:6] <= 0).any():
                raise DataError(f"boxes of split {part!r} must be finite numbers, and their sizes above 0")
            if classes is not None and len(boxes) and boxes[:, 7].max() >= len(classes):
                raise DataError(f"split {part!r} has a box of class {boxes[:, 7].max():g}, there are {len(classes)}")
            if part == "train" and not len(boxes):
                raise DataError("'train' has no box; there is nothing to learn")

    def columns(self, target: Array, names: tuple[str, ...] | None) -> dict[str, Array]:
        """How many boxes each scene has."""
        return {"boxes": (target[..., 7].astype(np.float64) >= 0).sum(1)}

    def n_outputs(self, target: Array) -> int:
        """The number of classes."""
        return int(target[..., 7].max()) + 1

    def understood(self, target: Array, names: tuple[str, ...] | None) -> str:
        """How many boxes each class has."""
        classes = boxes_of(target)[:, 7].astype(np.int64)
        counts = np.bincount(classes, minlength=0 if names is None else len(names))
        return "boxes: " + listed(f"{names[i] if names else i}: {count:,}" for i, count in enumerate(counts))


def boxes_of(target: Array) -> NDArray[np.float64]:
    """The boxes ``(N, 8)`` of scenes ``(..., M, 8)``, without the places that hold none."""
    boxes = np.asarray(target, dtype=np.float64).reshape(-1, BOX)
    return boxes[boxes[:, 7] >= 0]
