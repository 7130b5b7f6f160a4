"""Optimisers and schedules by name, and which parameters are trained how."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from equifuse.errors import InputError, UnknownNameError
from equifuse.options import settled
from equifuse.training.options import TrainingOptions

# Those that need nothing but gradients and know weight decay.
_OPTIMIZERS = ("AdamW", "Adam", "SGD", "RMSprop", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam", "ASGD")
# What groups of parameters say for themselves.
_OF_GROUPS = ("params", "lr", "weight_decay")
Group = dict[str, Any]


class OptimizerFactory(Protocol):
    """Makes an optimiser from groups of parameters, each with ``params``, ``lr`` and ``weight_decay``."""

    def __call__(self, groups: list[Group], /) -> Optimizer:
        """The optimiser."""
        ...


class ScheduleFactory(Protocol):
    """Makes a schedule of an optimiser for a training of so many steps; it is stepped after each."""

    def __call__(self, optimizer: Optimizer, steps: int, /) -> LRScheduler:
        """The schedule."""
        ...


def optimizers() -> list[str]:
    """Names of the optimisers: those of PyTorch, in lower case."""
    return [name.lower() for name in _OPTIMIZERS]


def make_optimizer(
    model: nn.Module,
    options: TrainingOptions,
    factory: OptimizerFactory | None = None,
    beside: nn.Module | None = None,
) -> Optimizer:
    """The optimiser of a model's parameters.

    Example:
        >>> from torch import nn
        >>> from equifuse.training.optimization import make_optimizer
        >>> from equifuse.training.options import TrainingOptions
        >>> options = TrainingOptions(optimizer="sgd", optimizer_options={"momentum": 0.9}, lr=0.1)
        >>> sgd = make_optimizer(nn.Linear(3, 2), options)
        >>> [(group["lr"], group["momentum"], group["weight_decay"]) for group in sgd.param_groups]
        [(0.1, 0.9, 0.0001), (0.1, 0.9, 0.0)]

    Args:
        model: what is trained.
        options: ``optimizer``, ``lr``, ``weight_decay``, ``encoder_lr``, ``parameter_groups``, …
        factory: makes the optimiser in the place of the named one.
        beside: what is trained beside the model and is no part of it.

    Raises:
        UnknownNameError: an option that the optimiser does not have.
        InputError: a value it does not take, or nothing is left to train.
    """
    groups = parameter_groups(model, options, beside)
    if factory is not None:
        return factory(groups)
    kind = getattr(torch.optim, next(name for name in _OPTIMIZERS if name.lower() == options.optimizer))
    known = [name for name in inspect.signature(kind).parameters if name not in _OF_GROUPS]
    for name in options.optimizer_options:
        if name not in known:
            raise UnknownNameError(f"option of optimizer {options.optimizer!r}:", str(name), known)
    settings = {**_implementation(kind, groups, options.optimizer_options), **options.optimizer_options}
    try:
        made: Optimizer = kind(groups, lr=options.lr, **settings)
    except (TypeError, ValueError) as error:
        raise InputError(f"optimizer {options.optimizer!r}: {error}") from error
    return made


def _implementation(kind: type[Optimizer], groups: list[Group], chosen: Mapping[str, Any]) -> dict[str, bool]:
    """PyTorch's fused form of an optimiser, several times as fast for many small parameters, where it has one."""
    excluding = ("fused", "foreach", "differentiable", "capturable")
    if "fused" not in inspect.signature(kind).parameters or any(name in chosen for name in excluding):
        return {}
    parameters = [parameter for group in groups for parameter in group["params"]]
    fits = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    return {"fused": True} if fits else {}


def parameter_groups(model: nn.Module, options: TrainingOptions, beside: nn.Module | None = None) -> list[Group]:
    """Groups of parameters that are trained alike, without those that are frozen.

    Biases, scalars and the gains of norms are not decayed: what they are at rest is not 0. Parameters of encoders have
    ``encoder_lr``, those of pretrained models in them ``pretrained_lr``. Patterns of ``parameter_groups`` win over all
    of them, a later pattern over an earlier one.

    Raises:
        InputError: a pattern that no parameter has, or nothing is left to train.
    """
    own = {id(parameter): _own(name, options) for name, parameter in model.named_parameters()}
    check_patterns(model, options)
    decayed, others = split_by_decay(model if beside is None else nn.ModuleList([model, beside]))
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameters, decay in ((decayed, options.weight_decay), (others, 0.0)):
        for parameter in parameters:
            settings = {"lr": options.lr, "weight_decay": decay, "freeze": False, **own.get(id(parameter), {})}
            if parameter.requires_grad and not settings["freeze"]:
                found.setdefault((settings["lr"], settings["weight_decay"]), []).append(parameter)
    if not found:
        raise InputError("no parameter is left to train; freeze less")
    return [{"params": found[lr, decay], "lr": lr, "weight_decay": decay} for lr, decay in found]


def check_patterns(model: nn.Module, options: TrainingOptions) -> None:
    """Refuse patterns of ``parameter_groups`` that no parameter has.

    Raises:
        InputError: there is one.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in options.parameter_groups:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(f"parameter group {pattern!r} has no parameter; there are {_some(names)}")


def frozen(model: nn.Module, options: TrainingOptions) -> list[nn.Parameter]:
    """The parameters that the options freeze and that would be trained otherwise."""
    return [p for name, p in model.named_parameters() if p.requires_grad and _own(name, options).get("freeze", False)]


def split_by_decay(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters to which weight decay applies, and those to which it does not: biases, scalars, and norms' gains."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    seen: set[int] = set()
    for module in model.modules():
        is_norm = "norm" in type(module).__name__.lower()
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:  # shared by several modules
                continue
            seen.add(id(parameter))
            free = is_norm or parameter.dim() < 2 or name.startswith("bias")
            (others if free else matrices).append(parameter)
    return matrices, others


def _own(name: str, options: TrainingOptions) -> Mapping[str, Any]:
    """What a parameter has of its own."""
    own: dict[str, Any] = {}
    if name.startswith("encoders."):
        if options.encoder_lr is not None:
            own["lr"] = options.encoder_lr
        if name.split(".")[2:3] == ["backbone"]:
            own["lr"] = options.pretrained_lr
        if options.freeze_encoders:
            own["freeze"] = True
    for pattern, given in options.parameter_groups.items():
        if fnmatchcase(name, pattern):
            own |= given
    return own


def _some(names: Iterable[str]) -> str:
    """The parts of a model that parameters are named after."""
    heads = list(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))
    return ", ".join(f"{head}.*" for head in heads[:8]) + (", ..." if len(heads) > 8 else "")


class Schedule:
    """How the learning rate changes over a training.

    Attributes:
        per_step: stepped after every step of the optimiser; None for none.
        plateau: stepped after every epoch with the monitored value; None for none.
    """

    def __init__(self, per_step: LRScheduler | None = None, plateau: ReduceLROnPlateau | None = None) -> None:
        self.per_step, self.plateau = per_step, plateau


def make_schedule(
    optimizer: Optimizer,
    options: TrainingOptions,
    steps: int,
    mode: str = "min",
    factory: ScheduleFactory | None = None,
    cycles: int = 1,
) -> Schedule:
    """The schedule that options name.

    - ``constant``: the learning rate stays.
    - ``cosine``: from it to ``final`` (default 0) of it along half a cosine.
    - ``one_cycle``: up to it and down again, PyTorch's ``OneCycleLR`` with its options.
    - ``plateau``: PyTorch's ``ReduceLROnPlateau`` with its options; unless given, half the learning rate after a third
      of ``patience``.

    Warm-up precedes each but ``one_cycle``, where it is the share of the cycle in which the learning rate rises.

    Args:
        optimizer: whose learning rates change.
        options: ``schedule``, ``schedule_options``, ``warmup``, ``epochs``, ``patience``.
        steps: of the whole training.
        mode: ``"min"`` or ``"max"``, which way the monitored value is better.
        factory: makes the schedule in the place of the named one.
        cycles: how often ``cosine`` begins anew, its warm-up too.

    Raises:
        UnknownNameError: an option that the schedule does not have.
        InputError: a value that it does not take.
    """
    if factory is not None:
        return Schedule(factory(optimizer, steps))
    rising = round(steps * options.warmup / settled(options.epochs))
    given = dict(options.schedule_options)
    try:
        if options.schedule == "plateau":
            _check_options(given, ReduceLROnPlateau, options.schedule)
            given = {"factor": 0.5, "patience": max(1, settled(options.patience) // 3), **given}
            plateau = ReduceLROnPlateau(optimizer, **{"mode": mode, **given})
            return Schedule(_warm_up(optimizer, rising), plateau)
        if options.schedule == "one_cycle":
            _check_options(given, OneCycleLR, options.schedule)
            if rising:
                given = {"pct_start": rising / steps, **given}
            rates = [group["lr"] for group in optimizer.param_groups]
            momentum = "momentum" in optimizer.defaults or "betas" in optimizer.defaults
            return Schedule(
                OneCycleLR(optimizer, **{"max_lr": rates, "total_steps": steps, "cycle_momentum": momentum, **given})
            )
        if options.schedule == "cosine":
            final = given.pop("final", 0.0)
            _check_options(given, None, options.schedule, ["final"])
            if not isinstance(final, int | float) or isinstance(final, bool) or not 0 <= final < 1:
                raise InputError(f"final of schedule 'cosine' must be in [0, 1), got {final!r}")
            return Schedule(LambdaLR(optimizer, Cosine(steps, rising, float(final), cycles)))
        _check_options(given, None, options.schedule)
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"schedule {options.schedule!r}: {error}") from error
    return Schedule(_warm_up(optimizer, rising))


class Cosine:
    """Factor of the learning rate after so many steps: up along a line, then down along half a cosine.

    Example:
        >>> cosine = Cosine(steps=110, rising=10, final=0.1)
        >>> [round(cosine(step), 3) for step in (0, 9, 10, 60, 110)]
        [0.1, 1.0, 1.0, 0.55, 0.1]
        >>> [Cosine(steps=20, cycles=2)(step) for step in (0, 5, 10, 15)]
        [1.0, 0.5, 1.0, 0.5]
    """

    def __init__(self, steps: int, rising: int = 0, final: float = 0.0, cycles: int = 1) -> None:
        self.steps, self.rising, self.final = steps // cycles, rising, final
        self.again = cycles > 1

    def __call__(self, step: int) -> float:
        """The factor of a step, counted from 0."""
        if self.again:
            step %= self.steps
        if step < self.rising:
            return (step + 1) / self.rising
        done = min(1.0, (step - self.rising) / max(1, self.steps - self.rising))
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * done))


def _warm_up(optimizer: Optimizer, rising: int) -> LRScheduler | None:
    # It multiplies what is there, so that a plateau's reductions stay.
    return LinearLR(optimizer, start_factor=1 / rising, total_iters=rising - 1) if rising > 1 else None


def _check_options(
    given: Mapping[str, Any], kind: Callable[..., Any] | None, schedule: str, known: list[str] | None = None
) -> None:
    """Refuse what a schedule does not have."""
    if kind is not None:
        ours = ("optimizer", "mode", "max_lr", "total_steps", "last_epoch", "verbose", "epochs", "steps_per_epoch")
        known = [name for name in inspect.signature(kind).parameters if name not in ours]
    for name in given:
        if name not in (known or []):
            raise UnknownNameError(f"option of schedule {schedule!r}:", str(name), known or [])
