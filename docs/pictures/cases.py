"""The pictures of the case studies: ``python docs/pictures/cases.py [omics] [affect] [sensors]``.

Each page is run as it stands, in an empty folder, and its picture is drawn of what the page itself computed. The files
are committed, so that nobody has to run the pages to read them.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from equifuse.runs import measure_run

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import notebooks  # noqa: E402

BLUE, RED, GREY = "#4477aa", "#cc6677", "#888888"


def canvas() -> tuple[Figure, Any]:
    """An empty figure."""
    figure = Figure(figsize=(6, 2.4), layout="constrained")
    FigureCanvasSVG(figure)
    ax = figure.subplots()
    ax.spines[["top", "right"]].set_visible(False)
    return figure, ax


def draw_omics(names: dict[str, Any]) -> Figure:
    """Accuracy at each site, of counts as they are and of log ratios, with intervals."""
    figure, ax = canvas()
    for place, (run, called, color) in enumerate((("run", "logarithms", RED), ("clr", "log ratios", BLUE))):
        found = measure_run(run, "other_clinic.csv", source=names["other"], by="site")
        for row, (_, part) in enumerate(found.by.items()):
            y, value = row + 0.16 * (2 * place - 1), part.metrics["accuracy"]
            ax.plot(part.intervals["accuracy"], (y, y), color=color, linewidth=2)
            ax.plot(value, y, "o", color=color, label=called if row == 0 else None)
    ax.axvline(0.5, color=GREY, linestyle=":", linewidth=1)
    ax.set(yticks=range(len(found.by)), yticklabels=[f"{s} ({p.n})" for s, p in found.by.items()], xlim=(0.4, 1))
    ax.set(xlabel="accuracy at the other hospital's sites, with 95 % intervals")
    ax.set_ylim(-0.6, 1.6)
    ax.legend(frameon=False, loc="center right")
    return figure


def draw_affect(names: dict[str, Any]) -> Figure:
    """Accuracy for each person that the model has not met, and the two means."""
    figure, ax = canvas()
    right = names["right"].sort_values()
    camera = names["camera"][right.index]
    ax.bar(range(len(right)), right, color=[BLUE if there else RED for there in camera], width=0.7)
    for share, (name, style) in zip(names["share"].values(), (("by clip", ":"), ("by person", "--")), strict=True):
        ax.axhline(share, color="black", linestyle=style, linewidth=1, label=f"mean, {name}: {share:.2f}")
    ax.set(
        xticks=range(len(right)), ylabel="share of clips right", xlabel="persons, each new to its model; red: no camera"
    )
    ax.set_xticklabels(right.index, rotation=90, fontsize=6)
    ax.set_ylim(0, 1.3)
    ax.legend(frameon=False, loc="upper left")
    return figure


def draw_sensors(names: dict[str, Any]) -> Figure:
    """How often the model is right, and how sure it is, with a wrist that lives, is dead, and is said to be dead."""
    figure, ax = canvas()
    said = {
        "intact": names["answers"](names["new"]),
        "sends zeros": names["answers"](names["zeros"]),
        "stuck at full scale": names["answers"](names["full"]),
        "masked": names["answers"](names["full"], names["dead"]),
    }
    rows = np.arange(len(said))[::-1]
    ax.barh(
        rows + 0.18, [(p.argmax(1) == names["truth"]).mean() for p in said.values()], 0.34, color=BLUE, label="right"
    )
    ax.barh(rows - 0.18, [p.max(1).mean() for p in said.values()], 0.34, color=RED, label="sure of itself")
    ax.set(yticks=rows, yticklabels=list(said), xlim=(0, 1.4), xlabel="share of 300 windows, mean probability")
    ax.legend(frameon=False, loc="center right")
    return figure


def main() -> None:
    """Draw what was asked for, or everything."""
    draw = {"omics": draw_omics, "affect": draw_affect, "sensors": draw_sensors}
    with mpl.rc_context({"svg.hashsalt": "equifuse", "font.size": 8}):
        for name in sys.argv[1:] or draw:
            with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
                figure = draw[name](notebooks.run(notebooks.cells(notebooks.PAGES / f"case-{name}.md")))
            figure.savefig(HERE / f"case-{name}.svg", metadata={"Date": None})
            print(f"case-{name}.svg: {os.path.getsize(HERE / f'case-{name}.svg'):,} bytes")


if __name__ == "__main__":
    main()
