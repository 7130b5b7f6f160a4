"""The samples that something is done with: a part of a run's own data, all of them, or other data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from equifuse.data import Split
from equifuse.data.external import read_rows
from equifuse.data.options import SourceOptions
from equifuse.errors import DataError, InputError, UnknownNameError
from equifuse.runs.folder import Run, load_data

ALL, PART = "all", "part"


def samples_of(
    run: Run,
    data: str | None = None,
    split: str | None = None,
    source: SourceOptions | None = None,
    *,
    keep: tuple[str, ...] = (),
    labelled: bool = True,
) -> tuple[Split, list[str]]:
    """The samples, and what there is to say about them.

    Args:
        run: the run.
        data: name or path of other data; None for the run's own.
        split: a part; ``"all"`` for all of the run's own, which then have a column ``part``; default "test" of its own
            data, and all rows of others.
        source: which columns and files of other data are what.
        keep: columns to carry along.
        labelled: whether other data need targets.

    Raises:
        DataError: the data cannot be used, or have changed since training.
        InputError: options of a table for the run's own data.
        UnknownNameError: an unknown part.
    """
    source = source or SourceOptions()
    keep = tuple(dict.fromkeys((*source.keep, *keep)))
    if data is not None:
        options = SourceOptions.from_dict({**source.given(), **({"keep": list(keep)} if keep else {})})
        found = read_rows(data, run.wanted(), options, labelled=labelled, split=None if split == ALL else split)
        return found.split, found.notes
    if source.given().keys() - {"keep"}:
        raise InputError("the run's own data are read as in training; options of a table go with --data")
    config, trained = run.config, SourceOptions.of(run.config.source)
    if keep:
        config = replace(config, source={**config.source, "keep": list(dict.fromkeys((*trained.keep, *keep)))})
    dataset = load_data(config, run.wanted())
    if dataset.fingerprint() != run.record["data"]["fingerprint"]:
        raise DataError(f"data set {config.data!r} has changed since {run.path} was trained on it")
    if split == ALL:
        parts = dataset.splits
        names = np.repeat(list(parts), [len(part) for part in parts.values()])
        first, *others = parts.values()
        whole = first.joined(*others)
        return replace(whole, columns={**whole.columns, PART: names}), []
    part = split or "test"
    if part not in dataset.splits:
        raise UnknownNameError("split", part, dataset.splits)
    return dataset.splits[part].labelled(), []
