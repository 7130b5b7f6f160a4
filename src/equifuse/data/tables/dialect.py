"""How a text file writes a table: encoding, separator, decimal mark, comments, header; found from its beginning."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from equifuse.errors import DataError

SEPARATORS = ("\t", ";", "|", ",", " ")
_CALLED = {"\t": "tab", " ": "space"}
_COMMENTS = "#!%"
# Cells that are no value, whatever else is in the column; and those that may be a value where a column holds text.
EMPTY = ("", "NA", "N/A", "n/a", "NaN", "nan", "NAN", "NULL", "null", "<NA>", "#N/A", "#NA")
EMPTY_NUMBERS = (
    *EMPTY,
    "na",
    "Na",
    "None",
    "none",
    "-",
    "--",
    "?",
    ".",
    "-nan",
    "n.a.",
    "missing",
    "#VALUE!",
    "#DIV/0!",
)
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"))
_MARKS_16 = ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_ENCODINGS = {"utf-8": "UTF-8", "utf-8-sig": "UTF-8", "cp1252": "Latin-1 (Windows-1252)", "latin-1": "Latin-1"}
# Lines from which the rest is judged.
_LINES = 200

_DOT = re.compile(r"[+-]?(\d+\.\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
# Thousands and a fraction: only one reading is possible.
_GERMAN = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+,\d+")
_ENGLISH = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+\.\d+")
_WHOLE = re.compile(r"[+-]?\d+")
# Whole numbers that are names: with zeros before them, or longer than a float can tell apart.
_CODE = re.compile(r"0\d+|\d{16,}")


@dataclass(frozen=True)
class Dialect:
    """How a text file writes a table.

    Attributes:
        encoding: as Python calls it.
        separator: between cells; ``" "`` for any run of blanks.
        decimal: decimal mark.
        header: number of lines before the header.
        names: names of the columns; a column of row names that the header leaves out is ``""``.
        comment: what a line of comment begins with that is not a row.
        lines_in_cells: whether a quoted cell holds more than one line.
        quote: around cells.
        thousands: what stands between thousands, or "".
        first: the first rows, for what their columns look like.
    """

    encoding: str = "utf-8"
    separator: str = ","
    decimal: str = "."
    header: int = 0
    names: tuple[str, ...] = ()
    comment: str = "#"
    lines_in_cells: bool = False
    quote: str = '"'
    thousands: str = ""
    first: tuple[tuple[str, ...], ...] = ()

    def facts(self) -> list[str]:
        """What is not as in an ordinary CSV file, in words."""
        said = []
        if self.separator != ",":
            said.append(f"separator {_CALLED.get(self.separator, repr(self.separator))}")
        if self.decimal != ".":
            said.append("decimal comma")
        if self.thousands:
            said.append(f"thousands apart by {self.thousands!r}")
        if self.encoding not in ("utf-8", "utf-8-sig"):
            said.append(f"encoding {_ENCODINGS.get(self.encoding, self.encoding.upper())}")
        if self.header:
            said.append(f"header in line {self.header + 1}")
        return said


def encoding_of(head: bytes) -> str:
    """The encoding of text by its first bytes.

    >>> encoding_of("größe".encode("utf-16")), encoding_of("größe".encode("latin-1")), encoding_of("größe".encode())
    ('utf-16', 'cp1252', 'utf-8')
    """
    for mark, name in (*_MARKS, *_MARKS_16):
        if head.startswith(mark):
            return name
    some = head[:4096]
    if some[1::2].count(0) > len(some) // 4:
        return "utf-16-le"
    if some[::2].count(0) > len(some) // 4:
        return "utf-16-be"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # a character may be cut at the end
    except UnicodeDecodeError:
        return eight_bits(head)
    return "utf-8"


def eight_bits(content: bytes) -> str:
    """Windows' form of Latin-1, or Latin-1 proper where bytes have no meaning in that."""
    try:
        content.decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1"
    return "cp1252"


def sniff(
    head: bytes, where: str, *, whole: bool, encoding: str | None = None, separator: str | None = None
) -> Dialect:
    r"""The dialect of a text file.

    >>> found = sniff("id;größe\np1;1,5\np2;2,25\n".encode("latin-1"), "t.csv", whole=True)
    >>> found.separator, found.decimal, found.encoding, found.names
    (';', ',', 'cp1252', ('id', 'größe'))

    Args:
        head: its first bytes.
        where: the file, for messages.
        whole: whether that is all of it.
        encoding: what is known already, as is ``separator``.
        separator: see there.

    Raises:
        DataError: there is no text, or it is in another encoding.
    """
    encoding = encoding or encoding_of(head)
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head, whole)
    except LookupError:
        raise DataError(f"{where}: unknown encoding {encoding!r}; try utf-8, latin-1, cp1252 or utf-16") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not text in {encoding}: {error.reason}") from None
    if "\0" in text:
        raise DataError(f"{where} is not text: it has zero bytes")
    # Lines end where they do for who reads the table: not at the other signs that str.splitlines knows.
    lines = io.StringIO(text.removeprefix("\ufeff"), newline="").readlines()
    if not whole and len(lines) > 1:
        lines = lines[:-1]
    header, comment = _comments(lines)
    body = [line for line in lines[header:] if line.strip()]
    body = [line for i, line in enumerate(body) if i == 0 or not (comment and line.startswith(comment))][:_LINES]
    if not body:
        raise DataError(f"{where} cannot be read as a table: it has no rows")
    quote = "'" if all(re.fullmatch("'.*'", line.strip()) for line in body) else '"'
    chosen = separator or _separator(body, quote)
    if header and _is_header(lines[header - 1], body[0], comment, chosen):
        header -= 1
        body = [lines[header][len(comment) :].lstrip(), *body]
    rows = cells(body, chosen, quote)
    names, first = rows[0], rows[1:]
    if first and all(len(row) == len(names) + 1 for row in first):
        names = [*names, ""] if all(not row[-1].strip() for row in first) else ["", *names]
    decimal, thousands = _marks(first, chosen)
    return Dialect(
        encoding,
        chosen,
        decimal,
        header,
        tuple(name.strip() for name in names),
        comment,
        any("\n" in cell for row in rows for cell in row),
        quote,
        thousands,
        tuple(tuple(row) for row in first),
    )


def cells(lines: Sequence[str], separator: str, quote: str = '"') -> list[list[str]]:
    """The cells of lines, quotes taken off."""
    if separator == " ":
        return [[cell.strip('"') for cell in re.findall(r'"[^"]*"|\S+', line)] for line in lines]
    text = "".join(lines)
    # With a separator that is not the file's, a line of many columns is one cell, longer than the module allows.
    before = csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, quotechar=quote))
    except csv.Error as error:
        raise DataError(f"cannot be read as a table: {error}") from None
    finally:
        csv.field_size_limit(before)


def columns_like(dialect: Dialect) -> tuple[set[int], set[int]]:
    r"""Numbers of the columns that hold fractions as far as is seen, and of those whose whole numbers are names.

    >>> columns_like(sniff(b"id,a,b\n007,1.5,2\n008,NA,3\n", "t.csv", whole=True))
    ({1}, {0})
    """
    decimal, codes = (_COMMA if dialect.decimal == "," else _DOT), set()
    fractions = set()
    for number in range(len(dialect.names)):
        seen = [row[number].strip() for row in dialect.first if number < len(row)]
        seen = [cell for cell in seen if cell not in EMPTY_NUMBERS]
        if any(_CODE.fullmatch(cell) for cell in seen) and all(_WHOLE.fullmatch(cell) for cell in seen):
            codes.add(number)
        elif any(decimal.fullmatch(cell) for cell in seen):
            fractions.add(number)
    return fractions, codes


def _comments(lines: Sequence[str]) -> tuple[int, str]:
    """How many lines of comment, or without anything, come first; and what a comment begins with."""
    count, mark = 0, ""
    for line in lines:
        begins = line[:1]
        if not line.strip():
            count += 1
        elif begins in _COMMENTS and mark in ("", begins):
            count, mark = count + 1, begins
        else:
            break
    return (count, mark or _COMMENTS[0]) if count < len(lines) else (0, "")


def _is_header(line: str, following: str, comment: str, separator: str) -> bool:
    """Whether the last line of comment names the columns: as many as the first row has, which has numbers."""
    if not line.startswith(comment):
        return False
    names, row = (next(iter(cells([text], separator)), []) for text in (line[len(comment) :], following))
    numeric = any(_DOT.fullmatch(cell.strip()) or _WHOLE.fullmatch(cell.strip()) for cell in row)
    return len(names) == len(row) > 1 and numeric


def _separator(lines: Sequence[str], quote: str) -> str:
    """What splits the header and all rows alike, of several the first of :data:`SEPARATORS`; else a comma."""
    best, share = ",", 0.0
    for candidate in SEPARATORS:
        counts = [len(row) for row in cells(lines, candidate, quote) if row]
        width = counts[0]
        if width < 2 and (len(counts) < 2 or counts[1] < 2):
            continue
        fitting = sum(count == width for count in counts) / len(counts)
        shifted = sum(count == width + 1 for count in counts[1:]) / len(counts)
        if max(fitting, shifted) > share + 0.05:
            best, share = candidate, max(fitting, shifted)
    return best


def _marks(rows: Sequence[Sequence[str]], separator: str) -> tuple[str, str]:
    """The decimal mark, and what stands between thousands, or ""."""
    every = [cell.strip() for row in rows for cell in row]
    if any(_GERMAN.fullmatch(cell) for cell in every):
        return ",", "."
    if any(_ENGLISH.fullmatch(cell) for cell in every):
        return ".", ","
    commas = sum(bool(_COMMA.fullmatch(cell)) for cell in every)
    thousands = sum(bool(_THOUSANDS.fullmatch(cell)) for cell in every)
    dots = any(_DOT.fullmatch(cell) for cell in every)
    only_thousands = separator == "," and thousands == commas
    return "," if commas and not dots and not only_thousands else ".", ""
