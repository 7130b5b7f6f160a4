"""The run folder: what is in it, and reading it back."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equifuse.data import MultimodalDataset
from equifuse.data.assemble import ROW
from equifuse.data.external import Wanted
from equifuse.data.loaders import Batches, batches_of
from equifuse.data.options import SourceOptions
from equifuse.errors import DataError, InputError
from equifuse.files import parse_errors, read_yaml
from equifuse.model import FusionModel
from equifuse.model import load as load_model
from equifuse.runs.cohort import cohort_of
from equifuse.runs.config import TrainConfig
from equifuse.runs.folds import fold_of, load_whole
from equifuse.runs.kinds import kind_of
from equifuse.runs.settings import RECORD, read_config
from equifuse.tasks import Columns, Task, make_task
from equifuse.training.protocol import arrange

CONFIG, METRICS, HISTORY, MODEL, PLOTS = "config.yaml", "metrics.json", "history.json", "model", "plots"
# Which row was in which part.
SPLIT = "split.csv"
# Of a student: what it is taught by.
TAUGHT = "taught.json"
# Of an ensemble: what each row of train and validation was predicted by members that were not trained on it.
UNSEEN = "unseen.npz"
PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Run:
    """A finished run that was read back: its configuration, model and task.

    >>> folder = train(TrainConfig("digits", fusion="concat", epochs=1), "run", progress=False).path
    >>> load_run(folder).task.name
    'classification'

    Attributes:
        path: the run folder.
        config: what was asked for.
        record: what ``config.yaml`` recorded beside it: data set, fusion, versions, command.
        model: the trained model, in evaluation mode.
        task: its task.
    """

    path: Path
    config: TrainConfig
    record: dict[str, Any]
    model: FusionModel
    task: Task

    @property
    def method(self) -> str:
        """What the model is, in words: its fusion, or the methods of an ensemble of different ones."""
        methods = list(self.record.get("auto", ()))
        if len(methods) > 1:
            return f"ensemble of {', '.join(methods[:-1])} and {methods[-1]}"
        return self.config.fusion + (f" with {self.config.backend}" if self.config.backend else "")

    def dataset(self) -> MultimodalDataset:
        """The data set the run was trained on.

        Raises:
            DataError: it is not there any more, or has changed since.
        """
        dataset = load_data(self.config, self.wanted())
        if dataset.fingerprint() != self.record["data"]["fingerprint"]:
            raise DataError(f"data set {self.config.data!r} has changed since {self.path} was trained on it")
        return dataset

    def validation(self) -> Batches | tuple[NDArray[np.float64], NDArray[Any]]:
        """What certainty is calibrated on: the validation part; of an ensemble outputs and targets of unseen rows.

        Raises:
            DataError: the data are not there any more, or a file is damaged.
        """
        if not (self.path / UNSEEN).is_file():
            return batches_of(self.dataset().splits["val"])
        with parse_errors(self.path / UNSEEN, "outputs"), np.load(self.path / UNSEEN, allow_pickle=False) as arrays:
            outputs, target = arrays["outputs"].astype(np.float64), arrays["target"]
        known = ~np.isnan(outputs.reshape(len(outputs), -1)).any(axis=1)
        return outputs[known], target[known]

    def wanted(self) -> Wanted:
        """What the model needs of other data."""
        model, source = self.model, SourceOptions.of(self.config.source)
        return Wanted(
            model.shapes,
            model.features,
            self.task.name,
            model.classes,
            source.target,
            source.id,
            model.schema,
            reading=source.reading(self.config.data),
            contents=model.contents,
        )


def read_run_config(run: Path) -> tuple[TrainConfig, dict[str, Any]]:
    """Configuration and record of a run folder.

    Raises:
        DataError: it is not one.
    """
    if not (run / CONFIG).is_file():
        raise DataError(f"no run at {run}: expected a folder with {CONFIG}")
    config = TrainConfig.from_dict(read_config(run / CONFIG))
    record = read_yaml(run / CONFIG).get(RECORD)
    if not isinstance(record, dict) or not isinstance(record.get("data"), dict) or "fingerprint" not in record["data"]:
        raise DataError(f"{run / CONFIG} has no {RECORD!r} section; it was not written by a training run")
    return config, record


def load_run(run: PathLike) -> Run:
    """Read a finished run, with its trained model.

    >>> folder = train(TrainConfig("digits", fusion="concat", epochs=1), "run", progress=False).path
    >>> load_run(folder).model.modalities
    ('pixels', 'fourier', 'zernike', 'profiles', 'morphology')

    Raises:
        DataError: it is none, or is damaged.
    """
    path = Path(run)
    config, record = read_run_config(path)
    if not (path / METRICS).is_file():
        raise DataError(f"the run at {path} is not finished; resume it first")
    model = load_model(path / MODEL)
    return Run(path, config, record, model, task_of(model, config, record.get("class_weights")))


def load_data(config: TrainConfig, wanted: Wanted | None = None) -> MultimodalDataset:
    """The data set of a configuration, arranged as its protocol or cross-validation asks.

    Args:
        config: the configuration.
        wanted: what its model needs, for a run that goes on from another one; default what that one's needs.
    """
    if config.init is not None:
        return cohort_of(config, wanted or load_run(config.init).wanted())
    dataset = load_whole(config)
    dataset = fold_of(dataset, config) if config.fold is not None else arrange(dataset, config.protocol)
    return dataset if config.member is None else kind_of(config).part(dataset, config)


def split_columns(dataset: MultimodalDataset) -> Columns:
    """Which row is in which part: ``id``, or ``row`` without ids, ``part``, and the columns that decided it."""
    splits = dataset.splits
    named = all(split.ids is not None for split in splits.values())
    found = {"id": np.concatenate([np.asarray(s.ids).astype(str) for s in splits.values()])} if named else {}
    numbered = all(ROW in split.columns for split in splits.values())
    if not named and not numbered:  # a source that has its parts apart counts the rows of each
        found = {ROW: np.concatenate([np.arange(len(split)) for split in splits.values()])}
    found |= {"part": np.repeat(list(splits), [len(split) for split in splits.values()])}
    shared = [n for n in splits["train"].columns if n not in found and all(n in s.columns for s in splits.values())]
    found |= {name: np.concatenate([split.columns[name] for split in splits.values()]) for name in shared}
    return {name: found[name] for name in ("id", ROW, "part", *shared) if name in found}


def task_of(model: FusionModel, config: TrainConfig, weights: list[float] | None = None) -> Task:
    """The task a model was built for, with the configuration's options and these class weights.

    Raises:
        InputError: it was built for none, or an option does not fit.
    """
    if model.task is None:
        raise InputError("the model has no task")
    offered = {
        "classes": model.classes,
        "modalities": model.modalities,
        "spreads": model.spreads,
        "target_weight": config.target_weight,
        "label_smoothing": config.label_smoothing,
        "class_weights": weights,
    }
    return make_task(model.task, metrics=config.metric, monitor=config.monitor, offered=offered, **config.task_options)
