"""Data sets by name or path."""

from __future__ import annotations

import os
from pathlib import Path

from equifuse.datasets.dataset import MultimodalDataset
from equifuse.datasets.digits import load_digits_views
from equifuse.datasets.npz import read_npz
from equifuse.errors import DataError, UnknownNameError

ENVIRONMENT_VARIABLE = "EQUIFUSE_DATA"
_EMBEDDED = "digits"


def _root(root: str | os.PathLike[str] | None) -> Path | None:
    given = root if root is not None else os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(given) if given else None


def available(root: str | os.PathLike[str] | None = None) -> list[str]:
    """Names :func:`load` knows: the embedded ``"digits"`` and the ``.npz`` files of ``root``.

    Args:
        root: folder of data sets; default the environment variable ``EQUIFUSE_DATA``, else none.
    """
    folder = _root(root)
    return [_EMBEDDED, *sorted(path.stem for path in folder.glob("*.npz"))] if folder else [_EMBEDDED]


def load(
    name_or_path: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    *,
    val_fraction: float = 0.2,
    seed: int = 0,
) -> MultimodalDataset:
    """Load a data set.

    Args:
        name_or_path: a name of :func:`available`, or the path of an ``.npz`` file (:func:`read_npz` has the layouts).
        root: folder of data sets; default the environment variable ``EQUIFUSE_DATA``, else none.
        val_fraction: share of the training part used for validation where the set has none.
        seed: of that split.

    Raises:
        UnknownNameError: no data set of that name.
        DataError: the file is missing, of an unknown kind, or unusable.
    """
    text = os.fspath(name_or_path)
    if text == _EMBEDDED:
        return load_digits_views()
    path = Path(text)
    looks_like_path = path.suffix != "" or len(path.parts) > 1 or path.exists()
    if looks_like_path:
        if not path.exists():
            raise DataError(f"no such file: {path}")
        if path.suffix != ".npz":
            raise DataError(f"{path}: unknown kind of data set {path.suffix or '(a folder)'!r}; expected .npz")
        return read_npz(path, val_fraction=val_fraction, seed=seed)
    folder = _root(root)
    if folder is None or not (folder / f"{text}.npz").is_file():
        hint = "" if folder else f" (pass the path of an .npz file, or set {ENVIRONMENT_VARIABLE} to a folder of them)"
        raise UnknownNameError("data set", text, available(root), hint)
    return read_npz(folder / f"{text}.npz", val_fraction=val_fraction, seed=seed)
