"""Which rows go where: deterministic, stratified where there are classes, groups kept together, or by time."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equifuse.errors import DataError, InputError

Indices = NDArray[np.intp]
Column = NDArray[np.generic]


def partition(
    rows: int,
    fractions: tuple[float, ...],
    *,
    seed: int = 0,
    labels: Column | None = None,
    groups: Column | None = None,
    order: Column | None = None,
) -> list[Indices]:
    """Split ``range(rows)`` into parts of the given fractions.

    Example:
        >>> import numpy as np
        >>> from equifuse.data.split import partition
        >>> [len(part) for part in partition(300, (0.8, 0.2), labels=np.arange(300) % 100)]
        [240, 60]
        >>> patient = np.repeat(np.arange(10), 3)
        >>> train, val = partition(30, (0.8, 0.2), groups=patient)
        >>> len(val), set(patient[train]) & set(patient[val])
        (6, set())

    Args:
        rows: number of rows.
        fractions: of each part, > 0, adding up to 1. With labels, the first part holds every class.
        seed: of the shuffle.
        labels: ``(rows,)``; every class is split by the fractions as nearly as whole rows allow, and so is the whole.
        groups: ``(rows,)``; rows of one group are in one part.
        order: ``(rows,)``, such as dates; the parts follow one another, and equal values stay together. The first part
            is the earliest, and nothing is drawn.

    Returns:
        Sorted, disjoint index arrays that cover all rows.

    Raises:
        DataError: unusable fractions, or a column of another length.
        InputError: both groups and an order.
    """
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        raise DataError(f"fractions must be positive and add up to 1, got {fractions}")
    for column in (labels, groups, order):
        if column is not None and len(column) != rows:
            raise DataError(f"a column with {len(column)} values cannot split {rows} rows")
    if order is not None:
        if groups is not None:
            raise InputError("rows are split by an order or by groups, not by both")
        return _by_order(order, fractions)
    codes = np.zeros(rows, np.intp) if labels is None else _codes(labels)
    if groups is not None:
        return _by_group(_codes(groups), codes, fractions, seed)
    return _by_row(codes, fractions, seed)


def _codes(column: Column) -> Indices:
    codes: Indices = np.unique(column, return_inverse=True)[1]
    return codes.reshape(-1)


def _by_row(codes: Indices, fractions: tuple[float, ...], seed: int) -> list[Indices]:
    """Rows of each class in turn, as many of each as :func:`_sizes` says."""
    generator = np.random.default_rng(seed)
    shuffled = [generator.permutation(np.flatnonzero(codes == c)) for c in range(codes.max(initial=-1) + 1)]
    counts = np.array([len(rows) for rows in shuffled], dtype=np.int64)
    taken = np.zeros_like(counts)
    parts = []
    for fraction in fractions[1:]:
        sizes = _sizes(counts, fraction, counts - taken - 1, generator)
        parts.append([rows[start : start + size] for rows, start, size in zip(shuffled, taken, sizes, strict=True)])
        taken += sizes
    parts.insert(0, [rows[start:] for rows, start in zip(shuffled, taken, strict=True)])
    return [np.sort(np.concatenate(part)) if part else np.arange(0) for part in parts]


def _sizes(
    counts: NDArray[np.int64], fraction: float, most: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """How many rows of each class make a fraction of all, by largest remainders; equal ones are drawn.

    Rounding each class alone would hold out none of many classes of two, and a third of many classes of three.

    Args:
        counts: rows of each class.
        fraction: of them.
        most: that may be taken of each; a rare class stays in the first part.
        generator: for equal remainders.
    """
    quotas = counts * fraction
    most = np.maximum(most, 0)
    sizes: NDArray[np.int64] = np.minimum(np.floor(quotas + 1e-9).astype(np.int64), most)
    left = int(counts.sum() * fraction + 0.5) - int(sizes.sum())
    remainders = np.round(quotas - np.floor(quotas + 1e-9), 9)
    by_remainder = np.lexsort((generator.random(len(counts)), -remainders))
    free = by_remainder[sizes[by_remainder] < most[by_remainder]]
    sizes[free[: max(left, 0)]] += 1
    return sizes


def _by_group(groups: Indices, codes: Indices, fractions: tuple[float, ...], seed: int) -> list[Indices]:
    """Whole groups in random order, each into a part that still lacks such rows, if there is one.

    A group that holds all that is left of a class stays in the first part; any other part gets one group at least,
    however large.
    """
    count = int(groups.max(initial=-1)) + 1
    inside = np.zeros((count, int(codes.max(initial=-1)) + 1), dtype=np.int64)
    np.add.at(inside, (groups, codes), 1)
    total, sizes = inside.sum(axis=0), inside.sum(axis=1)
    order = np.random.default_rng(seed).permutation(count)
    place, left = np.zeros(count, np.intp), total.copy()
    for part, fraction in enumerate(fractions[1:], 1):
        wanted, held = len(groups) * fraction, np.zeros_like(total)
        # First by class; then, where groups are too large or too mixed for that, by number alone.
        for most in (np.ceil(total * fraction), np.full(len(total), np.inf)):
            for g in order:
                without = abs(wanted - held.sum())
                nearer = abs(wanted - held.sum() - sizes[g]) < without
                keeps = (left > inside[g]) | (inside[g] == 0)
                if place[g] == 0 and nearer and keeps.all() and (held + inside[g] <= most).all():
                    place[g] = part
                    held += inside[g]
                    left -= inside[g]
        if not held.any():
            free = [g for g in order if place[g] == 0 and ((left > inside[g]) | (inside[g] == 0)).all()]
            for g in sorted(free, key=lambda g: sizes[g])[:1]:
                place[g] = part
                left -= inside[g]
    return [np.flatnonzero(place[groups] == part) for part in range(len(fractions))]


def _by_order(order: Column, fractions: tuple[float, ...]) -> list[Indices]:
    """Cuts at the values that are nearest to the fractions."""
    values, codes, counts = np.unique(order, return_inverse=True, return_counts=True)
    before = np.concatenate([[0], np.cumsum(counts)])  # rows before each value
    cuts = [int(np.abs(before - share * len(order)).argmin()) for share in np.cumsum(fractions)[:-1]]
    ends = [0, *cuts, len(values)]
    codes = codes.reshape(-1)
    return [np.flatnonzero((codes >= a) & (codes < b)) for a, b in pairwise(ends)]


def folds(
    rows: int,
    count: int | None,
    *,
    seed: int = 0,
    labels: Column | None = None,
    groups: Column | None = None,
    order: Column | None = None,
) -> Iterator[tuple[Indices, Indices]]:
    """The rows to train on and to test on of each fold of a cross-validation, by scikit-learn's splitters.

    Example:
        >>> import numpy as np
        >>> from equifuse.data.split import folds
        >>> [len(test) for _, test in folds(10, 5)]
        [2, 2, 2, 2, 2]
        >>> [test.tolist() for _, test in folds(4, None, groups=np.array(["a", "b", "b", "a"]))]
        [[0, 3], [1, 2]]

    Args:
        rows: number of rows.
        count: of folds, at least 2; None leaves out one group at a time.
        seed: of the shuffle.
        labels: as in :func:`partition`.
        groups: likewise.
        order: likewise; each fold tests on rows that come after all those it trains on.

    Yields:
        Two index arrays.

    Raises:
        InputError: more folds than there are rows or groups, or no groups where they are needed, or both groups and an
            order.
    """
    from sklearn import model_selection  # noqa: PLC0415 - it takes a second to import

    if order is not None and groups is not None:
        raise InputError("rows are split by an order or by groups, not by both")
    if count is None and groups is None:
        raise InputError("to leave out one group at a time, say which column names the groups: --group patient")
    there = rows if groups is None else len(np.unique(groups))
    if there < (2 if count is None else count):
        raise InputError(f"{there} {'rows' if groups is None else 'groups'} do not make {count or 2} folds")
    if order is not None:
        yield from _folds_by_order(order, model_selection.TimeSeriesSplit(count))
        return
    stratified = labels is not None and count is not None and np.unique(labels, return_counts=True)[1].max() >= count
    options = {"n_splits": count, "shuffle": True, "random_state": seed}
    if count is None:
        splitter = model_selection.LeaveOneGroupOut()
    elif groups is not None:
        splitter = (model_selection.StratifiedGroupKFold if stratified else model_selection.GroupKFold)(**options)
    else:
        splitter = (model_selection.StratifiedKFold if stratified else model_selection.KFold)(**options)
    codes = np.zeros(rows, np.intp) if labels is None else _codes(labels)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # it is in as many folds as it has rows
        yield from splitter.split(codes, codes, None if groups is None else _codes(groups))


def _folds_by_order(order: Column, splitter: Any) -> Iterator[tuple[Indices, Indices]]:
    by_time = np.argsort(order, kind="stable")
    for train, test in splitter.split(by_time):
        # Rows of the same time as the first one tested on are not from before it.
        earlier = train[order[by_time[train]] < order[by_time[test[0]]]]
        yield np.sort(by_time[earlier]), np.sort(by_time[test])
