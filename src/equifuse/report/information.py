"""What the measurement of interactions is shown and written as: tables, a plot, a page, files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equifuse.files import atomic_folder, write_json, write_text
from equifuse.information import Interactions
from equifuse.report import plots
from equifuse.report.page import Figure, Section, render_page
from equifuse.report.plots.base import COLOURS, name_rows, new_figure, tall
from equifuse.report.tables import NONE, TextTable, number, show
from equifuse.runs.output import write_columns

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

PICTURE = "interactions.svg"
# The pairs that a plot and a terminal show, those that say most.
_SHOWN = 12
_PARTS = ("redundancy", "unique_a", "unique_b", "synergy")
_ALL, _ASKED = "all together", "each asked alone"
_INTERVALS = {_ALL: "joint", _ASKED: "evidence"}
_CALLED = (
    ("shared", COLOURS[5]),
    ("only the first", COLOURS[4]),
    ("only the second", COLOURS[2]),
    ("needs both", COLOURS[1]),
)
_CAPTION = (
    "Bits about the target that are found: of each modality, of all together (columns side by side), and of all asked "
    "alone (answers multiplied); right, each pair taken apart."
)


def interactions_tables(found: Interactions) -> list[TextTable]:
    """Bits of each modality and of all, and each pair taken apart, the pairs that say most first."""

    def ends(name: str) -> str:
        low, high = found.intervals.get(name, (math.nan, math.nan))
        return f"{number(low, '.2f')} to {number(high, '.2f')}" if name in found.intervals else NONE

    rows = [
        [m, f"{bits:.3f}", ends(m), f"{found.last[m]:.3f}", number(found.shapley.get(m), ".3f")]
        for m, bits in found.modalities.items()
    ]
    rows.append([_ALL, f"{found.joint:.3f}", ends("joint"), NONE, NONE])
    if found.evidence is not None:
        rows.append([_ASKED, f"{found.evidence:.3f}", ends("evidence"), NONE, NONE])
    if found.baseline is not None:
        rows.append(["shuffled labels", f"{found.baseline:.3f}", NONE, NONE, NONE])
    caption = f"Bits of {found.target_entropy:.3f} about the target ({found.estimator}, {found.n:,} samples)"
    alone = TextTable(["", "bits", "95 %", "adds last", "Shapley"], rows, caption)
    pairs = [
        [p.a, p.b, *(f"{getattr(p, name):.3f}" for name in _PARTS), f"{p.joint:.3f}", number(p.evidence, ".3f")]
        for p in _strongest(found)
    ]
    left = len(found.pairs) - len(pairs)
    said = "Pairs: shared, only a, only b, needs both; in all; and each asked alone"
    header = ["a", "b", "shared", "only a", "only b", "both", "all", "alone"]
    return [alone, TextTable(header, pairs, said + (f" (without {left} pairs that say less)" if left else ""))]


def _strongest(found: Interactions) -> list[Any]:
    return sorted(found.pairs, key=lambda pair: -pair.joint)[:_SHOWN]


def show_interactions(found: Interactions) -> None:
    """Print tables, notes and verdict."""
    for table in interactions_tables(found):
        show(table)
    for note in found.notes:
        print(f"note: {note}")
    print(f"assumes: {found.assumption}; bias: {found.bias}")
    print(f"verdict: {found.verdict}")


def interactions_plot(found: Interactions) -> Plot:
    """Bars of bits: each modality, all together and all asked alone; and each pair taken apart.

    >>> from equifuse.information import Interactions, Pair
    >>> pair = Pair("a", "b", 0.2, 0.1, 0.0, 0.5, 0.3, 100)
    >>> figure = interactions_plot(Interactions("predictive", 100, 1.0, {"a": 0.3, "b": 0.2}, [pair], 0.8))
    >>> figure.axes[0].get_xlabel()
    'bits about the target'

    Args:
        found: the measurement.
    """
    alone = {**found.modalities, _ALL: found.joint}
    if found.evidence is not None:
        alone[_ASKED] = found.evidence
    pairs = {f"{p.a} + {p.b}": {name: getattr(p, name) for name in _PARTS} for p in _strongest(found)}
    figure, (left, right) = new_figure(9.6, tall(max(len(alone), len(pairs)) + 1), columns=2)
    left.barh(range(len(alone)), list(alone.values()), color=COLOURS[0])
    for place, name in enumerate(alone):
        ends = found.intervals.get(_INTERVALS.get(name, name))
        if ends is not None:
            left.plot(ends, (place, place), color="black", linewidth=1.2)
    left.axvline(found.target_entropy, color="black", linestyle="--", linewidth=0.8)
    starts = np.zeros(len(pairs))
    for part, (name, colour) in zip(_PARTS, _CALLED, strict=True):
        values = np.array([pair[part] for pair in pairs.values()])
        right.barh(range(len(pairs)), values, left=starts, color=colour, label=name)
        starts = starts + values
    right.legend(frameon=False, fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)
    for axis in (left, right):
        axis.set_xlabel("bits about the target")
        axis.set_xlim(left=0)
    name_rows(left, list(alone))
    name_rows(right, list(pairs))
    return figure


def interactions_section(found: Interactions, picture: Path) -> Section:
    """A part of a page: verdict, plot, tables, notes.

    Args:
        found: the measurement.
        picture: SVG file to write the plot to.
    """
    plots.save(interactions_plot(found), picture)
    text = [found.verdict, f"Estimator {found.estimator}: {found.assumption}. Bias: {found.bias}.", *found.notes]
    return Section("What the modalities know", text, [Figure(picture, _CAPTION)], interactions_tables(found))


def write_interactions(found: Interactions, folder: Path) -> None:
    """Write ``interactions.json``, tables ``modalities.csv``, ``pairs.csv`` and ``samples.csv``, a page and its plot.

    Args:
        found: the measurement.
        folder: to create.

    Raises:
        OutputExistsError: the folder exists.
    """
    with atomic_folder(folder) as staging:
        write_json(staging / "interactions.json", found.to_dict())
        names = [*found.modalities, _ALL]
        bits = [*found.modalities.values(), found.joint]
        ends = [found.intervals.get(name if name in found.modalities else "joint", (np.nan, np.nan)) for name in names]
        columns = {"modality": np.array(names), "bits": np.array(bits)}
        columns |= {"low": np.array([low for low, _ in ends]), "high": np.array([high for _, high in ends])}
        write_columns(staging / "modalities.csv", columns)
        values = [pair.to_dict() for pair in found.pairs]
        table = {key: [np.nan if v[key] is None else v[key] for v in values] for key in values[0] if key != "intervals"}
        write_columns(staging / "pairs.csv", {key: np.array(column) for key, column in table.items()})
        if found.samples:
            write_columns(staging / "samples.csv", found.samples)
        section = interactions_section(found, staging / PICTURE)
        write_text(staging / "interactions.html", render_page("What the modalities know of the target", [section]))
