"""One progress bar per run."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from equifuse.training.module import TrainingModule


class ProgressBar(pl.Callback):
    """Epochs done, validation loss now and at best, time left (to the epoch limit; early stopping may come first).

    Args:
        label: what is trained.
    """

    def __init__(self, label: str) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs  {task.fields[note]}"),
            TimeRemainingColumn(),
        )
        self.label = label
        self.best = float("inf")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar."""
        self.progress.start()
        self.bar = self.progress.add_task(
            self.label, total=trainer.max_epochs, completed=trainer.current_epoch, note=""
        )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """One epoch further."""
        assert isinstance(pl_module, TrainingModule)
        loss = pl_module.history[-1]["val_loss"]
        self.best = min(self.best, loss)
        note = f"val loss {loss:.4f} (best {self.best:.4f})"
        self.progress.update(self.bar, completed=trainer.current_epoch + 1, note=note)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the bar as it is."""
        self.progress.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> Any:
        """Give the terminal back."""
        self.progress.stop()
