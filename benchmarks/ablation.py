"""What each part of the training recipe adds, from a benchmark of variants: paired differences over data sets.

    EQUIFUSE_DATA=../shared/data equifuse benchmark benchmarks/recipe_small.yaml --out runs/recipe
    python benchmarks/ablation.py runs/recipe --out runs/recipe

Reads ``store.sqlite`` of the folder, also of a benchmark that was stopped, and of each method the data sets on which
every variant has every seed. ``scores.json`` there, or in ``results/recipe``, gives the same tables again.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

from equifuse.benchmark.statistics import mean_interval, signed_rank_test
from equifuse.files import read_json, write_json, write_text
from equifuse.report.machine import processor
from equifuse.report.tables import TextTable

INTACT, HALF = "intact", "missing 0.5"
HEADLINES = {"accuracy": 1, "mae": -1}
# Later, and what it is compared with; every other variant is compared with plain.
STEPS = (("sum", "heads"), ("mix", "sum"), ("default", "mix"), ("default", "hidden"), ("all", "default"))
PLAIN = "plain"
# Data sets below which a mean over them says nothing.
FEWEST = 4
# method -> data set -> variant -> condition -> the scores of the seeds
Scores = dict[str, dict[str, dict[str, dict[str, list[float]]]]]


def scores_of(store: Path) -> Scores:
    """What a benchmark's store has of accuracy and error, by seed; of errors the negative: more is better."""
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as connection:
        rows = connection.execute(
            "SELECT method, data, condition, metric, value FROM units JOIN scores USING (key) "
            "WHERE error IS NULL AND trial IS NULL ORDER BY seed"
        ).fetchall()
    found: Scores = {}
    for label, data, condition, metric, value in rows:
        if metric in HEADLINES and condition in (INTACT, HALF):
            method, _, variant = label.partition(", ")
            of = found.setdefault(method, {}).setdefault(data, {}).setdefault(variant, {})
            of.setdefault(condition, []).append(round(HEADLINES[metric] * value, 6))
    return {method: whole(sets) for method, sets in found.items()}


def whole(sets: Mapping[str, Any]) -> dict[str, Any]:
    """The data sets on which all variants have as many seeds as any has."""
    variants = {variant for of in sets.values() for variant in of}
    seeds = max(len(values[INTACT]) for of in sets.values() for values in of.values())
    return {
        data: of
        for data, of in sets.items()
        if set(of) == variants and all(len(each) == seeds for values in of.values() for each in values.values())
    }


def is_error(of: Mapping[str, Any]) -> bool:
    """Whether a data set's scores are (negative) errors, which have no points in common with accuracies."""
    return any(value < 0 for value in of[PLAIN][INTACT])


def gains(pairs: Iterable[tuple[Mapping[str, list[float]], Mapping[str, list[float]]]]) -> tuple[list[float], ...]:
    """By data set, the first over the second in points, or in per cent of an error, intact and with half missing."""
    both = list(pairs)
    return tuple([gain(statistics.fmean(a[c]), statistics.fmean(b[c])) for a, b in both] for c in (INTACT, HALF))


def gain(one: float, other: float) -> float:
    """Of two accuracies in points, of two (negative) errors in per cent of the other."""
    return 100 * (one - other) / (abs(other) if other < 0 else 1.0)


def compared(pairs: Mapping[str, Sequence[list[float]]]) -> list[list[str]]:
    """Rows: what is compared, mean gain with its interval, sets ahead and p, intact and with half missing."""
    rows = []
    for words, both in pairs.items():
        row = [words]
        for differences in both:
            mean, half = mean_interval(differences)
            row += [f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"]
            p = signed_rank_test(differences, [0.0] * len(differences))
            row += [f"{sum(d > 0 for d in differences)} of {len(differences)}", f"{p:.2f}"]
        rows.append(row)
    return rows


def tables(scores: Scores) -> str:
    """Every part against plain, steps of the default, and method against method."""
    seeds = {len(each[INTACT]) for sets in scores.values() for of in sets.values() for each in of.values()}
    text = [
        "# Tables",
        "Mean gain over the sets, of accuracies in points, of errors in per cent of the error, with Student's 95 % "
        f"interval; {max(seeds)} seeds per set. p: Wilcoxon's signed-rank test over the sets, not corrected: of 20 "
        "rows one is below 0.05 by chance.",
    ]
    for unit, errors in (("points", False), ("%", True)):
        chosen = {m: {d: of for d, of in sets.items() if is_error(of) == errors} for m, sets in scores.items()}
        text += tables_of(chosen, unit)
    for method, sets in scores.items():
        if not sets:
            continue
        variants = list(next(iter(sets.values())))
        lines = [
            [data, *(" / ".join(f"{_shown(of[v][c])}" for c in (INTACT, HALF)) for v in variants)]
            for data, of in sets.items()
        ]
        caption = "Mean over the seeds, intact / with half missing."
        text += [f"## {method}, data set by data set", TextTable(["data", *variants], lines, caption).markdown()]
    text.append(f"{datetime.now(UTC).date()}, {processor()}.")
    return "\n\n".join(text) + "\n"


def tables_of(scores: Scores, unit: str) -> list[str]:
    """The tables of accuracies, or of errors."""
    header = ["", f"intact, {unit}", "sets ahead", "p", f"half missing, {unit}", "sets ahead", "p"]
    what, text = "errors of " if unit == "%" else "", []
    for method, sets in scores.items():
        if len(sets) < FEWEST:
            continue
        variants = [variant for variant in next(iter(sets.values())) if variant != PLAIN]
        steps = [(v, PLAIN) for v in variants] + [(a, b) for a, b in STEPS if {a, b} <= set(variants)]
        pairs = {f"{a} over {b}": gains((of[a], of[b]) for of in sets.values()) for a, b in steps}
        text += [f"## {what.capitalize()}{method}, {len(sets)} sets", TextTable(header, compared(pairs)).markdown()]
    across = {}
    for first, second in combinations(scores, 2):
        common = [data for data in scores[first] if data in scores[second]]
        if len(common) >= FEWEST:
            variants = [v for v in (PLAIN, "mix", "default", "all") if v in scores[first][common[0]]]
            for v in variants:
                both = ((scores[first][data][v], scores[second][data][v]) for data in common)
                across[f"{first} over {second}, both {v}"] = gains(both)
    if across:
        title = f"## {what.capitalize()}method against method" if what else "## Method against method"
        text += [title, TextTable(header, compared(across)).markdown()]
    return text


def _shown(values: list[float]) -> str:
    """A mean as tables show it: per cent, or an error."""
    mean = statistics.fmean(values)
    return f"{-mean:.3f}" if mean < 0 else f"{100 * mean:.1f}"


def main() -> None:
    """Write scores and tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the benchmark, or one with scores.json")
    parser.add_argument("--out", type=Path, default=Path("runs/recipe"))
    options = parser.parse_args()
    stored = options.folder / "store.sqlite"
    scores = scores_of(stored) if stored.is_file() else read_json(options.folder / "scores.json")
    write_json(options.out / "scores.json", scores)
    write_text(options.out / "tables.md", tables(scores))
    print(Counter({method: len(sets) for method, sets in scores.items()}))


if __name__ == "__main__":
    main()
