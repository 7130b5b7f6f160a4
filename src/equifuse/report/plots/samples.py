"""Plots of single samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from equifuse.report.plots.base import COLOURS, axis_label, colours, legend, new_figure, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Values of a column that still get a colour each.
_MOST_COLOURS = 20


def scatter(places: Any, values: Any = None, name: str = "", *, axes: tuple[str, str] = ("", "")) -> Figure:
    """Samples as points, coloured by a column: names get a colour each, many numbers a scale.

    Example:
        >>> import numpy as np
        >>> from equifuse.report import plots
        >>> figure = plots.scatter(np.zeros((3, 2)), np.array(["a", "b", "a"]), "label", axes=("PC1", "PC2"))
        >>> figure.axes[0].get_xlabel()
        'PC1'

    Args:
        places: ``(n, 2)``.
        values: ``(n,)``, or None for one colour.
        name: of the column.
        axes: what the axes are called.
    """
    places = np.asarray(places)
    figure, (axis,) = new_figure(6.0, 5)
    size = float(np.clip(4000 / max(len(places), 1), 3, 30))
    kinds = [] if values is None else np.unique(values).tolist()
    axis.set_xlabel(axis_label(axes[0]))
    axis.set_ylabel(axis_label(axes[1]))
    if values is None or not kinds:
        axis.scatter(*places.T, s=size, color=COLOURS[0], alpha=0.7, linewidths=0)
    elif len(kinds) > _MOST_COLOURS and np.asarray(values).dtype.kind in "iuf":
        image = axis.scatter(*places.T, s=size, c=np.asarray(values, dtype=float), cmap="viridis", linewidths=0)
        figure.colorbar(image, ax=axis, label=short(name), shrink=0.8)
    else:
        for colour, kind in zip(colours(len(kinds)), kinds, strict=True):
            some = places[np.asarray(values) == kind]
            axis.scatter(*some.T, s=size, color=colour, alpha=0.7, linewidths=0, label=str(kind))
        if len(kinds) <= _MOST_COLOURS:
            legend(figure, axis, short(name), outside=True)
    return figure
