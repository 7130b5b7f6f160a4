"""Tables whose rows are features and whose columns are samples, the way most omics files are written."""

from __future__ import annotations

from typing import Any

import numpy as np

from equifuse.data.lazy import in_memory, is_numeric
from equifuse.data.tables.base import ArrowTable, MatrixTable, Table, some
from equifuse.errors import DataError
from equifuse.extras import require
from equifuse.files import check_fits

FACT = "turned: its rows are features, its columns samples"


def transposed(table: Table, id_column: str) -> Table:
    """A table with columns for its rows: the first column names them, the names of the others are the ids.

    >>> import pyarrow as pa
    >>> from pathlib import Path
    >>> turned = transposed(ArrowTable(Path("t.csv"), pa.table({"gene": ["TP53", "MYC"], "p1": [1.5, 2.5]})), "id")
    >>> turned.column_names, turned.column("MYC").to_pylist()
    (['id', 'TP53', 'MYC'], [2.5])

    Args:
        table: what was read.
        id_column: what the column of ids is to be called.

    Raises:
        DataError: there is nothing but names, or a row has none.
    """
    if len(table.column_names) < 2 or table.repeated or not table.num_rows:
        twice = f"; {some(sorted(table.repeated))} is there twice" if table.repeated else ""
        raise DataError(f"{table.path} cannot be turned: it needs a column of names and one for each sample{twice}")
    first, *samples = table.column_names
    names = [None if v is None else str(v) for v in table.column(first).to_pylist()]
    lacking = [row for row, name in enumerate(names) if not name]
    if lacking:
        raise DataError(f"{table.path} cannot be turned: {table.line(lacking[0])} has no name in column {first!r}")
    features = [str(name) for name in names]
    facts = (*table.facts, FACT)
    if all(is_numeric(table.schema.field(name).type) for name in samples):
        check_fits(table.path, 4 * len(samples) * len(features))
        values = np.ascontiguousarray(in_memory(table.numbers(tuple(samples))).T)
        return MatrixTable(table.path, samples, features, values, id_column, facts)
    pa = require("train", "pyarrow", "reading and writing tables")
    cells = np.array([table.column(name).to_pylist() for name in samples], dtype=object)
    columns = [_typed(list(cells[:, place])) for place in range(len(features))]
    return ArrowTable(table.path, pa.table([pa.array(samples), *columns], names=[id_column, *features]), facts)


def _typed(values: list[Any]) -> Any:
    """A column of what was a row: numbers if all of its cells are."""
    pa = require("train", "pyarrow", "reading and writing tables")
    texts = pa.array([None if v is None else str(v).strip() for v in values], pa.string())
    for kind in (pa.int64(), pa.float64()):
        try:
            return texts.cast(kind)
        except pa.ArrowInvalid:
            continue
    return texts
