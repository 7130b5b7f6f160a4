"""The pictures of tutorials and guides, drawn when the documentation is built, by the library's own plot functions.

Most show small models of the embedded digits, the others what ``results/`` holds. A page names its picture
``drawn/guide-NAME.svg``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA

import equifuse as ef
from equifuse.report import plots
from equifuse.report.plots.base import COLOURS, QUIET, new_figure
from equifuse.report.scenes import draw_scene

RESULTS = Path(__file__).resolve().parent.parent / "results"


@cache
def splits() -> dict[str, Any]:
    """The embedded digits."""
    return dict(ef.datasets.load("digits").splits)


@cache
def classifier(fusion: str = "gmf", dropout: float = 0.0, seed: int = 0, epochs: int = 4) -> ef.FusionClassifier:
    """A small model of the digits."""
    options = {"hidden": (32,), "epochs": epochs, "unimodal": "none", "modality_dropout": dropout}
    train = splits()["train"]
    return ef.FusionClassifier(fusion, random_state=seed, **options).fit(train.inputs, train.target)


def right(model: ef.FusionClassifier) -> NDArray[np.bool_]:
    """Which test digits a model finds."""
    test = splits()["test"]
    return np.asarray(model.predict(test.inputs) == test.target)


def interval(found: NDArray[Any]) -> tuple[float, float, float]:
    """A mean and its 95 % interval, over draws of the samples."""
    draws = np.random.default_rng(0).choice(found, (400, len(found))).mean(axis=1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(found.mean()), float(low), float(high)


def measured(name: str) -> dict[str, list[str]]:
    """The table of a result: its first columns joined -> the others."""
    rows = re.findall(r"^\| (.*) \|$", (RESULTS / f"{name}.md").read_text(encoding="utf-8"), re.MULTILINE)
    cells = [row.split(" | ") for row in rows[2:]]
    return {row[0] if row[1] in ("", "-") else f"{row[0]}, {row[1]}": row for row in cells}


def first_number(text: str) -> float:
    """The number that a cell opens with."""
    return float(re.match(r"[\d.,]+", text)[0].replace(",", ""))  # type: ignore[index]


def train() -> Figure:
    """Two models as they learn: the one with hidden modalities learns more slowly."""
    both = {"all modalities": classifier(epochs=8), "a third hidden": classifier(dropout=0.35, epochs=8)}
    return plots.learning_curves({name: model.history_ for name, model in both.items()})


def first_model() -> Figure:
    """Which digits are taken for which."""
    found, truth = classifier().predict(splits()["test"].inputs), splits()["test"].target
    matrix = np.zeros((10, 10), dtype=int)
    np.add.at(matrix, (truth, found), 1)
    return plots.confusion(matrix.tolist(), [str(digit) for digit in range(10)])


def missing() -> Figure:
    """What is left of the accuracy without some views, of a model that has met their absence and one that has not."""
    test, models = (
        splits()["test"],
        {"not prepared": classifier(epochs=8), "prepared": classifier(dropout=0.35, epochs=8)},
    )
    shares: dict[str, dict[str, float]] = {}
    for count in range(1, len(test.inputs)):
        kept = list(combinations(test.inputs, len(test.inputs) - count))
        for name, model in models.items():
            scores = [model.score({m: test.inputs[m] for m in some}, test.target) for some in kept]
            share = float(np.mean(scores)) / model.score(test.inputs, test.target)
            shares.setdefault(f"without {count} of {len(test.inputs)}", {})[name] = share
    return plots.retained(shares)


def evaluate() -> Figure:
    """A score with its interval, beside what it is compared with."""
    truth = splits()["test"].target
    usual = np.bincount(splits()["train"].target).argmax()
    found = {"gmf": right(classifier()), "linear model": right(linear()), "most frequent class": truth == usual}
    return plots.compared({name: interval(each) for name, each in found.items()}, "accuracy", percent=True)


@cache
def linear() -> ef.FusionClassifier:
    """A linear model of all columns."""
    train = splits()["train"]
    return ef.FusionClassifier("linear", random_state=0).fit(train.inputs, train.target)


def ensembles() -> Figure:
    """Three models alone, and the mean of what they say."""
    members = [classifier("concat", seed=seed, epochs=2) for seed in range(3)]
    test = splits()["test"]
    mean = sum(model.predict_proba(test.inputs) for model in members) / len(members)
    found = {f"model {i}": interval(right(model)) for i, model in enumerate(members, 1)}
    found["their mean"] = interval(np.asarray(mean.argmax(1) == test.target))
    return plots.compared(found, "accuracy", percent=True)


def embed() -> Figure:
    """Fused vectors of test digits on their first two principal components."""
    import torch  # noqa: PLC0415 - it takes a moment

    test, model = splits()["test"], classifier().model_
    inputs = {name: torch.from_numpy(np.asarray(x)) for name, x in test.inputs.items()}
    with torch.no_grad():
        fused = model(inputs).fusion.fused.numpy()
    places = PCA(2, random_state=0).fit_transform(fused)
    return plots.scatter(places, test.target.astype(str), "digit", axes=("first component", "second component"))


def scikit_learn() -> Figure:
    """One digit against the others, as ``sklearn.metrics`` would have it."""
    test = splits()["test"]
    return plots.roc(classifier(epochs=2).predict_proba(test.inputs), test.target, [str(digit) for digit in range(10)])


def prepare() -> Figure:
    """Counts as they are, their logarithms, and those standardised."""
    counts = np.random.default_rng(0).poisson(np.exp(np.random.default_rng(1).normal(2, 1, 2000))).astype("float32")
    logarithms = np.log1p(counts)
    figure, every = new_figure(8, 2.4, columns=3)
    shown = {"counts": counts, "log1p": logarithms, "standardised": (logarithms - logarithms.mean()) / logarithms.std()}
    for axis, (name, values), colour in zip(every, shown.items(), COLOURS, strict=False):
        axis.hist(values, bins=30, color=colour)
        axis.set(xlabel=name, yticks=[])
    return figure


def presence(there: dict[str, NDArray[np.bool_]], rows: str) -> Figure:
    """Samples by modalities: what there is."""
    names = list(there)
    figure, (axis,) = new_figure(6, 0.4 * len(names) + 0.8)
    for row, (name, colour) in enumerate(zip(names, COLOURS, strict=False)):
        at = np.flatnonzero(there[name])
        axis.barh(np.full(len(at), row), 0.86, left=at + 0.07, height=0.72, color=colour)
    count = len(there[names[0]])
    axis.set(yticks=range(len(names)), yticklabels=names, xlim=(0, count), xticks=[], ylim=(len(names) - 0.4, -0.6))
    axis.set_xlabel(rows)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    return figure


def tables() -> Figure:
    """Which samples each file knows."""
    random = np.random.default_rng(1)
    files = {"clinic.csv": 1.0, "rna.csv": 0.9, "methylation.csv": 0.6}
    there = {name: random.random(60) < share for name, share in files.items()}
    return presence(there, "60 ids of the main table; a gap is a sample without that modality")


def clips() -> Figure:
    """Which streams clips have."""
    random = np.random.default_rng(2)
    return presence(
        {"video": random.random(60) < 0.95, "audio": random.random(60) < 0.75},
        "60 clips; one without sound is a sample without the modality audio",
    )


def formats() -> Figure:
    """What every format becomes."""
    random = np.random.default_rng(3)
    there = {name: random.random(60) < share for name, share in (("text", 0.9), ("image", 0.7), ("audio", 0.5))}
    there["target"] = np.ones(60, dtype=bool)
    return presence(there, "samples: an array and a mask of what is there for each modality")


def detection() -> Figure:
    """A room from above, made up: boxes that are there and boxes that were found."""
    random = np.random.default_rng(0)
    truth = np.array([[-1.2, 3.0, 0.4, 1.0, 0.6, 0.5, 0.2], [1.1, 4.1, 0.4, 0.5, 0.5, 0.5, 0.8]])
    found = truth + random.normal(0, 0.06, truth.shape)
    sides = [box[:2] + random.uniform(-1, 1, (220, 2)) @ np.diag(box[3:5]) for box in truth]
    walls = np.stack([random.uniform(-2.5, 2.5, 900), random.uniform(1.5, 5.5, 900)], axis=1)
    points = random.permutation(np.concatenate([*sides, walls]))
    return draw_scene(points, truth, found, ["bed 0.9", "chair 0.7"])


def questions() -> Figure:
    """How right an answer is, by how many of ten people gave it: the mean over the ten sets of nine of them."""
    count = np.arange(11)
    score = (count * np.minimum(1, (count - 1) / 3) + (10 - count) * np.minimum(1, count / 3)) / 10
    figure, (axis,) = new_figure(4.5, 2.6)
    axis.plot(count, score, "o-", color=COLOURS[0])
    axis.set(xlabel="people of ten who gave the answer", ylabel="accuracy of the answer", xticks=count[::2].tolist())
    return figure


def scale_out() -> Figure:
    """Peak memory against the size of the file, as it was measured."""
    rows = measured("streaming")
    size, memory = ([first_number(row[column]) for row in rows.values()] for column in (0, 2))
    figure, (axis,) = new_figure(4.5, 2.6)
    axis.plot(size, size, ":", color=QUIET, label="as large as the file")
    axis.plot(size, memory, "o-", color=COLOURS[0], label="peak memory of training")
    axis.set(xlabel="file, GB", ylabel="GB", ylim=(0, None))
    axis.legend(frameon=False)
    return figure


def deploy() -> Figure:
    """Milliseconds for one sample in onnxruntime and in PyTorch, as they were measured."""
    rows = measured("export")
    figure, (axis,) = new_figure(6, 0.42 * len(rows) + 0.8)
    for place, row in enumerate(rows.values()):
        exported, speed = re.findall(r"[\d.]+", row[4])
        for shift, value, colour in (
            (-0.18, float(exported), COLOURS[0]),
            (0.18, float(exported) * float(speed), QUIET),
        ):
            axis.barh(place + shift, value, 0.34, color=colour)
    axis.set(
        yticks=range(len(rows)), yticklabels=list(rows), xlabel="ms for one sample; blue: onnxruntime, grey: PyTorch"
    )
    axis.invert_yaxis()
    return figure


def choose() -> Figure:
    """Average ranks of fourteen methods on real data sets, as they were measured: no difference beyond chance."""
    found = json.loads((RESULTS / "grand_methods" / "summary.json").read_text(encoding="utf-8"))["ranking"]
    ranks = dict(sorted(found["ranks"].items(), key=lambda item: item[1]))
    return plots.critical_difference(ranks, found["critical"], [tuple(range(len(ranks)))])


def should_i_fuse() -> Figure:
    """What was estimated before training against what fusion gained after it; a point is a data set."""
    found = json.loads((RESULTS / "when_fusion_pays" / "study.json").read_text(encoding="utf-8"))
    figure, every = new_figure(8, 3.2, columns=2)
    shown = (
        (
            "adds",
            "over one",
            "all together say beyond the best one,\n% of the entropy",
            "the best one, points",
        ),
        (
            "interacts",
            "over late",
            "all together say beyond each asked alone,\n% of the entropy",
            "late fusion, points",
        ),
    )
    for axis, (feature, gain, before, after) in zip(every, shown, strict=True):
        axis.axhline(0, color=QUIET, linewidth=1)
        for row in (row for row in found["sets"].values() if row[gain] is not None):
            colour = COLOURS[0] if row["task"] == "classification" else COLOURS[1]
            place = 100 * row[feature]
            axis.vlines(place, min(row["seeds"][gain]), max(row["seeds"][gain]), color=colour, alpha=0.35)
            axis.plot(place, row[gain], "o", color=colour, markersize=4)
        r, low, high, _ = found["correlations"][feature][gain]
        axis.set(xlabel=before, ylabel=f"gain over {after}", xscale="symlog")
        axis.set_title(f"rank correlation {r:+.2f} ({low:+.2f} to {high:+.2f})", fontsize=9)
    return figure


def boxes(steps: Sequence[str], own: Sequence[str] = ()) -> Figure:
    """Steps one after the other; those of one's own in colour."""
    figure, (axis,) = new_figure(6.2, 1.0)
    width = 1 / len(steps)
    for place, step in enumerate(steps):
        colour = COLOURS[0] if step in own else QUIET
        style = {"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": colour, "linewidth": 1.5}
        axis.text((place + 0.5) * width, 0.5, step, ha="center", va="center", bbox=style, fontsize=8)
        if place:
            ends = ((place + 0.14) * width, 0.5), ((place - 0.14) * width, 0.5)
            axis.annotate("", *ends, arrowprops={"arrowstyle": "->", "color": QUIET})
    axis.set(xlim=(0, 1), ylim=(0, 1))
    axis.axis("off")
    return figure


def own_network() -> Figure:
    """Where a fusion stands in a network."""
    own = ["your\nencoders", "your\nhead and loss"]
    return boxes(["samples,\nsome incomplete", own[0], "fusion", "out.fused,\nout.stats", own[1]], own)


def own_fusion() -> Figure:
    """What the base class does, and what is left to do."""
    steps = ["inputs\nand masks", "checks,\nflat rows", "fuse(rows)", "leading shapes\nagain", "FusionOutput"]
    return boxes(steps, steps[2:3])


def public_sets() -> Figure:
    """From a download to a figure."""
    steps = ["fetch-\ninstructions", "your\ndownload", "inspect", "recipe.yaml", "run folder,\nreport"]
    return boxes(steps, steps[1:2])


GUIDES: dict[str, Callable[[], Figure]] = {
    made.__name__.replace("_", "-"): made
    for made in (
        *(train, first_model, missing, evaluate, ensembles, embed, scikit_learn, prepare, tables, clips, formats),
        *(detection, questions, scale_out, deploy, choose, should_i_fuse, own_network, own_fusion, public_sets),
    )
}
