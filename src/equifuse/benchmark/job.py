"""One piece of work of a benchmark: train one model with one seed and measure it. Runs in any process, anywhere."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import torch

from equifuse.benchmark.config import ONLY, WITHOUT
from equifuse.data import MultimodalDataset
from equifuse.data.loaders import batches_of
from equifuse.errors import ConvergenceWarning
from equifuse.evaluation.conditions import Condition, Intact, Missing, Seed, only_each, without_each
from equifuse.evaluation.costs import flops_per_sample
from equifuse.evaluation.evaluate import evaluate_quietly
from equifuse.model import FusionModel
from equifuse.options import default_of
from equifuse.records import OPTIONAL, Record
from equifuse.runs.config import TrainConfig
from equifuse.runs.metrics import Convergence
from equifuse.runs.prepare import prepare
from equifuse.tasks import Measurement, Task
from equifuse.training.protocol import CLEAN
from equifuse.training.trainer import Trainer

INTACT = Intact().name
# Options that results of earlier versions do not have; at their defaults they decide nothing.
_LATER = ("averaging", "ema_decay", "soup_epochs", "mixup", "feature_noise", "sam", "skip")
# Marks the seed of what is hidden, so that it is none of those of training.
_HIDING = 7_919


@dataclass(frozen=True)
class Job:
    """What to train and what to measure.

    Args:
        data: name of the data set in tables.
        method: the method's label.
        config: of the training.
        fingerprint: of the data set with the first seed.
        trial: number of the tuning trial, or None for a run that is measured on test.
        missing: test conditions, see :class:`~equifuse.benchmark.BenchmarkConfig`.
    """

    data: str
    method: str
    config: TrainConfig
    fingerprint: str
    trial: int | None = None
    missing: tuple[float | str, ...] = ()

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits of all that decides the result: equal jobs, equal keys."""
        defaults = {name: default_of(TrainConfig, name) for name in _LATER}
        options = {
            name: value
            for name, value in self.config.to_dict().items()
            if name != "data" and not (name in defaults and value == defaults[name])
        }
        decisive = {
            "config": options,
            "data": self.fingerprint,
            "linear": False,  # the key of results from when a linear model was no fusion
            "trial": self.trial,
            "missing": list(self.missing),
        }
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """For progress."""
        what = f"seed {self.config.seed}" if self.trial is None else f"trial {self.trial}"
        loose = "" if self.config.protocol == CLEAN else f", {self.config.protocol}"
        return f"{self.method} on {self.data}, {what}{loose}"


@dataclass(eq=False, kw_only=True)
class JobInfo(Record):
    """What is kept of a training beside its scores.

    Attributes:
        parameters: of the whole model.
        flops: of one sample's forward pass; None for a trial.
        train_seconds: of all epochs.
        epochs: that were trained; of a method that is fitted at once, settings that were tried.
        best_epoch: whose weights were measured, counted from 1.
        convergence: on test, None for a closed-form fusion or a trial.
        convergence_at_start: the same before training.
        undefined: condition -> metric -> why it has no value; None where all have one.
        seconds: of everything, reading the data included.
        machine: name of the computer.
        torch: version.
        python: version.
    """

    parameters: int | None = None
    flops: int | None = field(default=None, metadata=OPTIONAL)
    train_seconds: float | None = None
    epochs: int | None = field(default=None, metadata=OPTIONAL)
    best_epoch: int | None = field(default=None, metadata=OPTIONAL)
    convergence: Convergence | None = None
    convergence_at_start: Convergence | None = None
    undefined: dict[str, dict[str, str]] | None = field(default=None, metadata=OPTIONAL)
    seconds: float = 0.0
    machine: str = ""
    torch: str = ""
    python: str = ""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From what the store holds."""
        return super().from_dict(
            {
                **values,
                "convergence": Convergence.of(values.get("convergence")),
                "convergence_at_start": Convergence.of(values.get("convergence_at_start")),
            }
        )


@dataclass
class JobResult:
    """What came of a job.

    Attributes:
        monitor: the best value of what tuning minimises, on validation.
        scores: condition -> metric name -> value on test; {} for a trial.
        info: parameters, FLOPs, seconds, epochs, convergence, versions, machine.
    """

    monitor: float
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    info: JobInfo = field(default_factory=JobInfo)

    def put(self, condition: Condition, found: Measurement) -> None:
        """Enter the metrics under a condition; why some have no value goes to the info."""
        self.scores[condition.name] = {name: value for name, value in found.values.items() if value is not None}
        if found.undefined:
            self.info.undefined = {**(self.info.undefined or {}), condition.name: found.undefined}


def measure(job: Job) -> JobResult:
    """Train and measure; the same job gives the same scores on the same machine.

    Raises:
        EquifuseError: the data, an option or the training would not do.
    """
    with _quiet():
        began = time.perf_counter()
        record = _measure(job)
        info = record.info
        info.seconds, info.machine = time.perf_counter() - began, platform.node()
        info.torch, info.python = str(torch.__version__), platform.python_version()
    return record


def _measure(job: Job) -> JobResult:
    config = job.config
    prepared = prepare(config)
    dataset, model, task = prepared.dataset, prepared.model, prepared.task
    info = JobInfo(parameters=sum(p.numel() for p in model.parameters()))
    if job.trial is None:
        info.convergence_at_start = Convergence.of(evaluate_quietly(model, task, dataset).convergence())
        info.flops = _flops(model, dataset)
    # Convergence is measured on test at the end: looking every epoch would count as time of training.
    trained = Trainer(prepared.config, watch=False).fit(model, dataset, task=task, balancer=prepared.balancer)
    assert trained.best_value is not None
    assert trained.best_epoch is not None
    info.train_seconds = trained.seconds
    info.epochs, info.best_epoch = len(trained.history), trained.best_epoch
    # Tuning minimises, whatever metric was watched.
    falling = job.trial is None or task.mode == "min"
    record = JobResult(trained.best_value if falling else -trained.best_value, info=info)
    if job.trial is not None:
        return record
    for condition, seed in conditions(dataset.modalities, task, job.missing, config.seed).items():
        evaluation = evaluate_quietly(model, task, dataset, condition=condition, seed=seed)
        record.put(condition, Measurement(evaluation.metrics, evaluation.undefined))
        if isinstance(condition, Intact):
            info.convergence = Convergence.of(evaluation.convergence())
    return record


def conditions(
    modalities: Sequence[str], task: Task, missing: tuple[float | str, ...], seed: int
) -> dict[Condition, Seed]:
    """The conditions on the test part, the intact one first, with the seed of what each draws.

    In retrieval nothing is hidden at a rate: with fewer candidates, what is left would only be easier to find.

    Args:
        modalities: of the data set.
        task: retrieval needs two modalities at least.
        missing: rates, ``"without"``, ``"only"``.
        seed: of what is hidden; the same for every method.
    """
    least = task.least_modalities
    found: list[Condition] = [Intact()]
    for entry in missing:
        if entry == WITHOUT:
            found += without_each(modalities, least)
        elif entry == ONLY:
            found += only_each(modalities, least)
        elif not isinstance(entry, str) and task.hidden_at_rates:
            found.append(Missing(entry))
    return dict.fromkeys(found, (seed, _HIDING))


def _flops(model: FusionModel, dataset: MultimodalDataset) -> int:
    batch = next(iter(batches_of(dataset.splits["test"], size=1)))
    return flops_per_sample(model, batch.inputs, batch.present, lengths=batch.lengths)


@contextmanager
def _quiet() -> Iterator[None]:
    """The store has a column for what would be warned of."""
    logger = logging.getLogger("equifuse")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            # scikit-learn, where a linear model's solver stops at its limit of steps.
            warnings.filterwarnings("ignore", module=r"sklearn(\.|$)")
            yield
    finally:
        logger.setLevel(level)
