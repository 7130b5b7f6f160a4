"""What the stages of a model know of the target, every few epochs."""

from __future__ import annotations

from collections.abc import Sequence

import lightning.pytorch as pl

from equifuse.data.batch import Batch
from equifuse.explain.information import information_flow
from equifuse.training.lightning_module import LitFusion


class LogInformation(pl.Callback):
    """Every few epochs, measures the bits at each stage of the model on some batches, into the epoch's numbers.

    After validation the history gets ``information/fused``, ``information/a.encoded``, … in bits; see
    :func:`equifuse.explain.information_flow`.

    >>> inputs = {"a": torch.randn(40, 3), "b": torch.randn(40, 4)}
    >>> log = LogInformation([ef.tasks.Batch(inputs, target=torch.arange(40) % 2)], every=5)
    >>> trainer = ef.training.Trainer(callbacks=[log])  # or ef.runs.train(..., callbacks=[log])
    >>> log.every
    5

    Args:
        batches: labelled samples, usually of the validation part.
        every: how many epochs lie between two measurements, 1 at least.
    """

    def __init__(self, batches: Sequence[Batch], every: int = 5) -> None:
        super().__init__()
        self.batches, self.every = list(batches), max(1, every)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add to the epoch's numbers, before the history takes them."""
        assert isinstance(pl_module, LitFusion)
        if trainer.sanity_checking or trainer.current_epoch % self.every:
            return
        flow = information_flow(pl_module.model, pl_module.task, self.batches, common=False)
        pl_module.epoch_numbers |= {f"information/{stage.name}": stage.bits for stage in flow.stages}
