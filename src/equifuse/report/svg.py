"""A plot as a part of a page: SVG whose colours follow the page's, light or dark, and whose text is the page's."""

from __future__ import annotations

import io
import re
from html import escape
from typing import TYPE_CHECKING

from equifuse.extras import require
from equifuse.report.plots.base import COLOURS, GRID, QUIET

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colour of a plot -> custom property of the page; black is the text's own colour, and the ground is the page's.
_THEMED = {
    **{colour.lower(): f"var(--plot-{i + 1}, {colour})" for i, colour in enumerate(COLOURS)},
    QUIET.lower(): f"var(--plot-quiet, {QUIET})",
    GRID.lower(): f"var(--plot-grid, {GRID})",
    "#000000": "currentColor",
    "black": "currentColor",
    "#ffffff": "none",
}
_TAG = re.compile(r"<[^>]*>")
_COLOUR = re.compile(r"(?<=[:\s\"])(#[0-9a-fA-F]{6}|black)(?=[;\"\s])")
_FONT = re.compile(r"font: (?:([0-9]+|bold) )?([0-9.]+)px [^;\"]*")
# What matplotlib names within a figure; several figures share a page.
_NAMED = re.compile(r"(\bid=\"|href=\"#|url\(#)")
_NOT_NEEDED = re.compile(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", re.DOTALL)
# Points of matplotlib, 72 to the inch, in pixels of a page.
_PIXELS = 4 / 3
_WIDE, _LEAST = 500, 0.75


def svg_of(figure: Figure) -> str:
    """A figure as a document of its own; text stays text, and the same numbers give the same characters."""
    mpl = require("train", "matplotlib", "a plot")
    content = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "equifuse", "svg.fonttype": "none"}):
        figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()


def themed(document: str, name: str, description: str) -> str:
    """An SVG document of :func:`svg_of` as a part of a page.

    Example:
        >>> from equifuse.report import plots
        >>> from equifuse.report.svg import svg_of, themed
        >>> text = themed(svg_of(plots.contributions({"a<b": 0.3}, "accuracy")), "given", "What <a> gives.")
        >>> text.startswith('<svg'), "var(--plot-1" in text, "a&lt;b" in text, "What &lt;a&gt; gives." in text
        (True, True, True, True)

    Args:
        document: the SVG.
        name: unique in the page.
        description: for those who do not see it.
    """
    drawn = document[document.index("<svg") :]
    size = re.search(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"', drawn)
    assert size is not None  # matplotlib writes it
    body = _NOT_NEEDED.sub("", drawn[drawn.index(">") + 1 :])
    body = _TAG.sub(lambda tag: _themed_tag(tag[0], name), body)
    width = float(size[1]) * _PIXELS
    # On a phone a plot gets smaller, but a wide one scrolls before its letters get too small to read.
    least = f"; min-width:{_LEAST * width:.0f}px" if width > _WIDE else ""
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {size[0]} role="img" '
        f'aria-label="{escape(description)}" style="max-width:{width:.0f}px{least}">'
    )
    return opening + re.sub(r">\s+<", "><", body.strip())


def _themed_tag(tag: str, name: str) -> str:
    """A tag with the page's colours and font, and with names of its own; text between tags stays as it is."""
    found = _FONT.sub(lambda m: f"font-size: {m[2]}px" + (f"; font-weight: {m[1]}" if m[1] else ""), tag)
    found = re.sub(r"font-family: [^;\"]*;? ?", "", found)
    found = _COLOUR.sub(lambda m: _THEMED.get(m[1].lower(), m[1]), found)
    return _NAMED.sub(lambda m: f"{m[1]}{name}-", " ".join(found.split()))
