"""A benchmark's table, printed and stored."""

from __future__ import annotations

from pathlib import Path

from equifuse.files import write_text
from equifuse.report.tables import to_markdown


def publish(folder: Path, header: list[str], rows: list[list[str]]) -> None:
    """Print a table as Markdown, and write it to ``folder/table.md``."""
    text = to_markdown(header, rows)
    write_text(folder / "table.md", text)
    print(text)
