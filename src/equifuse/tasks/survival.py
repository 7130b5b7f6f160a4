"""Time to an event, some of them not seen yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equifuse.errors import InputError
from equifuse.tasks.base import Columns, Task, average, needed, tiny
from equifuse.tasks.metrics import Metric
from equifuse.tasks.targets import EventTimes, Targets, are_event_times

_NO_EVENT = "nobody has the event"


def _no_event(risk: NDArray[np.float64], y: NDArray[np.float64]) -> str | None:
    if not y[:, 1].any():
        return _NO_EVENT
    last = y[y[:, 1] > 0, 0].min()
    later = (y[:, 0] > last) | ((y[:, 0] == last) & (y[:, 1] == 0))
    return None if later.any() else "no two samples can be compared: the first event is the last time known"


class Survival(Task):
    """Time to an event that is not seen for every sample: Cox's proportional hazards, log-risks ``(B, 1)``.

    >>> times = torch.tensor([[1.0, 1.0], [2.0, 1.0], [3.0, 0.0]])  # time, and 1 where the event was seen
    >>> Survival().metrics(torch.tensor([[2.0], [1.0], [0.0]]), times)["c_index"]  # higher risk, earlier event
    1.0

    Targets are ``(B, 2)``: time, and whether the event was seen (Cox 1972).

    The loss is the negative partial log-likelihood of the batch, with Breslow's handling of ties, per event seen; 0
    where none is. A batch stands for the whole, so it should not be small.

    Metric: ``c_index``, Harrell's concordance: among pairs of which it is known who had the event first, the share in
    which the higher risk had, equal risks counting half. Undefined where there is no such pair. The loss of a whole
    split is undefined where no event is seen: there is no likelihood of anything.
    """

    name: ClassVar[str] = "survival"
    targets: ClassVar[Targets] = EventTimes()
    measures = (
        Metric(
            "c_index",
            lambda risk, y: concordance(risk, y[:, 0], y[:, 1]),
            undefined_when=_no_event,
            description="Share of comparable pairs in which the higher risk had the event first.",
        ),
    )
    headline = "c_index"
    values: ClassVar[tuple[str, ...]] = ("output",)
    time_to_event: ClassVar[bool] = True
    drawn_as: ClassVar[str] = "survival_curves"
    without_features: ClassVar[str] = "the same risk for all"

    @classmethod
    def recognizes(cls, values: NDArray[Any], names: Sequence[str]) -> bool:
        """A time, and an event in words or in a column that is called like one."""
        return are_event_times(values, names)

    def loss(self, prediction: Tensor, target: Tensor | None, weight: Tensor | None = None) -> Tensor:
        """Negative partial log-likelihood per event; weights count in the events and among those at risk.

        Raises:
            InputError: not one output per sample.
        """
        y = needed(target)
        if prediction.shape[-1] != 1:
            raise InputError(f"survival needs one output per sample, got {prediction.shape[-1]}")
        if weight is not None:
            some = weight > 0
            prediction, y, weight = prediction[some], y[some], weight[some].to(prediction)
        risk, time, event = prediction[:, 0], y[:, 0], y[:, 1]
        at_risk = time[None, :] >= time[:, None]
        among, event = (risk, event) if weight is None else (risk + weight.log(), weight * event)
        total = torch.logsumexp(among[None, :].masked_fill(~at_risk, -torch.inf), dim=1)
        return ((total - risk) * event).sum() / event.sum().clamp(min=tiny(risk))

    def soft_loss(
        self, prediction: Tensor, taught: Tensor, temperature: float = 1.0, weight: Tensor | None = None
    ) -> Tensor:
        """Squared error of log-risks, of which only differences mean something: from their means."""
        gap = prediction - taught
        return average((gap - gap.mean()) ** 2, weight)

    def undefined_loss(self, prediction: Tensor, target: Tensor | None) -> str | None:
        """Without an event there is no likelihood."""
        return None if bool((needed(target)[:, 1] > 0).any()) else _NO_EVENT

    def readable(self, prediction: Tensor, target: Tensor | None) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Log-risks float64 ``(n,)``, and float64 ``(n, 2)``: time, and 1 for an event."""
        return prediction[:, 0].double().numpy(), needed(target).double().numpy()

    def predict(self, prediction: Tensor) -> Columns:
        """``risk``: the log of the hazard relative to the baseline's; higher is sooner."""
        return {"risk": prediction[:, 0].numpy()}


def concordance(risk: NDArray[np.float64], time: NDArray[np.float64], event: NDArray[np.float64]) -> float | None:
    """Harrell's concordance index, None without comparable pairs.

    Args:
        risk: ``(n,)``, higher is sooner.
        time: ``(n,)``, of the event or of the last time it had not been seen.
        event: ``(n,)``, 1 where it was seen.
    """
    comparable = concordant = 0.0
    for i in np.flatnonzero(event):
        # Those who certainly had it later: a longer time, or the same without having it.
        later = (time > time[i]) | ((time == time[i]) & (event == 0))
        comparable += later.sum()
        concordant += (risk[i] > risk[later]).sum() + 0.5 * (risk[i] == risk[later]).sum()
    return None if comparable == 0 else float(concordant / comparable)
