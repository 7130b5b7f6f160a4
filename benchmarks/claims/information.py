"""What is measured before and inside of training, against the papers' words: three claims about information.

    python benchmarks/claims/information.py ../shared/data --minutes 60

Estimates and trainings are kept in the folder of results, and none is repeated: the command goes on where it was
stopped, and what is complete for every method is reported.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from claim import CONTRASTS, SETTINGS, Claim, Result, Study, verdict_of
from scipy.stats import rankdata, spearmanr

from equifuse import datasets
from equifuse.data.loaders import batches_of
from equifuse.errors import ConvergenceWarning
from equifuse.explain import information_flow
from equifuse.files import read_json, write_json
from equifuse.information import interactions
from equifuse.registry import TASKS
from equifuse.report.page import TextTable
from equifuse.runs import TrainConfig, initial_model
from equifuse.training import Trainer

# Sets of the grand table whose targets are classes, the cheap ones first, and two of questions on images.
SETS = (
    "rosmap",
    "brca_recurrence_deepkegg",
    "basicmotions",
    "snare_seq",
    "bbcsport",
    "prokaryotic",
    "easy_vqa",
    "vqa_rad",
    "bdgp_lateral_dorsal",
    "mosi_utterance",
    "cub10",
    "brca_mogonet_testpart",
    "tcga_gbmlgg",
    "tcga_brca_pam50",
    "scene15",
    "utd_mhad",
    "avdigits_paired",
    "reuters1200",
    "uci_har_subset",
    "handwritten",
)
GRAND = Path(__file__).parents[2] / "results" / "grand" / "summary.json"
# What sees all modalities at once, beside late fusion; and what GMF's stages are compared with.
EARLY = ("deq", "gmf", "concat", "gmu", "bottleneck")
OTHERS = ("concat", "late", "gmu", "bottleneck", "deq")
# Sets that are trained for the stages: at least 100 samples that no model was trained on.
STAGED = (
    "rosmap",
    "snare_seq",
    "bbcsport",
    "prokaryotic",
    "easy_vqa",
    "vqa_rad",
    "bdgp_lateral_dorsal",
    "mosi_utterance",
    "cub10",
    "tcga_gbmlgg",
)
ALONE = "concat"
# What the stages are measured with: so few samples and epochs that a training takes seconds.
MOST = {"train": 400, "val": 300, "test": 300}
CHEAP = {"epochs": 15, "patience": 5, "batch_size": 32}


def estimate(name: str, data: Path, out: Path, samples: int = 1000) -> dict[str, Any]:
    """What the modalities of a set say, measured before any training."""
    return kept(
        out / "estimates" / f"{name}.json", lambda: interactions(load(name, data), most_samples=samples).to_dict()
    )


def load(name: str, data: Path) -> datasets.MultimodalDataset:
    """A data set of the folder; of those about questions a table of words and a coarse image."""
    if name == "easy_vqa":
        return easy_vqa(data / "easy_vqa.npz")
    if name == "vqa_rad":
        return vqa_rad(data / "vqa_rad.npz")
    return datasets.load(str(data / f"{name}.npz"))


def easy_vqa(path: Path, rows: int = 4000) -> datasets.MultimodalDataset:
    """Questions as words, images as colour and outline of the shape in them; 13 answers."""
    with np.load(path) as z:
        count = len(z["question_train"])
        words = word_columns(np.concatenate([z["question_train"], z["question_test"]]))
        drawn = np.random.default_rng(0).permutation(count)[:rows]
        shapes = {part: shape_columns(z[f"image_{part}"]) for part in ("train", "test")}
        parts = {}
        for part, kept in {"train": drawn[: 3 * rows // 4], "val": drawn[3 * rows // 4 :]}.items():
            image = shapes["train"][z["image_index_train"][kept]]
            parts[part] = _asked(image, words[kept], z["y_train"][kept])
        some = np.random.default_rng(1).permutation(len(z["question_test"]))[: rows // 4]
        image = shapes["test"][z["image_index_test"][some]]
        parts["test"] = _asked(image, words[count + some], z["y_test"][some])
    return datasets.MultimodalDataset("easy_vqa", parts, "classification")


def vqa_rad(path: Path) -> datasets.MultimodalDataset:
    """Yes or no to questions on radiographs: sentence vectors, and features of the image."""
    with np.load(path) as z:
        parts = {}
        for part in ("train", "test"):
            answer = np.char.lower(z[f"answer_{part}"])
            kept = np.flatnonzero(np.isin(answer, ("yes", "no")))
            y = (answer[kept] == "yes").astype(np.int64)
            image = z["image_feature"][z[f"image_index_{part}"][kept]].astype(np.float32)
            parts[part] = _asked(image, z[f"question_vec_{part}"][kept].astype(np.float32), y)
    rows = np.random.default_rng(0).permutation(len(parts["train"]))
    cut = len(rows) // 5
    parts["val"], parts["train"] = parts["train"].select(rows[:cut]), parts["train"].select(rows[cut:])
    return datasets.MultimodalDataset("vqa_rad", parts, "classification")


def _asked(image: Any, question: Any, y: Any) -> datasets.Split:
    return datasets.Split({"image": image, "question": question}, target=y)


def shape_columns(images: Any) -> Any:
    """Mean colour of the pixels that are not background, their share of the box around them, and eight widths in it."""
    found = np.zeros((len(images), 12), np.float32)
    for row, image in zip(found, images, strict=True):
        pixels = image.astype(np.float32)
        inside = np.abs(pixels - np.median(pixels.reshape(-1, 3), axis=0)).sum(2) > 30
        y, x = np.nonzero(inside)
        if len(y):
            box = inside[y.min() : y.max() + 1, x.min() : x.max() + 1]
            widths = [piece.mean() for piece in np.array_split(box, 8)] if len(box) >= 8 else [box.mean()] * 8
            row[:] = [*(pixels[inside].mean(0) / 255), box.mean(), *widths]
    return found


def word_columns(questions: Any) -> Any:
    """Which words are in each question ``(n, W)``."""
    split = [str(q).lower().replace("?", "").split() for q in questions]
    known = {word: i for i, word in enumerate(sorted({word for words in split for word in words}))}
    found = np.zeros((len(split), len(known)), np.float32)
    for row, words in zip(found, split, strict=True):
        row[[known[word] for word in words]] = 1
    return found


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is in a file, made once."""
    if not path.is_file():
        write_json(path, make())
    known: dict[str, Any] = read_json(path)
    return known


def small(dataset: datasets.MultimodalDataset) -> datasets.MultimodalDataset:
    """At most so many samples of each part, drawn once."""
    parts = {}
    for part, most in MOST.items():
        split = dataset.splits[part].labelled()
        rows = np.sort(np.random.default_rng(0).permutation(len(split))[:most])
        parts[part] = split.select(rows)
    return replace(dataset, splits=parts)


def trained(
    dataset: datasets.MultimodalDataset, fusion: str, seed: int, *, flow: bool, cheap: bool = False
) -> dict[str, Any]:
    """Test accuracy of one training with the options of the grand table, and the information at its stages."""
    options = {**SETTINGS, **(CHEAP if cheap else {}), "unimodal": "none"}
    config = TrainConfig.from_dict({"data": dataset.name, "fusion": fusion, "seed": seed, **options})
    model = initial_model(config, dataset)
    task = TASKS.get(dataset.task)(dataset.classes)
    held_out = dataset.splits["val"].joined(dataset.splits["test"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        before = information_flow(model, task, batches_of(held_out)).to_dict() if flow and fusion == "gmf" else None
        Trainer(config).fit(model, dataset, task=task)
        found = task.evaluate(model, batches_of(dataset.splits["test"]))
        after = information_flow(model, task, batches_of(held_out)).to_dict() if flow else None
    return {"accuracy": found.metrics["accuracy"], "before": before, "after": after}


def flows(data: Path, out: Path, seeds: int, until: float) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Set -> fusion -> its trainings with the information at their stages; of every set the seeds that are complete.

    Args:
        data: folder of data sets.
        out: where each training is kept.
        seeds: how many.
        until: time after which no further training is begun.
    """
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    loaded: dict[str, datasets.MultimodalDataset] = {}
    for seed in range(seeds):
        for name in (name for name in STAGED if (data / f"{name}.npz").is_file()):
            runs = {}
            for fusion in ("gmf", *OTHERS):
                path = out / "flows" / f"{name}.{fusion}.{seed}.json"
                if not path.is_file() and time.monotonic() > until:
                    break
                if not path.is_file() and name not in loaded:
                    loaded[name] = small(load(name, data))
                make = partial(trained, loaded.get(name), fusion, seed, flow=True, cheap=True)
                runs[fusion] = kept(path, make)
                print(path.name, file=sys.stderr, flush=True)
            else:
                for fusion, run in runs.items():
                    found.setdefault(name, {}).setdefault(fusion, []).append(run)
    return found


def alone(name: str, data: Path, out: Path, seeds: int, cheap: bool) -> dict[str, float]:
    """Mean test accuracy of each modality alone."""
    dataset = small(load(name, data)) if cheap else load(name, data)
    found = {}
    for m in dataset.modalities:
        others = [other for other in dataset.modalities if other != m]
        single = replace(dataset, splits={part: split.without(others) for part, split in dataset.splits.items()})
        runs = [
            kept(
                out / ("alone-cheap" if cheap else "alone") / f"{name}.{m}.{seed}.json",
                partial(trained, single, ALONE, seed, flow=False, cheap=cheap),
            )
            for seed in range(seeds)
        ]
        found[m] = statistics.fmean(run["accuracy"] for run in runs)
    return found


def task_left(flow: dict[str, Any]) -> float:
    """Share of the target's entropy that is left given the fused vector."""
    (fused,) = [stage for stage in flow["stages"] if stage["name"] == "fused"]
    return float(fused["left"] / flow["target_entropy"])


def mean_common(flow: dict[str, Any], kind: str) -> float | None:
    """Mean bits in common between the modalities' stages of a kind, or between both parts of each; None without."""
    ends = ("invariant", "specific") if kind == "parts" else (kind, kind)
    found = [c["bits"] for c in flow["common"] if c["a"].endswith(f".{ends[0]}") and c["b"].endswith(f".{ends[1]}")]
    return statistics.fmean(found) if found else None


def of_gmf(every: dict[str, dict[str, list[dict[str, Any]]]]) -> tuple[str, list[TextTable]]:
    """The first claim: entropy that is left, and what the parts have in common."""
    rows, verdicts = [], []
    for other in OTHERS:
        pairs = [
            [
                100 * (task_left(b["after"]) - task_left(a["after"]))
                for a, b in zip(fused["gmf"], fused[other], strict=True)
            ]
            for fused in every.values()
        ]
        verdict, row = verdict_of("gmf", other, [statistics.fmean(pair) for pair in pairs], pairs)
        rows.append(row)
        verdicts.append(verdict)
    left = TextTable(
        CONTRASTS, rows, "Per cent of the target's entropy that is left after gmf less than after the other."
    )
    lines = []
    for kind in ("parts", "encoded", "recombined"):
        moves = [
            (b, a)
            for fused in every.values()
            for run in fused["gmf"]
            if (b := mean_common(run["before"], kind)) is not None
            and (a := mean_common(run["after"], kind)) is not None
        ]
        before, after = (statistics.fmean(values) for values in zip(*moves, strict=True))
        fell = sum(a < b for b, a in moves)
        lines.append([kind, f"{before:.2f}", f"{after:.2f}", f"{fell} of {len(moves)}"])
    common = TextTable(
        ["between", "before training", "after", "lower after"],
        lines,
        "Bits in common (Gaussian): of invariant and specific part, and of two modalities' stages.",
    )
    holds = sum(verdict == "holds" for verdict in verdicts)
    fewer = float(lines[0][2]) < float(lines[0][1])
    return (
        f"entropy lower than after {holds} of {len(OTHERS)}; parts share {'' if fewer else 'not '}less after training",
        [
            left,
            common,
        ],
    )


def of_iterates(every: dict[str, dict[str, list[dict[str, Any]]]]) -> tuple[str, TextTable]:
    """The second claim: information along the solver's way."""
    rows, differences, by_seed = [], [], []
    for name, fused in every.items():
        curves = [run["after"]["iterates"]["fusion"] for run in fused["deq"]]
        mean = np.mean(curves, axis=0)
        gains = [
            100 * (curve[-1] - curve[0]) / run["after"]["target_entropy"]
            for curve, run in zip(curves, fused["deq"], strict=True)
        ]
        differences.append(statistics.fmean(gains))
        by_seed.append(gains)
        best = statistics.fmean(
            max(s["bits"] for s in run["after"]["stages"] if s["name"].endswith(".encoded")) for run in fused["deq"]
        )
        rows.append([name, f"{best:.2f}", *(f"{value:.2f}" for value in (mean[0], mean[1], mean[2], mean[-1]))])
    verdict, _ = verdict_of("end", "start", differences, by_seed)
    caption = (
        "Bits that a linear model reads off the fused state of deq. End over start: "
        f"{statistics.fmean(differences):+.1f} per cent of the entropy, higher on {sum(d > 0 for d in differences)} of "
        f"{len(differences)} sets."
    )
    return verdict, TextTable(["set", "best encoder", "start", "1 evaluation", "2", "end"], rows, caption)


def of_estimates(data: Path, out: Path, seeds: int, staged: dict[str, Any]) -> tuple[str, list[TextTable]]:
    """The third claim: estimates before training against gains after it."""
    scores = read_json(GRAND)["scores"]["clean"]
    rows, points = [], []
    for name in SETS:
        if not (data / f"{name}.npz").is_file():
            continue
        found = estimate(name, data, out)
        if name in scores:
            late = scores[name]["late"]["mean"]
            early = statistics.fmean(scores[name][method]["mean"] for method in EARLY)
        elif name in staged:
            late = statistics.fmean(run["accuracy"] for run in staged[name]["late"])
            early = statistics.fmean(run["accuracy"] for method in EARLY for run in staged[name][method])
        else:
            continue
        best = max(alone(name, data, out, 1 if name in scores else seeds, name not in scores).values())
        entropy = found["target_entropy"]
        together = max(found["joint"], found["evidence"])
        over_best = (together - max(found["modalities"].values())) / entropy
        over_late = (found["joint"] - found["evidence"]) / entropy
        point = (100 * over_best, 100 * (max(early, late) - best), 100 * over_late, 100 * (early - late))
        points.append(point)
        rows.append([name, *(f"{value:+.1f}" for value in point)])
    table = TextTable(
        ["set", "estimate over best", "fusion over best", "estimate over late", "early over late"],
        rows,
        "Estimates in per cent of the target's entropy, before training; test accuracy in points, after it.",
    )
    lines, said = [], []
    for label, a, b in (("gain over the best modality", 0, 1), ("gain over late fusion", 2, 3)):
        x, y = np.array(points)[:, a], np.array(points)[:, b]
        rho, low, high, p = correlation(x, y)
        lines.append([label, f"{rho:.2f}", f"{low:.2f} to {high:.2f}", f"{p:.3f}"])
        said.append(f"{label}: {'predicted' if p < 0.05 and rho > 0 else 'not shown'}")
    return "; ".join(said), [
        table,
        TextTable(["", "rank correlation", "95 %", "p"], lines, f"Over {len(points)} sets."),
    ]


def correlation(x: Any, y: Any) -> tuple[float, float, float, float]:
    """Spearman's rank correlation, its bootstrap interval, and p."""
    found = spearmanr(x, y)
    rows = np.random.default_rng(0).integers(0, len(x), (2000, len(x)))
    a, b = (rankdata(of[rows], axis=1) for of in (x, y))
    a, b = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (a, b))
    with np.errstate(invalid="ignore"):  # a draw of equal values has none
        drawn = (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return float(found.statistic), float(low), float(high), float(found.pvalue)


def run(study: Study, minutes: float = float("inf")) -> Result:
    """All three."""
    data, out, seeds = study.data, study.out, study.seeds
    staged = flows(data, out, seeds, time.monotonic() + 60 * minutes)
    counts = sorted({len(runs["gmf"]) for runs in staged.values()})
    first, tables = of_gmf(staged)
    second, curves = of_iterates(staged)
    third, more = of_estimates(data, out, seeds, staged)
    often = " to ".join(map(str, dict.fromkeys([counts[0], counts[-1]])))
    notes = [
        f"Stages: {len(staged)} sets, {often} seeds, trained on at most {MOST['train']} samples for at most "
        f"{CHEAP['epochs']} epochs, and measured on at most {MOST['val']} of validation and {MOST['test']} of test by "
        "linear models in four folds.",
        "Estimates: the default estimator on at most 1,000 training and validation samples. Scores of the late and the "
        "early fusions are those of the grand table (five seeds), of each modality alone one training with the same "
        "options; for the two sets of questions all are our small trainings.",
    ]
    verdict = f"(1) {first}; (2) information along the iterates rises: {second}; (3) {third}"
    return Result(verdict, [*tables, curves, *more], notes)


CLAIM = Claim(
    "information",
    "GMF lowers mutual information between parts and the entropy of the task; information along the equilibrium's "
    "iterates rises; what is estimated before training predicts what fusion gains.",
    "the first two after Xiong et al. 2024 and Ni et al. 2023; the third is ours",
    "The options of the grand table for all methods, nothing tuned.",
    run,
    trains=False,
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no training is begun")
    known, sys.argv[1:] = parser.parse_known_args()
    replace(CLAIM, run=partial(run, minutes=known.minutes)).main()
