"""One model that says what a run's model says: an ensemble, trees or anything else, in less space and time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from equifuse.data import MultimodalDataset
from equifuse.data.batch import Batch
from equifuse.data.loaders import batches_of
from equifuse.errors import DataError, InputError
from equifuse.evaluation.evaluate import evaluate_quietly
from equifuse.evaluation.intervals import bootstrap_difference, bootstrap_intervals
from equifuse.files import read_json, refuse_existing, write_json
from equifuse.model import FusionModel
from equifuse.options import default_of
from equifuse.records import Record
from equifuse.runs.config import TrainConfig, fits_at_once
from equifuse.runs.folder import TAUGHT, PathLike, Run, load_run
from equifuse.runs.kinds import kind_of
from equifuse.runs.prepare import Prepared
from equifuse.runs.progress import OnEpochEnd
from equifuse.runs.training import train
from equifuse.tasks import Task
from equifuse.tasks.teaching import SoftTargets
from equifuse.training.protocol import CLEAN

# What belongs to a fusion, and to no other.
_OF_FUSION = ("dim", "backend", "fusion_options", "skip")
# What a student does not take over from the run that teaches it.
_NOT_TAKEN = ("init", "balance", "balance_options", "mixup")
RESULT = "distilled.json"


@dataclass(frozen=True, eq=False)
class Compared(Record):
    """A teacher and its student on one part of the data.

    >>> from equifuse.runs.distill import Compared
    >>> Compared("test", 0.97, 0.96).student
    0.96

    Attributes:
        part: of the data.
        teacher: its headline metric.
        student: likewise.
        teacher_interval: 95 % interval of the metric, by the bootstrap; None where there is none.
        student_interval: likewise.
        difference: 95 % interval of how much better the student is, on the same samples.
    """

    part: str
    teacher: float | None
    student: float | None
    teacher_interval: tuple[float, float] | None = None
    student_interval: tuple[float, float] | None = None
    difference: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Distilled(Record):
    """The result of :func:`distill_run`.

    >>> found = Distilled("student", "bag", "accuracy", [], {"teacher": 900, "student": 100}, {}, None)
    >>> found.parameters["student"]
    100

    Attributes:
        path: the student's run folder.
        teacher: that of the run.
        metric: that is compared.
        parts: both on validation and test.
        parameters: of ``"teacher"`` and ``"student"``.
        milliseconds: per test sample, likewise.
        note: what is to be known of the numbers; None for nothing.
    """

    path: str
    teacher: str
    metric: str
    parts: list[Compared]
    parameters: dict[str, int]
    milliseconds: dict[str, float]
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**super().to_dict(), "parts": [part.to_dict() for part in self.parts]}


def distill_run(
    run: PathLike,
    out: PathLike,
    *,
    temperature: float = 2.0,
    share: float = 0.5,
    resume: bool = False,
    progress: bool | OnEpochEnd = True,
    **options: Any,
) -> Distilled:
    """Train a student on what a run's model says of the training samples, and compare both.

    >>> run = train(TrainConfig("digits", fusion="linear"), "run", progress=False).path
    >>> found = distill_run(run, "student", fusion="concat", epochs=1, progress=False)
    >>> [part.part for part in found.parts]
    ['val', 'test']

    The student is trained as the run was, but for the options given: on its data, with its split, by the mean of the
    task's loss and of one against the teacher's outputs (:meth:`equifuse.tasks.Task.soft_loss`; Hinton et al. 2015).
    The teacher sees all modalities of a sample, also those that training hides from the student. It is a run like any
    other.

    Args:
        run: the run folder of the teacher.
        out: the run folder to create.
        temperature: by which logits are divided before they are compared, > 0.
        share: of the teacher in the loss, in (0, 1].
        resume: go on with an interrupted training of the same teacher and options.
        progress: show a bar on standard error, or call this after each epoch.
        **options: of the student's training, see :class:`TrainConfig`, such as ``fusion``.

    Raises:
        OutputExistsError: ``out`` exists and ``resume`` is False.
        DataError: no finished run there, its data have changed, or there is nothing to resume.
        InputError: an option does not fit, the task has no outputs to learn from, or what is resumed was taught
            otherwise.
        UnknownNameError: an unknown option.
    """
    if not 0 < share <= 1:
        raise InputError(f"share must be in (0, 1], got {share}")
    if not temperature > 0:
        raise InputError(f"temperature must be positive, got {temperature}")
    out = Path(out)
    taught_by = {"teacher": str(Path(run).resolve()), "temperature": float(temperature), "share": float(share)}
    if resume:
        _check_same(taught_by, out)
    else:
        refuse_existing(out)
    teacher = load_run(run)
    config = student_config(teacher, options)
    dataset = teacher.dataset()
    if dataset.splits["train"].on_disk:
        raise InputError("a teacher's outputs are held in memory, as the training part has to be; it is too large")
    taught = evaluate_quietly(teacher.model, teacher.task, dataset, "train").prediction
    teacher.task.soft_loss(taught[:2], taught[:2], temperature)  # whether there is one

    def teach(prepared: Prepared) -> None:
        prepared.task.teacher = SoftTargets(taught, temperature, share)
        write_json(out / TAUGHT, taught_by)

    trained = train(config, out, resume=resume, progress=progress, on_prepared=teach)
    found = _compared(teacher, load_run(trained.path), dataset)
    write_json(trained.path / RESULT, {**found.to_dict(), "temperature": temperature, "share": share})
    return found


def _check_same(taught_by: Mapping[str, Any], out: Path) -> None:
    """Refuse to go on with what is no student, or another one's.

    Raises:
        DataError: there is no student.
        InputError: it is another one's.
    """
    if not (out / TAUGHT).is_file():
        raise DataError(f"nothing to resume at {out}: it has no {TAUGHT}")
    for name, value in read_json(out / TAUGHT).items():
        if value != taught_by[name]:
            raise InputError(f"the student at {out} has {name}={value!r}, not {taught_by[name]!r}; resume it with that")


def student_config(teacher: Run, options: Mapping[str, Any]) -> TrainConfig:
    """The configuration of a student: that of the teacher's run, but for what is given.

    Args:
        teacher: the run.
        options: those given.

    Raises:
        UnknownNameError: an unknown option.
        InputError: a value does not fit, or nothing is trained by gradient descent.
    """
    config = teacher.config
    if config.protocol != CLEAN:
        raise InputError(
            f"{teacher.path} was chosen by the test part (protocol {config.protocol!r}); distil a clean run"
        )
    fusion = options.get("fusion", None if fits_at_once(config.fusion) else config.fusion)
    fusion = str(fusion or default_of(TrainConfig, "fusion"))
    if fits_at_once(fusion):
        raise InputError(f"fusion {fusion!r} is fitted at once, and not taught; give another one with fusion")
    not_taken = (*_NOT_TAKEN, *config.of_ensemble)
    values = {name: value for name, value in config.to_dict().items() if name not in not_taken}
    if fusion != config.fusion:
        values = {name: value for name, value in values.items() if name not in _OF_FUSION}
    return TrainConfig.from_dict({**values, **options, "fusion": fusion})


def _compared(teacher: Run, student: Run, dataset: MultimodalDataset) -> Distilled:
    task = teacher.task
    parts = []
    for part in ("val", "test"):
        target = dataset.splits[part].target
        known = None if target is None else torch.from_numpy(target)
        outputs = [evaluate_quietly(run.model, run.task, dataset, part) for run in (teacher, student)]
        intervals = [
            bootstrap_intervals(task, each.prediction, known, only=[task.headline]).get(task.headline)
            for each in outputs
        ]
        difference = bootstrap_difference(task, outputs[1].prediction, outputs[0].prediction, known)
        values = [each.metrics.get(task.headline) for each in outputs]
        parts.append(Compared(part, values[0], values[1], intervals[0], intervals[1], difference))
    seen = teacher.config.ensemble is not None and kind_of(teacher.config).draws_folds
    named = {"teacher": teacher.model, "student": student.model}
    return Distilled(
        str(student.path),
        str(teacher.path),
        task.headline,
        parts,
        {name: sum(p.numel() for p in model.parameters()) for name, model in named.items()},
        {name: _milliseconds(model, task, dataset) for name, model in named.items()},
        "members of the teacher have seen the validation part in training" if seen else None,
    )


def _milliseconds(model: FusionModel, task: Task, dataset: MultimodalDataset) -> float:
    """Time of a test sample, in batches."""
    batch: Batch = next(iter(batches_of(dataset.splits["test"])))
    times = []
    with torch.no_grad():
        for _ in range(3):
            began = time.perf_counter()
            task.forward(model, batch)
            times.append(time.perf_counter() - began)
    return 1000 * min(times) / len(batch)
