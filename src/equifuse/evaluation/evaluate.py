"""Evaluate a trained model, whole or with modalities taken away."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from equifuse.data import MultimodalDataset, Split
from equifuse.data.loaders import batches_of
from equifuse.errors import ConvergenceWarning, DataError, UnknownNameError
from equifuse.evaluation.conditions import Condition, Seed, Without, without_each
from equifuse.model import FusionModel
from equifuse.registry import TASKS
from equifuse.tasks import Evaluation, Measurement, Task


def check_fits(model: FusionModel, dataset: MultimodalDataset) -> None:
    """Refuse a data set that a stored model was not made for.

    Raises:
        DataError: task, number of outputs or class names differ; widths are checked by the model itself.
    """
    if dataset.task != model.task:
        raise DataError(f"data set {dataset.name!r} is for {dataset.task}, the model was built for {model.task}")
    if not TASKS.get(dataset.task).embeds and dataset.n_outputs != model.n_outputs:
        raise DataError(f"data set {dataset.name!r} has {dataset.n_outputs} outputs, the model has {model.n_outputs}")
    if dataset.classes is not None and model.classes is not None and dataset.classes != model.classes:
        raise DataError(f"data set {dataset.name!r} has classes {dataset.classes}, the model has {model.classes}")


def evaluate_model(
    model: FusionModel,
    task: Task,
    dataset: MultimodalDataset,
    split: str = "test",
    without: Iterable[str] = (),
    *,
    condition: Condition | None = None,
    seed: Seed = 0,
) -> Evaluation:
    """Evaluate a model on a split: whole, with modalities taken away, or under any other condition.

    Args:
        model: the trained model.
        task: its task.
        dataset: the data.
        split: ``"train"``, ``"val"`` or ``"test"``.
        without: modalities to take away from every sample.
        condition: what else is done to the samples; see :mod:`equifuse.evaluation.conditions`.
        seed: of what the condition draws.

    Raises:
        DataError: data that do not fit the model.
        UnknownNameError: an unknown split or modality.
        InputError: no modality would be left.

    Warns:
        ConvergenceWarning: once, where samples did not converge.
    """
    evaluation = evaluate_quietly(model, task, dataset, split, without, condition=condition, seed=seed)
    warn_unconverged(evaluation.convergence(), f"the {split} part of {dataset.name!r}")
    return evaluation


def evaluate_quietly(
    model: FusionModel,
    task: Task,
    dataset: MultimodalDataset,
    split: str = "test",
    without: Iterable[str] = (),
    *,
    condition: Condition | None = None,
    seed: Seed = 0,
) -> Evaluation:
    """:func:`evaluate_model` without a warning; ``convergence()`` of the result says as much."""
    check_fits(model, dataset)
    if split not in dataset.splits:
        raise UnknownNameError("split", split, dataset.splits)
    taken = tuple(without)
    for name in taken:
        if name not in model.modalities:
            raise UnknownNameError("modality", name, model.modalities)
    samples = dataset.splits[split].labelled()
    samples = Without(taken)(samples) if taken else samples
    batches = batches_of(samples if condition is None else condition(samples, seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return task.evaluate(model, batches)


def score_without_each(model: FusionModel, task: Task, dataset: MultimodalDataset, split: str = "test") -> Measurement:
    """The task's headline metric with each modality taken away in turn, by the modality's name.

    Empty where nothing could be measured: where too few modalities would be left for the task.
    """
    scores = Measurement()
    for m, condition in zip(model.modalities, without_each(model.modalities, task.least_modalities), strict=False):
        found = evaluate_quietly(model, task, dataset, split, condition=condition)
        scores.put(m, found.metrics.get(task.headline), found.undefined.get(task.headline, "it has no value here"))
    return scores


def headline_alone(task: Task, evaluation: Evaluation, samples: Split) -> dict[str, float | None]:
    """The task's headline metric of what each modality says alone; {} where the model has no such outputs.

    Args:
        task: the task.
        evaluation: of the samples.
        samples: those that were evaluated.
    """
    target = None if samples.target is None else torch.from_numpy(samples.target)
    return {m: found.values.get(task.headline) for m, found in task.measure_alone(evaluation.unimodal, target).items()}


def traces(model: FusionModel, dataset: MultimodalDataset, split: str = "test") -> dict[str, NDArray[np.float32]]:
    """Relative residuals ``(K, n)`` by solver step, of a split's first samples, for each part of the fusion's solve.

    The modality states are given together, by their largest residual. Empty for a closed-form fusion.
    """
    batch = next(iter(batches_of(dataset.splits[split])))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        stats = model.eval()(batch.inputs, batch.present, lengths=batch.lengths).fusion.stats
    if stats is None:
        return {}
    if "fusion" not in stats.parts:
        return {"state": stats.trace.flatten(1).numpy()}
    found = {"fused state": stats.parts["fusion"].trace.flatten(1).numpy()}
    parts = [part.trace for name, part in stats.parts.items() if name != "fusion"]
    if parts:
        found = {"modality states": torch.stack(parts).amax(0).flatten(1).numpy(), **found}
    return found


def tolerance(model: FusionModel) -> float | None:
    """The tolerance of the model's fixed-point solver, None for a closed-form fusion."""
    fusion = getattr(model.fusion, "backend", None) or model.fusion
    solver = getattr(fusion, "solver", None)
    return None if solver is None else float(solver.tol)


def warn_unconverged(convergence: dict[str, float] | None, where: str) -> None:
    """Warn once for a whole split or file, where some samples did not converge."""
    if convergence is not None and convergence["converged"] < 1:
        warnings.warn(
            f"{1 - convergence['converged']:.1%} of the samples of {where} did not converge (largest relative residual "
            f"{convergence['max_residual']:.1e}); raise the solver's max_steps or tol",
            ConvergenceWarning,
            stacklevel=3,
        )
