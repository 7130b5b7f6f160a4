"""The members of an ensemble: each trained on its own fold, in a folder of its own, wherever that may be."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from equifuse.data import MultimodalDataset
from equifuse.data.loaders import batches_of, mix
from equifuse.errors import ConvergenceWarning, DataError
from equifuse.files import atomic, parse_errors, read_json, write_json
from equifuse.model import FusionModel, load
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


def unseen_outputs(members: list[Member], every: list[tuple[NDArray[Any], NDArray[Any]]], rows: int) -> torch.Tensor:
    """What each row of train and validation was predicted by the member that has not seen it: ``(rows, ..., K)``.

    NaN for a row that no member stopped on.

    Raises:
        DataError: a member's outputs are of other rows.
    """
    found = None
    for member, (_, stop) in zip(members, every, strict=True):
        outputs = member.unseen()
        if len(outputs) != len(stop):
            raise DataError(f"{member.path} has outputs of {len(outputs)} rows, its fold has {len(stop)}")
        if found is None:
            found = torch.full((rows, *outputs.shape[1:]), torch.nan, dtype=outputs.dtype)
        found[torch.from_numpy(stop)] = outputs
    assert found is not None
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Samples that do not converge are counted in the end, for all members together."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
