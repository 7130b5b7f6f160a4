"""Finding a sample's other modalities, by embeddings of each modality alone."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, permutations
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from equifuse.data.batch import Batch
from equifuse.errors import InputError, UnknownNameError
from equifuse.fusion import FusionOutput
from equifuse.model import FusionModel, ModelOutput
from equifuse.solve import SolverStats
from equifuse.tasks.base import Columns, Task

_TEMPERATURE = 0.07
_LOSSES = ("contrastive", "triplet")
_DEPTHS = (1, 5, 10)


class Retrieval(Task):
    """Matching across modalities, over all pairs of them, each embedded alone through the fusion.

    Predictions are ``(B, M, K)``: sample, modality (in the model's order), embedding; NaN where a sample lacks the
    modality. With cosines ``c_ij = cos(a_i, b_j)`` the loss of a pair of modalities is the mean over both directions of

    - ``"contrastive"``: symmetric InfoNCE, the cross-entropy of ``c / 0.07`` against the positives of each row in
      equal shares;
    - ``"triplet"``: ``max(0, margin − c_ip + c_in)`` with the farthest positive and the nearest negative of each row in
      the batch (Hermans et al. 2017).

    Positives are a sample's own partner and, where there are labels, every sample of the same label.

    Metrics, for every ordered pair ``a->b`` and their means: ``recall@1``, ``recall@5`` and ``recall@10`` (is a
    sample's own partner among the nearest) and, where there are labels, ``map`` (mean average precision by label over
    the whole list) and ``map@10`` (over the first ten, relative to the best possible there).

    Args:
        classes: names of the labels, or None.
        modalities: names for the metrics of each direction, or None for numbers.
        loss: "contrastive" or "triplet".
        margin: of the triplet loss, > 0.

    Raises:
        UnknownNameError: an unknown loss.
        InputError: a margin out of range.
    """

    name: ClassVar[str] = "retrieval"
    headline: ClassVar[str] = "recall@10"

    def __init__(
        self,
        classes: tuple[str, ...] | None = None,
        modalities: tuple[str, ...] | None = None,
        loss: str = "contrastive",
        margin: float = 0.2,
    ) -> None:
        super().__init__(classes)
        if loss not in _LOSSES:
            raise UnknownNameError("loss", loss, _LOSSES)
        if not margin > 0:
            raise InputError(f"margin must be positive, got {margin}")
        self.modalities, self.kind, self.margin = modalities, loss, margin

    def forward(self, model: FusionModel, batch: Batch) -> ModelOutput:
        """Embed each modality alone: predictions ``(B, M, K)``; regularisers and convergence of all of them."""
        embedded, outputs = [], []
        for name in model.modalities:
            if name not in batch.inputs:
                continue
            mask = batch.present.get(name)
            lengths = {name: batch.lengths[name]} if name in batch.lengths else None
            output = model({name: batch.inputs[name]}, None if mask is None else {name: mask}, lengths=lengths)
            lacking = None if mask is None else ~mask[:, None]
            z = output.prediction
            embedded.append(z if lacking is None else z.masked_fill(lacking, torch.nan))
            outputs.append(output.fusion)
        if len(embedded) < 2:
            raise InputError("retrieval needs at least two modalities")
        losses = {key: torch.stack([output.losses[key] for output in outputs]).mean() for key in outputs[0].losses}
        stacked = torch.stack(embedded, dim=1)
        return ModelOutput(stacked, FusionOutput(stacked, {}, losses, _joined([o.stats for o in outputs])))

    def loss(self, prediction: Tensor, target: Tensor | None, weight: Tensor | None = None) -> Tensor:
        """The mean over the pairs of modalities; see the class docstring.

        Raises:
            InputError: samples are weighted; what a pair of them counts is not defined.
        """
        if weight is not None:
            raise InputError("retrieval knows no weights of samples")
        total, count = prediction.new_zeros(()), 0
        for _, a, b, labels in _pairs(prediction, target, ordered=False):
            positives = torch.eye(len(a), dtype=torch.bool, device=a.device)
            if labels is not None:
                positives = positives | (labels[:, None] == labels[None, :])
            cosines = a @ b.T
            total = total + (self._one_way(cosines, positives) + self._one_way(cosines.T, positives)) / 2
            count += 1
        return total / max(count, 1)

    def _one_way(self, cosines: Tensor, positives: Tensor) -> Tensor:
        if self.kind == "contrastive":
            share = positives.to(cosines.dtype) / positives.sum(1, keepdim=True)
            return F.cross_entropy(cosines / _TEMPERATURE, share)
        farthest = cosines.masked_fill(~positives, torch.inf).amin(1)
        nearest = cosines.masked_fill(positives, -torch.inf).amax(1)
        return F.relu(self.margin - farthest + nearest).mean()

    def metrics(self, prediction: Tensor, target: Tensor | None) -> dict[str, float]:
        """See the class docstring."""
        from sklearn import metrics  # noqa: PLC0415

        found: dict[str, float] = {}
        for (i, j), a, b, labels in _pairs(prediction, target, ordered=True):
            direction = f"{self._modality(i)}->{self._modality(j)}"
            similarity = (a @ b.T).double().numpy()
            # Ties count against the partner: embeddings that collapsed to one point must not look perfect.
            rank = (similarity >= similarity.diagonal()[:, None]).sum(axis=1)
            for k in _DEPTHS:
                found[f"recall@{k} {direction}"] = float((rank <= k).mean())
            if labels is not None:
                same = (labels[:, None] == labels[None, :]).numpy()
                # The mean over queries of the average precision of their ranking is what scikit-learn calls LRAP.
                found[f"map {direction}"] = float(metrics.label_ranking_average_precision_score(same, similarity))
                found[f"map@10 {direction}"] = _precision_at(10, same, similarity)
        means = {}
        for kind in (*(f"recall@{k}" for k in _DEPTHS), "map", "map@10"):
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


def _precision_at(depth: int, same: NDArray[np.bool_], similarity: NDArray[np.float64]) -> float:
    """Mean average precision over the first ``depth`` of each ranking, relative to the best possible there."""
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :depth]
    hits = np.take_along_axis(same, order, axis=1)
    precision = hits.cumsum(axis=1) / np.arange(1, hits.shape[1] + 1)
    best = np.minimum(same.sum(axis=1), hits.shape[1])
    return float(((precision * hits).sum(axis=1) / best).mean())


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
