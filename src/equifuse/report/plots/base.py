"""What all plots share: palette, fonts, names that have room, and writing to files."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from equifuse.extras import require
from equifuse.files import atomic

if TYPE_CHECKING:  # it takes half a second to import
    from matplotlib.figure import Figure

# Okabe and Ito's palette: colour-blind readers can distinguish it, too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# For what is there to compare with, and for what is not to catch the eye.
QUIET, GRID = "#767676", "#d9d9d9"
# Inches of a figure beside others on a page, on which it keeps its size; on a phone it is a little smaller.
WIDTH = 4.0
# Inches that a line of text takes, and a row of points.
LINE, ROW = 0.19, 0.3
# Inches that a letter takes, about; and letters of a name for which there is room.
LETTER, _USUAL = 0.075, 14
# Most letters of a name; a longer one loses its middle.
LETTERS = 30
# Entries of a legend that have room inside the axes.
_INSIDE = 5
# The same numbers give the same file.
_UNDATED = {".svg": {"Date": None}}
_FONT = {"font.size": 9.0, "axes.labelsize": 9.0, "xtick.labelsize": 9.0, "ytick.labelsize": 9.0}


def save(figure: Figure, path: Path) -> None:
    """Write a figure, whole or not at all; the same numbers give the same bytes.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from equifuse.report import plots
        >>> path = Path(tempfile.mkdtemp()) / "figure.svg"
        >>> plots.save(plots.contributions({"text": 0.3}, "accuracy"), path)
        >>> path.is_file()
        True

    Args:
        figure: as the functions of this package return it.
        path: PNG, SVG or PDF file; replaced if it is there.
    """
    mpl = require("train", "matplotlib", "a plot")

    with atomic(path) as staging, mpl.rc_context({"svg.hashsalt": "equifuse"}):
        figure.savefig(staging, format=path.suffix.removeprefix("."), metadata=_UNDATED.get(path.suffix))


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Any]]:
    """A figure that no global state knows, and its axes, from left to right.

    Args:
        width: in inches.
        height: in inches.
        columns: number of axes.
    """
    mpl = require("train", "matplotlib", "a plot")
    with mpl.rc_context(_FONT):
        figure: Figure = _figure_class()(figsize=(width, height), dpi=120, layout="constrained")
        axes = [figure.add_subplot(1, columns, i + 1) for i in range(columns)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color=GRID, linewidth=0.8)
        axis.set_axisbelow(True)
    return figure, axes


@cache
def _figure_class() -> Any:
    """Matplotlib's figure, which a notebook shows although pyplot does not know it."""
    require("train", "matplotlib", "a plot")
    from matplotlib.figure import Figure  # noqa: PLC0415

    class NotebookFigure(Figure):  # type: ignore[misc, unused-ignore]
        def _repr_png_(self) -> bytes:
            content = io.BytesIO()
            self.savefig(content, format="png")
            return content.getvalue()

    return NotebookFigure


def colours(count: int) -> list[str]:
    """So many colours, again from the first where there are more than the palette has."""
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def short(name: object, most: int = LETTERS) -> str:
    """A name that has room: a long one loses its middle, and no sign in it means anything to matplotlib.

    Example:
        >>> from equifuse.report.plots.base import short
        >>> short("expression of a gene with a long name", 20)
        'expression…long name'
    """
    text = " ".join(str(name).split()) or "(empty)"
    if len(text) > most:
        head = (most - 1) // 2 + (most - 1) % 2
        text = f"{text[:head].rstrip()}…{text[len(text) - (most - 1 - head) :].lstrip()}"
    return text.replace("$", r"\$")


def axis_label(text: str, letters: int = 28) -> str:
    """What an axis is called, in at most two lines."""
    lines = wrap(short(text, 2 * letters - 4), letters) or [""]
    return "\n".join(lines[:2])


def name_rows(axis: Any, names: Sequence[object]) -> None:
    """Write names down the left side, the first on top; for long ones the figure grows."""
    longest = max([len(short(name)) for name in names], default=0)
    width, height = axis.figure.get_size_inches()
    axis.figure.set_size_inches(width + LETTER * max(0, longest - _USUAL), height)
    axis.set_yticks(range(len(names)), [short(name) for name in names])
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(visible=False, axis="y")


def tall(rows: float, each: float = ROW, least: float = 0.0) -> float:
    """Height in inches of a figure with so many rows."""
    return max(least, 0.75 + each * rows)


def whole_numbers(axis: Any) -> None:
    """Only whole numbers along an axis, such as epochs."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - matplotlib is there by now

    axis.set_major_locator(MaxNLocator(nbins="auto", integer=True, steps=[1, 2, 5, 10]))


def legend(figure: Figure, axis: Any, title: str | None = None, *, outside: bool = False, handles: Any = None) -> None:
    """A legend inside the axes where there is room, else to the right of them, for which the figure grows.

    Args:
        figure: the figure.
        axis: whose lines are named.
        title: of the legend.
        outside: whether it is to stand outside in any case.
        handles: what is named; default all that has a label.
    """
    shown, names = (handles, [each.get_label() for each in handles]) if handles else axis.get_legend_handles_labels()
    labels = [short(each) for each in names]
    options: dict[str, Any] = {"frameon": False, "fontsize": 8.5, "title": title}
    if len(labels) <= _INSIDE and not outside:
        axis.legend(shown, labels, **options)
        return
    width, height = figure.get_size_inches()
    longest = max([len(each) for each in labels], default=0)
    figure.set_size_inches(width + 0.6 + LETTER * longest, max(height, 0.6 + LINE * (len(labels) + bool(title))))
    figure.legend(shown, labels, loc="outside right upper", **options)


def spread(values: Iterable[float], least: float) -> list[float]:
    """Places near values, in the same order, that are at least so far apart.

    Example:
        >>> from equifuse.report.plots.base import spread
        >>> spread([0.0, 0.1, 5.0], 1.0)
        [-0.45, 0.55, 5.0]

    Args:
        values: where each would like to be.
        least: distance of two neighbours.
    """
    wanted = np.asarray(list(values), dtype=np.float64)
    order = np.argsort(wanted, kind="stable")
    # Groups of neighbours that push each other away stand around the mean of where they would like to be.
    groups: list[list[int]] = []
    for k in order.tolist():
        groups.append([k])
        while len(groups) > 1 and _start(groups[-1], wanted, least) < _end(groups[-2], wanted, least) + least:
            last = groups.pop()
            groups[-1] += last
    places = np.empty_like(wanted)
    for group in groups:
        places[group] = _start(group, wanted, least) + least * np.arange(len(group))
    return [round(float(place), 12) for place in places]


def _start(group: list[int], wanted: Any, least: float) -> float:
    return float(wanted[group].mean() - least * (len(group) - 1) / 2)


def _end(group: list[int], wanted: Any, least: float) -> float:
    return _start(group, wanted, least) + least * (len(group) - 1)


def known(value: float | None) -> float:
    """NaN, which a line leaves out, where there is no number."""
    return math.nan if value is None else value
