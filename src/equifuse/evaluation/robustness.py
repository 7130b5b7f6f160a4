"""What becomes of a trained model's score when modalities are missing or corrupted."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from equifuse._display import html_table, short_text
from equifuse.data import MultimodalDataset, Split
from equifuse.data.loaders import batches_of
from equifuse.encoders.preparation import raw_moments
from equifuse.errors import ConvergenceWarning, InputError, UnknownNameError
from equifuse.evaluation.conditions import Condition, Intact, Missing, Noise, Permuted, subsets
from equifuse.model import FusionModel
from equifuse.records import OPTIONAL, Record
from equifuse.tasks import Task

RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
NOISE = (0.5, 1.0, 2.0)


class Spread(NamedTuple):
    """Mean and sample standard deviation over repeated draws; the deviation is 0 for a single one."""

    mean: float
    deviation: float


@dataclass(frozen=True, eq=False)
class Robustness(Record):
    """One model's scores by what was done to the samples.

    Attributes:
        intact: nothing was done.
        subsets: ``"a + b"``, the modalities that stayed -> score.
        missing: rate as text -> scores with each modality of each sample hidden at that rate; {} in retrieval.
        corrupted: modality -> ``"noise 2"`` or ``"permuted"`` -> scores.
        undefined: what was done -> why there is no score, which is NaN there; None where all have one.
    """

    intact: float
    subsets: dict[str, float] = field(default_factory=dict)
    missing: dict[str, Spread] = field(default_factory=dict)
    corrupted: dict[str, dict[str, Spread]] = field(default_factory=dict)
    undefined: dict[str, str] | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, eq=False)
class RobustnessReport(Record):
    """The scores of one model or several of the same data set.

    Attributes:
        split: the part of the data set.
        repeats: draws per random condition.
        metric: what is scored.
        runs: label -> the scores of that model.
    """

    split: str
    repeats: int
    metric: str
    runs: dict[str, Robustness]

    def __repr__(self) -> str:
        return short_text(f"Robustness: {self.metric} on {self.split}", self._table())

    def _repr_html_(self) -> str:
        return html_table(f"{self.metric} on {self.split}", ["run", "intact", "lowest", "where"], self._table())

    def _table(self) -> list[list[str]]:
        """Each run's intact score, its lowest one, and what was done there."""
        rows = []
        for label, found in self.runs.items():
            scores = {f"only {kept}": value for kept, value in found.subsets.items()}
            scores |= {f"missing {rate}": spread.mean for rate, spread in found.missing.items()}
            for m, by in found.corrupted.items():
                scores |= {f"{m} {what}": spread.mean for what, spread in by.items()}
            where = min(scores, key=scores.__getitem__, default="")
            lowest = [f"{scores[where]:.4f}", where] if where else ["–", ""]
            rows.append([label, f"{found.intact:.4f}", *lowest])
        return rows


def check_options(rates: Sequence[float], noise: Sequence[float], repeats: int) -> None:
    """Refuse what :func:`measure_robustness` cannot do.

    Raises:
        InputError: a value out of range.
    """
    if not all(0 <= rate < 1 for rate in rates):
        raise InputError(f"rates must be in [0, 1), got {list(rates)}")
    if not all(level >= 0 for level in noise) or repeats < 1:
        raise InputError("noise must not be negative, and repeats at least 1")


def measure_robustness(
    model: FusionModel,
    task: Task,
    dataset: MultimodalDataset,
    *,
    split: str = "test",
    rates: Sequence[float] = RATES,
    noise: Sequence[float] = NOISE,
    repeats: int = 5,
) -> Robustness:
    """Score a model on damaged samples.

    - every subset of the modalities (with more than six: all, each alone, and all but one or two);
    - each modality of each sample missing with a rate, at least one kept; mean and deviation over the repeats (not in
      retrieval, where fewer candidates make the task easier);
    - for each modality: noise of so many standard deviations of the training part, and its rows permuted.

    Args:
        model: the trained model.
        task: its task, whose headline metric is the score.
        dataset: the data.
        split: part of the data set.
        rates: missing rates, in [0, 1).
        noise: standard deviations of the noise, ≥ 0.
        repeats: draws per random condition, ≥ 1.

    Raises:
        InputError: a value out of range.
        UnknownNameError: an unknown split.
    """
    check_options(rates, noise, repeats)
    if split not in dataset.splits:
        raise UnknownNameError("split", split, dataset.splits)
    samples = dataset.splits[split]
    names, least = list(samples.inputs), task.least_modalities

    undefined: dict[str, str] = {}

    def score(condition: Condition, times: int = repeats) -> Spread:
        found = [_score(model, task, condition(samples, seed)) for seed in range(times)]
        reasons = [why for _, why in found if why is not None]
        if reasons:
            undefined[condition.name] = reasons[0]
        return _spread([value for value, _ in found])

    # What is hidden is no candidate any more, and among fewer of them retrieval only gets easier.
    hidden = [Missing(rate) for rate in rates] if task.hidden_at_rates else []
    corrupted: dict[str, dict[str, Spread]] = {}
    for m in names:
        deviation = _deviation(model, m)
        corrupted[m] = {f"noise {level:g}": score(Noise(m, level, deviation)) for level in noise}
        corrupted[m]["permuted"] = score(Permuted(m))
    return Robustness(
        score(Intact(), 1).mean,
        {" + ".join(kept.modalities): score(kept, 1).mean for kept in subsets(names, least)},
        {f"{condition.rate:g}": score(condition, 1 if condition.rate == 0 else repeats) for condition in hidden},
        corrupted,
        undefined or None,
    )


def _score(model: FusionModel, task: Task, split: Split) -> tuple[float, str | None]:
    """The headline metric; NaN where it is undefined, and why it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = task.evaluate(model, batches_of(split))
    value = found.metrics.get(task.headline)
    return (math.nan, found.undefined.get(task.headline, "it has no value here")) if value is None else (value, None)


def _spread(values: list[float]) -> Spread:
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)


def _deviation(model: FusionModel, modality: str) -> Any:
    """Standard deviations of a modality's features in the training part, as the model knows them; 1 if it does not."""
    found = raw_moments(model.encoders[modality])
    if found is None:
        return 1.0
    deviation, shape = found[1].numpy(), model.shapes.get(modality, ())
    return deviation.reshape(shape) if deviation.size == math.prod(shape) else deviation
