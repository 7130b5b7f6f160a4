"""The members of an ensemble: trained one by one or several at once, each in a folder of its own, anywhere."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch

from equifuse.data import MultimodalDataset
from equifuse.data.lazy import Indices
from equifuse.data.loaders import batches_of
from equifuse.errors import ConvergenceWarning, DataError
from equifuse.files import atomic, parse_errors, read_json, write_json
from equifuse.model import FusionModel, load
from equifuse.model.ensemble import Average
from equifuse.records import Record
from equifuse.runs.config import TrainConfig
from equifuse.runs.executors import executor
from equifuse.runs.folder import load_data
from equifuse.runs.kinds import kind_of
from equifuse.runs.prepare import prepare
from equifuse.runs.progress import OnEpochEnd
from equifuse.training.cycles import left_by
from equifuse.training.trainer import Trainer

RESULT, MODEL, UNSEEN = "member.json", "model", "unseen.npz"
Row = dict[str, float | None]


@dataclass(frozen=True, eq=False)
class Member(Record):
    """What came of one member's training.

    >>> Member("members/1", 3.5, 20, 12, 0.4, 1000, []).loss
    0.4

    Attributes:
        path: its folder: ``model/`` and ``unseen.npz``, its outputs for the rows that it stopped on.
        seconds: of everything; of snapshots each has its share.
        epochs: that were trained; of a snapshot until its cycle ended.
        best_epoch: whose weights were kept, counted from 1.
        loss: the monitored value of that epoch, on the rows that it stopped on.
        parameters: of the model.
        history: one row of numbers per epoch, of a snapshot those of its cycle.
    """

    path: str
    seconds: float
    epochs: int
    best_epoch: int
    loss: float
    parameters: int
    history: list[Row]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """A finished member of a folder.

        Raises:
            DataError: there is none, or it is damaged.
        """
        return cls.from_dict({**read_json(folder / RESULT), "path": str(folder)})

    def model(self) -> FusionModel:
        """The trained model."""
        return load(Path(self.path) / MODEL)

    def unseen(self) -> torch.Tensor:
        """Raw outputs ``(n, K)`` for the rows that it stopped on, in their order."""
        path = Path(self.path) / UNSEEN
        with parse_errors(path, "a member's outputs"), np.load(path, allow_pickle=False) as arrays:
            return torch.from_numpy(arrays["outputs"])


@dataclass(frozen=True)
class Job:
    """A training, and the folders of the members that it makes: one, or of snapshots several.

    >>> config = TrainConfig("digits", ensemble=2, ensemble_by="snapshots")
    >>> [len(job.folders) for job in jobs_of(config, Path("members"))]
    [2]

    Attributes:
        config: what to train; its ``member`` is the first that is made.
        folders: of the members; what an interrupted training goes on from is in the first.
    """

    config: TrainConfig
    folders: tuple[str, ...]


def jobs_of(config: TrainConfig, folder: Path) -> list[Job]:
    """The trainings that make the members of an ensemble, each member in a folder of its own, numbered from 1."""
    several = kind_of(config).cycles(config)
    return [
        Job(replace(config, member=first), tuple(str(folder / str(first + 1 + i)) for i in range(several)))
        for first in range(0, config.members, several)
    ]


def train_member(
    config: TrainConfig,
    folder: str,
    dataset: MultimodalDataset | None = None,
    deadline: float | None = None,
    *,
    checkpoints: bool = True,
) -> Member:
    """Train one member into its folder; see :func:`train_job`.

    Args:
        config: with ``ensemble`` and ``member``; without, it stops on the validation part that there is.
        folder: the member's own.
        dataset: the data as arranged by the protocol, where they have been read already.
        deadline: see :class:`equifuse.training.Trainer`.
        checkpoints: whether an interrupted training can go on; without, it begins anew, and epochs take less time.

    Raises:
        EquifuseError: the data, an option or the training would not do.
    """
    return train_job(Job(config, (folder,)), dataset, deadline=deadline, checkpoints=checkpoints)[0]


def train_job(
    job: Job,
    dataset: MultimodalDataset | None = None,
    *,
    deadline: float | None = None,
    checkpoints: bool = True,
    on_epoch_end: OnEpochEnd | None = None,
) -> list[Member]:
    """Train members into their folders; those that are finished are read back, an interrupted training goes on.

    Args:
        job: what to train.
        dataset: the data as arranged by the protocol, where they have been read already.
        deadline: see :class:`equifuse.training.Trainer`.
        checkpoints: see :func:`train_member`.
        on_epoch_end: called after each epoch with its row and the best monitored value.

    Raises:
        EquifuseError: the data, an option or the training would not do.
    """
    outs, config = [Path(folder) for folder in job.folders], job.config
    if all((out / RESULT).is_file() for out in outs):
        return [Member.read(out) for out in outs]
    began, kind = time.perf_counter(), kind_of(config)
    if dataset is None:
        dataset = load_data(config)
    elif config.member is not None:
        dataset = kind.part(dataset, config)
    prepared = prepare(replace(config, seed=kind.seed(config)), dataset)
    model, task = prepared.model, prepared.task
    trainer = Trainer(
        prepared.config,
        out=outs[0] if checkpoints else None,
        watch=False,
        deadline=deadline,
        on_epoch_end=on_epoch_end,
        cycles=kind.cycles(config),
    )
    with _quiet():
        result = trainer.fit(model, dataset, task=task, balancer=prepared.balancer)
    members, epochs = [], 0
    for out, snapshot in zip(outs, left_by(result, model), strict=True):
        model.load_state_dict(snapshot.weights)
        with _quiet():
            evaluation = task.evaluate(model, batches_of(dataset.splits["val"]))
        model.save(out / MODEL, overwrite=True)
        with atomic(out / UNSEEN) as staging, staging.open("wb") as file:
            np.savez(file, outputs=evaluation.prediction.numpy())
        assert snapshot.value is not None
        members.append(
            Member(
                str(out),
                (time.perf_counter() - began) / len(outs),
                snapshot.epochs,
                snapshot.epoch,
                snapshot.value,
                sum(parameter.numel() for parameter in model.parameters()),
                result.history[epochs : snapshot.epochs],
            )
        )
        epochs = snapshot.epochs
    shutil.rmtree(outs[0] / "checkpoints", ignore_errors=True)
    for member in members:
        write_json(Path(member.path) / RESULT, member.to_dict())  # last: a folder with it is finished
    return members


def train_members(
    jobs: Sequence[Job],
    dataset: MultimodalDataset | None,
    *,
    workers: int | None = 0,
    scheduler: str | None = None,
    advance: Callable[[str], None] = lambda _: None,
    on_epoch_end: OnEpochEnd | None = None,
) -> list[Member]:
    """Train members, several at a time.

    Args:
        jobs: the trainings.
        dataset: the data as arranged by the protocol, for members that are trained in this process.
        workers: processes; 0 works in this one, None has one per core.
        scheduler: address of a Dask scheduler, in the place of processes.
        advance: called with the folder of each that is done.
        on_epoch_end: of trainings in this process; see :func:`train_job`.

    Returns:
        The members, in the order of the jobs.
    """
    found: dict[str, Member] = {}

    def done(job: Job, members: list[Member]) -> None:
        found.update(zip(job.folders, members, strict=True))
        for folder in job.folders:
            advance(folder)

    if not workers and workers is not None and scheduler is None:
        for job in jobs:
            done(job, train_job(job, dataset, on_epoch_end=on_epoch_end))
    else:
        with executor(workers, scheduler) as pool:
            flying: dict[Future[list[Member]], Job] = {pool.submit(train_job, job): job for job in jobs}
            left = set(flying)
            while left:
                ready, left = wait(left, return_when=FIRST_COMPLETED)
                for future in ready:
                    done(flying[future], future.result())
    return [found[folder] for job in jobs for folder in job.folders]


def unseen_outputs(members: Sequence[Member], stops: Sequence[Indices], rows: int, average: Average) -> torch.Tensor:
    """What rows were predicted by the members that have not seen them: ``(rows, ..., K)``; see :func:`averaged_by_row`.

    Raises:
        DataError: a member's outputs are of other rows.
    """
    outputs = [member.unseen() for member in members]
    for member, each, stop in zip(members, outputs, stops, strict=True):
        if len(each) != len(stop):
            raise DataError(f"{member.path} has outputs of {len(each)} rows, its fold has {len(stop)}")
    return averaged_by_row(outputs, stops, rows, average)


def averaged_by_row(
    outputs: Sequence[torch.Tensor], stops: Sequence[Indices], rows: int, average: Average
) -> torch.Tensor:
    """The average of what several models say of each row, where each was asked for some rows only.

    >>> from equifuse.runs.members import averaged_by_row
    >>> outputs = [torch.tensor([[1.0], [2.0]]), torch.tensor([[4.0]])]
    >>> averaged_by_row(outputs, [np.array([0, 1]), np.array([1])], 3, ef.registry.TASKS.get("regression").averaged)
    tensor([[1.],
            [3.],
            [nan]])

    Args:
        outputs: of each model ``(n, ..., K)``.
        stops: numbers of the rows that they are of.
        rows: how many there are.
        average: the task's way of averaging (:meth:`equifuse.tasks.Task.averaging`).

    Returns:
        ``(rows, ..., K)``, NaN for a row that no model was asked for.
    """
    said = torch.cat(list(outputs))
    places = np.full((rows, len(outputs)), -1)  # where in it each model's outputs for a row are
    firsts = np.cumsum([0, *map(len, outputs)])
    for model, stop in enumerate(stops):
        places[stop, model] = firsts[model] + np.arange(len(stop))
    counts = (places >= 0).sum(axis=1)
    found: torch.Tensor | None = None
    for count in sorted(set(counts.tolist()) - {0}, reverse=True):
        here = np.flatnonzero(counts == count)
        chosen = places[here][places[here] >= 0].reshape(len(here), count)
        each = said[torch.from_numpy(chosen.T)]
        mean = each[0] if count == 1 else average(each, torch.full((count,), 1 / count, dtype=each.dtype))
        if found is None:
            found = torch.full((rows, *mean.shape[1:]), torch.nan, dtype=mean.dtype)
        if mean.shape[1:] == found.shape[1:]:  # embeddings put side by side are longer the more there are
            found[torch.from_numpy(here)] = mean
    assert found is not None
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Samples that do not converge are counted in the end, for all members together."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
