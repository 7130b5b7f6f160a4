"""One call that explains a trained model's predictions and says how certain they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equifuse._display import html_table, short_text
from equifuse.data.batch import Batch
from equifuse.errors import InputError
from equifuse.explain.attribution import Attributions, attribute_batch, join_attributions
from equifuse.explain.calibration import Calibration, calibrate
from equifuse.explain.conformal import Intervals, PredictionSets, check_options, intervals, prediction_sets
from equifuse.explain.internals import Internals, internals_of_batch, join_internals
from equifuse.explain.shapley import (
    MOST_EXACT,
    CoalitionOutputs,
    Contributions,
    all_coalitions,
    coalitions_of_batch,
    join_coalitions,
    sampled_coalitions,
)
from equifuse.explain.targets import Floats, evaluating, explained, means, outputs_of, value_of
from equifuse.model import FusionModel
from equifuse.tasks import Task
from equifuse.tasks.base import output_names

# Batches with labels, or outputs and targets.
Validation = Iterable[Batch] | tuple[Floats, NDArray[Any]]


@dataclass(frozen=True)
class Explanation:
    """The result of :func:`explain`: contributions of modalities, activity inside the fusion, and uncertainty.

    >>> model = ef.build_model({"a": 3, "b": 4}, "classification", 2, fusion="mean")
    >>> batch = ef.tasks.Batch({"a": torch.randn(8, 3), "b": torch.randn(8, 4)}, target=torch.arange(8) % 2)
    >>> found = explain(model, ef.tasks.make_task("classification"), [batch])
    >>> found.value, found.outputs.shape, found.modalities
    ('probability', (8, 2), ('a', 'b'))

    Attributes:
        task: name of the task.
        value: what of each sample is explained: ``"probability"``, …
        outputs: ``(n, K)`` raw outputs.
        chosen: int64 ``(n,)``, which of them is explained.
        names: of the outputs.
        present: bool ``(n, M)``, which sample has which modality.
        contributions: of the modalities to each sample's value.
        overall: metric -> contributions of the modalities to it; {} without labels.
        undefined: metric -> why it is not in ``overall``, as far as there are labels.
        subsets: the outputs for every subset of the modalities, which all of this is from.
        internals: gate and parts, where the fusion has such.
        attributions: of the features, or None where not asked for.
        calibration: None without a validation part, or classes.
        conformal: None without a validation part, or where the task has no such sets.
        converged: share of the solves that converged, modalities taken away included; None for a closed-form fusion.
    """

    task: str
    value: str
    outputs: Floats
    chosen: NDArray[np.int64]
    names: tuple[str, ...]
    present: NDArray[np.bool_]
    contributions: Contributions
    overall: dict[str, Contributions] = field(default_factory=dict)
    internals: Internals = field(default_factory=Internals)
    attributions: Attributions | None = None
    calibration: Calibration | None = None
    conformal: PredictionSets | Intervals | None = None
    converged: float | None = None
    undefined: dict[str, str] = field(default_factory=dict)
    subsets: CoalitionOutputs | None = field(default=None, repr=False, compare=False)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modality names in order."""
        return tuple(self.contributions.values)

    def __repr__(self) -> str:
        return short_text(self._title(), [["modality", "mean", "mean size"], *self._table()])

    def _repr_html_(self) -> str:
        return html_table(self._title(), ["modality", f"mean change of the {self.value}", "mean size"], self._table())

    def _title(self) -> str:
        return f"Explanation of {len(self.outputs)} samples ({self.task}): contributions to the {self.value}"

    def _table(self) -> list[list[str]]:
        """Each modality's contribution, mean and mean size over the samples that have it."""
        rows = []
        for m, has in zip(self.modalities, self.present.T, strict=True):
            x = self.contributions.values[m][has]
            rows.append([m, *([f"{x.mean():+.3g}", f"{np.abs(x).mean():.3g}"] if len(x) else ["–", "–"])])
        return rows

    def summary(self, features: int = 10) -> dict[str, Any]:
        """Plain values for JSON, means over the samples that have a modality.

        Args:
            features: how many features of each modality are named.
        """
        own = dict(zip(self.modalities, self.present.T, strict=True))
        values = {m: np.where(own[m], x, np.nan) for m, x in self.contributions.values.items()}
        of_output = {
            name: means({m: x[self.chosen == k] for m, x in values.items()})
            for k, name in enumerate(self.names)
            if (self.chosen == k).any()
        }
        gate, parts = self.internals.gate, self.internals.parts
        return {
            "task": self.task,
            "samples": len(self.outputs),
            "value": self.value,
            "share_present": {m: float(mask.mean()) for m, mask in own.items()},
            "contributions": {
                **self.contributions.summary(),
                "values": means(values),
                "mean_absolute": means({m: np.abs(x) for m, x in values.items()}),
                "by_output": of_output,
            },
            "overall": {metric: found.summary() for metric, found in self.overall.items()},
            "undefined": self.undefined,
            "gate": None if gate is None else gate.summary(),
            "parts": None if parts is None else parts.summary(),
            "attributions": None if self.attributions is None else self.attributions.summary(features),
            "calibration": None if self.calibration is None else self.calibration.summary(),
            "conformal": None if self.conformal is None else self.conformal.summary(),
            "converged": self.converged,
        }


def explain(
    model: FusionModel,
    task: Task,
    batches: Iterable[Batch],
    *,
    validation: Validation | None = None,
    selected_on_validation: bool = True,
    samples: int | None = None,
    value: str | None = None,
    output: int | None = None,
    empty: Tensor | None = None,
    pairs: int = 64,
    seed: int = 0,
    features: bool = False,
    steps: int = 64,
    tol: float = 0.01,
    alpha: float = 0.1,
    conformal: str = "lac",
    bins: int = 15,
) -> Explanation:
    """Explain a trained model's predictions, and say how certain they are.

    >>> model = ef.build_model({"a": 3, "b": 4}, "classification", 2, fusion="mean")
    >>> batch = ef.tasks.Batch({"a": torch.randn(8, 3), "b": torch.randn(8, 4)}, target=torch.arange(8) % 2)
    >>> found = explain(model, ef.tasks.make_task("classification"), [batch])
    >>> found.contributions.values["a"].shape  # of modality "a" to the probability of each sample's class
    (8,)

    One pass over ``batches``: contributions of the modalities to every sample and to the metrics of all samples,
    activity inside the fusion, and on request attributions to the features. If there is a validation part, a
    temperature and prediction sets (of the unscaled probabilities) or intervals are fitted on it. The model is not
    changed.

    Args:
        model: the model.
        task: its task.
        batches: the samples to explain, usually the test part's.
        validation: batches of the validation part, with labels; or outputs ``(n, K)`` and targets of samples, where
            they are known, as those that no member of an ensemble was trained on.
        selected_on_validation: whether training used the validation part (early stopping); the explanation then says
            that its coverage is approximate.
        samples: use only this number of first samples, ≥ 1; None for all.
        value: see :meth:`CoalitionOutputs.per_sample`.
        output: likewise.
        empty: see :func:`evaluate_coalitions`.
        pairs: likewise, for more than 8 modalities.
        seed: seed of all random draws.
        features: whether to attribute to features, by :func:`attribute`; needs Captum.
        steps: see :func:`attribute`.
        tol: likewise.
        alpha: share of errors allowed for prediction sets and intervals; default 0.1.
        conformal: their method for classes, "lac" (default) or "aps"; see :func:`prediction_sets`.
        bins: bins of the reliability diagram; default 15.

    Returns:
        :class:`Explanation`.

    Raises:
        InputError: no samples, a retrieval task, missing labels, Captum is not installed, or an argument is out of
            range.
        UnknownNameError: an unknown value or method.

    Warns:
        ConvergenceWarning: at most once, if solves did not converge.
    """
    value = value_of(task, value)
    check_options(alpha, conformal)
    if samples is not None and samples < 1:
        raise InputError(f"samples must be at least 1, got {samples}")
    count = len(model.modalities)
    coalitions = all_coalitions(count) if count <= MOST_EXACT else sampled_coalitions(count, pairs, seed)
    tables: list[CoalitionOutputs] = []
    inside: list[Internals] = []
    attributions: list[Attributions] = []
    with evaluating(model) as device:
        for batch in (batch.to(device) for batch in _first(batches, samples)):
            tables.append(coalitions_of_batch(model, batch, coalitions, empty))
            inside.append(internals_of_batch(model, batch))
            chosen = explained(task, tables[-1].outputs[:, -1], output).to(device)
            if features:
                attributions.append(attribute_batch(model, task, batch, value, chosen, steps=steps, tol=tol))
    table = join_coalitions(tables)
    outputs = table.outputs[:, -1].double()
    calibration, sets = None, None
    if validation is not None:
        fitted_on = _labelled(model, task, validation)
        measured_on = (outputs.numpy(), table.target)
        if task.choices(*fitted_on) is not None:
            calibration = calibrate(task.name, fitted_on, measured_on, bins)
        sets = _conformal(task, fitted_on, measured_on, alpha, conformal, seed, selected_on_validation)
    overall: dict[str, Contributions] = {}
    undefined: dict[str, str] = {}
    for metric in (task.headline, "loss") if table.target is not None else ():
        contributions = table.overall(task, metric)
        if contributions is None:
            undefined[metric] = str(table.why_undefined(task, metric))
        else:
            overall[metric] = contributions
    return Explanation(
        task.name,
        value,
        outputs.numpy(),
        explained(task, outputs, output).numpy(),
        output_names(model.classes, outputs.shape[1]),
        table.present,
        table.per_sample(task, value, output),
        overall,
        join_internals(inside),
        join_attributions(attributions) if features else None,
        calibration,
        sets,
        table.converged,
        undefined,
        table,
    )


def _first(batches: Iterable[Batch], samples: int | None) -> Iterator[Batch]:
    """All batches, or those with the first samples."""
    left = samples
    for batch in batches:
        if left is None:
            yield batch
        elif left > 0:
            some = batch.select(torch.arange(min(left, len(batch))))
            left -= len(some)
            yield some
        else:
            return


def _labelled(model: FusionModel, task: Task, batches: Validation) -> tuple[Floats, NDArray[Any]]:
    if isinstance(batches, tuple):
        return batches
    outputs, target = outputs_of(model, task, batches)
    if target is None:
        raise InputError("the validation part has no labels; calibration and prediction sets need them")
    return outputs, target


def certainty(
    model: FusionModel, task: Task, validation: Validation, samples: Iterable[Batch], alpha: float = 0.1
) -> PredictionSets | Intervals | None:
    """Sets of classes or intervals of samples that promise to hold the truth; None where the task has none.

    Args:
        model: the model.
        task: its task.
        validation: what they are calibrated on, as for :func:`explain`.
        samples: what they are for; with labels, their coverage is measured.
        alpha: share of errors allowed.
    """
    if task.conformal is None:
        return None
    fitted_on = _labelled(model, task, validation)
    return _conformal(task, fitted_on, outputs_of(model, task, samples), alpha, "lac", 0, True)


def _conformal(
    task: Task,
    fitted_on: tuple[Floats, NDArray[Any]],
    measured_on: tuple[Floats, NDArray[Any] | None],
    alpha: float,
    method: str,
    seed: int,
    reused: bool,
) -> PredictionSets | Intervals | None:
    """Sets of classes or intervals about values, as the task has them, or None."""
    if task.conformal == "intervals":
        return intervals(fitted_on, *measured_on, alpha=alpha, reused=reused)
    if task.conformal != "sets":
        return None
    from scipy.special import softmax  # noqa: PLC0415

    own, target = fitted_on
    random = seed if method == "aps" else None
    calibration = (softmax(own, axis=1), target)
    probabilities = softmax(measured_on[0], axis=1)
    return prediction_sets(
        calibration, probabilities, measured_on[1], alpha=alpha, method=method, seed=random, reused=reused
    )
