"""A look at the equilibria after each epoch."""

from __future__ import annotations

import logging
import re
from typing import Any

import lightning.pytorch as pl
import torch

from equifuse.data.batch import Batch
from equifuse.fusion import EquilibriumMonitor, find_equilibrium
from equifuse.model import FusionModel
from equifuse.training.callbacks.stored import StoredCallback
from equifuse.training.lightning_module import LitFusion

_LOG = logging.getLogger("equifuse.training")


class WatchEquilibrium(StoredCallback):
    """After each epoch, looks at the equilibria of one batch: numbers into the history, worries into the log.

    Args:
        batch: what to look at, usually of the validation part.

    Attributes:
        alerts: what was found worrying: epoch, from 1, and message; each kind once.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.alerts: list[dict[str, Any]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add to the epoch's numbers, and say once what is wrong."""
        assert isinstance(pl_module, LitFusion)
        pl_module.epoch_numbers |= self.look(pl_module.model, pl_module.device, trainer.current_epoch + 1)

    def look(self, model: FusionModel, device: torch.device, epoch: int) -> dict[str, float]:
        """The numbers of ``epoch``, counted from 1; {} for a model without an equilibrium."""
        if find_equilibrium(model) is None:
            return {}
        batch = self.batch.to(device)
        report = EquilibriumMonitor(model)(batch.inputs, batch.present)
        known = {kind_of(alert["message"]) for alert in self.alerts}
        for message in report.warnings:
            if kind_of(message) not in known:
                self.alerts.append({"epoch": epoch, "message": message})
                _LOG.warning("epoch %d: %s", epoch, message)
        return {f"equilibrium_{name}": value for name, value in report.numbers().items()}

    def remembered(self, trainer: pl.Trainer) -> dict[str, Any]:
        """The alerts."""
        return {"alerts": self.alerts}

    def recall(self, stored: dict[str, Any]) -> None:
        """See :meth:`StoredCallback.recall`."""
        self.alerts = stored["alerts"]


def kind_of(message: str) -> str:
    """A message without its numbers."""
    return re.sub(r"[\d.]+", "", message)
