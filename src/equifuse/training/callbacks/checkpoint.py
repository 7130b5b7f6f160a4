"""The best weights seen, and the checkpoint from which an interrupted training goes on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint

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
            weights = {key: tensor.detach().cpu().clone() for key, tensor in pl_module.model.state_dict().items()}
            self.best = {"epoch": trainer.current_epoch, "value": value, "weights": weights}

    def remembered(self, trainer: pl.Trainer) -> dict[str, Any]:
        """The best epoch."""
        return {"best": self.best}

    def recall(self, stored: dict[str, Any]) -> None:
        """See :meth:`StoredCallback.recall`."""
        self.best = stored["best"]


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
