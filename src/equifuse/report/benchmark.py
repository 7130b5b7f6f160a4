"""What a benchmark leaves beside its store: numbers, tables, plots, and one page with all of it."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from equifuse.benchmark.config import BenchmarkConfig
from equifuse.benchmark.sets import SetInfo
from equifuse.benchmark.store import Row
from equifuse.benchmark.summary import Circumstances, Measure, Summary, summarise
from equifuse.extras import require
from equifuse.files import write_json, write_text, yaml_text
from equifuse.report.leaderboard import (
    COSTS,
    FEWEST_SETS,
    RANK,
    Form,
    benchmark_tiles,
    benchmark_verdict,
    cost_cards,
    form_of,
    missing_cards,
    rank_cards,
    score_text,
    set_cards,
)
from equifuse.report.machine import processor
from equifuse.report.page import Section, render_markdown, render_page
from equifuse.report.tables import NONE, Strong, TextTable, number
from equifuse.training.protocol import CLEAN, LOOSE, PROTOCOLS

SUMMARY, TABLES, PAGE, PLOTS = "summary.json", "tables.md", "report.html", "plots"
# Rows from which on a table is searched.
_SEARCHED = 15
# Data sets that share the first lines of the page with what is left without a modality.
_FEW = 2
# Data sets that have room in a terminal.
_SHOWN = 3


def check_installed() -> None:
    """Import what :func:`publish` draws and writes with: what is missing is said before anything is trained.

    Raises:
        InputError: a package is missing; the message says how to install it.
    """
    for module in ("matplotlib.figure", "matplotlib.backends.backend_svg", "jinja2", "pyarrow.parquet"):
        require("train", module, "a benchmark")


def publish(
    config: BenchmarkConfig,
    sets: Mapping[str, SetInfo],
    rows: Sequence[Row],
    out: Path,
    command: str,
    skipped: Sequence[str] = (),
) -> Summary:
    """Write ``summary.json``, ``tables.md``, ``plots/`` and ``report.html``.

    Args:
        config: what was compared.
        sets: the data sets by name.
        rows: the store's rows of that configuration.
        out: the benchmark's folder.
        command: what was typed.
        skipped: pairs of method and data set that do not fit, and why.

    Returns:
        What ``summary.json`` holds.
    """
    made = _circumstances(rows)
    summary = replace(summarise(config, sets, rows), skipped=list(skipped), command=command, made=made)
    sections = _sections(config, summary, out / PLOTS)
    write_json(out / SUMMARY, summary.to_dict())
    title, said = _title(summary), benchmark_verdict(summary)
    write_text(out / TABLES, render_markdown(title, sections, verdict=said))
    tiles = benchmark_tiles(summary)
    write_text(out / PAGE, render_page(title, sections, kind="benchmark", verdict=said, tiles=tiles))
    return summary


def score_table(summary: Summary, protocol: str = CLEAN) -> TextTable:
    """Data sets × methods: mean ± half the 95 % interval over the seeds, the best mean of a row in bold."""
    labels = summary.methods
    rows = []
    for name, methods in summary.scores[protocol].items():
        metric, lower = summary.metrics[name], summary.better[name] == "min"
        form = form_of(summary, name, metric)
        means = [entry.mean for entry in methods.values()]
        best = (min if lower else max)(means)
        cells = []
        for label in labels:
            entry = methods.get(label)
            text = NONE if entry is None else score_text(form, entry.mean, entry.interval)
            cells.append(Strong(text) if entry is not None and entry.mean == best else text)
        rows.append([name, metric, *cells])
    ranks = summary.ranking.ranks
    if protocol == CLEAN and len(ranks) > 1 and len(summary.ranking.sets) >= FEWEST_SETS:
        rows.append([RANK, "", *(f"{ranks[label]:.2f}" if label in ranks else NONE for label in labels)])
    return TextTable(["data", "metric", *labels], rows, f"test, protocol {protocol}: {PROTOCOLS[protocol]}")


def short_table(summary: Summary) -> TextTable:
    """A line per method, for a terminal: scores of up to three data sets, rank, and convergence."""
    found, scores = summary.ranking, summary.scores[CLEAN]
    ranked = len(found.sets) >= FEWEST_SETS
    names = list(scores) if len(scores) <= _SHOWN else []
    header = [
        "method",
        *(f"{name}, {summary.metrics[name]}" for name in names),
        *([RANK] if ranked else []),
        "highest mean on",
        "converged",
    ]
    rows = []
    for label in summary.methods:
        entries = [(form_of(summary, name, summary.metrics[name]), scores[name].get(label)) for name in names]
        solved = summary.convergence.get(label)
        rows.append(
            [
                label,
                *(NONE if entry is None else score_text(form, entry.mean, entry.interval) for form, entry in entries),
                *([f"{found.ranks[label]:.2f}" if label in found.ranks else NONE] if ranked else []),
                str(found.first.get(label, NONE)),
                NONE if solved is None else f"{100 * solved.converged:.1f} %",
            ]
        )
    return TextTable(header, rows, f"{_title(summary)}; protocol {CLEAN}")


def method_table(summary: Summary, data: str, metrics: Sequence[str] = ("accuracy", "f1_macro")) -> TextTable:
    """A line per method on one data set: metrics over the seeds, parameters, seconds, and its equilibria.

    Args:
        summary: of the benchmark.
        data: name of the data set.
        metrics: which.
    """
    rows = []
    forms = {m: form_of(summary, data, m) for m in metrics}
    for label, measured in summary.measures.get(data, {}).items():
        costs, solved = summary.costs[label], summary.convergence.get(label)
        rows.append(
            [
                label,
                *(_measured(forms[m], measured.get(m)) for m in metrics),
                _count(costs.parameters),
                number(costs.train_seconds, ".1f"),
                NONE if solved is None else f"{100 * solved.converged:.1f} %",
                NONE if solved is None else f"{solved.steps:.1f}",
            ]
        )
    header = ["method", *(_METRIC_NAMES.get(m, m) for m in metrics), "parameters", "seconds", "converged", "steps"]
    over = f"mean ± standard deviation over {summary.seeds} seeds" if summary.seeds > 1 else "1 seed"
    order = {label: i for i, label in enumerate(summary.methods)}
    rows.sort(key=lambda row: order[row[0]])
    return TextTable(header, rows, f"{data}, test part, {over}")


_METRIC_NAMES = {"accuracy": "accuracy %", "f1_macro": "macro-F1 %"}


def _measured(form: Form, found: Measure | None) -> str:
    return NONE if found is None else score_text(form, found.mean, found.deviation)


def _circumstances(rows: Sequence[Row]) -> Circumstances:
    machines = {row.info.machine for row in rows if row.info.machine}
    names = ("equifuse", "torch", "numpy", "scikit-learn", "lightning")
    return Circumstances(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=f"{processor()}, {len(machines)} {'machine' if len(machines) == 1 else 'machines'}",
        versions=", ".join([*(f"{name} {version(name)}" for name in names), f"python {platform.python_version()}"]),
    )


def _title(summary: Summary) -> str:
    def counted(number: int, word: str) -> str:
        return f"{number} {word}{'' if number == 1 else 's'}"

    return ", ".join(
        [
            counted(len(summary.methods), "method"),
            counted(len(summary.sets), "data set"),
            counted(summary.seeds, "seed"),
        ]
    )


def _lead(config: BenchmarkConfig) -> list[str]:
    tuning = (
        f"Each method was tuned with {config.trials} trials per data set, the first of which are its defaults, by the "
        "loss on validation."
        if config.trials
        else "Nothing was tuned: every method has its defaults and the settings below."
    )
    return [f"What decides is the clean protocol: {PROTOCOLS[CLEAN]}. {tuning}"]


def _sections(config: BenchmarkConfig, summary: Summary, folder: Path) -> list[Section]:
    few, missing = len(summary.sets) <= _FEW, missing_cards(summary, folder)
    sections = [
        Section(
            "At a glance" if few else "On each data set", cards=[*set_cards(summary, folder), *(missing if few else [])]
        ),
        _rank_section(summary, folder),
        _cost_section(summary, folder),
        Section("Missing modalities", cards=missing) if missing and not few else None,
        _convergence_section(summary),
        Section("All scores", [_INTERVALS], tables=[score_table(summary)]),
        _pair_section(summary),
        _protocol_section(summary),
        _tuning_section(config, summary),
        _data_section(summary),
        _remarks_section(summary),
        Section(
            "How this was made",
            [
                *_lead(config),
                "; ".join(str(value) for value in (summary.made or {}).values()) + ".",
                "The command, and the configuration in full (benchmark.yaml):",
            ],
            code=[summary.command, yaml_text(config.to_dict()).rstrip()],
            folded=True,
        ),
    ]
    return [section for section in sections if section is not None]


_INTERVALS = (
    "Mean over the seeds ± half of Student's 95 % interval. Where a data set has an official split, the interval is of "
    "initial weights and the order of samples, not of drawing other test samples. Errors (mae): lower is better."
)


def _rank_section(summary: Summary, folder: Path) -> Section | None:
    cards = rank_cards(summary, folder)
    if not cards:
        return None
    found = summary.ranking
    text = (
        f"Over the {len(found.sets)} data sets on which every method has a result. "
        f"Friedman's test that all are alike: {_p_is(found.friedman)}."
    )
    return Section("Ranks", [text], cards=cards)


def _pair_section(summary: Summary) -> Section | None:
    if not summary.pairs:
        return None
    pairs = [
        [
            f"{pair.a} against {pair.b}",
            str(pair.sets),
            str(pair.higher),
            _p(pair.p),
            _p(pair.p_holm),
            f"{pair.win} / {pair.tie} / {pair.loss}",
        ]
        for pair in summary.pairs
    ]
    header = ["pair", "data sets", "higher mean", "p", "p, corrected", "win / tie / loss"]
    caption = (
        "Wilcoxon's signed-rank test over the data sets (on one data set: the paired t-test over the seeds), corrected "
        "for the number of pairs by Holm's method. A win or a loss is a data set where the paired t-test over the "
        "seeds, corrected over the data sets, is below 0.05."
    )
    tables = [_win_matrix(summary), TextTable(header, pairs, caption, "pairs.csv", searched=len(pairs) > _SEARCHED)]
    return Section("Tests of every pair", tables=tables, folded=True)


def _win_matrix(summary: Summary) -> TextTable:
    labels = summary.methods
    cells = {(p.a, p.b): f"{p.win}/{p.tie}/{p.loss}" for p in summary.pairs}
    cells |= {(p.b, p.a): f"{p.loss}/{p.tie}/{p.win}" for p in summary.pairs}
    rows = [[a, *(cells.get((a, b), "") for b in labels)] for a in labels]
    return TextTable(["", *labels], rows, "Wins / ties / losses of the row against the column, in data sets.")


def _cost_section(summary: Summary, folder: Path) -> Section | None:
    costs = summary.costs
    if not costs:
        return None
    rows = [
        [
            label,
            _count(found.parameters),
            _count(found.flops),
            NONE if found.train_seconds is None else f"{found.train_seconds:.2f}",
        ]
        for label, found in costs.items()
    ]
    text = [
        "Whole models, encoders and head included; geometric means over data sets and seeds. FLOPs are two per "
        "multiply-add of matrix products in one sample's forward pass; seconds are of one thread, and depend on when "
        "early stopping ends a training."
    ]
    table = TextTable(["method", *COSTS.values()], rows, file="costs.csv")
    return Section("Costs", text, cards=cost_cards(summary, folder), tables=[table])


def _convergence_section(summary: Summary) -> Section | None:
    found = summary.convergence
    if not found:
        return None
    rows = [
        [
            label,
            str(c.runs),
            f"{100 * c.converged:.2f} %",
            f"{100 * c.worst:.1f} %",
            f"{c.steps_at_start:.1f}",
            f"{c.steps:.1f}",
            f"{c.most_steps:.0f}",
            f"{c.residual:.1e}",
        ]
        for label, c in found.items()
    ]
    header = ["method", "runs", "converged", "worst run", "steps at start", "after training", "most", "residual"]
    caption = "Test samples that converged, evaluations per sample, and the largest relative residual of all runs."
    whole = all(c.converged >= 1 for c in found.values())
    text = ["Every test sample of every run converged."] if whole else []
    return Section("Convergence", text, tables=[TextTable(header, rows, caption)], folded=whole)


def _protocol_section(summary: Summary) -> Section | None:
    if LOOSE not in summary.scores:
        return None
    labels = [m for m in summary.methods if any(m in by for by in summary.difference.values())]
    rows = []
    for name, by in summary.difference.items():
        metric = summary.metrics[name]
        form = form_of(summary, name, metric)
        rows.append([name, metric, *(_signed(form, by[label]) if label in by else NONE for label in labels)])
    text = [
        f"The loose protocol is not evidence: {PROTOCOLS[LOOSE]}, for all epochs. It is what the codes behind many "
        "published figures do. The difference is what they gain by it, part of it from the larger training part."
    ]
    caption = "Loose mean less clean mean."
    tables = [score_table(summary, LOOSE), TextTable(["data", "metric", *labels], rows, caption)]
    return Section("Loose protocol", text, tables=tables)


def _signed(form: Form, value: float) -> str:
    text = score_text(form, value, None)
    return text if text.startswith("-") else f"+{text}"


def _tuning_section(config: BenchmarkConfig, summary: Summary) -> Section | None:
    if not summary.tuned:
        return None
    options = list(dict.fromkeys(o for by in summary.tuned.values() for found in by.values() for o in found))
    rows = [
        [f"{name}, {label}", *(_option(found.get(option)) for option in options)]
        for name, by in summary.tuned.items()
        for label, found in by.items()
    ]
    caption = f"What {config.trials} trials chose."
    table = TextTable(["data, method", *options], rows, caption, "tuned.csv", searched=len(rows) > _SEARCHED)
    return Section("Tuned settings", tables=[table], folded=True)


def _data_section(summary: Summary) -> Section:
    rows = [
        [
            name,
            found.task,
            " / ".join(str(count) for count in found.rows.values()),
            ", ".join(f"{m} {width}" for m, width in found.modalities.items()),
            found.fingerprint,
        ]
        for name, found in summary.sets.items()
    ]
    header = ["data", "task", "train / val / test", "modalities", "fingerprint"]
    caption = "The fingerprint is of all values, split as with the first seed."
    return Section("Data", tables=[TextTable(header, rows, caption)])


def _remarks_section(summary: Summary) -> Section | None:
    remarks = [*summary.failures, *summary.skipped, *summary.undefined]
    return Section("Without a result", remarks) if remarks else None


def _p(value: float | None) -> str:
    return NONE if value is None or math.isnan(value) else f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _p_is(value: float | None) -> str:
    """As a sentence says it: ``p = 0.012``, ``p < 0.001``."""
    text = _p(value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def _count(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}"


def _option(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
