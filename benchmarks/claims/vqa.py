"""Questions about images on real and drawn pictures: is fusion worth it, and does one look at the question help?

``python benchmarks/claims/vqa.py ../shared/data --set vqa_rad --seeds 3`` trains what is not there yet, and writes
``results/vqa.md`` from all that is. The sets are written in the layout of VQA v2 first, and read back by its format.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from equifuse.data import MultimodalDataset
from equifuse.evaluation.evaluate import evaluate_model
from equifuse.files import read_json, write_json, write_text
from equifuse.report.tables import TextTable
from equifuse.runs import TrainConfig
from equifuse.runs.folder import load_data
from equifuse.runs.prepare import prepare
from equifuse.training import Trainer

QUESTION = "question"


@dataclass(frozen=True)
class Method:
    """What is trained.

    Attributes:
        label: in the table.
        options: of the training.
        only: the modalities it gets; None for all.
    """

    label: str
    options: dict[str, Any]
    only: tuple[str, ...] | None = None


_COMMON: dict[str, Any] = {
    "modality_dropout": 0.0,
    "unimodal": "none",
    "batch_size": 128,
    "schedule": "cosine",
    "monitor": "vqa_accuracy",
}
# Drawn pictures at 32 pixels, a small network trained from scratch.
EASY: dict[str, Any] = {
    **_COMMON,
    "source": {"format": "vqa", "format_options": {"image_size": 32, "least_answers": 9}},
    "hidden": [64],
    "dropout": 0.1,
    "lr": 2e-3,
    "epochs": 10,
}
# Radiographs as ready features of a network for photographs, one vector each.
RAD: dict[str, Any] = {
    **_COMMON,
    "source": {"format": "vqa", "format_options": {"least_answers": 1}},
    "hidden": [128],
    "dropout": 0.3,
    "lr": 2e-3,
    "weight_decay": 1e-2,
    "epochs": 30,
    "batch_size": 64,
}
GUIDED = {"encoder": {"image": "guided"}}
FILM = {"encoder": {"image": "film"}}
METHODS = {
    "easy_vqa": (
        Method("image alone", {"fusion": "concat"}, ("image",)),
        Method("question alone", {"fusion": "concat"}, (QUESTION,)),
        Method("concat, one vector each", {"fusion": "concat"}),
        Method("deq, one vector each", {"fusion": "deq", "dim": 64}),
        Method("concat, guided", {"fusion": "concat", **GUIDED}),
        Method("deq, guided", {"fusion": "deq", "dim": 64, **GUIDED}),
        Method("concat, film", {"fusion": "concat", **FILM}),
        Method("deq, film", {"fusion": "deq", "dim": 64, **FILM}),
    ),
    "vqa_rad": (
        Method("image alone", {"fusion": "concat"}, ("image",)),
        Method("question alone", {"fusion": "concat"}, (QUESTION,)),
        Method("concat", {"fusion": "concat"}),
        Method("deq", {"fusion": "deq", "dim": 128}),
    ),
}
SETTINGS = {"easy_vqa": EASY, "vqa_rad": RAD}


def write_part(folder: Path, part: str, texts: Sequence[str], answers: Sequence[str], images: Sequence[int]) -> None:
    """Questions and annotations of a part, one answer each, in the layout of VQA v2."""
    first = {"train": 0, "test": 10**6}[part]
    asked, annotated = [], []
    for k, (text, answer, image) in enumerate(zip(texts, answers, images, strict=True)):
        key = {"question_id": first + k, "image_id": int(image)}
        asked.append({**key, "question": str(text)})
        annotated.append({**key, "answers": [{"answer": str(answer), "answer_id": 1}]})
    write_json(folder / f"{part}_questions.json", {"questions": asked})
    write_json(folder / f"{part}_annotations.json", {"annotations": annotated})


def write_easy(data: Path, folder: Path, every: int = 1) -> None:
    """easy-VQA: drawn shapes, 13 answers; one image of ``every`` so many, with all of its questions."""
    arrays = np.load(data / "easy_vqa.npz")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for part, offset in (("train", 0), ("test", 100_000)):
        kept = np.flatnonzero(arrays[f"image_index_{part}"] % every == 0)
        index = arrays[f"image_index_{part}"][kept].astype(int) + offset
        for number, pixels in list(enumerate(arrays[f"image_{part}"]))[::every]:
            Image.fromarray(pixels).save(folder / "images" / f"{offset + number:06d}.png")
        answers = arrays["answers"][arrays[f"y_{part}"][kept]]
        write_part(folder, part, arrays[f"question_{part}"][kept], answers, index)


def write_rad(data: Path, folder: Path) -> None:
    """VQA-RAD: radiographs by features of EfficientNet-Lite0, answers in lower case."""
    arrays = np.load(data / "vqa_rad.npz")
    (folder / "features").mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(arrays["image_feature"]):
        np.save(folder / "features" / f"{number:06d}.npy", row[None].astype(np.float32))
    for part in ("train", "test"):
        answers = [str(answer).lower().strip() for answer in arrays[f"answer_{part}"]]
        write_part(folder, part, arrays[f"question_{part}"], answers, arrays[f"image_index_{part}"])


WRITERS = {"easy_vqa": write_easy, "vqa_rad": write_rad}


def only(dataset: MultimodalDataset, kept: tuple[str, ...] | None) -> MultimodalDataset:
    """The data set with some of its modalities."""
    if kept is None:
        return dataset
    others = [m for m in dataset.modalities if m not in kept]
    splits = {part: split.without(others) for part, split in dataset.splits.items()}
    return replace(dataset, splits=splits, contents={m: dataset.contents[m] for m in kept})


def measured(name: str, folder: Path, method: Method, seed: int, epochs: int | None) -> dict[str, float | None]:
    """The test accuracies of one training, in percent."""
    options = {**SETTINGS[name], **method.options, **({} if epochs is None else {"epochs": epochs})}
    config = TrainConfig.from_dict({"data": str(folder), "seed": seed, **options})
    dataset = only(load_data(config), method.only)
    prepared = prepare(config, dataset)
    Trainer(config, watch=False).fit(prepared.model, dataset, task=prepared.task, balancer=prepared.balancer)
    found = evaluate_model(prepared.model, prepared.task, dataset, "test").metrics
    return {key: None if value is None else 100 * value for key, value in found.items() if key.startswith("vqa_")}


def table(name: str, results: Iterable[Path]) -> TextTable:
    """Mean and spread of each method's accuracies."""
    by_method: dict[str, list[dict[str, float]]] = {}
    for path in results:
        stored = read_json(path)
        by_method.setdefault(stored["method"], []).append(stored["metrics"])
    rows = []
    for method in METHODS[name]:
        found = by_method.get(method.label, [])
        if found:
            cells = [_cell([each[key] for each in found]) for key in ("vqa_accuracy", "vqa_yes_no", "vqa_other")]
            rows.append([method.label, str(len(found)), *cells])
    return TextTable(["method", "seeds", "accuracy", "yes or no", "other"], rows)


def _cell(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread}"


_SAID = {
    "easy_vqa": "easy-VQA: 38,575 questions of train and 9,673 of test about pictures that a program drew, brought to "
    "32 pixels; a small network and vectors of words are trained from scratch in ten epochs, 35 minutes beside much "
    "other work. Validation is held out by image, and the epoch is chosen on it. With one vector of each modality no "
    "method got past 77 % before, the question alone 67 %.",
    "vqa_rad": "VQA-RAD: 3,064 and 451 questions about 314 real radiographs, 476 answers in train, 89.6 % of the test "
    "answers among them; exact match after lower case. Images are features of EfficientNet-Lite0 (ImageNet), frozen; "
    "words are learned. All 203 images of test also occur in train: that is the published split, and a known flaw.",
}


def report(out: Path, target: Path, note: str) -> None:
    """Write the tables of all results there are."""
    parts = ["# Questions about images", "", note, ""]
    for name, said in _SAID.items():
        found = sorted((out / name).glob("*.json"))
        if found:
            parts += [f"## {name}", "", said, "", table(name, found).markdown(), ""]
    write_text(target, "\n".join(parts))


def main() -> None:
    """Train what is missing, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of the evaluation data")
    parser.add_argument("--set", choices=list(WRITERS), action="append", help="default: both")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--method", action="append", help="label of a method; default: all")
    parser.add_argument("--out", type=Path, default=Path("runs/vqa"))
    parser.add_argument("--report", type=Path, default=Path("results/vqa.md"))
    options = parser.parse_args()
    for name in options.set or list(WRITERS):
        folder = options.out / "data" / name
        if not (folder / "test_annotations.json").is_file():
            WRITERS[name](options.data, folder)
        for seed in range(options.seeds):
            for method in METHODS[name]:
                path = options.out / name / f"{method.label.replace(', ', '-').replace(' ', '_')}-{seed}.json"
                if path.is_file() or (options.method and method.label not in options.method):
                    continue
                metrics = measured(name, folder, method, seed, options.epochs)
                write_json(path, {"method": method.label, "seed": seed, "metrics": metrics})
                print(name, seed, method.label, json.dumps(metrics), flush=True)
    report(options.out, options.report, "Means and standard deviations over the seeds, in percent, on test.")


if __name__ == "__main__":
    main()
