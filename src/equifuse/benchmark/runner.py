"""Run a benchmark: tune, train and measure what the store does not have yet; then tables, plots and the page."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from pathlib import Path
from typing import Any

from equifuse.benchmark.config import BenchmarkConfig, Method
from equifuse.benchmark.job import INTACT, Job, JobResult, measure
from equifuse.benchmark.sets import SetInfo, look_at, short_names
from equifuse.benchmark.space import DEFAULT_SPACE
from equifuse.benchmark.store import Row, Store
from equifuse.benchmark.summary import Summary
from equifuse.benchmark.tuning import Tuning
from equifuse.errors import DataError, EquifuseError, InputError
from equifuse.files import locked, refuse_existing, write_yaml
from equifuse.fusion import LinearModel
from equifuse.registry import FUSIONS, TASKS
from equifuse.runs.config import check_installed as check_fusion
from equifuse.runs.executors import begin_imports, executor
from equifuse.runs.progress import count_bar
from equifuse.runs.settings import read_config
from equifuse.tasks import make_task

CONFIG, STORE, SCORES = "benchmark.yaml", "store.sqlite", "scores.parquet"


def run_benchmark(
    config: BenchmarkConfig,
    out: Path,
    *,
    resume: bool = False,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: bool = True,
) -> Summary:
    """Run a benchmark into a folder.

    The folder holds ``benchmark.yaml`` (what was asked for), ``store.sqlite`` (every result, as soon as it is there),
    ``scores.parquet``, ``summary.json``, ``tables.md``, ``plots/`` and ``report.html``. A killed benchmark loses the
    trainings under way and nothing else; resumed, it repeats none that is finished. One more method, seed or data set
    in a resumed benchmark's configuration costs only what is new.

    Args:
        config: what to compare.
        out: folder to create.
        resume: go on with what is there.
        workers: trainings at a time; default one per core, at most 4; 0 trains in this process.
        scheduler: address of a Dask scheduler, see :func:`~equifuse.runs.executors.executor`.
        progress: show a bar on standard error.

    Returns:
        What ``summary.json`` holds.

    Raises:
        OutputExistsError: ``out`` exists and ``resume`` is False.
        OutputError: another process writes there, the disk is full, or the folder is not writable.
        DataError: a data set cannot be used, or there is nothing to resume.
        InputError: an option does not fit, or everything failed.
    """
    from equifuse.report.benchmark import check_installed, publish  # noqa: PLC0415 - the last step alone reports

    out = Path(out)
    if not resume:
        refuse_existing(out)
    elif not (out / STORE).is_file():
        raise DataError(f"nothing to resume at {out}: it has no {STORE}")
    if workers != 0 and scheduler is None and not resume:  # resumed, there may be nothing left to train
        begin_imports()
    check_installed()
    for method in config.methods if not resume else ():
        check_fusion(method.options["fusion"])
    plan = _Plan(config)
    with locked(out, resume=resume):
        write_yaml(out / CONFIG, config.to_dict())
        store = Store(out / STORE)
        work = _Work(plan, store)
        with count_bar(plan.total, progress) as advance, executor(workers, scheduler) as pool:
            work.run(pool, advance)
        store.to_parquet(out / SCORES)
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        return publish(config, plan.sets, _asked_for(store, work.keys), out, command, plan.skipped)


def read_benchmark(folder: Path) -> BenchmarkConfig:
    """The configuration of a benchmark's folder.

    Raises:
        DataError: it is none.
    """
    if not (folder / CONFIG).is_file():
        raise DataError(f"no benchmark at {folder}: expected a folder with {CONFIG}")
    return BenchmarkConfig.from_dict(read_config(folder / CONFIG))


def _asked_for(store: Store, keys: set[str]) -> list[Row]:
    """The store's rows that belong to this configuration; it may hold others, of earlier ones."""
    return [row for key, row in store.rows().items() if key in keys]


class _Plan:
    """Which pairs of method and data set there are, and how many jobs in all."""

    def __init__(self, config: BenchmarkConfig) -> None:
        self.config = config
        self.sets = {name: look_at(name, source, config) for name, source in short_names(config.data).items()}
        self.skipped: list[str] = []
        self.pairs: list[tuple[SetInfo, Method]] = []
        for found in self.sets.values():
            for method in config.methods:
                reason = _not_applicable(method, found.task)
                if reason:
                    self.skipped.append(f"{method.label} on {found.name}: {reason}")
                else:
                    self.pairs.append((found, method))
        if not self.pairs:
            raise InputError(f"no method fits any data set: {self.skipped[0]}")
        self.total = sum(len(self.protocols(m)) * len(config.seeds) + self.trials(m) for _, m in self.pairs)

    def trials(self, method: Method) -> int:
        """Tuning trials of a method; one that is fitted at once tries its settings itself, on the same part."""
        return 0 if method.fitted else self.config.trials

    def protocols(self, method: Method) -> tuple[str, ...]:
        """Those a method is measured under; one that is fitted at once has no epochs to choose among."""
        return self.config.protocols[:1] if method.fitted else self.config.protocols

    def job(self, found: SetInfo, method: Method, seed: int, protocol: str, tuned: dict[str, Any]) -> Job:
        """A run that is measured on test."""
        config = self.config.train_config(found.source, method, seed, protocol, tuned)
        return Job(found.name, method.label, config, found.fingerprint, None, self.config.missing)

    def trial(self, found: SetInfo, method: Method, number: int, options: dict[str, Any]) -> Job:
        """A tuning trial, with the first seed."""
        config = self.config.train_config(found.source, method, self.config.seeds[0], tuned=options)
        return Job(found.name, method.label, config, found.fingerprint, number)


class _Work:
    """Units in flight; a pair's trials come one after the other, everything else side by side."""

    def __init__(self, plan: _Plan, store: Store) -> None:
        self.plan, self.store = plan, store
        self.finished = {key: row for key, row in store.rows().items() if row.error is None}
        self.keys: set[str] = set()
        self.flying: dict[Future[JobResult], tuple[Job, Callable[[JobResult | None], None]]] = {}
        self.best: dict[str, tuple[float, str]] = {}

    def run(self, pool: Executor, advance: Callable[..., None]) -> None:
        """Everything that is not in the store yet."""
        self.pool, self.advance = pool, advance
        for found, method in self.plan.pairs:
            if self.plan.trials(method):
                space = {**(self.plan.config.space or DEFAULT_SPACE), **method.space}
                self._tune(found, method, Tuning(found.name, space, self.plan.trials(method)))
            else:
                self._measure(found, method, {})
        while self.flying:
            done, _ = wait(self.flying, return_when=FIRST_COMPLETED)
            for future in done:
                job, then = self.flying.pop(future)
                result = _outcome(future)
                self.store.add(job, result)
                self.advance(job.label, self._said(job, result))
                then(None if isinstance(result, str) else result)

    def _said(self, job: Job, result: JobResult | str) -> str:
        """What came of a job, and which method has the best score of its data set so far."""
        if isinstance(result, str):
            return f"{job.label}: failed: {result}"
        found = self.plan.sets[job.data]
        task = make_task(found.task, metrics=job.config.metric, offered={"classes": found.outputs})
        value = result.scores.get(INTACT, {}).get(task.headline)
        if job.trial is not None or value is None:
            return f"{job.label}: {task.monitor} on validation {abs(result.monitor):.4f}"
        sign = 1 if task.metric(task.headline).mode == "max" else -1
        best = self.best.get(job.data)
        if best is None or sign * value > sign * best[0]:
            self.best[job.data] = best = value, job.method
        seconds = "" if result.info.train_seconds is None else f", {result.info.train_seconds:.1f} s"
        return f"{job.label}: {task.headline} {value:.4f}{seconds}; best so far {best[1]} {best[0]:.4f}"

    def _tune(self, found: SetInfo, method: Method, tuning: Tuning) -> None:
        """The next trial, or the runs once there is none left."""
        while not tuning.finished:
            options = tuning.ask()
            job = self.plan.trial(found, method, tuning.finished_trials, options)
            row = self._known(job)
            if row is None:

                def finish(record: JobResult | None, options: dict[str, Any] = options) -> None:
                    tuning.tell(options, None if record is None else record.monitor)
                    self._tune(found, method, tuning)

                self._submit(job, finish)
                return
            tuning.tell(options, row.monitor)
        self._measure(found, method, {} if tuning.best is None else tuning.best[1])

    def _measure(self, found: SetInfo, method: Method, tuned: dict[str, Any]) -> None:
        for seed in self.plan.config.seeds:
            for protocol in self.plan.protocols(method):
                job = self.plan.job(found, method, seed, protocol, tuned)
                if self._known(job) is None:
                    self._submit(job, lambda _: None)

    def _known(self, job: Job) -> Row | None:
        self.keys.add(job.key)
        row = self.finished.get(job.key)
        if row is not None:
            self.advance(job.label)
        return row

    def _submit(self, job: Job, then: Callable[[JobResult | None], None]) -> None:
        self.flying[self.pool.submit(measure, job)] = (job, then)


def _outcome(future: Future[JobResult]) -> JobResult | str:
    """A job's record, or why there is none: one that fails must not take the others with it."""
    try:
        return future.result()
    except BrokenExecutor:
        raise InputError("a worker died, perhaps for want of memory; resume with fewer workers") from None
    except EquifuseError as error:
        return str(error)
    except Exception as error:  # what a method of the user's own may raise
        return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _not_applicable(method: Method, task: str) -> str | None:
    """Why a method has no result on a task, or None."""
    for name in (method.options["fusion"], method.options.get("backend")):
        tasks = FUSIONS.get(name).tasks if name else None
        if tasks is not None and task not in tasks:
            return f"{name} is for {', '.join(tasks)}"
        if name == LinearModel.name and not TASKS.get(task).has_linear_models():
            return f"there is no linear model for {task}"
    if method.options.get("mixup") and not TASKS.get(task).mixes_samples:
        return f"nothing lies between two samples of {task}"
    if method.options.get("label_smoothing") and "label_smoothing" not in TASKS.options(task):
        return "label_smoothing is for classification"
    return None
