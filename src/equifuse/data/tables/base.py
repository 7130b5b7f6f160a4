"""What a table that was read is: columns by name, and what was understood of the file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from equifuse.data.lazy import Features, Floats, ParquetArray, columns_of, is_numeric, loaded_if_small, rows_of_groups
from equifuse.data.missing_codes import MissingCodes
from equifuse.errors import DataError
from equifuse.extras import require
from equifuse.files import check_fits, parse_errors

_SHOWN = 8


class Table(ABC):
    """Base of tables: columns by name, each as an Arrow array, some as a matrix or as a pandas frame.

    Attributes:
        path: where it is from.
        facts: what was understood of the file, in words.
        column_names: in order, each once.
        repeated: names that more than one column has; they cannot be read.
        num_rows: number of rows.
        schema: Arrow schema.
        codes: what stands in cells without a value.
    """

    codes: MissingCodes = MissingCodes()
    path: Path
    facts: tuple[str, ...]
    column_names: list[str]
    repeated: frozenset[str]
    num_rows: int
    schema: Any

    @abstractmethod
    def _column(self, name: str) -> Any:
        """One column."""

    def column(self, name: str) -> Any:
        """One column, as an Arrow array.

        Raises:
            DataError: there is none, or more than one.
        """
        self.check(name)
        return self.codes.column(self._column(name)) if self.codes else self._column(name)

    def check(self, *names: str) -> None:
        """Refuse names that no column has, or more than one.

        Raises:
            DataError: naming it.
        """
        for name in names:
            if name in self.repeated:
                raise DataError(f"{self.path}: column {name!r} occurs more than once")
            if name not in self._known():
                raise DataError(f"{self.path} has no column {name!r}; it has {some(self.column_names)}")

    def _known(self) -> frozenset[str]:
        if not hasattr(self, "_names"):
            self._names = frozenset(self.column_names)
        return self._names

    def numbers(self, names: tuple[str, ...]) -> Features:
        """Numeric columns as ``(n, len(names))``, NaN where a cell is empty.

        Raises:
            DataError: one is not numeric.
        """
        self.check(*names)
        for name in names:
            kind = self.schema.field(name).type
            if not is_numeric(kind):
                raise DataError(f"{self.path}: column {name!r} is not numeric ({kind})")
        return columns_of(self, names) if self.codes else self._numbers(names)

    def _numbers(self, names: tuple[str, ...]) -> Features:
        return columns_of(self, names)

    def frame(self, names: Sequence[str]) -> Any:
        """Columns as a pandas frame, with their types: numbers, text, categories, dates, and what is empty."""
        self.check(*names)
        pa = require("train", "pyarrow", "reading and writing tables")
        require("train", "pandas", "reading and writing tables")
        return pa.table({name: self.column(name) for name in names}).to_pandas()

    def line(self, row: int) -> str:
        """Where a row is in the file."""
        return f"row {row + 1}"


class ArrowTable(Table):
    """An Arrow table in memory."""

    def __init__(self, path: Path, table: Any, facts: Sequence[str] = ()) -> None:
        names = [str(name) for name in table.column_names]
        self.path, self.facts = path, tuple(facts)
        self._places = {name: place for place, name in reversed(list(enumerate(names)))}
        self.column_names = list(dict.fromkeys(names))
        self.repeated = frozenset(n for n in self.column_names if names.count(n) > 1) if _twice(names) else frozenset()
        self._table, self.num_rows = table, table.num_rows
        pa = require("train", "pyarrow", "reading and writing tables")
        self.schema = pa.schema([table.schema.field(self._places[n]).with_name(n) for n in self.column_names])

    def _column(self, name: str) -> Any:
        return self._table.column(self._places[name])


class TextTable(ArrowTable):
    """A table of a text file, which can say in which line a row is."""

    def __init__(self, path: Path, table: Any, facts: Sequence[str], lines: Any) -> None:
        super().__init__(path, table, facts)
        self._lines = lines

    def line(self, row: int) -> str:
        """The line of a row, counted from 1."""
        found: int | None = self._lines(row)
        return super().line(row) if found is None else f"line {found}"


class ParquetTable(Table):
    """A Parquet file of which only what is asked for is read."""

    facts = ()

    def __init__(self, path: Path) -> None:
        parquet = require("train", "pyarrow.parquet", "reading and writing tables")

        self.path = path
        with parse_errors(path, "Parquet"):
            self._file = parquet.ParquetFile(path)
            self.schema = self._file.schema_arrow
            names = [str(name) for name in self.schema.names]
            self.num_rows = sum(rows_of_groups(path, self._file.metadata))
        self.column_names = list(dict.fromkeys(names))
        self.repeated = frozenset(n for n in self.column_names if names.count(n) > 1) if _twice(names) else frozenset()

    def _column(self, name: str) -> Any:
        check_fits(self.path, 8 * self.num_rows)  # a page of few bytes may repeat one value any number of times
        with parse_errors(self.path, "Parquet"):
            column = sound(self._file.read(columns=[name])).column(0)
        if len(column) != self.num_rows:
            raise DataError(f"{self.path}: column {name!r} has {len(column)} values for {self.num_rows} rows")
        return column

    def _numbers(self, names: tuple[str, ...]) -> Features:
        return loaded_if_small(ParquetArray(self.path, names))

    def pieces(self, names: Sequence[str], rows: int) -> Iterator[Any]:
        """These columns as Arrow tables of at most ``rows`` rows."""
        pa = require("train", "pyarrow", "reading and writing tables")

        with parse_errors(self.path, "Parquet"):
            for batch in self._file.iter_batches(rows, columns=list(names)):
                yield sound(pa.Table.from_batches([batch]))


class MatrixTable(Table):
    """Numbers with names of rows and columns, such as a table whose samples were columns; the ids are column ``id``.

    Args:
        path: where it is from.
        ids: of the rows.
        names: of the columns.
        values: ``(n, len(names))``.
        id_column: what the column of ids is called.
        facts: what was understood.
    """

    def __init__(
        self,
        path: Path,
        ids: Sequence[str],
        names: Sequence[str],
        values: Floats,
        id_column: str,
        facts: Sequence[str] = (),
    ) -> None:
        pa = require("train", "pyarrow", "reading and writing tables")
        self.path, self.facts, self._ids, self._values = path, tuple(facts), list(ids), values
        listed = [str(name) for name in names]
        self._places = {name: place for place, name in reversed(list(enumerate(listed)))}
        self.column_names = [id_column, *dict.fromkeys(listed)]
        self.repeated = frozenset(n for n in self._places if listed.count(n) > 1) if _twice(listed) else frozenset()
        self.num_rows, self._id = len(self._ids), id_column
        fields = [(id_column, pa.string()), *((name, pa.float32()) for name in self._places)]
        self.schema = pa.schema(fields)

    def _column(self, name: str) -> Any:
        pa = require("train", "pyarrow", "reading and writing tables")
        return pa.array(self._ids if name == self._id else np.ascontiguousarray(self._values[:, self._places[name]]))

    def _numbers(self, names: tuple[str, ...]) -> Features:
        places = [self._places[name] for name in names]
        return self._values if places == list(range(self._values.shape[1])) else self._values[:, places]


def sound(table: Any) -> Any:
    """The table, if its text is text and its offsets point into it: Arrow reads what it is given."""
    table.validate(full=True)
    return table


def give_back_memory() -> None:
    """Give the system what Arrow keeps of tables that are gone: as much again as a large file."""
    require("train", "pyarrow", "reading and writing tables").default_memory_pool().release_unused()


def some(columns: Sequence[str]) -> str:
    """The first names of columns, for messages."""
    return ", ".join(columns[:_SHOWN]) + (", ..." if len(columns) > _SHOWN else "")


def _twice(names: Sequence[str]) -> bool:
    return len(set(names)) < len(names)
