"""Metrics: numbers that say how good predictions are, which direction is better, and when they are undefined."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from equifuse.errors import EquifuseError, InputError
from equifuse.registry import METRICS

if TYPE_CHECKING:
    from equifuse.tasks.base import Task

Function = Callable[..., Any]
# Why a metric has no value, in words; None where it has one.
Reason = Callable[..., str | None]


@dataclass(frozen=True)
class Detailed:
    """The result of a metric that has parts besides its value, such as one per class or per direction.

    Example:
        >>> Detailed(0.8, {"text->image": 0.7, "image->text": 0.9}).value
        0.8

    Attributes:
        value: of the metric itself; None where it is undefined.
        parts: name of a part -> its value. They are shown as ``"<metric> <part>"``, after all metrics.
    """

    value: float | None
    parts: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """The metrics of a split, with a reason for each that is undefined.

    >>> found = Classification().measure(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    >>> found.values["accuracy"], found.values["auc"], "auc" in found.undefined
    (1.0, None, True)

    Attributes:
        values: name -> value; None where it is undefined.
        undefined: name -> why there is no value, for each that has none.
    """

    values: dict[str, float | None] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)

    def put(self, name: str, value: float | None, reason: str = "it has no value here") -> None:
        """Enter a value, or the reason why there is none."""
        self.values[name] = value
        if value is None:
            self.undefined[name] = reason


@dataclass(frozen=True)
class Metric:
    """A number that says how good predictions are.

    Example:
        >>> import numpy as np
        >>> share = Metric("sure", lambda prediction, target: float((prediction.max(axis=1) > 0.9).mean()))
        >>> share.fn(np.array([[0.95, 0.05], [0.5, 0.5]]), np.array([0, 1]))
        0.5
        >>> share.show(0.5), share.mode
        ('0.5000', 'max')

    The function is called ``fn(prediction, target)`` with NumPy arrays of all samples of a split, as its task reads
    them; the function's docstring of each task, :meth:`equifuse.tasks.Task.readable`, says which:

    ================  =============================================  ===========================================
    task              ``prediction``                                 ``target``
    ================  =============================================  ===========================================
    classification    float64 ``(n, K)``, probabilities              int64 ``(n,)``, class numbers
    multilabel        float64 ``(n, K)``, probabilities              int64 ``(n, K)``, 0 or 1
    regression        float64 ``(n, K)``, in the target's units      float64 ``(n, K)``
    survival          float64 ``(n,)``, log-risks, higher is sooner  float64 ``(n, 2)``: time, and 1 for an event
    retrieval         float32 ``(n, M, K)``, unit embeddings of the  int64 ``(n,)``, labels, or None where there
                      modalities, NaN where a sample lacks one       are none
    ================  =============================================  ===========================================

    Where the function has a parameter ``task``, it also gets the task, for its ``classes`` and options.

    It returns a number; or :class:`Detailed`, a number with parts; or None, NaN or infinity, which count as undefined.
    What it raises ends the evaluation with one line that names the metric.

    Attributes:
        name: by which it is asked for; no spaces.
        fn: see above.
        higher_is_better: which way it is better.
        undefined_when: called like ``fn``, before it; returns why the metric is undefined on this split (a class does
            not occur), or None where it is not. The value is then None, with that reason.
        inapplicable_when: called likewise; returns why the metric means nothing for such data at all (the F1 of class 1
            where there are three), or None. It is then left out, unless it was asked for by name.
        tasks: names of the tasks that it is for; empty for all.
        format: how it is shown: ``"number"`` with four digits, ``"percent"`` with one.
        description: one line in plain words.
    """

    name: str
    fn: Function
    higher_is_better: bool = True
    undefined_when: Reason | None = None
    inapplicable_when: Reason | None = None
    tasks: tuple[str, ...] = ()
    format: Literal["number", "percent"] = "number"
    description: str = ""

    def __post_init__(self) -> None:
        if not self.name or any(c.isspace() for c in self.name) or self.name.startswith("val_"):
            raise InputError(f"the name of a metric has no spaces and does not begin with 'val_', got {self.name!r}")
        if self.format not in ("number", "percent"):
            raise InputError(f"format of metric {self.name!r} must be 'number' or 'percent', got {self.format!r}")
        # A metric is where its function is. Not a property: Python would take the class for a wrapper too.
        object.__setattr__(self, "__wrapped__", self.fn)

    @property
    def mode(self) -> Literal["min", "max"]:
        """Which way it is better, as early stopping calls it."""
        return "max" if self.higher_is_better else "min"

    def fits(self, task: str) -> bool:
        """Whether it is for a task of that name."""
        return not self.tasks or task in self.tasks

    def show(self, value: float | None) -> str:
        """A value as text; ``"-"`` where there is none."""
        if value is None or not math.isfinite(value):
            return "-"
        return f"{100 * value:.1f} %" if self.format == "percent" else f"{value:.4f}"

    def measure(self, prediction: Any, target: Any, task: Task, *, asked: bool = True) -> Measurement:
        """Its value and those of its parts; empty where it means nothing for such data and nobody asked for it.

        Args:
            prediction: of all samples, as :meth:`equifuse.tasks.Task.readable` gives it.
            target: likewise.
            task: the task.
            asked: whether it was asked for by name.

        Raises:
            InputError: its function failed, or returned something else than a number.
        """
        found = Measurement()
        try:
            why = _reason(self.inapplicable_when, prediction, target, task)
            if why is not None and not asked:
                return found
            why = why or _reason(self.undefined_when, prediction, target, task)
            result = None if why is not None else _called(self.fn, prediction, target, task)
            detailed = result if isinstance(result, Detailed) else Detailed(result)
            for part, value in {"": detailed.value, **detailed.parts}.items():
                number = None if value is None else float(value)
                finite = number is not None and math.isfinite(number)
                reason = why or ("it has no value here" if number is None else f"its value here is {number}")
                found.put(f"{self.name} {part}".rstrip(), number if finite else None, reason)
        except EquifuseError:
            raise
        except Exception as error:  # a function of the user's own may fail in any way
            raise InputError(f"metric {self.name!r} failed: {type(error).__name__}: {error}") from error
        return found


def metric(
    name: str,
    *,
    tasks: tuple[str, ...] | str = (),
    higher_is_better: bool = True,
    undefined_when: Reason | None = None,
    inapplicable_when: Reason | None = None,
    format: Literal["number", "percent"] = "number",
) -> Callable[[Function], Metric]:
    """Make a function a metric that can be asked for by name; a decorator.

    Example:
        >>> from equifuse.registry import METRICS
        >>> from equifuse.tasks import make_task, metric
        >>> @metric("doubt", tasks=("classification",), higher_is_better=False)
        ... def doubt(prediction, target):
        ...     "Mean probability of all classes but the true one."
        ...     return 1 - prediction[range(len(target)), target].mean()
        >>> task = make_task("classification", metrics=("doubt",), monitor="doubt")
        >>> task.headline, task.monitor, task.mode
        ('doubt', 'doubt', 'min')
        >>> METRICS.unregister("doubt")

    Args:
        name: by which it is asked for.
        tasks: names of the tasks that it is for; empty for all.
        higher_is_better: see :class:`Metric`, also for the others and for what the function gets and returns.
        undefined_when: likewise.
        inapplicable_when: likewise.
        format: likewise.

    Raises:
        InputError: there is another metric of that name.
    """

    def registered(fn: Function) -> Metric:
        doc = (inspect.getdoc(fn) or "").partition("\n")[0]
        named = (tasks,) if isinstance(tasks, str) else tuple(tasks)
        return METRICS.register(
            Metric(name, fn, higher_is_better, undefined_when, inapplicable_when, named, format, doc)
        )

    return registered


def _called(fn: Function, prediction: Any, target: Any, task: Task) -> Any:
    """The result of a function of predictions and targets, and of the task where it wants that."""
    return fn(prediction, target, task=task) if _wants_task(fn) else fn(prediction, target)


def _reason(when: Reason | None, prediction: Any, target: Any, task: Task) -> str | None:
    return None if when is None else _called(when, prediction, target, task)


def _wants_task(fn: Function) -> bool:
    try:
        return "task" in inspect.signature(fn).parameters
    except (TypeError, ValueError):  # some built-in functions have no signature
        return False


def _not_alone(prediction: Any, target: Any) -> float:
    raise InputError("the loss is not computed from what metrics get; use the task's own method 'loss'")


LOSS = Metric("loss", _not_alone, higher_is_better=False, description="The task's own loss.")
