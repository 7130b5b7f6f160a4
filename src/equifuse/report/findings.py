"""What a run's page is about: scores with what they are compared with, modalities, samples, explanations."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equifuse.data import MultimodalDataset, Split
from equifuse.data.loaders import batches_of
from equifuse.data.options import SourceOptions
from equifuse.errors import ConvergenceWarning, EquifuseError
from equifuse.evaluation.evaluate import evaluate_quietly
from equifuse.evaluation.intervals import bootstrap_difference, bootstrap_intervals, resampled
from equifuse.evaluation.verdict import ClassScores, class_scores
from equifuse.explain import Explanation, explain
from equifuse.explain.attribution import differentiable
from equifuse.explain.shapley import CoalitionOutputs, shapley_values
from equifuse.options import default_of
from equifuse.runs.config import TrainConfig, without_unused
from equifuse.runs.folder import METRICS, Run
from equifuse.runs.metrics import RunMetrics
from equifuse.runs.prepare import prepare
from equifuse.tasks import Columns, Evaluation, Task
from equifuse.tasks.base import output_names
from equifuse.training.protocol import CLEAN
from equifuse.training.trainer import Trainer

Interval = tuple[float, float]
LINEAR = "linear"
# Values of the training part up to which a linear model is fitted beside the run: seconds, not minutes.
_CHEAP = 5_000_000
# Samples whose features are looked into: each costs a hundred evaluations of the model and more.
_FEATURE_SAMPLES = 64
# Features of a modality that are kept.
_FEATURES = 500
# Samples that are predicted worst.
_HARDEST = 15
# Standard errors on either side of an interval of 95 %.
_REACH = 1.96


@dataclass(frozen=True)
class Rival:
    """What a run's headline metric is compared with.

    Attributes:
        name: of it.
        value: its headline metric on the same samples, None where it is undefined.
        interval: of the value.
        better: ends of the interval of how much better the run is, positive where it is; None where not known.
    """

    name: str
    value: float | None
    interval: Interval | None = None
    better: Interval | None = None


@dataclass(frozen=True)
class Effect:
    """What one modality does for the headline metric; positive numbers are for the better, whichever way that is.

    Attributes:
        name: of the modality.
        adds: its Shapley value.
        adds_interval: of it, over draws of the samples.
        lost: how much worse the metric is without it, or None where not known.
        lost_interval: likewise.
        alone: the metric of what the modality says alone.
    """

    name: str
    adds: float
    adds_interval: Interval | None = None
    lost: float | None = None
    lost_interval: Interval | None = None
    alone: float | None = None


@dataclass(frozen=True)
class HardSample:
    """A sample that is predicted badly.

    Attributes:
        name: its id, or number of its row.
        truth: what it is.
        said: what the model says.
        alone: modality -> what it says alone; "–" where the sample lacks it.
    """

    name: str
    truth: str
    said: str
    alone: dict[str, str]


@dataclass(frozen=True)
class Findings:
    """Everything that the page of a run says.

    Attributes:
        run: the run.
        metrics: of its folder.
        dataset: its data; None where they cannot be read any more.
        samples: its test part.
        evaluation: on it.
        interval: of the headline metric.
        rivals: what that is compared with, the prediction without features first.
        without_linear: why there is no linear model among the rivals; "" where there is one.
        by_class: each class of a classification.
        confusion: samples of each class by predicted class.
        explanation: what decided; None for a task that has nothing of the kind.
        attributions: of the features, as plain values, or None.
        effects: of the modalities.
        alone_by_heads: whether what a modality says alone is said by its own head, not by the model without the others.
        hardest: samples that are predicted worst.
    """

    run: Run
    metrics: RunMetrics
    dataset: MultimodalDataset
    samples: Split
    evaluation: Evaluation
    interval: Interval | None
    rivals: list[Rival]
    without_linear: str
    by_class: list[ClassScores] = field(default_factory=list)
    confusion: NDArray[np.int64] | None = None
    explanation: Explanation | None = None
    attributions: dict[str, Any] | None = None
    effects: list[Effect] = field(default_factory=list)
    alone_by_heads: bool = False
    hardest: list[HardSample] = field(default_factory=list)

    @property
    def task(self) -> Task:
        """Of the run."""
        return self.run.task

    @property
    def value(self) -> float | None:
        """The headline metric on test."""
        return self.evaluation.metrics.get(self.task.headline)

    @property
    def target(self) -> Tensor | None:
        """Of the test part."""
        return None if self.samples.target is None else torch.from_numpy(self.samples.target)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return output_names(self.run.model.classes, self.evaluation.prediction.shape[-1])


def find(run: Run, *, features: bool | None = None, samples: int = 2000) -> Findings:
    """Measure, compare and explain a run on its test part.

    Args:
        run: the run.
        features: whether to attribute to features, which needs Captum; default where it is installed.
        samples: test samples that are explained, at most.

    Raises:
        DataError: its data cannot be read any more, or have changed.
        InputError: features are asked for and Captum is not installed.
    """
    dataset, task = run.dataset(), run.task
    test = dataset.splits["test"].labelled()
    evaluation = evaluate_quietly(run.model, task, dataset)
    target = None if test.target is None else torch.from_numpy(test.target)
    groups = _groups(run, test)
    confusion = None if target is None else task.confusion(evaluation.prediction, target)
    intervals = bootstrap_intervals(task, evaluation.prediction, target, groups=groups, only=[task.headline])
    rivals, why = _rivals(run, dataset, evaluation, target, groups)
    explanation, attributions = _explained(run, dataset, features, samples)
    effects, by_heads = _effects(run, explanation, evaluation, target)
    found = Findings(
        run=run,
        metrics=RunMetrics.read(run.path / METRICS),
        dataset=dataset,
        samples=test,
        evaluation=evaluation,
        interval=intervals.get(task.headline),
        rivals=rivals,
        without_linear=why,
        confusion=confusion,
        explanation=explanation,
        attributions=attributions,
        effects=effects,
        alone_by_heads=by_heads,
    )
    by_class = [] if confusion is None else class_scores(confusion, output_names(task.classes, len(confusion)))
    return replace(found, by_class=by_class, hardest=_hardest(found))


def _groups(run: Run, samples: Split) -> NDArray[Any] | None:
    named = SourceOptions.of(run.config.source).group
    return samples.columns.get(named) if named else None


def _rivals(
    run: Run, dataset: MultimodalDataset, evaluation: Evaluation, target: Tensor | None, groups: NDArray[Any] | None
) -> tuple[list[Rival], str]:
    """A prediction from the training targets alone, and a linear model; and why that is left out."""
    task, prediction = run.task, evaluation.prediction
    if target is None:
        return [], "the test part has no targets"
    found = []
    known = run.record.get("baseline")
    if known is not None:
        constant = torch.tensor(known, dtype=prediction.dtype).expand(len(prediction), -1)
        value = task.measure(constant, target, [task.headline]).values.get(task.headline)
        better = bootstrap_difference(task, prediction, constant, target, groups=groups)
        found.append(Rival(task.without_features, value, None, better))
    linear = _linear(run, dataset)
    if isinstance(linear, str):
        return found, linear
    value = task.measure(linear, target, [task.headline]).values.get(task.headline)
    ends = bootstrap_intervals(task, linear, target, groups=groups, only=[task.headline]).get(task.headline)
    better = bootstrap_difference(task, prediction, linear, target, groups=groups)
    return [*found, Rival("linear model", value, ends, better)], ""


def _linear(run: Run, dataset: MultimodalDataset) -> Tensor | str:
    """Raw outputs on test of a linear model of the same training part; or why there is none."""
    config, train = run.config, dataset.splits["train"]
    size = len(train) * sum(int(np.prod(shape)) for shape in dataset.shapes.values())
    if run.method == LINEAR:
        return "the run is a linear model itself"
    if not type(run.task).has_linear_models():
        return f"there is no linear model for {run.task.name}"
    if config.init is not None:
        return "the run goes on from another one"
    if size > _CHEAP:
        return f"the training part has {size:,} values; equifuse benchmark --method linear compares"
    simple: dict[str, Any] = {
        "fusion": LINEAR,
        "dim": None,
        "backend": None,
        "fusion_options": {},
        **{name: default_of(TrainConfig, name) for name in config.of_ensemble},
    }
    try:
        plain = TrainConfig.from_dict(without_unused({**config.to_dict(), **simple, "choose": {}, "logger": ()}))
        prepared = prepare(plain, dataset)
        Trainer(prepared.config, watch=False).fit(prepared.model, dataset, task=prepared.task)
        return evaluate_quietly(prepared.model, prepared.task, dataset).prediction
    except EquifuseError as error:
        return str(error)


def _explained(
    run: Run, dataset: MultimodalDataset, features: bool | None, samples: int
) -> tuple[Explanation | None, dict[str, Any] | None]:
    if not run.task.values:
        return None, None
    test = batches_of(dataset.splits["test"])
    # Of several targets, single samples are explained for the first.
    output = 0 if of_one_output(run) else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the page has the share
        # Under the loose protocol there is no part left that calibration could be fitted on.
        validation = run.validation() if run.config.protocol == CLEAN else None
        found = explain(run.model, run.task, test, validation=validation, samples=samples, output=output)
        if features is None:
            features = find_spec("captum") is not None
        if not features or not differentiable(run.model):
            return found, None
        few = min(samples, _FEATURE_SAMPLES)
        some = explain(run.model, run.task, test, samples=few, output=output, features=True)
        assert some.attributions is not None
        return found, {**some.attributions.summary(_FEATURES), "samples": len(some.outputs)}


def of_one_output(run: Run) -> bool:
    """Whether single samples are explained for one of several outputs, none of which is the one predicted."""
    return not run.task.predicts_largest and (run.model.n_outputs or 1) > 1


def _effects(
    run: Run, explanation: Explanation | None, evaluation: Evaluation, target: Tensor | None
) -> tuple[list[Effect], bool]:
    task = run.task
    if explanation is None or explanation.subsets is None or task.headline not in explanation.overall:
        return [], False
    heads = task.measure_alone(evaluation.unimodal, target)
    alone = {m: found.values.get(task.headline) for m, found in heads.items()}
    return effects_of(explanation.subsets, task, alone), bool(alone)


def effects_of(subsets: CoalitionOutputs, task: Task, alone: Mapping[str, float | None] | None = None) -> list[Effect]:
    """What each modality does for the headline metric, with intervals over draws of the samples.

    Args:
        subsets: the outputs for each subset of the modalities, with targets.
        task: the task.
        alone: modality -> the metric of what its own head says; default that of the model with nothing else.
    """
    sign = 1.0 if task.metric(task.headline).mode == "max" else -1.0
    given = None if subsets.target is None else torch.from_numpy(subsets.target)
    if given is None:
        return []
    target, outputs = given, subsets.outputs.float()
    count, codes = outputs.shape[1], subsets.coalitions.codes.tolist()

    def values(rows: Tensor | None = None) -> NDArray[np.float64]:
        some, y = (outputs, target) if rows is None else (outputs[rows], target[rows])
        each = [task.measure(some[:, c], y, [task.headline]).values[task.headline] for c in range(count)]
        return sign * np.array([np.nan if value is None else value for value in each])

    everybody = codes[-1]
    without = [codes.index(everybody & ~(1 << k)) if everybody & ~(1 << k) in codes else None for k in _bits(subsets)]
    single = [codes.index(1 << k) if 1 << k in codes else None for k in _bits(subsets)]

    def adds_and_lost(v: NDArray[np.float64]) -> NDArray[np.float64]:
        lost = [np.nan if k is None else v[-1] - v[k] for k in without]
        return np.stack([shapley_values(v, subsets.coalitions)[0], np.array(lost)])

    whole = values()
    middle = adds_and_lost(whole)
    draws = int(np.clip(4_000_000 // max(1, count * len(outputs)), 20, 200))
    drawn = np.stack([adds_and_lost(values(rows)) for rows in resampled(len(outputs), draws)])
    known = np.isfinite(drawn).mean(axis=0) > 0.5
    reach = _REACH * np.nanstd(np.where(known, drawn, 0.0), axis=0)
    found = []
    for k, m in enumerate(subsets.modalities):
        ends = [
            (float(x - r), float(x + r)) if ok else None
            for x, r, ok in zip(middle[:, k], reach[:, k], known[:, k], strict=True)
        ]
        own = (alone or {}).get(m)
        place = single[k]
        if not alone and place is not None and np.isfinite(whole[place]):
            own = sign * float(whole[place])
        lost = float(middle[1, k]) if np.isfinite(middle[1, k]) else None
        found.append(Effect(m, float(middle[0, k]), ends[0], lost, ends[1], own))
    return found


def _bits(subsets: CoalitionOutputs) -> range:
    return range(len(subsets.modalities))


def _hardest(found: Findings) -> list[HardSample]:
    """The samples that are predicted worst, and what each modality said of them."""
    task, target, prediction = found.task, found.target, found.evaluation.prediction
    losses = None if target is None or prediction.dim() != 2 else task.sample_losses(prediction, target)
    if losses is None or target is None or not len(losses):
        return []
    worst = losses.argsort(descending=True, stable=True)[:_HARDEST]
    samples = found.samples
    names = samples.ids if samples.ids is not None else samples.columns.get("row", np.arange(len(samples)))
    truth = task.targets.columns(np.asarray(samples.target)[worst.numpy()], found.run.model.classes)
    said = task.predict(prediction[worst])
    alone = _said_alone(found, worst)
    rows = []
    for i, k in enumerate(worst.tolist()):
        true = "; ".join(_shown(column[i]) for column in truth.values())
        rows.append(HardSample(str(names[k]), true, said_of(said, i), {m: words[i] for m, words in alone.items()}))
    return rows


def _said_alone(found: Findings, rows: Tensor) -> dict[str, list[str]]:
    """What each modality says of some samples: its own head, or the model with nothing else."""
    heads, explanation, task = found.evaluation.unimodal, found.explanation, found.task
    if heads:
        outputs = {m: said[rows] for m, said in heads.items()}
    elif explanation is not None and explanation.subsets is not None and len(explanation.outputs) > int(rows.max()):
        subsets = explanation.subsets
        codes = subsets.coalitions.codes.tolist()
        outputs = {}
        for k, m in enumerate(subsets.modalities):
            if 1 << k in codes:
                said = subsets.outputs[rows, codes.index(1 << k)].float()
                has = torch.from_numpy(subsets.present[rows.numpy(), k])
                outputs[m] = said.masked_fill(~has[:, None], torch.nan)
    else:
        return {}
    words = {}
    for m, each in outputs.items():
        there = ~each.isnan().any(-1)
        columns = task.predict(each.nan_to_num())
        words[m] = [said_of(columns, i) if there[i] else "–" for i in range(len(each))]
    return words


def said_of(columns: Columns, row: int) -> str:
    """What a task predicts of a sample, in words: ``"malignant (87 %)"``, ``"12.3"``."""
    words = []
    for name, column in columns.items():
        if name.startswith("prob_"):
            continue
        shown = _shown(column[row])
        probability = columns.get(f"prob_{column[row]}")
        words.append(shown if probability is None else f"{shown} ({100 * probability[row]:.0f} %)")
    return "; ".join(words)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value) or "none"
