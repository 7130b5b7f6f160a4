"""From the rows of the store to the numbers of the report."""

from __future__ import annotations

import math
import statistics as st
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np

from equifuse._display import html_table, listed, short_text
from equifuse.benchmark.config import BenchmarkConfig
from equifuse.benchmark.job import INTACT
from equifuse.benchmark.sets import SetInfo
from equifuse.benchmark.space import DEFAULT_SPACE
from equifuse.benchmark.statistics import holm, mean_interval, paired_test, ranking, signed_rank_test
from equifuse.benchmark.store import Row
from equifuse.evaluation.conditions import kind_of
from equifuse.records import Record, stored_as
from equifuse.tasks import make_task
from equifuse.training.protocol import CLEAN, LOOSE

# Differences below this level, after correction, count as wins and losses.
_LEVEL = 0.05

# Data set -> method -> seed -> value.
_Values = dict[str, dict[str, dict[int, float]]]


@dataclass(frozen=True, eq=False)
class Score(Record):
    """A method's headline metric on a data set.

    Attributes:
        mean: over the seeds.
        interval: half of Student's 95 % interval; None for a single seed.
        by_seed: seed as text -> value; stored as ``values``.
    """

    mean: float
    interval: float | None
    by_seed: dict[str, float] = field(metadata=stored_as("values"))


@dataclass(frozen=True, eq=False)
class Measure(Record):
    """Mean and sample standard deviation of a metric over the seeds; the latter is 0 for a single one."""

    mean: float
    deviation: float


@dataclass(frozen=True, eq=False)
class RankTable(Record):
    """Ranks over the data sets on which every method has a result.

    Attributes:
        sets: their names.
        ranks: method -> average rank, 1 the best.
        friedman: p-value of Friedman's test that all methods are alike, or None.
        critical: Nemenyi's critical difference, or None.
        first: method -> number of data sets on which its mean is the best.
    """

    sets: list[str] = field(default_factory=list)
    ranks: dict[str, float] = field(default_factory=dict)
    friedman: float | None = None
    critical: float | None = None
    first: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Pair(Record):
    """Two methods compared.

    Attributes:
        a: a method.
        b: another one.
        sets: number of data sets on which both have a result.
        higher: on how many of them ``a`` has the better mean.
        p: of Wilcoxon's signed-rank test over the data sets; on one data set, of the paired t-test over the seeds.
        win: data sets on which ``a`` is better, by the paired t-test over the seeds, corrected over the data sets.
        tie: data sets on which neither is.
        loss: data sets on which ``b`` is better.
        p_holm: ``p`` corrected for the number of pairs.
    """

    a: str
    b: str
    sets: int
    higher: int
    p: float | None
    win: int
    tie: int
    loss: int
    p_holm: float | None = None


@dataclass(frozen=True, eq=False)
class SetSummary(Record):
    """A data set; see :class:`~equifuse.benchmark.sets.SetInfo`."""

    source: str
    task: str
    fingerprint: str
    rows: dict[str, int]
    modalities: dict[str, int]
    outputs: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False)
class MethodConvergence(Record):
    """How a method's equilibria on the test samples went, over all its runs.

    Attributes:
        runs: how many.
        converged: share of the samples that reached the tolerance.
        worst: the same of the worst run.
        steps_at_start: evaluations per sample before training.
        steps: evaluations per sample after training.
        most_steps: the most of a sample.
        residual: the largest relative residual.
    """

    runs: int
    converged: float
    worst: float
    steps_at_start: float
    steps: float
    most_steps: float
    residual: float


@dataclass(frozen=True, eq=False)
class Costs(Record):
    """What a method costs, geometric means over its runs; None where nothing was measured.

    Attributes:
        parameters: of the whole model.
        flops: of one sample's forward pass.
        train_seconds: of a training.
    """

    parameters: float | None
    flops: float | None
    train_seconds: float | None


@dataclass(frozen=True, eq=False)
class Circumstances(Record):
    """When and on what a benchmark was made, in words."""

    date: str
    machine: str
    versions: str


@dataclass(frozen=True, eq=False)
class Summary(Record):
    """Everything a benchmark's report says; ``summary.json`` holds the same under the same names.

    Attributes:
        metrics: data set -> its headline metric.
        better: data set -> ``"max"`` or ``"min"``, which way that is better.
        sets: the data sets by name.
        methods: labels.
        seeds: how many.
        scores: protocol -> data set -> method -> the headline metric on the intact test part.
        ranking: ranks over the data sets, by the clean protocol.
        pairs: every two methods compared.
        conditions_by_set: condition -> data set -> method -> share of the intact score that is left (of an error, the
            intact one over the damaged one), mean over seeds and modalities.
        conditions: condition -> method -> its mean over the data sets.
        convergence: method -> how its equilibria went; without those that solve for none.
        costs: method -> parameters, FLOPs, seconds.
        tuned: data set -> method -> the options that tuning chose.
        difference: data set -> method -> loose mean less clean mean.
        measures: data set -> method -> metric -> mean and deviation on the intact test part, by the clean protocol.
        failures: what has no result because it failed, and why.
        skipped: pairs of method and data set that do not fit, and why.
        undefined: metrics that have no value somewhere, and why.
        command: what was typed.
        made: when and on what.
    """

    metrics: dict[str, str]
    better: dict[str, str]
    sets: dict[str, SetSummary]
    methods: list[str]
    seeds: int
    scores: dict[str, dict[str, dict[str, Score]]]
    ranking: RankTable
    pairs: list[Pair]
    conditions_by_set: dict[str, dict[str, dict[str, float]]]
    conditions: dict[str, dict[str, float]]
    convergence: dict[str, MethodConvergence]
    costs: dict[str, Costs]
    tuned: dict[str, dict[str, dict[str, Any]]]
    difference: dict[str, dict[str, float]]
    measures: dict[str, dict[str, dict[str, Measure]]]
    failures: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    undefined: list[str] = field(default_factory=list)
    command: str = ""
    made: Circumstances | None = None

    def __repr__(self) -> str:
        rows: list[list[object]] = [
            ["methods", listed(self.methods)],
            ["data sets", listed(self.sets)],
            ["seeds", self.seeds],
        ]
        if len(self.ranking.ranks) > 1:
            ranks = sorted(self.ranking.ranks.items(), key=lambda pair: pair[1])
            rows.append(["average ranks", listed(f"{label} {rank:.2f}" for label, rank in ranks)])
        problems = len(self.failures) + len(self.skipped)
        return short_text("Benchmark", [*rows, *([["without a result", problems]] if problems else [])])

    def _repr_html_(self) -> str:
        labels = self.methods
        rows = []
        for name, methods in self.scores[CLEAN].items():
            cells = [f"{methods[label].mean:.4f}" if label in methods else "–" for label in labels]
            rows.append([name, self.metrics[name], *cells])
        return html_table(f"Benchmark: means over {self.seeds} seeds", ["data", "metric", *labels], rows)


def summarise(config: BenchmarkConfig, sets: Mapping[str, SetInfo], rows: Sequence[Row]) -> Summary:
    """The numbers of a benchmark's report.

    Args:
        config: what was compared.
        sets: the data sets by name.
        rows: the store's rows of that configuration.
    """
    tasks = {
        name: make_task(found.task, metrics=_asked(config), offered={"classes": found.outputs})
        for name, found in sets.items()
    }
    metrics = {name: task.headline for name, task in tasks.items()}
    better = {name: task.metric(task.headline).mode for name, task in tasks.items()}
    signs = {name: 1.0 if mode == "max" else -1.0 for name, mode in better.items()}
    runs = [row for row in rows if row.trial is None and row.error is None]
    labels = [method.label for method in config.methods]
    values = {protocol: _values(runs, metrics, protocol, INTACT) for protocol in config.protocols}
    scores = {
        protocol: {name: {m: _described(by) for m, by in methods.items()} for name, methods in found.items()}
        for protocol, found in values.items()
    }
    left = _conditions(runs, metrics, signs, labels)
    return Summary(
        metrics=metrics,
        better=dict(better),
        sets={
            name: SetSummary(found.source, found.task, found.fingerprint, found.rows, found.modalities, found.outputs)
            for name, found in sets.items()
        },
        methods=labels,
        seeds=len(config.seeds),
        scores=scores,
        ranking=_ranking(values[CLEAN], signs, labels),
        pairs=_pairs(values[CLEAN], signs, labels),
        conditions_by_set=left,
        conditions={condition: _averaged(by_set, labels) for condition, by_set in left.items()},
        convergence=_convergence(runs, labels),
        costs=_costs(runs, labels),
        tuned=_tuned(config, rows),
        difference=_differences(scores, labels) if LOOSE in scores else {},
        measures=_measures(runs),
        undefined=_undefined(runs),
        failures=[f"{row.method} on {row.data}, seed {row.seed}: {row.error}" for row in rows if row.error],
    )


def _undefined(rows: Sequence[Row]) -> list[str]:
    """One line for each metric, data set and reason."""
    lines = {
        f"{metric} on {row.data}: {why}": None
        for row in rows
        for reasons in (row.info.undefined or {}).values()
        for metric, why in reasons.items()
    }
    return list(lines)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _measures(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, Measure]]]:
    found: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in rows:
        for metric, value in row.scores.get(INTACT, {}).items() if row.protocol == CLEAN else ():
            found[row.data][row.method][metric].append(value)
    return {
        name: {label: {metric: _measure(values) for metric, values in by.items()} for label, by in methods.items()}
        for name, methods in found.items()
    }


def _measure(values: list[float]) -> Measure:
    return Measure(st.fmean(values), st.stdev(values) if len(values) > 1 else 0.0)


def _values(rows: Sequence[Row], metrics: Mapping[str, str], protocol: str, condition: str) -> _Values:
    found: _Values = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        value = row.scores.get(condition, {}).get(metrics[row.data])
        if row.protocol == protocol and value is not None:
            found[row.data][row.method][row.seed] = value
    return found


def _described(by_seed: Mapping[int, float]) -> Score:
    mean, half = mean_interval(list(by_seed.values()))
    return Score(mean, _known(half), {str(seed): value for seed, value in sorted(by_seed.items())})


def _asked(config: BenchmarkConfig) -> tuple[str, ...]:
    """The metrics that the trainings are asked for, the first of which is the headline."""
    asked = config.settings.get("metric") or ()
    return (asked,) if isinstance(asked, str) else tuple(asked)


def _complete(values: _Values, labels: Sequence[str]) -> list[str]:
    """Data sets on which every method has a result."""
    return [name for name, methods in values.items() if all(label in methods for label in labels)]


def _ranked_labels(values: _Values, labels: Sequence[str]) -> list[str]:
    """Methods that have a result on any data set; one that fits none would leave nothing to rank the others by."""
    return [label for label in labels if any(label in methods for methods in values.values())]


def _means(values: _Values, signs: Mapping[str, float], names: Sequence[str], labels: Sequence[str]) -> Any:
    return np.array(
        [[signs[name] * st.fmean(values[name][label].values()) for label in labels] for name in names]
    ).reshape(len(names), len(labels))


def _ranking(values: _Values, signs: Mapping[str, float], labels: Sequence[str]) -> RankTable:
    labels = _ranked_labels(values, labels)
    names = _complete(values, labels)
    if not names:
        return RankTable()
    scores = _means(values, signs, names, labels)
    found = ranking(scores)
    best = scores.max(axis=1, keepdims=True)
    return RankTable(
        names,
        dict(zip(labels, found.ranks.tolist(), strict=True)),
        _known(found.friedman),
        _known(found.critical),
        dict(zip(labels, (scores == best).sum(axis=0).tolist(), strict=True)),
    )


def _pairs(values: _Values, signs: Mapping[str, float], labels: Sequence[str]) -> list[Pair]:
    found: list[Pair] = []
    raw: list[float] = []
    for a, b in combinations(labels, 2):
        names = _complete(values, (a, b))
        if not names:
            continue
        scores = _means(values, signs, names, (a, b))
        p_values, ahead = [], []
        for name in names:
            seeds = sorted(set(values[name][a]) & set(values[name][b]))
            sign = signs[name]
            x, y = ([sign * values[name][label][seed] for seed in seeds] for label in (a, b))
            p_values.append(paired_test(x, y))
            ahead.append(math.copysign(1.0, sum(x) - sum(y)))
        significant = [p < _LEVEL for p in holm(p_values)]
        wins = sum(s > 0 for s, clear in zip(ahead, significant, strict=True) if clear)
        losses = sum(s < 0 for s, clear in zip(ahead, significant, strict=True) if clear)
        raw.append(p_values[0] if len(names) == 1 else signed_rank_test(scores[:, 0], scores[:, 1]))
        higher = int((scores[:, 0] > scores[:, 1]).sum())
        found.append(Pair(a, b, len(names), higher, _known(raw[-1]), wins, len(names) - wins - losses, losses))
    return [replace(pair, p_holm=_known(p)) for pair, p in zip(found, holm(raw), strict=True)]


def _conditions(
    rows: Sequence[Row], metrics: Mapping[str, str], signs: Mapping[str, float], labels: Sequence[str]
) -> dict[str, dict[str, dict[str, float]]]:
    left: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in rows:
        metric = metrics[row.data]
        intact = row.scores.get(INTACT, {}).get(metric)
        if row.protocol != CLEAN or not intact:
            continue
        for condition, found in row.scores.items():
            value = found.get(metric)
            if condition != INTACT and value:
                share = value / intact if signs[row.data] > 0 else intact / value
                left[kind_of(condition)][row.data][row.method].append(share)
    return {
        condition: {name: {m: st.fmean(by[m]) for m in labels if m in by} for name, by in by_set.items()}
        for condition, by_set in left.items()
    }


def _averaged(by_set: Mapping[str, Mapping[str, float]], labels: Sequence[str]) -> dict[str, float]:
    found = {label: [by[label] for by in by_set.values() if label in by] for label in labels}
    return {label: st.fmean(values) for label, values in found.items() if values}


def _convergence(rows: Sequence[Row], labels: Sequence[str]) -> dict[str, MethodConvergence]:
    found = {}
    for label in labels:
        infos = [row.info for row in rows if row.method == label and row.info.convergence is not None]
        ends = [info.convergence for info in infos if info.convergence is not None]
        starts = [info.convergence_at_start for info in infos if info.convergence_at_start is not None]
        if ends and starts:
            found[label] = MethodConvergence(
                runs=len(ends),
                converged=st.fmean(end.converged for end in ends),
                worst=min(end.converged for end in ends),
                steps_at_start=st.fmean(start.mean_steps for start in starts),
                steps=st.fmean(end.mean_steps for end in ends),
                most_steps=max(end.max_steps for end in ends),
                residual=max(end.max_residual for end in ends),
            )
    return found


def _costs(rows: Sequence[Row], labels: Sequence[str]) -> dict[str, Costs]:
    """Geometric means over the runs: data sets differ by orders of magnitude."""
    found = {}
    for label in labels:
        infos = [row.info for row in rows if row.method == label and row.protocol == CLEAN]
        if infos:
            found[label] = Costs(
                _middle(info.parameters for info in infos),
                _middle(info.flops for info in infos),
                _middle(info.train_seconds for info in infos),
            )
    return found


def _middle(values: Iterable[float | None]) -> float | None:
    known = [float(value) for value in values if value]
    return st.geometric_mean(known) if known else None


def _tuned(config: BenchmarkConfig, rows: Sequence[Row]) -> dict[str, dict[str, dict[str, Any]]]:
    """Data set -> method -> the options that tuning chose."""
    if not config.trials:
        return {}
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    first = {(row.data, row.method): row for row in rows if row.trial is None and row.protocol == CLEAN}
    for method in config.methods:
        space = {**(config.space or DEFAULT_SPACE), **method.space}
        for (name, label), row in first.items():
            if label == method.label and not method.fitted:
                found[name][label] = {option: _option(row.config, option) for option in space}
    return found


def _option(config: Mapping[str, Any], path: str) -> Any:
    value: Any = config
    for step in path.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _differences(
    scores: Mapping[str, Mapping[str, Mapping[str, Score]]], labels: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Data set -> method -> loose mean less clean mean."""
    return {
        name: {
            label: scores[LOOSE][name][label].mean - methods[label].mean
            for label in labels
            if label in methods and label in scores[LOOSE].get(name, {})
        }
        for name, methods in scores[CLEAN].items()
    }
