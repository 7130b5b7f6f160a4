"""Cross-validation: a run for each fold, the predictions of rows that no model saw, and how far scores scatter."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from equifuse._display import html_table, short_text
from equifuse.data import MultimodalDataset, Split
from equifuse.data.assemble import ROW
from equifuse.errors import DataError, InputError
from equifuse.evaluation.evaluate import evaluate_quietly
from equifuse.files import locked, read_json, read_yaml, refuse_existing, write_json, write_yaml
from equifuse.records import OPTIONAL, Record
from equifuse.registry import TASKS
from equifuse.runs.choosing import chosen_by_validation
from equifuse.runs.config import TrainConfig
from equifuse.runs.folder import CONFIG, METRICS, SPLIT, PathLike, Run, load_run
from equifuse.runs.folds import every_fold, load_whole, pooled
from equifuse.runs.output import write_columns
from equifuse.runs.predict import predict_split
from equifuse.runs.progress import count_bar
from equifuse.runs.settings import RECORD, read_config
from equifuse.runs.training import train, with_full_paths
from equifuse.tasks import Columns, Task

PREDICTIONS, TEST_PREDICTIONS, FOLDS = "predictions.csv", "test_predictions.csv", "folds"
_LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Spread(Record):
    """A metric over folds.

    >>> Spread.of([0.8, 0.9, None], test_share=0.25).mean
    0.8500000000000001

    Attributes:
        mean: of the folds that have a value; None where none has.
        deviation: their standard deviation; None for fewer than two.
        interval: of 95 % for the mean, or None for fewer than two. Folds share most of their training rows, so that
            their scores vary less than those of new data; the variance is corrected for that (Nadeau and Bengio 2003).
        by_fold: value of every fold, None where it is undefined.
    """

    mean: float | None
    deviation: float | None
    interval: tuple[float, float] | None
    by_fold: list[float | None]

    @classmethod
    def of(cls, values: list[float | None], test_share: float, most: float = math.inf) -> Spread:
        """Mean, deviation and interval.

        Args:
            values: of every fold.
            test_share: rows that a fold tests on by rows that it does not, ``n_test / n_train``; 0 where what is
                tested on is the same for all.
            most: the largest value that there can be; the interval ends there.
        """
        known = [value for value in values if value is not None]
        if not known:
            return cls(None, None, None, values)
        mean = float(np.mean(known))
        if len(known) < 2:
            return cls(mean, None, None, values)
        from scipy.stats import t  # noqa: PLC0415 - it takes a moment to import

        deviation = float(np.std(known, ddof=1))
        reach = float(t.ppf((1 + _LEVEL) / 2, len(known) - 1)) * deviation * math.sqrt(1 / len(known) + test_share)
        return cls(mean, deviation, (mean - reach, min(mean + reach, most)), values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From stored values."""
        interval = values.get("interval")
        return super().from_dict({**values, "interval": None if interval is None else tuple(interval)})


@dataclass(frozen=True, eq=False, kw_only=True)
class CrossValidation(Record):
    """The result of :func:`cross_validate`.

    >>> config = TrainConfig("digits", fusion="concat", epochs=1, cv=2)
    >>> found = cross_validate(config, "cv", progress=False)
    >>> found.rows, len(found.metrics["accuracy"].by_fold)
    (1438, 2)

    Attributes:
        path: the folder.
        task: name of the task.
        headline: the metric to show where there is room for one.
        rows: that were cross-validated.
        folds: in each repeat.
        repeats: how often.
        metrics: metric -> its :class:`Spread` over the folds, each on rows that its model has not seen.
        test: the same on the source's own test part, which no fold has; None where it has none.
        undefined: metric -> why it has no value in some fold.
        chosen: option -> what each fold chose; None where there was nothing to choose.
    """

    path: str
    task: str
    headline: str
    rows: int
    folds: int
    repeats: int
    metrics: dict[str, Spread]
    test: dict[str, Spread] | None = field(default=None, metadata=OPTIONAL)
    undefined: dict[str, str] = field(default_factory=dict)
    chosen: list[dict[str, Any]] | None = field(default=None, metadata=OPTIONAL)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From what ``metrics.json`` holds."""
        spreads = {
            part: {name: Spread.from_dict(spread) for name, spread in values[part].items()}
            for part in ("metrics", "test")
            if values.get(part) is not None
        }
        return super().from_dict({**values, **spreads})

    def __repr__(self) -> str:
        return short_text(self._title(), self._table())

    def _repr_html_(self) -> str:
        return html_table(self._title(), ["metric", "mean", "95 % interval"], self._table())

    def _title(self) -> str:
        times = f", {self.repeats} times" if self.repeats > 1 else ""
        return f"{self.folds}-fold cross-validation of {self.rows} rows{times}"

    def _table(self) -> list[list[str]]:
        def shown(found: Spread) -> list[str]:
            interval = "" if found.interval is None else f"{found.interval[0]:.4f} to {found.interval[1]:.4f}"
            return ["–" if found.mean is None else f"{found.mean:.4f}", interval]

        return [[name, *shown(spread)] for name, spread in self.metrics.items()]


def cross_validate(
    config: TrainConfig,
    out: PathLike,
    *,
    resume: bool = False,
    progress: bool = True,
    choose: Callable[[TrainConfig], TrainConfig] | None = None,
    on_data: Callable[[MultimodalDataset], None] | None = None,
) -> CrossValidation:
    """Train a run for each fold, and put the scores and predictions of rows that no model saw together.

    >>> config = TrainConfig("digits", fusion="concat", epochs=1, cv=2)
    >>> found = cross_validate(config, "cv", progress=False)
    >>> low, high = found.metrics["accuracy"].interval
    >>> low < found.metrics["accuracy"].mean < high
    True

    A fold's rows are its test part; of the others, ``val_fraction`` is held out to stop early. A test part that the
    source itself names is in no fold: each model predicts it.

    The folder holds ``config.yaml``, ``split.csv`` (the fold of each row in each repeat), ``predictions.csv`` (every
    row once in each repeat, by the model that has not seen it, beside its target), ``test_predictions.csv`` where
    there is a test part, ``metrics.json``, and ``folds/``, a run folder each.

    Args:
        config: what to train, with ``cv`` and perhaps ``repeats``.
        out: folder to create.
        resume: go on with what is there; no finished fold is repeated.
        progress: show a bar on standard error.
        choose: given the configuration of a fold, returns the one to train with; for nested tuning beyond the
            configuration's own ``choose``, which may use the fold's training and validation parts
            (``equifuse.runs.folder.load_data`` reads them).
        on_data: called with the data before anything is made of them.

    Raises:
        OutputExistsError: ``out`` exists and ``resume`` is False.
        OutputError: another process writes there, the disk is full, or the folder is not writable.
        DataError: the data cannot be used or have changed since, or nothing can be resumed.
        InputError: ``cv`` is missing, or too many folds for the rows or groups.
    """
    if config.cv is None or config.fold is not None:
        raise InputError("say with cv how many folds there are to be")
    out = Path(out)
    config = with_full_paths(config)
    if not resume:
        refuse_existing(out)
    elif not (out / CONFIG).is_file():
        raise DataError(f"nothing to resume at {out}: it has no {CONFIG}")
    elif TrainConfig.from_dict(read_config(out / CONFIG)) != config:
        raise InputError(f"the cross-validation at {out} has other options; resume it with the same")
    if (out / METRICS).is_file():
        return CrossValidation.from_dict(read_json(out / METRICS))
    with locked(out, resume=resume):
        return _cross_validate(config, out, progress, choose, on_data)


def _cross_validate(
    config: TrainConfig,
    out: Path,
    progress: bool,
    choose: Callable[[TrainConfig], TrainConfig] | None,
    on_data: Callable[[MultimodalDataset], None] | None,
) -> CrossValidation:
    """Cross-validate into a folder that is this process's own."""
    dataset = load_whole(config)
    if on_data is not None:
        on_data(dataset)
    record = {"data": {"fingerprint": dataset.fingerprint()}}
    if (out / CONFIG).is_file() and read_yaml(out / CONFIG).get(RECORD, record) != record:
        raise DataError(
            f"data set {config.data!r} has changed since {out} was started; use another folder, or put it back"
        )
    rows = pooled(dataset)
    every = every_fold(rows, dataset.task, config)
    each = len(every) // config.repeats
    write_yaml(out / CONFIG, {**config.to_dict(), RECORD: record})
    write_columns(out / SPLIT, _fold_columns(rows, [test for _, test in every], each))

    outer = None if "test" in dataset.drawn else dataset.splits["test"]
    tested: list[Columns] = []
    predicted: list[Columns] = []
    scores: list[dict[str, float | None]] = []
    outer_scores: list[dict[str, float | None]] = []
    undefined: dict[str, str] = {}
    choices: list[dict[str, Any]] = []
    with count_bar(len(every), progress, "training", "folds") as advance:
        for number, (_, test) in enumerate(every):
            fold = replace(config, fold=number)
            folder = out / FOLDS / f"{number + 1:0{len(str(len(every)))}d}"
            chosen = fold if choose is None else choose(fold)
            if chosen.choose:
                known = (folder / CONFIG).is_file()
                chosen = TrainConfig.from_dict(read_config(folder / CONFIG)) if known else chosen_by_validation(chosen)
            choices.append({name: getattr(chosen, name) for name in config.choose})
            result = train(chosen, folder, resume=(folder / CONFIG).is_file(), progress=False)
            assert result.metrics is not None
            scores.append(result.metrics.test)
            undefined |= (result.metrics.undefined or {}).get("test", {})
            run = load_run(folder)
            place = {"repeat": number // each + 1, "fold": number % each + 1}
            predicted.append(_predictions(run, rows.select(test), place))
            if outer is not None:
                tested.append(_predictions(run, outer, place))
                outer_scores.append(evaluate_quietly(run.model, run.task, dataset).metrics)
            advance(folder.name)
    share = float(np.mean([len(test) / len(learn) for learn, test in every]))
    found = CrossValidation(
        path=str(out),
        task=dataset.task,
        headline=run.task.headline,
        rows=len(rows),
        folds=each,
        repeats=config.repeats,
        metrics=_spreads(scores, share, run.task),
        test=None if outer is None else _spreads(outer_scores, 0.0, run.task),
        undefined=undefined,
        chosen=choices if config.choose else None,
    )
    write_columns(out / PREDICTIONS, _stacked(predicted))
    if tested:
        write_columns(out / TEST_PREDICTIONS, _stacked(tested))
    write_json(out / METRICS, found.to_dict())
    return found


def _spreads(scores: list[dict[str, float | None]], share: float, task: Task) -> dict[str, Spread]:
    found = {}
    for name in dict.fromkeys(name for each in scores for name in each):
        values = [each.get(name) for each in scores]
        # Accuracy, F1, AUC, R2 and the like are 1 at best.
        bounded = task.metric(name).mode == "max" and all(value is None or value <= 1 for value in values)
        found[name] = Spread.of(values, share, 1.0 if bounded else math.inf)
    return found


def _names(rows: Split) -> Columns:
    """What tells the rows apart."""
    if rows.ids is not None:
        return {"id": rows.ids}
    return {ROW: rows.columns.get(ROW, np.arange(len(rows)))}


def _fold_columns(rows: Split, tests: list[Any], each: int) -> Columns:
    """The fold of each row in each repeat; 0 where it is in none, as the oldest rows of a split by time."""
    found = dict(_names(rows))
    for repeat in range(len(tests) // each):
        fold = np.zeros(len(rows), dtype=np.int64)
        for number, test in enumerate(tests[repeat * each : (repeat + 1) * each]):
            fold[test] = number + 1
        found[f"fold_{repeat + 1}" if len(tests) > each else "fold"] = fold
    return {**found, **{name: column for name, column in rows.columns.items() if name not in found}}


def _predictions(run: Run, rows: Split, place: Mapping[str, int]) -> Columns:
    """Rows beside their targets and what a fold's model says of them."""
    task = TASKS.get(run.task.name)
    target = {} if rows.target is None else task.targets.columns(rows.target, run.model.classes)
    said = {name: column for name, column in predict_split(run, rows).items() if name not in ("id", ROW)}
    where = {name: np.full(len(rows), number) for name, number in place.items()}
    return {**_names(rows), **where, **target, **said}


def _stacked(pieces: list[Columns]) -> Columns:
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
