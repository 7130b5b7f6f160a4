"""What becomes of a trained model when modalities are missing or corrupted: one call, one table, one plot."""

from __future__ import annotations

import os
import statistics
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from equifuse.data import Split
from equifuse.data.loaders import batches_of
from equifuse.encoders import Standardize
from equifuse.errors import ConvergenceWarning, InputError, UnknownNameError
from equifuse.evaluation.conditions import add_noise, hide, permute
from equifuse.files import refuse_existing, write_json, write_text
from equifuse.model import FusionModel
from equifuse.report import plots
from equifuse.report.tables import to_markdown
from equifuse.runs.folder import PathLike, Run, load_run

RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
NOISE = (0.5, 1.0, 2.0)
# With more modalities than this, single ones and pairs are kept or removed, not every subset.
_MOST_SUBSETS = 6
HEADER = ["run", "what is done", "value", "change"]
Result = dict[str, Any]


def robustness(
    runs: PathLike | Sequence[PathLike],
    out: PathLike,
    *,
    split: str = "test",
    rates: Sequence[float] = RATES,
    noise: Sequence[float] = NOISE,
    repeats: int = 5,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Evaluate trained models on damaged data.

    - every subset of the modalities (with more than six: all, each alone, and all but one or two);
    - each modality of each sample missing with a rate, at least one kept; mean and deviation over the repeats (not in
      retrieval, where fewer candidates make the task easier);
    - for each modality: noise of so many standard deviations of the training part, and its rows permuted.

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
    out = Path(out)
    refuse_existing(out)
    if not all(0 <= rate < 1 for rate in rates):
        raise InputError(f"rates must be in [0, 1), got {list(rates)}")
    if not all(level >= 0 for level in noise) or repeats < 1:
        raise InputError("noise must not be negative, and repeats at least 1")
    folders = [Path(run) for run in ([runs] if isinstance(runs, str | os.PathLike) else runs)]
    if not folders:
        raise InputError("no run given")
    opened = {
        path.name if len({p.name for p in folders}) == len(folders) else str(path): load_run(path) for path in folders
    }
    names = {run.record["data"]["fingerprint"] for run in opened.values()}
    if len(names) > 1:
        raise InputError("the runs are of different data sets; compare those of one")
    record: dict[str, Any] = {"split": split, "repeats": repeats, "runs": {}}
    for label, run in opened.items():
        if progress is not None:
            progress(label)
        record["metric"] = run.task.headline
        record["runs"][label] = _of_run(run, split, rates, noise, repeats)
    write_json(out / "robustness.json", record)
    write_text(out / "table.md", to_markdown(HEADER, rows(record)))
    plots.robustness(record, out / "robustness.png")
    return record


def _of_run(run: Run, part: str, rates: Sequence[float], noise: Sequence[float], repeats: int) -> Result:
    dataset = run.dataset()
    if part not in dataset.splits:
        raise UnknownNameError("split", part, dataset.splits)
    samples = dataset.splits[part]
    least = 2 if run.task.name == "retrieval" else 1

    def score(damaged: Split) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return float(run.task.evaluate(run.model, batches_of(damaged)).metrics.get(run.task.headline, np.nan))

    def repeated(damage: Callable[[np.random.Generator], Split], times: int = repeats) -> list[float]:
        values = [score(damage(np.random.default_rng(seed))) for seed in range(times)]
        return [statistics.fmean(values), statistics.stdev(values) if times > 1 else 0.0]

    names = list(samples.inputs)
    subsets = {
        " + ".join(kept): score(samples.without(set(names) - set(kept)))
        for kept in _subsets(names)
        if len(kept) >= least
    }
    # What is hidden is no candidate any more, and among fewer of them retrieval only gets easier.
    hidden = [] if run.task.name == "retrieval" else rates
    missing = {f"{rate:g}": repeated(partial(hide, samples, rate), 1 if rate == 0 else repeats) for rate in hidden}
    corrupted: dict[str, dict[str, list[float]]] = {}
    for m in names:
        deviation = _deviation(run.model, m)
        levels = {f"noise {level:g}": repeated(partial(add_noise, samples, m, level * deviation)) for level in noise}
        corrupted[m] = {**levels, "permuted": repeated(partial(permute, samples, m))}
    return {"intact": score(samples), "subsets": subsets, "missing": missing, "corrupted": corrupted}


def _subsets(names: list[str]) -> Iterable[tuple[str, ...]]:
    count = len(names)
    sizes = range(1, count + 1) if count <= _MOST_SUBSETS else sorted({1, count - 2, count - 1, count})
    return (kept for size in sizes for kept in combinations(names, size))


def _deviation(model: FusionModel, modality: str) -> Any:
    """Standard deviations of a modality's features in the training part, as the model knows them; 1 if it does not."""
    for module in model.encoders[modality].modules():
        if isinstance(module, Standardize):
            return module.scale.numpy()
    return 1.0


def rows(record: dict[str, Any]) -> list[list[str]]:
    """The table's rows of text under :data:`HEADER`."""
    lines = []
    for label, found in record["runs"].items():
        intact = found["intact"]

        def line(
            what: str, value: float, spread: float | None = None, label: str = label, intact: float = intact
        ) -> None:
            shown = f"{value:.4f}" + (f" ± {spread:.4f}" if spread else "")
            lines.append([label, what, shown, f"{value - intact:+.4f}"])

        line("nothing", intact)
        for kept, value in found["subsets"].items():
            line(f"only {kept}", value)
        for rate, (value, spread) in found["missing"].items():
            line(f"missing rate {rate}", value, spread)
        for m, levels in found["corrupted"].items():
            for what, (value, spread) in levels.items():
                line(f"{m} {what}", value, spread)
    return lines
