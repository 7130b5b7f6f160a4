"""The camera of a scene: from points in the room to pixels of its image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equifuse.errors import DataError

Floats = NDArray[np.floating[Any]]
# Metres in front of the camera within which nothing is seen.
_NEAR = 1e-6


@dataclass(frozen=True, eq=False)
class Calibration:
    """A camera as SUN RGB-D describes it: a tilt and intrinsics.

    A point ``x`` in upright coordinates is ``p = R^T x`` before the camera, which sees ``(p_x, -p_z, p_y)``: to the
    right, down, and ahead. The intrinsic matrix makes pixels of it, whose numbers begin at 1.

    >>> from equifuse.detection import Calibration
    >>> camera = Calibration(np.eye(3), np.array([[500, 0, 320], [0, 500, 240], [0, 0, 1.0]]))
    >>> where, ahead = camera.project(np.array([[0.5, 2.0, 0.0]]))
    >>> where.tolist(), ahead.tolist(), camera.pixels(where).tolist()
    ([[445.0, 240.0]], [2.0], [[444, 239]])

    Attributes:
        tilt: ``(3, 3)``, the rotation ``R`` from the camera's frame to the upright one.
        intrinsics: ``(3, 3)``.

    Raises:
        DataError: not two matrices of finite numbers.
    """

    tilt: NDArray[np.float64]
    intrinsics: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("tilt", "intrinsics"):
            matrix = np.asarray(getattr(self, name), dtype=np.float64)
            if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
                raise DataError(f"the {name} of a camera must be 3 x 3 finite numbers, got shape {matrix.shape}")
            object.__setattr__(self, name, matrix)

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """A calibration file: two lines of nine numbers, column by column: tilt and intrinsics.

        Raises:
            DataError: the file is none.
        """
        try:
            lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            tilt, intrinsics = (np.array([float(word) for word in line]).reshape(3, 3, order="F") for line in lines)
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise DataError(f"{path} is no calibration, two lines of nine numbers: {error}") from None
        return cls(tilt, intrinsics)

    def seen(self, points: Floats) -> NDArray[np.float64]:
        """Points ``(P, 3+)`` of the room as the camera has them: right, down, ahead."""
        x, y, z = (np.asarray(points, dtype=np.float64)[:, :3] @ self.tilt).T
        return np.stack([x, -z, y], -1)

    def placed(self, points: Floats) -> NDArray[np.float64]:
        """The inverse of :meth:`seen`: points ``(P, 3)`` before the camera as they are in the room."""
        x, y, z = np.asarray(points, dtype=np.float64).T
        return np.stack([x, z, -y], -1) @ self.tilt.T

    def project(self, points: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Where points ``(P, 3+)`` are in the image: ``(P, 2)``, NaN behind the camera; and how far ahead, ``(P,)``."""
        seen = self.seen(points)
        ahead = seen[:, 2]
        scaled = seen @ self.intrinsics.T
        with np.errstate(divide="ignore", invalid="ignore"):
            where = scaled[:, :2] / scaled[:, 2:]
        where[ahead <= _NEAR] = np.nan
        return where, ahead

    @staticmethod
    def pixels(where: NDArray[np.float64]) -> NDArray[np.int64]:
        """Column and row, from 0, of places ``(P, 2)`` in the image; -1 behind the camera."""
        return np.nan_to_num(np.round(where - 1), nan=-1).astype(np.int64)
