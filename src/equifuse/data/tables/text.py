"""Tables of text files, compressed or not, read by Arrow in the dialect that their beginning shows."""

from __future__ import annotations

import codecs
import csv
import io
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from equifuse.data.tables.base import TextTable, give_back_memory, sound
from equifuse.data.tables.dialect import (
    EMPTY,
    EMPTY_NUMBERS,
    Dialect,
    cells,
    columns_like,
    eight_bits,
    sniff,
)
from equifuse.data.tables.formulas import unescaped
from equifuse.errors import DataError
from equifuse.extras import require
from equifuse.files import check_fits, parse_errors

# Bytes from which the dialect is judged, and at least a header of a wide table.
_HEAD = 2**18
_WIDEST = 2**26
# Types of columns are told to Arrow in files beyond this, which then keeps no text in memory.
_LARGE = 2**24
# What compressed files begin with.
_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz"}


def read_text(
    path: Path,
    *,
    encoding: str | None = None,
    separator: str | None = None,
    empty: tuple[str, ...] = (),
    exact: tuple[str, ...] = (),
) -> TextTable:
    """A table of a text file.

    Args:
        path: the file.
        encoding: its encoding; None finds it.
        separator: its separator; None finds it.
        empty: further cells that hold no value.
        exact: columns whose whole numbers stay whole, however large the file is.

    Raises:
        DataError: what about the file is not understood.
    """
    with parse_errors(path, "CSV"):
        head, whole = _head(path)
        dialect = sniff(head, str(path), whole=whole, encoding=encoding, separator=separator)
    try:
        table = _read(path, dialect, empty, exact)
    except _NotInEncoding:
        if encoding is not None:
            raise DataError(f"{path} is not text in {encoding}; leave the encoding out, or try latin-1") from None
        with opened(path) as stream:
            other = eight_bits(stream.read())
        dialect = sniff(head, str(path), whole=whole, encoding=other, separator=separator)
        table = _read(path, dialect, empty, exact)
    return TextTable(path, _without_escapes(table), dialect.facts(), lambda row: _line(path, dialect, row))


class _NotInEncoding(DataError):
    """Bytes that are no text in the encoding."""


def _head(path: Path) -> tuple[bytes, bool]:
    """The first bytes, with two lines at least, and whether they are all."""
    with opened(path) as stream:
        head = stream.read(_HEAD)
        while head.count(b"\n") < 2 and len(head) < _WIDEST:
            more = stream.read(_HEAD)
            if not more:
                return head, True
            head += more
        return head, not stream.read(1)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A stream of a file's bytes, decompressed by what it begins with."""
    with path.open("rb") as file:
        kind = _compression(file.read(6))
        file.seek(0)
        if kind is None:
            yield file
        elif kind == "xz":
            with lzma.open(file) as unpacked:
                yield _Counted(path, unpacked)
        else:
            pa = require("train", "pyarrow", "reading and writing tables")
            with pa.CompressedInputStream(pa.PythonFile(file, "r"), kind) as unpacked:
                yield _Counted(path, unpacked)


class _Counted(io.RawIOBase):
    """What a compressed file unpacks to, refused where that is more than memory: few bytes unpack to any size."""

    def __init__(self, path: Path, stream: Any) -> None:
        super().__init__()
        self._path, self._stream, self._count = path, stream, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(2**20), b""))
        found = bytes(self._stream.read(size))
        self._count += len(found)
        check_fits(self._path, self._count)
        return found


def _read(path: Path, dialect: Dialect, empty: tuple[str, ...], exact: tuple[str, ...]) -> Any:
    """The file in a dialect, text trimmed of what means that a cell is empty."""
    with parse_errors(path, "CSV"):
        if dialect.separator == " " or dialect.thousands:
            return _without_empty_text(_by_pandas(path, dialect, empty), empty)
        try:
            table = _by_arrow(path, dialect, empty, _types(path, dialect, exact))
        except _Misjudged:  # the first rows are not like the rest
            table = _by_arrow(path, dialect, empty, _types(path, dialect, None))
        give_back_memory()
        return _without_empty_text(table, empty)


class _Misjudged(Exception):
    """A column is not of the type that its beginning shows."""


def _types(path: Path, dialect: Dialect, exact: tuple[str, ...] | None) -> dict[str, Any]:
    """Column -> type, where it is better told than found.

    Whole numbers that are names are text. In a large file every column has its type told, because Arrow keeps all text
    until it has found the last one; ``exact`` None leaves that to Arrow.
    """
    pa = require("train", "pyarrow", "reading and writing tables")
    fractions, codes = columns_like(dialect)
    names = dialect.names
    told = {names[place]: pa.string() for place in codes}
    if exact is None or path.stat().st_size < _LARGE:
        return told
    for place, name in enumerate(names):
        seen = [row[place].strip() for row in dialect.first if place < len(row)]
        seen = [cell for cell in seen if cell not in EMPTY_NUMBERS]
        if place in codes or not seen:
            continue
        if place in fractions or all(_small_whole(cell) for cell in seen):
            kept = place == 0 or name in exact
            told[name] = (pa.float64() if place in fractions else pa.int64()) if kept else pa.float32()
        elif place == 0 or name in exact:
            told[name] = pa.string()
    return told


def _small_whole(cell: str) -> bool:
    """Whether a cell is a whole number that a feature holds exactly."""
    return cell.lstrip("+-").isdecimal() and len(cell) < 8


def _by_arrow(path: Path, dialect: Dialect, empty: tuple[str, ...], types: dict[str, Any]) -> Any:
    """The file as Arrow reads it, by several threads if no row is odd."""
    pa = require("train", "pyarrow", "reading and writing tables")
    try:
        table = _arrow_table(path, dialect, empty, types, None)
    except pa.ArrowInvalid as error:
        if "UTF8" in str(error):
            raise _NotInEncoding from None
        if "conversion error" in str(error):
            raise (_Misjudged if types else error) from None
        if not dialect.lines_in_cells and "quote" in str(error).lower():
            return _by_arrow(path, replace(dialect, lines_in_cells=True), empty, types)
        table = _with_odd_rows(path, dialect, empty, types)
    if any(pa.types.is_binary(field.type) for field in table.schema):
        raise _NotInEncoding
    return sound(table)


def _with_odd_rows(path: Path, dialect: Dialect, empty: tuple[str, ...], types: dict[str, Any]) -> Any:
    """The file without its comments, if these are all rows that have too few or too many cells."""
    odd: list[Any] = []

    def on_odd_row(row: Any) -> str:
        if not row.text.startswith(dialect.comment):
            odd.append(row)
        return "skip"

    try:
        table = _arrow_table(path, dialect, empty, types, on_odd_row)
    except require("train", "pyarrow", "reading and writing tables").ArrowInvalid as error:
        if "conversion error" in str(error) and types:
            raise _Misjudged from None
        raise
    if odd and not dialect.lines_in_cells and any(row.text.count(dialect.quote) % 2 for row in odd):
        return _by_arrow(path, replace(dialect, lines_in_cells=True), empty, types)
    if odd:
        first = odd[0]
        raise DataError(
            f"{path}: {len(odd)} rows do not have {len(dialect.names)} cells as the header does, such as one with "
            f"{first.actual_columns}: {first.text[:80]!r}; the separator was taken to be {dialect.separator!r}"
        )
    return table


def _arrow_table(path: Path, dialect: Dialect, empty: tuple[str, ...], types: dict[str, Any], on_odd_row: Any) -> Any:
    """The file as a table; nothing of Python is left to Arrow's threads, which may outlive the interpreter."""
    arrow = require("train", "pyarrow.csv", "reading and writing tables")
    with _native(path, dialect.encoding) as stream:
        return arrow.read_csv(
            stream,
            arrow.ReadOptions(
                use_threads=on_odd_row is None,
                column_names=list(dialect.names),
                skip_rows=dialect.header,
                skip_rows_after_names=1,
                block_size=2**22,
            ),
            arrow.ParseOptions(
                delimiter=dialect.separator,
                quote_char=dialect.quote,
                newlines_in_values=dialect.lines_in_cells,
                invalid_row_handler=on_odd_row,
            ),
            arrow.ConvertOptions(
                null_values=[*EMPTY_NUMBERS, *empty], decimal_point=dialect.decimal, column_types=types
            ),
        )


@contextmanager
def _native(path: Path, encoding: str) -> Iterator[Any]:
    """A stream of a file as UTF-8 that Arrow reads by itself; what it cannot unpack or decode is put into memory."""
    pa = require("train", "pyarrow", "reading and writing tables")
    with path.open("rb") as file:
        kind = _compression(file.read(6))
    plain = encoding in ("utf-8", "utf-8-sig")
    if plain and kind is None:
        with pa.OSFile(str(path)) as stream:
            yield stream
    elif plain and kind != "xz":
        with opened(path) as counted:  # refuses more than memory holds
            while counted.read(2**20):
                pass
        with pa.OSFile(str(path)) as packed, pa.CompressedInputStream(packed, kind) as stream:
            yield stream
    else:
        sink = pa.BufferOutputStream()
        decoder = codecs.getincrementaldecoder(encoding)()
        try:
            with opened(path) as raw:
                while piece := raw.read(2**20):
                    sink.write(decoder.decode(piece).encode())
            sink.write(decoder.decode(b"", True).encode())
        except UnicodeDecodeError:
            raise _NotInEncoding from None
        with pa.BufferReader(sink.getvalue()) as stream:
            yield stream


def _compression(begin: bytes) -> str | None:
    return next((kind for mark, kind in _COMPRESSIONS.items() if begin.startswith(mark)), None)


def _without_empty_text(table: Any, empty: tuple[str, ...]) -> Any:
    """The table with NA and the like in columns of text as null; ``-`` too, where it is not one of two signs."""
    pa, compute = (require("train", name, "reading tables") for name in ("pyarrow", "pyarrow.compute"))
    for place, field in enumerate(table.schema):
        if not pa.types.is_string(field.type):
            continue
        column = table.column(place)
        words = [*EMPTY, *empty]
        if not compute.any(compute.equal(column, "+")).as_py():
            words += ["-", "--", "?"]
        none = compute.is_in(column, value_set=pa.array(words))
        if compute.any(none).as_py():
            table = table.set_column(place, field.name, compute.if_else(none, pa.scalar(None, field.type), column))
    return table


def _without_escapes(table: Any) -> Any:
    """The table with text as it was before an apostrophe kept spreadsheets from running it."""
    pa, compute = (require("train", name, "reading tables") for name in ("pyarrow", "pyarrow.compute"))
    for place, field in enumerate(table.schema):
        column = table.column(place)
        if pa.types.is_string(field.type) and compute.any(compute.starts_with(column, "'")).as_py():
            texts = [None if text is None else unescaped(text) for text in column.to_pylist()]
            table = table.set_column(place, field.name, pa.chunked_array([pa.array(texts, field.type)]))
    return table.rename_columns([unescaped(name) for name in table.column_names])


def _by_pandas(path: Path, dialect: Dialect, empty: tuple[str, ...]) -> Any:
    """What Arrow does not read: cells that are apart by any number of blanks, and numbers with marks of thousands."""
    pa = require("train", "pyarrow", "reading and writing tables")
    pd = require("train", "pandas", "tables with blanks between cells")
    blanks = dialect.separator == " "
    with opened(path) as stream:
        frame = pd.read_csv(
            io.BufferedReader(stream) if isinstance(stream, io.RawIOBase) else stream,
            sep=r"\s+" if blanks else dialect.separator,
            header=None,
            names=list(range(len(dialect.names))),
            skiprows=dialect.header + 1,
            comment=dialect.comment if blanks else None,
            quotechar=dialect.quote,
            decimal=dialect.decimal,
            thousands=dialect.thousands or None,
            encoding=dialect.encoding,
            na_values=[*EMPTY_NUMBERS, *empty],
            keep_default_na=False,
            dtype=dict.fromkeys(columns_like(dialect)[1], str),
        )
    table = pa.Table.from_pandas(frame, preserve_index=False)
    return table.rename_columns(list(dialect.names))


def _line(path: Path, dialect: Dialect, row: int) -> int | None:
    """The number of the line in which a row begins; None where that cannot be told."""
    with opened(path) as stream:
        raw = io.BufferedReader(stream) if isinstance(stream, io.RawIOBase) else stream
        lines = io.TextIOWrapper(raw, dialect.encoding, newline="")
        if dialect.separator == " ":
            reader: Any = ((i, cells([line], " ")[0]) for i, line in enumerate(lines, 1))
        else:
            rows = csv.reader(lines, delimiter=dialect.separator, quotechar=dialect.quote)
            reader = ((rows.line_num, found) for found in rows)
        seen = -1
        for number, found in reader:
            blank = not any(cell.strip() for cell in found)
            comment = not blank and found[0].startswith(dialect.comment) and len(found) != len(dialect.names)
            if number <= dialect.header or blank or comment:
                continue
            if seen == row:
                return int(number)
            seen += 1
    return None
