"""Finding a sample's other modalities, by embeddings of each modality alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import combinations, permutations
from typing import Any, ClassVar

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
from equifuse.tasks.linear import LinearFit, canonical_directions
from equifuse.tasks.metrics import Detailed, Measurement, Metric
from equifuse.tasks.targets import OptionalClasses, Targets

Embeddings = NDArray[np.float32]
Labels = NDArray[np.int64]
_TEMPERATURE = 0.07
_LOSSES = ("contrastive", "triplet")
_DEPTHS = (1, 5, 10)
# What is measured of each modality alone: no modality finds anything without another.
_ENCODERS = "encoders alone"


def recall(depth: int, p: Embeddings, y: Labels | None, task: Task) -> Detailed:
    """Share of samples whose own partner is among the ``depth`` nearest, by direction and their mean."""
    found = {}
    for direction, similarity, _ in _directions(p, y, task):
        # Ties count against the partner: embeddings that collapsed to one point must not look perfect.
        rank = (similarity >= similarity.diagonal()[:, None]).sum(axis=1)
        found[direction] = float((rank <= depth).mean())
    return _mean_of(found)


def mean_average_precision(depth: int | None, p: Embeddings, y: Labels | None, task: Task) -> Detailed:
    """Mean average precision by label, over the whole list or its first ``depth``, by direction and their mean."""
    from sklearn import metrics  # noqa: PLC0415

    found = {}
    for direction, similarity, same in _directions(p, y, task):
        assert same is not None
        if depth is None:
            # The mean over queries of the average precision of their ranking is what scikit-learn calls LRAP.
            found[direction] = float(metrics.label_ranking_average_precision_score(same, similarity))
        else:
            found[direction] = _precision_at(depth, same, similarity)
    return _mean_of(found)


def _mean_of(parts: dict[str, float]) -> Detailed:
    return Detailed(float(np.mean(list(parts.values()))), parts)


def _no_pair(p: Embeddings, y: Labels | None) -> str | None:
    has = ~np.isnan(p).any(axis=-1)
    return None if (has.sum(axis=1) > 1).any() else "no sample has two of the modalities"


def _no_labels(p: Embeddings, y: Labels | None) -> str | None:
    return "there are no labels" if y is None else None


class Retrieval(Task):
    """Find the matching sample of another modality: embeddings of all modalities, compared by their cosine.

    >>> embeddings = torch.nn.functional.one_hot(torch.arange(4)).float()[:, None].expand(-1, 2, -1)  # (B, M, K)
    >>> Retrieval().metrics(embeddings, None)["recall@1"]
    1.0

    Each modality is embedded alone through the fusion, and all pairs of modalities are compared.

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
    targets: ClassVar[Targets] = OptionalClasses()
    measures = (
        *(
            Metric(
                f"recall@{k}",
                partial(recall, k),
                undefined_when=_no_pair,
                format="percent",
                description=f"Share of samples whose own partner is among the nearest {k}.",
            )
            for k in _DEPTHS
        ),
        Metric(
            "map",
            partial(mean_average_precision, None),
            undefined_when=_no_pair,
            inapplicable_when=_no_labels,
            description="Mean average precision by label over the whole list.",
        ),
        Metric(
            "map@10",
            partial(mean_average_precision, 10),
            undefined_when=_no_pair,
            inapplicable_when=_no_labels,
            description="Mean average precision by label over the first ten.",
        ),
    )
    headline = "recall@10"
    least_modalities: ClassVar[int] = 2
    hidden_at_rates: ClassVar[bool] = False
    embeds: ClassVar[bool] = True
    output_name: ClassVar[str] = "embedding"

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
        fused, alone = [], {}
        for name in model.modalities:
            if name not in batch.inputs:
                continue
            mask = batch.present.get(name)
            lengths = {name: batch.lengths[name]} if name in batch.lengths else None
            output = model({name: batch.inputs[name]}, None if mask is None else {name: mask}, lengths=lengths)
            lacking = None if mask is None else ~mask[:, None]
            z = output.prediction if output.fused is None else output.fused
            parts = [output.prediction, z, *output.unimodal.values()]
            if lacking is not None:
                parts = [z.masked_fill(lacking, torch.nan) for z in parts]
            embedded.append(parts[0])
            fused.append(parts[1])
            if output.unimodal and not output.fusion.decisions:
                alone[name] = parts[2]
            outputs.append(output.fusion)
        if len(embedded) < 2:
            raise InputError("retrieval needs at least two modalities")
        losses = {key: torch.stack([output.losses[key] for output in outputs]).mean() for key in outputs[0].losses}
        stacked = torch.stack(embedded, dim=1)
        joined = FusionOutput(stacked, {}, losses, _joined([o.stats for o in outputs]))
        return ModelOutput(stacked, joined, fused=torch.stack(fused, dim=1), unimodal=alone)

    def unimodal_losses(self, output: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        """The loss between the embeddings that the encoders give without the fusion; of a pair, not of a modality."""
        if not output.unimodal:
            return {}
        return {_ENCODERS: self.loss(torch.stack(list(output.unimodal.values()), dim=1), batch.target)}

    def measure_alone(self, unimodal: Mapping[str, Tensor], target: Tensor | None) -> dict[str, Measurement]:
        """The metrics of the embeddings that the encoders give without the fusion."""
        if not unimodal:
            return {}
        return {_ENCODERS: self.assess(torch.stack(list(unimodal.values()), dim=1), target)}

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

    def soft_loss(
        self, prediction: Tensor, taught: Tensor, temperature: float = 1.0, weight: Tensor | None = None
    ) -> Tensor:
        """Squared error of the cosines between the samples' modalities; embeddings may have another width.

        Raises:
            InputError: samples are weighted.
        """
        if weight is not None:
            raise InputError("retrieval knows no weights of samples")
        lacking = prediction.isnan().any(-1) | taught.isnan().any(-1)
        own, other = (x.masked_fill(lacking[..., None], torch.nan) for x in (prediction, taught))
        pairs = [[a @ b.T for _, a, b, _ in _pairs(x, None, ordered=False)] for x in (own, other)]
        gaps = [F.mse_loss(mine, theirs) for mine, theirs in zip(*pairs, strict=True)]
        return torch.stack(gaps).mean() if gaps else prediction.new_zeros(())

    def _one_way(self, cosines: Tensor, positives: Tensor) -> Tensor:
        if self.kind == "contrastive":
            share = positives.to(cosines.dtype) / positives.sum(1, keepdim=True)
            return F.cross_entropy(cosines / _TEMPERATURE, share)
        farthest = cosines.masked_fill(~positives, torch.inf).amin(1)
        nearest = cosines.masked_fill(positives, -torch.inf).amax(1)
        return F.relu(self.margin - farthest + nearest).mean()

    @classmethod
    def averaged(cls, outputs: Tensor, weights: Tensor) -> Tensor:
        """Unit embeddings side by side, so that their cosine is the weighted mean of the models' cosines."""
        shares = weights.to(outputs).sqrt().reshape(-1, *[1] * (outputs.dim() - 1))
        return torch.cat((F.normalize(outputs, dim=-1) * shares).unbind(), dim=-1)

    def undefined_loss(self, prediction: Tensor, target: Tensor | None) -> str | None:
        """Without a sample that has two modalities there is nothing to match."""
        return _no_pair(prediction.numpy(), None)

    def readable(self, prediction: Tensor, target: Tensor | None) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Unit embeddings float32 ``(n, M, K)``, NaN where a sample lacks the modality, and labels or None."""
        return F.normalize(prediction, dim=-1).numpy(), None if target is None else target.numpy()

    @classmethod
    def linear_fits(
        cls,
        features: list[NDArray[np.float64]],
        target: NDArray[Any] | None,
        weight: NDArray[np.float64] | None = None,
    ) -> list[LinearFit]:
        """Canonical directions between the first two modalities."""
        return canonical_directions(features)

    def predict(self, prediction: Tensor) -> Columns:
        """``embedding_<k>``, L2-normalised, of fused embeddings ``(n, K)``."""
        unit = F.normalize(prediction, dim=-1).numpy()
        return {f"embedding_{k}": unit[:, k] for k in range(unit.shape[1])}


def _precision_at(depth: int, same: NDArray[np.bool_], similarity: NDArray[np.float64]) -> float:
    """Mean average precision over the first ``depth`` of each ranking, relative to the best possible there."""
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :depth]
    hits = np.take_along_axis(same, order, axis=1)
    precision = hits.cumsum(axis=1) / np.arange(1, hits.shape[1] + 1)
    best = np.minimum(same.sum(axis=1), hits.shape[1])
    return float(((precision * hits).sum(axis=1) / best).mean())


def _directions(
    p: Embeddings, y: Labels | None, task: Task
) -> Iterator[tuple[str, NDArray[np.float64], NDArray[np.bool_] | None]]:
    """For each ordered pair of modalities: its name, cosines, and which samples share a label, if there are any."""
    modalities = getattr(task, "modalities", None)
    names = [str(i) for i in range(p.shape[1])] if modalities is None else list(modalities)
    labels = None if y is None else torch.from_numpy(y)
    for (i, j), a, b, known in _pairs(torch.from_numpy(p), labels, ordered=True):
        same = None if known is None else (known[:, None] == known[None, :]).numpy()
        yield f"{names[i]}->{names[j]}", (a @ b.T).double().numpy(), same


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
