"""What is said beside predictions: intervals or sets that hold the truth as often as asked, and survival over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from equifuse.data.loaders import batches_of
from equifuse.errors import InputError
from equifuse.explain.conformal import intervals, prediction_sets
from equifuse.explain.targets import Floats, outputs_of
from equifuse.runs.folder import Run
from equifuse.tasks import Columns
from equifuse.tasks.base import output_names

LOW, HIGH, SET, SURVIVAL = "_low", "_high", "in_set_", "survival_"


class Certainty:
    """Columns beside the predictions of a run, calibrated once on its validation part, survival on its training part.

    >>> from equifuse.runs import TrainConfig, load_run, train
    >>> from equifuse.runs.certainty import Certainty
    >>> folder = train(TrainConfig("digits", fusion="concat", epochs=1), "run", progress=False).path
    >>> beside = Certainty(load_run(folder))
    >>> list(beside.columns(torch.zeros(2, 10), coverage=0.9))[:2]
    ['in_set_0', 'in_set_1']

    Args:
        run: the run, whose data are still there.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    @cached_property
    def _calibration(self) -> tuple[Floats, NDArray[np.generic]]:
        given = self.run.validation()
        if isinstance(given, tuple):
            return given
        part = self.run.dataset().splits["val"].labelled()
        outputs, target = outputs_of(self.run.model, self.run.task, batches_of(part))
        assert target is not None
        return outputs, target

    @cached_property
    def _hazard(self) -> tuple[Floats, Floats]:
        """Times of events of the training part, and Breslow's cumulative hazard after each."""
        part = self.run.dataset().splits["train"].labelled()
        outputs, target = outputs_of(self.run.model, self.run.task, batches_of(part))
        assert target is not None
        time, event = np.asarray(target, np.float64).T
        at_risk = np.exp(outputs[:, 0])
        moments = np.unique(time[event > 0])
        steps = [((time == t) & (event > 0)).sum() / at_risk[time >= t].sum() for t in moments]
        return moments, np.cumsum(steps)

    def columns(self, outputs: Tensor, coverage: float | None = None, times: Sequence[float] = ()) -> Columns:
        """The columns that are asked for.

        Args:
            outputs: ``(n, K)`` raw outputs of the model.
            coverage: share of the truths that intervals ``prediction_low`` to ``prediction_high``, or sets of classes
                ``in_set_<class>``, are to hold; None for neither.
            times: at which ``survival_<time>`` is the predicted chance that the event is later.

        Raises:
            InputError: the task has no such columns, or too few samples calibrate them.
            DataError: the data of the run are not there any more.
        """
        found: Columns = {}
        if coverage is not None:
            found |= self._covered(outputs, coverage)
        if times:
            found |= self._survival(outputs, times)
        return found

    def _covered(self, outputs: Tensor, coverage: float) -> Columns:
        task = self.run.task
        from scipy.special import softmax  # noqa: PLC0415 - it takes a moment to import

        if not 0 < coverage < 1:
            raise InputError(f"coverage must be between 0 and 1, got {coverage:g}")
        if task.conformal is None:
            raise InputError(f"{task.name} has no intervals or sets of a coverage")
        own, alpha = self._calibration, round(1 - coverage, 12)
        if math.ceil((len(own[0]) + 1) * coverage) > len(own[0]):
            raise InputError(f"{len(own[0])} samples of validation are too few for a coverage of {coverage:g}")
        raw = outputs.double().numpy()
        if task.conformal == "intervals":
            names, found = list(task.predict(outputs)), intervals(own, raw, alpha=alpha)
            ends = {LOW: found.lower, HIGH: found.upper}
            return {f"{name}{end}": x[:, k] for k, name in enumerate(names) for end, x in ends.items()}
        known, said = softmax(own[0], axis=1), softmax(raw, axis=1)
        members = prediction_sets((known, own[1]), said, alpha=alpha).members
        return {f"{SET}{c}": members[:, k] for k, c in enumerate(output_names(task.classes, raw.shape[1]))}

    def _survival(self, outputs: Tensor, times: Sequence[float]) -> Columns:
        if not self.run.task.time_to_event:
            raise InputError(f"survival is of times to an event; this run is of {self.run.task.name}")
        wrong = next((t for t in times if not (math.isfinite(t) and t >= 0)), None)
        if wrong is not None:
            raise InputError(f"a time must be a number of at least 0, got {wrong:g}")
        moments, hazard = self._hazard
        risk = np.exp(outputs[:, 0].double().numpy())
        reached = np.concatenate([[0.0], hazard])[np.searchsorted(moments, times, side="right")]
        return {f"{SURVIVAL}{t:g}": np.exp(-h * risk) for t, h in zip(times, reached, strict=True)}


def names_beside(run: Run, columns: Sequence[str]) -> list[str]:
    """The names of columns that a coverage adds to those of a prediction.

    Args:
        run: the run.
        columns: of a prediction.
    """
    if run.task.conformal == "intervals":
        return [f"{name}{end}" for name in columns if name.startswith("prediction") for end in (LOW, HIGH)]
    prefix = "prob_"
    return [SET + name.removeprefix(prefix) for name in columns if name.startswith(prefix)] * bool(run.task.conformal)
