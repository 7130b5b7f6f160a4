"""Data sets by name or path."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from equifuse.data.apart import read_apart
from equifuse.data.dataset import MultimodalDataset
from equifuse.data.digits import load_digits_views
from equifuse.data.formats import chosen_format
from equifuse.data.formats.npz import is_data_set, read_npz
from equifuse.data.objects import dataset_of_object
from equifuse.data.options import SourceOptions
from equifuse.errors import UnknownNameError

ENVIRONMENT_VARIABLE = "EQUIFUSE_DATA"
_EMBEDDED = "digits"


def _root(root: str | os.PathLike[str] | None) -> Path | None:
    given = root if root is not None else os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(given) if given else None


def available(root: str | os.PathLike[str] | None = None) -> list[str]:
    """Names of the data sets that :func:`load` knows: the embedded ``"digits"``, and the ``.npz`` files of ``root``.

    An archive without the keys ``modalities`` and ``task`` is no data set.

    >>> "digits" in ef.datasets.available()
    True

    Args:
        root: folder of data sets; default the environment variable ``EQUIFUSE_DATA``, else none.
    """
    folder = _root(root)
    found = folder.glob("*.npz") if folder else ()
    return [_EMBEDDED, *sorted(path.stem for path in found if is_data_set(path))]


def load(
    name_or_path: str | os.PathLike[str] | Any,
    root: str | os.PathLike[str] | None = None,
    *,
    val_fraction: float = 0.2,
    seed: int = 0,
    source: SourceOptions | Mapping[str, Any] | None = None,
) -> MultimodalDataset:
    """Load a data set by name or path, or make one of frames.

    >>> data = ef.datasets.load("digits")
    >>> data.task, data.n_outputs, data.dims
    ('classification', 10, {'pixels': 64, 'fourier': 40, 'zernike': 47, 'profiles': 48, 'morphology': 12})

    Args:
        name_or_path: a name of :func:`available`; the path of a file or folder in one of the formats of
            :mod:`equifuse.data.formats`; or a frame (pandas, polars, Arrow), a dict of frames by modality, of which one
            has the target and all are joined by index, or an AnnData or MuData object.
        root: folder of data sets; default the environment variable ``EQUIFUSE_DATA``, else none.
        val_fraction: share of the training part used for validation if the data set has no validation part.
        seed: seed of that split.
        source: which columns of a table are what; see :class:`~equifuse.datasets.SourceOptions`.

    Returns:
        The data set with splits ``train``, ``val`` and ``test``.

    Raises:
        UnknownNameError: there is no data set of that name.
        DataError: the file is missing, of an unknown kind, or unusable.
        InputError: an option is missing, or cannot be used with the format; or an object of another kind.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        return dataset_of_object(name_or_path, SourceOptions.of(source), val_fraction=val_fraction, seed=seed)
    text, options = os.fspath(name_or_path), SourceOptions.of(source)
    if text == _EMBEDDED:
        replace(options, untrusted=False).refuse("the data set 'digits'")
        return load_digits_views()
    if options.untrusted:
        place = None if _root(root) is None else str(_root(root))
        found = read_apart("load", text, root=place, val_fraction=val_fraction, seed=seed, source=options)
        assert isinstance(found, MultimodalDataset)
        return found
    path = Path(text)
    looks_like_path = path.suffix != "" or len(path.parts) > 1 or path.exists()
    if looks_like_path:
        known = chosen_format(path, options)
        return known.read(path, options, val_fraction=val_fraction, seed=seed)
    folder = _root(root)
    if folder is None or not (folder / f"{text}.npz").is_file():
        hint = "" if folder else f" (pass the path of an .npz file, or set {ENVIRONMENT_VARIABLE} to a folder of them)"
        raise UnknownNameError("data set", text, available(root), hint)
    options.refuse(f"the data set {text!r}")
    return read_npz(folder / f"{text}.npz", val_fraction=val_fraction, seed=seed)
