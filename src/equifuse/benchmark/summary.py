"""From the rows of the store to the numbers of the report."""

from __future__ import annotations

import math
import statistics as st
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from equifuse.benchmark.config import BenchmarkConfig
from equifuse.benchmark.job import INTACT
from equifuse.benchmark.sets import SetInfo
from equifuse.benchmark.space import DEFAULT_SPACE
from equifuse.benchmark.statistics import holm, mean_interval, paired_test, ranking, signed_rank_test
from equifuse.benchmark.store import Row
from equifuse.evaluation.conditions import kind_of
from equifuse.tasks import make_task
from equifuse.tasks.base import direction
from equifuse.training.protocol import CLEAN, LOOSE

# Differences below this level, after correction, count as wins and losses.
_LEVEL = 0.05

Summary = dict[str, Any]
# Data set -> method -> seed -> value.
_Values = dict[str, dict[str, dict[int, float]]]


def summarise(config: BenchmarkConfig, sets: Mapping[str, SetInfo], rows: Sequence[Row]) -> Summary:
    """Everything the report says, as plain values; NaN is None.

    - ``scores``: protocol -> data set -> method -> ``mean``, ``interval`` (half the 95 % one over seeds), ``values`` by
      seed, of the task's headline metric on the intact test part;
    - ``ranking``: average ranks over the data sets on which every method has a result, Friedman's test, the critical
      difference; ``pairs``: for each pair of methods Wilcoxon's signed-rank test over those sets, corrected by Holm's
      method, and wins, ties and losses, each by paired t-tests over seeds, corrected over the data sets;
    - ``conditions_by_set``: condition -> data set -> method -> share of the intact score that is left (of an error,
      the intact one over the damaged one), mean over seeds and modalities; ``conditions``: its mean over data sets;
    - ``convergence``, ``costs``, ``tuned``, ``difference`` (loose less clean), ``failures``.

    Args:
        config: what was compared.
        sets: the data sets by name.
        rows: the store's rows of that configuration.
    """
    metrics = {name: make_task(found.task).headline for name, found in sets.items()}
    runs = [row for row in rows if row.trial is None and row.error is None]
    labels = [method.label for method in config.methods]
    values = {protocol: _values(runs, metrics, protocol, INTACT) for protocol in config.protocols}
    scores = {
        protocol: {name: {m: _described(by) for m, by in methods.items()} for name, methods in found.items()}
        for protocol, found in values.items()
    }
    summary: Summary = {
        "metrics": metrics,
        "better": {name: direction(metric) for name, metric in metrics.items()},
        "sets": {name: _set(found) for name, found in sets.items()},
        "methods": labels,
        "seeds": len(config.seeds),
        "scores": scores,
        "ranking": _ranking(values[CLEAN], metrics, labels),
        "pairs": _pairs(values[CLEAN], metrics, labels),
        "conditions_by_set": (left := _conditions(runs, metrics, labels)),
        "conditions": {condition: _averaged(by_set, labels) for condition, by_set in left.items()},
        "convergence": _convergence(runs, labels),
        "costs": _costs(runs, labels),
        "tuned": _tuned(config, rows),
        "difference": _differences(scores, labels) if LOOSE in scores else {},
        "failures": [f"{row.method} on {row.data}, seed {row.seed}: {row.error}" for row in rows if row.error],
    }
    return _plain(summary)  # type: ignore[no-any-return]


def _values(rows: Sequence[Row], metrics: Mapping[str, str], protocol: str, condition: str) -> _Values:
    found: _Values = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        value = row.scores.get(condition, {}).get(metrics[row.data])
        if row.protocol == protocol and value is not None:
            found[row.data][row.method][row.seed] = value
    return found


def _described(by_seed: Mapping[int, float]) -> dict[str, Any]:
    mean, half = mean_interval(list(by_seed.values()))
    return {"mean": mean, "interval": half, "values": {str(seed): value for seed, value in sorted(by_seed.items())}}


def _set(found: SetInfo) -> dict[str, Any]:
    return {
        "source": found.source,
        "task": found.task,
        "fingerprint": found.fingerprint,
        "rows": found.rows,
        "modalities": found.modalities,
    }


def _sign(metric: str) -> float:
    return 1.0 if direction(metric) == "max" else -1.0


def _complete(values: _Values, labels: Sequence[str]) -> list[str]:
    """Data sets on which every method has a result."""
    return [name for name, methods in values.items() if all(label in methods for label in labels)]


def _ranked_labels(values: _Values, labels: Sequence[str]) -> list[str]:
    """Methods that have a result on any data set; one that fits none would leave nothing to rank the others by."""
    return [label for label in labels if any(label in methods for methods in values.values())]


def _means(values: _Values, metrics: Mapping[str, str], names: Sequence[str], labels: Sequence[str]) -> Any:
    return np.array(
        [[_sign(metrics[name]) * st.fmean(values[name][label].values()) for label in labels] for name in names]
    ).reshape(len(names), len(labels))


def _ranking(values: _Values, metrics: Mapping[str, str], labels: Sequence[str]) -> dict[str, Any]:
    labels = _ranked_labels(values, labels)
    names = _complete(values, labels)
    if not names:
        return {"sets": [], "ranks": {}, "friedman": None, "critical": None, "first": {}}
    scores = _means(values, metrics, names, labels)
    found = ranking(scores)
    best = scores.max(axis=1, keepdims=True)
    return {
        "sets": names,
        "ranks": dict(zip(labels, found.ranks.tolist(), strict=True)),
        "friedman": found.friedman,
        "critical": found.critical,
        "first": dict(zip(labels, (scores == best).sum(axis=0).tolist(), strict=True)),
    }


def _pairs(values: _Values, metrics: Mapping[str, str], labels: Sequence[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for a, b in combinations(labels, 2):
        names = _complete(values, (a, b))
        if not names:
            continue
        scores = _means(values, metrics, names, (a, b))
        p_values, signs = [], []
        for name in names:
            seeds = sorted(set(values[name][a]) & set(values[name][b]))
            sign = _sign(metrics[name])
            x, y = ([sign * values[name][label][seed] for seed in seeds] for label in (a, b))
            p_values.append(paired_test(x, y))
            signs.append(math.copysign(1.0, sum(x) - sum(y)))
        significant = [p < _LEVEL for p in holm(p_values)]
        wins = sum(s > 0 for s, clear in zip(signs, significant, strict=True) if clear)
        losses = sum(s < 0 for s, clear in zip(signs, significant, strict=True) if clear)
        found.append(
            {
                "a": a,
                "b": b,
                "sets": len(names),
                "higher": int((scores[:, 0] > scores[:, 1]).sum()),
                "p": p_values[0] if len(names) == 1 else signed_rank_test(scores[:, 0], scores[:, 1]),
                "win": wins,
                "tie": len(names) - wins - losses,
                "loss": losses,
            }
        )
    corrected = holm([float(pair["p"]) for pair in found])
    return [{**pair, "p_holm": p} for pair, p in zip(found, corrected, strict=True)]


def _conditions(
    rows: Sequence[Row], metrics: Mapping[str, str], labels: Sequence[str]
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
                share = value / intact if direction(metric) == "max" else intact / value
                left[kind_of(condition)][row.data][row.method].append(share)
    return {
        condition: {name: {m: st.fmean(by[m]) for m in labels if m in by} for name, by in by_set.items()}
        for condition, by_set in left.items()
    }


def _averaged(by_set: Mapping[str, Mapping[str, float]], labels: Sequence[str]) -> dict[str, float]:
    found = {label: [by[label] for by in by_set.values() if label in by] for label in labels}
    return {label: st.fmean(values) for label, values in found.items() if values}


def _convergence(rows: Sequence[Row], labels: Sequence[str]) -> dict[str, Any]:
    found = {}
    for label in labels:
        infos = [row.info for row in rows if row.method == label and row.info.get("convergence")]
        if not infos:
            continue
        ends, starts = [info["convergence"] for info in infos], [info["convergence_at_start"] for info in infos]
        found[label] = {
            "runs": len(infos),
            "converged": st.fmean(end["converged"] for end in ends),
            "worst": min(end["converged"] for end in ends),
            "steps_at_start": st.fmean(start["mean_steps"] for start in starts),
            "steps": st.fmean(end["mean_steps"] for end in ends),
            "most_steps": max(end["max_steps"] for end in ends),
            "residual": max(end["max_residual"] for end in ends),
        }
    return found


def _costs(rows: Sequence[Row], labels: Sequence[str]) -> dict[str, Any]:
    """Geometric means over the runs: data sets differ by orders of magnitude."""
    found = {}
    for label in labels:
        infos = [row.info for row in rows if row.method == label and row.protocol == CLEAN]
        costs = {
            name: [float(info[name]) for info in infos if info.get(name)]
            for name in ("parameters", "flops", "train_seconds")
        }
        if infos:
            found[label] = {name: st.geometric_mean(v) if v else None for name, v in costs.items()}
    return found


def _tuned(config: BenchmarkConfig, rows: Sequence[Row]) -> dict[str, Any]:
    """Data set -> method -> the options that tuning chose."""
    if not config.trials:
        return {}
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    first = {(row.data, row.method): row for row in rows if row.trial is None and row.protocol == CLEAN}
    for method in config.methods:
        space = {**(config.space or DEFAULT_SPACE), **method.space}
        for (name, label), row in first.items():
            if label == method.label and not method.linear:
                found[name][label] = {option: _option(row.config, option) for option in space}
    return found


def _option(config: Mapping[str, Any], path: str) -> Any:
    value: Any = config
    for step in path.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _differences(scores: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """Data set -> method -> loose mean less clean mean."""
    return {
        name: {
            label: scores[LOOSE][name][label]["mean"] - methods[label]["mean"]
            for label in labels
            if label in methods and label in scores[LOOSE].get(name, {})
        }
        for name, methods in scores[CLEAN].items()
    }


def _plain(value: Any) -> Any:
    """Plain dictionaries, and None for NaN, which JSON does not have."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
