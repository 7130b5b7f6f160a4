"""One row of numbers per epoch."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl

from equifuse.training.callbacks.stored import StoredCallback
from equifuse.training.lightning_module import LitFusion, Row


class History(StoredCallback):
    """Collects a row of numbers per epoch: ``epoch`` from 0, ``train_*``, ``val_*``, ``equilibrium_*``, ``seconds``.

    A metric that is undefined on the validation part is None.

    Attributes:
        rows: one mapping per epoch.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._began = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Complete the row."""
        assert isinstance(pl_module, LitFusion)
        means = {f"train_{name}": value for name, value in pl_module.train_means().items()}
        seconds = time.perf_counter() - self._began
        self.rows.append(
            {"epoch": float(trainer.current_epoch), **means, **pl_module.epoch_numbers, "seconds": seconds}
        )

    def remembered(self, trainer: pl.Trainer) -> dict[str, Any]:
        """The rows."""
        return {"history": self.rows}

    def recall(self, stored: dict[str, Any]) -> None:
        """See :meth:`StoredCallback.recall`."""
        self.rows = stored["history"]
