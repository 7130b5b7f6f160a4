"""Time to an event, some of them not seen yet."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equifuse.errors import InputError
from equifuse.tasks.base import Columns, Task, needed, tiny


class Survival(Task):
    """Cox's proportional hazards (1972): log-risks ``(B, 1)`` against targets ``(B, 2)`` of time, event seen or not.

    The loss is the negative partial log-likelihood of the batch, with Breslow's handling of ties, per event seen; 0
    where none is. A batch stands for the whole, so it should not be small.

    Metric: ``c_index``, Harrell's concordance: among pairs of which it is known who had the event first, the share in
    which the higher risk had, equal risks counting half. Left out where there is no such pair.
    """

    name: ClassVar[str] = "survival"
    headline: ClassVar[str] = "c_index"
    monitor: ClassVar[str] = "loss"

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

    def metrics(self, prediction: Tensor, target: Tensor | None) -> dict[str, float]:
        """See the class docstring."""
        y = needed(target).double().numpy()
        found = concordance(prediction[:, 0].double().numpy(), y[:, 0], y[:, 1])
        return {} if found is None else {"c_index": found}

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
