"""The end of a training at a time of the clock."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl


class Deadline(pl.Callback):
    """Ends training after the step in which a time of the system's clock passes; a validation comes after it.

    Args:
        until: as :func:`time.time` gives it.
    """

    def __init__(self, until: float) -> None:
        self.until = until

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the clock."""
        if time.time() >= self.until:
            trainer.should_stop = True
