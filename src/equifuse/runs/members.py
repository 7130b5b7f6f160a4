"""The members of an ensemble: each trained on its own fold, in a folder of its own, wherever that may be."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch

from equifuse.data import MultimodalDataset
from equifuse.data.lazy import Indices
from equifuse.data.loaders import batches_of, mix
from equifuse.errors import ConvergenceWarning, DataError
from equifuse.files import atomic, parse_errors, read_json, write_json
from equifuse.model import FusionModel, load
from equifuse.model.ensemble import Average
from equifuse.records import Record
from equifuse.runs.config import TrainConfig
from equifuse.runs.executors import executor
from equifuse.runs.folder import load_data
from equifuse.runs.folds import bag_of
from equifuse.runs.prepare import prepare
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
        seconds: of everything.
        epochs: that were trained.
        best_epoch: whose weights were kept, counted from 1.
        loss: the monitored value of that epoch, on the rows that it stopped on.
        parameters: of the model.
        history: one row of numbers per epoch.
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


def train_member(
    config: TrainConfig,
    folder: str,
    dataset: MultimodalDataset | None = None,
    deadline: float | None = None,
    *,
    checkpoints: bool = True,
) -> Member:
    """Train a member into its folder; one that is finished is read back, one that was interrupted goes on.

    Args:
        config: with ``ensemble`` and ``member``; without, it stops on the validation part that there is.
        folder: the member's own.
        dataset: the data as arranged by the protocol, where they have been read already.
        deadline: see :class:`equifuse.training.Trainer`.
        checkpoints: whether an interrupted training can go on; without, it begins anew, and epochs take less time.

    Raises:
        EquifuseError: the data, an option or the training would not do.
    """
    out = Path(folder)
    if (out / RESULT).is_file():
        return Member.read(out)
    began = time.perf_counter()
    data = load_data(config) if dataset is None else dataset if config.member is None else bag_of(dataset, config)
    own = replace(config, seed=mix(config.seed, 1 + (config.member or 0)) % 2**31)
    prepared = prepare(own, data)
    own = prepared.config
    with _quiet():
        result = Trainer(own, out=out if checkpoints else None, watch=False, deadline=deadline).fit(
            prepared.model, data, task=prepared.task, balancer=prepared.balancer
        )
        evaluation = prepared.task.evaluate(prepared.model, batches_of(data.splits["val"]))
    prepared.model.save(out / MODEL, overwrite=True)
    with atomic(out / UNSEEN) as staging, staging.open("wb") as file:
        np.savez(file, outputs=evaluation.prediction.numpy())
    assert result.best_epoch is not None
    assert result.best_value is not None
    member = Member(
        str(out),
        time.perf_counter() - began,
        len(result.history),
        result.best_epoch,
        result.best_value,
        sum(parameter.numel() for parameter in prepared.model.parameters()),
        result.history,
    )
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    write_json(out / RESULT, member.to_dict())  # last: a folder with it is finished
    return member


def train_members(
    configs: Mapping[str, TrainConfig],
    dataset: MultimodalDataset | None,
    *,
    workers: int | None = 0,
    scheduler: str | None = None,
    advance: Callable[[str], None] = lambda _: None,
) -> dict[str, Member]:
    """Train members, several at a time.

    Args:
        configs: folder of each -> what to train.
        dataset: the data as arranged by the protocol, for members that are trained in this process.
        workers: processes; 0 works in this one, None has one per core.
        scheduler: address of a Dask scheduler, in the place of processes.
        advance: called with the folder of each that is done.

    Returns:
        Folder -> member, in the order of ``configs``.
    """
    found: dict[str, Member] = {}
    if not workers and workers is not None and scheduler is None:
        for folder, config in configs.items():
            found[folder] = train_member(config, folder, dataset)
            advance(folder)
        return found
    with executor(workers, scheduler) as pool:
        flying: dict[Future[Member], str] = {pool.submit(train_member, c, f): f for f, c in configs.items()}
        left = set(flying)
        while left:
            done, left = wait(left, return_when=FIRST_COMPLETED)
            for future in done:
                found[flying[future]] = future.result()
                advance(flying[future])
    return {folder: found[folder] for folder in configs}


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
