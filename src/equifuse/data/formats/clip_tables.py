"""Which clips a set has, with labels and parts: files of VGGSound, OGM-GE, ActivityNet and FakeAVCeleb."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from equifuse.data.media import Window
from equifuse.errors import DataError, InputError
from equifuse.files import parse_errors

SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mov", ".flv", ".wav", ".flac", ".mp3", ".m4a", ".ogg")
# What FakeAVCeleb's types say of video and audio.
_FAKE = {
    "RealVideo-RealAudio": (0, 0),
    "RealVideo-FakeAudio": (0, 1),
    "FakeVideo-RealAudio": (1, 0),
    "FakeVideo-FakeAudio": (1, 1),
}
_HEADS = {"file": ("file", "filename", "path", "video", "clip"), "label": ("label", "class", "target", "action")}
_SUBSETS = {
    "training": "train",
    "train": "train",
    "validation": "test",
    "val": "val",
    "testing": "test",
    "test": "test",
}
LABELS = ("fake", "each", "type")


@dataclass(frozen=True)
class Clip:
    """A clip as an annotation file names it.

    >>> from equifuse.data.formats.clip_tables import Clip
    >>> Clip("a_000034", "dog barking", part="test").window.end is None
    True

    Attributes:
        name: of its file, with or without folders and suffix.
        label: what is to be predicted: a word, or numbers; None for none.
        part: train, val or test as the set says, or None.
        window: the part of the file.
        text: what is said of it, where texts are to be found by clips.
        group: of what must not be torn apart, such as the person.
    """

    name: str
    label: str | tuple[int, ...] | None
    part: str | None = None
    window: Window = field(default_factory=Window)
    text: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class ClipTable:
    """All clips of an annotation file.

    Attributes:
        kind: what the file is.
        clips: in its order.
        task: what they are for.
        names: of labels that are numbers.
    """

    kind: str
    clips: list[Clip]
    task: str = "classification"
    names: tuple[str, ...] | None = None


def read_clip_table(path: Path, labels: str = "fake") -> ClipTable:
    """Clips of an annotation file, whose kind its content shows.

    - VGGSound's ``vggsound.csv``: ``YouTube id, start second, label, train or test``, without a header; the file is
      ``<id>_<start, six digits>``.
    - OGM-GE's and others' two columns without a header: ``file, label``.
    - A table with a header that has ``file`` and ``label``, perhaps ``split``, ``start`` and ``end``.
    - FakeAVCeleb's ``meta_data.csv``, with a column ``type``: real or fake of video and audio.
    - ActivityNet's JSON: segments with labels (also mmaction2's form), or with sentences (its captions).

    Args:
        path: of the file.
        labels: what FakeAVCeleb is asked for: ``"fake"``, whether anything is; ``"each"``, whether video and audio are;
            ``"type"``, which of four.

    Raises:
        DataError: the file is missing, damaged, or of no such kind.
        InputError: ``labels`` is none of these.
    """
    if labels not in LABELS:
        raise InputError(f"labels must be one of {', '.join(LABELS)}, got {labels!r}")
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    if path.suffix == ".json":
        with parse_errors(path, "JSON of clips"):
            content = json.loads(path.read_text(encoding="utf-8"))
        return _activitynet(path, content)
    with parse_errors(path, "a table of clips"):
        rows = [row for row in csv.reader(path.read_text(encoding="utf-8-sig").splitlines()) if any(row)]
    if not rows:
        raise DataError(f"{path} is empty; expected a row for each clip")
    head = [cell.strip().lower() for cell in rows[0]]
    if "type" in head and any(cell in _FAKE for row in rows[1:2] for cell in row):
        return _fakeavceleb(path, head, rows[1:], labels)
    if any(name in head for name in _HEADS["file"]) and any(name in head for name in _HEADS["label"]):
        return ClipTable("clips", list(_with_header(path, head, rows[1:])))
    if len(rows[0]) == 4 and head[3] in _SUBSETS:
        return ClipTable("vggsound", list(_vggsound(path, rows)))
    if len(rows[0]) == 2:
        return ClipTable("clips", [Clip(_cells(path, i, row, 2)[0], row[1].strip()) for i, row in enumerate(rows, 1)])
    raise DataError(
        f"{path} is no table of clips: expected a header with file and label, or VGGSound's four columns, or two"
    )


def _cells(path: Path, line: int, row: Sequence[str], count: int) -> list[str]:
    cells = [cell.strip() for cell in row]
    if len(cells) != count or not all(cells):
        raise DataError(f"{path}: row {line} has {len(cells)} cells, or empty ones; expected {count}")
    return cells


def _vggsound(path: Path, rows: Sequence[Sequence[str]]) -> Iterator[Clip]:
    for line, row in enumerate(rows, 1):
        video, start, label, part = _cells(path, line, row, 4)
        if not re.fullmatch(r"[0-9]{1,9}", start) or part not in _SUBSETS:
            raise DataError(f"{path}: row {line} says {start!r}, {part!r}; expected a second, and train or test")
        yield Clip(f"{video}_{int(start):06d}", label, _SUBSETS[part])


def _with_header(path: Path, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[Clip]:
    file, label = (next(head.index(name) for name in names if name in head) for names in _HEADS.values())
    part, start, end = (head.index(name) if name in head else None for name in ("split", "start", "end"))
    for line, row in enumerate(rows, 2):
        if len(row) != len(head):
            raise DataError(f"{path}: row {line} has {len(row)} cells, the header {len(head)}")
        said = None if part is None else row[part].strip().lower() or None
        if said is not None and said not in _SUBSETS:
            raise DataError(f"{path}: row {line} says split {said!r}; expected train, val or test")
        times = [_time(path, line, row[i]) if i is not None and row[i].strip() else None for i in (start, end)]
        window = _window(path, line, times[0] or 0.0, times[1])
        yield Clip(row[file].strip(), row[label].strip(), None if said is None else _SUBSETS[said], window)


def _fakeavceleb(path: Path, head: Sequence[str], rows: Sequence[Sequence[str]], labels: str) -> ClipTable:
    kind, clips = head.index("type"), []
    source = head.index("source") if "source" in head else None
    for line, row in enumerate(rows, 2):
        said = row[kind].strip() if len(row) > kind else ""
        names = [cell.strip() for cell in row if Path(cell.strip()).suffix.lower() in SUFFIXES]
        folders = [cell.strip() for cell in row if "/" in cell and cell.strip() not in names]
        if said not in _FAKE or not names:
            raise DataError(f"{path}: row {line} has type {said!r} and {len(names)} files; expected one of each")
        fake = _FAKE[said]
        label = {"fake": "fake" if any(fake) else "real", "each": fake, "type": said}[labels]
        name = f"{folders[0].rstrip('/')}/{names[0]}" if folders else names[0]
        clips.append(Clip(name, label, group=None if source is None else row[source].strip()))
    if labels == "each":
        return ClipTable("fakeavceleb", clips, "multilabel", ("fake video", "fake audio"))
    return ClipTable("fakeavceleb", clips)


def _activitynet(path: Path, content: Any) -> ClipTable:
    videos = content.get("database", content) if isinstance(content, Mapping) else None
    if not isinstance(videos, Mapping) or not videos or not all(isinstance(each, Mapping) for each in videos.values()):
        raise DataError(f"{path} has no videos by name, as ActivityNet's annotations have")
    clips: list[Clip] = []
    spoken = all("sentences" in each for each in videos.values())
    for name, each in videos.items():
        subset = str(each.get("subset", "")).lower()
        part = _SUBSETS.get(subset)
        try:
            if spoken:
                sentences = [str(text).strip() for text in each["sentences"]]
                for (start, end), text in zip(each["timestamps"], sentences, strict=True):
                    clips.append(Clip(name, None, part, _window(path, name, start, end), text))
                continue
            for segment in each["annotations"]:
                start, end = segment["segment"]
                clips.append(Clip(name, str(segment["label"]), part, _window(path, name, start, end)))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{path}: video {name!r} has no segments with labels or sentences: {error!r}") from None
    if not clips:
        raise DataError(f"{path} has no segment")
    return ClipTable("activitynet", clips, "retrieval" if spoken else "classification")


def _time(path: Path, line: int, cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise DataError(f"{path}: row {line} has the time {cell.strip()!r}; expected seconds") from None


def _window(path: Path, where: Any, start: Any, end: Any) -> Window:
    begun, ended = float(start), None if end is None else float(end)
    if not math.isfinite(begun) or begun < 0 or (ended is not None and not (math.isfinite(ended) and ended > begun)):
        raise DataError(f"{path}: {where!r} has a segment from {start} to {end}; expected seconds, from less to more")
    return Window(begun, ended)
