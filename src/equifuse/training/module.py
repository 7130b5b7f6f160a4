"""The training step, as a Lightning module."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from equifuse.errors import EquifuseError
from equifuse.model import FusionModel, ModelOutput
from equifuse.tasks import Task
from equifuse.training.data import Batch, drop_modalities


class TrainingModule(pl.LightningModule):
    """Minimises task loss plus the fusion's weighted regularisers; keeps a history per epoch.

    Args:
        model: the model.
        task: its task.
        lr: learning rate of AdamW, > 0.
        weight_decay: of AdamW, ≥ 0; not applied to biases and norms.
        modality_dropout: probability of taking a modality from a training row, in [0, 1).
    """

    def __init__(
        self, model: FusionModel, task: Task, *, lr: float, weight_decay: float, modality_dropout: float
    ) -> None:
        super().__init__()
        self.model, self.task = model, task
        self.lr, self.weight_decay, self.modality_dropout = lr, weight_decay, modality_dropout
        self.history: list[dict[str, float]] = []
        self._train = _Means()
        self._val = _Means()
        self._val_outputs: list[tuple[Tensor, Tensor | None]] = []

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch."""
        return Batch(
            {m: x.to(device) for m, x in batch.inputs.items()},
            {m: mask.to(device) for m, mask in batch.present.items()},
            None if batch.target is None else batch.target.to(device),
        )

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Total loss of a batch."""
        if self.modality_dropout:
            batch = drop_modalities(batch, self.modality_dropout, self.model.modalities)
        task_loss, output = self.task.forward(self.model, batch.inputs, batch.present, batch.target)
        loss = task_loss
        for name, value in output.fusion.losses.items():
            loss = loss + self.model.fusion.loss_weights.get(name, 0.0) * value
        if not bool(torch.isfinite(loss)):
            raise EquifuseError(
                f"training loss {float(loss.detach())} in epoch {self.current_epoch}; lower the learning rate"
            )
        self._train.add(len(batch), loss=loss, task_loss=task_loss, **_solver_means(output), **output.fusion.losses)
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        """Collect loss and outputs."""
        loss, output = self.task.forward(self.model, batch.inputs, batch.present, batch.target)
        self._val.add(len(batch), loss=loss, **_solver_means(output))
        self._val_outputs.append((output.prediction.cpu(), None if batch.target is None else batch.target.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Close the epoch's line of the history; early stopping watches ``val_loss``."""
        row: dict[str, float] = {"epoch": float(self.current_epoch)}
        row |= {f"train_{key}": value for key, value in self._train.pop().items()}
        row |= {f"val_{key}": value for key, value in self._val.pop().items()}
        targets = [target for _, target in self._val_outputs if target is not None]
        if targets and self.task.name != "retrieval":
            predictions = torch.cat([prediction for prediction, _ in self._val_outputs])
            row |= {f"val_{k}": v for k, v in self.task.metrics(predictions, torch.cat(targets)).items()}
        self._val_outputs.clear()
        self.history.append(row)
        self.log("val_loss", row["val_loss"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; matrices decay, vectors do not."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW([g for g in groups if g["params"]], lr=self.lr)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what makes a resumed run equal to an uninterrupted one."""
        checkpoint["equifuse"] = {"history": self.history, "rng": torch.get_rng_state()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up history and random state."""
        self.history = checkpoint["equifuse"]["history"]
        self._rng = checkpoint["equifuse"]["rng"]

    def on_train_epoch_start(self) -> None:
        """The random state goes back last: building the trainer has drawn from it."""
        if getattr(self, "_rng", None) is not None:
            torch.set_rng_state(self._rng)
            self._rng = None


class _Means:
    """Row-weighted means of named scalars."""

    def __init__(self) -> None:
        self.rows = 0
        self.sums: dict[str, Tensor] = {}

    def add(self, rows: int, **values: Tensor) -> None:
        self.rows += rows
        for key, value in values.items():
            self.sums[key] = self.sums.get(key, torch.zeros(())) + rows * value.detach().float().cpu()

    def pop(self) -> dict[str, float]:
        means = {key: float(value) / max(self.rows, 1) for key, value in self.sums.items()}
        self.rows, self.sums = 0, {}
        return means


def _solver_means(output: ModelOutput) -> dict[str, Tensor]:
    stats = output.fusion.stats
    if stats is None:
        return {}
    return {"converged": stats.converged.float().mean(), "steps": stats.steps.float().mean()}
