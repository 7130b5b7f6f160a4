"""``auto``: a search into a run folder, of which the ensemble is one run and the best single method another."""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equifuse.auto.judging import Judge, as_expected
from equifuse.auto.limits import Budget, seconds_of
from equifuse.auto.options import SHARED, Preset, preset_of
from equifuse.auto.portfolio import Candidate, check_candidates, portfolio_of
from equifuse.auto.result import ENSEMBLE, AutoResult, Entry
from equifuse.auto.search import Plan, Search, spent
from equifuse.auto.selection import greedy_weights
from equifuse.auto.verdict import report
from equifuse.data import MultimodalDataset, Split
from equifuse.data.loaders import batches_of
from equifuse.data.options import SourceOptions
from equifuse.errors import ConvergenceWarning, DataError, InputError, UnknownNameError
from equifuse.files import locked, read_yaml, refuse_existing, write_json, write_text, write_yaml
from equifuse.model import Ensemble, FusionModel
from equifuse.registry import TASKS
from equifuse.runs.config import RECORD, TrainConfig
from equifuse.runs.ensembles import Bag, finish_ensemble
from equifuse.runs.executors import TRAINING
from equifuse.runs.folder import CONFIG, METRICS, SPLIT, PathLike, load_data, split_columns
from equifuse.runs.metrics import RunMetrics
from equifuse.runs.output import write_columns
from equifuse.runs.prepare import Prepared, class_weights, resolved_for
from equifuse.runs.training import check_accelerator, record_of, with_full_paths
from equifuse.tasks import Task, make_task
from equifuse.training.balancing import Balancer
from equifuse.training.protocol import CLEAN

# Within a run folder: what was asked for, what was found, the best single method's run, and the pieces.
ASKED, FOUND, WORDS, BEST, PIECES = "auto.yaml", "auto.json", "auto.txt", "best", "pieces"
BOARD = "leaderboard.csv"


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
        InputError: a task whose predictions cannot be averaged, a limit that is too short, or an option that does not
            fit.
    """
    limit = seconds_of(time_limit)
    out, chosen = Path(out), preset if isinstance(preset, Preset) else preset_of(preset)
    _check(config)
    config = with_full_paths(config)
    check_accelerator(config)
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
        asked |= {RECORD: {"fingerprint": dataset.fingerprint()}}
        if resume and read_yaml(out / ASKED)[RECORD] != asked[RECORD]:
            raise DataError(f"data set {config.data!r} has changed since {out} was started; use another folder")
        write_yaml(out / ASKED, asked)
        found = given or portfolio_of(chosen, dataset.task, len(dataset.modalities))
        for name in config.expect_missing:
            if name not in dataset.modalities:
                raise UnknownNameError("modality", name, dataset.modalities)
        plan = Plan(config, dataset, found, chosen, out / PIECES, budget, workers, tell, before)
        return _Finishing(out, plan, search(plan)).run()


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
    target = dataset.splits["train"].labelled().target
    offered = {
        "classes": dataset.classes,
        "modalities": dataset.modalities,
        "spreads": None if target is None else TASKS.get(dataset.task).spread(target, dataset.classes),
        "target_weight": config.target_weight,
        "label_smoothing": config.label_smoothing,
        "class_weights": class_weights(config, dataset),
    }
    return make_task(
        dataset.task, metrics=config.metric, monitor=config.monitor, offered=offered, **config.task_options
    )


def weights_of(found: Search) -> dict[str, float]:
    """The share of each complete candidate in the ensemble, the best candidate first."""
    names, judge = found.complete(), found.judge.only(found.known())
    outputs = [found.outputs(name) for name in names]
    return dict(zip(names, greedy_weights(outputs, judge.cost, judge.task.averaged), strict=True))


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
    if TASKS.get(task).embeds:
        raise InputError(
            f"auto averages predictions, and {task} has embeddings in their place; compare methods with "
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


class _Finishing:
    """What comes after a search: the ensemble, the best method alone, the leaderboard, the report."""

    def __init__(self, out: Path, plan: Plan, found: Search) -> None:
        self.out, self.plan, self.found = out, plan, found
        self.judge = found.judge.only(found.known())
        self.task = found.judge.task
        self.weights = self._affordable(weights_of(found))
        self.best = next(iter(self.weights))
        self.outputs = {name: found.outputs(name) for name in self.weights}
        self.tests: dict[str, float | None] = {}
        self.expected_tests: dict[str, float | None] = {}
        self._models: dict[str, list[FusionModel]] = {}

    def run(self) -> AutoResult:
        """Do all of it, as far as time allows; the run's own files come first and last."""
        without = (
            self._without_each() if self._is_time(self._pass_of(self.best, len(self.found.rows)) * self._count) else {}
        )
        for name in self.weights:
            if name != self.best and self._is_time(self._pass_of(name, self._tests)):
                self.tests[name], self.expected_tests[name] = self._tested(self._ensemble([name]))
        expected = bool(self.plan.base.expect_missing)
        alone = self._ensemble([self.best])
        metrics = self._write(self.out / BEST, alone, [self.best], self.found.outputs(self.best, False), lambda _: None)
        self.tests[self.best] = metrics.test.get(self.task.headline)
        if expected:
            self.expected_tests[self.best] = self._tested(alone, intact=False)[1]
        used = [name for name, weight in self.weights.items() if weight > 0]
        ensemble = self._ensemble(used)
        result: list[AutoResult] = []

        def complete(found: RunMetrics) -> None:
            self.tests[ENSEMBLE] = found.test.get(self.task.headline)
            if expected:
                self.expected_tests[ENSEMBLE] = self._tested(ensemble, intact=False)[1]
            result.append(self._result(without))
            self._write_result(result[0])

        if used == [self.best]:
            self._copy(metrics, complete)
        else:
            self._write(self.out, ensemble, used, self._averaged(used, False), complete)
        shutil.rmtree(self.plan.folder, ignore_errors=True)
        return result[0]

    @property
    def _count(self) -> int:
        return len(self.plan.dataset.modalities)

    @property
    def _tests(self) -> int:
        return len(self.plan.dataset.splits["test"])

    def _pass_of(self, name: str, rows: int) -> float:
        """Seconds to predict rows once by all models of a candidate."""
        return rows * sum(piece.predict_seconds for piece in self.found.models_of(name))

    def _needed(self, weights: Mapping[str, float]) -> float:
        """Seconds of what has to be done: both runs are measured, also without each modality and member by member."""
        used = [name for name, weight in weights.items() if weight > 0]
        both = [next(iter(weights)), *used]
        return sum(self._pass_of(name, self._tests) for name in both) * (self._count + 3)

    def _is_time(self, seconds: float) -> bool:
        return self.plan.budget.left(self.found.fixed + self._needed(self.weights)) > seconds

    def _affordable(self, weights: dict[str, float]) -> dict[str, float]:
        """Weights without the smallest shares where there is no time to measure all members."""
        while self.plan.budget.left(self._needed(weights)) < 0:
            shares = {name: weight for name, weight in weights.items() if weight > 0}
            if len(shares) < 2:
                break
            least = min(shares, key=lambda name: shares[name])
            total = 1 - weights[least]
            weights = {name: 0.0 if name == least else weight / total for name, weight in weights.items()}
        return weights

    def _models_of(self, name: str) -> list[FusionModel]:
        if name not in self._models:
            self._models[name] = [piece.member().model() for piece in self.found.models_of(name)]
        return self._models[name]

    def _ensemble(self, names: Sequence[str]) -> FusionModel:
        """The models of candidates as one, each with its candidate's share; of one alone, all the same."""
        models = [model for name in names for model in self._models_of(name)]
        if len(models) == 1:
            return models[0]
        each = [1.0 if len(names) == 1 else self.weights[name] / len(self._models_of(name)) for name in names]
        shares = [share for share, name in zip(each, names, strict=True) for _ in self._models_of(name)]
        return Ensemble(models, shares).eval()

    def _averaged(self, names: Sequence[str], expected: bool | None = None) -> Tensor:
        """What the ensemble of candidates is taken to say of rows that its models were not trained on."""
        outputs = torch.stack([self.found.outputs(name, expected) for name in names])
        shares = torch.tensor([self.weights[name] for name in names], dtype=outputs.dtype)
        averaged: Tensor = self.task.averaged(outputs, shares / shares.sum())
        return averaged

    def _tested(self, model: FusionModel, intact: bool = True) -> tuple[float | None, float | None]:
        """The headline metric on test, as it is and as it is expected to be."""
        test, expected = self.plan.dataset.splits["test"].labelled(), self.plan.base.expect_missing
        asked = [
            *([test] if intact else []),
            *([as_expected(test, expected, self.plan.base.seed, -1)] if expected else []),
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = [self.task.evaluate(model, batches_of(rows)).metrics.get(self.task.headline) for rows in asked]
        return (found[0] if intact else None), (found[-1] if expected else None)

    def _without_each(self) -> dict[str, Tensor]:
        """What the best method's models say of rows that they were not trained on, without each modality in turn."""
        if self._count <= self.task.least_modalities:
            return {}
        found: dict[str, Tensor] = {}
        like = self.outputs[self.best]
        for m in self.plan.dataset.modalities:
            said = torch.full_like(like, torch.nan)
            for f, model in zip(self.found.known(), self._models_of(self.best), strict=True):
                fold = self.found.folds[f]
                rows = self.found.rows.select(fold)
                if self.plan.base.expect_missing:
                    rows = as_expected(rows, self.plan.base.expect_missing, self.plan.base.seed, f)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    outputs = self.task.evaluate(model, batches_of(rows.without([m]))).prediction
                said[torch.from_numpy(fold)] = outputs
            found[m] = said
        return found

    def _write(
        self,
        folder: Path,
        model: FusionModel,
        names: Sequence[str],
        unseen: Tensor,
        complete: Callable[[RunMetrics], None],
    ) -> RunMetrics:
        """Write a run folder."""
        dataset, count = self.plan.dataset, len(self.found.known())
        config = self.found.candidates[names[0]].config(self.plan.base)
        config = replace(config, ensemble=count if count > 1 else None)
        weights = class_weights(config, dataset)
        prepared = Prepared(dataset, model, self.task, Balancer(), weights, resolved_for(config, dataset))
        record = {**record_of(config, prepared), "auto": {name: self.weights[name] for name in names}}
        write_yaml(folder / CONFIG, {**config.to_dict(), RECORD: record})
        write_columns(folder / SPLIT, split_columns(dataset))
        pieces = [(name, piece.member()) for name in names for piece in self.found.models_of(name)]
        members, methods = [member for _, member in pieces], [name for name, _ in pieces]
        bag = Bag(members, self.found.rows, unseen)
        return finish_ensemble(
            folder, model, members, methods, prepared, bag, config, resume=True, keep=True, before_last=complete
        )

    def _copy(self, metrics: RunMetrics, complete: Callable[[RunMetrics], None]) -> None:
        """The best method's run is also the whole one where nothing adds to it; its metrics are last, as ever."""
        for path in (self.out / BEST).iterdir():
            if path.is_dir():
                shutil.copytree(path, self.out / path.name, dirs_exist_ok=True)
            elif path.name != METRICS:
                shutil.copy2(path, self.out / path.name)
        complete(metrics)
        write_json(self.out / METRICS, metrics.to_dict())

    def _result(self, without: Mapping[str, Tensor]) -> AutoResult:
        used = [name for name, weight in self.weights.items() if weight > 0]
        ensemble = self._averaged(used)
        said = report(self.judge, self.outputs, self.weights, ensemble, sum(map(len, self.judge.folds)), without)
        tested = self.tests.get(ENSEMBLE)
        if tested is not None:
            alone = self.tests[self.best]
            other = f", of {self.best} alone {alone:.4f}" if alone is not None and used != [self.best] else ""
            said.append(
                f"On the {self._tests:,} test rows, which decided nothing, {self.task.headline} is {tested:.4f}{other}."
            )
        said += self._untried()
        return AutoResult(
            path=str(self.out),
            task=self.task.name,
            headline=self.task.headline,
            selected_by=self.task.monitor,
            entries=[self._entry_of_all(ensemble), *map(self._entry, self._ranked())],
            report=said,
            seconds=self.plan.budget.elapsed(),
        )

    def _untried(self) -> list[str]:
        """What there was no time for, or failed."""
        late = [name for name, note in self.found.notes.items() if note.startswith("no time")]
        failed = [n for n in self.found.notes if any(p.failed for (c, _), p in self.found.pieces.items() if c == n)]
        said = [f"There was no time to finish {', '.join(late)}; a longer --time-limit has it."] if late else []
        return said + ([f"Failed: {', '.join(f'{n} ({self.found.notes[n]})' for n in failed)}."] if failed else [])

    def _ranked(self) -> list[str]:
        """All candidates that were tried: complete ones first, then by what is known of them."""
        others = [name for name in self.found.candidates if name not in self.weights]
        return [*self.weights, *sorted(others, key=self.found.mean_cost)]

    def _entry_of_all(self, outputs: Tensor) -> Entry:
        used = [name for name, weight in self.weights.items() if weight > 0]
        entries = [self._entry(name) for name in used]
        expected = bool(self.plan.base.expect_missing)
        return Entry(
            method=ENSEMBLE,
            models=sum(entry.models for entry in entries),
            loss=_finite(self.judge.sign * self.judge.cost(outputs)),
            score=self.judge.value(self._averaged(used, False), self.task.headline),
            expected_score=self.judge.value(outputs, self.task.headline) if expected else None,
            test=self.tests.get(ENSEMBLE),
            expected_test=self.expected_tests.get(ENSEMBLE),
            weight=1.0,
            fit_seconds=sum(entry.fit_seconds for entry in entries),
            predict_seconds=sum(entry.predict_seconds for entry in entries),
            megabytes=sum(entry.megabytes for entry in entries),
        )

    def _entry(self, name: str) -> Entry:
        found = self.found
        pieces = [piece for (other, _), piece in found.pieces.items() if other == name]
        good = [piece for piece in pieces if piece.failed is None]
        folds = sorted(piece.fold for piece in good)
        headline, expected = self.task.headline, bool(self.plan.base.expect_missing)
        cost = found.mean_cost(name)
        return Entry(
            method=name,
            settings=dict(found.candidates[name].settings),
            models=len(good),
            loss=_finite(self.judge.sign * cost),
            score=found.judge.value(found.outputs(name, False), headline, folds) if good else None,
            expected_score=found.judge.value(found.outputs(name), headline, folds) if good and expected else None,
            test=self.tests.get(name),
            expected_test=self.expected_tests.get(name),
            weight=self.weights.get(name, 0.0),
            fit_seconds=sum(piece.seconds for piece in pieces),
            predict_seconds=1000 * sum(piece.predict_seconds for piece in good),
            megabytes=sum(piece.megabytes for piece in good),
            note=None if name in self.weights else found.notes.get(name),
        )

    def _write_result(self, result: AutoResult) -> None:
        header, rows = result.table(full=True)
        columns = list(zip(*rows, strict=True))
        write_columns(self.out / BOARD, {n: np.array(c, dtype=object) for n, c in zip(header, columns, strict=True)})
        write_text(self.out / WORDS, "\n".join(result.report) + "\n")
        write_json(self.out / FOUND, result.to_dict())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
