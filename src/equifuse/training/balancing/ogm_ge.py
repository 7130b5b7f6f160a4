"""On-the-fly gradient modulation: the encoders that are ahead learn more slowly."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from equifuse.data.batch import Batch
from equifuse.errors import InputError
from equifuse.model import FusionModel, ModelOutput
from equifuse.registry import BALANCERS
from equifuse.tasks import Task
from equifuse.training.balancing.base import (
    NUMBER,
    BalancingMethod,
    check_option,
    each_alone,
    evaluating,
    ratios,
)


@BALANCERS.register
class OGMGE(BalancingMethod):
    """On-the-fly gradient modulation with generalisation enhancement (Peng et al. 2022, arXiv 2203.15332).

    With the score ``s_m`` of a modality, the mean of the task's scores over the samples of the batch that have it, and
    ``ρ_m = s_m / mean_{j≠m} s_j`` (:func:`discrepancy`), the gradients ``g`` of the encoder of ``m`` become
    ``k_m g + ε`` with :func:`modulation` ``k_m = 1 − tanh(α ρ_m)`` where ``ρ_m > 1``, else 1 (their eq. 10), and ``ε``
    normal with the standard deviation of ``g``'s entries, tensor by tensor.

    The paper scores a modality by its share of the logits, which only a linear head on a sum or a concatenation has.
    Here it is scored by what the model predicts from that modality alone, in evaluation mode and without gradients:
    the same idea for any fusion, at the price of fusing each modality once more. For two modalities all else is the
    paper's (whose shares get half of the head's bias each; here it is all of it). The authors' code changes the weights
    of convolutions only, this all parameters of an encoder.

    AdamW, as used here, divides a gradient by its running size, the paper's SGD does not: a factor that stayed the
    same would have no effect; its changes from step to step do, and so does the noise.

    Args:
        alpha: ``α``, ≥ 0; tuned per data set in the paper, default 0.3.
        noise: whether to add ``ε``; default True.

    Recorded is ``k_m``, 1 for a modality that a batch lacks.

    Raises:
        InputError: an option out of range.
    """

    name: ClassVar[str | None] = "ogm_ge"
    needs_scores: ClassVar[bool] = True

    def __init__(self, *, alpha: float = 0.3, noise: bool = True) -> None:
        super().__init__()
        check_option("alpha", alpha, NUMBER, lambda a: 0 <= a < math.inf, "a number of at least 0")
        if not isinstance(noise, bool):
            raise InputError(f"noise must be true or false, got {noise!r}")
        self.alpha, self.noise = alpha, noise
        self._coefficients: dict[str, Tensor] = {}

    def balanced(
        self, model: FusionModel, task: Task, batch: Batch, output: ModelOutput, loss: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss as it is; the coefficients of this step are found."""
        found = {}
        with evaluating(model.fusion, model.head):
            for m, encoded, target in each_alone(output.encoded, batch):
                prediction = model.predict_encoded({m: encoded}).prediction
                found[m] = task.sample_scores(prediction, target).mean()
        self._coefficients = {m: modulation(ratio, self.alpha) for m, ratio in ratios(found).items()}
        return loss, {m: self._coefficients.get(m, loss.new_ones(())) for m in model.modalities}

    def after_backward(self, model: FusionModel) -> None:
        """Scale the encoders' gradients, and add noise."""
        for m, coefficient in self._coefficients.items():
            for parameter in model.encoders[m].parameters():
                if parameter.grad is not None:
                    parameter.grad = modulated(parameter.grad, coefficient, self.noise)


def modulation(ratio: Tensor, alpha: float) -> Tensor:
    """OGM-GE's coefficient of a modality's gradients: ``1 − tanh(α ρ)`` where ``ρ > 1``, else 1."""
    return torch.where(ratio > 1, 1 - torch.tanh(alpha * ratio), 1.0)


def modulated(gradient: Tensor, coefficient: Tensor, noise: bool) -> Tensor:
    """A gradient times its coefficient, with noise of the standard deviation of the gradient's own entries if asked."""
    scaled = coefficient * gradient
    if noise and gradient.numel() > 1:
        scaled += gradient.std() * torch.randn_like(gradient)
    return scaled
