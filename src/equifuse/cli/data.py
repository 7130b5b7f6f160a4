"""``equifuse datasets``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def datasets(
    root: Annotated[
        Path | None, typer.Option(help="Folder of .npz data sets; default the variable EQUIFUSE_DATA.")
    ] = None,
) -> None:
    """List the data sets that can be trained on by name."""
    from equifuse import datasets as catalog
    from equifuse.report.table import datasets_table, show

    show(datasets_table([catalog.load(name, root) for name in catalog.available(root)]))
