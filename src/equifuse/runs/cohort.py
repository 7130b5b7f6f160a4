"""Data of a new cohort, read for a trained model and split like any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from equifuse.data import MultimodalDataset, Split
from equifuse.data.assemble import guides, hold_out, part_rows
from equifuse.data.external import Wanted, read_rows
from equifuse.data.options import SourceOptions
from equifuse.data.split import partition
from equifuse.errors import DataError
from equifuse.runs.config import TrainConfig

_TEST_FRACTION = 0.2


def cohort_of(config: TrainConfig, wanted: Wanted) -> MultimodalDataset:
    """The cohort of a configuration: all its labelled rows, as the model wants them, in three parts.

    Classes are the model's; the cohort need not have all of them. A modality that it lacks is missing in every row.

    Args:
        config: whose ``data`` are the cohort.
        wanted: what the model needs.

    Raises:
        DataError: the data do not fit the model, or are too few to be split.
        InputError: an option is missing or does not fit.
        UnknownNameError: an unknown modality or class.
    """
    options = SourceOptions.of(config.source)
    keep = (*options.keep, *([options.split] if options.split else []))
    asked = replace(options, keep=tuple(dict.fromkeys(keep)), split=None, task=None)
    whole = _complete(read_rows(config.data, wanted, asked, labelled=True).split, wanted)
    by = guides(whole, wanted.task, options)
    if options.split:
        parts = part_rows(whole.columns[options.split].tolist(), f"{config.data}: {options.split!r}")
    else:
        fractions = (1 - _TEST_FRACTION, _TEST_FRACTION)
        train, test = partition(len(whole), fractions, seed=config.seed, **by)
        parts = {"train": train, "test": test}
    for part in ("train", "test"):
        if part not in parts or not len(parts[part]):
            raise DataError(f"{config.data}: its {len(whole)} rows leave none for {part}")
    splits = {part: whole.select(rows) for part, rows in parts.items()}
    if "val" not in splits:
        splits["train"], splits["val"] = hold_out(
            splits["train"], wanted.task, config.val_fraction, config.seed, options
        )
    return MultimodalDataset(
        Path(config.data).stem,
        {part: splits[part] for part in ("train", "val", "test")},
        wanted.task,
        wanted.classes,
        {m: tuple(names) for m, names in wanted.features.items()},
        drawn=() if options.split else ("val", "test"),
        schema=dict(wanted.schema),
        of_model=True,
    )


def _complete(split: Split, wanted: Wanted) -> Split:
    """The same with every modality of the model, in its order; those that are nowhere are missing in every row."""
    inputs, present = {}, dict(split.present)
    for m, shape in wanted.shapes.items():
        if m in split.inputs:
            inputs[m] = split.inputs[m]
        else:
            inputs[m] = np.full((len(split), *shape), np.nan, dtype=np.float32)
            present[m] = np.zeros(len(split), dtype=np.bool_)
    return replace(split, inputs=inputs, present=present)
