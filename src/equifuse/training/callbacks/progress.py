"""A function that is called after each epoch."""

from __future__ import annotations

from collections.abc import Callable

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from equifuse.training.callbacks.checkpoint import BestWeights
from equifuse.training.callbacks.history import History
from equifuse.training.lightning_module import Row


class OnEpochEnd(Callback):
    """Hands each epoch's row of the history, and the best monitored value so far, to a function.

    Args:
        function: called with both.
        history: where the row is from.
        best: where the value is from; before there is one, nothing is called.
    """

    def __init__(self, function: Callable[[Row, float], None], history: History, best: BestWeights) -> None:
        self.function, self.history, self.best = function, history, best

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Pass them on."""
        if self.best.best is not None:
            self.function(self.history.rows[-1], self.best.best["value"])
