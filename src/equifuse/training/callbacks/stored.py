"""What a callback remembers, in the checkpoint: numbers and tensors only, so that reading it runs no code."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

STATE = "equifuse"


class StoredCallback(Callback):
    """A callback whose memory is part of the checkpoint, under ``checkpoint["equifuse"]``."""

    def remembered(self, trainer: pl.Trainer) -> dict[str, Any]:
        """What is stored: name -> numbers, text, tensors, and lists and mappings of them."""
        raise NotImplementedError

    def recall(self, stored: dict[str, Any]) -> None:
        """Take back what was stored."""
        raise NotImplementedError

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what is remembered."""
        checkpoint.setdefault(STATE, {}).update(self.remembered(trainer))

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take it back."""
        self.recall(checkpoint[STATE])
