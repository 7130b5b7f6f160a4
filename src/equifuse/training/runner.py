"""One training run from configuration to run folder; evaluation and prediction from a run folder."""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from equifuse import datasets
from equifuse.errors import ConvergenceWarning, DataError, InputError, OutputExistsError, UnknownNameError
from equifuse.fusion import DEQFusion
from equifuse.model import FusionModel, LinearHead, build_model
from equifuse.model import load as load_model
from equifuse.tasks import Task, make_task
from equifuse.training.config import TrainConfig
from equifuse.training.data import Batch, Batches, as_batch

_EVALUATION_ROWS = 1024


@dataclass
class RunResult:
    """What a run achieved.

    Attributes:
        path: the run folder.
        metrics: as in ``metrics.json``.
        model: the best model, in evaluation mode.
    """

    path: Path
    metrics: dict[str, Any]
    model: FusionModel


def train(
    config: TrainConfig, out: str | os.PathLike[str], *, resume: bool = False, progress: bool = True
) -> RunResult:
    """Train, choose the epoch with the best validation loss, evaluate, and write the run folder.

    The folder holds ``config.yaml``, ``metrics.json``, ``history.json``, ``model/``, ``plots/`` and, while training,
    ``checkpoints/``. The test part is used once, at the end.

    Args:
        config: the run.
        out: folder to create.
        resume: continue an interrupted run in ``out`` (the result equals that of an uninterrupted one); a finished run
            is read back; a new one is started if there is none.
        progress: show a progress bar.

    Raises:
        OutputExistsError: ``out`` exists and ``resume`` is False.
        InputError: ``resume`` with another configuration than the run was started with.
        EquifuseError: anything else the user can mend: data, options, a diverging loss.
    """
    import lightning.pytorch as pl  # noqa: PLC0415
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint  # noqa: PLC0415

    from equifuse.training.module import TrainingModule  # noqa: PLC0415
    from equifuse.training.progress import ProgressBar  # noqa: PLC0415

    out = Path(out)
    if out.exists() and not resume:
        raise OutputExistsError(f"{out} already exists; choose another --out, or continue it with --resume")
    dataset = datasets.load(config.data, val_fraction=config.val_fraction, seed=config.seed)
    task = make_task(dataset.task, **config.task_options)
    with _quiet():
        pl.seed_everything(config.seed, verbose=False)
    model = make_model(config, dataset)
    if resume and (out / "config.yaml").is_file():
        _check_same(config, out)
        if (out / "metrics.json").is_file():
            return RunResult(out, read_json(out / "metrics.json"), load_model(out / "model"))
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "config.yaml", _resolved(config, dataset))

    parts = {part: as_batch(split) for part, split in dataset.splits.items()}
    model.fit_preprocessing(parts["train"].inputs, parts["train"].present)
    if task.name == "regression" and isinstance(model.head, LinearHead) and parts["train"].target is not None:
        nn.init.zeros_(model.head.linear.weight)
        with torch.no_grad():  # start from the mean: the scale of the targets is the user's
            model.head.linear.bias.copy_(parts["train"].target.mean(0))
    module = TrainingModule(
        model, task, lr=config.lr, weight_decay=config.weight_decay, modality_dropout=config.modality_dropout
    )
    checkpoints = out / "checkpoints"
    keeper = ModelCheckpoint(
        checkpoints, filename="best", monitor="val_loss", save_last=True, enable_version_counter=False
    )
    stopper = EarlyStopping("val_loss", patience=config.patience, check_finite=False)
    last = checkpoints / "last.ckpt"
    started = time.perf_counter()
    with _quiet():
        trainer = pl.Trainer(
            accelerator=config.accelerator,
            devices=1,
            max_epochs=config.epochs,
            callbacks=[stopper, keeper, *([ProgressBar(config.fusion)] if progress else [])],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            gradient_clip_val=config.gradient_clip or None,
            default_root_dir=out,
        )
        trainer.fit(
            module,
            Batches(parts["train"], config.batch_size, seed=config.seed, epoch=lambda: module.current_epoch),
            Batches(parts["val"], _EVALUATION_ROWS),
            ckpt_path=str(last) if resume and last.is_file() else None,
            weights_only=True,
        )
    seconds = time.perf_counter() - started
    best = torch.load(checkpoints / "best.ckpt", map_location="cpu", weights_only=True)
    module.load_state_dict(best["state_dict"])
    model = model.cpu().eval()
    model.save(out / "model", overwrite=resume)
    write_text(out / "history.json", json.dumps(module.history, indent=1) + "\n")
    metrics: dict[str, Any] = {part: evaluate(model, task, parts[part]) for part in ("val", "test")}
    metrics |= {
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_seconds": round(seconds, 3),
        "epochs": len(module.history),
        "best_epoch": int(best["epoch"]),
        "convergence": convergence(model, parts["test"]),
    }
    _plots(out, module.history, model, parts["val"])
    write_text(out / "metrics.json", json.dumps(metrics, indent=1) + "\n")  # last: it marks the run as finished
    return RunResult(out, metrics, model)


def make_model(config: TrainConfig, dataset: datasets.MultimodalDataset) -> FusionModel:
    """The untrained model of a configuration, not yet fitted to the training part's scale."""
    return build_model(
        dataset.shapes,
        dataset.task,
        dataset.n_outputs if dataset.task != "retrieval" else config.embedding,
        fusion=config.fusion,
        fusion_options=config.fusion_options,
        encoder=config.encoder,
        encoder_options={"hidden": config.hidden, "dropout": config.dropout} if config.encoder == "mlp" else {},
        classes=dataset.classes if dataset.task != "retrieval" else None,
        head_dropout=config.head_dropout,
        clip=config.clip,
    )


def evaluate(model: FusionModel, task: Task, data: Batch, *, without: tuple[str, ...] = ()) -> dict[str, float]:
    """Metrics of a model on a split, optionally with modalities taken away.

    Raises:
        UnknownNameError: a modality that does not exist.
        InputError: no modality would be left.
    """
    for name in without:
        if name not in model.modalities:
            raise UnknownNameError("modality", name, model.modalities)
    if set(without) >= set(data.inputs):
        raise InputError("at least one modality must be left")
    part = data.without(without)
    return task.evaluate(model, part.inputs, part.present, part.target)


@torch.no_grad()
def convergence(model: FusionModel, data: Batch) -> dict[str, float] | None:
    """Share converged, mean and largest steps and residual over a split; None for a closed-form fusion."""
    model.eval()
    rows: list[dict[str, float]] = []
    sizes: list[int] = []
    for batch in Batches(data, _EVALUATION_ROWS):
        stats = model(batch.inputs, batch.present).fusion.stats
        if stats is None:
            return None
        rows.append(stats.summary())
        sizes.append(len(batch))
    means = {key: float(np.average([row[key] for row in rows], weights=sizes)) for key in ("converged", "mean_steps")}
    return means | {key: max(row[key] for row in rows) for key in ("max_steps", "max_residual")}


def evaluate_run(
    run: str | os.PathLike[str], *, data: str | None = None, split: str = "test", without: tuple[str, ...] = ()
) -> dict[str, float]:
    """Metrics of a finished run's model, on its own data or another set.

    Args:
        run: the run folder.
        data: name or path of a data set; default the run's own.
        split: "train", "val" or "test".
        without: modalities to take away.

    Raises:
        DataError: not a finished run, or unusable data.
        UnknownNameError: an unknown split or modality.
        InputError: the data do not fit the model.
    """
    config, model = open_run(run)
    dataset = datasets.load(data or config.data, val_fraction=config.val_fraction, seed=config.seed)
    if split not in dataset.splits:
        raise UnknownNameError("split", split, dataset.splits)
    if dataset.task != model.task:
        raise InputError(f"the data's task is {dataset.task!r}, the model was trained for {model.task!r}")
    for name in dataset.modalities:
        if name not in model.modalities:
            raise UnknownNameError("modality", name, model.modalities)
    task = make_task(dataset.task, **config.task_options)
    return evaluate(model, task, as_batch(dataset.splits[split]), without=without)


@torch.no_grad()
def predict_run(
    run: str | os.PathLike[str], source: str | os.PathLike[str], out: str | os.PathLike[str]
) -> dict[str, float] | None:
    """Predict the rows of a file with a finished run's model; see :func:`equifuse.datasets.read_inputs`.

    Args:
        run: the run folder.
        source: ``.csv``, ``.parquet`` or ``.npz``.
        out: file to write, of one of these kinds: ``id`` (or ``row``), predictions with probabilities, and for an
            equilibrium fusion ``converged``, ``residual`` and ``steps``.

    Returns:
        The convergence summary, or None for a closed-form fusion.

    Raises:
        OutputExistsError: ``out`` exists.
        DataError: not a finished run, unusable input, or an unknown kind of output.
    """
    from equifuse.training.output import check_output, write_columns  # noqa: PLC0415

    check_output(out)
    config, model = open_run(run)
    inputs, present, ids = datasets.read_inputs(source, model.shapes)
    data = Batch(
        {m: torch.from_numpy(x) for m, x in inputs.items()}, {m: torch.from_numpy(x) for m, x in present.items()}, None
    )
    task = make_task(str(model.task), **config.task_options)
    predictions, columns = [], {"converged": [], "residual": [], "steps": []}  # type: ignore[var-annotated]
    for batch in Batches(data, _EVALUATION_ROWS):
        output = model(batch.inputs, batch.present)
        predictions.append(output.prediction)
        if output.fusion.stats is not None:
            for key, values in columns.items():
                values.append(getattr(output.fusion.stats, key).numpy())
    table: dict[str, Any] = {"id": ids} if ids is not None else {"row": np.arange(len(data))}
    table |= task.columns(torch.cat(predictions), model.classes)
    table |= {key: np.concatenate(values) for key, values in columns.items() if values}
    write_columns(out, table)
    return convergence(model, data)


def open_run(run: str | os.PathLike[str]) -> tuple[TrainConfig, FusionModel]:
    """Configuration and model of a finished run.

    Raises:
        DataError: not a run folder, or not finished.
    """
    run = Path(run)
    if not (run / "config.yaml").is_file():
        raise DataError(f"no run at {run}: expected a folder made by 'equifuse train'")
    if not (run / "metrics.json").is_file():
        raise DataError(f"the run at {run} is not finished; continue it with --resume")
    return _read_config(run), load_model(run / "model")


def _read_config(run: Path) -> TrainConfig:
    try:
        described = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        return TrainConfig.from_dict(described["run"])
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise DataError(f"{run / 'config.yaml'} is damaged: {error!r}") from None


def _check_same(config: TrainConfig, out: Path) -> None:
    stored, given = _read_config(out).to_dict(), config.to_dict()
    changed = [key for key in given if given[key] != stored[key]]
    if changed:
        key = changed[0]
        raise InputError(
            f"{out} was started with {key}={stored[key]!r}, now it is {given[key]!r}; resume with the same settings"
        )


def _resolved(config: TrainConfig, dataset: datasets.MultimodalDataset) -> str:
    from importlib.metadata import version  # noqa: PLC0415

    described = {
        "run": config.to_dict(),
        "data": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint(),
            "task": dataset.task,
            "modalities": dataset.dims,
            "rows": {part: len(split) for part, split in dataset.splits.items()},
        },
        "versions": {name: version(name) for name in ("equifuse", "torch", "lightning", "numpy")},
    }
    return str(yaml.safe_dump(described, sort_keys=False))


def _plots(out: Path, history: list[dict[str, float]], model: FusionModel, data: Batch) -> None:
    from equifuse.report import plots  # noqa: PLC0415

    plots.learning_curves(history, out / "plots" / "learning_curves.png")
    trace = residual_trace(model, data)
    if trace is not None:
        equilibrium = next((m for m in model.fusion.modules() if isinstance(m, DEQFusion)), None)
        tol = None if equilibrium is None else equilibrium.solver.tol
        plots.convergence({"after training": trace}, out / "plots" / "convergence.png", tol=tol)


@torch.no_grad()
def residual_trace(model: FusionModel, data: Batch, rows: int = 256) -> dict[str, np.ndarray[Any, Any]] | None:
    """Residual per step of the first ``rows`` rows, by part of the solve ``(K, rows)``; None for a closed-form fusion."""
    model.eval()
    batch = data.take(slice(0, rows))
    stats = model(batch.inputs, batch.present).fusion.stats
    if stats is None:
        return None
    parts = stats.parts or {"state": stats}
    return {name: part.trace.numpy() for name, part in parts.items()}


def write_text(path: Path, text: str) -> None:
    """Write a file atomically, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}-", delete=False, encoding="utf-8"
    ) as f:
        try:
            f.write(text)
            f.close()
            Path(f.name).chmod(0o644)
            Path(f.name).replace(path)
        finally:
            Path(f.name).unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from disk.

    Raises:
        DataError: not one.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from None
    if not isinstance(value, Mapping):
        raise DataError(f"{path} is damaged: not an object")
    return dict(value)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's banners and advice; convergence is reported in the metrics, not once per batch."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", module="torch.utils.data")
            warnings.simplefilter("ignore", ConvergenceWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def spread(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) over seeds; the deviation of one value is NaN."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
