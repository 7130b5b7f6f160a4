"""``auto``: a search into a run folder, of which the ensemble is one run and the best single method another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from equifuse.auto.finishing import FOUND, Finishing
from equifuse.auto.judging import Judge
from equifuse.auto.limits import Budget, seconds_of
from equifuse.auto.options import SHARED, Preset, preset_of
from equifuse.auto.portfolio import Candidate, check_candidates, lacking, portfolio_of
from equifuse.auto.result import AutoResult
from equifuse.auto.search import Plan, Search, spent
from equifuse.data import MultimodalDataset, Split
from equifuse.data.options import SourceOptions
from equifuse.errors import DataError, InputError, UnknownNameError
from equifuse.files import locked, read_yaml, refuse_existing, write_yaml
from equifuse.registry import TASKS
from equifuse.runs.config import TrainConfig, check_installed
from equifuse.runs.executors import TRAINING
from equifuse.runs.folder import METRICS, PathLike, load_data
from equifuse.runs.prepare import class_weights, units_of
from equifuse.runs.settings import RECORD
from equifuse.runs.training import check_machine, with_full_paths
from equifuse.tasks import Task, make_task
from equifuse.training.protocol import CLEAN

# Within a run folder: what was asked for, and the pieces while there are some.
ASKED, PIECES = "auto.yaml", "pieces"


def auto(
    config: TrainConfig,
    out: PathLike,
    *,
    time_limit: str | float | None = "10m",
    preset: str | Preset = "good",
    portfolio: Iterable[Candidate] | None = None,
    resume: bool = False,
    workers: int = 0,
    tell: Callable[[str], None] = lambda _: None,
    on_data: Callable[[MultimodalDataset], None] | None = None,
    budget: Budget | None = None,
) -> AutoResult:
    """Find the model that is best for the data at hand, within a time; the command ``equifuse auto`` calls it.

    >>> from equifuse.runs import TrainConfig
    >>> few = [Candidate("linear", {"fusion": "linear"}), Candidate("mean", {"fusion": "mean", "epochs": 1})]
    >>> found = auto(TrainConfig("digits"), "run", time_limit="none", preset="fast", portfolio=few)
    >>> found.headline, sorted(entry.method for entry in found.entries)
    ('accuracy', ['ensemble', 'linear', 'mean'])

    The run folder is one like any other, of an ensemble of different methods; ``best/`` within is the run of the best
    single method. Methods, settings and weights are chosen by what models say of rows that they were not trained on,
    never by the test part, which is measured once at the end.

    Args:
        config: data, task and machine; the methods and their settings are chosen.
        out: the run folder to create.
        time_limit: for everything: ``"90s"``, ``"10m"``, ``"1h"``, seconds, or ``"none"``, which does
            all of the preset; only then is the result the same on any machine.
        preset: ``"fast"``, ``"good"`` or ``"best"``, or one of your own; see :data:`equifuse.auto.PRESETS`.
        portfolio: what is tried; default that of the preset.
        resume: go on with what is there.
        workers: processes; 0 works in this one, where a single fit, or the reading of data, cannot be cut short.
        tell: is given a line after each finished piece.
        on_data: called with the data before anything is made of them.
        budget: of time, in the place of ``time_limit``.

    Raises:
        OutputExistsError: ``out`` exists and ``resume`` is False.
        OutputError: another process writes there, the disk is full, or the folder is not writable.
        DataError: the data cannot be used or have changed since, or there is nothing to resume.
        InputError: a task whose predictions cannot be averaged, a limit that is too short, an option that does not
            fit, or a package is not installed that a candidate or a search that goes on needs.
    """
    limit = seconds_of(time_limit)
    out, chosen = Path(out), preset if isinstance(preset, Preset) else preset_of(preset)
    _check(config)
    config = with_full_paths(config)
    check_machine(config)
    given = None if portfolio is None else check_candidates(portfolio, config)
    asked = _asked(config, chosen, given)
    if not resume:
        refuse_existing(out)
    elif not (out / ASKED).is_file():
        raise DataError(f"nothing to resume at {out}: it has no {ASKED}")
    else:
        _check_same(asked, read_yaml(out / ASKED), out)
    if (out / METRICS).is_file():
        return AutoResult.read(out / FOUND)
    with locked(out, resume=resume):
        budget, before = budget or Budget(limit), spent(out / PIECES)
        budget = Budget(limit, before + budget.elapsed(), budget.clock)
        dataset = load_data(config)
        check_task(dataset.task)
        if on_data is not None:
            on_data(dataset)
        stored = read_yaml(out / ASKED)[RECORD] if resume else {}
        fingerprint = dataset.fingerprint()
        if resume and stored["fingerprint"] != fingerprint:
            raise DataError(f"data set {config.data!r} has changed since {out} was started; use another folder")
        # A search that goes on tries what it began with, whatever was installed since.
        lacks = stored.get("lacking", []) if resume else lacking(chosen, dataset.task) if given is None else []
        found = given or portfolio_of(chosen, dataset.task, len(dataset.modalities), lacks)
        for candidate in found:
            check_installed(candidate.settings["fusion"])
        write_yaml(out / ASKED, {**asked, RECORD: {"fingerprint": fingerprint, "lacking": lacks}})
        for name in config.expect_missing:
            if name not in dataset.modalities:
                raise UnknownNameError("modality", name, dataset.modalities)
        plan = Plan(config, dataset, found, chosen, out / PIECES, budget, workers, tell, before, lacks)
        return Finishing(plan, search(plan), out).run()


def search(plan: Plan) -> Search:
    """Carry out a search.

    Args:
        plan: what it is about.

    Raises:
        InputError: no model could be trained.
    """
    config, dataset = plan.base, plan.dataset
    if not plan.workers:  # so that no piece is charged with it
        for name in TRAINING:
            import_module(name)
    task = task_for(config, dataset)
    group = SourceOptions.of(config.source).group

    def judge(rows: Split, folds: list[Any]) -> Judge:
        return Judge(task, rows.target, folds, rows.columns.get(group) if group else None)

    found = Search(plan, judge)
    found.run()
    return found


def task_for(config: TrainConfig, dataset: MultimodalDataset) -> Task:
    """The task of a data set with a configuration's options, before there is a model."""
    units = units_of(dataset)
    offered = {
        "classes": dataset.classes,
        "modalities": dataset.modalities,
        "spreads": None if units is None else units[0].tolist(),
        "target_weight": config.target_weight,
        "label_smoothing": config.label_smoothing,
        "class_weights": class_weights(config, dataset),
    }
    return make_task(
        dataset.task, metrics=config.metric, monitor=config.monitor, offered=offered, **config.task_options
    )


def _check(config: TrainConfig) -> None:
    """Refuse what a search decides, or cannot do.

    Raises:
        InputError: there is something of the kind.
    """
    if config.cv is not None or config.ensemble is not None or config.init is not None:
        raise InputError("auto makes its own folds and ensembles; leave out cv, ensemble and init")
    if config.protocol != CLEAN:
        raise InputError(f"protocol {config.protocol!r} chooses by the test part, and auto never does")
    if config.devices * config.nodes > 1:
        raise InputError("the models of a search are trained by one process each; leave out devices and nodes")


def check_task(task: str) -> None:
    """Refuse a task whose predictions cannot be averaged.

    Raises:
        InputError: it is one.
    """
    kind = TASKS.get(task)
    if kind.embeds or kind.finds_boxes:
        others = "embeddings" if kind.embeds else "boxes"
        raise InputError(
            f"auto averages predictions, and {task} has {others} in their place; compare methods with "
            "'equifuse benchmark', and train one with 'equifuse train'"
        )


def _asked(config: TrainConfig, preset: Preset, given: Sequence[Candidate] | None) -> dict[str, Any]:
    """What decides a search, but for the time that it has."""
    shared = {name: value for name, value in config.to_dict().items() if name in SHARED}
    own = None if given is None else {candidate.name: dict(candidate.settings) for candidate in given}
    return {**shared, "preset": {**asdict(preset), "methods": list(preset.methods)}, "portfolio": own}


def _check_same(asked: Mapping[str, Any], stored: Mapping[str, Any], out: Path) -> None:
    for name, value in asked.items():
        if value != stored.get(name):
            raise InputError(
                f"the search at {out} has {name}={stored.get(name)!r}, not {value!r}; resume it with the same options"
            )
