"""Training of a fusion model, of a run or of one's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from equifuse.data import MultimodalDataset, Split
from equifuse.data.batch import Batch
from equifuse.data.lazy import blocks
from equifuse.data.loaders import Batches, batches_of, first_rows
from equifuse.encoders import Preprocessed
from equifuse.encoders.preparation import fills_gaps
from equifuse.errors import DataError, EquifuseError, InputError
from equifuse.extras import require
from equifuse.files import check_unpacked_fits, parse_errors
from equifuse.fusion import FittedFusion
from equifuse.model import FusionModel
from equifuse.options import settled
from equifuse.tasks import Task, make_task
from equifuse.training.balancing import Balancer, make_balancer
from equifuse.training.cycles import Snapshot, check_cycles, in_cycles
from equifuse.training.distributed import ShardedBatches, process_group_info
from equifuse.training.fitted import fit_at_once
from equifuse.training.lightning_trainer import began_yet, interruptible, keeps_checkpoints, quiet, strategy
from equifuse.training.loggers import make_loggers
from equifuse.training.mix import Mix, fit_mix
from equifuse.training.optimization import OptimizerFactory, ScheduleFactory, check_patterns, frozen
from equifuse.training.options import TrainingOptions, of_descent, refuse_unused
from equifuse.training.prepared import noisy, prepared_once
from equifuse.training.protocol import LOOSE
from equifuse.training.randomness import own_random_numbers
from equifuse.training.rules import Facts, resolved

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers import Logger

    from equifuse.training.callbacks import CycleWeights
    from equifuse.training.callbacks.stored import StoredCallback
    from equifuse.training.lightning_module import LitFusion

# Where the checkpoint is within the folder of a training.
LAST = "checkpoints/last.ckpt"
# Samples whose equilibria are watched.
_WATCHED = 64
Row = dict[str, float | None]
PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class TrainingResult:
    """The result of :meth:`Trainer.fit`: the history, the best epoch, and warnings about equilibria.

    >>> data = ef.datasets.load("digits")
    >>> model = ef.build_model(data.shapes, data.task, data.n_outputs, fusion="concat", classes=data.classes)
    >>> Trainer(epochs=1).fit(model, data).best_epoch
    1

    Attributes:
        history: one row of numbers per epoch: ``epoch`` from 0, ``train_*``, ``val_*``, ``equilibrium_*``, ``seconds``.
        best_epoch: whose weights the model has now, from 1; None without validation.
        best_value: the monitored value of that epoch.
        alerts: what was worrying about equilibria: epoch and message.
        optimizer_state: what the optimiser knows of each parameter; None where nothing was left to train.
        mix: of what the fusion and the modalities alone say, as fitted; None without unimodal heads or validation.
        soup: the epochs whose weights the model has the mean of, from 1, the best first; None unless asked for.
        snapshots: what each cycle has left; None unless there were several.
    """

    history: list[Row]
    best_epoch: int | None = None
    best_value: float | None = None
    alerts: list[dict[str, Any]] = field(default_factory=list)
    optimizer_state: dict[str, Any] | None = None
    mix: Mix | None = None
    soup: list[int] | None = None
    snapshots: list[Snapshot] | None = None

    @property
    def seconds(self) -> float:
        """Time of training, without what came before and after."""
        return sum(row["seconds"] or 0.0 for row in self.history)


class Trainer:
    """Trains a :class:`~equifuse.FusionModel` with early stopping; the best weights end up in the model.

    Example:
        >>> import equifuse as ef
        >>> from equifuse.training import Trainer
        >>> data = ef.datasets.load("digits")
        >>> model = ef.build_model(data.shapes, data.task, data.n_outputs, fusion="concat", classes=data.classes)
        >>> result = Trainer(epochs=2, optimizer="sgd", optimizer_options={"momentum": 0.9}, lr=0.05).fit(model, data)
        >>> len(result.history), "val_accuracy" in result.history[-1]
        (2, True)

    Args:
        options: how to train; or the same as keywords, see :class:`~equifuse.training.options.TrainingOptions`.
        callbacks: Lightning callbacks. On its logs they find ``train_*`` and ``val_*``, such as ``val_loss``.
        logger: Lightning loggers, or names in ``equifuse.registry.LOGGERS``, beside those of the options.
        optimizer: makes the optimiser from groups of parameters, such as ``torch.optim.SGD``; a name goes into the
            options.
        schedule: makes a scheduler from the optimiser and the number of steps; a name goes into the options.
        out: folder for the checkpoint, from which an interrupted training goes on when ``fit`` is called again, and for
            loggers; None writes nothing.
        watch: whether to look after each epoch at the equilibria of some validation samples.
        on_epoch_end: called after each epoch with its row of the history and the best monitored value.
        deadline: time of the system's clock (:func:`time.time`) at which training stops, also within an epoch, with the
            best epoch so far; None for no such time.
        cycles: in how many parts of equally many epochs the learning rate falls from its full value to about 0. With
            several, nothing stops the training early, and the result has the best weights of each.
        **settings: fields of ``options``.

    Raises:
        UnknownNameError: an unknown option, or an unknown name.
        InputError: a value out of range, a missing package, or options that exclude each other.
    """

    def __init__(
        self,
        options: TrainingOptions | None = None,
        *,
        callbacks: Sequence[Callback] = (),
        logger: str | Logger | Sequence[str | Logger] = (),
        optimizer: str | OptimizerFactory | None = None,
        schedule: str | ScheduleFactory | None = None,
        out: PathLike | None = None,
        watch: bool = True,
        on_epoch_end: Callable[[Row, float], None] | None = None,
        deadline: float | None = None,
        cycles: int = 1,
        **settings: Any,
    ) -> None:
        require("train", "lightning", "training")
        if isinstance(optimizer, str):
            settings["optimizer"], optimizer = optimizer, None
        if isinstance(schedule, str):
            settings["schedule"], schedule = schedule, None
        if options is None:
            options = TrainingOptions.from_dict(settings)
        elif settings:
            options = type(options).from_dict({**options.to_dict(), **settings})
        check_cycles(options, cycles)
        if cycles > 1 and schedule is not None:
            raise InputError("for snapshots the learning rate falls along a cosine in every cycle; leave out schedule")
        self.options, self.cycles = options, cycles
        self.out = None if out is None else Path(out)
        self.callbacks, self.watch, self.on_epoch_end = list(callbacks), watch, on_epoch_end
        self.deadline = deadline
        self._optimizer, self._schedule = optimizer, schedule
        self._loggers = make_loggers(options.logger, self.out, options.logger_options)
        self._loggers += make_loggers(logger, self.out)

    def fit(
        self,
        model: FusionModel,
        train: MultimodalDataset | Split | Batches,
        val: Split | Batches | None = None,
        *,
        task: Task | None = None,
        balancer: Balancer | None = None,
        optimizer_state: dict[str, Any] | None = None,
    ) -> TrainingResult:
        """Train in place; go on from the checkpoint if there is one.

        Under the loose protocol nothing stops the training before its last epoch.

        Args:
            model: the model, its preprocessing fitted.
            train: a data set, whose parts ``train`` and ``val`` are used; or the training part.
            val: the validation part; without, there is no early stopping, and the last weights stay.
            task: loss and metrics; by default those of the task that the model was built for.
            balancer: what balances the modalities, prepared for the model; by default what the options name.
            optimizer_state: of an earlier training that this one goes on from, with other samples.

        Raises:
            InputError: training diverged, the monitored metric never had a value, or an option does not fit the model.
            DataError: a checkpoint that is damaged or does not fit.
            KeyboardInterrupt: a signal asked to stop; the checkpoint holds the last complete epoch.
        """
        from equifuse.training.lightning_module import LitFusion  # noqa: PLC0415 - Lightning

        if isinstance(train, MultimodalDataset):
            parts = train.splits
            train, val = parts["train"], parts["val"]
        task = default_task(model, self.options) if task is None else task
        options = in_cycles(resolved(self.options, facts_of(train, model.modalities, task)), self.cycles)
        for split in (train, val):
            if isinstance(split, Split):
                _check_gaps(model, split)
        if isinstance(model.fusion, FittedFusion):
            if self._optimizer is not None or self._schedule is not None:
                raise InputError(f"fusion {model.fusion.name!r} is fitted at once, without an optimiser or a schedule")
            unused = of_descent(type(self.options))
            refuse_unused(model.fusion.name, "is fitted at once", unused, self.options.changed())
            first, second = (batches_of(part) if isinstance(part, Split) else part for part in (train, val))
            assert first is not None
            return TrainingResult(*fit_at_once(model, task, first, second, options, self.deadline))
        self.check(model)
        self._check_recipe(model, task, val)
        balancer = balancer_for(model, task, options) if balancer is None else balancer
        module = LitFusion(
            model, task, options, balancer, optimizer=self._optimizer, schedule=self._schedule, cycles=self.cycles
        )
        module.optimizer_state = optimizer_state
        splits = [part for part in (train, val) if isinstance(part, Split)]
        # A callback may call the model on rows as they are, and batches from elsewhere are such rows.
        raw = bool(self.callbacks) or len(splits) < (1 if val is None else 2)
        with own_random_numbers(options.seed), _frozen(model, options), noisy(model, options), ExitStack() as stack:
            if not raw:
                train, *others = stack.enter_context(prepared_once(model, splits))
                val = others[0] if others else None
            if isinstance(train, Split):
                train = batches_of(train, settled(options.batch_size) * process_group_info(options).world, options.seed)
            return self._fit(module, train, batches_of(val) if isinstance(val, Split) else val)

    def check(self, model: FusionModel) -> None:
        """Refuse options that do not fit a model.

        Raises:
            InputError: a pattern of ``parameter_groups`` that none of its parameters has, or nothing is left to train.
        """
        if isinstance(model.fusion, FittedFusion):
            return
        check_patterns(model, self.options)
        if len(frozen(model, self.options)) == sum(parameter.requires_grad for parameter in model.parameters()):
            raise InputError("no parameter is left to train; freeze less")

    def _check_recipe(self, model: FusionModel, task: Task, val: Split | Batches | None) -> None:
        """Refuse what means nothing for a task, an encoder, or without validation."""
        options = self.options
        if options.mixup and not task.mixes_samples:
            raise InputError(f"mixup has no meaning in {task.name}: nothing lies between two samples' targets")
        if options.averaging == "soup" and val is None:
            raise InputError("a soup's epochs are chosen by validation; give a validation part, or averaging='ema'")
        if options.cuda_graph and model.fusion.target_loss_weights:
            raise InputError(f"the losses of {model.fusion.name!r} change from step to step; leave out cuda_graph")
        plain = [m for m, encoder in model.encoders.items() if not isinstance(encoder, Preprocessed)]
        if options.feature_noise and plain:
            raise InputError(f"feature_noise is for prepared features; the encoder of {plain[0]!r} prepares none")

    def _fit(self, module: LitFusion, train: Batches, val: Batches | None) -> TrainingResult:
        import lightning.pytorch as pl  # noqa: PLC0415
        from lightning.pytorch.callbacks import EarlyStopping  # noqa: PLC0415

        from equifuse.training.callbacks import (  # noqa: PLC0415
            BestWeights,
            CycleWeights,
            Deadline,
            History,
            LastEpoch,
            OnEpochEnd,
            WarmStarts,
            WatchEquilibrium,
        )
        from equifuse.training.callbacks.averages import (  # noqa: PLC0415
            BestEpochs,
            MovingAverage,
            refresh_batch_norm,
            stir,
        )

        options = module.options
        last = None if self.out is None else self.out / LAST
        place = process_group_info(options)
        if place.world > 1:
            train = ShardedBatches(train, place.rank, place.world)
        history, best = History(), BestWeights()
        average = MovingAverage(module.model, options.ema_decay) if options.averaging == "ema" else None
        epochs = BestEpochs(options.soup_epochs) if options.averaging == "soup" else None
        cycles = CycleWeights(settled(options.epochs) // self.cycles, bool(val)) if self.cycles > 1 else None
        watch = WatchEquilibrium(first_rows(val, _WATCHED)) if val and self.watch else None
        resumed, over = last is not None and last.is_file(), False
        if last is not None and resumed:
            stopped = _recall(last, (history, best, watch, average, epochs, cycles))
            over = stopped or len(history.rows) >= settled(options.epochs)
        optimizer_state = None
        if not over:
            began = began_yet()
            warm = WarmStarts(module.model, place.rank, place.world) if options.warm_start else None
            callbacks = [
                *([warm] if warm else []),
                *([watch] if watch else []),
                history,
                *([best, *([epochs] if epochs else [])] if val else []),
                *([cycles] if cycles else []),
                *([OnEpochEnd(self.on_epoch_end, history, best)] if self.on_epoch_end else []),
                *([] if self.deadline is None else [Deadline(self.deadline)]),
                *self.callbacks,
                *([average] if average else []),  # last of those that look at validation
                *([LastEpoch(last)] if last else []),
                began,
            ]
            if val and not cycles:
                patience = settled(options.epochs if options.protocol == LOOSE else options.patience)
                stop = EarlyStopping("monitor", patience=patience, mode=module.mode, verbose=False, check_finite=False)
                callbacks.insert(0, stop)
            with quiet(), warm.assigned() if warm else nullcontext():
                trainer = pl.Trainer(
                    max_epochs=settled(options.epochs),
                    accelerator=options.accelerator,
                    devices=place.devices,
                    num_nodes=place.nodes,
                    strategy=strategy(options, place),
                    use_distributed_sampler=False,
                    accumulate_grad_batches=options.accumulate,
                    gradient_clip_val=options.gradient_clip,
                    precision="bf16-mixed" if options.precision == "bf16" else "32-true",
                    logger=self._loggers or False,
                    enable_progress_bar=False,
                    enable_model_summary=False,
                    num_sanity_val_steps=0,
                    enable_checkpointing=last is not None or keeps_checkpoints(self.callbacks),
                    callbacks=callbacks,
                    default_root_dir=last.parent if last else None,
                )
                try:
                    with interruptible():
                        trainer.fit(module, train, val, ckpt_path=last if resumed else None, weights_only=True)
                except EquifuseError:
                    raise
                except Exception as error:
                    if not resumed or began.training:
                        raise
                    reason = " ".join(str(error).split())[:500]
                    raise DataError(f"{last} does not fit this training: {reason}; remove it to begin anew") from None
            optimizer_state = trainer.optimizers[0].state_dict()["state"]
        module.model.to("cpu").eval()
        alerts = watch.alerts if watch else []
        if val is None:
            if average:
                average.exchange()
            found = TrainingResult(history.rows, alerts=alerts, optimizer_state=optimizer_state)
            return found if cycles is None else replace(found, snapshots=_snapshots(module, val, cycles))
        if best.best is None:
            raise InputError(
                f"the validation {module.monitor} was undefined in every epoch: {module.undefined}; watch another "
                "metric, give a validation part that has it, or lower the learning rate if training diverged"
            )
        found = TrainingResult(history.rows, int(best.best["epoch"]) + 1, float(best.best["value"]), alerts)
        if cycles is not None:
            found = replace(found, snapshots=_snapshots(module, val, cycles))
        module.model.load_state_dict(best.best["weights"])
        if epochs is not None:
            refresh = partial(refresh_batch_norm, module.model, module.task, train)
            measured = partial(module.measured, val)
            soup, value = stir(module.model, epochs.best, measured, module.mode, refresh)
            found = replace(found, best_value=value, soup=[epoch + 1 for epoch in soup])
        return replace(found, optimizer_state=optimizer_state, mix=_mix(module, val))


def _recall(last: Path, callbacks: Iterable[StoredCallback | None]) -> bool:
    """Give callbacks what a checkpoint has of them; whether that training had stopped.

    Raises:
        DataError: it is damaged.
    """
    from equifuse.training.callbacks.stored import STATE  # noqa: PLC0415

    with parse_errors(last, "a checkpoint"):
        check_unpacked_fits(last)
        stored = torch.load(last, weights_only=True, map_location="cpu")[STATE]
        for callback in callbacks:
            if callback is not None:
                callback.recall(stored)
        return bool(stored["stopped"])


def _snapshots(module: LitFusion, val: Batches | None, cycles: CycleWeights) -> list[Snapshot]:
    """What each cycle has left, mixed as the options ask for it; the last one's weights are in the model.

    Raises:
        InputError: the monitored metric had no value in any epoch of a cycle.
    """
    found = []
    for number, kept in enumerate(cycles.kept, 1):
        if kept is None:
            raise InputError(
                f"the validation {module.monitor} was undefined in every epoch of cycle {number}: {module.undefined}; "
                "watch another metric, or take fewer snapshots"
            )
        module.model.load_state_dict(kept["weights"])
        mix = None if val is None else _mix(module, val)
        weights = {name: tensor.detach().clone() for name, tensor in module.model.state_dict().items()}
        found.append(Snapshot(int(kept["epoch"]) + 1, kept["value"], number * cycles.length, weights, mix))
    return found


def _mix(module: LitFusion, val: Batches) -> Mix | None:
    """Fit the mix of the fusion and the modalities alone, if the options ask for it."""
    if module.options.unimodal != "fitted":
        return None
    parts: list[Iterable[Batch]] = [val, *([module.reduced(val)] if module.reduces else [])]
    return fit_mix(module.model, module.task, parts)


def facts_of(train: Split | Batches, modalities: Sequence[str], task: Task | type[Task]) -> Facts:
    """What the rules for options look at (:mod:`equifuse.training.rules`).

    Args:
        train: the training part; of batches of one's own it is not known what they lack.
        modalities: of the model.
        task: the task.
    """
    missing = dict.fromkeys(modalities, 0.0)
    if isinstance(train, Split):
        missing |= {m: 1 - float(mask.mean()) for m, mask in train.present.items() if m in missing and len(mask)}
    return Facts(len(train) if isinstance(train, Split) else train.rows, missing, task.hidden_at_rates)


def _check_gaps(model: FusionModel, split: Split) -> None:
    """Refuse empty cells that the model does not fill: training would only say that the loss is not finite.

    Raises:
        InputError: there are some.
    """
    for m, features in split.inputs.items():
        if m not in model.encoders or fills_gaps(model.encoders[m]):
            continue
        for start, block in blocks(features):
            mask = split.present.get(m)
            here = None if mask is None else torch.from_numpy(mask[start : start + len(block)])
            model.check_gaps(m, torch.from_numpy(block), here)


def default_task(model: FusionModel, options: TrainingOptions) -> Task:
    """The task that a model was built for, with the metrics that the options name.

    Raises:
        InputError: it was built for none.
    """
    if model.task is None:
        raise InputError("the model has no task; give one")
    offered = {"classes": model.classes, "modalities": model.modalities, "spreads": model.spreads}
    return make_task(model.task, metrics=options.metric, monitor=options.monitor, offered=offered)


def balancer_for(model: FusionModel, task: Task, options: TrainingOptions) -> Balancer:
    """The balancer that the options name, prepared for the model.

    Raises:
        InputError: it is not for this task, or there is nothing to balance.
    """
    balancer = make_balancer(options.balance, options.balance_options)
    with own_random_numbers(options.seed):
        balancer.prepare(model, task)
    return balancer


@contextmanager
def _frozen(model: nn.Module, options: TrainingOptions) -> Iterator[None]:
    """Parameters that the options freeze do not ask for gradients during training."""
    still = frozen(model, options)
    for parameter in still:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in still:
            parameter.requires_grad_(True)
