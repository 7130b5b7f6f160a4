"""Train a model into a run folder."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from equifuse._display import short_text
from equifuse.data import MultimodalDataset
from equifuse.data.columns import said_of_columns
from equifuse.data.lazy import share_of_gaps
from equifuse.encoders.preparation import steps_of
from equifuse.errors import DataError, InputError
from equifuse.evaluation.evaluate import evaluate_model, evaluate_quietly, headline_alone, score_without_each
from equifuse.evaluation.verdict import class_scores, concerns, surely_better
from equifuse.files import locked, read_json, refuse_existing, write_json, write_yaml
from equifuse.options import settled
from equifuse.runs.config import TrainConfig, check_installed
from equifuse.runs.folder import (
    CONFIG,
    HISTORY,
    METRICS,
    MODEL,
    PLOTS,
    SPLIT,
    TAUGHT,
    PathLike,
    load_data,
    read_run_config,
    split_columns,
)
from equifuse.runs.metrics import Alert, Convergence, RunMetrics
from equifuse.runs.output import write_columns
from equifuse.runs.prepare import Prepared, initial_model, prepare
from equifuse.runs.progress import OnEpochEnd, epoch_bar
from equifuse.runs.settings import RECORD
from equifuse.runs.simpler import simpler
from equifuse.tasks import Evaluation
from equifuse.tasks.base import output_names
from equifuse.tasks.metrics import LOSS
from equifuse.training.distributed import process_group_info
from equifuse.training.optimization import OptimizerFactory
from equifuse.training.protocol import CLEAN, LOOSE, PROTOCOLS
from equifuse.training.trainer import Trainer, TrainingResult

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers import Logger


@dataclass(frozen=True)
class RunResult:
    """The result of :func:`train`: the run folder, its metrics, and one row of numbers per epoch.

    >>> result = train(TrainConfig("digits", fusion="concat", epochs=1), "run", progress=False)
    >>> len(result.history)
    1

    Attributes:
        path: the run folder.
        metrics: content of its ``metrics.json``; None in a process that only takes part in a training of several.
        history: one row of numbers per epoch.
    """

    path: Path
    metrics: RunMetrics | None
    history: list[dict[str, float | None]]

    def __repr__(self) -> str:
        shown = {} if self.metrics is None else self.metrics.test
        rows = [[name, "–" if value is None else f"{value:.4f}"] for name, value in shown.items()]
        return short_text(f"RunResult {str(self.path)!r}: {len(self.history)} epochs", rows)


def train(
    config: TrainConfig,
    out: PathLike,
    *,
    resume: bool = False,
    progress: bool | OnEpochEnd = True,
    callbacks: Sequence[Callback] = (),
    logger: str | Logger | Sequence[str | Logger] = (),
    optimizer: OptimizerFactory | None = None,
    on_data: Callable[[MultimodalDataset], None] | None = None,
    on_prepared: Callable[[Prepared], None] | None = None,
    workers: int | None = 0,
    scheduler: str | None = None,
) -> RunResult:
    """Train a model into a run folder; the command ``equifuse train`` calls it.

    >>> result = train(TrainConfig("digits", fusion="concat", epochs=1), "run", progress=False)
    >>> sorted(path.name for path in result.path.iterdir())
    ['checkpoints', 'config.yaml', 'history.json', 'metrics.json', 'model', 'plots'...]

    The folder holds ``config.yaml`` (everything that decided the run), ``split.csv`` (which row was in which part),
    ``metrics.json``, ``history.json``, ``model/``, ``plots/`` and ``checkpoints/last.ckpt``. Preprocessing is fitted on
    the training part; early stopping watches the task's loss on the validation part; the test part is only looked at at
    the end, with the best weights. The same configuration on the same machine gives the same numbers, interrupted and
    resumed or not.

    Args:
        config: what to train.
        out: the run folder to create.
        resume: go on with an interrupted run of the same configuration; a finished one is returned as it is.
        progress: show a bar on standard error, or call this after each epoch with its row and the best loss so far.
        callbacks: Lightning callbacks; see :class:`equifuse.training.Trainer`, also for the others.
        logger: loggers beside those of the configuration.
        optimizer: makes the optimiser in the place of the configuration's.
        on_data: called with the data before anything is made of them.
        on_prepared: called with what training begins with; not where an ensemble is trained.
        workers: processes that train the members of an ensemble; 0 works in this one, None has one per core.
        scheduler: address of a Dask scheduler that they are trained on.

    Returns:
        :class:`RunResult`.

    Raises:
        OutputExistsError: ``out`` exists and ``resume`` is False.
        OutputError: another process writes there, the disk is full, or the folder is not writable.
        DataError: the data cannot be used, there is nothing to resume, or the data changed since.
        UnknownNameError: an unknown name among the options.
        InputError: an option that does not fit, a resumed run of another configuration, a configuration of a
            cross-validation, or training diverged.
        KeyboardInterrupt: a signal asked to stop; see :class:`equifuse.interruption.Interrupted`.
    """
    out = Path(out)
    if config.init is not None:
        raise InputError("a run that goes on from another one is made by finetune_run")
    if config.cv is not None and config.fold is None:
        raise InputError("cross-validation is more than one run; use cross_validate")
    place = process_group_info(config)
    if not place.writes:
        return _take_part(config, out, callbacks, optimizer)
    if not resume:
        refuse_existing(out)
    elif not (out / CONFIG).is_file():
        raise DataError(f"nothing to resume at {out}: it has no {CONFIG}")
    config = with_full_paths(config)
    if resume:
        _check_same(config, read_run_config(out)[0], out)
        if (out / METRICS).is_file():
            return RunResult(out, RunMetrics.read(out / METRICS), read_json(out / HISTORY))
        if on_prepared is None and (out / TAUGHT).is_file():
            raise InputError(f"{out} is taught by another run; go on with 'equifuse distill', --out {out} and --resume")
    check_machine(config)
    with locked(out, resume=resume):
        if config.ensemble is not None and config.member is None:
            from equifuse.runs.ensembles import train_ensemble  # noqa: PLC0415 - it makes runs, as this file does

            if callbacks or logger or optimizer:
                raise InputError("callbacks, loggers and optimisers of one's own are for single models, not ensembles")
            return train_ensemble(
                config,
                out,
                resume=resume,
                progress=bool(progress),
                on_data=on_data,
                workers=workers,
                scheduler=scheduler,
            )
        return _train(config, out, resume, progress, callbacks, logger, optimizer, on_data, on_prepared)


def _train(
    config: TrainConfig,
    out: Path,
    resume: bool,
    progress: bool | OnEpochEnd,
    callbacks: Sequence[Callback],
    logger: str | Logger | Sequence[str | Logger],
    optimizer: OptimizerFactory | None,
    on_data: Callable[[MultimodalDataset], None] | None,
    on_prepared: Callable[[Prepared], None] | None,
) -> RunResult:
    """Train into a folder that is this process's own."""
    from equifuse.report.figures import run_figures  # noqa: PLC0415 - the last step alone reports
    from equifuse.report.plots import save  # noqa: PLC0415

    dataset = load_data(config)
    if on_data is not None:
        on_data(dataset)
    if resume:
        check_unchanged(config, dataset, out)
    prepared = prepare(config, dataset)
    if on_prepared is not None:
        on_prepared(prepared)
    model, task = prepared.model, prepared.task
    trainer = Trainer(prepared.config, callbacks=callbacks, logger=logger, optimizer=optimizer, out=out)
    trainer.check(model)
    if not resume:
        write_yaml(out / CONFIG, {**config.to_dict(), RECORD: record_of(config, prepared)})
    if not (out / SPLIT).is_file():  # a process may have been killed between the two
        write_columns(out / SPLIT, split_columns(dataset))
    result = _fit(trainer, prepared, config.fusion, progress)
    assert result.best_epoch is not None
    history = result.history

    parts = ("val", "test") if config.protocol == CLEAN else ("test",)
    evaluations = {part: evaluate_model(model, task, dataset, part) for part in parts}
    without = score_without_each(model, task, dataset)
    untrained = initial_model(config, dataset)
    undefined = {part: evaluation.undefined for part, evaluation in evaluations.items()}
    undefined |= {f"test without {m}": {task.headline: why} for m, why in without.undefined.items()}
    beside = simpler(prepared, evaluations.get("val"), len(history))
    metrics = RunMetrics(
        val=dict(evaluations["val"].metrics) if "val" in evaluations else None,
        test=dict(evaluations["test"].metrics),
        without=without.values,
        train_seconds=result.seconds,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        convergence=Convergence.of(evaluations["test"].convergence()),
        convergence_at_start=Convergence.of(evaluate_quietly(untrained, task, dataset).convergence()),
        epochs=len(history),
        best_epoch=result.best_epoch,
        alerts=[Alert.from_dict(alert) for alert in result.alerts],
        protocol=f"{config.protocol}: {PROTOCOLS[config.protocol]}",
        undefined={part: why for part, why in undefined.items() if why} or None,
        notes=[*notes_on(prepared, evaluations["test"]), *beside] or None,
        alone=headline_alone(task, evaluations["test"], dataset.splits["test"].labelled()) or None,
        mix=result.mix,
        soup=result.soup,
    )
    model.save(out / MODEL, overwrite=resume)
    write_json(out / HISTORY, history)
    histories = {config.fusion: history}
    for name, figure in run_figures(histories, metrics, task.headline, model, dataset, untrained).items():
        save(figure, out / PLOTS / name)
    # Last: a folder with metrics is a finished run.
    write_json(out / METRICS, metrics.to_dict())
    return RunResult(out, metrics, history)


def check_unchanged(config: TrainConfig, dataset: MultimodalDataset, out: Path) -> None:
    """Refuse to go on with other data than a run began with.

    Raises:
        DataError: they changed.
    """
    if dataset.fingerprint() != read_run_config(out)[1]["data"]["fingerprint"]:
        raise DataError(
            f"data set {config.data!r} has changed since {out} was started; train into another folder, or put it back"
        )


def _take_part(
    config: TrainConfig, out: Path, callbacks: Sequence[Callback], optimizer: OptimizerFactory | None
) -> RunResult:
    """Train along with the process that writes the run folder."""
    config = replace(with_full_paths(config), logger=(), logger_options={})
    check_machine(config)
    prepared = prepare(config)
    trainer = Trainer(prepared.config, callbacks=callbacks, optimizer=optimizer, out=out)
    return RunResult(out, None, _fit(trainer, prepared, config.fusion, False).history)


def check_machine(config: TrainConfig) -> None:
    """Refuse to train on what this machine does not have.

    Raises:
        InputError: a GPU was asked for, and there is none; or a package that the fusion is trained by.
    """
    check_installed(config.fusion)
    if config.strategy == "fsdp" and not torch.cuda.is_available():
        raise InputError("strategy 'fsdp' needs GPUs; use 'ddp'")
    if config.accelerator == "gpu" and not torch.cuda.is_available():
        raise InputError("accelerator 'gpu' was asked for, but there is none; use 'cpu' or 'auto'")


def with_full_paths(config: TrainConfig) -> TrainConfig:
    """The same with paths that do not depend on the folder one is in."""
    data = str(Path(config.data).resolve()) if Path(config.data).exists() else config.data
    source = dict(config.source)
    if source.get("modalities"):
        source["modalities"] = {m: _full_path(pattern) for m, pattern in source["modalities"].items()}
    if source.get("annotations"):
        source["annotations"] = str(Path(source["annotations"]).resolve())
    return replace(config, data=data, source=source)


def _full_path(pattern: str) -> str:
    """A modality's pattern, where that begins with a file, with the file's full path."""
    name, separator, columns = pattern.partition("::")
    return f"{Path(name).resolve()}{separator}{columns}" if Path(name).is_file() else pattern


def _fit(trainer: Trainer, prepared: Prepared, name: str, progress: bool | OnEpochEnd) -> TrainingResult:
    """Train with or without a bar; leaves the best weights in the model."""
    dataset = prepared.dataset
    if progress is True:
        task = prepared.task
        monitor = task.headline if trainer.options.protocol == LOOSE else task.monitor
        bar: Any = epoch_bar(settled(trainer.options.epochs), monitor=monitor)
    else:
        bar = nullcontext(lambda _: progress or None)
    with bar as follow:
        trainer.on_epoch_end = follow(f"{name} on {dataset.name}")
        return trainer.fit(prepared.model, dataset, task=prepared.task, balancer=prepared.balancer)


def record_of(config: TrainConfig, prepared: Prepared) -> dict[str, Any]:
    """What a run's ``config.yaml`` says beside the configuration."""
    dataset = prepared.dataset
    return {
        "data": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint(),
            "task": dataset.task,
            "shapes": {m: list(shape) for m, shape in dataset.shapes.items()},
            "rows": {part: len(split) for part, split in dataset.splits.items()},
            "drawn": list(dataset.drawn),
            **({"sources": [source.to_dict() for source in dataset.sources]} if dataset.sources else {}),
            **({"columns": {m: said_of_columns(c) for m, c in dataset.schema.items()}} if dataset.schema else {}),
            "gaps": {m: _gaps(dataset, m) for m in dataset.modalities},
        },
        "preparation": {m: _steps(encoder) for m, encoder in prepared.model.encoders.items()},
        "fusion": prepared.model.fusion.config(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("equifuse", "torch", "lightning", "numpy", "scikit-learn")},
        },
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "resolved": {k: v for k, v in prepared.config.to_dict().items() if v != config.to_dict()[k]},
        "class_weights": prepared.class_weights,
        "baseline": _baseline(prepared),
    }


def _steps(encoder: nn.Module) -> list[str]:
    """The steps of a modality's preparation, with the number of columns that they leave."""
    return [step.summary for step in steps_of(encoder)]


def _gaps(dataset: MultimodalDataset, m: str) -> float:
    """Share of empty cells in the training rows that have a modality."""
    train = dataset.splits["train"]
    return round(share_of_gaps(train.inputs[m], train.present.get(m)), 6)


def notes_on(prepared: Prepared, evaluation: Evaluation) -> list[str]:
    """What looks wrong on test."""
    task, known = prepared.task, _baseline(prepared)
    given = prepared.dataset.splits["test"].target
    if given is None:
        return []
    target, prediction = torch.from_numpy(given), evaluation.prediction
    confusion = task.confusion(prediction, target)
    classes = [] if confusion is None else class_scores(confusion, output_names(task.classes, len(confusion)))
    if known is None:
        return concerns(task, evaluation.metrics, {}, classes)
    constant = torch.tensor(known, dtype=prediction.dtype).expand(len(prediction), -1)
    baseline = task.measure(constant, target, dict.fromkeys((task.headline, LOSS.name))).values
    said = concerns(task, evaluation.metrics, baseline, classes)
    if not said and task.scores_samples():
        scores, others = (task.sample_scores(outputs, target) for outputs in (prediction, constant))
        if not surely_better(-scores, -others):
            said.append(
                f"on {len(scores)} test samples not better by more than chance than what needs no features at all"
            )
    return said


def _baseline(prepared: Prepared) -> list[float] | None:
    """Raw outputs of a prediction from the training targets alone; None where outputs are not of the targets."""
    target = prepared.dataset.splits["train"].labelled().target
    if target is None or not prepared.task.values:
        return None
    outputs = prepared.model.n_outputs or prepared.dataset.n_outputs
    return [float(value) for value in prepared.task.base_output(target, outputs)]


def _check_same(asked: TrainConfig, stored: TrainConfig, out: Path) -> None:
    for name, value in asked.to_dict().items():
        before = stored.to_dict()[name]
        if value != before:
            raise InputError(f"the run at {out} has {name}={before!r}, not {value!r}; resume it with the same options")
