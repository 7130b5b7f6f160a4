"""The best weights seen, and the checkpoint from which an interrupted training goes on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from equifuse.files import atomic
from equifuse.training.callbacks.stored import STATE, StoredCallback
from equifuse.training.lightning_module import LitFusion


class BestWeights(StoredCallback):
    """Keeps the weights of the epoch with the best monitored value.

    Attributes:
        best: ``epoch`` from 0, ``value``, and ``weights`` on the CPU; None before there is any.
    """

    def __init__(self) -> None:
        self.best: dict[str, Any] | None = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the weights if they are the best so far."""
        assert isinstance(pl_module, LitFusion)
        value, sign = pl_module.monitored, 1 if pl_module.mode == "min" else -1
        if trainer.sanity_checking or not math.isfinite(value):
            return
        if self.best is None or sign * value < sign * self.best["value"]:
            self.best = {"epoch": trainer.current_epoch, "value": value, "weights": _copied(pl_module)}

    def remembered(self, trainer: pl.Trainer) -> dict[str, Any]:
        """The best epoch."""
        return {"best": self.best}

    def recall(self, stored: dict[str, Any]) -> None:
        """See :meth:`StoredCallback.recall`."""
        self.best = stored["best"]


class CycleWeights(StoredCallback):
    """Keeps the weights that each cycle of a training leaves: of its best epoch, or without validation of its last.

    Args:
        length: epochs of a cycle.
        validated: whether there is a validation part.

    Attributes:
        kept: of each cycle begun ``epoch`` from 0, ``value``, and ``weights`` on the CPU; None while no epoch of it had
            a value.
    """

    def __init__(self, length: int, validated: bool) -> None:
        self.length, self.validated = length, validated
        self.kept: list[dict[str, Any] | None] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a cycle."""
        if trainer.current_epoch // self.length == len(self.kept):
            self.kept.append(None)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the weights if they are the cycle's best so far."""
        assert isinstance(pl_module, LitFusion)
        value, sign, best = pl_module.monitored, 1 if pl_module.mode == "min" else -1, self.kept[-1]
        if math.isfinite(value) and (best is None or sign * value < sign * best["value"]):
            self.kept[-1] = {"epoch": trainer.current_epoch, "value": value, "weights": _copied(pl_module)}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Without validation copy the weights at the end of a cycle."""
        if not self.validated and (trainer.current_epoch + 1) % self.length == 0:
            self.kept[-1] = {"epoch": trainer.current_epoch, "value": None, "weights": _copied(pl_module)}

    def remembered(self, trainer: pl.Trainer) -> dict[str, Any]:
        """What each cycle has left."""
        return {"cycles": self.kept}

    def recall(self, stored: dict[str, Any]) -> None:
        """See :meth:`StoredCallback.recall`."""
        self.kept = stored["cycles"]


def _copied(module: pl.LightningModule) -> dict[str, Tensor]:
    """A model's state, on the CPU."""
    assert isinstance(module, LitFusion)
    return {key: tensor.detach().cpu().clone() for key, tensor in module.model.state_dict().items()}


class LastEpoch(Checkpoint):
    """Writes ``path`` after every epoch, whole or not at all, so that an interrupted training can go on.

    Args:
        path: of the checkpoint.

    Attributes:
        stopped: whether early stopping has ended the training.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stopped = False

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, after early stopping has decided."""
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self.path)  # takes part, and writes nothing
            return
        with atomic(self.path) as staging:
            trainer.save_checkpoint(staging)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add whether the training is over."""
        checkpoint.setdefault(STATE, {})["stopped"] = trainer.should_stop
