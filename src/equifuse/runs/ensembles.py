"""An ensemble of one method as a run: members put together as one model in one folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from equifuse.data import MultimodalDataset, Split
from equifuse.evaluation.evaluate import evaluate_model, evaluate_quietly, headline_alone, score_without_each
from equifuse.files import atomic, write_json, write_yaml
from equifuse.model import Ensemble, FusionModel
from equifuse.model.ensemble import members_of
from equifuse.options import settled
from equifuse.registry import TASKS
from equifuse.runs.config import TrainConfig
from equifuse.runs.folder import CONFIG, HISTORY, METRICS, MODEL, PLOTS, SPLIT, UNSEEN, load_data, split_columns
from equifuse.runs.kinds import kind_of
from equifuse.runs.members import Member, jobs_of, train_members, unseen_outputs
from equifuse.runs.metrics import Convergence, MemberScore, RunMetrics
from equifuse.runs.output import write_columns
from equifuse.runs.prepare import Prepared, prepare
from equifuse.runs.progress import OnEpochEnd, count_bar, epoch_bar
from equifuse.runs.settings import RECORD
from equifuse.runs.training import RunResult, check_unchanged, notes_on, record_of
from equifuse.tasks import Task
from equifuse.training.protocol import PROTOCOLS

# Within a run folder, a folder for each member while it is trained.
MEMBERS = "members"


@dataclass(frozen=True)
class Bag:
    """Members of one method, and what they say of rows that they were not trained on.

    Attributes:
        members: in their order.
        rows: that some members were not trained on: train and validation as one, or where all train on the same rows
            those of validation.
        unseen: raw outputs ``(n, ..., K)`` of ``rows``, averaged over the members that stopped on a row; NaN where
            none did.
    """

    members: list[Member]
    rows: Split
    unseen: Tensor

    def known(self) -> Tensor:
        """Numbers of the rows that some member stopped on."""
        return (~self.unseen.flatten(1).isnan().all(1)).nonzero()[:, 0]

    def measured(self, task: Task) -> dict[str, float | None]:
        """The task's loss and metrics on rows that members were not trained on."""
        known = self.known()
        target = None if self.rows.target is None else torch.from_numpy(self.rows.target)[known]
        return task.assess(self.unseen[known], target).values


def train_bag(
    config: TrainConfig,
    folder: Path,
    dataset: MultimodalDataset,
    *,
    workers: int | None = 0,
    scheduler: str | None = None,
    advance: Callable[[str], None] = lambda _: None,
    on_epoch_end: OnEpochEnd | None = None,
) -> Bag:
    """Train the members of an ensemble, or read back those that are finished.

    Args:
        config: with ``ensemble``.
        folder: of the members' folders.
        dataset: as arranged by the protocol.
        workers: see :func:`equifuse.runs.members.train_members`, also for the others.
        scheduler: likewise.
        advance: likewise.
        on_epoch_end: likewise.
    """
    rows, stops = kind_of(config).unseen(dataset, config)
    members = train_members(
        jobs_of(config, folder),
        dataset,
        workers=workers,
        scheduler=scheduler,
        advance=advance,
        on_epoch_end=on_epoch_end,
    )
    average = TASKS.get(dataset.task).averaging(dataset.classes)
    return Bag(members, rows, unseen_outputs(members, stops, len(rows), average))


def train_ensemble(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool,
    progress: bool,
    on_data: Callable[[MultimodalDataset], None] | None,
    workers: int | None,
    scheduler: str | None,
) -> RunResult:
    """Train an ensemble into a run folder that is this process's own; see :func:`equifuse.runs.train`."""
    dataset = load_data(config)
    if on_data is not None:
        on_data(dataset)
    if resume:
        check_unchanged(config, dataset, out)
    first = replace(config, member=0)
    prepared = prepare(first, kind_of(config).part(dataset, first))
    prepared = replace(prepared, dataset=dataset)
    if not resume:
        write_yaml(out / CONFIG, {**config.to_dict(), RECORD: record_of(config, prepared)})
        write_columns(out / SPLIT, split_columns(dataset))
    what, here = f"{config.fusion} on {dataset.name}", workers == 0 and scheduler is None
    train_them = partial(train_bag, config, out / MEMBERS, dataset, workers=workers, scheduler=scheduler)
    if progress and here and kind_of(config).cycles(config) > 1:  # a single training, of which one sees each epoch
        with epoch_bar(settled(prepared.config.epochs), monitor=prepared.task.monitor) as follow:
            bag = train_them(on_epoch_end=follow(what))
    else:
        with count_bar(config.members, progress, what, "members") as advance:
            bag = train_them(advance=lambda folder: advance(Path(folder).name))
    model = Ensemble([member.model() for member in bag.members]).eval()
    names = [config.fusion if config.backend is None else f"{config.fusion}+{config.backend}"] * len(bag.members)
    metrics = finish_ensemble(
        out, model, bag.members, names, replace(prepared, model=model), bag, config, resume=resume
    )
    history = [{"member": float(i + 1), **row} for i, member in enumerate(bag.members) for row in member.history]
    return RunResult(out, metrics, history)


def finish_ensemble(
    out: Path,
    model: FusionModel,
    members: Sequence[Member],
    methods: Sequence[str],
    prepared: Prepared,
    unseen: Bag,
    config: TrainConfig,
    *,
    resume: bool,
    keep: bool = False,
    before_last: Callable[[RunMetrics], None] = lambda _: None,
) -> RunMetrics:
    """Measure an ensemble, and write all of a run folder that comes after training.

    Args:
        out: the run folder.
        model: the ensemble, or a model that stands alone.
        members: how each was trained, in the model's order.
        methods: what each is.
        prepared: task and data.
        unseen: what the ensemble as a whole is taken to say of rows that it was not trained on.
        config: of the run.
        resume: whether some of it may be there.
        keep: whether the models of the members stay where they were trained.
        before_last: called before the file that says that the run is finished.
    """
    from equifuse.report import plots  # noqa: PLC0415 - the last step alone reports
    from equifuse.report.figures import run_figures  # noqa: PLC0415

    task, dataset = prepared.task, prepared.dataset
    test = evaluate_model(model, task, dataset, "test")
    without = score_without_each(model, task, dataset)
    alone = [evaluate_quietly(member, task, dataset).metrics.get(task.headline) for member in members_of(model)]
    shares = model.weights.tolist() if isinstance(model, Ensemble) else [1.0]
    scores = [
        MemberScore(name, weight, member.loss, score, member.epochs, member.seconds)
        for name, weight, member, score in zip(methods, shares, members, alone, strict=True)
    ]
    undefined = {"test": test.undefined} | {
        f"test without {m}": {task.headline: why} for m, why in without.undefined.items()
    }
    metrics = RunMetrics(
        val=unseen.measured(task),
        test=dict(test.metrics),
        without=without.values,
        train_seconds=sum(member.seconds for member in members),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        convergence=Convergence.of(test.convergence()),
        epochs=max(member.epochs for member in members),
        best_epoch=int(np.median([member.best_epoch for member in members])),
        protocol=f"{config.protocol}: {PROTOCOLS[config.protocol]}",
        undefined={part: why for part, why in undefined.items() if why} or None,
        notes=notes_on(prepared, test) or None,
        alone=headline_alone(task, test, dataset.splits["test"].labelled()) or None,
        members=scores if isinstance(model, Ensemble) else None,
    )
    model.save(out / MODEL, overwrite=resume)
    rows, known = unseen.rows, unseen.known().numpy()
    if rows.target is not None and unseen.unseen.dim() == 2:
        with atomic(out / UNSEEN) as staging, staging.open("wb") as file:
            np.savez(file, outputs=unseen.unseen.numpy()[known], target=rows.target[known])
    histories = {f"member {i + 1}": member.history for i, member in enumerate(members)}
    write_json(out / HISTORY, [{"member": i + 1, **row} for i, m in enumerate(members) for row in m.history])
    some = dict(list(histories.items())[:8])  # more curves cannot be told apart
    for name, figure in run_figures(some, metrics, task.headline, model, dataset).items():
        plots.save(figure, out / PLOTS / name)
    before_last(metrics)
    write_json(out / METRICS, metrics.to_dict())  # last: a folder with metrics is a finished run
    for member in () if keep else members:  # they are in the model now
        shutil.rmtree(Path(member.path) / "model", ignore_errors=True)
    return metrics
