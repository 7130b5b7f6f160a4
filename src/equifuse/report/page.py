"""One self-contained HTML page: no network, no script, every figure in it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from equifuse.extras import require
from equifuse.report.tables import Strong, TextTable

_KINDS = {".png": "image/png", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Figure:
    """A picture and what it shows.

    Attributes:
        path: PNG or SVG file; its bytes go into the page.
        caption: in words, also for those who do not see it.
    """

    path: Path
    caption: str

    @property
    def source(self) -> str:
        """The file as a data URL."""
        return f"data:{_KINDS[self.path.suffix]};base64,{base64.b64encode(self.path.read_bytes()).decode()}"


@dataclass(frozen=True)
class Section:
    """A part of a page, in the order: text, figures, tables, code.

    Attributes:
        title: of the section.
        text: paragraphs.
        figures: pictures.
        tables: tables.
        code: commands and other text to be shown as it is.
    """

    title: str
    text: Sequence[str] = ()
    figures: Sequence[Figure] = field(default=())
    tables: Sequence[TextTable] = field(default=())
    code: Sequence[str] = ()


def render_page(
    title: str, sections: Iterable[Section], *, lead: Sequence[str] = (), facts: Sequence[tuple[str, str]] = ()
) -> str:
    """A whole HTML document.

    Args:
        title: heading and title.
        sections: what is under it.
        lead: paragraphs before the first section.
        facts: name and value pairs before the first section.
    """
    jinja2 = require("train", "jinja2", "a page")

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.tests["strong"] = lambda cell: isinstance(cell, Strong)
    template = environment.from_string(files("equifuse.report").joinpath("page.html").read_text(encoding="utf-8"))
    page: str = template.render(title=title, sections=list(sections), lead=lead, facts=facts)
    return page + "\n"


def render_markdown(title: str, sections: Iterable[Section], *, lead: Sequence[str] = ()) -> str:
    """The same as Markdown, without the figures."""
    parts = [f"# {title}", *lead]
    for section in sections:
        parts += [f"## {section.title}", *section.text]
        for table in section.tables:
            parts += [*([table.caption] if table.caption else []), table.markdown().rstrip()]
        parts += [f"```\n{code}\n```" for code in section.code]
    return "\n\n".join(parts) + "\n"
