"""From rows and a way to split them to a data set: what every reader ends with."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from equifuse.data.dataset import PARTS, Array, MultimodalDataset, Split, check_rows, missing_rows
from equifuse.data.lazy import Features, Indices
from equifuse.data.options import SourceOptions
from equifuse.data.split import partition
from equifuse.errors import DataError, InputError
from equifuse.registry import TASKS

# What a part of a split column or file may be called.
_PART_NAMES = {
    "train": "train",
    "training": "train",
    "tr": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "te": "test",
}
_TEST_FRACTION = 0.2
# The column of row numbers, where rows have no ids.
ROW = "row"


def assemble(
    name: str,
    whole: Split,
    task: str,
    parts: Mapping[str, Indices],
    *,
    classes: tuple[str, ...] | None = None,
    features: Mapping[str, tuple[str, ...]] | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    options: SourceOptions | None = None,
) -> MultimodalDataset:
    """A data set from all rows and the rows of each part.

    What is not given is split off: a test part from all rows if there are no parts at all (20 %), a validation part
    from the training part; see :func:`guides` for what decides beside chance.

    Args:
        name: for reports.
        whole: all rows.
        task: the task.
        parts: part -> its rows; any of ``"train"``, ``"val"``, ``"test"``, or empty.
        classes: class or target names.
        features: modality -> names of its features.
        val_fraction: share of the training part used for validation where none is given, in (0, 1).
        seed: of what is split off.
        options: name the columns of ``whole`` by which rows are split.

    Raises:
        DataError: parts that overlap, share a group, point outside of the rows or lack a training part, or
            ``val_fraction`` is out of range.
    """
    options = options or SourceOptions()
    check_rows(whole, name)
    rows = len(whole)
    found = {part: np.asarray(index, dtype=np.intp) for part, index in parts.items()}
    used = np.zeros(rows, dtype=np.int64)
    for part, index in found.items():
        if len(index) and (index.min() < 0 or index.max() >= rows):
            raise DataError(f"{name}: the {part} part points outside of the {rows} rows")
        np.add.at(used, index, 1)
    if used.max(initial=0) > 1:
        raise DataError(f"{name}: {int((used > 1).sum())} rows are in more than one split, or twice in one")
    if whole.ids is None:  # the rows are told apart by their number
        whole = replace(whole, columns={**whole.columns, ROW: np.arange(rows)})
    drawn: tuple[str, ...] = ()
    if not found:
        fractions = (1 - _TEST_FRACTION, _TEST_FRACTION)
        train, test = partition(rows, fractions, seed=seed, **guides(whole, task, options))
        found, drawn = {"train": train, "test": test}, ("test",)
    splits = {part: whole.select(index) for part, index in found.items()}
    if options.group:
        _check_groups(name, splits, drawn, options.group, val_fraction)
    dataset = assemble_parts(
        name, splits, task, classes=classes, features=features, val_fraction=val_fraction, seed=seed, options=options
    )
    return replace(dataset, drawn=(*dataset.drawn, *drawn))


def assemble_parts(
    name: str,
    splits: Mapping[str, Split],
    task: str,
    *,
    classes: tuple[str, ...] | None = None,
    features: Mapping[str, tuple[str, ...]] | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    options: SourceOptions | None = None,
) -> MultimodalDataset:
    """A data set from a training part, a test part, and perhaps a validation part; see :func:`assemble`.

    Raises:
        DataError: a part is missing, two parts share a group, or ``val_fraction`` is out of range.
    """
    found, options = dict(splits), options or SourceOptions()
    for part in ("train", "test"):
        if part not in found:
            raise DataError(f"{name} has no {part!r} part; it has {', '.join(found) or 'none'}")
    drawn = () if "val" in found else ("val",)
    if drawn:
        found["train"], found["val"] = hold_out(found["train"], task, val_fraction, seed, options)
    if options.group:
        _check_apart(name, found, options.group)
        _check_groups(name, found, drawn, options.group, val_fraction)
    parts = {part: found[part] for part in PARTS}
    return MultimodalDataset(name, parts, task, classes, dict(features) if features else None, drawn)


def guides(split: Split, task: str, options: SourceOptions) -> dict[str, Array | None]:
    """What decides beside chance which rows are split off: ``labels``, ``groups`` and ``order`` of :func:`partition`.

    Labels are the task's, such as the classes, and the columns that the options name to stratify by.

    Raises:
        DataError: one of the columns is empty in some row.
    """
    for name in options.guiding():
        if name not in split.columns:
            raise DataError(f"the rows have no column {name!r} to split them by; they have {', '.join(split.columns)}")
    columns = split.columns
    labels = [label for label in (strata(split, task),) if label is not None]
    labels += [columns[name] for name in options.stratify]
    codes = [np.unique(label, return_inverse=True)[1].reshape(-1) for label in labels]
    return {
        "labels": np.unique(np.stack(codes, axis=1), axis=0, return_inverse=True)[1].reshape(-1) if codes else None,
        "groups": columns[options.group] if options.group else None,
        "order": columns[options.order] if options.order else None,
    }


def strata(split: Split, task: str) -> Array | None:
    """The labels by which a part that is split off is stratified, or None."""
    return None if split.target is None else TASKS.get(task).targets.strata(split.target)


def hold_out(
    train: Split, task: str, val_fraction: float, seed: int, options: SourceOptions | None = None
) -> tuple[Split, Split]:
    """What stays for training, and what is held out for validation.

    Raises:
        DataError: ``val_fraction`` is out of range.
    """
    if not 0 < val_fraction < 1:
        raise DataError(f"val_fraction must be between 0 and 1, got {val_fraction}")
    by = guides(train, task, options or SourceOptions())
    if by["labels"] is not None and len(by["labels"]) != len(train):
        raise DataError(f"{len(by['labels'])} labels for {len(train)} rows")
    keep, val = partition(len(train), (1 - val_fraction, val_fraction), seed=seed, **by)
    return train.select(keep), train.select(val)


def far_off(part: int, rows: int, fraction: float) -> bool:
    """Whether a part that whole groups make has less than half or more than twice its fraction of the rows."""
    return not 0.5 * fraction <= part / max(rows, 1) <= 2 * fraction


def _check_groups(name: str, parts: Mapping[str, Split], drawn: Sequence[str], group: str, fraction: float) -> None:
    """Say that groups are too few or too large for the shares that were asked for.

    Raises:
        DataError: they leave a part empty.
    """
    for part in drawn:
        rows = len(parts["train"]) + len(parts[part])
        share = fraction if part == "val" else _TEST_FRACTION
        said = f"{name}: the groups of {group!r} are too few or too large: {part} has {len(parts[part])} of {rows} rows"
        if len(parts[part]) == 0:
            raise DataError(f"{said}; use another column, or leave out one group at a time: --cv group")
        if far_off(len(parts[part]), rows, share):
            warnings.warn(f"{said}; consider leaving out one group at a time: --cv group", stacklevel=2)


def _check_apart(name: str, parts: Mapping[str, Split], group: str) -> None:
    """Refuse parts that share a group."""
    for one, other in combinations(PARTS, 2):
        shared = np.intersect1d(parts[one].columns[group], parts[other].columns[group])
        if len(shared):
            raise DataError(
                f"{name}: {group} {shared.tolist()[0]!r} is in {one} and in {other}, as are {len(shared) - 1} more; "
                "put all rows of a group into one part, or leave the split to --group"
            )


def with_presence(
    inputs: Mapping[str, Features],
    target: Array | None = None,
    ids: Array | None = None,
    lengths: Mapping[str, NDArray[np.int64]] | None = None,
) -> Split:
    """A split whose rows that are all NaN in a modality do not have it."""
    masks = {m: missing_rows(x) for m, x in inputs.items()}
    present = {m: mask for m, mask in masks.items() if mask is not None}
    return Split(dict(inputs), present, target, ids, dict(lengths or {}))


def part_rows(values: Sequence[object], where: str) -> dict[str, Indices]:
    """Part -> rows, from a column that says ``train``, ``val`` or ``test`` (or a usual synonym) for each row.

    Rows where it is empty belong to no part.

    Raises:
        DataError: another word.
    """
    named: dict[str, list[int]] = {}
    for i, value in enumerate(values):
        text = "" if value is None else str(value).strip().lower()
        if text in ("", "nan", "none"):
            continue
        if text not in _PART_NAMES:
            raise DataError(f"{where} says {value!r} in row {i}; expected train, val or test")
        named.setdefault(_PART_NAMES[text], []).append(i)
    return {part: np.array(rows, dtype=np.intp) for part, rows in named.items()}


def mixing_task(values: NDArray[np.generic], names: Sequence[str], asked: Sequence[str]) -> str | None:
    """The task of targets of several kinds, where they are: some say so, or there is text among several columns."""
    several = 1 < len(asked) < values.shape[1] or any(a != n for a, n in zip(asked, names, strict=False))
    rows = values[~without_target(values)]
    text = values.shape[1] > 1 and values.dtype.kind in "OUS" and not (len(rows) and are_recognized(rows, names))
    if not (several and len(asked) > 1) and not text:
        return None
    return next((kind.name for kind in TASKS.parts() if kind.targets.mixes), None)


def without_target(values: NDArray[np.generic], mixed: bool = False) -> NDArray[np.bool_]:
    """Bool ``(n,)``: rows of the target columns ``(n, K)`` of which a cell is empty, of mixed ones all."""
    cells = [[v is None or v == "" or v != v for v in row] for row in values]  # noqa: PLR0124
    empty = np.array(cells, dtype=np.bool_).reshape(values.shape)
    return np.asarray(empty.all(axis=1) if mixed else empty.any(axis=1))


def with_unlabelled(dataset: MultimodalDataset, rest: Split, options: SourceOptions) -> MultimodalDataset:
    """A data set with further training rows that have no target: they weigh nothing in the task's loss.

    Args:
        dataset: of the rows that have one.
        rest: the others; their targets are any.
        options: name the groups; rows of a group that is validated or tested on are left out.
    """
    train = dataset.splits["train"]
    if options.group:
        held = [dataset.splits[part].columns[options.group] for part in ("val", "test")]
        rest = rest.select(np.flatnonzero(~np.isin(rest.columns[options.group], np.concatenate(held))))
    rest = replace(rest, weight=np.zeros(len(rest), dtype=np.float32))
    both = replace(train, weight=np.ones(len(train), dtype=np.float32)).joined(rest)
    return replace(dataset, splits={**dataset.splits, "train": both})


def encode_target(
    values: NDArray[np.generic], task: str | None, names: Sequence[str], asked: Sequence[str] = ()
) -> tuple[Array, str, tuple[str, ...] | None]:
    """Targets as a task needs them.

    Args:
        values: ``(n, K)`` numbers or text.
        task: the task, or None to infer it: a time and an event are survival, several columns of 0 and 1 are labels,
            other numbers in several columns or with more than 20 different values quantities, anything else classes.
        names: of the columns.
        asked: the targets as they were asked for, where one may have several columns, or say its kind.

    Returns:
        The encoded targets, the task, and the names of classes or targets.

    Raises:
        DataError: a missing value, text in several columns, or values that do not fit the task.
    """
    text = values.dtype.kind in "OUS"
    task = mixing_task(values, names, asked) if task is None else task
    mixed = task is not None and TASKS.get(task).targets.mixes
    empty = without_target(values, mixed)
    if empty.any():
        raise DataError(f"target {', '.join(names)} is empty in {int(empty.sum())} of {len(values)} rows")
    task = infer_task(values, names) if task is None else task
    if values.shape[1] > 1 and text and not TASKS.get(task).targets.words:
        raise DataError(f"targets in several columns ({', '.join(names)}) must be numbers")
    target, classes = TASKS.get(task).targets.encode(values, list(asked or names) if mixed else names, task)
    return target, task, classes


def needs_target(task: str | None) -> bool:
    """Whether a source has to have a target; only a task that was named can do without."""
    return task is None or not TASKS.get(task).targets.optional


def usual_targets(columns: Sequence[str], task: str | None) -> list[str]:
    """The columns that are by their names plainly the targets of a task, or of any where none is named; [] for none."""
    kinds = TASKS.parts() if task is None else [TASKS.get(task)]
    return next((found for kind in kinds if (found := kind.targets.usual(columns))), [])


def are_recognized(values: NDArray[np.generic], names: Sequence[str]) -> bool:
    """Whether values and names of columns say of which task they are the targets."""
    return any(kind.recognizes(values, names) for kind in TASKS.parts())


def infer_task(values: NDArray[np.generic], names: Sequence[str] = ()) -> str:
    """The one task that says of targets ``(n, K)`` that they are its own.

    Raises:
        InputError: none does, or several do.
    """
    by_name = [kind.name for kind in TASKS.parts() if kind.recognizes(values, names)]
    if len(by_name) == 1:
        return by_name[0]
    found = [kind.name for kind in TASKS.parts() if kind.infers(values)]
    if len(found) != 1:
        raise InputError(f"the target may be for {' or '.join(found) or 'no known task'}; say which with task")
    return found[0]


def typed_target(target: Array, task: str) -> Array:
    """Targets that are numbers already, in the dtype of their task.

    Raises:
        DataError: text, or values that do not fit the task.
        UnknownNameError: an unknown task.
    """
    return TASKS.get(task).targets.typed(target)
