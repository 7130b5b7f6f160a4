"""Prediction tables: CSV, Parquet or NumPy archive, written atomically."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from equifuse.datasets.table import SUFFIXES
from equifuse.errors import DataError, OutputExistsError


def check_output(path: str | os.PathLike[str]) -> Path:
    """Refuse, before any work is done, an output that exists or is of an unknown kind.

    Raises:
        OutputExistsError: it exists.
        DataError: unknown suffix.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path}: unknown kind of output {path.suffix!r}; expected one of {', '.join(SUFFIXES)}")
    if path.exists():
        raise OutputExistsError(f"{path} already exists; choose another output")
    return path


def write_columns(path: str | os.PathLike[str], columns: Mapping[str, Any]) -> None:
    """Write equally long columns to ``path`` by its suffix."""
    path = check_output(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=path.suffix)
    os.close(handle)
    staging = Path(name)
    try:
        if path.suffix == ".npz":
            arrays: Any = {key: np.asarray(value) for key, value in columns.items()}
            np.savez_compressed(staging, **arrays)
        else:
            import pyarrow as pa  # noqa: PLC0415

            table = pa.table({key: pa.array(np.asarray(value)) for key, value in columns.items()})
            if path.suffix == ".parquet":
                from pyarrow import parquet  # noqa: PLC0415

                parquet.write_table(table, staging)
            else:
                from pyarrow import csv  # noqa: PLC0415

                csv.write_csv(table, staging)
        staging.chmod(0o644)
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)
