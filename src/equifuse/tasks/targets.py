"""Targets of tasks: how they are read from a table, checked and counted. NumPy only, because data sets use it."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equifuse.errors import DataError

Array = NDArray[np.generic]
Floats = NDArray[np.floating[Any]]
# A number with more distinct values than this is a quantity, not a class.
_MOST_CLASSES = 20
# A feature with at most this many different values is judged by them, not by its order.
_FEW = 50
# A correlation with the target beyond this is the target.
_SAME = 0.9999
# Rounding beyond this part of a target's deviation is too much.
_ROUNDING = 0.01
# So many classes or targets are named in one line.
_LISTED = 20


class Targets(ABC):
    """Base of the kinds of targets: how they are read, checked and counted. A task has one as ``targets``.

    >>> isinstance(Classification.targets, Targets)
    True

    Attributes:
        optional: whether a data set may have none at all.
        outputs_called: what the outputs of a model of them are called, in the plural.
        words: whether one of several columns may hold text.
        mixes: whether they are of several kinds, any of which a row may lack.
        named: whether the names of the outputs, which there always are, say how many there are.
    """

    optional: bool = False
    outputs_called: str = "outputs"
    words: bool = False
    mixes: bool = False
    named: bool = False

    @abstractmethod
    def encode(self, values: Array, names: Sequence[str], task: str) -> tuple[Array, tuple[str, ...] | None]:
        """Targets from the columns of a table.

        Args:
            values: ``(n, K)`` numbers, or text (of which several columns are for survival alone); nothing is empty.
            names: of the columns.
            task: name of the task, for messages.

        Returns:
            The targets, and the names of classes or targets, or None where outputs have no names.

        Raises:
            DataError: values that do not fit.
        """

    def recoded(self, target: Array, names: tuple[str, ...] | None, known: tuple[str, ...] | None, where: str) -> Array:
        """Targets of another source as a trained model numbers them.

        Args:
            target: as this task has it.
            names: of the source's classes or targets, or None.
            known: the model's.
            where: the source, for messages.

        Raises:
            DataError: other classes, or another number of targets.
        """
        if known is not None and target.reshape(len(target), -1).shape[1] != len(known):
            raise DataError(f"{where} has {target.shape[-1]} targets, the model has {len(known)}: {', '.join(known)}")
        return target

    def asked(self, columns: Sequence[str], known: tuple[str, ...] | None) -> list[str]:
        """The targets of a trained model as :meth:`encode` wants them, from how they are called in another source."""
        return list(columns)

    def usual(self, columns: Sequence[str]) -> list[str]:
        """The columns of a table that are plainly such targets by their names, where none is named; [] for none."""
        return []

    @abstractmethod
    def typed(self, target: Array) -> Array:
        """Targets that are numbers already, in the dtype and shape that the task needs.

        Raises:
            DataError: text, or values that do not fit.
        """

    @abstractmethod
    def check(self, parts: Mapping[str, Array], classes: tuple[str, ...] | None, task: str) -> None:
        """Raise an error for targets that the task cannot be trained or measured with.

        Args:
            parts: ``"train"``, ``"val"`` and ``"test"`` -> targets.
            classes: names of classes or targets, or None.
            task: name of the task, for messages.

        Raises:
            DataError: the message names the part.
        """

    @abstractmethod
    def n_outputs(self, target: Array) -> int:
        """How many outputs a model of these targets has."""

    def columns(self, target: Array, names: tuple[str, ...] | None) -> dict[str, Array]:
        """Targets as named columns ``(n,)`` for a table, in the words of the source.

        Args:
            target: as the task has it.
            names: of classes or targets, or None.
        """
        columns = target.reshape(len(target), -1).T
        if len(columns) == 1:
            return {"target": columns[0]}
        return {f"target_{names[k] if names else k}": column for k, column in enumerate(columns)}

    def strata(self, target: Array) -> Array | None:
        """Labels ``(n,)`` for a stratified split, or None."""
        return None

    def shares(self, target: Array) -> NDArray[np.float64] | None:
        """Share of each class or label ``(K,)`` among the samples, or None where there are none."""
        return None

    def response(self, target: Array) -> tuple[Array | None, bool]:
        """What selects features: values ``(n,)`` or ``(n, K)`` or None, and whether they are classes."""
        return None, False

    def told_by(self, feature: Floats, target: Array) -> bool:
        """Whether a single feature ``(n,)`` says what the target is, which is suspicious."""
        return False

    def understood(self, target: Array, names: tuple[str, ...] | None) -> str:
        """One line on what all samples' targets are, for people who check what was read.

        Args:
            target: of all samples.
            names: of the classes or targets, or None.
        """
        return f"targets: {self.outputs_called}"


class Classes(Targets):
    """One class of each sample: int64 ``(n,)`` from 0 without gaps. Text and whole numbers are encoded.

    Example:
        >>> import numpy as np
        >>> codes, names = Classes().encode(np.array([["yes"], ["no"], ["yes"]]), ["answer"], "classification")
        >>> codes.tolist(), names
        ([1, 0, 1], ('no', 'yes'))
    """

    outputs_called = "classes"

    def encode(self, values: Array, names: Sequence[str], task: str) -> tuple[Array, tuple[str, ...] | None]:
        """See :meth:`Targets.encode`; classes are sorted."""
        if values.shape[1] > 1:
            raise DataError(f"task {task!r} needs one target column, got {', '.join(names)}")
        column, text = values[:, 0], is_text(values)
        if not text and np.array_equal(column, np.floor(column.astype(float))):
            column = column.astype(np.int64)
        elif not text:
            raise DataError(f"target {names[0]} holds numbers such as {column[0]}, which are no classes")
        classes, codes = np.unique(column, return_inverse=True)
        return codes.astype(np.int64), tuple(str(c) for c in classes)

    def recoded(self, target: Array, names: tuple[str, ...] | None, known: tuple[str, ...] | None, where: str) -> Array:
        """By the names of the classes; a source may lack some of the model's."""
        if names is None or known is None:
            return target
        unknown = [name for name in names if name not in known]
        if unknown:
            count = int(np.isin(target, [names.index(name) for name in unknown]).sum())
            raise DataError(
                f"{where}: {count} rows have classes that the model does not know, such as {unknown[0]!r}; it has "
                f"{', '.join(known)}"
            )
        places = np.array([known.index(name) for name in names], dtype=np.int64)
        return places[target.astype(np.int64)]

    def typed(self, target: Array) -> Array:
        """int64 ``(n,)``."""
        _need_numbers(target)
        if target.dtype.kind == "f" and not np.array_equal(target, np.floor(target.astype(np.float64))):
            raise DataError(f"class labels must be whole numbers, got values such as {target[0]}")
        return target.astype(np.int64)

    def check(self, parts: Mapping[str, Array], classes: tuple[str, ...] | None, task: str) -> None:
        """Every class occurs in the training part, they are numbered from 0, and there are two at least."""
        for part, target in parts.items():
            if target.ndim != 1 or target.dtype.kind not in "iu":
                raise DataError(
                    f"labels of split {part!r} must be integers (n,), got {target.dtype} of shape {target.shape}"
                )
        seen = np.unique(parts["train"])
        if seen[0] < 0:
            raise DataError(f"labels must start at 0, got {seen[0]}")
        for part, target in parts.items():
            unseen = np.setdiff1d(target, seen)
            if len(unseen):
                known = classes is not None and 0 <= unseen[0] < len(classes)
                name = repr(classes[int(unseen[0])]) if known and classes is not None else str(unseen[0])
                raise DataError(f"class {name} of split {part!r} does not occur in 'train'")
        expected = len(classes) if classes else int(seen[-1]) + 1
        if len(seen) != expected or seen[-1] != expected - 1:
            gaps = np.flatnonzero(seen != np.arange(len(seen)))
            absent = int(gaps[0]) if len(gaps) else len(seen)
            raise DataError(
                f"labels must run from 0 to {expected - 1} without gaps in 'train'; "
                + (f"{absent} is missing" if absent < expected else f"{seen[-1]} is too large")
            )
        if expected == 1:
            raise DataError(
                f"'train' has only one class, {classes[0] if classes else 0!r}; there is nothing to tell apart"
            )

    def columns(self, target: Array, names: tuple[str, ...] | None) -> dict[str, Array]:
        """The names of the classes."""
        return {"target": target if names is None else np.asarray(names)[target]}

    def n_outputs(self, target: Array) -> int:
        """The number of classes."""
        return int(target.astype(np.int64).max()) + 1

    def strata(self, target: Array) -> Array | None:
        """The classes."""
        return target

    def understood(self, target: Array, names: tuple[str, ...] | None) -> str:
        """The classes and how many samples each has."""
        counts = np.bincount(target.astype(np.int64))
        return "classes: " + listed(f"{names[i] if names else i}: {n:,}" for i, n in enumerate(counts))

    def response(self, target: Array) -> tuple[Array | None, bool]:
        """The classes."""
        return target, True

    def shares(self, target: Array) -> NDArray[np.float64] | None:
        """Share of each class."""
        return np.asarray(np.bincount(target.astype(np.int64)) / len(target), dtype=np.float64)

    def told_by(self, feature: Floats, target: Array) -> bool:
        """Whether the classes do not overlap in the feature."""
        different = np.unique(feature)
        if len(different) <= _FEW:
            if len(different) == len(feature):
                return False  # every sample has its own value: so few say nothing
            return all(len(np.unique(target[feature == v])) == 1 for v in different)
        spans = sorted(
            (float(feature[target == c].min()), float(feature[target == c].max())) for c in np.unique(target)
        )
        return all(a[1] < b[0] for a, b in pairwise(spans))


class OptionalClasses(Classes):
    """Labels ``(n,)`` like :class:`Classes`, but not predicted, and not required; for retrieval.

    >>> OptionalClasses().optional
    True
    """

    optional = True

    def strata(self, target: Array) -> Array | None:
        """None: what is split off is not stratified."""
        return None

    def told_by(self, feature: Floats, target: Array) -> bool:
        """Never: nothing is predicted of them."""
        return False


def in_single_precision(values: Array, names: Sequence[str] | None = None) -> NDArray[np.float32]:
    """Numbers ``(n, K)`` as float32, in which models count.

    >>> in_single_precision(np.array([[1e9], [1e9 + 1]]), ["paid_at"])
    Traceback (most recent call last):
    ...
    equifuse.errors.DataError: target 'paid_at' runs from 1000000000 to 1000000001, ...; subtract 1000000000 from it

    Raises:
        DataError: the rounding is more than a hundredth of a column's deviation.
    """
    exact = values.astype(np.float64)
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as such
        rounded = exact.astype(np.float32)
    finite = np.isfinite(exact) & np.isfinite(rounded)
    for j, has in enumerate(finite.T):
        known = exact[has, j]
        if len(known) and np.abs(known - rounded[has, j]).max() > _ROUNDING * known.std() > 0:
            called = f"target {names[j]!r}" if names else f"target {j}"
            raise DataError(
                f"{called} runs from {known.min():.12g} to {known.max():.12g}, which single precision does not tell "
                f"apart; subtract {known.min():.12g} from it"
            )
    return rounded


class Quantities(Targets):
    """One or several numbers of each sample: float32 ``(n, K)``.

    Example:
        >>> import numpy as np
        >>> values, names = Quantities().encode(np.array([[1.5, 3.0], [2.0, 4.0]]), ["height", "age"], "regression")
        >>> values.shape, names
        ((2, 2), ('height', 'age'))
    """

    def encode(self, values: Array, names: Sequence[str], task: str) -> tuple[Array, tuple[str, ...] | None]:
        """See :meth:`Targets.encode`; a column is a target."""
        if is_text(values):
            raise DataError(f"target {names[0]} holds text such as {values[0, 0]!r}; task {task!r} needs numbers")
        return in_single_precision(values, names), tuple(names)

    def typed(self, target: Array) -> Array:
        """float32 ``(n, K)``."""
        _need_numbers(target)
        return in_single_precision(target.reshape(len(target), -1))

    def check(self, parts: Mapping[str, Array], classes: tuple[str, ...] | None, task: str) -> None:
        """Finite numbers in two axes, which are not all the same in the training part."""
        for part, target in parts.items():
            values = target.astype(np.float64)
            if target.ndim != 2 or not np.isfinite(values).all():
                raise DataError(f"targets of split {part!r} must be finite numbers (n, K), got shape {target.shape}")
            self.check_values(values, part, task)

    def check_values(self, values: NDArray[np.float64], part: str, task: str) -> None:
        """Refuse finite numbers ``(n, K)`` that are no such targets; by default those that are constant in training.

        Raises:
            DataError: naming the part.
        """
        if part == "train" and len(values) > 1 and (values == values[0]).all():
            said = ", ".join(f"{value:g}" for value in values[0])
            raise DataError(f"the target has one value only in 'train', {said}; there is nothing to predict")

    def n_outputs(self, target: Array) -> int:
        """The number of targets."""
        return int(target.shape[1])

    def understood(self, target: Array, names: tuple[str, ...] | None) -> str:
        """Each target's range."""
        columns = target.astype(np.float64).T
        called = names or tuple(f"target {i}" for i in range(len(columns)))
        spans = (f"{n} from {y.min():g} to {y.max():g}" for n, y in zip(called, columns, strict=True))
        return "quantities: " + listed(spans)

    def response(self, target: Array) -> tuple[Array | None, bool]:
        """The quantities."""
        return target, False

    def told_by(self, feature: Floats, target: Array) -> bool:
        """Whether the feature is an affine function of a target."""
        x = feature - feature.mean(dtype=np.float64)
        size = np.linalg.norm(x)
        return any(
            size * np.linalg.norm(y - y.mean()) > 0
            and abs(x @ (y - y.mean())) / (size * np.linalg.norm(y - y.mean())) > _SAME
            for y in target.astype(np.float64).T
        )


class Labels(Quantities):
    """Targets of multilabel classification: any number of labels of each sample, float32 ``(n, K)``, 0 or 1.

    >>> Labels().shares(np.array([[1.0, 0.0], [1.0, 1.0]], np.float32)).tolist()
    [1.0, 0.5]
    """

    def check_values(self, values: NDArray[np.float64], part: str, task: str) -> None:
        """Zeros and ones."""
        if not np.isin(values, (0, 1)).all():
            raise DataError(f"{task} targets of split {part!r} must be 0 or 1")

    def understood(self, target: Array, names: tuple[str, ...] | None) -> str:
        """How many samples have each label."""
        counts = target.astype(np.int64).sum(axis=0)
        return "labels: " + listed(f"{names[i] if names else i}: {n:,}" for i, n in enumerate(counts))

    def response(self, target: Array) -> tuple[Array | None, bool]:
        """Each label is a pair of classes."""
        return target, True

    def shares(self, target: Array) -> NDArray[np.float64] | None:
        """Share of each label; they do not add up to 1."""
        return np.asarray(target.astype(np.float64).mean(axis=0), dtype=np.float64)

    def told_by(self, feature: Floats, target: Array) -> bool:
        """Not looked at."""
        return False


class EventTimes(Quantities):
    """Targets of survival: the time of each sample, and whether its event was seen then: float32 ``(n, 2)``.

    >>> EventTimes().n_outputs(np.array([[5.0, 1.0], [3.0, 0.0]], np.float32))  # the model has one output, the risk
    1

    The second column is 1 if the event was seen at that time, and 0 if the sample was still without it.
    """

    words = True

    def usual(self, columns: Sequence[str]) -> list[str]:
        """The one column called like a time and the one called like an event: ``OS_MONTHS`` and ``OS_STATUS``."""
        return event_columns(columns)

    def encode(self, values: Array, names: Sequence[str], task: str) -> tuple[Array, tuple[str, ...] | None]:
        """See :meth:`Targets.encode`; time and event in any order, the event in numbers or words."""
        return event_times(values, names, task), None

    def check_values(self, values: NDArray[np.float64], part: str, task: str) -> None:
        """Times of at least 0, events 0 or 1, and an event in the training part: there is nothing to learn else."""
        fits = values.shape[1] == 2 and bool((values[:, 0] >= 0).all()) and bool(np.isin(values[:, 1], (0, 1)).all())
        if not fits:
            raise DataError(
                f"{task} targets of split {part!r} must be (n, 2): time of at least 0, and event 0 or 1, in this order"
            )
        if part == "val" and not values[:, 1].any():
            raise DataError(
                "nobody in 'val' has the event, so training could not tell when to stop; give it other rows"
            )
        if part == "train" and not values[:, 1].any():
            raise DataError("nobody in 'train' has the event: there is nothing to learn from")

    def columns(self, target: Array, names: tuple[str, ...] | None) -> dict[str, Array]:
        """The time, and whether the event was seen then."""
        return {"time": target[:, 0], "event": target[:, 1]}

    def strata(self, target: Array) -> Array | None:
        """Whether the event was seen: a part without events can neither be learnt from nor measured."""
        return target[:, 1]

    def n_outputs(self, target: Array) -> int:
        """One, the risk."""
        return 1

    def understood(self, target: Array, names: tuple[str, ...] | None) -> str:
        """How many have the event, and how long they were followed."""
        time, event = target[:, 0].astype(np.float64), target[:, 1].astype(bool)
        return (
            f"survival: {int(event.sum()):,} of {len(event):,} have the event; times from {time.min():g} to "
            f"{time.max():g}, median {np.median(time):g}"
        )

    def response(self, target: Array) -> tuple[Array | None, bool]:
        """Martingale residuals of the model without features: events minus cumulative hazard (Nelson-Aalen)."""
        time, event = target[:, 0].astype(np.float64), target[:, 1].astype(np.float64)
        order = np.argsort(time, kind="stable")
        ends = np.searchsorted(time[order], time, side="right")  # everything up to and with one's own time
        starts = np.searchsorted(time[order], time[order], side="left")
        hazard = np.cumsum(event[order] / (len(time) - starts))
        return event - hazard[ends - 1], False

    def told_by(self, feature: Floats, target: Array) -> bool:
        """Not looked at."""
        return False


def listed(entries: Iterable[str]) -> str:
    """The first entries, and how many more there are."""
    every = list(entries)
    return ", ".join(every[:_LISTED]) + (f" and {len(every) - _LISTED} more" if len(every) > _LISTED else "")


def is_text(values: Array) -> bool:
    """Whether an array holds text."""
    return values.dtype.kind in "OUS"


def are_classes(values: Array) -> bool:
    """Whether columns of a table ``(n, K)`` look like classes: one column, of text or of few whole numbers."""
    if values.shape[1] > 1 or is_text(values):
        return bool(values.shape[1] == 1)
    numbers = values.astype(float)
    return bool(np.array_equal(numbers, np.floor(numbers))) and len(np.unique(numbers)) <= _MOST_CLASSES


def are_labels(values: Array) -> bool:
    """Whether columns of a table ``(n, K)`` look like labels: several columns of 0 and 1."""
    return values.shape[1] > 1 and not is_text(values) and bool(np.isin(values.astype(float), (0, 1)).all())


def are_quantities(values: Array) -> bool:
    """Whether columns of a table ``(n, K)`` look like quantities: numbers, and nothing of the above."""
    return not (is_text(values) or are_classes(values) or are_labels(values))


_TIME_NAME = re.compile(r"time|days|months|years|survival|follow.?up|duration|tte", re.IGNORECASE)
_EVENT_NAME = re.compile(
    r"event|status|dead|death|deceased|vital|censor|observed|relapse|recurr|progress", re.IGNORECASE
)
# Endpoints of oncology: XX or XX.event beside XX.time, or XX_STATUS beside XX_MONTHS.
_ENDPOINT = re.compile(r"(OS|PFS|DFS|DFI|PFI|DSS|RFS|EFS|MFS)", re.IGNORECASE)
_NO_EVENT = ("0", "0.0", "no", "n", "false", "alive", "living", "censored", "diseasefree", "none", "lebt")
_EVENT = ("1", "1.0", "yes", "y", "true", "dead", "deceased", "died", "event", "relapsed", "recurred", "progressed")
_EVENT_MARK = re.compile(r"([01])\s*:.*")


def event_columns(columns: Sequence[str]) -> list[str]:
    """The column of times and that of events among the columns of a table, by their names; [] unless each is one.

    >>> event_columns(["id", "OS_MONTHS", "OS_STATUS", "g_1"]), event_columns(["OS", "OS.time", "PFI", "PFI.time"])
    (['OS_MONTHS', 'OS_STATUS'], [])
    """
    times = [c for c in columns if _TIME_NAME.search(c) and not re.search("status", c, re.IGNORECASE)]
    events = [c for c in columns if (_EVENT_NAME.search(c) or _ENDPOINT.fullmatch(c)) and c not in times]
    return [times[0], events[0]] if len(times) == len(events) == 1 else []


def as_events(values: Array) -> NDArray[np.float64] | None:
    """A column of events as 0 and 1, from numbers or words such as ``DECEASED`` and ``0:LIVING``; None if it is none.

    >>> as_events(np.array(["1:DECEASED", "0:LIVING", "living"], dtype=object)).tolist()
    [1.0, 0.0, 0.0]
    """
    if all(isinstance(v, int | float) for v in values.tolist()):
        numbers = values.astype(np.float64)
        return numbers if bool(np.isin(numbers, (0, 1)).all()) else None
    marked = [_EVENT_MARK.sub(r"\1", str(v).strip()).casefold().replace(" ", "") for v in values]
    if not all(word in _NO_EVENT or word in _EVENT for word in marked):
        return None
    return np.array([float(word in _EVENT) for word in marked])


def are_event_times(values: Array, names: Sequence[str]) -> bool:
    """Whether two columns ``(n, 2)`` are plainly a time and an event: the event in words, or both by their names."""
    if values.shape[1] != 2:
        return False
    events = [as_events(values[:, k]) for k in range(2)]
    if (events[0] is None) == (events[1] is None):
        return False
    k = 0 if events[0] is not None else 1
    if not _are_times(values[:, 1 - k]):
        return False
    words = not all(isinstance(v, int | float) for v in values[:, k].tolist())
    return words or event_columns(names) == [names[1 - k], names[k]]


def event_times(values: Array, names: Sequence[str], task: str) -> NDArray[np.float32]:
    """Time and event ``(n, 2)`` of two columns in any order.

    >>> event_times(np.array([[1.0, 5.0], [0.0, 7.5]]), ["status", "days"], "survival").tolist()
    [[5.0, 1.0], [7.5, 0.0]]

    Raises:
        DataError: not two columns, or columns that are no time and no event.
    """
    if values.shape[1] != 2:
        raise DataError(
            f"task {task!r} needs two target columns, the time and the event, got {', '.join(names)}; pass --target "
            "TIME --target EVENT"
        )
    events = [as_events(values[:, k]) for k in (0, 1)]
    k = 1 if events[1] is not None else 0
    event, time = events[k], values[:, 1 - k]
    if event is None:
        likely = 1 if is_text(values) or len(set(values[:, 1])) <= len(set(values[:, 0])) else 0
        some = ", ".join(sorted({f"{v:g}" if isinstance(v, float) else str(v) for v in values[:, likely].tolist()})[:4])
        raise DataError(
            f"column {names[likely]!r} is to say whether the event was seen, but has {some}; write 1 for those who had "
            "it and 0 for the others, or DECEASED and LIVING"
        )
    if not _are_times(time):
        odd = next(v for v in time.tolist() if not isinstance(v, int | float) or v < 0)
        raise DataError(f"column {names[1 - k]!r} is to be the time, of at least 0, but has {odd!r}")
    return np.stack([time.astype(np.float64), event], axis=1).astype(np.float32)


def _are_times(values: Array) -> bool:
    return all(isinstance(v, int | float) and v >= 0 for v in values.tolist())


def _need_numbers(target: Array) -> None:
    if target.dtype.kind not in "fiub":
        raise DataError(f"labels must be numbers, got {target.dtype}; encode classes as 0, 1, ...")
