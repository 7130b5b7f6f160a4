"""Robustness of finished runs: numbers, one table and one plot in a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from equifuse.errors import InputError
from equifuse.evaluation.robustness import NOISE, RATES, RobustnessReport, check_options, measure_robustness
from equifuse.files import locked, refuse_existing, write_json, write_text
from equifuse.runs.folder import PathLike, load_run


def robustness(
    runs: PathLike | Sequence[PathLike],
    out: PathLike,
    *,
    split: str = "test",
    rates: Sequence[float] = RATES,
    noise: Sequence[float] = NOISE,
    repeats: int = 5,
    progress: Callable[[str], None] | None = None,
) -> RobustnessReport:
    """Evaluate trained models on damaged data; see :func:`~equifuse.evaluation.robustness.measure_robustness`.

    Args:
        runs: a run folder, or several of the same data set.
        out: folder to create: ``robustness.json``, ``table.md``, ``robustness.png``.
        split: part of the data set.
        rates: missing rates, in [0, 1).
        noise: standard deviations of the noise, ≥ 0.
        repeats: draws per random setting, ≥ 1.
        progress: called with a line before each run.

    Returns:
        What ``robustness.json`` holds.

    Raises:
        OutputExistsError: ``out`` exists.
        DataError: no finished run, or its data set has changed.
        InputError: a value out of range, or runs of different data sets.
        UnknownNameError: an unknown split.
    """
    from equifuse.report import plots  # noqa: PLC0415 - the last step alone reports
    from equifuse.report.tables import robustness_table, to_markdown  # noqa: PLC0415

    out = Path(out)
    refuse_existing(out)
    check_options(rates, noise, repeats)
    folders = [Path(run) for run in ([runs] if isinstance(runs, str | os.PathLike) else runs)]
    if not folders:
        raise InputError("no run given")
    opened = {
        path.name if len({p.name for p in folders}) == len(folders) else str(path): load_run(path) for path in folders
    }
    if len({run.record["data"]["fingerprint"] for run in opened.values()}) > 1:
        raise InputError("the runs are of different data sets; compare those of one")
    measured = {}
    for label, run in opened.items():
        if progress is not None:
            progress(label)
        measured[label] = measure_robustness(
            run.model, run.task, run.dataset(), split=split, rates=rates, noise=noise, repeats=repeats
        )
    metric = next(iter(opened.values())).task.headline
    report = RobustnessReport(split, repeats, metric, measured)
    with locked(out):
        write_json(out / "robustness.json", report.to_dict())
        table = robustness_table(report)
        write_text(out / "table.md", to_markdown(table.header, table.rows))
        plots.save(plots.robustness(report), out / "robustness.png")
    return report
