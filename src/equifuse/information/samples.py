"""A data set as estimators of information take it: one matrix for each modality, and targets as classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from equifuse.data.dataset import MultimodalDataset, Split
from equifuse.data.lazy import in_memory
from equifuse.errors import InputError
from equifuse.information.measures import Subset
from equifuse.registry import TASKS

if TYPE_CHECKING:
    from equifuse.tasks.targets import Targets

Floats = NDArray[np.float64]
# Fewer samples than this say nothing.
LEAST = 20
# A quantity is as many classes of equal size.
BINS = 8
# Standardised columns that differ by less are the same.
_SAME = 1e-4
# Weights of the samples that columns are put into an order by.
_WEIGHTS = np.random.default_rng(0).standard_normal(1009)


@dataclass(frozen=True)
class Target:
    """One target of all samples.

    >>> Target("", np.array([0, 1, 1])).values is None
    True

    Attributes:
        name: of the label or quantity; "" where there is one only.
        classes: int64 ``(n,)``, of quantities the eighth that they are in.
        values: ``(n,)`` the quantities themselves, or None.
    """

    name: str
    classes: NDArray[np.int64]
    values: Floats | None = None


@dataclass(frozen=True)
class Samples:
    """The samples that information is measured on.

    Attributes:
        inputs: modality -> ``(n, d)`` standardised, without constant and repeated columns; 0 for an empty cell.
        present: bool ``(n,)`` by modality.
        targets: one, or one for each label or quantity.
        rows: ``(n,)`` the row of each in the parts that were read.
        ids: ``(n,)`` or None.
        groups: ``(n,)`` or None; rows of one group are in one fold.
        notes: what was left out or changed, in words.
    """

    inputs: dict[str, Floats]
    present: dict[str, NDArray[np.bool_]]
    targets: list[Target]
    rows: NDArray[np.intp]
    ids: NDArray[np.generic] | None = None
    groups: NDArray[np.generic] | None = None
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def names(self) -> Subset:
        """Modality names in order."""
        return tuple(self.inputs)

    def having(self, subset: Subset) -> NDArray[np.bool_]:
        """Which samples have every modality of a subset."""
        return np.asarray(np.logical_and.reduce([self.present[m] for m in subset]), np.bool_)


def samples_of(
    dataset: MultimodalDataset,
    *,
    most: int,
    group: str | None = None,
    without: Iterable[str] = (),
    parts: tuple[str, ...] = ("train", "val"),
) -> Samples:
    """Read what information is measured on; the test part is not looked at.

    Args:
        dataset: the data.
        most: samples; of more, so many are drawn.
        group: column of what must not be torn apart, such as the patient.
        without: modalities to leave out.
        parts: of the data set.

    Raises:
        UnknownNameError: no such modality to leave out.
        InputError: one modality, fewer than 20 samples, a constant target, or a task without a target in bits.
    """
    splits = [dataset.splits[part].labelled().without(without) for part in parts]
    _check_task(dataset, list(splits[0].inputs))
    sizes = [len(split) for split in splits]
    count, notes = sum(sizes), []
    if count < LEAST:
        raise InputError(f"information needs at least {LEAST} labelled samples, {' and '.join(parts)} have {count}")
    rows = np.arange(count)
    if count > most:
        rows = np.sort(np.random.default_rng(0).permutation(count)[:most])
        notes.append(f"measured on {most:,} samples drawn from {count:,}")
    left = [part for part in dataset.splits if part not in parts]
    if left:
        notes.append(f"the {' and '.join(left)} part was not looked at")
    ends = np.cumsum([0, *sizes])
    pieces = [
        split.select(rows[(rows >= a) & (rows < b)] - a)
        for split, a, b in zip(splits, ends[:-1], ends[1:], strict=True)
        if ((rows >= a) & (rows < b)).any()
    ]
    split = pieces[0].joined(*pieces[1:])
    assert split.target is not None
    raw, present = {}, {}
    for m in sorted(split.inputs):
        there = split.present.get(m)
        present[m] = np.ones(len(split), np.bool_) if there is None else there
        if int(present[m].sum()) < LEAST:
            raise InputError(f"modality {m!r} is there in {int(present[m].sum())} samples, {LEAST} are needed")
        raw[m] = _flat(split, m, notes)
    order = order_of(raw, present, split.target)
    split, rows = split.select(order), rows[order]
    inputs, present = {}, {m: mask[order] for m, mask in present.items()}
    for m, x in raw.items():
        inputs[m] = tidy(x[order], present[m])
        if not inputs[m].shape[1]:
            notes.append(f"{m} is constant: it can say nothing")
    if not all(mask.all() for mask in present.values()):
        notes.append("some samples lack modalities: what is said of each and of several is of the samples with them")
    groups = None
    if group is not None:
        if group not in split.columns:
            raise InputError(f"there is no column {group!r} to keep together; known: {', '.join(split.columns) or '-'}")
        groups = split.columns[group]
    assert split.target is not None
    targets = targets_of(TASKS.get(dataset.task).targets, split.target, dataset.classes)
    if not targets:
        raise InputError(f"the target of {dataset.name!r} has one value only: there is nothing to know about it")
    return Samples(inputs, present, targets, rows, split.ids, groups, notes)


def _check_task(dataset: MultimodalDataset, modalities: list[str]) -> None:
    if len(modalities) < 2:
        raise InputError(
            f"interactions are between modalities, {dataset.name!r} has one: {modalities[0]}; name groups of columns "
            "with --modality NAME=PATTERN"
        )
    task = TASKS.get(dataset.task)
    if task.time_to_event:
        raise InputError(
            f"information about {dataset.task} is not measured in bits: times of which some are unknown have no "
            "entropy; make classes of them, such as the event within five years"
        )
    if dataset.splits["train"].target is None:
        raise InputError(f"information is about a target, {dataset.name!r} has none")


def targets_of(kind: Targets, values: NDArray[np.generic], names: Sequence[str] | None = None) -> list[Target]:
    """Each label or quantity as classes, without constant ones.

    >>> from equifuse.tasks import Quantities
    >>> [len(np.unique(t.classes)) for t in targets_of(Quantities(), np.arange(16.0)[:, None])]
    [8]

    Args:
        kind: of the task's targets.
        values: of the samples.
        names: of the labels or quantities.
    """
    response, classes = kind.response(values)
    columns = np.asarray(values if response is None else response).reshape(len(values), -1).T
    called = names if names and len(names) == len(columns) else [str(k) for k in range(len(columns))]
    found = []
    for name, column in zip(called, columns, strict=True):
        known = column if classes else bins(column.astype(np.float64))
        codes = np.unique(known, return_inverse=True)[1].reshape(-1).astype(np.int64)
        if codes.max() > 0:
            own = None if classes else column.astype(np.float64)
            found.append(Target(name if len(columns) > 1 else "", codes, own))
    return found


def bins(values: Floats, count: int = BINS) -> NDArray[np.int64]:
    """Classes of equal size ``(n,)`` of quantities; equal values are in one.

    >>> bins(np.array([1.0, 2.0, 3.0, 4.0]), 2).tolist()
    [0, 0, 1, 1]
    """
    edges = np.unique(np.quantile(values, np.arange(1, count) / count, method="lower"))
    return np.searchsorted(edges, values, side="left").astype(np.int64)


def _flat(split: Split, m: str, notes: list[str]) -> Floats:
    """Features ``(n, d)``; of the steps of a sequence their mean, deviation and extremes."""
    x = np.asarray(in_memory(split.inputs[m]), dtype=np.float64)
    if x.ndim == 3 and m in split.lengths:
        steps = np.arange(x.shape[1])[None, :, None] < split.lengths[m][:, None, None]
        count = np.maximum(steps.sum(1), 1)
        there = np.where(steps, np.nan_to_num(x), 0.0)
        mean = there.sum(1) / count
        deviation = np.sqrt(np.where(steps, (there - mean[:, None]) ** 2, 0.0).sum(1) / count)
        highest, lowest = (np.where(steps, np.nan_to_num(x), fill) for fill in (-np.inf, np.inf))
        extremes = [np.nan_to_num(highest.max(1), neginf=0.0), np.nan_to_num(lowest.min(1), posinf=0.0)]
        notes.append(f"{m}: of each sequence the mean, deviation, highest and lowest value of its features")
        return np.concatenate([mean, deviation, *extremes], axis=1)
    return x.reshape(len(x), -1)


def order_of(
    inputs: dict[str, Floats], present: dict[str, NDArray[np.bool_]], target: NDArray[np.generic]
) -> NDArray[np.intp]:
    """An order of the samples that is theirs: the same in whatever order rows, columns and modalities are given.

    By the target, and among equal ones by a sum over the columns of what each cell is in its column. Columns count
    once however often they are there, and neither unit nor sign matters. Samples that it cannot tell apart, such as
    combinations of signs, stay in the order given.

    >>> x = np.array([[3.0, 1.0], [1.0, 7.0], [2.0, 5.0]])
    >>> y, there = np.array([1, 0, 1]), np.ones(3, np.bool_)
    >>> order_of({"a": x}, {"a": there}, y).tolist()
    [1, 2, 0]
    >>> order_of({"a": -2 * x[::-1, ::-1]}, {"a": there}, y[::-1]).tolist()
    [1, 0, 2]

    Args:
        inputs: modality -> ``(n, d)``.
        present: which samples have it.
        target: of the samples.
    """
    keys: list[Floats] = []
    for m in sorted(inputs):
        known = np.isfinite(inputs[m]) & present[m][:, None]
        x = np.where(known, inputs[m], 0.0)
        # Sums of sorted cells do not depend, in any digit, on the order of the rows.
        count = np.maximum(known.sum(0), 1)
        x = np.where(known, x - np.sort(x, axis=0).sum(0) / count, 0.0)
        x = np.abs(x) / np.sqrt(np.maximum(np.sort(x**2, axis=0).sum(0) / count, 1e-300))
        weights = np.resize(_WEIGHTS, len(x))[:, None]
        said = (np.sort(x, axis=0) * weights).sum(0)
        once = np.unique(np.round(said, 6), return_index=True)[1]
        # Rounded, so that the last digits of cells do not decide what their columns weigh.
        keys.append(np.round(x[:, once] @ np.sin(1000 * np.round(said[once], 3)), 9))
    flat = np.asarray(target).reshape(len(target), -1).T
    return np.lexsort([*keys, *flat[::-1]])


def tidy(x: Floats, present: NDArray[np.bool_]) -> Floats:
    """Columns standardised by the rows that are there, each once, in an order that is theirs; 0 for an empty cell.

    >>> tidy(np.array([[1.0, 5.0, 2.0], [3.0, 5.0, 6.0]]), np.array([True, True])).tolist()
    [[1.0], [-1.0]]

    Args:
        x: ``(n, d)``, NaN for empty cells.
        present: bool ``(n,)``.
    """
    known = np.isfinite(x) & present[:, None]
    count = np.maximum(known.sum(0), 1)
    filled = np.where(known, x, 0.0)
    mean = filled.sum(0) / count
    centred = np.where(known, x - mean, 0.0)
    deviation = np.sqrt((centred**2).sum(0) / count)
    varied = deviation > 1e-12 * np.maximum(1.0, np.abs(mean))
    scaled = centred[:, varied] / deviation[varied]
    if not scaled.shape[1]:
        return np.zeros((len(x), 0))
    # The order of columns, copies of them, their units and signs must not matter.
    weights = _WEIGHTS[np.arange(len(scaled)) % len(_WEIGHTS)]
    scaled *= np.where(weights @ scaled < 0, -1.0, 1.0)
    scaled = scaled[:, np.argsort(weights @ scaled, kind="stable")]
    repeated = np.abs(np.diff(scaled, axis=1)).max(0) < _SAME
    found: Floats = np.ascontiguousarray(scaled[:, np.concatenate([[True], ~repeated])])
    return found
