"""The mix of what the fusion says and of what the modalities say alone, fitted on validation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from equifuse.data.batch import Batch
from equifuse.fusion.modes import evaluation_mode
from equifuse.model import FusionModel
from equifuse.records import Record
from equifuse.tasks import Task

# Factors that are tried of either part; without either there is no prediction.
FACTORS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
# More samples say no more about two numbers, and the losses of some tasks compare all pairs.
_MOST = 4096


@dataclass(frozen=True, eq=False)
class Mix(Record):
    """How a prediction is made of the fused head and of the mean of the modalities alone.

    >>> mix = Mix(1.0, 0.5, loss=0.50, fused_loss=0.56, unimodal_loss=0.61)
    >>> print(mix.sentence)
    fusion adds 0.11 to what the modalities say alone (validation loss 0.61 -> 0.5; mix 1 fused : 0.5 alone)

    Attributes:
        fused: factor of the fused head.
        unimodal: factor of the mean of the modalities alone.
        loss: on validation, of the best mix.
        fused_loss: of the fused head alone, with the best factor.
        unimodal_loss: of the modalities alone, likewise.
    """

    fused: float
    unimodal: float
    loss: float
    fused_loss: float
    unimodal_loss: float

    @property
    def sentence(self) -> str:
        """What the mix says about the fusion, in one line."""
        mix = f"mix {self.fused:g} fused : {self.unimodal:g} alone"
        if self.fused == 0:
            return f"fusion adds nothing to what the modalities say alone (validation loss {self.loss:.3g}; {mix})"
        fell = f"validation loss {self.unimodal_loss:.3g} -> {self.loss:.3g}"
        gain = self.unimodal_loss - self.loss
        return f"fusion adds {gain:.2g} to what the modalities say alone ({fell}; {mix})"


@torch.no_grad()
def fit_mix(model: FusionModel, task: Task, parts: Sequence[Iterable[Batch]]) -> Mix | None:
    """Find the two factors of a model's mix by the task's loss, and set them.

    Both parts of the prediction are computed once; the factors are those of a small grid (:data:`FACTORS`) with the
    least mean loss over the parts of the data, of equal ones those nearest to 1. A factor of 0 leaves one part out: the
    model falls back to the other.

    >>> from equifuse.data.loaders import batches_of
    >>> from equifuse.training.mix import fit_mix
    >>> data = ef.datasets.load("digits")
    >>> model = ef.build_model(data.shapes, data.task, data.n_outputs, fusion="mean", unimodal_heads=True).eval()
    >>> mix = fit_mix(model, ef.tasks.make_task("classification"), [batches_of(data.splits["val"])])
    >>> model.unimodal.mix.tolist() == [mix.fused, mix.unimodal]
    True

    Args:
        model: with unimodal heads; in training or evaluation mode.
        task: its task.
        parts: validation batches: as they are, with modalities hidden, …

    Returns:
        The mix; None where the model has no such heads, or no loss has a value, which leaves the factors as they were.
    """
    heads = model.unimodal
    if heads is None:
        return None
    before = heads.mix.tolist()
    heads.set_mix(1.0, 1.0)
    try:
        with evaluation_mode(model):
            collected = [_collected(model, task, batches) for batches in parts]
    finally:
        heads.set_mix(*before)
    known = [part for part in collected if task.undefined_loss(part.fused, part.target) is None]
    losses = {pair: _loss(task, known, heads.offset.cpu(), *pair) for pair in product(FACTORS, FACTORS) if any(pair)}
    best = min(losses, key=lambda pair: (losses[pair], abs(pair[0] - 1) + abs(pair[1] - 1), pair))
    if not known or not math.isfinite(losses[best]):
        return None
    heads.set_mix(*best)
    fused = min(loss for (_, b), loss in losses.items() if b == 0)
    alone = min(loss for (a, _), loss in losses.items() if a == 0)
    return Mix(*best, losses[best], fused, alone)


@dataclass(frozen=True)
class _Part:
    """Both parts of the prediction of some samples, ``(n, ..., K)`` each; ``alone`` is counted from the offset."""

    fused: Tensor
    alone: Tensor
    target: Tensor | None
    weight: Tensor | None


def _collected(model: FusionModel, task: Task, batches: Iterable[Batch]) -> _Part:
    device = next(model.parameters()).device
    fused, alone, targets, weights, seen = [], [], [], [], 0
    for batch in batches:
        output = task.forward(model, batch.to(device))
        assert output.fused is not None
        fused.append(output.fused.cpu())
        alone.append((output.prediction - output.fused).cpu())
        targets.append(batch.target)
        weights.append(batch.weight)
        seen += len(batch)
        if seen >= _MOST:
            break
    return _Part(torch.cat(fused), torch.cat(alone), _joined(targets), _joined(weights))


def _joined(given: list[Tensor | None]) -> Tensor | None:
    known = [tensor for tensor in given if tensor is not None]
    return torch.cat(known).cpu() if known else None


def _loss(task: Task, parts: list[_Part], offset: Tensor, a: float, b: float) -> float:
    """The mean loss of a mix over the parts; infinite where it has no value."""
    if not parts:
        return math.inf
    found = [task.loss(offset + a * (p.fused - offset) + b * p.alone, p.target, p.weight).item() for p in parts]
    mean = sum(found) / len(found)
    return mean if math.isfinite(mean) else math.inf
