"""Several targets of different kinds in one model: classes, quantities and times to events."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from equifuse.errors import DataError, InputError, UnknownNameError
from equifuse.tasks.base import Columns, Task, needed
from equifuse.tasks.classification import Classification
from equifuse.tasks.metrics import LOSS, Measurement, Metric
from equifuse.tasks.regression import Regression
from equifuse.tasks.survival import Survival
from equifuse.tasks.targets import Array, Targets, are_classes

Floats = NDArray[np.float64]
_KINDS: dict[str, type[Task]] = {kind.name: kind for kind in (Classification, Regression, Survival)}
_TIMES = re.compile(r"risk\((.*),(.*)\)")
# In the place of weights.
LEARNT = "learnt"
# Quantities are squared errors of a normal distribution, half of which is its negative log-likelihood.
_HALF = 0.5


@dataclass(frozen=True)
class Part:
    """One of several targets.

    >>> parts_of(("type=A", "type=B", "age", "risk(days,died)"))[2].columns
    ('days', 'died')

    Attributes:
        kind: name of its task.
        columns: of the source: one, or time and event.
        classes: names of its classes, or None.
        outputs: which of the model's.
        places: which columns of the targets.
    """

    kind: str
    columns: tuple[str, ...]
    classes: tuple[str, ...] | None
    outputs: slice
    places: slice

    @property
    def name(self) -> str:
        """What it is called: its column, of times to events the time's."""
        return self.columns[0]

    @property
    def asked(self) -> str:
        """How it is asked for."""
        return f"{','.join(self.columns)}:{self.kind}"

    def of(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Rows that have it, bool ``(B,)``, and its targets in these rows, as its own task has them."""
        some = target[:, self.places]
        here = ~some.isnan().any(1)
        some = some[here]
        return here, some[:, 0].long() if self.classes is not None else some


def parts_of(outputs: Sequence[str]) -> tuple[Part, ...]:
    """The targets that outputs of these names are of: ``type=A`` of a class, ``age``, ``risk(time,event)``."""
    grouped: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for output in outputs:
        times, (name, is_class, value) = _TIMES.fullmatch(output), output.partition("=")
        if times:
            grouped[Survival.name, (times[1], times[2])] = []
        elif is_class:
            grouped.setdefault((Classification.name, (name,)), []).append(value)
        else:
            grouped[Regression.name, (output,)] = []
    found, first, place = [], 0, 0
    for (kind, columns), classes in grouped.items():
        count = len(classes) or 1
        names = tuple(classes) if kind == Classification.name else None
        found.append(Part(kind, columns, names, slice(first, first + count), slice(place, place + len(columns))))
        first, place = first + count, place + len(columns)
    return tuple(found)


def _outputs_of(part: Part) -> list[str]:
    if part.kind == Survival.name:
        return [f"risk({','.join(part.columns)})"]
    return [f"{part.name}={name}" for name in part.classes] if part.classes is not None else [part.name]


class Mixture(Targets):
    """Several targets of different kinds: float ``(n, C)``, NaN where a row does not have one.

    >>> values = np.array([["A", 40.0], ["B", np.nan]], dtype=object)
    >>> target, outputs = Mixture().encode(values, ["type", "age:regression"], "several")
    >>> target.tolist(), outputs
    ([[0.0, 40.0], [1.0, nan]], ('type=A', 'type=B', 'age'))

    The names of outputs say what the targets are, see :func:`parts_of`.
    """

    outputs_called = "outputs"
    words = True
    mixes = True

    def encode(self, values: Array, names: Sequence[str], task: str) -> tuple[Array, tuple[str, ...] | None]:
        """See :meth:`Targets.encode`; a name may be ``time,event``, and end with its kind, as in ``grade:regression``.

        Raises:
            DataError: no row has one of them, or its values do not fit.
        """
        found, outputs, place = [], [], 0
        for asked in names:
            columns, kind = _asked(asked)
            some = values[:, place : place + len(columns)]
            place += len(columns)
            odd = next((c for c in columns if re.search(r"[=(),]", c)), None)
            if odd is not None:
                raise DataError(f"target {odd!r} has a sign of '=(),' in its name; rename the column")
            here = ~_empty(some).any(axis=1)
            if not here.any():
                raise DataError(f"target {', '.join(columns)} is empty in all {len(values)} rows")
            cells = _typed(some[here])
            kind = kind or (Survival.name if len(columns) > 1 else _kind(cells))
            codes, classes = _KINDS[kind].targets.encode(cells, columns, kind)
            part = np.full((len(values), len(columns)), np.nan, dtype=np.float32)
            part[here] = np.asarray(codes, dtype=np.float32).reshape(int(here.sum()), -1)
            found.append(part)
            outputs += _outputs_of(
                Part(kind, tuple(columns), classes if kind == Classification.name else None, slice(0), slice(0))
            )
        if place != values.shape[1]:
            raise DataError(f"{values.shape[1]} target columns for {', '.join(names)}")
        repeated = next((name for name in outputs if outputs.count(name) > 1), None)
        if repeated is not None:
            raise DataError(f"target {repeated!r} is named twice")
        return np.concatenate(found, axis=1), tuple(outputs)

    def asked(self, columns: Sequence[str], known: tuple[str, ...] | None) -> list[str]:
        """The targets of a trained model as they are asked for, with the kinds of training."""
        parts = parts_of(known or ())
        if len(columns) != len(parts):
            return list(columns)
        return [f"{','.join(_asked(name)[0])}:{part.kind}" for name, part in zip(columns, parts, strict=True)]

    def recoded(self, target: Array, names: tuple[str, ...] | None, known: tuple[str, ...] | None, where: str) -> Array:
        """Each by its place; a class by its name."""
        here, there = parts_of(names or ()), parts_of(known or ())
        if [part.kind for part in here] != [part.kind for part in there]:
            raise DataError(
                f"{where} has the targets {', '.join(p.asked for p in here)}, the model has "
                f"{', '.join(p.asked for p in there)}"
            )
        found = np.array(target, dtype=np.float32)
        for own, other in zip(here, there, strict=True):
            if own.classes is None:
                continue
            column = found[:, own.places.start]
            rows = ~np.isnan(column)
            codes = column[rows].astype(np.int64)
            column[rows] = Classification.targets.recoded(codes, own.classes, other.classes, where)
        return found

    def typed(self, target: Array) -> Array:
        """float32 ``(n, C)``."""
        if target.dtype.kind not in "fiub" or target.ndim != 2:
            raise DataError(f"several targets must be numbers (n, C), got {target.dtype} of shape {target.shape}")
        return target.astype(np.float32)

    def check(self, parts: Mapping[str, Array], classes: tuple[str, ...] | None, task: str) -> None:
        """Every target as its own task asks, over the rows that have it."""
        if classes is None:
            raise DataError(f"task {task!r} needs the names of its outputs, such as type=A, type=B, age")
        for each in parts_of(classes):
            own: dict[str, Array] = {}
            for part, target in parts.items():
                if target.ndim != 2 or each.places.stop > target.shape[1]:
                    raise DataError(f"targets of split {part!r} must be (n, C) for {', '.join(classes)}")
                some = target[:, each.places].astype(np.float64)
                some = some[~np.isnan(some).any(axis=1)]
                if len(some):
                    own[part] = some[:, 0].astype(np.int64) if each.classes is not None else some
            if "train" not in own:
                raise DataError(f"no row of 'train' has the target {each.name!r}")
            try:
                _KINDS[each.kind].targets.check(own, each.classes, each.kind)
            except DataError as error:
                raise DataError(f"target {each.name!r}: {error}") from None

    def n_outputs(self, target: Array) -> int:
        """At least one for each; a data set has the names of all."""
        return int(target.shape[1])

    def columns(self, target: Array, names: tuple[str, ...] | None) -> dict[str, Array]:
        """Each under its name; a class by its name, empty where a row has none."""
        found: dict[str, Array] = {}
        for part in parts_of(names or ()):
            for k, column in enumerate(part.columns):
                values = target[:, part.places.start + k]
                if part.classes is None:
                    found[f"target_{column}"] = values
                else:
                    known = np.array([*part.classes, ""])
                    found[f"target_{column}"] = known[np.nan_to_num(values, nan=len(part.classes)).astype(np.int64)]
        return found

    def strata(self, target: Array) -> Array | None:
        """The first target of few values, what has none of them apart."""
        for column in target.astype(np.float64).T:
            if are_classes(column[~np.isnan(column)][:, None]):
                codes: Array = np.nan_to_num(column, nan=-1.0).astype(np.int64)
                return codes
        return None

    def understood(self, target: Array, names: tuple[str, ...] | None) -> str:
        """Each target on its own, and how many rows have it."""
        said = []
        for part in parts_of(names or ()):
            some = target[:, part.places]
            some = some[~np.isnan(some.astype(np.float64)).any(axis=1)]
            own = some[:, 0].astype(np.int64) if part.classes is not None else some
            line = _KINDS[part.kind].targets.understood(own, part.classes or part.columns)
            lacking = len(target) - len(some)
            said.append(f"target {part.name}: {line}" + (f" (missing in {lacking:,} rows)" if lacking else ""))
        return "; ".join(said)


class Several(Task):
    """Several targets of different kinds at once: classes, quantities and times to events (multi-task learning).

    >>> task = Several(classes=("type=A", "type=B", "age"))
    >>> outputs = torch.tensor([[2.0, 0.0, 50.0], [0.0, 2.0, 40.0]])
    >>> target = torch.tensor([[0.0, 52.0], [1.0, float("nan")]])  # the second has no age
    >>> found = task.metrics(outputs, target)
    >>> found["accuracy type"], found["mae age"]
    (1.0, 2.0)

    The model has the outputs of all of them, and each has the loss and the metrics of its own task, over the rows that
    have its label. The loss is their weighted sum; the squared error of a quantity counts in variances of the training
    part. With ``target_weight="learnt"`` the weights are trained along as ``exp(-s)``, and ``s / 2`` is added, where
    ``s`` is the logarithm of the variance of the target's noise (Kendall, Gal & Cipolla 2018, equation 10). What is
    reported as ``loss`` has no such weights. Metrics are called ``"<metric> <target>"``.

    Args:
        classes: names of the outputs, which say what the targets are, see :func:`parts_of`.
        spreads: what errors of each output are counted in, of quantities their deviation in the training part; None for
            1.
        target_weight: target -> factor of its loss, ≥ 0, default 1; or ``"learnt"``.

    Raises:
        InputError: no names of outputs, or a factor that is none.
        UnknownNameError: a factor of a target that there is not.
    """

    name: ClassVar[str] = "several"
    targets: ClassVar[Targets] = Mixture()
    headline = "loss"
    values: ClassVar[tuple[str, ...]] = ("output",)

    def __init__(
        self,
        classes: tuple[str, ...] | None = None,
        spreads: Sequence[float] | None = None,
        target_weight: Mapping[str, float] | str | None = None,
    ) -> None:
        super().__init__(classes)
        if not classes:
            raise InputError("several targets need the names of their outputs, such as type=A, type=B, age")
        self.parts = parts_of(classes)
        self.spreads = list(spreads) if spreads else [1.0] * len(classes)
        self.tasks = {part.name: self._task(part) for part in self.parts}
        self.mixes_samples = all(task.mixes_samples for task in self.tasks.values())
        given = {} if target_weight in (None, LEARNT) else target_weight
        if not isinstance(given, Mapping):
            raise InputError(f"the weights of targets are {LEARNT!r}, or a number for each, got {given!r}")
        self.weight = dict(given)
        for name, factor in self.weight.items():
            if name not in self.tasks:
                raise UnknownNameError("target", name, self.tasks)
            if isinstance(factor, bool) or not isinstance(factor, int | float) or factor < 0:
                raise InputError(f"the weight of target {name!r} must be a number of at least 0, got {factor!r}")
        if target_weight == LEARNT:
            self.learns = nn.ParameterDict({str(i): nn.Parameter(torch.zeros(())) for i in range(len(self.parts))})

    def _task(self, part: Part) -> Task:
        names = part.classes or part.columns
        if part.kind == Regression.name:
            return Regression(names, spreads=self.spreads[part.outputs])
        return _KINDS[part.kind](names)

    @classmethod
    def units(
        cls, target: NDArray[Any], names: tuple[str, ...] | None = None, weight: NDArray[Any] | None = None
    ) -> tuple[Floats, Floats] | None:
        """Those of each quantity over the rows that have it, 1 and 0 of all else."""
        scale, shift = np.ones(len(names or ())), np.zeros(len(names or ()))
        for part in parts_of(names or ()):
            own = target[:, part.places].astype(np.float64)
            here = ~np.isnan(own).any(axis=1)
            here &= True if weight is None else weight > 0
            if not here.any():
                continue
            found = _KINDS[part.kind].units(own[here], None, None if weight is None else weight[here])
            if found is not None:
                scale[part.outputs], shift[part.outputs] = found
        return scale, shift

    @classmethod
    def averaging(cls, names: tuple[str, ...] | None) -> Callable[[Tensor, Tensor], Tensor]:
        """Each target as its own task averages it: probabilities of classes, values, log-risks."""
        parts = parts_of(names or ())

        def averaged(outputs: Tensor, weights: Tensor) -> Tensor:
            each = [_KINDS[part.kind].averaged(outputs[..., part.outputs], weights) for part in parts]
            return torch.cat(each, dim=-1)

        return averaged

    def losses(self, prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> dict[str, Tensor]:
        """The loss of each target over the rows that have it; those that no row has are left out."""
        found = {}
        for part in self.parts:
            here, own = part.of(target)
            if not bool(here.any()):
                continue
            said = prediction[here][:, part.outputs]
            loss = self.tasks[part.name].loss(said, own.to(said) if part.classes is None else own, _rows(weight, here))
            found[part.name] = _HALF * loss if part.kind == Regression.name else loss
        return found

    def loss(self, prediction: Tensor, target: Tensor | None, weight: Tensor | None = None) -> Tensor:
        """The weighted sum of the losses of all targets, without learnt weights."""
        found = self.losses(prediction, needed(target), weight)
        zero = (0 * prediction).sum()
        return torch.stack([zero, *(self.weight.get(name, 1.0) * loss for name, loss in found.items())]).sum()

    def training_loss(self, prediction: Tensor, target: Tensor | None, weight: Tensor | None = None) -> Tensor:
        """With the weights as they are being learnt."""
        if self.learns is None:
            return self.loss(prediction, target, weight)
        found = self.losses(prediction, needed(target), weight)
        assert isinstance(self.learns, nn.ParameterDict)
        logs = {part.name: self.learns[str(i)].to(prediction) for i, part in enumerate(self.parts)}
        each = [torch.exp(-logs[name]) * loss + _HALF * logs[name] for name, loss in found.items()]
        return torch.stack([(0 * prediction).sum(), *each]).sum()

    def soft_loss(
        self, prediction: Tensor, taught: Tensor, temperature: float = 1.0, weight: Tensor | None = None
    ) -> Tensor:
        """The weighted sum over the targets, over all rows; of quantities in their variances."""
        found = []
        for part in self.parts:
            own = prediction[:, part.outputs], taught[:, part.outputs]
            loss = self.tasks[part.name].soft_loss(*own, temperature, weight)
            loss = _HALF * loss if part.kind == Regression.name else loss
            found.append(self.weight.get(part.name, 1.0) * loss)
        return torch.stack(found).sum()

    def undefined_loss(self, prediction: Tensor, target: Tensor | None) -> str | None:
        """None of the targets has one."""
        reasons = []
        for part in self.parts:
            here, own = part.of(needed(target))
            if bool(here.any()):
                reasons.append(self.tasks[part.name].undefined_loss(prediction[here][:, part.outputs], own))
        return None if None in reasons else next(iter(reasons), "no row has a target")

    def metric(self, name: str) -> Metric:
        """A metric of one target, ``"accuracy type"``, or the loss of all; with or without ``val_`` before it.

        Raises:
            UnknownNameError: there is none of that name.
        """
        bare, _, target = name.removeprefix("val_").partition(" ")
        if bare == LOSS.name and not target:
            return LOSS
        if target in self.tasks:
            return self.tasks[target].metric(bare)
        known = [f"{m.name} {n}" for n, task in self.tasks.items() for m in task.measures]
        raise UnknownNameError("metric of several targets:", name, [LOSS.name, *known])

    def choose_metrics(self, metrics: Iterable[str] | str = (), monitor: str | None = None) -> Task:
        """See :meth:`Task.choose_metrics`; each name has its target, as in ``"auc type"``."""
        names = [name.removeprefix("val_") for name in ((metrics,) if isinstance(metrics, str) else metrics)]
        for name in (*names, *([] if monitor is None else [monitor.removeprefix("val_")])):
            self.metric(name)
            bare, _, target = name.partition(" ")
            if target:
                own = self.tasks[target]
                headline = own.headline
                own.choose_metrics(bare)
                own.headline = headline
        self.headline = names[0] if names else self.headline
        self.monitor = self.monitor if monitor is None else monitor.removeprefix("val_")
        return self

    def measure(self, prediction: Tensor, target: Tensor | None, only: Iterable[str] | None = None) -> Measurement:
        """The metrics of each target, over the rows that have it."""
        y = needed(target)
        found = Measurement()
        asked = None if only is None else [name.removeprefix("val_") for name in only]
        if asked is not None and LOSS.name in asked:
            found = self.measure_loss(prediction, target)
        for part in self.parts:
            task, (here, own) = self.tasks[part.name], part.of(y)
            mine = [name.partition(" ")[0] for name in asked or () if name.partition(" ")[2] == part.name]
            if asked is not None and not mine:
                continue
            if bool(here.any()):
                each = task.measure(prediction[here][:, part.outputs], own, None if asked is None else mine)
            else:
                reason = f"no row has the target {part.name!r}"
                names = mine if asked is not None else [metric.name for metric in task.measures]
                each = Measurement(dict.fromkeys(names), dict.fromkeys(names, reason))
            for name, value in each.values.items():
                found.put(f"{name} {part.name}", value, each.undefined.get(name, ""))
        return found

    def assess(self, prediction: Tensor, target: Tensor | None, weight: Tensor | None = None) -> Measurement:
        """The loss of all, and the metrics of each."""
        loss = self.measure_loss(prediction, target, weight)
        metrics = self.measure(prediction, target) if bool(torch.isfinite(prediction).all()) else Measurement()
        return Measurement({**loss.values, **metrics.values}, {**loss.undefined, **metrics.undefined})

    def apart(self, prediction: Tensor, target: Tensor) -> dict[str, tuple[Task, Tensor, Tensor]]:
        """Each target that any row has, over those rows."""
        found = {}
        for part in self.parts:
            here, own = part.of(target)
            if bool(here.any()):
                own = own if part.classes is not None else own.to(prediction)
                found[part.name] = (self.tasks[part.name], prediction[here][:, part.outputs], own)
        return found

    def base_output(self, target: NDArray[Any], outputs: int) -> Floats:
        """Of each target over the rows that have it."""
        y = torch.from_numpy(np.asarray(target))
        found = []
        for part in self.parts:
            count = part.outputs.stop - part.outputs.start
            found.append(self.tasks[part.name].base_output(part.of(y)[1].numpy(), count))
        return np.concatenate(found)

    def predict(self, prediction: Tensor) -> Columns:
        """The columns of each target, with its name: ``prediction_type``, ``prob_type_A``, ``prediction_age``, …"""
        found: Columns = {}
        for part in self.parts:
            for name, column in self.tasks[part.name].predict(prediction[:, part.outputs]).items():
                kind, _, rest = name.partition("_")
                found["_".join(word for word in (kind, part.name, rest) if word)] = column
        return found


def _rows(weight: Tensor | None, here: Tensor) -> Tensor | None:
    return None if weight is None else weight[here]


def _asked(name: str) -> tuple[list[str], str]:
    """Columns and kind of ``"time,event"``, ``"grade:regression"``; "" where the kind is not said."""
    columns, _, kind = name.rpartition(":")
    if kind not in _KINDS or not columns:
        columns, kind = name, ""
    return [column.strip() for column in columns.split(",")], kind


def _empty(values: Array) -> NDArray[np.bool_]:
    cells = [[v is None or v == "" or v != v for v in row] for row in values.tolist()]  # noqa: PLR0124 - NaN
    return np.array(cells, dtype=np.bool_).reshape(values.shape)


def _typed(values: Array) -> Array:
    """Numbers as numbers, where a column of text stands beside them."""
    if values.dtype.kind == "O" and all(isinstance(v, int | float) for row in values.tolist() for v in row):
        return values.astype(np.float64)
    return values


def _kind(values: Array) -> str:
    return Classification.name if are_classes(values) else Regression.name
