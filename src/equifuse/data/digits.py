"""The embedded data set: scikit-learn's handwritten digits as five views of each image.

In the manner of the UCI "multiple features" set (van Breukelen, Duin, Tax, den Hartog 1998), which describes digits by
several kinds of features; here every view is computed from the 8 x 8 images that come with scikit-learn.
"""

from __future__ import annotations

from math import factorial

import numpy as np
from numpy.typing import NDArray

from equifuse.data.dataset import MultimodalDataset, Split
from equifuse.data.split import partition

Floats = NDArray[np.float64]
_INK = 0.5  # grey level, as a share of full ink, from which a pixel counts as part of the stroke


def pixels(images: Floats) -> Floats:
    """The grey values, row by row: ``(n, 8, 8) -> (n, 64)``."""
    return images.reshape(len(images), -1)


def fourier(images: Floats) -> Floats:
    """Magnitudes of the two-dimensional Fourier transform, half plane: ``(n, 8, 8) -> (n, 40)``.

    Unchanged by circular shifts of the image.
    """
    magnitudes: Floats = np.asarray(np.abs(np.fft.rfft2(images)), dtype=np.float64).reshape(len(images), -1)
    return magnitudes


def _radial(n: int, m: int, rho: Floats) -> Floats:
    """Zernike's radial polynomial ``R_nm(ρ) = Σ_s (-1)^s (n-s)! / (s! ((n+m)/2-s)! ((n-m)/2-s)!) ρ^(n-2s)``."""
    total = np.zeros_like(rho)
    for s in range((n - m) // 2 + 1):
        weight = factorial(n - s) / (factorial(s) * factorial((n + m) // 2 - s) * factorial((n - m) // 2 - s))
        total += (-1) ** s * weight * rho ** (n - 2 * s)
    return total


def zernike(images: Floats, order: int = 12) -> Floats:
    """Magnitudes of the Zernike moments of order 2 to 12: ``(n, 8, 8) -> (n, 47)``.

    ``|Z_nm| = (n+1)/π |Σ f(x, y) R_nm(ρ) exp(-imθ)| ΔxΔy`` on the disk around the image. Rotations of the image only
    turn the phase, so a 6 and a 9 look alike: the view is weak on its own by nature.
    """
    size = images.shape[1]
    axis = (np.arange(size) - (size - 1) / 2) / (size / np.sqrt(2))
    y, x = np.meshgrid(axis, axis, indexing="ij")
    rho, theta = np.hypot(x, y), np.arctan2(y, x)
    area = (axis[1] - axis[0]) ** 2
    columns = []
    for n in range(2, order + 1):
        for m in range(n % 2, n + 1, 2):
            kernel = (n + 1) / np.pi * area * _radial(n, m, rho) * np.exp(-1j * m * theta)
            columns.append(np.abs((images * kernel).sum(axis=(1, 2))))
    return np.stack(columns, axis=1)


def profiles(images: Floats) -> Floats:
    """Projections on both axes, and the distance to the first ink from all four sides: ``(n, 8, 8) -> (n, 48)``."""
    ink = images >= _INK
    size = images.shape[1]

    def first(mask: NDArray[np.bool_]) -> Floats:
        """Index of the first True along the last axis, the length if there is none."""
        return np.asarray(np.where(mask.any(-1), mask.argmax(-1), size), dtype=np.float64)

    columns = ink.transpose(0, 2, 1)
    sides = (first(ink), first(ink[:, :, ::-1]), first(columns), first(columns[:, :, ::-1]))
    return np.concatenate([images.sum(axis=2), images.sum(axis=1), *sides], axis=1)


def morphology(images: Floats) -> Floats:
    """Counts and moments of the shape: ``(n, 8, 8) -> (n, 12)``.

    Area, perimeter, strokes (8-connected components), holes, stroke ends, crossings, height and width of the bounding
    box, and elongation, orientation (two numbers) and skew of the ink.
    """
    from scipy import ndimage  # noqa: PLC0415

    ink = images >= _INK
    area = ink.sum(axis=(1, 2))
    padded = np.pad(ink, ((0, 0), (1, 1), (1, 1)))
    perimeter = (padded[:, 1:] != padded[:, :-1]).sum(axis=(1, 2)) + (padded[:, :, 1:] != padded[:, :, :-1]).sum(
        axis=(1, 2)
    )
    strokes = np.array([ndimage.label(image, np.ones((3, 3)))[1] for image in ink])
    # Background is 4-connected where ink is 8-connected; one background component is the outside.
    holes = np.array([ndimage.label(~image)[1] - 1 for image in padded])
    neighbours = sum(
        padded[:, 1 + dy : padded.shape[1] - 1 + dy, 1 + dx : padded.shape[2] - 1 + dx].astype(int)
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
        if (dy, dx) != (0, 0)
    )
    ends = (ink & (neighbours == 1)).sum(axis=(1, 2))
    crossings = (ink & (neighbours >= 5)).sum(axis=(1, 2))
    height, width = ink.any(axis=2).sum(axis=1), ink.any(axis=1).sum(axis=1)
    y, x = np.meshgrid(np.arange(ink.shape[1]), np.arange(ink.shape[2]), indexing="ij")
    mass = np.maximum(images.sum(axis=(1, 2)), 1e-12)
    cy, cx = (images * y).sum(axis=(1, 2)) / mass, (images * x).sum(axis=(1, 2)) / mass
    dy, dx = y - cy[:, None, None], x - cx[:, None, None]
    yy, xx, xy = ((images * p).sum(axis=(1, 2)) / mass for p in (dy * dy, dx * dx, dx * dy))
    skew = (images * dy**3).sum(axis=(1, 2)) / mass
    spread = np.sqrt((yy - xx) ** 2 + 4 * xy**2)
    elongation = spread / np.maximum(yy + xx, 1e-12)
    safe = np.maximum(spread, 1e-12)
    shape = (area, perimeter, strokes, holes, ends, crossings, height, width)
    return np.stack([*shape, elongation, (yy - xx) / safe, 2 * xy / safe, skew], axis=1).astype(np.float64)


VIEWS = {"pixels": pixels, "fourier": fourier, "zernike": zernike, "profiles": profiles, "morphology": morphology}


def load_digits_views() -> MultimodalDataset:
    """Handwritten digits with five views of each image: a small data set for first trials, without a download.

    1797 digits, ten classes, views of widths 64, 40, 47, 48 and 12, and a fixed stratified 60/20/20 split. The images
    are part of scikit-learn.

    >>> data = ef.datasets.load_digits_views()
    >>> {part: len(split) for part, split in data.splits.items()}
    {'train': 1079, 'val': 359, 'test': 359}
    """
    from sklearn.datasets import load_digits  # noqa: PLC0415

    bundle = load_digits()
    images = np.asarray(bundle.images, dtype=np.float64) / 16.0
    labels = np.asarray(bundle.target, dtype=np.int64)
    whole = Split({name: view(images).astype(np.float32) for name, view in VIEWS.items()}, target=labels)
    parts = partition(len(labels), (0.6, 0.2, 0.2), seed=0, labels=labels)
    splits = {part: whole.select(rows) for part, rows in zip(("train", "val", "test"), parts, strict=True)}
    return MultimodalDataset("digits", splits, "classification", tuple(str(d) for d in range(10)))
