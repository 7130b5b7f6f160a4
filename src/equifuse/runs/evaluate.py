"""Evaluate a finished run."""

from __future__ import annotations

from collections.abc import Iterable

from equifuse.data import load
from equifuse.evaluation.evaluate import evaluate_model
from equifuse.runs.folder import PathLike, load_run


def evaluate_run(
    run: PathLike, data: str | None = None, split: str = "test", without: Iterable[str] = ()
) -> dict[str, float]:
    """Evaluate a finished run.

    Args:
        run: the run folder.
        data: name or path of a data set; default the one it was trained on.
        split: ``"train"``, ``"val"`` or ``"test"``.
        without: modalities to take away from every sample.

    Returns:
        Metric name -> value, and ``converged``, ``mean_steps``, … where the fusion solves for an equilibrium.

    Raises:
        DataError: no finished run there, or data that cannot be used or do not fit the model.
        UnknownNameError: an unknown data set, split or modality.
        InputError: no modality left, or widths that do not fit.
    """
    opened = load_run(run)
    config = opened.config
    if data is None:
        dataset = opened.dataset()
    else:
        dataset = load(data, val_fraction=config.val_fraction, seed=config.seed, source=config.source)
    evaluation = evaluate_model(opened.model, opened.task, dataset, split, tuple(without))
    return {**evaluation.metrics, **(evaluation.convergence() or {})}
