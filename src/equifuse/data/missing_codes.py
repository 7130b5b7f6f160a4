"""What stands in a cell without a value: ``-9``, ``unknown``, as the reader of a table was told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from equifuse.extras import require


@dataclass(frozen=True)
class MissingCodes:
    """Codes of missing values; one that is a number is meant however it is written: ``-9`` is also ``-9.0``.

    >>> from equifuse.data.missing_codes import MissingCodes
    >>> codes = MissingCodes(("-9", "unknown"))
    >>> [codes.cell(value) for value in (-9.0, "unknown", "-9", 9, "known", True)]
    [None, None, None, 9, 'known', True]

    Args:
        words: as they were given.
    """

    words: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.words)

    @property
    def numbers(self) -> tuple[float, ...]:
        """The codes that are numbers."""
        return tuple(number for word in self.words if (number := _number(word)) is not None)

    def cell(self, value: Any) -> Any:
        """The value, or None where it is a code."""
        if isinstance(value, str):
            return None if value.strip() in self.words else value
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return None if is_number and value in self.numbers else value

    def cells(self, row: Sequence[Any] | None) -> list[Any] | None:
        """A row without its codes."""
        return None if row is None else [self.cell(value) for value in row]

    def column(self, column: Any) -> Any:
        """An Arrow column without its codes; one of dates or the like is as it was."""
        pa = require("train", "pyarrow", "reading and writing tables")
        compute = require("train", "pyarrow.compute", "reading and writing tables")
        kind = column.type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        if not (text or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            return column
        known = []
        for code in self.words if text else self.numbers:
            try:
                known.append(pa.scalar(code if text or pa.types.is_floating(kind) else _whole(code), kind))
            except (pa.ArrowInvalid, OverflowError, ValueError):  # no cell of such a column can hold it
                continue
        if not known:
            return column
        plain = column.cast(kind) if pa.types.is_dictionary(column.type) else column
        values = pa.array([code.as_py() for code in known], kind)
        return compute.if_else(compute.is_in(plain, value_set=values), pa.scalar(None, kind), plain)


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _whole(code: Any) -> int:
    if not float(code).is_integer():
        raise ValueError(f"{code} is not whole")
    return int(code)
