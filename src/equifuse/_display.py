"""How objects look: short text in a console, escaped tables in a notebook. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

# Lines and characters of a line that a console shows of an object.
_MOST_LINES = 11
_MOST_CHARACTERS = 110
# Rows that a notebook shows of a table.
_MOST_ROWS = 60


def shorten(text: str, most: int = _MOST_CHARACTERS) -> str:
    """One line of at most ``most`` characters, without line breaks and control characters.

    Example:
        >>> shorten("a  b" + "c" * 20, 10)
        'a bccccc…'
    """
    line = "".join(c if c.isprintable() else " " for c in " ".join(text[: 8 * most].split()))
    return line if len(line) <= most else line[: most - 2] + "…"


def listed(names: Iterable[object], most: int = 6) -> str:
    """Names in a row, the first ``most`` of them.

    Example:
        >>> listed(range(9), 3)
        '0, 1, 2, … (9 in all)'
    """
    every = [shorten(str(name), 40) for name in names]
    return ", ".join(every) if len(every) <= most else f"{', '.join(every[:most])}, … ({len(every)} in all)"


def short_text(title: str, rows: Sequence[Sequence[object]]) -> str:
    """A title, and below it one aligned line for each row; at most eleven lines in all.

    Example:
        >>> print(short_text("Evaluation of 100 samples", [["accuracy", "0.98"], ["loss", "0.1"]]))
        Evaluation of 100 samples
          accuracy  0.98
          loss      0.1
    """
    cells = [[shorten(str(cell), 60) for cell in row] for row in rows]
    if len(cells) > _MOST_LINES - 1:
        left = len(cells) - (_MOST_LINES - 2)
        cells = [*cells[: _MOST_LINES - 2], [f"… {left} more"]]
    columns = max((len(row) for row in cells), default=0)
    widths = [max((len(row[i]) for row in cells if i < len(row) - 1), default=0) for i in range(columns)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) for row in cells]
    return "\n".join([shorten(title), *(f"  {line}".rstrip()[:_MOST_CHARACTERS] for line in lines)])


def html_table(title: str, header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """An HTML table with everything escaped; rows beyond sixty are counted and not shown.

    Example:
        >>> html_table("t", ["name"], [["<script>"]]).count("&lt;script&gt;")
        1
    """
    every = [list(row) for row in rows]
    body = "".join(_row("td", row) for row in every[:_MOST_ROWS])
    more = f"<p>… {len(every) - _MOST_ROWS} more rows</p>" if len(every) > _MOST_ROWS else ""
    caption = f"<caption>{_cell(title)}</caption>" if title else ""
    head = f"<thead>{_row('th', header)}</thead>" if len(header) else ""
    return f"<table>{caption}{head}<tbody>{body}</tbody></table>{more}"


def _row(tag: str, cells: Sequence[object]) -> str:
    return "<tr>" + "".join(f"<{tag}>{_cell(cell)}</{tag}>" for cell in cells) + "</tr>"


def _cell(value: object) -> str:
    return escape(shorten(str(value), 200))
