"""Weights of more than one step: their moving average, and the mean of the best epochs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from equifuse.data.batch import Batch
from equifuse.fusion.modes import evaluation_mode
from equifuse.model import FusionModel
from equifuse.tasks import Task
from equifuse.training.batch_norm import batch_norms, with_momentum
from equifuse.training.callbacks.stored import StoredCallback
from equifuse.training.lightning_module import LitFusion

Weights = dict[str, Tensor]


def averaged_tensors(model: nn.Module) -> Weights:
    """What is averaged of a model: its parameters, and the running statistics of batch normalisation."""
    found: Weights = dict(model.named_parameters())
    for name, module in batch_norms(model).items():
        for kind in ("running_mean", "running_var"):
            found[f"{name}.{kind}"] = getattr(module, kind)
    return found


class MovingAverage(StoredCallback):
    """Keeps the exponential moving average of the weights; validation, and whatever keeps the best epoch, sees it.

    After step ``t = 0, 1, …`` it is ``d a + (1 - d) w`` with ``d = min(decay, (1 + t) / (10 + t))``, so that the first
    weights do not stay in it.

    Args:
        model: the model.
        decay: in [0, 1); 0 keeps the last weights.
    """

    def __init__(self, model: FusionModel, decay: float) -> None:
        self.model, self.decay = model, decay
        self.average: Weights | None = None
        self.steps = self._seen = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with the weights as they are, unless a checkpoint had some."""
        now = averaged_tensors(self.model)
        if self.average is None:
            self.average = {name: tensor.detach().clone() for name, tensor in now.items()}
        self.average = {name: tensor.to(now[name]) for name, tensor in self.average.items()}
        self._seen = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Take in the weights, if the optimiser has made a step."""
        if trainer.global_step == self._seen:
            return
        assert self.average is not None
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, tensor in averaged_tensors(self.model).items():
            self.average[name].lerp_(tensor, 1 - decay)
        self.steps, self._seen = self.steps + 1, trainer.global_step

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average into the model."""
        self.exchange()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on with the weights."""
        self.exchange()

    @torch.no_grad()
    def exchange(self) -> None:
        """Let the model and the average change places."""
        assert self.average is not None
        for name, tensor in averaged_tensors(self.model).items():
            kept = tensor.detach().clone()
            tensor.copy_(self.average[name])
            self.average[name].copy_(kept)

    def remembered(self, trainer: pl.Trainer) -> dict[str, Any]:
        """The average, and of how many steps it is."""
        return {"average": self.average, "average_steps": self.steps}

    def recall(self, stored: dict[str, Any]) -> None:
        """See :meth:`StoredCallback.recall`."""
        self.average, self.steps = stored["average"], stored["average_steps"]


class BestEpochs(StoredCallback):
    """Keeps the weights of the epochs with the best monitored values.

    Args:
        count: of how many.

    Attributes:
        best: the best first: ``epoch`` from 0, ``value``, and ``weights`` on the CPU.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.best: list[dict[str, Any]] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the weights if they are among the best."""
        assert isinstance(pl_module, LitFusion)
        value, sign = pl_module.monitored, 1 if pl_module.mode == "min" else -1
        if trainer.sanity_checking or not math.isfinite(value):
            return
        if len(self.best) == self.count and sign * value >= sign * self.best[-1]["value"]:
            return
        weights = {key: tensor.detach().cpu().clone() for key, tensor in pl_module.model.state_dict().items()}
        self.best.append({"epoch": trainer.current_epoch, "value": value, "weights": weights})
        self.best = sorted(self.best, key=lambda each: sign * each["value"])[: self.count]

    def remembered(self, trainer: pl.Trainer) -> dict[str, Any]:
        """The best epochs."""
        return {"best_epochs": self.best}

    def recall(self, stored: dict[str, Any]) -> None:
        """See :meth:`StoredCallback.recall`."""
        self.best = stored["best_epochs"]


def stir(
    model: FusionModel,
    epochs: Sequence[Mapping[str, Any]],
    value: Callable[[], float],
    mode: str,
    refresh: Callable[[], None] = lambda: None,
) -> tuple[list[int], float]:
    """Leave in a model the mean of the best epochs: each joins if that is better on validation (Wortsman et al. 2022).

    Args:
        model: the model.
        epochs: see :attr:`BestEpochs.best`.
        value: measures the model on validation.
        mode: ``"min"`` or ``"max"``, which way the value is better.
        refresh: called before measuring a mean, for what is no weight.

    Returns:
        The epochs in the mean, from 0, and its value.
    """
    sign = 1 if mode == "min" else -1
    chosen = [epochs[0]]
    best, found = float(epochs[0]["value"]), epochs[0]["weights"]
    for epoch in epochs[1:]:
        mean = _mean([each["weights"] for each in (*chosen, epoch)], averaged_tensors(model))
        model.load_state_dict(mean)
        refresh()
        now = value()
        if math.isfinite(now) and sign * now < sign * best:
            chosen.append(epoch)
            best, found = now, {key: tensor.detach().cpu().clone() for key, tensor in model.state_dict().items()}
    model.load_state_dict(found)
    return [int(each["epoch"]) for each in chosen], best


@torch.no_grad()
def refresh_batch_norm(model: FusionModel, task: Task, batches: Iterable[Batch]) -> None:
    """Take the running statistics of batch normalisation anew from some samples, as a mean over their batches."""
    norms = list(batch_norms(model).values())
    if not norms:
        return
    device = next(model.parameters()).device
    with evaluation_mode(model), with_momentum(norms, None):
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
        for batch in batches:
            task.forward(model, batch.to(device))


def _mean(states: Sequence[Weights], averaged: Mapping[str, Tensor]) -> Weights:
    """The mean of some states; of what is not averaged the first one's."""
    return {
        name: torch.stack([state[name] for state in states]).mean(0) if name in averaged else first
        for name, first in states[0].items()
    }
