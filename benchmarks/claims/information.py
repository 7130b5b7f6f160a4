"""What is measured before and inside of training, against the papers' words: three claims about information.

Estimates and trainings are kept in the folder of results, and none is repeated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from equifuse import datasets
from equifuse.files import read_json, write_json
from equifuse.information import interactions

# Those of the grand table whose targets are classes or quantities, the cheap ones first; two sets are of images.
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
EARLY = ("deq", "gmf", "gmf+deq", "concat", "gmu", "bottleneck")


def estimate(name: str, data: Path, out: Path, samples: int = 1000) -> dict[str, Any]:
    """What the modalities of a set say, measured before any training."""
    path = out / "estimates" / f"{name}.json"
    if not path.is_file():
        found = interactions(load(name, data), most_samples=samples)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, found.to_dict())
    known: dict[str, Any] = read_json(path)
    return known


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
