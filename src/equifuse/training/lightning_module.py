"""The training step of a fusion model, as Lightning takes it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from equifuse.data.batch import Batch
from equifuse.data.loaders import Batches, mix
from equifuse.errors import InputError
from equifuse.evaluation.conditions import drop_modalities, reduced
from equifuse.model import FusionModel, ModelOutput
from equifuse.solve import SolverStats
from equifuse.tasks import Task
from equifuse.tasks.evaluated import result_of
from equifuse.training.balancing import Balancer
from equifuse.training.mixup import Pairs, mixing, pairs_of
from equifuse.training.optimization import OptimizerFactory, Schedule, ScheduleFactory, make_optimizer, make_schedule
from equifuse.training.options import TrainingOptions
from equifuse.training.protocol import LOOSE
from equifuse.training.recorded import RecordedSteps, check_records
from equifuse.training.sharpness import sharpened

Row = dict[str, float | None]
# An epoch's loss beyond that of outputs of zero by this has diverged, also if it is still a number.
_EXPLODED = 1e3


class LitFusion(pl.LightningModule):
    """Task loss plus the fusion's weighted regularisers, measured on validation as a whole after every epoch.

    Usually made by :class:`~equifuse.training.Trainer`. On Lightning's logs are ``train_loss``, ``train_task_loss`` and
    more of that kind, means over the samples of an epoch, and ``val_loss``, ``val_accuracy``, … for the metrics.

    Args:
        model: the model; it is trained in place.
        task: loss and metrics.
        options: optimiser, schedule, modality dropout, seed, protocol.
        balancer: what balances the modalities, prepared for the model; None for nothing.
        optimizer: makes the optimiser in the place of the one that the options name.
        schedule: makes the schedule likewise.
        cycles: how often the schedule begins anew.

    Attributes:
        monitor: the validation metric that decides on the best epoch; ``mode`` is ``"min"`` or ``"max"``.
        monitored: its latest value; NaN where it has none, and ``undefined`` says why.
        epoch_numbers: what the history's row of this epoch gets beside the means of training; callbacks may add to it.
        reduces: whether the validation part is also looked at with modalities hidden.
        optimizer_state: what the optimiser knows of each parameter, from an earlier training; None to start afresh.
    """

    def __init__(
        self,
        model: FusionModel,
        task: Task,
        options: TrainingOptions,
        balancer: Balancer | None = None,
        *,
        optimizer: OptimizerFactory | None = None,
        schedule: ScheduleFactory | None = None,
        cycles: int = 1,
    ) -> None:
        super().__init__()
        self.model, self.task, self.options = model, task, options
        self.balancer = balancer or Balancer()
        self.learnt = task.learns  # stored in checkpoints, and moved with the model
        loose = options.protocol == LOOSE
        self.monitor: str = task.headline if loose else task.monitor
        self.mode: str = task.metric(self.monitor).mode
        self.monitored = math.nan
        self.undefined = ""
        self.epoch_numbers: Row = {}
        self.optimizer_state: dict[str, Any] | None = None
        self._factories, self._cycles = (optimizer, schedule), cycles
        self._schedule = Schedule()
        self._sums: dict[str, Tensor] = {}
        self._means: dict[str, float] | None = None
        self._count = 0
        self._validation: list[tuple[ModelOutput, Tensor | None, Tensor | None]] = []
        self._reduced: list[tuple[ModelOutput, Tensor | None, Tensor | None]] = []
        assert not isinstance(options.modality_dropout, str)  # the trainer has put a number in the place of "auto"
        rates = options.modality_dropout
        self._hidden = rates if not isinstance(rates, dict) or any(rates.values()) else 0.0
        # The published protocol looks at the test part as it is.
        self.reduces = bool(self._hidden) and task.hidden_at_rates and not loose
        self._stats: SolverStats | None = None
        self._latest = 0
        self._again = False  # whether a batch is seen for the second time
        self._zeros, self._zeros_loss = torch.zeros(1, 1), torch.zeros(())
        self._recorded: RecordedSteps | None = None
        self._replayed = False  # whether the latest step was a recorded one

    def configure_optimizers(self) -> Any:
        """The optimiser and the schedule, whose states are part of the checkpoint."""
        make, change = self._factories
        beside = nn.ModuleList([self.balancer, *([] if self.learnt is None else [self.learnt])])
        optimizer = make_optimizer(self.model, self.options, make, beside=beside)
        if self.optimizer_state is not None:
            optimizer.load_state_dict({**optimizer.state_dict(), "state": self.optimizer_state})
        steps = int(self.trainer.estimated_stepping_batches)
        self._schedule = make_schedule(optimizer, self.options, steps, self.mode, change, self._cycles)
        schedulers: list[dict[str, Any]] = []
        if self._schedule.per_step is not None:
            schedulers.append({"scheduler": self._schedule.per_step, "interval": "step"})
        if self._schedule.plateau is not None:
            # Lightning would step it after the checkpoint, and not at all in a resumed run: it is stepped here.
            schedulers.append(
                {
                    "scheduler": self._schedule.plateau,
                    "interval": "step",
                    "frequency": sys.maxsize,
                    "monitor": "monitor",
                }
            )
        return [optimizer], schedulers

    def on_train_start(self) -> None:
        """Record steps, if asked for.

        Raises:
            InputError: there is no GPU for it.
        """
        if self.options.cuda_graph:
            check_records(self.device)
            trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
            self._recorded = RecordedSteps(self._whole_step, trained)

    def on_train_end(self) -> None:
        """Free what was recorded."""
        self._recorded = None

    def on_train_epoch_start(self) -> None:
        """Start the epoch's random numbers from ``(seed, epoch)``, after the balancer has looked."""
        self._sums, self._count, self._means, self.epoch_numbers = {}, 0, None, {}
        batches, validation = self.trainer.train_dataloader, self.trainer.val_dataloaders
        assert isinstance(batches, Batches)
        batches.epoch = self.current_epoch
        if validation is not None:
            assert isinstance(validation, Batches)
            self.balancer.start_epoch(self.model, self.task, self.current_epoch, batches, validation)
        torch.manual_seed(mix(self.options.seed, self.current_epoch) + self.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Total loss of a batch; where the step is recorded, after its backward pass."""
        if self._hidden:
            batch = drop_modalities(batch, self._hidden)
        found = None if self._recorded is None else self._recorded(batch)
        self._replayed = found is not None
        loss, parts = self._losses(batch, batch_idx) if found is None else found
        if batch_idx == 0:
            with torch.no_grad():
                self._zeros_loss = self._loss_of_zeros(batch)
        if not self._again:
            self._add(parts, len(batch))
            self._count += len(batch)
        self._latest = len(batch)
        return loss

    def _losses(self, batch: Batch, batch_idx: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss of a batch, and what it consists of."""
        loss, output, pairs = self._forward(batch, batch_idx)
        self._zeros = torch.zeros_like(output.prediction[:1])
        losses, fusion = dict(output.fusion.losses), self.model.fusion
        if fusion.target_loss_weights and batch.target is not None:
            losses |= self._target_losses(output, batch, pairs)
        parts = {"task_loss": loss, **losses}
        loss, numbers = self.balancer.balanced(self.model, self.task, batch, output, loss)
        parts |= {f"balance/{name}": number for name, number in numbers.items()}
        for name, weight in {**fusion.loss_weights, **fusion.target_loss_weights}.items():
            if weight and name in losses:
                loss = loss + weight * losses[name]
        for m, alone in self._alone(output, batch, pairs).items():
            parts[f"unimodal_loss/{m}"] = alone
            loss = loss + self._alone_weight() * alone
        self._stats = output.fusion.stats
        if self._stats is not None:
            parts |= _shares(self._stats)
        return batch.share * loss, {"loss": loss, **parts}

    def _whole_step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """A forward and a backward pass, as they are recorded."""
        loss, parts = self._losses(batch, 0)
        loss.backward()  # type: ignore[no-untyped-call]
        parts |= self._adjoint_shares()
        self._stats = None
        return loss.detach(), {name: part.detach() for name, part in parts.items()}

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        """Forget gradients; those of a recorded step are already those of this batch."""
        if not self._replayed:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """The backward pass, which a recorded step has had."""
        if not self._replayed:
            super().backward(loss, *args, **kwargs)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """One step; by the gradient at the worst point nearby, if asked for."""
        if self.options.sam:
            optimizer_closure = self._sharpened(optimizer_closure, optimizer)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    def _sharpened(self, closure: Callable[[], Any], optimizer: Any) -> Callable[[], Any]:
        """See :func:`equifuse.training.sharpness.sharpened`; the second pass is not counted."""

        def counted() -> Any:
            found = closure()
            self._again = True
            return found

        worst = sharpened(counted, optimizer, self.options.sam, self.model)

        def once() -> Any:
            try:
                return worst()
            finally:
                self._again = False

        return once

    def _forward(self, batch: Batch, batch_idx: int) -> tuple[Tensor, ModelOutput, Pairs | None]:
        """The loss of a batch, of mixed samples if asked for."""
        if not self.options.mixup:
            return *self.task.forward_loss(self.model, batch), None
        seed = [self.options.seed, self.current_epoch, batch_idx, self.global_rank]
        pairs = pairs_of(batch, self.options.mixup, seed)
        with mixing(self.model, pairs):
            output = self.task.forward(self.model, batch)
        loss = pairs.loss(lambda b: self.task.training_loss(output.prediction, b.target, b.weight), batch)
        return loss, output, pairs

    def _target_losses(self, output: ModelOutput, batch: Batch, pairs: Pairs | None) -> dict[str, Tensor]:
        """The fusion's losses against the target."""

        def losses(of: Batch) -> dict[str, Tensor]:
            assert of.target is not None
            return self.model.fusion.target_losses(output.fusion, of.target, of.present)

        return losses(batch) if pairs is None else pairs.losses(losses, batch)

    def _alone(self, output: ModelOutput, batch: Batch, pairs: Pairs | None) -> dict[str, Tensor]:
        """The losses of the modalities alone, where they are asked for and the fusion has none of its own."""
        fusion = self.model.fusion
        own = fusion.decides and bool(fusion.target_loss_weights)
        if self.options.unimodal == "none" or not self._alone_weight() or own:
            return {}
        if pairs is None:
            return self.task.unimodal_losses(output, batch)
        return pairs.losses(lambda of: self.task.unimodal_losses(output, of), batch)

    def _alone_weight(self) -> float:
        """The weight of the losses of the modalities alone in this epoch."""
        weight, epochs = self.options.unimodal_loss, self.options.unimodal_loss_epochs
        return weight if epochs is None else weight * max(0.0, 1 - self.current_epoch / epochs)

    def on_after_backward(self) -> None:
        """Note how the adjoint solves of the step went, and balance its gradients."""
        self.balancer.after_backward(self.model)
        if not self._again and not self._replayed:
            self._add(self._adjoint_shares(), self._latest)

    def _adjoint_shares(self) -> dict[str, Tensor]:
        """How the adjoint solves of the latest step went."""
        parts = {} if self._stats is None else self._stats.parts
        adjoints = {name: part.adjoint for name, part in parts.items()}
        return {
            f"backward_{key}/{name}": x
            for name, adjoint in adjoints.items()
            if adjoint is not None
            for key, x in _shares(adjoint).items()
        }

    def _add(self, values: dict[str, Tensor], weight: int) -> None:
        """Sum up, as tensors: reading a number out in every step would wait for the device."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach() * weight

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Look at the end of an epoch whether there is anything left to validate.

        Raises:
            InputError: the training has diverged.
        """
        if not self.trainer.is_last_batch:
            return
        lower = f"lower the learning rate (now {self.options.lr:g})"
        finite = [torch.isfinite(tensor).all() for tensor in (self._sums["loss"], *self.model.parameters())]
        if not bool(torch.stack(finite).all()):
            raise InputError(f"training diverged in epoch {self.current_epoch + 1}: the loss is not finite; {lower}")
        mean = float(self._sums["task_loss"]) / self._count
        zeros = float(self._zeros_loss)
        if zeros > 0 and mean > _EXPLODED * zeros:  # of the first batch; a large target may be in another one
            zeros = self._mean_loss_of_zeros()
        if zeros > 0 and mean > _EXPLODED * zeros:
            raise InputError(
                f"training diverged in epoch {self.current_epoch + 1}: the loss is {mean:.2g}, that of outputs of zero "
                f"{zeros:.2g}; {lower}"
            )

    def _loss_of_zeros(self, batch: Batch) -> Tensor:
        """The loss of outputs of zero on a batch."""
        zeros = self._zeros.expand(len(batch), *self._zeros.shape[1:])
        return self.task.loss(zeros, batch.target, batch.weight)

    @torch.no_grad()
    def _mean_loss_of_zeros(self) -> float:
        """The same over all batches of the epoch."""
        batches = self.trainer.train_dataloader
        assert isinstance(batches, Batches)
        found = [(len(batch), float(self._loss_of_zeros(batch.to(self.device)))) for batch in batches]
        return sum(count * loss for count, loss in found) / sum(count for count, _ in found)

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's outputs."""
        self._validation, self._reduced = [], []

    def reduced(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches of the validation part with modalities hidden, the same in every epoch."""
        for number, batch in enumerate(batches):
            yield reduced(batch, self._hidden, self.options.seed, number)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep a batch's outputs; the split is measured as a whole."""
        output = self.task.forward(self.model, batch)
        self._validation.append((result_of(output), batch.target, batch.weight))
        if self.reduces:
            output = self.task.forward(self.model, reduced(batch, self._hidden, self.options.seed, batch_idx))
            self._reduced.append((result_of(output), batch.target, batch.weight))

    def on_validation_epoch_end(self) -> None:
        """Measure the validation part, intact and with modalities hidden; the mean of both is what is monitored."""
        evaluation = self.task.gather(self._validation)
        value = evaluation.metrics.get(self.monitor)
        self.monitored = math.nan if value is None else value
        if value is None:
            self.undefined = evaluation.undefined.get(self.monitor, "there is no such value")
        numbers = {f"val_{name}": number for name, number in evaluation.metrics.items()}
        if self._reduced:
            less = self.task.gather(self._reduced).metrics.get(self.monitor)
            numbers[f"val_reduced_{self.monitor}"] = less
            if less is not None:
                self.monitored = (self.monitored + less) / 2
        self._validation, self._reduced = [], []
        self.log("monitor", self.monitored, logger=False)
        self.epoch_numbers |= numbers
        self.log_dict({name: number for name, number in numbers.items() if number is not None})

    def measured(self, batches: Iterable[Batch]) -> float:
        """The monitored value of the model as it is, as after an epoch; NaN where there is none."""
        parts = [batches, *([self.reduced(batches)] if self.reduces else [])]
        values = [self.task.evaluate(self.model, part).metrics.get(self.monitor) for part in parts]
        known = [value for value in values if value is not None]
        return math.nan if values[0] is None else sum(known) / len(known)

    def train_means(self) -> dict[str, float]:
        """Means over the samples of the epoch, of all processes; every process has to ask."""
        if self._means is None:
            count = torch.tensor(self._count, device=self.device)
            totals = torch.stack([value.double() for value in (count, *self._sums.values())])
            if self.trainer.world_size > 1:
                torch.distributed.all_reduce(totals)
            seen, *sums = totals.tolist()
            self._means = {name: total / seen for name, total in zip(self._sums, sums, strict=True)}
        return self._means

    def on_train_epoch_end(self) -> None:
        """Log the means, and let a plateau's schedule see the monitored value."""
        logged = {f"train_{name}": mean for name, mean in self.train_means().items()}
        others = {k: v for k, v in self.epoch_numbers.items() if not k.startswith("val_") and v is not None}
        self.log_dict(logged | others)
        if self._schedule.plateau is not None and math.isfinite(self.monitored):
            self._schedule.plateau.step(self.monitored)


def _shares(stats: SolverStats) -> dict[str, Tensor]:
    return {"steps": stats.steps.float().mean(), "converged": stats.converged.float().mean()}
