"""Coupled tokens against one vector of each modality: what does it gain to keep the steps until the equilibrium?

    python benchmarks/tokens.py ../shared/data --out runs/tokens

The encoders are the same for all methods. ``deq, tokens`` gets their steps (of a sequence, words, cells of a picture),
all others their pooled vector; ``deq, transformer`` gets one vector, of steps that attended to each other before. Each
set is a benchmark of its own in the folder, with intervals, tests and equilibria in its ``report.html``; what is
finished is not repeated, and ``tokens.md`` there is written again after each set.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from claims.vqa import EASY, RAD, write_easy, write_rad
from equifuse.benchmark import BenchmarkConfig, Method, Store, Summary, run_benchmark
from equifuse.benchmark.runner import STORE
from equifuse.benchmark.sets import look_at, short_names
from equifuse.benchmark.summary import summarise
from equifuse.files import write_text
from equifuse.report.benchmark import score_table
from equifuse.report.tables import NONE, TextTable
from equifuse.training.protocol import CLEAN

DIM = 64
METHODS = {
    "concat": {"fusion": "concat"},
    "deq": {"fusion": "deq", "dim": DIM},
    "deq, tokens": {"fusion": "deq", "dim": DIM, "fusion_options": {"tokens": "coupled"}},
    "bottleneck": {"fusion": "bottleneck", "dim": DIM},
    "perceiver": {"fusion": "perceiver", "dim": DIM},
}
# The methods alone, without what training adds to every fusion.
ALONE: dict[str, Any] = {"hidden": [DIM], "unimodal": "none", "modality_dropout": 0.0}
SEQUENCES: dict[str, Any] = {
    **ALONE,
    "encoder": "attention",
    "epochs": 40,
    "patience": 6,
    "batch_size": 64,
    "lr": 2e-3,
    "weight_decay": 0.1,
    "input_dropout": 0.2,
}
TEXT: dict[str, Any] = {
    "source": {
        "modalities": {"text": "text:text_raw", "audio": "audio_*", "video": "video_*"},
        "target": "label",
        "split": "part",
        "task": "classification",
    },
}
# One vector of each, of steps that saw each other before.
MIXED: dict[str, Any] = {"deq, transformer": {**METHODS["deq"], "encoder": "transformer"}}
# One picture of so many, with its questions, of the set whose pictures are drawn.
EVERY = 4


@dataclass(frozen=True)
class Set:
    """What is measured on.

    Attributes:
        source: gives its path, of the folder of data and one to write to.
        settings: of the training.
        said: of it, in the report.
        more: methods beside those of all sets.
    """

    source: Callable[[Path, Path], Path]
    settings: dict[str, Any]
    said: str
    more: dict[str, dict[str, Any]] = field(default_factory=dict)


def as_it_is(name: str) -> Callable[[Path, Path], Path]:
    """A set whose file has sequences ``(n, T, l)``."""
    return lambda data, made: (data / f"{name}.npz").resolve()


def utd_mhad(data: Path, made: Path) -> Path:
    """The sensors and joints with time first, four steps a token; each of the three maps of motion is a token."""
    path = made / "utd_mhad.npz"
    if not path.is_file():
        arrays = dict(np.load(data / "utd_mhad.npz"))
        for name in ("inertial", "skeleton"):
            steps = arrays[name].transpose(0, 2, 1)
            arrays[name] = steps.reshape(len(steps), -1, 4 * steps.shape[2])
        arrays["depth_dmm"] = arrays["depth_dmm"].reshape(len(arrays["y"]), 3, -1)
        made.mkdir(parents=True, exist_ok=True)
        np.savez(path, **arrays)
    return path


def mosi(data: Path, made: Path) -> Path:
    """The words of an utterance as tokens, beside one vector of its sound and one of its film."""
    path = made / "mosi.csv"
    if not path.is_file():
        arrays = np.load(data / "mosi_utterance.npz")
        parts = {int(row): part for part in ("train", "val", "test") for row in arrays[f"{part}_idx"]}
        made.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            widths = {name: arrays[name].shape[1] for name in ("audio", "video")}
            numbered = [f"{name}_{k}" for name, width in widths.items() for k in range(width)]
            writer.writerow(["text_raw", "label", "part", *numbered])
            names = arrays["class_names"]
            for row, part in sorted(parts.items()):
                values = np.concatenate([arrays[name][row] for name in widths])
                writer.writerow([arrays["text_raw"][row], names[arrays["y"][row]], part, *map(float, values)])
    return path


def questions(name: str, write: Callable[[Path, Path], None]) -> Callable[[Path, Path], Path]:
    """Questions about images, in the layout of VQA v2."""

    def source(data: Path, made: Path) -> Path:
        if not (made / name / "test_annotations.json").is_file():
            write(data, made / name)
        return made / name

    return source


SETS = {
    "mmmo_av": Set(as_it_is("mmmo_av"), SEQUENCES, "20 steps of sound and of film; a score of sentiment", MIXED),
    "pom_av": Set(as_it_is("pom_av"), SEQUENCES, "20 steps of sound and of film; 17 scores of a speaker", MIXED),
    "mosi": Set(
        mosi,
        {**SEQUENCES, **TEXT, "encoder": "auto"},
        "words of the transcript; sound and film are one vector of an utterance, sequences of them are not at hand",
    ),
    "vqa_rad": Set(
        questions("vqa_rad", write_rad),
        {**RAD, **ALONE},
        "words of the question; an image is one vector of features. All 203 images of test also occur in train",
    ),
    "utd_mhad": Set(
        utd_mhad,
        SEQUENCES,
        "24 tokens of inertial sensors, 12 of a skeleton, 3 maps of motion; 27 actions, subjects apart",
        MIXED,
    ),
    "easy_vqa": Set(
        questions("easy_vqa", lambda data, folder: write_easy(data, folder, EVERY)),
        {**EASY, **ALONE},
        f"words of the question, 16 cells of a picture that a program drew; one picture of {EVERY}, all its questions",
    ),
}


def asked(name: str, data: Path, out: Path, seeds: int) -> BenchmarkConfig:
    """The benchmark of one set."""
    chosen = SETS[name]
    methods = tuple(Method(label, dict(options)) for label, options in {**METHODS, **chosen.more}.items())
    source = str(chosen.source(data, out / "data"))
    return BenchmarkConfig((source,), methods, tuple(range(seeds)), settings=chosen.settings)


def there_is(config: BenchmarkConfig, folder: Path) -> Summary | None:
    """What the store of a set has, however much that is."""
    if not (folder / STORE).is_file():
        return None
    sets = {name: look_at(name, source, config) for name, source in short_names(config.data).items()}
    return summarise(config, sets, list(Store(folder / STORE).rows().values()))


def report(found: Mapping[str, Summary]) -> str:
    """A table of the sets, and one of all methods on them."""
    rows = []
    for name, summary in found.items():
        (score,) = score_table(summary).rows
        (by_method,) = summary.scores[CLEAN].values()
        for label, cell in zip(summary.methods, score[2:], strict=True):
            cost, solved = summary.costs.get(label), summary.convergence.get(label)
            if label not in by_method or cost is None:
                continue
            costs = [f"{cost.parameters:,.0f}", f"{cost.train_seconds:,.0f}"]
            equilibria = [NONE, NONE] if solved is None else [f"{100 * solved.converged:.1f} %", f"{solved.steps:.1f}"]
            # Without a mark of the best: seeds may still be lacking.
            seeds = str(len(by_method[label].by_seed))
            rows.append([name, label, score[1], seeds, str(cell), *costs, *equilibria])
    header = ["data", "method", "metric", "seeds", "test", "parameters", "seconds of training", "converged", "steps"]
    tables = [
        TextTable(["data", "tokens and task"], [[name, SETS[name].said] for name in found]),
        TextTable(header, rows),
    ]
    return "\n".join(table.markdown() for table in tables)


def main() -> None:
    """Train what is missing, and write the report after every set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the evaluation data")
    parser.add_argument("--set", choices=list(SETS), action="append", help="default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/tokens"))
    parser.add_argument("--only-report", action="store_true", help="of what there is; train nothing")
    options = parser.parse_args()
    found: dict[str, Summary] = {}
    for name in options.set or SETS:
        config, folder = asked(name, options.data, options.out, options.seeds), options.out / name
        if not options.only_report:
            run_benchmark(config, folder, resume=(folder / STORE).is_file(), workers=0)
        summary = there_is(config, folder)
        if summary is not None:
            found[name] = summary
            write_text(options.out / "tokens.md", report(found))
    print(report(found))


if __name__ == "__main__":
    main()
