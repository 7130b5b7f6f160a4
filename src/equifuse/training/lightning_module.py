"""The training loop as Lightning sees it, and its callbacks. The only file that imports Lightning."""

from __future__ import annotations

import logging
import math
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from equifuse.data import MultimodalDataset
from equifuse.data.batch import Batch
from equifuse.data.loaders import Batches, batches_of, first_rows, mix
from equifuse.errors import ConvergenceWarning, DataError, EquifuseError, InputError
from equifuse.evaluation.conditions import drop_modalities
from equifuse.files import atomic, check_unpacked_fits, parse_errors
from equifuse.fusion import DEQFusion, EquilibriumMonitor, find_equilibrium
from equifuse.model import FusionModel, ModelOutput
from equifuse.runs.config import TrainConfig
from equifuse.solve import EquilibriumCache, SolverStats
from equifuse.tasks import Task
from equifuse.tasks.base import result_of
from equifuse.training.balancing import Balancer
from equifuse.training.distributed import ProcessGroupInfo, ShardedBatches, process_group_info
from equifuse.training.protocol import LOOSE
from equifuse.training.randomness import own_random_numbers

Row = dict[str, float | None]
_STATE = "equifuse"
_LOG = logging.getLogger("equifuse.training")
# Samples whose equilibria are watched.
_WATCHED = 64


class LitFusion(pl.LightningModule):
    """Task loss plus the fusion's weighted regularisers, a history per epoch, and the best weights seen.

    Args:
        model: the model; it is trained in place.
        task: loss and metrics.
        config: optimiser, modality dropout, seed.
        balancer: what balances the modalities, prepared for the model; None for nothing.

    Attributes:
        history: one row of numbers per epoch.
        best: epoch, monitored value and weights of the best epoch so far, or None.
        stopped: whether early stopping has ended the run.
        alerts: what the equilibrium's monitor found worrying: epoch and message, each kind once.
        optimizer_state: what the optimiser knows of each parameter, from an earlier training; None to start afresh.
    """

    def __init__(self, model: FusionModel, task: Task, config: TrainConfig, balancer: Balancer | None = None) -> None:
        super().__init__()
        self.model, self.task, self.config = model, task, config
        self.balancer = balancer or Balancer()
        loose = config.protocol == LOOSE
        self.monitor: str = task.headline if loose else task.monitor
        self.mode: str = task.metric(self.monitor).mode
        self.history: list[Row] = []
        self.best: dict[str, Any] | None = None
        self.stopped = False
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._validation: list[tuple[ModelOutput, Tensor | None, Tensor | None]] = []
        self._row: Row = {}
        self._why_undefined = ""
        self._began = 0.0
        self._stats: SolverStats | None = None
        self._latest = 0
        self.alerts: list[dict[str, Any]] = []
        self.optimizer_state: dict[str, Any] | None = None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; gains and biases are not decayed: what they are at rest is not 0."""
        matrices, others = split_by_decay(nn.ModuleList([self.model, self.balancer]))
        groups = [
            {"params": matrices, "weight_decay": self.config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=self.config.lr)
        if self.optimizer_state is not None:
            optimizer.load_state_dict({**optimizer.state_dict(), "state": self.optimizer_state})
        return optimizer

    def on_train_epoch_start(self) -> None:
        """Start the epoch's random numbers from ``(seed, epoch)``, after the balancer has looked."""
        self._began = time.perf_counter()
        self._sums, self._count = {}, 0
        batches, validation = self.trainer.train_dataloader, self.trainer.val_dataloaders
        assert isinstance(batches, Batches)
        batches.epoch = self.current_epoch
        if validation is not None:
            assert isinstance(validation, Batches)
            self.balancer.start_epoch(self.model, self.task, self.current_epoch, batches, validation)
        torch.manual_seed(mix(self.config.seed, self.current_epoch) + self.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Total loss of a batch."""
        if self.config.modality_dropout:
            batch = drop_modalities(batch, self.config.modality_dropout)
        loss, output = self.task.forward_loss(self.model, batch)
        losses, fusion = dict(output.fusion.losses), self.model.fusion
        if fusion.target_loss_weights and batch.target is not None:
            losses |= fusion.target_losses(output.fusion, batch.target, batch.present)
        parts = {"task_loss": loss, **losses}
        loss, numbers = self.balancer.balanced(self.model, self.task, batch, output, loss)
        parts |= {f"balance/{name}": number for name, number in numbers.items()}
        for name, weight in {**fusion.loss_weights, **fusion.target_loss_weights}.items():
            if weight and name in losses:
                loss = loss + weight * losses[name]
        self._stats = output.fusion.stats
        if self._stats is not None:
            parts |= _shares(self._stats)
        self._add({"loss": loss, **parts}, len(batch))
        self._count += len(batch)
        self._latest = len(batch)
        return batch.share * loss

    def on_after_backward(self) -> None:
        """Note how the adjoint solves of the step went, and balance its gradients."""
        self.balancer.after_backward(self.model)
        if self._stats is None:
            return
        for name, part in self._stats.parts.items():
            adjoint = part.adjoint
            if adjoint is not None:
                self._add({f"backward_{key}/{name}": x for key, x in _shares(adjoint).items()}, self._latest)

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
        finite = [torch.isfinite(tensor).all() for tensor in (self._sums["loss"], *self.model.parameters())]
        if not bool(torch.stack(finite).all()):
            raise InputError(
                f"training diverged in epoch {self.current_epoch + 1}: the loss is not finite; lower the learning rate "
                f"(now {self.config.lr:g})"
            )

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's outputs."""
        self._validation = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep a batch's outputs; the split is measured as a whole."""
        output = self.task.forward(self.model, batch)
        self._validation.append((result_of(output), batch.target, batch.weight))

    def on_validation_epoch_end(self) -> None:
        """Measure the validation part, and keep the weights if they are the best so far."""
        evaluation = self.task.gather(self._validation)
        self._validation = []
        found = evaluation.metrics.get(self.monitor)
        value = math.nan if found is None else found
        if self.best is None and found is None:
            self._why_undefined = evaluation.undefined.get(self.monitor, "there is no such value")
        self._row = {f"val_{name}": number for name, number in evaluation.metrics.items()}
        self.log("monitor", value, prog_bar=False, logger=False)
        sign = 1 if self.mode == "min" else -1
        if math.isfinite(value) and (self.best is None or sign * value < sign * self.best["value"]):
            weights = {key: tensor.detach().cpu().clone() for key, tensor in self.model.state_dict().items()}
            self.best = {"epoch": self.current_epoch, "value": value, "weights": weights}

    def on_train_epoch_end(self) -> None:
        """Complete the history's row, with means over the samples of all processes."""
        count = torch.tensor(self._count, device=self.device)
        totals = torch.stack([value.double() for value in (count, *self._sums.values())])
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(totals)
        seen, *sums = totals.tolist()
        means = {f"train_{name}": total / seen for name, total in zip(self._sums, sums, strict=True)}
        seconds = time.perf_counter() - self._began
        self.history.append({"epoch": float(self.current_epoch), **means, **self._row, "seconds": seconds})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a resumed run needs; numbers and tensors only, so that it can be read without unpickling code."""
        checkpoint[_STATE] = {
            "history": self.history,
            "best": self.best,
            "stopped": self.trainer.should_stop,
            "alerts": self.alerts,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take history and best weights from a checkpoint."""
        state = checkpoint[_STATE]
        self.history, self.best, self.stopped = state["history"], state["best"], state["stopped"]
        self.alerts = state["alerts"]


def _shares(stats: SolverStats) -> dict[str, Tensor]:
    return {"steps": stats.steps.float().mean(), "converged": stats.converged.float().mean()}


class WatchEquilibrium(Callback):
    """After each epoch, looks at the equilibria of one batch: numbers into the history, worries into the log.

    Args:
        batch: what to look at, usually of the validation part.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Complete the row, and say once what is wrong."""
        assert isinstance(pl_module, LitFusion)
        self.note(pl_module, trainer.current_epoch + 1)

    def note(self, module: LitFusion, epoch: int) -> None:
        """Look, and note it for ``epoch``, counted from 1."""
        if find_equilibrium(module.model) is None:
            return
        batch = self.batch.to(module.device)
        report = EquilibriumMonitor(module.model)(batch.inputs, batch.present)
        module._row |= {f"equilibrium_{name}": value for name, value in report.numbers().items()}
        told = {_kind(alert["message"]) for alert in module.alerts}
        for message in report.warnings:
            if _kind(message) not in told:
                module.alerts.append({"epoch": epoch, "message": message})
                _LOG.warning("epoch %d: %s", epoch, message)


def _kind(message: str) -> str:
    """A message without its numbers."""
    return re.sub(r"[\d.]+", "", message)


def split_by_decay(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters to which weight decay applies, and those to which it does not: biases, scalars, and norms' gains."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module in model.modules():
        is_norm = "norm" in type(module).__name__.lower()
        for name, parameter in module.named_parameters(recurse=False):
            free = is_norm or parameter.dim() < 2 or name.startswith("bias")
            (others if free else matrices).append(parameter)
    return matrices, others


class LastEpoch(Checkpoint):
    """Writes ``path`` after every epoch, whole or not at all, so that an interrupted run can go on."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save; early stopping has had its say by now."""
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self.path)  # takes part, and writes nothing
            return
        with atomic(self.path) as staging:
            trainer.save_checkpoint(staging)


class Began(Callback):
    """Whether training has begun, so that what fails before is the checkpoint's fault."""

    training = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Everything has been restored."""
        del trainer, pl_module
        self.training = True


class Report(Callback):
    """Hands each epoch's row and the best value to a function."""

    def __init__(self, tell: Callable[[Row, float], None]) -> None:
        self.tell = tell

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Pass on the latest complete row."""
        assert isinstance(pl_module, LitFusion)
        # Callbacks run before the module's own hook, which completes the row; the validation is already in it.
        if pl_module.best is not None:
            self.tell({"epoch": float(trainer.current_epoch), **pl_module._row}, pl_module.best["value"])


def fit(
    module: LitFusion,
    train: Batches,
    val: Batches | None,
    last: Path | None = None,
    tell: Callable[[Row, float], None] | None = None,
    *,
    watch: bool = True,
) -> None:
    """Train with early stopping; continue from ``last`` if it exists. The best weights end up in the model.

    Under the loose protocol nothing stops the run before its last epoch.

    Args:
        module: model, task and configuration.
        train: training batches, of all processes together where there are several.
        val: validation batches; without, there is no early stopping, and the last weights end up in the model.
        last: where the checkpoint is, or None for none.
        tell: called after each epoch with its row and the best monitored value.
        watch: whether to look after each epoch at the equilibria of some validation samples.

    Raises:
        InputError: training diverged.
        KeyboardInterrupt: the user interrupted; ``last`` holds the last complete epoch.
    """
    config, resumed = module.config, last is not None and last.is_file()
    place = process_group_info(config)
    if place.world > 1:
        train = ShardedBatches(train, place.rank, place.world)
    if last is not None and resumed:
        with parse_errors(last, "a checkpoint"):
            check_unpacked_fits(last)
            module.on_load_checkpoint(torch.load(last, weights_only=True, map_location="cpu"))
    if not (resumed and (module.stopped or len(module.history) >= config.epochs)):
        began = Began()
        with _quiet(), _warm_starts(module.model, config.warm_start):
            trainer = pl.Trainer(
                max_epochs=config.epochs,
                accelerator=config.accelerator,
                devices=place.devices,
                num_nodes=place.nodes,
                strategy=_strategy(config, place),
                use_distributed_sampler=False,
                accumulate_grad_batches=config.accumulate,
                precision="bf16-mixed" if config.precision == "bf16" else "32-true",
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                enable_checkpointing=last is not None,
                callbacks=[
                    *([_early_stopping(module)] if val else []),
                    *([WatchEquilibrium(first_rows(val, _WATCHED))] if val and watch else []),
                    *([LastEpoch(last)] if last else []),
                    *([Report(tell)] if tell else []),
                    began,
                ],
                default_root_dir=last.parent if last else None,
            )
            try:
                with _interruptible():
                    trainer.fit(module, train, val, ckpt_path=last if resumed else None, weights_only=True)
            except EquifuseError:
                raise
            except Exception as error:
                if not resumed or began.training:
                    raise
                reason = " ".join(str(error).split())[:500]
                raise DataError(f"{last} does not fit this training: {reason}; remove it to begin anew") from None
    module.model.to("cpu").eval()
    if val is None:
        return
    if module.best is None:
        raise InputError(
            f"the validation {module.monitor} was undefined in every epoch: {module._why_undefined}; watch another "
            "metric, give a validation part that has it, or lower the learning rate if training diverged"
        )
    module.model.load_state_dict(module.best["weights"])


def _strategy(config: TrainConfig, place: ProcessGroupInfo) -> Any:
    if config.strategy == "fsdp":
        return "fsdp"
    if place.world == 1:
        return "auto"
    # A batch without a modality leaves its encoder without a gradient.
    return DDPStrategy(find_unused_parameters=True)


def _early_stopping(module: LitFusion) -> EarlyStopping:
    config = module.config
    patience = config.epochs if config.protocol == LOOSE else config.patience
    return EarlyStopping("monitor", patience=patience, mode=module.mode, verbose=False, check_finite=False)


def fit_on(
    dataset: MultimodalDataset,
    module: LitFusion,
    last: Path | None = None,
    tell: Callable[[Row, float], None] | None = None,
    *,
    watch: bool = True,
) -> None:
    """:func:`fit` on the parts of a data set, with the configuration's batches and random numbers."""
    config = module.config
    train = batches_of(dataset.splits["train"], config.batch_size * process_group_info(config).world, config.seed)
    with own_random_numbers(config.seed):
        fit(module, train, batches_of(dataset.splits["val"]), last, tell, watch=watch)


@contextmanager
def _warm_starts(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Caches for the model's equilibria during training."""
    fusions = [m for m in model.modules() if isinstance(m, DEQFusion)] if wanted else []
    for fusion in fusions:
        fusion.warm_start = EquilibriumCache()
    try:
        yield
    finally:
        for fusion in fusions:
            fusion.warm_start = None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's banners and hints away; unconverged samples are counted in the history instead."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning(\.|$)")
            warnings.simplefilter("ignore", ConvergenceWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Lightning turns Ctrl-C into ``SystemExit`` and leaves it switched off; make it a KeyboardInterrupt again."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        # What was ignored before, as in the background, stays ignored; and only the main thread may ask.
        switched_off = signal.getsignal(signal.SIGINT) is signal.SIG_IGN and handler is not signal.SIG_IGN
        if switched_off and not sys.is_finalizing() and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
