"""Gradient blending: a head for each modality, weighed by how well it generalises."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from equifuse.data.batch import Batch
from equifuse.data.loaders import Batches
from equifuse.model import FusionModel, LinearHead, ModelOutput
from equifuse.registry import BALANCERS
from equifuse.tasks import Task
from equifuse.tasks.base import needed
from equifuse.training.balancing.base import (
    BalancingMethod,
    check_option,
    each_alone,
    evaluating,
    first_batches,
    output_count,
)


@BALANCERS.register
class GradientBlending(BalancingMethod):
    """Gradient blending (Wang et al. 2020, arXiv 1905.12681), in its online form.

    Each modality gets a linear head of its own on its encoder's output. Minimised is ``(M + 1) Σ_k w_k L_k`` over the
    task's losses ``L_k`` of these heads and of the model itself, the weights summing to 1; the factor leaves the
    model's own loss and the fusion's regularisers in their relation while the weights are equal, as they are at first.

    Every ``every`` epochs all losses are measured on the training and the validation part. With the generalisation
    ``G_k``, by how much the validation loss has fallen since the last time, and the overfitting ``O_k``, by how much
    the gap between the two has grown, ``w_k ∝ G_k / O_k²`` (:func:`blending_weights`).

    The paper estimates ``G_k`` and ``O_k`` from extra trainings of every head alone, from the weights of the moment;
    here they are those of the joint training, which costs no more than looking. The validation part decides on the
    weights as well as on the best epoch; the test part remains unseen. With few validation samples ``O_k`` is mostly
    chance, and so are the weights.

    Args:
        every: epochs between estimates, ≥ 1; default 5.

    Recorded is ``w_m``; that of the model itself is the rest to 1.

    Raises:
        InputError: an option out of range.
    """

    name: ClassVar[str | None] = "gradient_blending"
    tasks: ClassVar[tuple[str, ...] | None] = ("classification", "multilabel", "regression", "survival")
    weights: Tensor
    losses: Tensor

    def __init__(self, *, every: int = 5) -> None:
        super().__init__()
        check_option("every", every, int, lambda n: n >= 1, "a whole number of at least 1")
        self.every = every
        self.heads = nn.ModuleDict()

    def prepare(self, model: FusionModel, task: Task) -> None:
        """Make the heads, in the units of the model's own."""
        super().prepare(model, task)
        for m, width in model.fusion.dims.items():
            head = LinearHead(width, output_count(model))
            if isinstance(model.head, LinearHead):
                head.linear.bias.data.copy_(model.head.linear.bias.data)
                head.linear.share_units(model.head.linear)
            self.heads[m] = head
        count = len(self.heads) + 1
        self.register_buffer("weights", torch.full((count,), 1 / count))
        self.register_buffer("losses", torch.full((2, count), math.nan))

    def start_epoch(self, model: FusionModel, task: Task, epoch: int, train: Batches, val: Batches) -> None:
        """Measure the losses, and weigh them anew, where it is time to."""
        if epoch % self.every:
            return
        now = torch.stack([self._measured(model, task, batches) for batches in (train, val)])
        weights = blending_weights(*progress(self.losses, now))
        if weights is not None:
            self.weights.copy_(weights)
        self.losses.copy_(now)

    def balanced(
        self, model: FusionModel, task: Task, batch: Batch, output: ModelOutput, loss: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The blend of all losses; a modality that the batch lacks is left out."""
        numbers = dict(zip(self.heads, self.weights, strict=False))
        total = self.weights[-1] * loss
        for m, encoded, target in each_alone(output.encoded, batch):
            total = total + numbers[m] * task.loss(self.heads[m](encoded), target)
        return len(self.weights) * total, numbers

    def _measured(self, model: FusionModel, task: Task, batches: Batches) -> Tensor:
        """Losses ``(M + 1,)`` of the heads and of the model on a part; NaN for a modality that no sample has."""
        predictions: list[list[Tensor]] = [[] for _ in self.weights]
        targets: list[list[Tensor]] = [[] for _ in self.weights]
        place = {m: number for number, m in enumerate(self.heads)}
        with evaluating(model, self):
            for batch in first_batches(batches, 1.0, model):
                # Without the samples' numbers: a cache of equilibria is for the steps of training.
                output = model(batch.inputs, batch.present, lengths=batch.lengths)
                for m, encoded, target in each_alone(output.encoded, batch):
                    predictions[place[m]].append(self.heads[m](encoded))
                    targets[place[m]].append(target)
                predictions[-1].append(output.prediction)
                targets[-1].append(needed(batch.target))
            each = [
                task.loss(torch.cat(x), torch.cat(y)) if x else self.weights.new_tensor(math.nan)
                for x, y in zip(predictions, targets, strict=True)
            ]
        return torch.stack(each)


def progress(before: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient blending's measures between two times, from losses ``(2, K)`` on the training and validation part.

    Returns:
        Generalisation, by how much the validation losses have fallen, and overfitting, by how much the gaps between
        the parts have grown: ``(K,)`` each.
    """
    gap_before, gap_now = before[1] - before[0], now[1] - now[0]
    return before[1] - now[1], gap_now - gap_before


def blending_weights(generalisation: Tensor, overfitting: Tensor, floor: float = 0.1) -> Tensor | None:
    """The optimal blend ``w_k ∝ G_k / O_k²`` (Wang et al. 2020, proposition 1 and algorithm 1).

    A loss without progress (``G_k`` not positive, or unknown) gets no weight: the paper's derivation does not cover
    it. One estimate of ``O_k`` can be 0 by chance, which would leave all weight to one loss.

    Args:
        generalisation: ``G`` ``(K,)``.
        overfitting: ``O`` ``(K,)``.
        floor: an ``|O_k|`` below this share of the largest counts as that share.

    Returns:
        ``(K,)``, summing to 1; None where no loss made progress.
    """
    gain = generalisation.nan_to_num(0.0).clamp(min=0)
    size = overfitting.nan_to_num(0.0).abs()
    largest = size.max()
    relative = (size / largest).clamp(min=floor) if bool(largest > 0) else torch.ones_like(size)
    weights = gain / relative**2
    return weights / weights.sum() if bool(weights.sum() > 0) else None
