"""MuData files (``.h5mu``) of single-cell omics; needs the extra ``equifuse[mudata]``.

Each modality's matrix ``X`` (dense or sparse) is a modality; a cell that a modality does not have lacks it. The target
is a column of ``obs``, of the whole or of a modality (``rna:cell_type``), and so is the split, if there is one.
"""

from __future__ import annotations

import math
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
        options.refuse("a MuData file", "target", "split", "task")
        data = _opened(path)
        if not options.target and needs_target(options.task):
            raise InputError(
                f"{path}: which column of obs is the target? Pass target; it has {_some(data.obs.columns)}"
            )
        ids = np.asarray([str(name) for name in data.obs_names])
        inputs: dict[str, Features] = {}
        features: dict[str, tuple[str, ...]] = {}
        sources: list[SourceFile] = []
        for m, part in data.mod.items():
            check_fits(path, 4 * math.prod(part.X.shape))
            matrix = part.X.toarray() if hasattr(part.X, "toarray") else np.asarray(part.X)
            cells = [str(name) for name in part.obs_names]
            inputs[m], fit = rows_by_id(matrix.astype(np.float32), cells, ids, f"{path}: {m}")
            sources.append(SourceFile(str(path), len(cells), matrix.shape[1], modality=m, ids=fit))
            features[m] = tuple(str(name) for name in part.var_names)
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
