"""What explanations are shown and written as: tables, curves along the equilibrium, files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from equifuse.explain import Explanation, InformationFlow
from equifuse.files import atomic_folder, write_json, write_text
from equifuse.report.page import Section, drawn, render_page
from equifuse.report.plots.base import WIDTH, colours, legend, new_figure
from equifuse.report.tables import TextTable, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

_CURVES = "iterates.svg"


def flow_tables(found: InformationFlow) -> list[TextTable]:
    """Bits and what is left at every stage; what stages have in common."""
    rows = [
        [s.name, f"{s.bits:.3f}", f"{s.interval[0]:.2f} to {s.interval[1]:.2f}", f"{s.left:.3f}", str(s.n)]
        for s in found.stages
    ]
    caption = f"Bits of {found.target_entropy:.3f} about the target that a linear model reads off each stage"
    tables = [TextTable(["stage", "bits", "95 %", "left", "samples"], rows, caption)]
    if found.common:
        rows = [[a, b, f"{bits:.3f}"] for (a, b), bits in found.common.items()]
        tables.append(TextTable(["stage", "stage", "bits"], rows, "In common between stages (Gaussian)"))
    if found.iterates:
        rows = [[part, *(f"{value:.3f}" for value in bits)] for part, bits in found.iterates.items()]
        tables.append(
            TextTable(["state", *found.evaluations], rows, "Bits after so many evaluations of the equilibrium")
        )
    return tables


def flow_plot(found: InformationFlow) -> Plot:
    """Bits about the target along the solver's iterates, from the start to the fixed point, one curve per state.

    >>> flow = InformationFlow(100, 1.0, [], iterates={"fusion": [0.1, 0.5, 0.6]}, evaluations=["start", "1", "end"])
    >>> flow_plot(flow).axes[0].get_ylabel()
    'bits about the target'

    Args:
        found: of a model with an equilibrium.
    """
    figure, (axis,) = new_figure(WIDTH, 2.8)
    for colour, (name, bits) in zip(colours(len(found.iterates)), found.iterates.items(), strict=True):
        axis.plot(found.evaluations, bits, color=colour, marker="o", label=name)
    axis.axhline(found.target_entropy, color="black", linestyle="--", linewidth=0.8)
    axis.set_xlabel("evaluations")
    axis.set_ylabel("bits about the target")
    axis.set_ylim(bottom=0)
    legend(figure, axis)
    return figure


def flow_section(found: InformationFlow, folder: Path) -> Section:
    """A part of a page: tables, and the curves along the equilibrium where there is one.

    Args:
        found: the measurement.
        folder: for the figure.
    """
    text = [
        f"Over {found.n:,} validation and test samples, fitted in four folds. Linear models may read more off a later "
        "stage than off an earlier one, although it cannot hold more: that is what the layers between are for."
    ]
    figures = []
    if found.iterates:
        caption = "Bits along the solver's way, from its start to the fixed point."
        figures.append(drawn(flow_plot(found), folder / _CURVES, caption))
    return Section("What each stage knows of the target", text, figures, flow_tables(found))


def plain(found: Explanation | InformationFlow) -> dict[str, Any]:
    """An explanation as plain values for JSON."""
    return found.to_dict() if isinstance(found, InformationFlow) else found.summary()


def show_explained(found: Explanation | InformationFlow) -> None:
    """Print an explanation."""
    if isinstance(found, InformationFlow):
        for table in flow_tables(found):
            show(table)
    else:
        print(found)


def write_explained(found: Explanation | InformationFlow, folder: Path) -> None:
    """Write ``information.json`` and a page, or ``explanation.json``.

    Args:
        found: the explanation.
        folder: to create.

    Raises:
        OutputExistsError: the folder exists.
    """
    with atomic_folder(folder) as staging:
        if isinstance(found, InformationFlow):
            write_json(staging / "information.json", plain(found))
            page = render_page("What each stage knows of the target", [flow_section(found, staging)])
            write_text(staging / "information.html", page)
        else:
            write_json(staging / "explanation.json", plain(found))
