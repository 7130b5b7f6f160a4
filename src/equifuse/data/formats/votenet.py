"""Scenes of SUN RGB-D (Song et al. 2015) in the layouts of VoteNet and ImVoteNet: points, image, boxes in 3D.

A folder is read in either form:

- as the points are extracted: ``calib/000001.txt``, ``label_v1/000001.txt`` (or ``label``), and the points as
  ``depth/000001.mat`` (variable ``instance``), ``lidar/000001.npz`` or ``lidar/000001.npy`` (rows of X Y Z R G B, the
  colours from 0 to 1); ``train_data_idx.txt`` and ``val_data_idx.txt`` say the parts, and all 10,335 scenes without
  them have the official ones;
- as VoteNet prepares them: folders whose names end in ``train`` and ``val`` with ``000001_pc.npz`` and
  ``000001_bbox.npy``. What the image says needs ``calib`` and ``label_v1`` of the first form, in the same folder or in
  ``sunrgbd_trainval``.

The official part ``val`` is what is tested on; validation is held out from training. Scenes without an object of the
ten classes are left out, as they are there.

Modalities are ``points`` ``(P, 4)``: X, Y, Z and the height above the floor, of which the first ``S`` are spread over
the scene by farthest-point sampling; and ``image`` ``(S, 21)``: X, Y, Z of those, and what the image says of them,
:func:`equifuse.detection.image_votes`. Boxes in the image are those of ``sunrgbd_2d_bbox_50k_v1_train`` and
``..._val``, where they are, or else those that people drew, which no detector would find: quote no result with them as
one without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from equifuse.data.assemble import assemble
from equifuse.data.dataset import MultimodalDataset, Split
from equifuse.data.formats.base import Format
from equifuse.data.formats.mat import mat_content
from equifuse.data.lazy import Indices, loaded_if_small
from equifuse.data.lazy.kept import KeptRows, keep_rows, stamp_of
from equifuse.data.options import SourceOptions
from equifuse.data.selfcontained import member
from equifuse.data.sources import SourceFile
from equifuse.detection.camera import Calibration
from equifuse.detection.sampling import farthest_points
from equifuse.detection.scenes import LEAST_POINTS, seeds_of
from equifuse.detection.sunrgbd import CLASSES, read_boxes_2d, read_labels, read_prepared_boxes
from equifuse.detection.votes import Boxes2D, image_votes
from equifuse.errors import DataError, InputError
from equifuse.files import read_array
from equifuse.registry import FORMATS

# Bumped where the rows that are made of the same files change.
_VERSION = 1
_OFFICIAL_SCENES, _OFFICIAL_VAL = 10_335, 5_050
# The share of a scene's points that are below its floor.
_FLOOR = 0.99
_TEST = "test"


@dataclass(frozen=True)
class _Scene:
    """Files of a scene.

    Attributes:
        number: by which it is called.
        cloud: its points.
        boxes: of ``label`` or ``_bbox.npy``.
        part: that the folder puts it into, or None.
        calibration: of its camera, or None.
        flat: boxes in its image, or its label, or None.
    """

    number: str
    cloud: Path
    boxes: Path
    part: str | None
    calibration: Path | None
    flat: Path | None


@FORMATS.register
class VoteNetFormat(Format):
    """Folders of SUN RGB-D as VoteNet and ImVoteNet have them.

    Args:
        points: how many of each scene, drawn at random, the same ones in every epoch; default 20,000. There are as many
            seeds as the power of two at or below a sixteenth: 1,024.
        labels: ``"v1"`` or ``"v2"``: which boxes of a folder that has both.

    Raises:
        InputError: an option is out of range.
    """

    name: ClassVar[str] = "votenet"
    description: ClassVar[str] = "folder of SUN RGB-D scenes (VoteNet)"
    priority: ClassVar[int] = 5
    whole: ClassVar[bool] = True

    def __init__(self, points: int = 20_000, labels: str = "v1") -> None:
        if not isinstance(points, int) or points < LEAST_POINTS:
            raise InputError(f"points must be a whole number of at least {LEAST_POINTS}, got {points!r}")
        if labels not in ("v1", "v2"):
            raise InputError(f"labels must be 'v1' or 'v2', got {labels!r}")
        self.points, self.labels = points, labels

    def detect(self, path: Path) -> bool:
        """A folder of either form."""
        return path.is_dir() and (self._raw(path) is not None or next(_prepared(path), None) is not None)

    def read(self, path: Path, options: SourceOptions, *, val_fraction: float, seed: int) -> MultimodalDataset:
        """Read the folder; scenes are prepared once and kept.

        Raises:
            DataError: a file is missing or damaged, or there is no scene.
        """
        options.refuse("a folder of scenes")
        if not path.is_dir():
            raise DataError(f"{path} is no folder; expected one of scenes of SUN RGB-D")
        scenes = self._scenes(path)
        found = [read_prepared_boxes(s.boxes) if s.boxes.suffix == ".npy" else read_labels(s.boxes)[0] for s in scenes]
        empty = sum(not len(boxes) for boxes in found)
        kept = [(scene, boxes) for scene, boxes in zip(scenes, found, strict=True) if len(boxes)]
        if not kept:
            raise DataError(f"{path} has no scene with an object of the classes {', '.join(CLASSES)}")
        scenes = [scene for scene, _ in kept]
        target = np.zeros((len(kept), max(len(boxes) for _, boxes in kept), 8), dtype=np.float32)
        target[..., 7] = -1
        for row, (_, boxes) in zip(target, kept, strict=True):
            row[: len(boxes)] = boxes
        stamps = [
            stamp_of("votenet", _VERSION, self.points, s.number, *(f for f in (s.cloud, s.calibration, s.flat) if f))
            for s in scenes
        ]
        files = keep_rows("scenes", stamps, lambda i: self._made(scenes[i]))
        seeds = seeds_of(self.points)
        inputs = {"points": loaded_if_small(KeptRows(files, "points", (self.points, 4)))}
        seen = np.array([scene.calibration is not None and scene.flat is not None for scene in scenes])
        present: dict[str, NDArray[np.bool_]] = {}
        if seen.any():
            width = 3 + image_width()
            inputs["image"] = loaded_if_small(KeptRows(files, "image", (seeds, width)))
            present = {} if seen.all() else {"image": seen}
        numbers = np.array([scene.number for scene in scenes])
        whole = Split(inputs, present, target, numbers)
        dataset = assemble(
            path.name.lower(),
            whole,
            "detection3d",
            _parts(scenes),
            classes=CLASSES,
            val_fraction=val_fraction,
            seed=seed,
        )
        facts = [f"{len(scenes) + empty:,} scenes"]
        facts += [f"{empty:,} without an object of the classes are left out"] if empty else []
        drawn = sum(scene.flat is not None and scene.flat.parent.name.startswith("label") for scene in scenes)
        facts += (
            [f"boxes in the image are those that people drew in {drawn:,} scenes, not a detector's"] if drawn else []
        )
        source = SourceFile(str(path), len(scenes), 6, tuple(facts))
        return MultimodalDataset(**{**vars(dataset), "sources": (source,)})

    def _raw(self, path: Path) -> Path | None:
        """The folder with calibration and labels, at or right below a path."""
        places = (path, path / "sunrgbd_trainval")
        return next((p for p in places if (p / "calib").is_dir() and self._labels(p) is not None), None)

    def _labels(self, raw: Path) -> Path | None:
        """The folder of labels; another version than the one asked for is better than none."""
        first, second = ("label_v1", "label") if self.labels == "v1" else ("label", "label_v1")
        return next((raw / name for name in (first, second) if (raw / name).is_dir()), None)

    def _scenes(self, path: Path) -> list[_Scene]:
        raw = self._raw(path)
        prepared = list(_prepared(path))
        if prepared:
            return [s for part, folder in prepared for s in self._prepared_scenes(path, folder, part, raw)]
        labels = None if raw is None else self._labels(raw)
        if raw is None or labels is None:
            raise DataError(f"{path} has neither calib and label_v1, nor a folder of scenes such as 000001_pc.npz")
        clouds = {file.stem: file for kind in ("depth", "lidar") for file in sorted((raw / kind).glob("*.[mn][ap]*"))}
        if not clouds:
            raise DataError(f"{raw} has no points: expected depth/000001.mat or lidar/000001.npz")
        parts = _index_files(raw)
        if not parts and len(clouds) == _OFFICIAL_SCENES:
            parts = {number: _TEST if int(number) <= _OFFICIAL_VAL else "train" for number in clouds}
        chosen = [number for number in sorted(clouds) if not parts or number in parts]
        return [
            _Scene(
                number,
                member(raw, clouds[number].relative_to(raw)),
                member(labels, f"{number}.txt"),
                parts.get(number),
                member(raw, f"calib/{number}.txt"),
                _flat(path, number, parts.get(number)) or member(labels, f"{number}.txt"),
            )
            for number in chosen
        ]

    def _prepared_scenes(self, path: Path, folder: Path, part: str | None, raw: Path | None) -> Iterator[_Scene]:
        for file in sorted(folder.glob("*_pc.npz")):
            number = file.name.removesuffix("_pc.npz")
            calibration = flat = None
            if raw is not None and (raw / f"calib/{number}.txt").is_file():
                labels = self._labels(raw)
                calibration = member(raw, f"calib/{number}.txt")
                drawn = None if labels is None else member(labels, f"{number}.txt")
                flat = _flat(path, number, part) or (drawn if drawn is not None and drawn.is_file() else None)
            yield _Scene(
                number, member(folder, file.name), member(folder, f"{number}_bbox.npy"), part, calibration, flat
            )

    def _made(self, scene: _Scene) -> Mapping[str, NDArray[np.generic]]:
        """Points and image of a scene."""
        cloud = _cloud(scene.cloud)
        generator = np.random.default_rng(int("".join(c for c in scene.number if c.isdigit()) or 0))
        cloud = cloud[generator.choice(len(cloud), self.points, replace=len(cloud) < self.points)]
        seeds = seeds_of(self.points)
        first = farthest_points(cloud, 2 * seeds)
        rest = np.ones(len(cloud), dtype=np.bool_)
        rest[first] = False
        spare = np.flatnonzero(rest)
        cloud = cloud[np.concatenate([first, spare])[: self.points]]
        height = cloud[:, 2:3] - np.percentile(cloud[:, 2], _FLOOR)
        made = {"points": np.concatenate([cloud[:, :3], height], 1).astype(np.float32)}
        votes = np.full((seeds, image_width()), np.nan, dtype=np.float32)
        if scene.calibration is not None and scene.flat is not None:
            drawn = scene.flat.parent.name.startswith("label")
            flat = read_labels(scene.flat)[1] if drawn else read_boxes_2d(scene.flat)
            votes = said_of(cloud[:seeds], Calibration.read(scene.calibration), flat)
        made["image"] = np.concatenate([cloud[:seeds, :3], votes], 1).astype(np.float32)
        return made


def image_width() -> int:
    """Numbers that the image says of a seed."""
    return 5 + len(CLASSES) + 3


def said_of(seeds: NDArray[np.float64], camera: Calibration, flat: Boxes2D) -> NDArray[np.float32]:
    """What the image says of seeds ``(S, 6)`` with their colours."""
    return image_votes(seeds, seeds[:, 3:6], camera, flat, len(CLASSES))


def _cloud(path: Path) -> NDArray[np.float64]:
    """Points ``(N, 6)`` of a file."""
    if path.suffix == ".mat":
        cloud = mat_content(path).get("instance")
    else:
        cloud = read_array(path, "a file of points", "" if path.suffix == ".npy" else "pc")
    if not isinstance(cloud, np.ndarray) or cloud.dtype.kind not in "fiu" or cloud.ndim != 2 or cloud.shape[1] < 6:
        raise DataError(f"{path} does not hold points (N, 6): X Y Z and colours")
    cloud = np.asarray(cloud[:, :6], dtype=np.float64)
    if not len(cloud) or not np.isfinite(cloud).all():
        raise DataError(f"{path} has no points, or points that are not finite")
    return cloud


def _prepared(path: Path) -> Iterator[tuple[str | None, Path]]:
    """Folders of prepared scenes, and the part that each is."""
    if next(path.glob("*_pc.npz"), None) is not None:
        yield None, path
    for folder in sorted(path.iterdir()) if path.is_dir() else ():
        for word, part in (("train", "train"), ("val", _TEST), ("test", _TEST)):
            if folder.name.endswith(word) and folder.is_dir() and next(folder.glob("*_pc.npz"), None) is not None:
                yield part, folder


def _flat(path: Path, number: str, part: str | None) -> Path | None:
    """The file of a detector's boxes in a scene's image, or None."""
    suffix = {"train": "train", _TEST: "val"}.get(part or "", "*")
    folders = sorted(path.glob(f"sunrgbd_2d_bbox_*_{suffix}"))
    return next((file for folder in folders if (file := member(folder, f"{number}.txt")).is_file()), None)


def _index_files(raw: Path) -> dict[str, str]:
    """Scene -> part, as the folder's own lists say; {} without any."""
    found: dict[str, str] = {}
    for name, part in (("train_data_idx.txt", "train"), ("val_data_idx.txt", _TEST)):
        if (raw / name).is_file():
            for word in member(raw, name).read_text(encoding="utf-8", errors="replace").split():
                if not word.isdigit():
                    raise DataError(f"{raw / name} holds {word!r}, expected numbers of scenes")
                found[f"{int(word):06d}"] = part
    return found


def _parts(scenes: list[_Scene]) -> dict[str, Indices]:
    """Part -> rows; {} where the folder says nothing."""
    named = {scene.part for scene in scenes} - {None}
    if not named:
        return {}
    return {
        part: np.flatnonzero([scene.part == part for scene in scenes]).astype(np.intp)
        for part in ("train", _TEST)
        if part in named
    }
