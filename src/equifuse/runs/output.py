"""Tables that are written: CSV, Parquet, Excel, NumPy and JSON, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equifuse.data.tables.formulas import escaped
from equifuse.errors import InputError
from equifuse.extras import require
from equifuse.files import atomic, refuse_existing
from equifuse.tasks import Columns

SUFFIXES = (".csv", ".parquet", ".xlsx", ".npz", ".json")
# Rows of a sheet, without the header.
_MOST_ROWS = 1_048_575


def check_output(path: Path, format: str | None = None) -> str:
    """The suffix of the format in which a table is to be written, where nothing is yet.

    Args:
        path: the file to create.
        format: ``"csv"``, ``"parquet"``, ``"xlsx"``, ``"npz"`` or ``"json"``; None goes by the file's name.

    Raises:
        OutputExistsError: the path exists.
        InputError: the format is unknown, or the path is an empty folder.
    """
    suffix = path.suffix if format is None else f".{format}"
    if suffix not in SUFFIXES:
        known = ", ".join(SUFFIXES) if format is None else ", ".join(known.removeprefix(".") for known in SUFFIXES)
        raise InputError(f"{path}: cannot write {suffix if format is None else format!r}; use one of {known}")
    if path.exists():
        refuse_existing(path)
        raise InputError(f"{path} is a folder")
    return suffix


def write_columns(
    path: Path,
    columns: Columns,
    format: str | None = None,
    records: Callable[[Columns], list[dict[str, Any]]] | None = None,
) -> None:
    """Write columns ``(n,)`` as a table.

    Text that a spreadsheet would run as a formula, such as ``=1+1``, gets an apostrophe in front in CSV, which reading
    it here takes away again, and is marked as text in Excel.

    Args:
        path: file to create; replaced if it is there.
        columns: name -> values.
        format: see :func:`check_output`.
        records: makes the entries of a JSON file of them; None for one of all columns for each row.

    Raises:
        InputError: more rows than a sheet holds, or a missing package.
    """
    suffix = path.suffix if format is None else f".{format}"
    with atomic(path) as staging:
        if suffix == ".npz":
            with staging.open("wb") as file:
                np.savez(file, **columns)  # type: ignore[arg-type]
        elif suffix == ".json":
            rows = _records(columns) if records is None else records(columns)
            staging.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        elif suffix == ".xlsx":
            _write_sheet(staging, columns)
        elif suffix == ".parquet":
            parquet = require("train", "pyarrow.parquet", "reading and writing tables")

            parquet.write_table(arrow_table(columns), staging)
        else:
            csv = require("train", "pyarrow.csv", "reading and writing tables")

            table = arrow_table({escaped(name): _safe_column(column) for name, column in columns.items()})
            csv.write_csv(table, staging, csv.WriteOptions(quoting_style="needed"))


def _records(columns: Columns) -> list[dict[str, Any]]:
    lists = {name: column.tolist() for name, column in columns.items()}
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def arrow_table(columns: Columns) -> Any:
    """Columns ``(n,)`` as an Arrow table."""
    pa = require("train", "pyarrow", "reading and writing tables")

    return pa.table({name: _plain(column) for name, column in columns.items()})


def _plain(column: NDArray[Any]) -> NDArray[Any] | list[Any]:
    """Arrow takes numbers from NumPy, and text and dates from lists."""
    return column if column.dtype.kind in "biuf" else column.tolist()


def _safe_column(column: NDArray[Any]) -> NDArray[Any]:
    if column.dtype.kind not in "OUS":
        return column
    return np.array([escaped(value) if isinstance(value, str) else value for value in column.tolist()], dtype=object)


def _write_sheet(path: Path, columns: Columns) -> None:
    openpyxl, cells = (require("excel", name, "writing Excel files") for name in ("openpyxl", "openpyxl.cell"))
    values = [_plain(column) for column in columns.values()]
    rows = len(values[0])
    if rows > _MOST_ROWS:
        raise InputError(f"a sheet of Excel holds {_MOST_ROWS:,} rows, and there are {rows:,}; write CSV or Parquet")
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("predictions")

    def cell(value: Any) -> Any:
        value = value.item() if isinstance(value, np.generic) else value
        if not isinstance(value, str):
            return value
        made = cells.WriteOnlyCell(sheet, value)
        made.data_type = "s"  # a text stays one, whatever it begins with
        return made

    sheet.append([cell(name) for name in columns])
    for row in zip(*values, strict=True):
        sheet.append([cell(value) for value in row])
    book.save(path)
