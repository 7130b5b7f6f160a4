"""Which features speak for which class: all of them, ranked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from equifuse.data.batch import Batch
from equifuse.errors import InputError
from equifuse.explain.attribution import Attributions, attribute_batch, join_attributions
from equifuse.explain.targets import evaluating, value_of
from equifuse.model import FusionModel
from equifuse.tasks import Task
from equifuse.tasks.base import output_names


@dataclass(frozen=True)
class Marker:
    """A feature and what it does for one output of the model.

    >>> Marker("benign", "rna", "TP53", 0.02, -0.01, 0.4, 1, 1, 36).rank
    1

    Attributes:
        output: class or target.
        modality: of the feature.
        feature: its name.
        importance: mean size of its attribution to the output, over the samples that have the modality.
        direction: mean attribution: positive where the feature, as it is in these samples, speaks for the output.
        share: of the importance of all features for this output.
        rank: within the modality, 1 the most important.
        rank_overall: among the features of all modalities.
        samples: over which the means are.
    """

    output: str
    modality: str
    feature: str
    importance: float
    direction: float
    share: float
    rank: int
    rank_overall: int
    samples: int


def markers(
    model: FusionModel, task: Task, batches: Iterable[Batch], *, value: str | None = None, steps: int = 64
) -> list[Marker]:
    """All features ranked for each class, by integrated gradients.

    >>> model = ef.build_model({"a": 3, "b": 4}, "classification", 2, fusion="mean").eval()
    >>> batch = ef.tasks.Batch({"a": torch.randn(8, 3), "b": torch.randn(8, 4)}, target=torch.arange(8) % 2)
    >>> found = markers(model, ef.tasks.make_task("classification"), [batch])
    >>> len(found), [marker.rank_overall for marker in found[:3]]  # 7 features for each of 2 classes
    (14, [1, 2, 3])

    For a class, the samples are those of that class (predicted to be of it, where there are no labels), and the
    attributions are to its own probability. For other tasks all samples count, and the attributions are to each target.

    Args:
        model: the model.
        task: its task.
        batches: the samples.
        value: what is attributed; see :meth:`~equifuse.explain.CoalitionOutputs.per_sample`.
        steps: points of the quadrature; see :func:`attribute`.

    Returns:
        The markers of one output after the other, the most important first.

    Raises:
        InputError: no samples, Captum is not installed, or the task has no predictions of single samples.
    """
    value = value_of(task, value)
    pieces: dict[int, list[Attributions]] = {}
    count = 0
    with evaluating(model) as device:
        for batch in (batch.to(device) for batch in batches):
            with torch.no_grad():
                outputs = model(batch.inputs, batch.present, lengths=batch.lengths).prediction
            count = outputs.shape[1]
            of = batch.target if task.predicts_largest and batch.target is not None else outputs.argmax(1)
            for k in range(count):
                rows = torch.nonzero(of == k)[:, 0] if task.predicts_largest else torch.arange(len(batch))
                if len(rows):
                    chosen = torch.full((len(rows),), k, dtype=torch.int64, device=device)
                    found = attribute_batch(model, task, batch.select(rows.to(device)), value, chosen, steps=steps)
                    pieces.setdefault(k, []).append(found)
    if not pieces:
        raise InputError("there are no samples to explain")
    names = output_names(model.classes, count)
    return [marker for k in sorted(pieces) for marker in _ranked(names[k], join_attributions(pieces[k]))]


def _ranked(output: str, found: Attributions) -> list[Marker]:
    rows = []
    for m, x in found.values.items():
        flat = x.reshape(len(x), -1)
        has = np.abs(flat).sum(axis=1) > 0  # a sample that lacks the modality has attributions of 0
        some = flat[has] if has.any() else flat
        size, mean = np.abs(some).mean(axis=0), some.mean(axis=0)
        order = np.argsort(-size, kind="stable")
        rows += [(m, found.names[m][k], size[k], mean[k], rank, len(some)) for rank, k in enumerate(order, 1)]
    total = sum(row[2] for row in rows) or 1.0
    rows.sort(key=lambda row: -row[2])
    return [
        Marker(output, m, name, float(size), float(mean), float(size / total), rank, overall, n)
        for overall, (m, name, size, mean, rank, n) in enumerate(rows, 1)
    ]
