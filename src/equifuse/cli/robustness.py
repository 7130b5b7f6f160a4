"""``equifuse robustness``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def robustness(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of one data set, made by 'equifuse train'.")],
    out: Annotated[Path | None, typer.Option(help="Folder to create; default <first run>/robustness.")] = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    rate: Annotated[
        list[float] | None, typer.Option(help="Missing rate; repeat for more.  [default: 0 to 0.9]")
    ] = None,
    noise: Annotated[
        list[float] | None, typer.Option(help="Noise in standard deviations; repeat for more.  [default: 0.5, 1, 2]")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Draws per random setting.", min=1)] = 5,
) -> None:
    """Evaluate models with modalities missing, noisy or permuted: one table, one plot."""
    from equifuse.evaluation.robustness import NOISE, RATES
    from equifuse.report.tables import robustness_table, show
    from equifuse.runs.robustness import robustness as run

    folder = out or runs[0] / "robustness"
    report = run(runs, folder, split=split, rates=rate or RATES, noise=noise or NOISE, repeats=repeats)
    show(robustness_table(report))
    typer.echo(f"table, plot and numbers: {folder}")
