"""Which features a prediction is based on: integrated gradients, with a check that they add up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from equifuse.data.batch import Batch
from equifuse.data.columns import owners_of
from equifuse.encoders import Preparation, Preprocessed
from equifuse.encoders.preparation import front_mean, front_of, layers_before, raw_moments
from equifuse.encoders.preprocessed import takes_lengths
from equifuse.errors import InputError
from equifuse.explain.targets import ByModality, Floats, evaluating, explained, joined, plain, presence, read, value_of
from equifuse.model import Ensemble, FusionModel
from equifuse.model.ensemble import members_of
from equifuse.tasks import Task

# Points on the paths, of all samples together, that are evaluated at a time.
_POINTS = 4096
# A sample that is not complete is integrated again with so many times as many points, but never with more than these.
_GROWTH, _MOST_STEPS = 4, 1024


@dataclass(frozen=True)
class Attributions:
    """The result of :func:`attribute`: how much each feature contributed to each sample's value.

    >>> model = ef.build_model({"a": 3, "b": 4}, "regression", 1, fusion="mean").eval()
    >>> batch = ef.tasks.Batch({"a": torch.randn(8, 3), "b": torch.randn(8, 4)})
    >>> found = attribute(model, ef.tasks.make_task("regression"), [batch])
    >>> found.values["a"].shape, len(found.top(2)["a"])
    ((8, 3), 2)

    Attributes:
        values: modality -> ``(n, *shape)``, in the units of the value explained; 0 where a sample lacks the modality;
            of a table's columns ``(n, columns)``: what a category, a date or a text is made of is added up.
        names: modality -> names of its flattened features.
        baseline: ``(n,)`` value at the baseline.
        full: ``(n,)`` value explained.
        delta: ``(n,)`` sum of all attributions minus ``full − baseline``: 0 but for the error of the quadrature, and
            of an equilibrium's tolerance.
    """

    values: ByModality
    names: dict[str, tuple[str, ...]]
    baseline: Floats
    full: Floats
    delta: Floats

    def top(self, count: int = 10) -> dict[str, list[tuple[str, float]]]:
        """The features of each modality with the largest mean absolute attribution, and that mean; largest first."""
        found = {}
        for m, x in self.values.items():
            size = np.abs(x).reshape(len(x), -1).mean(axis=0)
            order = np.argsort(-size, kind="stable")[:count]
            found[m] = [(self.names[m][k], float(size[k])) for k in order]
        return found

    def summary(self, count: int = 10) -> dict[str, Any]:
        """Plain numbers: the first features of each modality, and how far from completeness the samples are."""
        return {
            "features": {m: [{"name": n, "mean_absolute": v} for n, v in top] for m, top in self.top(count).items()},
            "delta": {"mean_absolute": plain(np.abs(self.delta).mean()), "max": plain(np.abs(self.delta).max())},
            "mean_change": plain(np.abs(self.full - self.baseline).mean()),
        }


def attribute(
    model: FusionModel,
    task: Task,
    batches: Iterable[Batch],
    *,
    value: str | None = None,
    output: int | None = None,
    baselines: Mapping[str, Tensor] | None = None,
    steps: int = 64,
    tol: float = 0.01,
) -> Attributions:
    """Attribute each sample's value to its features, by integrated gradients.

    >>> model = ef.build_model({"a": 3, "b": 4}, "regression", 1, fusion="mean").eval()
    >>> batch = ef.tasks.Batch({"a": torch.randn(8, 3), "b": torch.randn(8, 4)})
    >>> found = attribute(model, ef.tasks.make_task("regression"), [batch])
    >>> total = found.values["a"].sum(1) + found.values["b"].sum(1)
    >>> bool(np.allclose(total, found.full - found.baseline, rtol=0.02, atol=0.01))  # they add up
    True

    Args:
        model: the model.
        task: its task.
        batches: the samples.
        value: see :meth:`~equifuse.explain.CoalitionOutputs.per_sample`.
        output: likewise.
        baselines: modality -> the baseline ``b``, in the shape of a sample or broadcast to it; default the mean of the
            training part for a modality that is standardised, else 0.
        steps: first number of points of the quadrature, ≥ 2; default 64.
        tol: allowed error of the sum, > 0, relative to the change of the value from the baseline; default 0.01.
            Infinite to use ``steps`` points and no more.

    Returns:
        :class:`Attributions`.

    Raises:
        InputError: Captum is not installed, the task has no predictions of single samples, or an argument is out of
            range.
        UnknownNameError: an unknown value.

    Formula (Sundararajan et al. 2017, arXiv 1703.01365, eq. 1): ``(x − b) ∫₀¹ ∂F(b + t (x − b))/∂x dt`` by
    Gauss-Legendre quadrature (Captum). Gradients of an equilibrium are those of its gradient rule, by default exact
    implicit ones. A modality that a sample lacks is absent along the whole path.

    Norm layers make a model change fast near the baseline, where its inputs are small. Samples whose attributions do
    not add up to within ``tol`` are therefore integrated again, with 4 times as many points each time, up to 1024.
    Those that still do not add up are returned as they are, and ``delta`` shows by how much.
    """
    if not differentiable(model):
        raise InputError("trees have no gradients; explain the modalities' contributions instead, without features")
    value = value_of(task, value)
    with evaluating(model) as device:
        pieces = []
        for batch in (batch.to(device) for batch in batches):
            with torch.no_grad():
                outputs = model(batch.inputs, batch.present, lengths=batch.lengths).prediction
            chosen = explained(task, outputs, output)
            pieces.append(attribute_batch(model, task, batch, value, chosen, baselines, steps, tol))
    return join_attributions(pieces)


def differentiable(model: FusionModel) -> bool:
    """Whether a model has gradients with respect to its inputs: trees have none.

    >>> differentiable(ef.build_model({"a": 3, "b": 4}, "regression", 1, fusion="trees"))
    False
    """
    return all(getattr(member.fusion, "differentiable", True) for member in members_of(model))


def join_attributions(pieces: Sequence[Attributions]) -> Attributions:
    """The samples of all batches.

    Raises:
        InputError: there is no batch.
    """
    if not pieces:
        raise InputError("there are no samples to explain")
    baseline, full, delta = (
        np.concatenate([getattr(p, part) for p in pieces]) for part in ("baseline", "full", "delta")
    )
    return Attributions(joined([piece.values for piece in pieces]), pieces[0].names, baseline, full, delta)


def attribute_batch(
    model: FusionModel,
    task: Task,
    batch: Batch,
    value: str,
    chosen: Tensor,
    baselines: Mapping[str, Tensor] | None = None,
    steps: int = 64,
    tol: float = 0.01,
) -> Attributions:
    """:func:`attribute` of one batch, with a model in evaluation mode; ``chosen`` ``(B,)`` says which outputs.

    Raises:
        InputError: Captum is not there, or ``steps`` or ``tol`` is too small.
    """
    if steps < 2:
        raise InputError(f"steps must be at least 2, got {steps}")
    if not tol > 0:
        raise InputError(f"tol must be positive, got {tol}")
    size = max(1, _POINTS // steps)
    pieces = [
        _integrate(model, task, batch.select(rows), value, chosen[rows], baselines or {}, steps)
        for rows in torch.split(torch.arange(len(batch), device=chosen.device), size)
    ]
    found = join_attributions(pieces)
    incomplete = np.flatnonzero(np.abs(found.delta) / tol > np.abs(found.full - found.baseline))
    if steps * _GROWTH <= _MOST_STEPS and len(incomplete):
        rows = torch.from_numpy(incomplete).to(chosen.device)
        more = steps * _GROWTH
        closer = attribute_batch(model, task, batch.select(rows), value, chosen[rows], baselines, more, tol)
        found.delta[incomplete] = closer.delta
        for m, x in found.values.items():
            x[incomplete] = closer.values[m]
    return found


def _integrate(
    model: FusionModel,
    task: Task,
    batch: Batch,
    value: str,
    chosen: Tensor,
    baselines: Mapping[str, Tensor],
    steps: int,
) -> Attributions:
    present = model.presence(batch.inputs, batch.present, lengths=batch.lengths)
    batch = replace(batch, present=dict(present or {}))
    has = dict(zip(model.modalities, presence(model, batch).unbind(1), strict=True))
    # Neither the code of a category nor an empty cell can be integrated over: the path begins behind both.
    rest_of_model, fronts = _split_model(model)
    starts = {m: _baseline(model, m, x, baselines.get(m), fronts[m]) for m, x in batch.inputs.items()}
    with torch.no_grad():
        ends = {m: _where(has[m], fronts[m](x), starts[m]) for m, x in batch.inputs.items()}
    # What none of the samples has is in no graph, and Captum refuses to differentiate by it.
    names = [m for m in ends if bool(has[m].any())]

    def value_at(inputs: Mapping[str, Tensor], rest: Sequence[Tensor]) -> Tensor:
        present = dict(zip(batch.present, rest, strict=False))
        lengths = dict(zip(batch.lengths, rest[len(present) :], strict=False))
        return read(task, value, rest_of_model(inputs, present, lengths=lengths).prediction, rest[-1])

    def along_the_path(*tensors: Tensor) -> Tensor:
        return value_at(dict(zip(names, tensors, strict=False)), tensors[len(names) :])

    rest = (*batch.present.values(), *batch.lengths.values(), chosen)
    values = {m: np.zeros(x.shape) for m, x in ends.items()}
    if names:
        integrated = _integrated_gradients()(along_the_path, multiply_by_inputs=True).attribute(
            tuple(ends[m] for m in names),
            tuple(starts[m] for m in names),
            additional_forward_args=rest,
            n_steps=steps,
        )
        values |= {m: _array(x) for m, x in zip(names, integrated, strict=True)}
    with torch.no_grad():
        below = _array(value_at({m: start.expand_as(ends[m]) for m, start in starts.items()}, rest))
        full = _array(value_at(ends, rest))
    total = sum((x.reshape(len(batch), -1).sum(axis=1) for x in values.values()), np.zeros(len(batch)))
    values = {m: _of_columns(model, m, x, batch.inputs[m], fronts[m]) for m, x in values.items()}
    labels = {m: feature_names(model, m, x.shape[1:]) for m, x in values.items()}
    return Attributions(values, labels, below, full, total - (full - below))


class _Front(nn.Module):
    """The layers of a preparation up to where gaps are filled and categories opened."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.steps = [layer for layer in layers if isinstance(layer, Preparation)]

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x)
        return found

    def origins(self, width: int) -> NDArray[np.int64]:
        """For each column behind it, the raw one that it is made of."""
        found = np.arange(width)
        for step in self.steps:
            places = step.sources(len(found))
            assert places is not None  # what mixes columns needs all cells, and comes later
            found = found[places]
        return found


def _split_model(model: FusionModel) -> tuple[FusionModel, dict[str, _Front]]:
    """The model without the front of each modality's preparation, and the fronts; they share its weights."""
    if isinstance(model, Ensemble):  # whose gaps are filled as its first member does
        parts = [_split_model(member) for member in model.members]
        return Ensemble([rest for rest, _ in parts], model.weights.tolist()).train(model.training), parts[0][1]
    fronts, encoders = {}, {}
    for m, encoder in model.encoders.items():
        layers = layers_before(encoder)
        steps = [layer for layer in layers if isinstance(layer, Preparation)]
        count = front_of(steps)
        end = layers.index(steps[count - 1]) + 1 if count else 0
        fronts[m] = _Front(layers[:end])
        rest = list(encoder.children())[end:] if end else []
        encoders[m] = Preprocessed(*rest) if rest else encoder
    if not any(front.steps for front in fronts.values()):
        return model, fronts
    rest_of_model = FusionModel(
        encoders,
        model.fusion,
        model.head,
        task=model.task,
        classes=model.classes,
        unimodal=model.unimodal,
        skip=model.skip,
    )
    return rest_of_model.train(model.training), fronts


def _of_columns(model: FusionModel, m: str, x: Floats, raw: Tensor, front: _Front) -> Floats:
    """Attributions ``(n, …, l')`` behind a front as those of the columns before it, of a table's own columns."""
    if front.steps:
        shape = tuple(raw.shape)
        width = shape[-1] if x.ndim == raw.dim() else math.prod(shape[1:])
        x = _added(x, front.origins(width), width)
        if x.ndim != raw.dim():
            x = x.reshape(shape)
    columns = model.schema.get(m)
    return x if columns is None else _added(x, owners_of(columns), len(columns))


def _added(x: Floats, owners: NDArray[np.int64], count: int) -> Floats:
    """``(…, l) -> (…, count)``: the sum of what belongs to each."""
    found = np.zeros((count, *x.shape[:-1]))
    np.add.at(found, owners, np.moveaxis(x, -1, 0))
    return np.moveaxis(found, 0, -1)


def _array(x: Tensor) -> Floats:
    return x.detach().double().cpu().numpy()


def _where(has: Tensor, x: Tensor, start: Tensor) -> Tensor:
    """``x``, or the baseline where the modality is absent, because ``x`` may be NaN there."""
    return torch.where(has.view(-1, *[1] * (x.dim() - 1)), x, start)


def _baseline(model: FusionModel, name: str, x: Tensor, given: Tensor | None, front: _Front) -> Tensor:
    """``(1, *shape)``, behind the front."""
    if given is None and front.steps:
        mean = front_mean(front.steps).to(x)
        return mean.expand(*x.shape[1:-1], -1)[None] if takes_lengths(model.encoders[name]) else mean[None]
    if given is None:
        found = raw_moments(model.encoders[name])
        given = x.new_zeros(()) if found is None else found[0]
    try:
        start = given.to(x).expand(x.shape[1:])[None]
    except RuntimeError:
        raise InputError(
            f"the baseline of {name!r} has shape {tuple(given.shape)}, its samples {tuple(x.shape[1:])}"
        ) from None
    with torch.no_grad():
        return front(start)  # type: ignore[no-any-return]


def _integrated_gradients() -> Any:
    """Captum's class.

    Raises:
        InputError: it is not installed.
    """
    try:
        from captum.attr import IntegratedGradients  # noqa: PLC0415
    except ImportError:
        raise InputError('integrated gradients need Captum: pip install "equifuse[explain]"') from None
    return IntegratedGradients


def feature_names(model: FusionModel, modality: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Names of a modality's flattened features: the model's, or their places from 0 (``"2,5"`` for two axes)."""
    columns = model.schema.get(modality)
    known = model.features.get(modality, ()) if columns is None else [column.name for column in columns]
    if len(known) == math.prod(shape):
        return tuple(known)
    return tuple(",".join(map(str, place)) for place in np.ndindex(shape))
