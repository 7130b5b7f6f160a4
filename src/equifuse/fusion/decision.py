"""What the fusions of decisions share: one affine classifier per modality, and a loss for each of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from equifuse.errors import InputError
from equifuse.fusion.base import FlatInputs, FusionOutput, masked_mean
from equifuse.fusion.output_map import OutputMap
from equifuse.fusion.projected import ProjectedFusion


class DecisionFusion(ProjectedFusion):
    """Base of fusions that classify each modality on its own and combine the predictions.

    Args:
        dims: modality name -> width ``l_m``.
        outputs: number of classes or other outputs ``K``, ≥ 1; set by :func:`equifuse.build_model`.

    Raises:
        InputError: a value is out of range.
    """

    decides = True
    _map = OutputMap

    def __init__(self, dims: Mapping[str, int], outputs: int = 2) -> None:
        check_outputs(outputs)
        super().__init__(dims, outputs)
        self.outputs = outputs

    def decided(self, fused: Tensor, logits: Tensor, rows: FlatInputs) -> FusionOutput:
        """The protocol's output of ``fused`` ``(R, K)`` and the modalities' ``logits`` ``(R, M, K)``."""
        output = self.output(fused, logits)
        output.decisions = {m: output.modalities[m] for m in rows.values}
        return output


def check_outputs(outputs: int) -> None:
    """Raise :class:`InputError` unless ``outputs`` is a whole number of at least 1."""
    if isinstance(outputs, bool) or not isinstance(outputs, int) or outputs < 1:
        raise InputError(f"outputs must be a whole number of at least 1, got {outputs!r}")


def check_weights(**weights: float) -> dict[str, float]:
    """The loss weights by name, none of them negative.

    Raises:
        InputError: a weight is negative.
    """
    for label, weight in weights.items():
        if weight < 0:
            raise InputError(f"{label}_weight must not be negative, got {weight}")
    return weights


def over_modalities(each: Mapping[str, Tensor], present: Mapping[str, Tensor] | None) -> Tensor:
    """For each modality the mean of its losses ``(B,)`` over the samples that have it, summed over modalities; finite.

    Args:
        each: modality name -> ``(B,)``, at least one modality.
        present: modality name -> bool ``(B,)``; a modality without a key is present in every sample.
    """
    return torch.stack([masked_mean(loss, (present or {}).get(m)) for m, loss in each.items()]).sum()


def unimodal(output: FusionOutput, target: Tensor, present: Mapping[str, Tensor] | None) -> Tensor:
    """Cross-entropy of each modality's decision: mean over the samples that have it, summed over modalities."""
    losses = {m: F.cross_entropy(x, target, reduction="none") for m, x in output.decisions.items()}
    return over_modalities(losses, present)
