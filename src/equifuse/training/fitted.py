"""Fitting of methods that are no matter of epochs: see :class:`equifuse.fusion.FittedFusion`."""

from __future__ import annotations

import math
import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from equifuse.data.loaders import Batches
from equifuse.errors import InputError
from equifuse.fusion.base import flatten
from equifuse.fusion.fitted import FittedFusion, FittingProblem
from equifuse.fusion.modes import evaluation_mode
from equifuse.model import FusionModel
from equifuse.training.options import TrainingOptions

if TYPE_CHECKING:
    from equifuse.tasks import Task
    from equifuse.training.trainer import Row

# (history, number of the best setting from 1, its value); the last two None without validation.
Fit = tuple[list["Row"], int | None, float | None]


@torch.no_grad()
def fit_at_once(
    model: FusionModel,
    task: Task,
    train: Batches,
    val: Batches | None,
    options: TrainingOptions,
    deadline: float | None = None,
) -> Fit:
    """Fit a model whose fusion is a :class:`~equifuse.fusion.FittedFusion`; the best setting is left in it.

    Args:
        model: the model, its preparation fitted.
        task: measures each setting on validation.
        train: the training part.
        val: the validation part; without, the last setting stays.
        options: the seed, and the metric that is watched.
        deadline: time of the system's clock after which no further setting is tried.

    Returns:
        A row of the history for each setting that was tried, in the place of an epoch; and the best.

    Raises:
        InputError: samples without targets, or the watched metric has no value.
    """
    fusion = model.fusion
    assert isinstance(fusion, FittedFusion)
    problem = _problem(model, fusion, task, train, options.seed)
    sign = 1 if task.mode == "min" else -1
    history: list[Row] = []
    best: tuple[int, float, Any] | None = None
    undefined, began = "", time.perf_counter()
    with warnings.catch_warnings():
        # Where a linear model's solver stops at its limit of steps: the strength of the penalty decides more.
        warnings.filterwarnings("ignore", module=r"sklearn(\.|$)")
        for number, state in enumerate(fusion.candidates(problem)):
            fusion.restore(state)
            row: Row = {"epoch": float(number)}
            if val is not None:
                found = task.evaluate(model, val)
                row |= {f"val_{name}": value for name, value in found.metrics.items()}
                value = found.metrics.get(task.monitor)
                undefined = undefined if value is not None else found.undefined.get(task.monitor, "it has no value")
                if value is not None and math.isfinite(value) and (best is None or sign * value < sign * best[1]):
                    best = number + 1, value, state
            row["seconds"] = time.perf_counter() - began
            began = time.perf_counter()
            history.append(row)
            if deadline is not None and time.time() >= deadline:
                break
    model.eval()
    if val is None:
        return history, None, None
    if best is None:
        raise InputError(f"the validation {task.monitor} is undefined: {undefined}; give a part that has it")
    fusion.restore(best[2])
    return history, best[0], best[1]


def _problem(model: FusionModel, fusion: FittedFusion, task: Task, train: Batches, seed: int) -> FittingProblem:
    """The columns and targets of all training samples."""
    columns, targets, weights = [], [], []
    with evaluation_mode(model):
        for batch in train:
            present = model.presence(batch.inputs, batch.present, lengths=batch.lengths)
            encoded = model.encode(batch.inputs, present, lengths=batch.lengths)
            columns.append(fusion.columns(flatten(encoded, present, fusion.dims)[1]).cpu())
            targets.append(None if batch.target is None else batch.target.cpu())
            weights.append(None if batch.weight is None else batch.weight.cpu())
    target, weight = _joined(targets), _joined(weights)
    weight = None if weight is None else weight.double()
    factors = getattr(task, "class_weights", None)
    if factors is not None and target is not None:
        weight = factors.double()[target] * (1.0 if weight is None else weight)
    return FittingProblem(
        columns=torch.cat(columns).double().numpy(),
        target=None if target is None else target.numpy(),
        weight=None if weight is None else np.asarray(weight.numpy(), dtype=np.float64),
        task=task,
        seed=seed % 2**32,
    )


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    given = [part for part in parts if part is not None]
    return torch.cat(given) if len(given) == len(parts) else None
