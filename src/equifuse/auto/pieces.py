"""One piece of work of a search: a model of one candidate, trained on one fold, in a folder of its own."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from equifuse.auto.judging import as_expected
from equifuse.auto.limits import Budget
from equifuse.data import MultimodalDataset
from equifuse.data.loaders import batches_of
from equifuse.errors import ConvergenceWarning, EquifuseError, OutputError
from equifuse.files import atomic, parse_errors, read_json, write_json
from equifuse.records import Record
from equifuse.runs.config import TrainConfig
from equifuse.runs.folder import load_data, task_of
from equifuse.runs.folds import bag_of
from equifuse.runs.members import MODEL, Member, train_member

PIECE, EXPECTED = "piece.json", "expected.npz"
# What ends one training, and leaves the others as they are.
_FAILURES = (EquifuseError, MemoryError, ValueError, RuntimeError, ArithmeticError)


class TimeUp(Exception):
    """The time is up, and a piece is still being worked on."""


@dataclass(frozen=True)
class Job:
    """A piece to be worked on.

    Args:
        candidate: name of its candidate.
        fold: number of the fold that it stops on, from 0.
        config: of the training, with ``member`` where there are folds.
        folder: the piece's own.
        expected: modality -> share of samples that will lack it.
        deadline: time of the system's clock at which training stops; None for no such time.
    """

    candidate: str
    fold: int
    config: TrainConfig
    folder: str
    expected: dict[str, float] = field(default_factory=dict)
    deadline: float | None = None


@dataclass(frozen=True, eq=False)
class Piece(Record):
    """What came of a job.

    Attributes:
        candidate: name of its candidate.
        fold: that it stopped on, from 0.
        folder: with the model and its outputs for the rows of the fold.
        seconds: of everything.
        predict_seconds: of a row.
        megabytes: of the stored model.
        failed: why there is no model; None where there is one.
    """

    candidate: str
    fold: int
    folder: str
    seconds: float
    predict_seconds: float = 0.0
    megabytes: float = 0.0
    failed: str | None = None

    def member(self) -> Member:
        """How it was trained."""
        return Member.read(Path(self.folder))

    def outputs(self, expected: bool = False) -> torch.Tensor:
        """Raw outputs for the rows that it stopped on.

        Args:
            expected: with as many modalities missing as are expected to be.
        """
        if not expected:
            return self.member().unseen()
        path = Path(self.folder) / EXPECTED
        with parse_errors(path, "outputs"), np.load(path, allow_pickle=False) as arrays:
            return torch.from_numpy(arrays["outputs"])


def finished(folder: Path) -> Piece | None:
    """The piece of a folder that was finished before; None where there is none."""
    path = folder / PIECE
    return Piece.from_dict({**read_json(path), "folder": str(folder)}) if path.is_file() else None


def work(job: Job, dataset: MultimodalDataset | None = None) -> Piece:
    """Train the model of a piece; a failure is told in the result. Runs in any process.

    Args:
        job: what to do.
        dataset: the data, as arranged by the protocol; None reads them, once in each process.
    """
    began = time.perf_counter()
    try:
        piece = _work(job, _data(job.config) if dataset is None else dataset, began)
    except _FAILURES as error:
        if isinstance(error, OutputError):  # a full disk is nobody's poor result
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        piece = Piece(job.candidate, job.fold, job.folder, time.perf_counter() - began, failed=reason)
    write_json(Path(job.folder) / PIECE, piece.to_dict())  # last: a folder with it is finished
    return piece


def _work(job: Job, dataset: MultimodalDataset, began: float) -> Piece:
    with warnings.catch_warnings():
        # Samples that do not converge are counted in the end; a linear model's solver may stop at its limit of steps.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", module=r"sklearn(\.|$)")
        member = train_member(job.config, job.folder, dataset, job.deadline, checkpoints=False)
        stop = (dataset if job.config.member is None else bag_of(dataset, job.config)).splits["val"]
        rows = as_expected(stop, job.expected, job.config.seed, job.fold) if job.expected else stop
        model = member.model()
        start = time.perf_counter()
        evaluation = task_of(model, job.config).evaluate(model, batches_of(rows))
        seconds = time.perf_counter() - start
        if job.expected:
            with atomic(Path(job.folder) / EXPECTED) as staging, staging.open("wb") as file:
                np.savez(file, outputs=evaluation.prediction.numpy())
    size = sum(path.stat().st_size for path in (Path(job.folder) / MODEL).rglob("*") if path.is_file())
    took = time.perf_counter() - began
    return Piece(job.candidate, job.fold, job.folder, took, seconds / len(rows), size / 2**20)


_read: dict[str, MultimodalDataset] = {}


def _data(config: TrainConfig) -> MultimodalDataset:
    """The data of a search, read once in a process."""
    whole = replace(config, ensemble=None, repeats=1, member=None)
    key = json.dumps([getattr(whole, name) for name in ("data", "source", "val_fraction", "seed")], sort_keys=True)
    if key not in _read:
        _read.clear()
        _read[key] = load_data(whole)
    return _read[key]


def carry_out(
    jobs: Iterator[Job],
    dataset: MultimodalDataset,
    budget: Budget,
    reserved: Callable[[], float],
    pool: Executor | None = None,
    lanes: int = 1,
) -> Iterator[Piece]:
    """Work on jobs, several at a time, and give each piece as it is finished.

    Args:
        jobs: each is asked for when it can begin.
        dataset: the data, for work in this process.
        budget: what is left of the time.
        reserved: seconds of it that are for later.
        pool: processes; None works in this one.
        lanes: pieces at a time.

    Raises:
        TimeUp: no time is left, and processes are still at work.
        OutputError: a process died, or nothing can be written.
    """
    if pool is None:
        for job in jobs:
            yield work(job, dataset)
        return
    flying: set[Future[Piece]] = set()
    more = True
    while True:
        while more and len(flying) < lanes:
            following = next(jobs, None)
            more = following is not None
            if following is not None:
                flying.add(pool.submit(work, following))
        if not flying:
            return
        left = budget.left(reserved())
        done, flying = wait(flying, None if math.isinf(left) else max(0.0, left), FIRST_COMPLETED)
        if not done:
            raise TimeUp
        for future in done:
            try:
                yield future.result()
            except BrokenProcessPool:
                raise OutputError(
                    "a process that trained a model died, perhaps for lack of memory; go on with --resume and fewer "
                    "--workers"
                ) from None
