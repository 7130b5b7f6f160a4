"""One self-contained HTML page: no network, every figure in it, and a small script that sorts and searches tables."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from equifuse.extras import require
from equifuse.files import write_text
from equifuse.report.svg import svg_of, themed
from equifuse.report.tables import Shaded, Strong, TextTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

_KINDS = {".png": "image/png", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Figure:
    """A picture and what it shows.

    Attributes:
        path: PNG or SVG file; its bytes go into the page, unless ``svg`` does.
        caption: in words, also for those who do not see it.
        svg: the picture as a part of the page, whose colours it takes.
    """

    path: Path
    caption: str
    svg: str = ""

    @property
    def scrolls(self) -> bool:
        """Whether it scrolls sideways where there is little room."""
        return "min-width" in self.svg[: self.svg.find(">")]

    @property
    def source(self) -> str:
        """The file as a data URL."""
        return f"data:{_KINDS[self.path.suffix]};base64,{base64.b64encode(self.path.read_bytes()).decode()}"


def drawn(plot: Plot, path: Path, caption: str, description: str = "") -> Figure:
    """Write a plot to a file, and make it a part of a page.

    Args:
        plot: as the functions of :mod:`equifuse.report.plots` return it.
        path: SVG file, whose name no other of the page has.
        caption: what to see in it.
        description: for those who do not see it; default the caption.
    """
    document = svg_of(plot)
    write_text(path, document)
    return Figure(path, caption, themed(document, path.stem.replace("_", "-"), description or caption))


@dataclass(frozen=True)
class Card:
    """A small part of a section, beside others: text, then figures, then tables.

    Attributes:
        title: of the card.
        text: paragraphs.
        figures: pictures.
        tables: tables.
        wide: whether it takes a whole line.
    """

    title: str
    text: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[TextTable] = ()
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """A part of a page, in the order: text, cards, figures, tables, code.

    Attributes:
        title: of the section.
        text: paragraphs.
        figures: pictures.
        tables: tables.
        code: commands and other text to be shown as it is.
        cards: parts that stand beside each other.
        folded: whether it is closed until someone opens it.
        half: whether it stands beside another one where there is room.
    """

    title: str
    text: Sequence[str] = ()
    figures: Sequence[Figure] = field(default=())
    tables: Sequence[TextTable] = field(default=())
    code: Sequence[str] = ()
    cards: Sequence[Card] = ()
    folded: bool = False
    half: bool = False


@dataclass(frozen=True)
class Tile:
    """A number that is seen first.

    Attributes:
        name: what it is.
        value: the number.
        note: what belongs to it, such as its interval.
    """

    name: str
    value: str
    note: str = ""


def render_page(
    title: str,
    sections: Iterable[Section],
    *,
    kind: str = "equifuse",
    verdict: Sequence[str] = (),
    tiles: Sequence[Tile] = (),
    lead: Sequence[str] = (),
    facts: Sequence[tuple[str, str]] = (),
) -> str:
    """A whole HTML document.

    Args:
        title: heading and title.
        sections: what is under it.
        kind: what kind of page it is, above the title.
        verdict: sentences that say it all, in large letters.
        tiles: numbers under the verdict.
        lead: paragraphs before the first section.
        facts: name and value pairs before the first section.
    """
    jinja2 = require("train", "jinja2", "a page")

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.tests["strong"] = lambda cell: isinstance(cell, Strong)
    environment.tests["shaded"] = lambda cell: isinstance(cell, Shaded)
    template = environment.from_string(_part("page.html"))
    script = _part("page.js")
    # Of scripts only this one may run, whatever a name in the data holds; nothing is loaded from anywhere.
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page: str = template.render(
        policy=f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{allowed}'",
        style=_part("page.css"),
        script=script,
        title=title,
        kind=kind,
        sections=list(sections),
        verdict=verdict,
        tiles=tiles,
        lead=lead,
        facts=facts,
    )
    return page + "\n"


def _part(name: str) -> str:
    return files("equifuse.report").joinpath(name).read_text(encoding="utf-8")


def render_markdown(
    title: str, sections: Iterable[Section], *, verdict: Sequence[str] = (), lead: Sequence[str] = ()
) -> str:
    """The same as Markdown, without the figures, and without what is nothing but figures."""
    parts = [f"# {title}", *verdict, *lead]
    for section in sections:
        said = [*section.text]
        for card in section.cards:
            beside = [*card.text, *_tables(card.tables)]
            said += [f"### {card.title}", *beside] if beside else []
        said += [*_tables(section.tables), *(f"```\n{code}\n```" for code in section.code)]
        parts += [f"## {section.title}", *said] if said else []
    return "\n\n".join(parts) + "\n"


def _tables(tables: Iterable[TextTable]) -> list[str]:
    parts = []
    for table in tables:
        parts += [*([table.caption] if table.caption else []), table.markdown().rstrip()]
    return parts
