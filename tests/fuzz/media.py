"""Questions about images, columns of pictures and texts, scenes, and clips: valid examples, and how each is read."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import equifuse as ef
from tests.detection.rooms import write_rooms

QUESTIONS = tuple(f"vqa/{part}_{what}.json" for part in ("train", "val") for what in ("questions", "annotations"))
SCENE = (
    "scenes/lidar/000002.npz",
    "scenes/calib/000002.txt",
    "scenes/label_v1/000002.txt",
    "scenes/train_data_idx.txt",
)
FEATURES = {"tsv": "features/one.tsv", "hdf5": "features/two.hdf5", "files": "features/each/1.npz"}
_IMAGES = 6


def make_media(folder: Path) -> None:
    """Write a valid example of each."""
    from PIL import Image

    generator = np.random.default_rng(0)
    vqa = folder / "vqa"
    (vqa / "images").mkdir(parents=True, exist_ok=True)
    for part, first in (("train", 0), ("val", 4)):
        asked = [{"image_id": i, "question": "is it red?", "question_id": 10 * i} for i in range(first, first + 3)]
        answers = [{"question_id": q["question_id"], "image_id": q["image_id"], "question_type": "is",
                    "answers": [{"answer": ("yes", "no")[q["image_id"] % 2]}] * 3} for q in asked]  # fmt: skip
        (vqa / f"{part}_questions.json").write_text(json.dumps({"questions": asked}))
        (vqa / f"{part}_annotations.json").write_text(json.dumps({"annotations": answers}))
    for i in range(_IMAGES + 1):
        Image.new("RGB", (9, 7), (40 * i, 0, 0)).save(vqa / "images" / f"COCO_{i:012d}.png")
    regions = [generator.normal(size=(2, 3)).astype(np.float32) for _ in range(_IMAGES + 1)]
    features = folder / "features"
    (features / "each").mkdir(parents=True, exist_ok=True)
    lines = []
    for i, x in enumerate(regions):
        np.savez(features / f"each/{i}.npz", x=x.T)
        boxes = base64.b64encode(np.zeros((2, 4), np.float32).tobytes()).decode()
        lines.append("\t".join([str(i), "640", "480", "2", boxes, base64.b64encode(x.tobytes()).decode()]))
    (features / "one.tsv").write_text("\n".join(lines) + "\n")
    with h5py.File(features / "two.hdf5", "w") as file:
        file["image_features"] = np.concatenate(regions)
        file["pos_boxes"] = np.stack([2 * np.arange(len(regions)), 2 * np.arange(len(regions)) + 2], 1)
        file["image_ids"] = np.arange(len(regions))
    raw = folder / "raw"
    raw.mkdir(exist_ok=True)
    rows = ["path,said,y,split"]
    for i in range(6):
        Image.new("RGB", (9, 7), (40 * i, 0, 0)).save(raw / f"{i}.{('png', 'jpg')[i % 2]}")
        part = ("train", "train", "val", "test", "val", "test")[i]
        rows.append(f"{i}.{('png', 'jpg')[i % 2]},warm red {i},{'ab'[i % 2]},{part}")
    (raw / "raw.csv").write_text("\n".join(rows) + "\n")
    shutil.rmtree(folder / "scenes", ignore_errors=True)
    write_rooms(folder / "scenes", 4, points=600)
    clips = folder / "clips"
    clips.mkdir(exist_ok=True)
    try:
        from tests.data.test_clips import write_clip
    except BaseException:  # without PyAV the module skips itself
        return
    for i in range(4):
        write_clip(clips / f"abcdefghij{i}_00000{i}.avi", 0.3, shade=40 * i)
    kinds = ["train", "train", "train", "test"]
    (clips / "vggsound.csv").write_text("".join(f"abcdefghij{i},{i},{'ab'[i % 2]},{p}\n" for i, p in enumerate(kinds)))
    (clips / "clips.json").write_text(
        json.dumps(
            {
                "database": {
                    f"abcdefghij{i}_00000{i}": {
                        "subset": ("training", "validation")[i == 3],
                        "duration": 0.3,
                        "annotations": [{"label": "ab"[i % 2], "segment": [0.0, 0.2]}],
                    }
                    for i in range(4)
                }
            }
        )
    )


def media(name: str, image: str = "", annotations: str = "", **source: Any) -> Callable[[Path], None]:
    """Read a data set and its first and last rows, with nothing kept from before; other files by their path in it."""

    def read(folder: Path) -> None:
        cache = folder / "kept"
        shutil.rmtree(cache, ignore_errors=True)
        asked = dict(source)
        if image:
            asked["modalities"] = {"image": str(folder / image)}
        if annotations:
            asked["annotations"] = str(folder / annotations)
        before = os.environ.get("EQUIFUSE_CACHE")
        os.environ["EQUIFUSE_CACHE"] = str(cache)
        try:
            dataset = ef.datasets.load(folder / name, source=asked)
            for split in dataset.splits.values():
                for x in split.inputs.values():
                    np.asarray(x[np.array([0, len(x) - 1])])
        finally:
            os.environ.pop("EQUIFUSE_CACHE")
            if before is not None:
                os.environ["EQUIFUSE_CACHE"] = before

    return read


_ASKED = {"format": "vqa", "format_options": {"image_size": 16, "least_answers": 1}}
_RAW = {
    "modalities": {"photo": "image:path", "notes": "text:said"},
    "target": "y",
    "format_options": {"image_size": 16},
}
_CLIPS = {"format": "clips", "format_options": {"frames": 2, "size": 16, "workers": 1}}
_SEEN = {"format": "clips", "format_options": {**_CLIPS["format_options"], "streams": "video"}}
# Name -> files that are damaged, how they are read.
MEDIA = {
    "questions": (QUESTIONS, media("vqa", **_ASKED)),
    "questions, pictures": (("vqa/images/COCO_000000000001.png",), media("vqa", **_ASKED)),
    **{
        f"questions, {kind}": ((path,), media("vqa", image=path.removesuffix("/1.npz"), **_ASKED))
        for kind, path in FEATURES.items()
    },
    "raw columns": (("raw/raw.csv", "raw/0.png", "raw/1.jpg"), media("raw/raw.csv", **_RAW)),
    "scenes": (SCENE, media("scenes", format="votenet", format_options={"points": 512})),
    "clips": (
        ("clips/vggsound.csv", "clips/abcdefghij1_000001.avi"),
        media("clips", annotations="clips/vggsound.csv", **_CLIPS),
    ),
    "clips, json": (("clips/clips.json",), media("clips", annotations="clips/clips.json", **_SEEN)),
}
