"""A published claim as an experiment: claim, protocol, result, verdict."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from equifuse.benchmark import BenchmarkConfig, run_benchmark
from equifuse.benchmark.statistics import mean_interval, paired_test, signed_rank_test
from equifuse.files import read_yaml, write_text
from equifuse.report.benchmark import CLEAN, score_table
from equifuse.report.page import Section, TextTable, render_markdown

# Small enough that five seeds of a handful of methods take minutes, of omics, sentiment, images and proteins.
SETS = (
    "rosmap",
    "brca_mogonet_testpart",
    "tcga_gbmlgg",
    "prokaryotic",
    "proteinfold",
    "handwritten",
    "mosi_utterance",
    "cub10",
)
# With the recipe, larger ones too.
LARGER = ("avdigits_paired", "houston13_train", "cremad_votes", "ccv")
_GRAND = read_yaml(Path(__file__).parents[1] / "grand.yaml")
# The same for every method of every claim, and as in the grand table; nothing is tuned.
# The papers' methods are tried as they are, without what training adds to every fusion.
SETTINGS: dict[str, Any] = BenchmarkConfig.from_dict(_GRAND).settings
# What makes them so; without it they are trained as everything is that is shipped.
_AS_THEY_ARE = ("unimodal", "modality_dropout", "head_hidden")
MISSING = tuple(_GRAND["missing"])
_LEVEL = 0.05
RECIPE = "train with what is shipped, on larger sets too, instead of the methods as they are"


@dataclass(frozen=True)
class Result:
    """What an experiment found.

    Attributes:
        verdict: ``"holds"``, ``"does not hold"``, ``"not shown"`` (no difference beyond chance), or a qualification.
        tables: the numbers.
        notes: what has to be said about them.
    """

    verdict: str
    tables: Sequence[TextTable]
    notes: Sequence[str] = field(default=())


@dataclass(frozen=True)
class Study:
    """What a claim is tried on, and how.

    Attributes:
        data: folder of data sets.
        out: folder for results.
        seeds: how many.
        recipe: train with what is shipped (unimodal heads, hidden modalities, the head's hidden layer), on larger sets
            too, in place of the methods as they are.
    """

    data: Path
    out: Path
    seeds: int
    recipe: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """Options of every training."""
        return {name: value for name, value in SETTINGS.items() if not (self.recipe and name in _AS_THEY_ARE)}

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of the sets, unless a claim has its own."""
        return (*SETS, *LARGER) if self.recipe else SETS


@dataclass(frozen=True)
class Claim:
    """A claim of one of the papers and how it is tried here.

    Attributes:
        name: of the file and the folder.
        text: the claim.
        source: where it is made.
        protocol: how it is tried, and how that differs from the paper.
        run: study -> :class:`Result`.
        trains: whether it trains by the study's settings, so that it can be tried with the recipe.
    """

    name: str
    text: str
    source: str
    protocol: str
    run: Callable[[Study], Result]
    trains: bool = True

    def main(self) -> None:
        """Run from the command line."""
        parser = argparse.ArgumentParser(description=self.text)
        parser.add_argument("data", type=Path, help="folder of data sets")
        parser.add_argument("--out", type=Path, default=Path("runs/claims"), help="trainings in it are not repeated")
        parser.add_argument("--seeds", type=int, default=5)
        parser.add_argument("--recipe", action="store_true", help=RECIPE)
        options = parser.parse_args()
        if options.recipe and not self.trains:
            parser.error(f"{self.name} is not tried with the recipe; leave out --recipe")
        print(self.report(Study(options.data, options.out, options.seeds, options.recipe)))

    def report(self, study: Study) -> str:
        """Run, write ``<out>/<name>.md``, and return its text."""
        result = self.run(replace(study, out=study.out / self.name))
        command = f"python benchmarks/claims/{self.name}.py ../shared/data --seeds {study.seeds}"
        protocol = f"Protocol: {self.protocol} {study.seeds} seeds."
        if study.recipe:
            command += " --recipe"
            protocol += f" Trained with the shipped recipe; where it says eight data sets, also on {', '.join(LARGER)}."
        lines = [
            f"Claim: {self.text} ({self.source})",
            protocol,
            *result.notes,
            f"Verdict: **{result.verdict}**",
        ]
        text = render_markdown(
            self.name.replace("_", " "), [Section("Result", lines, tables=result.tables, code=[command])]
        )
        write_text(study.out / f"{self.name}.md", text)
        return text


def compare(study: Study, methods: Sequence[Any], sets: Sequence[str] = (), **options: Any) -> Any:
    """A benchmark's summary on those of the sets, of the study's unless others are given, that are there.

    All claims keep their trainings in one store beside ``out``, and none is repeated.
    """
    store = study.out.parent / "trainings"
    paths = [study.data / f"{name}.npz" for name in sets or study.sets]
    asked = {
        "data": [str(path) for path in paths if path.is_file()],
        "methods": list(methods),
        "seeds": study.seeds,
        "settings": study.settings,
        "missing": MISSING,
    }
    config = BenchmarkConfig.from_dict({**asked, **options})
    return run_benchmark(config, store, resume=(store / "store.sqlite").is_file())


def contrast(summary: Mapping[str, Any], better: str, worse: str) -> tuple[str, list[str]]:
    """Verdict on "``better`` is better than ``worse``", and a row: the pair, mean difference, data sets ahead, p.

    Over several data sets by Wilcoxon's signed-rank test of the means, over one by the paired t-test of the seeds.
    Differences are in per cent; errors count with the opposite sign, relative to the worse one's.
    """
    differences, by_seed = [], []
    for name, methods in summary["scores"][CLEAN].items():
        if better not in methods or worse not in methods:
            continue
        lower = summary["better"][name] == "min"
        a, b = methods[better], methods[worse]
        scale = -100 / b["mean"] if lower else 100.0
        differences.append(scale * (a["mean"] - b["mean"]))
        by_seed.append([scale * (a["values"][s] - b["values"][s]) for s in a["values"] if s in b["values"]])
    return verdict_of(better, worse, differences, by_seed)


def verdict_of(
    better: str, worse: str, differences: Sequence[float], by_seed: Sequence[Sequence[float]]
) -> tuple[str, list[str]]:
    """Verdict and row from differences per data set, and per data set and seed."""
    zeros = [0.0] * len(differences)
    p = (
        signed_rank_test(differences, zeros)
        if len(differences) > 1
        else paired_test(by_seed[0], [0.0] * len(by_seed[0]))
    )
    mean, half = mean_interval(differences if len(differences) > 1 else by_seed[0])
    ahead = sum(d > 0 for d in differences)
    if p < _LEVEL:
        verdict = "holds" if mean > 0 else "does not hold"
    else:
        verdict = "not shown"
    shown = f"{mean:+.2f}" if math.isnan(half) else f"{mean:+.2f} ± {half:.2f}"
    return verdict, [f"{better} over {worse}", shown, f"{ahead} of {len(differences)}", f"{p:.3f}", verdict]


CONTRASTS = ["pair", "mean difference, per cent", "data sets ahead", "p", "verdict"]


def contrasts(
    summary: Mapping[str, Any], pairs: Sequence[tuple[str, str]], caption: str = ""
) -> tuple[list[str], TextTable]:
    """Verdicts and a table of several contrasts."""
    found = [contrast(summary, a, b) for a, b in pairs]
    return [verdict for verdict, _ in found], TextTable(CONTRASTS, [row for _, row in found], caption)


def overall(verdicts: Sequence[str]) -> str:
    """One verdict of several: theirs if they agree, else how many of each."""
    kinds = list(dict.fromkeys(verdicts))
    if len(kinds) == 1:
        return kinds[0]
    return ", ".join(f"{kind} in {verdicts.count(kind)} of {len(verdicts)}" for kind in kinds)


__all__ = [
    "RECIPE",
    "SETS",
    "SETTINGS",
    "Claim",
    "Result",
    "Study",
    "compare",
    "contrast",
    "contrasts",
    "overall",
    "score_table",
    "verdict_of",
]
