"""Go on training a run's model on a new cohort: encoders frozen first, then all of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from equifuse.data import MultimodalDataset
from equifuse.data.external import read_alike
from equifuse.data.options import SourceOptions
from equifuse.errors import InputError
from equifuse.evaluation.evaluate import evaluate_model, evaluate_quietly
from equifuse.files import locked, refuse_existing, write_json, write_yaml
from equifuse.fusion import FittedFusion
from equifuse.model import Ensemble
from equifuse.options import settled
from equifuse.records import Record
from equifuse.runs.cohort import cohort_of
from equifuse.runs.config import TrainConfig
from equifuse.runs.folder import (
    CONFIG,
    HISTORY,
    METRICS,
    MODEL,
    PLOTS,
    SPLIT,
    PathLike,
    Run,
    load_run,
    split_columns,
    task_of,
)
from equifuse.runs.metrics import Convergence, RunMetrics
from equifuse.runs.output import write_columns
from equifuse.runs.prepare import Prepared, balanced, resolved_for
from equifuse.runs.progress import epoch_bar
from equifuse.runs.settings import RECORD
from equifuse.runs.training import record_of, with_full_paths
from equifuse.tasks import Task
from equifuse.training.trainer import Trainer, balancer_for

# What the model is after: as it was, with its encoders frozen, or after all of it was trained.
BEFORE, FROZEN, ALL = "before", "frozen encoders", "all"
# The learning rate once the encoders train along, as a share of that before.
_CAREFUL = 0.1


@dataclass(frozen=True, eq=False)
class FineTuned(Record):
    """The result of :func:`finetune_run`.

    >>> FineTuned("run", "all", {"accuracy": 0.7}, {"accuracy": 0.8}, {"all": 12}).kept
    'all'

    Attributes:
        path: the new run folder.
        kept: the stage whose weights were best on the cohort's validation part: "before" (nothing helped), "frozen
            encoders" or "all".
        before: metrics of the run's model on the cohort's test part.
        after: metrics of the model that was kept.
        epochs: trained in each stage.
    """

    path: str
    kept: str
    before: dict[str, float | None]
    after: dict[str, float | None]
    epochs: dict[str, int]


def finetune_run(
    run: PathLike,
    data: str,
    out: PathLike,
    *,
    source: SourceOptions | Mapping[str, Any] | None = None,
    epochs: int = 30,
    lr: float | None = None,
    frozen_only: bool = False,
    seed: int | None = None,
    progress: bool = True,
) -> FineTuned:
    """Go on training a run's model on new data, and compare it with what it was.

    >>> run = train(TrainConfig("digits", fusion="concat", epochs=1), "run", progress=False).path
    >>> ef.datasets.write_npz("new.npz", ef.datasets.load("digits"))
    >>> found = finetune_run(run, "new.npz", "tuned", epochs=1, progress=False)
    >>> found.after["accuracy"] >= found.before["accuracy"], load_run("tuned").task.name
    (True, 'classification')

    The cohort is split like any table, into training, validation and test. First the encoders are frozen and the rest
    is trained, then all of it with a tenth of the learning rate; each stage stops early on the cohort's validation
    part, and the weights that are best there are kept: those from before, if nothing helps. How features are prepared
    stays as it was in the first training. The folder is a run like others.

    Args:
        run: the run folder.
        data: name or path of the new data, with targets.
        out: the run folder to create.
        source: which of their columns and files are what; also ``group``, ``stratify``, ``order`` and ``split``.
        epochs: most epochs of each stage.
        lr: learning rate of the first stage; default the run's.
        frozen_only: whether the encoders stay as they are.
        seed: of the split and of training; default the run's.
        progress: show a bar on standard error.

    Raises:
        OutputExistsError: ``out`` exists.
        OutputError: another process writes there, the disk is full, or the folder is not writable.
        DataError: no finished run there, or data that do not fit the model.
        InputError: an option does not fit, or training diverged.
        UnknownNameError: an unknown modality or class.
    """
    out = Path(out)
    refuse_existing(out)
    opened = load_run(run)
    if isinstance(opened.model, Ensemble) or isinstance(opened.model.fusion, FittedFusion):
        kind = "an ensemble" if isinstance(opened.model, Ensemble) else f"a {opened.model.fusion.name!r} model"
        raise InputError(f"{run} is {kind}, which cannot go on training; train a single fusion, or anew on the cohort")
    config = _config(opened.config, run, data, SourceOptions.of(source), epochs, lr, seed)
    with locked(out):
        return _finetune(opened, config, out, frozen_only, progress)


def _finetune(opened: Run, config: TrainConfig, out: Path, frozen_only: bool, progress: bool) -> FineTuned:
    """Go on training into a folder that is this process's own."""
    dataset = cohort_of(config, opened.wanted())
    weights = _weights(config, dataset)
    task = task_of(opened.model, config, weights)
    model = opened.model
    resolved = resolved_for(config, dataset)
    prepared = Prepared(dataset, model, task, balancer_for(model, task, resolved), weights, resolved)
    asked, config = config, resolved
    stages = {FROZEN: replace(config, freeze_encoders=True, encoder_lr=None)}
    if not frozen_only:
        stages[ALL] = replace(config, lr=config.lr * _CAREFUL)
    if not any(True for _ in model.encoders.parameters()):
        stages = {ALL: config}  # there is nothing to freeze
    before = evaluate_quietly(model, task, dataset, "test")
    at_start = before.convergence()
    best, kept = _monitored(evaluate_quietly(model, task, dataset, "val").metrics, task), BEFORE
    state = copy.deepcopy(model.state_dict())
    write_yaml(out / CONFIG, {**asked.to_dict(), RECORD: record_of(asked, prepared)})
    write_columns(out / SPLIT, split_columns(dataset))
    history: list[dict[str, float | None]] = []
    counts: dict[str, int] = {}
    best_epoch, seconds = 0, 0.0
    with epoch_bar(settled(config.epochs), len(stages)) if progress else nullcontext(lambda _: None) as follow:
        for stage, options in stages.items():
            trainer = Trainer(options, watch=False, on_epoch_end=follow(stage))
            result = trainer.fit(model, dataset, task=task)
            counts[stage] = len(result.history)
            seconds += result.seconds
            # Measured as before the first stage: not with modalities hidden, and with the fitted mix.
            value = _monitored(evaluate_quietly(model, task, dataset, "val").metrics, task)
            if value < best:
                best, kept, state = value, stage, copy.deepcopy(model.state_dict())
                best_epoch = len(history) + (result.best_epoch or 0)
            history += [{**row, "epoch": float(len(history) + k)} for k, row in enumerate(result.history)]
            model.load_state_dict(state)
    evaluations = {part: evaluate_model(model, task, dataset, part) for part in ("val", "test")}
    undefined = {part: found.undefined for part, found in evaluations.items() if found.undefined}
    metrics = RunMetrics(
        val=dict(evaluations["val"].metrics),
        test=dict(evaluations["test"].metrics),
        train_seconds=seconds,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        convergence=Convergence.of(evaluations["test"].convergence()),
        convergence_at_start=Convergence.of(at_start),
        epochs=len(history),
        best_epoch=best_epoch,
        protocol="clean: selected on the validation part of the new data, measured on their test part once",
        undefined=undefined or None,
    )
    found = FineTuned(str(out), kept, dict(before.metrics), dict(metrics.test), counts)
    model.save(out / MODEL)
    write_json(out / HISTORY, history)
    _draw(out, history)
    write_json(out / "finetuned.json", found.to_dict())
    write_json(out / METRICS, metrics.to_dict())
    return found


def _config(
    config: TrainConfig,
    run: PathLike,
    data: str,
    source: SourceOptions,
    epochs: int,
    lr: float | None,
    seed: int | None,
) -> TrainConfig:
    """The run's configuration with the new data."""
    if epochs < 1:
        raise InputError(f"epochs must be at least 1, got {epochs}")
    trained = SourceOptions.of(config.source)
    # The new run says by itself how its files are read; where a name of training is none here, the usual ones count.
    alike = read_alike(Path(data), trained.reading(config.data), source).given()
    asked = replace(
        config,
        data=data,
        source={**({"id": trained.id} if trained.id else {}), **alike},
        init=str(Path(run).resolve()),
        epochs=epochs,
        lr=config.lr if lr is None else lr,
        seed=config.seed if seed is None else seed,
        cv=None,
        fold=None,
        repeats=1,
        balance=None,
        balance_options={},
        freeze_encoders=False,
        warmup=0.0,
        protocol="clean",
        logger=(),
        logger_options={},
    )
    return with_full_paths(asked)


def _weights(config: TrainConfig, dataset: MultimodalDataset) -> list[float] | None:
    """Class weights as in training; balanced ones are of the new data, where these have every class."""
    if config.class_weights is None or isinstance(config.class_weights, list):
        return config.class_weights
    target = dataset.splits["train"].target
    assert target is not None
    counts = np.bincount(target.astype(np.int64), minlength=dataset.n_outputs)
    return balanced(target, dataset.n_outputs) if counts.all() else None


def _sign(task: Task) -> float:
    return 1.0 if task.mode == "min" else -1.0


def _monitored(metrics: Mapping[str, float | None], task: Task) -> float:
    """What early stopping watches, so that less is better; infinite where it has no value."""
    value = metrics.get(task.monitor)
    return np.inf if value is None else _sign(task) * value


def _draw(out: Path, history: list[dict[str, float | None]]) -> None:
    from equifuse.report import plots  # noqa: PLC0415 - the last step alone reports

    plots.save(plots.learning_curves(history), out / PLOTS / "learning_curves.png")
