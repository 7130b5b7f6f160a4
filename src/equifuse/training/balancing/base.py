"""What training asks of a method that balances modalities, and what the methods share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from equifuse.data.batch import Batch
from equifuse.data.loaders import Batches
from equifuse.encoders.states import looking
from equifuse.errors import InputError
from equifuse.fusion.modes import evaluation_mode
from equifuse.model import FusionModel, ModelOutput
from equifuse.registry import BALANCERS, TASKS
from equifuse.tasks import Task, make_task
from equifuse.tasks.base import needed

# What an option that is a number may be.
NUMBER = (int, float)


class Balancer(nn.Module):
    """What training asks a method of balancing to do; this one leaves everything as it is.

    A method is a module beside the model: its parameters are trained along, its buffers go into the checkpoint, and
    neither becomes part of the stored model. Any fusion, any number of modalities from two on, and samples that lack
    some of them will do: a method sees the encoders' outputs, and the model as a function of some of the modalities.

    Attributes:
        name: by which it is asked for.
        tasks: those it is defined for; None for all.
    """

    name: ClassVar[str | None] = None
    tasks: ClassVar[tuple[str, ...] | None] = None

    def prepare(self, model: FusionModel, task: Task) -> None:
        """Make what depends on the model, before training.

        Raises:
            InputError: the method is not for this task, or there is nothing to balance.
        """

    def start_epoch(self, model: FusionModel, task: Task, epoch: int, train: Batches, val: Batches) -> None:
        """Look at the model at the start of ``epoch``, counted from 0; ``train`` is in the order of that epoch."""

    def balanced(
        self, model: FusionModel, task: Task, batch: Batch, output: ModelOutput, loss: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What takes the place of a step's task loss.

        Args:
            model: in training mode.
            task: the task.
            batch: the step's samples.
            output: what the model made of them.
            loss: the task's, a scalar.

        Returns:
            The loss to minimise, and a number per modality for the history.
        """
        return loss, {}

    def after_backward(self, model: FusionModel) -> None:
        """Change the gradients of a step, just before they are used."""


class BalancingMethod(Balancer):
    """A balancer that does something, and therefore needs something to work on.

    Attributes:
        needs_scores: whether it asks for the task's :meth:`~equifuse.tasks.Task.sample_scores`.
    """

    needs_scores: ClassVar[bool] = False

    def prepare(self, model: FusionModel, task: Task) -> None:
        """See :meth:`Balancer.prepare`."""
        fitting = self.tasks
        if fitting is None and self.needs_scores:
            fitting = tuple(kind.name for kind in TASKS.parts() if kind.scores_samples())
        if fitting is not None and task.name not in fitting:
            raise InputError(f"balance {self.name!r} is for {', '.join(fitting)}, the task is {task.name}")
        if len(model.modalities) < 2:
            raise InputError(f"there is nothing to balance with a single modality, {model.modalities[0]!r}")
        if looking(model.encoders):
            (m, other), *_ = looking(model.encoders).items()
            raise InputError(
                f"the encoder of {m!r} looks at {other!r}, so the two cannot be balanced; leave balance out"
            )
        if not any(parameter.requires_grad for parameter in model.encoders.parameters()):
            raise InputError(f"balance {self.name!r} acts on the encoders, and none of them learns; use encoder 'mlp'")


def make_balancer(name: str | None, options: Mapping[str, Any]) -> Balancer:
    """A balancer by name; None gives the one that does nothing.

    Args:
        name: one of ``equifuse.registry.BALANCERS.names()``, such as ``"ogm_ge"``, or None.
        options: as the class has them.

    Raises:
        UnknownNameError: no such balancer, or an option that it does not have.
        InputError: options without a balancer, or a value out of range.
    """
    if name is None:
        if options:
            raise InputError(f"balance_options go with balance: {', '.join(BALANCERS)}")
        return Balancer()
    balancer: Balancer = BALANCERS.make(str(name), **options)
    return balancer


def scores(task: str, prediction: Tensor, target: Tensor) -> Tensor:
    """How well each sample is predicted, ``(n,)`` in [0, 1].

    Args:
        task: name of a task; what it takes for a score is said at its method ``sample_scores``.
        prediction: raw outputs ``(n, K)``.
        target: int64 ``(n,)``, or ``(n, K)``.
    """
    return make_task(task).sample_scores(prediction, target)


def discrepancy(score: Tensor) -> Tensor:
    """Each of the scores ``(M,)`` over the mean of the others; 1 where there are none."""
    count = len(score)
    if count < 2:
        return torch.ones_like(score)
    others = (1 - torch.eye(count, dtype=score.dtype, device=score.device)) @ score / (count - 1)
    return score / others.clamp(min=torch.finfo(score.dtype).tiny)


def ratios(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """:func:`discrepancy` of scores by modality."""
    if not found:
        return {}
    return dict(zip(found, discrepancy(torch.stack(list(found.values()))), strict=True))


def each_alone(encoded: Mapping[str, Tensor], batch: Batch) -> Iterator[tuple[str, Tensor, Tensor]]:
    """For each modality that is there at all: its name, and encodings ``(n, l_m)`` and targets of those who have it."""
    target = needed(batch.target)
    for m, values in encoded.items():
        mask = batch.present.get(m)
        if mask is None:
            yield m, values, target
        elif mask.any():
            yield m, values[mask], target[mask]


def first_batches(batches: Batches, share: float, model: FusionModel) -> Iterator[Batch]:
    """The first batches, until they make up a share of the samples, where the model is."""
    device, seen = next(model.parameters()).device, 0
    for batch in batches:
        yield batch.to(device)
        seen += len(batch)
        if seen >= share * batches.rows:
            return


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode, and no gradients: nothing is drawn, stored or recorded."""
    with torch.no_grad(), evaluation_mode(*modules):
        yield


def output_count(model: FusionModel) -> int:
    """The number of outputs of a model's head.

    Raises:
        InputError: the model was not made by ``build_model``.
    """
    if model.n_outputs is None:
        raise InputError("balancing needs a model made by build_model, which knows its number of outputs")
    return model.n_outputs


def check_option(name: str, value: Any, kind: Any, fits: Callable[[Any], bool], expected: str) -> None:
    """Refuse an option's value of another kind or out of range; true and false are no numbers.

    Args:
        name: of the option, for the message.
        value: what was given.
        kind: type, or types, of a value.
        fits: whether a value of that type is in range.
        expected: what is, in words.

    Raises:
        InputError: it does not fit.
    """
    if isinstance(value, bool) or not isinstance(value, kind) or not fits(value):
        raise InputError(f"{name} must be {expected}, got {value!r}")
