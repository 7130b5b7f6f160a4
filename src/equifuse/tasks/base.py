"""What a task is: a loss, metrics, and how raw outputs are read; and the batch it works on."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equifuse.data.batch import Batch
from equifuse.errors import InputError
from equifuse.fusion import FusionOutput
from equifuse.model import FusionModel, ModelOutput
from equifuse.solve import SolverStats

Columns = dict[str, NDArray[Any]]
# The metrics of which less is better.
_ERRORS = frozenset({"loss", "log_loss", "mae", "rmse"})


def direction(metric: str) -> Literal["min", "max"]:
    """Which way a metric of any task is better."""
    return "min" if metric in _ERRORS else "max"


@dataclass
class Evaluation:
    """A model's result on a whole split, on the CPU.

    Attributes:
        metrics: metric name -> value, ``"loss"`` (the task's) among them.
        prediction: raw outputs, first axis ``n``.
        converged: bool ``(n,)``, or None for a closed-form fusion.
        residual: ``(n,)`` relative residuals, or None.
        steps: int64 ``(n,)`` solver steps, or None.
    """

    metrics: dict[str, float]
    prediction: Tensor
    converged: Tensor | None = None
    residual: Tensor | None = None
    steps: Tensor | None = None

    def convergence(self) -> dict[str, float] | None:
        """Share of samples converged, mean and largest steps, largest residual; None for a closed-form fusion."""
        if self.converged is None or self.residual is None or self.steps is None:
            return None
        return {
            "converged": self.converged.double().mean().item(),
            "mean_steps": self.steps.double().mean().item(),
            "max_steps": float(self.steps.max().item()),
            "max_residual": self.residual.max().item(),
        }


class Task(ABC):
    """Loss, metrics and reading of raw outputs ``(n, K)``.

    Args:
        classes: names of the outputs, or None.

    Attributes:
        monitor: the validation metric that early stopping watches.
        mode: ``"min"`` or ``"max"``, which way the monitor is better.
        headline: the metric shown where there is room for one.
    """

    name: ClassVar[str]
    monitor: ClassVar[str] = "loss"
    mode: ClassVar[str] = "min"
    headline: ClassVar[str]

    def __init__(self, classes: tuple[str, ...] | None = None) -> None:
        self.classes = classes

    @abstractmethod
    def loss(self, prediction: Tensor, target: Tensor | None, weight: Tensor | None = None) -> Tensor:
        """Scalar loss of raw outputs ``(B, K)``: the mean over the samples.

        Args:
            prediction: ``(B, K)``.
            target: as the task has it.
            weight: ``(B,)``, ≥ 0, for a weighted mean: whole numbers are as good as repeated samples.
        """

    @abstractmethod
    def metrics(self, prediction: Tensor, target: Tensor | None) -> dict[str, float]:
        """Metrics of a whole split; one that is undefined there is left out."""

    @abstractmethod
    def predict(self, prediction: Tensor) -> Columns:
        """Raw outputs ``(n, K)`` as named columns ``(n,)`` for a table."""

    def forward(self, model: FusionModel, batch: Batch) -> ModelOutput:
        """What :meth:`loss` and :meth:`metrics` are computed from; by default the model's output."""
        output: ModelOutput = model(batch.inputs, batch.present, lengths=batch.lengths, index=batch.index)
        return output

    def forward_loss(self, model: FusionModel, batch: Batch) -> tuple[Tensor, ModelOutput]:
        """Task loss of a batch, and the output it was computed from."""
        output = self.forward(model, batch)
        return self.loss(output.prediction, batch.target, batch.weight), output

    @torch.no_grad()
    def evaluate(self, model: FusionModel, batches: Iterable[Batch]) -> Evaluation:
        """Evaluate a model, in evaluation mode, on all batches of a split taken together.

        Raises:
            InputError: there is no batch.
        """
        training = model.training
        model.eval()
        try:
            device = next(model.parameters()).device
            parts = [(result_of(self.forward(model, b.to(device))), b.target, b.weight) for b in batches]
        finally:
            model.train(training)
        return self.gather(parts)

    def gather(self, parts: list[tuple[ModelOutput, Tensor | None, Tensor | None]]) -> Evaluation:
        """Join the outputs, targets and weights of all batches, and measure them; only the loss is weighted.

        Raises:
            InputError: there is no batch.
        """
        if not parts:
            raise InputError("there is nothing to evaluate")
        evaluation = join([output for output, _, _ in parts])
        target, weight = _joined([target for _, target, _ in parts]), _joined([weight for _, _, weight in parts])
        loss = self.loss(evaluation.prediction, target, weight).item()
        # What has diverged has a loss that says so, and no metrics.
        metrics = self.metrics(evaluation.prediction, target) if math.isfinite(loss) else {}
        evaluation.metrics = {"loss": loss, **metrics}
        return evaluation


def result_of(output: ModelOutput) -> ModelOutput:
    """What :func:`join` needs of a batch's output; the rest, several times as large, can go."""
    stats = output.fusion.stats
    if stats is not None:
        stats = SolverStats(stats.converged, stats.residual, stats.steps, stats.trace[:0])
    prediction = output.prediction.detach()
    return ModelOutput(prediction, FusionOutput(prediction, {}, stats=stats))


def _joined(given: list[Tensor | None]) -> Tensor | None:
    """What every batch has of something, on the CPU; None where they have none."""
    tensors = [tensor.cpu() for tensor in given if tensor is not None]
    return torch.cat(tensors) if tensors else None


def join(outputs: list[ModelOutput]) -> Evaluation:
    """The outputs of all batches, at least one, as one evaluation without metrics yet; float32 or float64."""
    prediction = torch.cat([output.prediction.detach().cpu() for output in outputs])
    evaluation = Evaluation({}, prediction.to(torch.promote_types(prediction.dtype, torch.float32)))
    stats = [output.fusion.stats for output in outputs]
    if all(s is not None for s in stats):
        evaluation.converged = torch.cat([s.converged.cpu() for s in stats if s is not None])
        evaluation.residual = torch.cat([s.residual.float().cpu() for s in stats if s is not None])
        evaluation.steps = torch.cat([s.steps.cpu() for s in stats if s is not None])
    return evaluation


def needed(target: Tensor | None) -> Tensor:
    """The target, where the task cannot do without.

    Raises:
        InputError: it is None.
    """
    if target is None:
        raise InputError("this task needs labels, the split has none")
    return target


def average(each: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of ``(B, …)``, the samples weighted by ``weight`` ``(B,)``, if given; 0 where all weights are."""
    if weight is None:
        return each.mean()
    weight = weight.to(each)
    return (weight * each.reshape(len(each), -1).mean(1)).sum() / weight.sum().clamp(min=tiny(each))


def tiny(like: Tensor) -> float:
    """The least normal number above 0: what a total is raised to before something is divided by it."""
    return torch.finfo(like.dtype).tiny


def probabilities(prediction: Tensor) -> NDArray[np.float64]:
    """Softmax of logits ``(n, K)`` in float64, so that every row sums to 1 to rounding."""
    return torch.softmax(prediction.double(), dim=-1).numpy()


def output_names(classes: tuple[str, ...] | None, count: int) -> tuple[str, ...]:
    """Names of ``count`` outputs: the classes, or their numbers."""
    return classes if classes is not None else tuple(str(i) for i in range(count))
