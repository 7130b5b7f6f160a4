"""Methods compared, as parts of a page: the verdict in words, a plot for each data set, costs, what is left without."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from equifuse.benchmark.statistics import cliques, holm, paired_test, pareto
from equifuse.benchmark.summary import Score, Summary
from equifuse.registry import METRICS
from equifuse.report import plots
from equifuse.report.page import Card, Tile, drawn
from equifuse.report.tables import NONE, TextTable
from equifuse.report.verdict import metric_name
from equifuse.tasks import make_task
from equifuse.training.protocol import CLEAN

# Data sets from which on average ranks mean something.
FEWEST_SETS = 5
LINEAR = "linear"
RANK = "average rank"
COSTS = {"parameters": "parameters", "flops": "FLOPs per sample", "train_seconds": "seconds of training"}
# Data sets that the verdict goes through one by one.
_TOLD = 3
_NAMED = 4
_LEVEL = 0.05

# A factor and a format.
Form = tuple[float, str]


def form_of(summary: Summary, data: str, metric: str) -> Form:
    """How a metric is shown: the library's scores in per cent, errors and metrics of others as they are."""
    info = summary.sets[data]
    found = make_task(info.task, offered={"classes": info.outputs}).metric(metric)
    if found.format == "percent" or (found.higher_is_better and metric not in METRICS):
        return 100.0, ".1f"
    return 1.0, ".3f"


def score_text(how: Form, mean: float, half: float | None) -> str:
    """``"98.1 ± 0.3"``."""
    scale, form = how
    shown = format(scale * mean, form)
    return shown if half is None else f"{shown} ± {format(scale * half, form)}"


def in_order(summary: Summary, data: str) -> list[tuple[str, Score]]:
    """The methods on a data set, the best mean first."""
    sign = -1.0 if summary.better[data] == "max" else 1.0
    return sorted(summary.scores[CLEAN].get(data, {}).items(), key=lambda pair: sign * pair[1].mean)


def as_good_as_best(summary: Summary, data: str) -> list[str]:
    """The best method on a data set, and those that the paired t-test over the seeds cannot tell from it.

    With a single seed nothing can be told apart, and only the best mean is named.

    Args:
        summary: of the benchmark.
        data: name of the data set.
    """
    ordered = in_order(summary, data)
    if not ordered:
        return []
    (best, first), *others = ordered
    p_values = [paired_test(*_by_seed(first, score)) for _, score in others]
    if any(math.isnan(p) for p in p_values):
        return [best]
    return [best, *(name for (name, _), p in zip(others, holm(p_values), strict=True) if p >= _LEVEL)]


def _by_seed(a: Score, b: Score) -> tuple[list[float], list[float]]:
    seeds = [seed for seed in a.by_seed if seed in b.by_seed]
    return [a.by_seed[seed] for seed in seeds], [b.by_seed[seed] for seed in seeds]


def benchmark_verdict(summary: Summary) -> list[str]:
    """What the comparison says: which method to take, what cannot be told apart, and what a linear model does.

    Args:
        summary: of the benchmark.
    """
    names = [name for name in summary.scores[CLEAN] if summary.scores[CLEAN][name]]
    if not names:
        return ["Nothing was measured: no training has a result."]
    said = [_over_sets(summary, names)] if len(names) >= FEWEST_SETS else [_on_set(summary, n) for n in names[:_TOLD]]
    said += [] if len(names) >= FEWEST_SETS or len(names) <= _TOLD else ["The other data sets are below."]
    said += [line for line in (_missing_line(summary), _convergence_line(summary)) if line]
    if summary.seeds == 1:
        said.append("With one seed, chance cannot be told from a difference; --seeds 5 can.")
    left = len(summary.failures) + len(summary.skipped)
    if left:
        said.append(f"{left} {'has' if left == 1 else 'have'} no result; why is said at the end.")
    return said


def _on_set(summary: Summary, data: str) -> str:
    ordered, form = in_order(summary, data), form_of(summary, data, summary.metrics[data])
    best, score = ordered[0]
    unit = " %" if form[0] != 1 else ""
    name = metric_name(summary.metrics[data])
    what = f"On {data}, {best} is best: {name} {score_text(form, score.mean, score.interval)}{unit}"
    alike = as_good_as_best(summary, data)[1:]
    if alike and summary.seeds > 1:
        what += f"; {_listed(alike)} cannot be told apart from it"
    return f"{what}{_linear_part(summary, data, ordered, form)}."


def _linear_part(summary: Summary, data: str, ordered: Sequence[tuple[str, Score]], form: Form) -> str:
    by = dict(ordered)
    if LINEAR not in by or len(by) < 2:
        return ""
    if LINEAR in as_good_as_best(summary, data):
        return ", and a linear model is as good" if ordered[0][0] != LINEAR and summary.seeds > 1 else ""
    gain = abs(ordered[0][1].mean - by[LINEAR].mean)
    unit = " points" if form[0] != 1 else ""
    return f"; a linear model is {format(form[0] * gain, form[1])}{unit} behind"


def _over_sets(summary: Summary, names: Sequence[str]) -> str:
    found = summary.ranking
    if len(found.ranks) < 2:
        return f"{len(names)} data sets, and no two methods that have a result on all of them."
    ordered = sorted(found.ranks, key=lambda label: found.ranks[label])
    best, critical = ordered[0], found.critical
    what = f"Over {len(found.sets)} data sets, {best} ranks best ({found.ranks[best]:.2f} on average)"
    if critical is not None:
        alike = [m for m in ordered[1:] if found.ranks[m] - found.ranks[best] < critical]
        what += f"; {_listed(alike)} cannot be told apart from it" if alike else ", clearly before all others"
        worse = [m for m in ordered if m not in alike and m != best]
        if alike and worse:
            what += f", {_listed(worse)} {'is' if len(worse) == 1 else 'are'} worse"
    return f"{what}."


def _missing_line(summary: Summary) -> str:
    """The hardest condition, and who keeps most and least of the score there."""
    known = {name: by for name, by in summary.conditions.items() if len(by) > 1}
    if not known:
        return ""
    name, by = min(known.items(), key=lambda pair: sum(pair[1].values()) / len(pair[1]))
    ordered = sorted(by, key=lambda m: -by[m])
    most, least = ordered[0], ordered[-1]
    called = {"without one": "Without one modality", "only one": "With one modality alone"}.get(name, f"At {name}")
    return f"{called}, {most} keeps {100 * by[most]:.0f} % of its score, {least} {100 * by[least]:.0f} %."


def _convergence_line(summary: Summary) -> str:
    failed = {m: c for m, c in summary.convergence.items() if c.converged < 1}
    if not summary.convergence:
        return ""
    if not failed:
        return f"All equilibria of {_listed(list(summary.convergence))} were found."
    worst = min(failed, key=lambda m: failed[m].converged)
    return (
        f"Not all equilibria were found: {worst} missed those of {_few(1 - failed[worst].converged)} of the test "
        f"samples, {_few(1 - failed[worst].worst)} in its worst run."
    )


def _few(share: float) -> str:
    """A small share that is not 0."""
    return f"{100 * share:.1f} %" if share >= 0.001 else "under 0.1 %"


def _listed(names: Sequence[str]) -> str:
    if len(names) > _NAMED:
        return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"


def benchmark_tiles(summary: Summary) -> list[Tile]:
    """The numbers that are seen first."""
    tiles = [
        Tile("methods", str(len(summary.methods))),
        Tile("data sets", str(len(summary.sets))),
        Tile("seeds", str(summary.seeds)),
    ]
    names = [name for name in summary.scores[CLEAN] if summary.scores[CLEAN][name]]
    if len(names) == 1:
        best, score = in_order(summary, names[0])[0]
        form = form_of(summary, names[0], summary.metrics[names[0]])
        shown = score_text(form, score.mean, None) + (" %" if form[0] != 1 else "")
        tiles.insert(0, Tile(f"best: {best}", shown, metric_name(summary.metrics[names[0]])))
    elif len(summary.ranking.ranks) > 1 and len(names) >= FEWEST_SETS:
        best = min(summary.ranking.ranks, key=lambda label: summary.ranking.ranks[label])
        tiles.insert(0, Tile("best on average", best, f"rank {summary.ranking.ranks[best]:.2f}"))
    return tiles


def set_cards(summary: Summary, folder: Path) -> list[Card]:
    """A card for each data set: its methods, the best first, with intervals.

    Args:
        summary: of the benchmark.
        folder: for the plots.
    """
    cards = []
    for i, (name, methods) in enumerate(summary.scores[CLEAN].items()):
        if not methods:
            continue
        form, metric = form_of(summary, name, summary.metrics[name]), summary.metrics[name]
        good = as_good_as_best(summary, name)
        found = {label: (score.mean, score.interval) for label, score in in_order(summary, name)}
        called = metric_name(metric) + (", %" if form[0] != 1 else "")
        better = "higher" if summary.better[name] == "max" else "lower"
        alike = "the best mean in colour" if summary.seeds == 1 else "in colour what cannot be told from the best"
        samples = summary.sets[name].rows.get("test", 0)
        caption = f"{samples:,} test samples; {better} is better; {alike}."
        plot = plots.methods_on_set(found, called, best=good, factor=form[0])
        cards.append(Card(name, figures=[drawn(plot, folder / f"set_{i}.svg", caption)]))
    return cards


def rank_cards(summary: Summary, folder: Path) -> list[Card]:
    """Average ranks with the critical difference; nothing for fewer than five data sets."""
    found = summary.ranking
    if len(found.ranks) < 2 or len(found.sets) < FEWEST_SETS:
        return []
    critical = math.nan if found.critical is None else found.critical
    groups = cliques(list(found.ranks.values()), critical)
    caption = "Average ranks, 1 the best. Methods joined by a bar differ by less than the critical difference."
    plot = plots.critical_difference(found.ranks, critical, groups)
    ordered = sorted(found.ranks, key=lambda label: found.ranks[label])
    rows = [[m, f"{found.ranks[m]:.2f}", str(found.first[m])] for m in ordered]
    table = TextTable(["method", RANK, "highest mean on"], rows, file="ranks.csv")
    return [Card("Average ranks", figures=[drawn(plot, folder / "ranks.svg", caption)], tables=[table], wide=True)]


def behind_best(summary: Summary) -> dict[str, float]:
    """Method -> by how many per cent its mean is behind the best, on average over the data sets that all have."""
    behind: dict[str, list[float]] = {}
    for name in summary.ranking.sets:
        ordered = in_order(summary, name)
        best = ordered[0][1].mean
        for label, score in ordered:
            behind.setdefault(label, []).append(100 * abs(best - score.mean) / (abs(best) or 1.0))
    return {label: sum(values) / len(values) for label, values in behind.items()}


def cost_cards(summary: Summary, folder: Path) -> list[Card]:
    """A plot for each cost against what it buys: the average rank, or of few data sets how far behind the best."""
    many = len(summary.ranking.sets) >= FEWEST_SETS
    values: Mapping[str, float] = summary.ranking.ranks if many else behind_best(summary)
    called = RANK if many else "behind the best, %"
    cards = []
    for name, cost in COSTS.items():
        costs = {label: getattr(summary.costs.get(label), name, None) for label in values}
        points = {label: (float(value), values[label]) for label, value in costs.items() if value}
        if len(points) < 2:
            continue
        labels = list(points)
        front = pareto([points[m][0] for m in labels], [-points[m][1] for m in labels])
        plot = plots.pareto(points, [labels[i] for i in front], cost, called)
        caption = f"Up and left is better. The line joins those that no other beats in both {called} and {cost}."
        cards.append(
            Card(
                cost.capitalize() if cost[0].islower() else cost,
                figures=[drawn(plot, folder / f"pareto_{name}.svg", caption)],
            )
        )
    return cards


def missing_cards(summary: Summary, folder: Path) -> list[Card]:
    """What is left of the score when modalities are missing at test."""
    if not summary.conditions:
        return []
    labels = summary.methods
    rows = [
        [condition, *(f"{100 * by[label]:.1f}" if label in by else NONE for label in labels)]
        for condition, by in summary.conditions.items()
    ]
    caption = "Per cent of the intact score that is left (of an error: intact over damaged), mean over the data sets."
    picture = drawn(plots.retained(summary.conditions), folder / "missing.svg", "Further right is better.")
    table = TextTable(["on test", *labels], rows, caption, "missing.csv")
    return [Card("When modalities are missing", figures=[picture], tables=[table], wide=len(labels) > _NAMED)]
