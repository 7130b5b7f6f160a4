"""Whether a linear model of the same columns would do better: what a training says at its end."""

from __future__ import annotations

import math

import torch

from equifuse.data.loaders import batches_of
from equifuse.errors import EquifuseError
from equifuse.evaluation.verdict import surely_better
from equifuse.registry import FUSIONS
from equifuse.runs.config import TrainConfig
from equifuse.runs.prepare import Prepared, prepare
from equifuse.tasks import Evaluation
from equifuse.training.trainer import Trainer

LINEAR = "linear"
# Numbers (samples times columns times outputs) up to which it is fitted: it takes seconds at most.
_MOST = 4_000_000
# Epochs from which on a training was meant to be one, and not a try.
_EPOCHS = 10

# Options that are about the data and the task, which both models share.
_SHARED = (
    "data",
    "source",
    "task_options",
    "metric",
    "monitor",
    "class_weights",
    "prepare",
    "seed",
    "val_fraction",
    "row_missing",
    "feature_missing",
)


def simpler(prepared: Prepared, val: Evaluation | None, epochs: int) -> list[str]:
    """One line where a linear model is better on validation by more than chance; none elsewhere.

    Args:
        prepared: what the training began with.
        val: what the trained model says of the validation part, or None where there is none.
        epochs: that were trained; after a few the linear model is not asked.
    """
    dataset, config = prepared.dataset, prepared.config
    part = dataset.splits["val"].labelled() if val is not None else None
    if part is None or part.target is None or val is None or epochs < _EPOCHS or len(val.prediction) != len(part):
        return []
    target = torch.from_numpy(part.target)
    losses = prepared.task.sample_losses(val.prediction, target)
    size = len(dataset.splits["train"]) * sum(map(math.prod, dataset.shapes.values())) * dataset.n_outputs
    if losses is None or size > _MOST or not _fits(dataset.task, config):
        return []
    linear = _linear(prepared)
    others = None if linear is None else prepared.task.sample_losses(linear.prediction, target)
    if linear is None or others is None or not surely_better(others, losses):
        return []
    name = prepared.task.headline
    own, other = val.metrics.get(name), linear.metrics.get(name)
    if own is None or other is None or not (other > own if prepared.task.metric(name).mode == "max" else other < own):
        return []
    return [
        f"a linear model does better: {name} {other:.4f} on validation, this one {own:.4f}; "
        "--fusion linear takes it, 'equifuse auto' compares more"
    ]


def _fits(task: str, config: TrainConfig) -> bool:
    """Whether the run is none of the linear model itself, or of its kin, and there is one for the task."""
    tasks = FUSIONS.get(LINEAR).tasks
    return not config.fits_at_once and (tasks is None or task in tasks)


def _linear(prepared: Prepared) -> Evaluation | None:
    """What a linear model of the same columns says of the validation part; None where it cannot be fitted."""
    config = prepared.config
    asked = TrainConfig(fusion=LINEAR, **{name: getattr(config, name) for name in _SHARED})
    try:
        other = prepare(asked, prepared.dataset)
        Trainer(other.config, watch=False).fit(other.model, other.dataset, task=other.task)
        return other.task.evaluate(other.model, batches_of(other.dataset.splits["val"].labelled()))
    except EquifuseError:
        return None
