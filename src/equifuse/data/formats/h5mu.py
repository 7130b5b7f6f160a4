"""MuData files (``.h5mu``) of single-cell omics; needs the extra ``equifuse[mudata]``.

Each modality's matrix ``X`` (dense or sparse) is a modality; a cell that a modality does not have lacks it. The target
is a column of ``obs``, of the whole or of a modality (``rna:cell_type``), and so is the split, if there is one. AnnData
files (``.h5ad``) are read alike: ``X`` and the arrays of ``obsm`` are the modalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from equifuse.data.assemble import assemble, encode_target, needs_target, part_rows, with_presence
from equifuse.data.dataset import MultimodalDataset
from equifuse.data.formats.base import Format
from equifuse.data.formats.hdf5 import opened
from equifuse.data.ids import rows_by_id
from equifuse.data.lazy import Features
from equifuse.data.options import SourceOptions
from equifuse.data.sources import SourceFile
from equifuse.data.tables.files import dense, read_cells
from equifuse.errors import DataError, InputError
from equifuse.files import check_fits, parse_errors
from equifuse.registry import FORMATS


@FORMATS.register
class MuDataFormat(Format):
    """MuData files of single-cell omics."""

    name: ClassVar[str] = "h5mu"
    description: ClassVar[str] = "MuData .h5mu"

    def detect(self, path: Path) -> bool:
        """A ``.h5mu`` file."""
        return path.suffix == ".h5mu"

    def read(self, path: Path, options: SourceOptions, *, val_fraction: float, seed: int) -> MultimodalDataset:
        """Read the file.

        Raises:
            DataError: the file is damaged, or a column is missing.
            InputError: the extra is not installed, or the target is not named.
        """
        return dataset_of_cells(_opened(path), path, options, val_fraction=val_fraction, seed=seed)


@FORMATS.register
class AnnDataFormat(Format):
    """AnnData files of single-cell omics."""

    name: ClassVar[str] = "h5ad"
    description: ClassVar[str] = "AnnData .h5ad"
    priority: ClassVar[int] = 1  # before tables, as which it would be read without its obs

    def detect(self, path: Path) -> bool:
        """A ``.h5ad`` file."""
        return path.suffix == ".h5ad"

    def read(self, path: Path, options: SourceOptions, *, val_fraction: float, seed: int) -> MultimodalDataset:
        """Read the file.

        Raises:
            DataError: the file is damaged, or a column is missing.
            InputError: the extra is not installed, or the target is not named.
        """
        return dataset_of_cells(read_cells(path), path, options, val_fraction=val_fraction, seed=seed)


def dataset_of_cells(
    data: Any, path: Path, options: SourceOptions, *, val_fraction: float, seed: int
) -> MultimodalDataset:
    """A data set of a MuData or AnnData object.

    Of AnnData, ``X`` is the modality ``x``, and each array of ``obsm`` one of its own name, unless the options name the
    modalities: ``{"rna": "X", "protein": "protein_expression"}``.

    Args:
        data: the object.
        path: where it is from, for messages.
        options: target, split and task; for AnnData also modalities.
        val_fraction: see :class:`~equifuse.data.formats.base.Format`.
        seed: likewise.

    Raises:
        DataError: a column or an array is missing.
        InputError: the target is not named.
    """
    options.refuse("a file of cells", "target", "split", "task", *([] if hasattr(data, "mod") else ["modalities"]))
    if not options.target and needs_target(options.task):
        raise InputError(f"{path}: which column of obs is the target? Pass target; it has {_some(data.obs.columns)}")
    ids = np.asarray([str(name) for name in data.obs_names])
    inputs: dict[str, Features] = {}
    features: dict[str, tuple[str, ...]] = {}
    sources: list[SourceFile] = []
    for m, (matrix, cells, names) in _matrices(data, path, options).items():
        inputs[m], fit = rows_by_id(dense(path, matrix), cells, ids, f"{path}: {m}")
        features[m] = names
        sources.append(SourceFile(str(path), len(cells), matrix.shape[1], modality=m, ids=fit))
    if not inputs:
        raise DataError(f"{path} has no modality")
    target, task, classes = None, options.task or "", None
    if options.target:
        columns = np.stack([_column(path, data, name) for name in options.target], axis=1)
        target, task, classes = encode_target(columns, options.task, options.target)
    parts = {}
    if options.split is not None:
        parts = part_rows(list(_column(path, data, options.split)), f"{path}: {options.split!r}")
    whole = with_presence(inputs, target, ids)
    dataset = assemble(
        path.stem, whole, task, parts, classes=classes, features=features, val_fraction=val_fraction, seed=seed
    )
    return replace(dataset, sources=tuple(sources))


def _matrices(data: Any, path: Path, options: SourceOptions) -> dict[str, tuple[Any, Sequence[str], tuple[str, ...]]]:
    """Modality -> its matrix, the cells of its rows, and the names of its columns."""
    if hasattr(data, "mod"):
        return {
            str(m): (part.X, [str(n) for n in part.obs_names], tuple(str(n) for n in part.var_names))
            for m, part in data.mod.items()
        }
    cells = [str(name) for name in data.obs_names]
    arrays: dict[str, Any] = {} if data.X is None else {"X": data.X}
    arrays |= {str(key): value for key, value in data.obsm.items() if getattr(value, "ndim", 0) == 2}
    wanted = dict(options.modalities) or {key.lower() if key == "X" else key: key for key in arrays}
    found: dict[str, tuple[Any, Sequence[str], tuple[str, ...]]] = {}
    for m, key in wanted.items():
        if key not in arrays:
            raise DataError(f"{path} has no array {key!r}; it has {', '.join(arrays)}")
        array = arrays[key]
        own = getattr(array, "columns", data.var_names if key == "X" else range(array.shape[1]))
        found[m] = np.asarray(array) if hasattr(array, "columns") else array, cells, tuple(str(n) for n in own)
    return found


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    try:
        import mudata  # noqa: PLC0415
    except ImportError:
        raise InputError(f"{path}: MuData needs an extra; run pip install 'equifuse[mudata]'") from None
    import warnings  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library, about its own defaults
        with parse_errors(path, "MuData"):
            check_fits(path, _declared(path))
            return mudata.read_h5mu(path)


def _declared(path: Path) -> int:
    """Bytes of all arrays in the file."""
    total = 0

    def visit(_: str, item: Any) -> None:
        nonlocal total
        total += getattr(item, "nbytes", 0)

    with opened(path) as file:
        file.visititems(visit)
    return total


def _some(columns: Any) -> str:
    return ", ".join(str(c) for c in list(columns)[:8]) or "none"


def _column(path: Path, data: Any, name: str) -> NDArray[np.generic]:
    """A column of ``obs``, ``(n,)``: numbers, or text with None where empty."""
    if name not in data.obs.columns:
        raise DataError(f"{path} has no column {name!r} in obs; it has {_some(data.obs.columns)}")
    column = data.obs[name]
    if column.dtype.kind in "biuf":
        return column.to_numpy().astype(np.float64)  # type: ignore[no-any-return]
    empty = column.isna().to_numpy()
    return np.array([None if e else str(v) for v, e in zip(column, empty, strict=True)], dtype=object)
