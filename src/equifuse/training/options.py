"""What decides a training, beside the model and the data. Imports neither PyTorch nor Lightning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from equifuse.errors import InputError, UnknownNameError
from equifuse.options import (
    Check,
    Options,
    auto,
    declarations,
    mapping,
    number,
    one_of,
    option,
    optional,
    rates,
    rates_by_name,
    some_of,
    text,
    whole,
    yes_no,
)
from equifuse.training.protocol import CLEAN, LOOSE, PROTOCOLS

SCHEDULES = ("constant", "cosine", "one_cycle", "plateau")
# What each modality says alone from its encoder's output: nothing; a loss of its own; also added to the prediction; or
# added with factors fitted on validation.
ALONE = ("none", "loss", "sum", "fitted")
# What becomes of the weights of many steps.
AVERAGES = ("none", "ema", "soup")
# What a group of parameters may have of its own.
GROUP_OPTIONS = ("lr", "weight_decay", "freeze")


def _optimizers() -> Iterable[str]:
    from equifuse.training.optimization import optimizers  # noqa: PLC0415 - PyTorch

    return optimizers()


def _balancers() -> Iterable[str]:
    from equifuse.registry import BALANCERS  # noqa: PLC0415

    return BALANCERS.names()


def _loggers() -> Iterable[str]:
    from equifuse.registry import LOGGERS  # noqa: PLC0415

    return LOGGERS.names()


def of_descent(kind: type[Options]) -> list[str]:
    """Names of the options of a class that are about gradient descent."""
    return [name for name, declared in declarations(kind).items() if declared.descent]


def refuse_unused(fusion: str, why: str, unused: Iterable[str], given: Iterable[str]) -> None:
    """Refuse what is given and means nothing to a fusion.

    Args:
        fusion: its name.
        why: the reason, after its name.
        unused: names of options that it has no use for.
        given: names of those that are given.

    Raises:
        InputError: there are some; the message names them all.
    """
    found = [name for name in unused if name in given]
    if found:
        several = len(found) > 1
        named = ", ".join(found[:-1]) + " and " + found[-1] if several else found[0]
        which = "them" if several else "it"
        raise InputError(f"fusion {fusion!r} {why} and has no use for {named}; leave {which} out")


@dataclass(frozen=True)
class _Groups(Check):
    """Pattern of parameters -> their own learning rate, weight decay, or that they are frozen."""

    def __call__(self, name: str, value: Any) -> dict[str, dict[str, Any]]:
        groups = super().__call__(name, value)
        for pattern, own in groups.items():
            if not isinstance(own, Mapping) or not own:
                raise InputError(
                    f"{name}: {pattern!r} must have {', '.join(GROUP_OPTIONS)} of its own, such as {{lr: 1e-4}}"
                )
            for key, number_ in own.items():
                if key not in GROUP_OPTIONS:
                    raise UnknownNameError(f"option of parameter group {pattern!r}:", str(key), GROUP_OPTIONS)
                _OF_GROUP[key](f"{key} of parameter group {pattern!r}", number_)
        return {str(pattern): dict(own) for pattern, own in groups.items()}


_OF_GROUP: dict[str, Check] = {"lr": number(above=0), "weight_decay": number(least=0), "freeze": yes_no()}


def _parameter_groups() -> Check:
    plain = mapping()
    return _Groups(plain.must, plain.accepts, pairs="flat", convert=plain.convert)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(Options):
    """How a model is trained; :class:`equifuse.runs.TrainConfig` adds which, and on what.

    Example:
        >>> from equifuse.training.options import TrainingOptions
        >>> TrainingOptions(epochs=20, optimizer="sgd", optimizer_options={"momentum": 0.9}, schedule="cosine").lr
        0.001

    Raises:
        UnknownNameError: an unknown name.
        InputError: a value of the wrong type or out of range, or options that exclude each other.
    """

    epochs: int | str = option(
        100,
        auto(whole(1)),
        help="Most passes over the training part. auto, as with other sizes: by how many rows it has.",
        group="Training",
        descent=True,
    )
    batch_size: int | str = option(
        64,
        auto(whole(1)),
        help="Samples per step, of each process where there are several.",
        group="Training",
        descent=True,
    )
    seed: int = option(
        0,
        whole(0, 2**31, "2^31"),
        help="Seed of the initial weights, the order of the samples, dropout, and a split that the data do not have.",
        group="Training",
        estimator=False,
    )
    accumulate: int = option(
        1,
        whole(1),
        help="Batches whose gradients are taken together for one step.",
        group="Training",
        descent=True,
    )
    warm_start: bool = option(
        False,
        yes_no(),
        help="Start each solve of an equilibrium from where the same sample's ended an epoch before.",
        group="Training",
        estimator=False,
        descent=True,
    )
    optimizer: str = option(
        "adamw",
        one_of(names=_optimizers),
        help="Optimiser, by its PyTorch name in lower case: adamw, adam, sgd, rmsprop, ...",
        group="Optimiser",
        descent=True,
    )
    optimizer_options: dict[str, Any] = option(
        dict,
        mapping(),
        help="Further option of the optimiser, such as momentum=0.9.",
        group="Optimiser",
        flag="--optimizer-option",
        descent=True,
    )
    lr: float = option(
        1e-3,
        number(above=0),
        help="Learning rate.",
        group="Optimiser",
        descent=True,
    )
    weight_decay: float = option(
        1e-4,
        number(least=0),
        help="Weight decay; biases and the gains of norms are not decayed.",
        group="Optimiser",
        descent=True,
    )
    schedule: str = option(
        "constant",
        one_of(*SCHEDULES),
        help="Learning rate over time: constant, cosine, one_cycle, or plateau, which lowers it where validation "
        "does not improve.",
        group="Optimiser",
        descent=True,
    )
    schedule_options: dict[str, Any] = option(
        dict,
        mapping(),
        help="Option of the schedule, such as final=0.01 (cosine) or factor=0.5 (plateau).",
        group="Optimiser",
        flag="--schedule-option",
        descent=True,
    )
    warmup: float = option(
        0.0,
        number(least=0),
        help="Epochs over which the learning rate rises from near 0, before the schedule.",
        group="Optimiser",
        descent=True,
    )
    sam: float = option(
        0.0,
        number(least=0),
        help="Sharpness-aware minimisation: step by the gradient at the worst point so far away, such as 0.05; twice "
        "the time. 0 for none.",
        group="Optimiser",
        descent=True,
    )
    gradient_clip: float | None = option(
        None,
        optional(number(above=0)),
        help="Largest norm of the gradient; larger ones are scaled.",
        group="Optimiser",
        descent=True,
    )
    encoder_lr: float | None = option(
        None,
        optional(number(above=0)),
        help="Learning rate of the encoders, where it is another.",
        group="Optimiser",
        descent=True,
    )
    pretrained_lr: float = option(
        5e-5,
        number(above=0),
        help="Learning rate of pretrained models that are trained along (finetuned:..., lora:...).",
        group="Optimiser",
        estimator=False,
        descent=True,
    )
    freeze_encoders: bool = option(
        False,
        yes_no(),
        help="Do not train the encoders.",
        group="Optimiser",
        descent=True,
    )
    parameter_groups: dict[str, dict[str, Any]] = option(
        dict,
        _parameter_groups(),
        help="Parameters with settings of their own, by a pattern of their names: "
        "'encoders.text.*={lr: 1e-5, weight_decay: 0}' or 'head.*={freeze: true}'.",
        group="Optimiser",
        flag="--parameter-group",
        descent=True,
    )
    averaging: str = option(
        "none",
        one_of(*AVERAGES),
        help="What becomes of the weights of many steps: none: those of the best epoch are taken; ema: their "
        "exponential moving average is, at the epoch where that is best; soup: the mean of the best epochs, as many as "
        "make it better on validation.",
        group="Training",
        descent=True,
    )
    ema_decay: float = option(
        0.99,
        number(least=0, below=1),
        help="Share of the moving average that a step keeps; less in the first steps.",
        group="Training",
        descent=True,
    )
    soup_epochs: int = option(5, whole(1), help="Most epochs in a soup.", group="Training", descent=True)
    mixup: float = option(
        0.0,
        number(least=0),
        help="Mix pairs of samples that have the same modalities, what their encoders say and their targets, with "
        "shares of a Beta(value, value) distribution; 0 for none, 0.2 is usual.",
        group="Training",
        descent=True,
    )
    feature_noise: float = option(
        0.0,
        number(least=0),
        help="Deviation of noise that is added to the prepared features in training; they have deviation 1.",
        group="Training",
        descent=True,
    )
    unimodal: str = option(
        "fitted",
        one_of(*ALONE),
        help="A linear head on each modality's encoder: none; loss: it is trained beside the fusion; sum: what the "
        "heads say is also added to the prediction; fitted: added with two factors fitted on validation.",
        group="Training",
        descent=True,
    )
    unimodal_loss: float = option(
        1.0,
        number(least=0),
        help="Weight of the loss of each modality alone, beside that of the prediction.",
        group="Training",
        descent=True,
    )
    unimodal_loss_epochs: int | None = option(
        None,
        optional(whole(1)),
        help="Epochs over which that weight falls to 0.",
        group="Training",
        default_text="it stays",
        descent=True,
    )
    balance: str | None = option(
        None,
        optional(one_of(names=_balancers)),
        help="Balance the modalities: ogm_ge, pmr or gradient_blending.",
        group="Training",
        estimator=False,
        descent=True,
    )
    balance_options: dict[str, Any] = option(
        dict,
        mapping(),
        help="Option of the balance, e.g. alpha=0.3.",
        group="Training",
        flag="--balance-option",
        estimator=False,
        descent=True,
    )
    modality_dropout: float | str | dict[str, float] = option(
        "auto",
        auto(rates()),
        help="Chance to hide each modality of each training sample; one that it has is always kept. auto: so that a "
        "sample lacks 30 % of them, or what the data or --expect-missing say, if that is more.",
        group="Missing modalities",
        descent=True,
    )
    expect_missing: dict[str, float] = option(
        dict,
        rates_by_name(),
        help="Share of samples that will lack a modality when the model is used, such as image=0.5.",
        group="Missing modalities",
        descent=True,
    )
    patience: int | str = option(
        15,
        auto(whole(1)),
        help="Epochs without improvement on validation after which training stops.",
        group="Selection",
        descent=True,
    )
    monitor: str | None = option(
        None,
        optional(text()),
        help="Validation metric that early stopping and the choice of the best epoch look at, such as f1_macro.",
        group="Selection",
        default_text="the task's loss",
    )
    metric: tuple[str, ...] = option(
        (),
        some_of(),
        help="Metric to report, by name; the first is the one shown where there is room for one.",
        group="Selection",
        default_text="the task's own",
    )
    protocol: str = option(
        CLEAN,
        one_of(*PROTOCOLS),
        help="clean: the best epoch on validation. loose: the best epoch on test, without early stopping, as the code "
        "behind many published figures has it; everything such a run writes says so.",
        group="Selection",
        estimator=False,
    )
    accelerator: str = option(
        "cpu",
        one_of("cpu", "gpu", "auto"),
        help="What to train on: cpu, gpu or auto.",
        group="Machine",
        descent=True,
    )
    devices: int = option(
        1,
        whole(1),
        help="Processes, or GPUs, that train one model on each machine; under torchrun or Slurm as many as started.",
        group="Machine",
        estimator=False,
        descent=True,
    )
    nodes: int = option(
        1,
        whole(1),
        help="Machines.",
        group="Machine",
        estimator=False,
        descent=True,
    )
    strategy: str = option(
        "auto",
        one_of("auto", "ddp", "fsdp"),
        help="Several processes: ddp keeps the whole model in each, fsdp shares it out, on GPUs only.",
        group="Machine",
        estimator=False,
        descent=True,
    )
    precision: str = option(
        "32",
        one_of("32", "bf16"),
        help="32, or bf16 for mixed precision; fixed points keep the precision their tolerance needs.",
        group="Machine",
        estimator=False,
        descent=True,
    )
    cuda_graph: bool = option(
        False,
        yes_no(),
        help="On a GPU, record the forward and backward pass of a training step as one CUDA graph and replay it: for "
        "small models, where launching takes longer than computing. Fixed points then take max_steps evaluations.",
        group="Machine",
        estimator=False,
        descent=True,
    )
    logger: tuple[str, ...] = option(
        (),
        some_of(_loggers),
        help="Where the numbers of each epoch also go: csv, tensorboard, wandb or mlflow.",
        group="Output",
        estimator=False,
        descent=True,
    )
    logger_options: dict[str, Any] = option(
        dict,
        mapping(),
        help="Option of the logger, such as project=mine.",
        group="Output",
        flag="--logger-option",
        estimator=False,
        descent=True,
    )

    @property
    def fits_at_once(self) -> bool:
        """Whether they are of a method that is fitted at once; what is trained says so, where it is among them."""
        return False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.monitor is not None:  # on Lightning's logs it is val_…, and some say it so
            object.__setattr__(self, "monitor", self.monitor.removeprefix("val_"))
        if self.protocol == LOOSE and self.monitor is not None:
            raise InputError(f"protocol {LOOSE!r} chooses by the reported metric; give --metric, not --monitor")
        if self.freeze_encoders and self.encoder_lr is not None:
            raise InputError("freeze_encoders and encoder_lr exclude each other")
        if self.balance is not None and self.freeze_encoders:
            raise InputError(f"balance {self.balance!r} acts on the encoders, which freeze_encoders keeps as they are")
        if self.balance is not None or self.balance_options:
            from equifuse.training.balancing import make_balancer  # noqa: PLC0415 - PyTorch

            make_balancer(self.balance, self.balance_options)
        if self.expect_missing and isinstance(self.modality_dropout, int | float):
            raise InputError("expect_missing says how much to hide in training, and so does modality_dropout; give one")
        if self.logger_options and not self.logger:
            raise InputError("logger_options go with a logger")
        self._check_recipe()
        if isinstance(self.epochs, int) and self.warmup >= self.epochs and self.warmup > 0:
            raise InputError(f"warmup must be shorter than training, {self.epochs} epochs; got {self.warmup:g}")

    def _check_recipe(self) -> None:
        """Refuse what excludes each other, or is given and not used."""
        for name, kind in (("ema_decay", "ema"), ("soup_epochs", "soup")):
            if name in self.changed() and self.averaging != kind:
                raise InputError(f"{name} goes with averaging {kind!r}, which is {self.averaging!r}")
        for name in ("mixup", "sam"):
            if getattr(self, name) and self.balance is not None:
                raise InputError(f"balance {self.balance!r} looks at single samples and steps; leave out {name}")
        if self.sam and self.accumulate > 1:
            raise InputError("sam takes two gradients of every batch; leave out accumulate, and take larger batches")
        if self.cuda_graph:
            clashes = {"sam": self.sam, "mixup": self.mixup, "balance": self.balance, "accumulate": self.accumulate > 1}
            clashes |= {"warm_start": self.warm_start, "unimodal_loss_epochs": self.unimodal_loss_epochs}
            clashes["devices"] = self.devices * self.nodes > 1
            if used := [name for name, value in clashes.items() if value]:
                raise InputError(f"cuda_graph records steps that are all alike, on one GPU; leave out {used[0]}")
            if self.accelerator == "cpu":
                raise InputError("cuda_graph needs a GPU; give accelerator='gpu'")
        if self.strategy == "fsdp" and (self.sam or self.averaging != "none"):
            raise InputError("sam and averaging need the whole model in each process; use strategy 'ddp'")
