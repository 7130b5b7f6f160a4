"""The folds of a cross-validation, and those of an ensemble, as data sets of three parts."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np

from equifuse.data import MultimodalDataset, Split, load
from equifuse.data.assemble import far_off, guides, hold_out
from equifuse.data.lazy import Indices
from equifuse.data.loaders import mix
from equifuse.data.options import SourceOptions
from equifuse.data.split import folds
from equifuse.errors import DataError, InputError
from equifuse.runs.checks import GROUPS_OUT
from equifuse.runs.config import TrainConfig


def load_whole(config: TrainConfig) -> MultimodalDataset:
    """The data set of a configuration as its source has it, before its protocol or cross-validation arranges it."""
    with warnings.catch_warnings():
        if config.cv is not None:  # the parts that are drawn are pooled again
            warnings.filterwarnings("ignore", ".*consider leaving out one group")
        return load(config.data, val_fraction=config.val_fraction, seed=config.seed, source=config.source)


def pooled(dataset: MultimodalDataset) -> Split:
    """The rows that are cross-validated: all but a test part that the source itself has.

    Raises:
        InputError: they stay on disk.
    """
    splits = [dataset.splits[part] for part in ("train", "val", *(["test"] if "test" in dataset.drawn else []))]
    if any(split.on_disk for split in splits):
        raise InputError("cross-validation joins the parts in memory; these data are too large for it")
    if any(len(split.labelled()) < len(split) for split in splits):
        raise InputError("cross-validation is for rows with a target; leave out --use-unlabelled")
    return splits[0].joined(*splits[1:])


def every_fold(rows: Split, task: str, config: TrainConfig) -> list[tuple[Indices, Indices]]:
    """The rows to learn from and those to test on, of every fold of every repeat.

    Raises:
        InputError: too few rows or groups for so many folds.
        DataError: a column by which rows are split is not there.
    """
    count = None if config.cv == GROUPS_OUT else int(config.cv or 2)
    by = guides(rows, task, SourceOptions.of(config.source))
    found = []
    for repeat in range(config.repeats):
        found += list(folds(len(rows), count, seed=mix(config.seed, repeat) % 2**32, **by))
    return found


def fold_of(dataset: MultimodalDataset, config: TrainConfig) -> MultimodalDataset:
    """The data set of one fold: its rows are the test part, and validation is held out of the others.

    Raises:
        DataError: what is left to train on cannot be used, such as without one of the classes.
        InputError: there is no such fold, or the data stay on disk.
    """
    rows = pooled(dataset)
    every = every_fold(rows, dataset.task, config)
    number = config.fold or 0
    if number >= len(every):
        raise InputError(f"there is no fold {number}, there are {len(every)}, from 0")
    learn, test = every[number]
    source = SourceOptions.of(config.source)
    left = rows.select(learn)
    train, val = hold_out(left, dataset.task, config.val_fraction, config.seed, source)
    if source.group and far_off(len(val), len(left), config.val_fraction):
        # Never the part that is tested on; where training stops may be decided on rows of groups it has seen.
        warnings.warn(
            f"the groups of {source.group!r} are too few to hold some out for validation too; it is drawn by row",
            stacklevel=2,
        )
        by_row = replace(source, group=None)
        train, val = hold_out(left, dataset.task, config.val_fraction, config.seed, by_row)
    parts = {"train": train, "val": val, "test": rows.select(test)}
    try:
        return replace(dataset, splits=parts, drawn=("train", "val", "test"))
    except DataError as error:
        raise DataError(f"fold {number + 1} of {len(every)}: {error}; use fewer folds, or join rare classes") from None


def bagged(dataset: MultimodalDataset, config: TrainConfig) -> tuple[Split, list[tuple[Indices, Indices]]]:
    """The training and validation parts as one, and the rows that each member of an ensemble trains and stops on.

    A class that a fold holds all rows of stays in training.

    Raises:
        InputError: too few rows or groups for so many members, rows without a target, or the data stay on disk.
    """
    train, val = dataset.splits["train"], dataset.splits["val"]
    if train.on_disk or val.on_disk:
        raise InputError("an ensemble joins the parts in memory; these data are too large for it")
    if len(train.labelled()) < len(train):
        raise InputError("an ensemble is for rows with a target; leave out --use-unlabelled")
    rows = train.joined(val)
    return rows, member_folds(rows, dataset.task, config, SourceOptions.of(config.source))


def member_folds(rows: Split, task: str, config: TrainConfig, source: SourceOptions) -> list[tuple[Indices, Indices]]:
    """The rows that each member of an ensemble trains and stops on, those of the first repeat first.

    A class that one fold has all of stays in training.

    Raises:
        InputError: too few rows or groups for so many members.
    """
    by = guides(rows, task, source)
    labels, found = by["labels"], []
    for repeat in range(config.bags):
        seed = mix(config.seed, repeat) % 2**32 if repeat else config.seed
        for learn, stop in folds(len(rows), int(config.ensemble or 2), seed=seed, **by):
            kept = np.zeros(len(stop), dtype=np.bool_)
            if labels is not None:
                kept = np.isin(labels[stop], np.setdiff1d(labels, labels[learn]))
            found.append((np.sort(np.concatenate([learn, stop[kept]])), stop[~kept]))
    return found


def bag_of(dataset: MultimodalDataset, config: TrainConfig) -> MultimodalDataset:
    """The data set of one member of an ensemble: what it stops on is the validation part; the test part stays.

    Raises:
        DataError: a fold cannot be used.
        InputError: see :func:`bagged`.
    """
    rows, every = bagged(dataset, config)
    learn, stop = every[config.member or 0]
    parts = {**dataset.splits, "train": rows.select(learn), "val": rows.select(stop)}
    try:
        return replace(dataset, splits=parts)
    except DataError as error:
        raise DataError(f"member {(config.member or 0) + 1} of {len(every)}: {error}; use fewer members") from None
