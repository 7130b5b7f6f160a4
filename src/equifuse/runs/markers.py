"""Rank the features of a trained model for each class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from equifuse.data.loaders import batches_of
from equifuse.data.options import SourceOptions
from equifuse.explain.markers import Marker, markers
from equifuse.runs.folder import PathLike, load_run
from equifuse.runs.output import check_output, write_columns
from equifuse.runs.samples import samples_of


def markers_run(
    run: PathLike,
    data: str | None = None,
    split: str | None = None,
    *,
    source: SourceOptions | Mapping[str, Any] | None = None,
    samples: int = 500,
    seed: int = 0,
    out: PathLike | None = None,
) -> list[Marker]:
    """All features of all modalities, ranked for each class; see :func:`~equifuse.explain.markers`.

    >>> run = train(TrainConfig("digits", fusion="concat", epochs=1), "run", progress=False).path
    >>> found = markers_run(run, samples=20)
    >>> len(found) % 211, found[0].rank_overall  # 211 features for each class that is among the samples
    (0, 1)

    Args:
        run: the run folder.
        data: name or path of other data; default the run's own.
        split: a part; default "test" of the run's own data, all rows of others.
        source: which columns and files of other data are what.
        samples: look at this number of them, drawn where there are more.
        seed: of the draw.
        out: table to create: CSV, Parquet, Excel or ``.npz``; None for none.

    Raises:
        OutputExistsError: ``out`` exists.
        DataError: no finished run there, or data that cannot be used.
        InputError: Captum is not installed, or the task has no predictions of single samples.
    """
    if out is not None:
        check_output(Path(out))
    opened = load_run(run)
    chosen, _ = samples_of(opened, data, split, SourceOptions.of(source), labelled=False)
    if len(chosen) > samples:
        rows = np.random.default_rng(seed).choice(len(chosen), samples, replace=False)
        chosen = chosen.select(np.sort(rows))
    found = markers(opened.model, opened.task, batches_of(chosen))
    if out is not None:
        names = [field.name for field in fields(Marker)]
        write_columns(Path(out), {name: np.array([getattr(marker, name) for marker in found]) for name in names})
    return found
