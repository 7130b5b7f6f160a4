"""Several models of one training: its learning rate falls again and again, and each cycle leaves one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from equifuse.errors import InputError
from equifuse.options import settled
from equifuse.training.options import TrainingOptions

if TYPE_CHECKING:
    from torch import Tensor

    from equifuse.model import FusionModel
    from equifuse.training.mix import Mix
    from equifuse.training.trainer import TrainingResult

# Schedules of the options that cycles may take the place of, or are made of.
_SCHEDULES = ("constant", "cosine")
Some = TypeVar("Some", bound=TrainingOptions)


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What a cycle of a training leaves (Huang et al. 2017).

    >>> from equifuse.training import Trainer
    >>> data = ef.datasets.load("digits")
    >>> model = ef.build_model(data.shapes, data.task, data.n_outputs, fusion="concat", classes=data.classes)
    >>> [each.epochs for each in Trainer(epochs=2, cycles=2).fit(model, data).snapshots]
    [1, 2]

    Attributes:
        epoch: whose weights they are, from 1.
        value: the monitored value of that epoch; None without validation.
        epochs: that were trained when the cycle ended.
        weights: the model's state, on the CPU.
        mix: see :class:`equifuse.training.TrainingResult`.
    """

    epoch: int
    value: float | None
    epochs: int
    weights: dict[str, Tensor]
    mix: Mix | None = None


def check_cycles(options: TrainingOptions, cycles: int) -> None:
    """Refuse what means nothing for a training in cycles.

    >>> from equifuse.training.cycles import check_cycles
    >>> from equifuse.training.options import TrainingOptions
    >>> check_cycles(TrainingOptions(epochs=4), 5)
    Traceback (most recent call last):
    equifuse.errors.InputError: 5 snapshots need at least 5 epochs, one for each; there are 4

    Args:
        options: of the training.
        cycles: how many; 1 for none.

    Raises:
        InputError: an option that cycles have no use for, or fewer epochs than cycles.
    """
    if cycles == 1:
        return
    if options.schedule not in _SCHEDULES:
        raise InputError(
            f"for snapshots the learning rate falls along a cosine in every cycle; leave out schedule "
            f"{options.schedule!r}"
        )
    for name, why in (
        ("averaging", "snapshots are the weights of single epochs"),
        ("patience", "snapshots train all their epochs"),
    ):
        if name in options.changed():
            raise InputError(f"{why}; leave out {name}")
    if isinstance(options.epochs, int):
        length = options.epochs // cycles
        if length < 1:
            raise InputError(
                f"{cycles} snapshots need at least {cycles} epochs, one for each; there are {options.epochs}"
            )
        if options.warmup >= length:
            raise InputError(
                f"warmup is of every cycle, and must be shorter than its {length} epochs; got {options.warmup:g}"
            )


def in_cycles(options: Some, cycles: int) -> Some:
    """Options of a training in cycles of equally many epochs: so many as fit in.

    >>> from equifuse.training.cycles import in_cycles
    >>> from equifuse.training.options import TrainingOptions
    >>> made = in_cycles(TrainingOptions(epochs=11), 5)
    >>> made.epochs, made.schedule
    (10, 'cosine')

    Args:
        options: of the training, its epochs a number.
        cycles: how many; 1 changes nothing.

    Raises:
        InputError: see :func:`check_cycles`.
    """
    check_cycles(options, cycles)
    if cycles == 1:
        return options
    return replace(options, epochs=settled(options.epochs) // cycles * cycles, schedule="cosine")


def left_by(result: TrainingResult, model: FusionModel) -> list[Snapshot]:
    """What a training leaves: a snapshot of each cycle, and without cycles the model as it is.

    >>> from equifuse.training import Trainer
    >>> from equifuse.training.cycles import left_by
    >>> data = ef.datasets.load("digits")
    >>> model = ef.build_model(data.shapes, data.task, data.n_outputs, fusion="concat", classes=data.classes)
    >>> [each.epoch for each in left_by(Trainer(epochs=1).fit(model, data), model)]
    [1]

    Args:
        result: of the training.
        model: that was trained.
    """
    if result.snapshots is not None:
        return result.snapshots
    epochs = len(result.history)
    return [Snapshot(result.best_epoch or epochs, result.best_value, epochs, model.state_dict(), result.mix)]
