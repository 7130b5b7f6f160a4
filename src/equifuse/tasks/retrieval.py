"""Finding a sample's other modalities, by embeddings of each modality alone."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, permutations
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from equifuse.errors import InputError
from equifuse.fusion import FusionOutput
from equifuse.model import FusionModel, ModelOutput
from equifuse.solve import SolverStats
from equifuse.tasks.base import Batch, Columns, Task

_TEMPERATURE = 0.07


class Retrieval(Task):
    """Symmetric InfoNCE over all pairs of modalities, each embedded alone through the fusion.

    Predictions are ``(B, M, K)``: sample, modality (in the model's order), embedding; NaN where a sample lacks the
    modality. With ``s_ij = cos(a_i, b_j) / 0.07`` the loss of a pair of modalities is the mean of the cross-entropies
    of ``s`` and ``sᵀ`` against the positives of each row in equal shares. Positives are a sample's own partner and,
    where there are labels, every sample of the same label.

    Metrics, for every ordered pair ``a->b`` and their means: ``recall@1`` and ``recall@10`` (is a sample's own partner
    among the nearest) and, where there are labels, ``map`` (mean average precision by label over the whole list).

    Args:
        classes: names of the labels, or None.
        modalities: names for the metrics of each direction, or None for numbers.
    """

    name: ClassVar[str] = "retrieval"
    headline: ClassVar[str] = "recall@10"

    def __init__(self, classes: tuple[str, ...] | None = None, modalities: tuple[str, ...] | None = None) -> None:
        super().__init__(classes)
        self.modalities = modalities

    def forward(self, model: FusionModel, batch: Batch) -> ModelOutput:
        """Embed each modality alone: predictions ``(B, M, K)``; regularisers and convergence of all of them."""
        embedded, outputs = [], []
        for name in model.modalities:
            if name not in batch.inputs:
                continue
            mask = batch.present.get(name)
            output = model({name: batch.inputs[name]}, None if mask is None else {name: mask})
            lacking = None if mask is None else ~mask[:, None]
            z = output.prediction
            embedded.append(z if lacking is None else z.masked_fill(lacking, torch.nan))
            outputs.append(output.fusion)
        if len(embedded) < 2:
            raise InputError("retrieval needs at least two modalities")
        losses = {key: torch.stack([output.losses[key] for output in outputs]).mean() for key in outputs[0].losses}
        stacked = torch.stack(embedded, dim=1)
        return ModelOutput(stacked, FusionOutput(stacked, {}, losses, _joined([o.stats for o in outputs])))

    def loss(self, prediction: Tensor, target: Tensor | None) -> Tensor:
        """Mean InfoNCE over the pairs of modalities; see the class docstring."""
        total, count = prediction.new_zeros(()), 0
        for _, a, b, labels in _pairs(prediction, target, ordered=False):
            positives = torch.eye(len(a), dtype=torch.bool, device=a.device)
            if labels is not None:
                positives = positives | (labels[:, None] == labels[None, :])
            share = positives.to(a.dtype) / positives.sum(1, keepdim=True)
            similarity = a @ b.T / _TEMPERATURE
            total = total + (F.cross_entropy(similarity, share) + F.cross_entropy(similarity.T, share)) / 2
            count += 1
        return total / max(count, 1)

    def metrics(self, prediction: Tensor, target: Tensor | None) -> dict[str, float]:
        """See the class docstring."""
        from sklearn import metrics  # noqa: PLC0415

        found: dict[str, float] = {}
        for (i, j), a, b, labels in _pairs(prediction, target, ordered=True):
            direction = f"{self._modality(i)}->{self._modality(j)}"
            similarity = (a @ b.T).double().numpy()
            # Ties count against the partner: embeddings that collapsed to one point must not look perfect.
            rank = (similarity >= similarity.diagonal()[:, None]).sum(axis=1)
            for k in (1, 10):
                found[f"recall@{k} {direction}"] = float((rank <= k).mean())
            if labels is not None:
                same = (labels[:, None] == labels[None, :]).numpy()
                # The mean over queries of the average precision of their ranking is what scikit-learn calls LRAP.
                found[f"map {direction}"] = float(metrics.label_ranking_average_precision_score(same, similarity))
        means = {}
        for kind in ("recall@1", "recall@10", "map"):
            values = [value for name, value in found.items() if name.startswith(f"{kind} ")]
            if values:
                means[kind] = float(np.mean(values))
        return {**means, **found}

    def predict(self, prediction: Tensor) -> Columns:
        """``embedding_<k>``, L2-normalised, of fused embeddings ``(n, K)``."""
        unit = F.normalize(prediction, dim=-1).numpy()
        return {f"embedding_{k}": unit[:, k] for k in range(unit.shape[1])}

    def _modality(self, index: int) -> str:
        return str(index) if self.modalities is None else self.modalities[index]


def _pairs(
    prediction: Tensor, target: Tensor | None, *, ordered: bool
) -> Iterator[tuple[tuple[int, int], Tensor, Tensor, Tensor | None]]:
    """Unit embeddings of the samples that have both modalities, per pair, with their labels."""
    order = permutations if ordered else combinations
    lacking = prediction.isnan().any(dim=-1)
    for i, j in order(range(prediction.shape[1]), 2):
        both = ~(lacking[:, i] | lacking[:, j])
        if int(both.sum()):
            a, b = (F.normalize(prediction[both, m], dim=-1) for m in (i, j))
            yield (i, j), a, b, None if target is None else target[both]


def _joined(stats: list[SolverStats | None]) -> SolverStats | None:
    """One sample's solves taken together: converged if all are, largest residual, sum of steps."""
    given = [s for s in stats if s is not None]
    if not given:
        return None
    residual = torch.stack([s.residual for s in given]).amax(0)
    return SolverStats(
        converged=torch.stack([s.converged for s in given]).all(0),
        residual=residual,
        steps=torch.stack([s.steps for s in given]).sum(0),
        trace=torch.cat([s.trace for s in given]),
    )
