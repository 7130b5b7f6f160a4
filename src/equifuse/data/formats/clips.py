"""A folder of clips: films with sound, and a file that says what each is.

``--data clips/ --split vggsound.csv``: the files of the folder, at any depth, are found by the names in the annotation
file, of the kinds that :func:`equifuse.data.formats.clip_tables.read_clip_table` reads. Without ``--split`` the folder
has one itself: ``vggsound.csv``, ``meta_data.csv``, ``clips.csv``, or another that is the only one.

Modalities are ``video``: some frames of each clip, as bytes; and ``audio``: a spectrogram. A stream that is not there,
or of which nothing can be decoded, is a modality that the clip lacks. Clips whose file is missing or has neither are
left out, and their number is said. Each clip is decoded once, several at a time, and kept (``EQUIFUSE_CACHE``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from equifuse.data.assemble import assemble, encode_target
from equifuse.data.contents import Content, Frames, Spectrograms, Words, with_words_of_training
from equifuse.data.dataset import Array, MultimodalDataset, Split
from equifuse.data.formats.base import Format
from equifuse.data.formats.clip_tables import LABELS, SUFFIXES, Clip, ClipTable, read_clip_table
from equifuse.data.lazy import Features, Indices, loaded_if_small
from equifuse.data.lazy.kept import KeptRows, are_there, keep_rows, stamp_of
from equifuse.data.media import read_frames, read_sound, sound_of
from equifuse.data.options import SourceOptions
from equifuse.data.selfcontained import member
from equifuse.data.sources import SourceFile
from equifuse.errors import DataError, InputError
from equifuse.extras import require
from equifuse.registry import FORMATS, TASKS

if TYPE_CHECKING:
    from equifuse.data.external import Rows, Wanted

_VERSION = 1
_USUAL = ("vggsound.csv", "meta_data.csv", "clips.csv", "split.csv", "labels.csv")
_STREAMS = ("both", "video", "audio")
# A few examples of what is left out.
_NAMED = 3


@FORMATS.register
class ClipsFormat(Format):
    """A folder of clips with a file of labels.

    Args:
        frames: of each clip; default 4.
        size: pixels of a frame's side; default 112.
        stride: take every so many frames from the beginning; default None: spread evenly.
        sound: the spectrogram, a name of :data:`equifuse.data.media.SOUNDS`; default ``"vggsound"``.
        streams: ``"both"``, ``"video"`` or ``"audio"``.
        labels: of FakeAVCeleb: ``"fake"``, ``"each"`` or ``"type"``.
        workers: clips that are decoded at a time; default one for each core.

    Raises:
        InputError: an option is out of range.
        UnknownNameError: no such spectrogram.
    """

    name: ClassVar[str] = "clips"
    description: ClassVar[str] = "folder of clips with a file of labels"
    priority: ClassVar[int] = -1
    whole: ClassVar[bool] = True

    def __init__(
        self,
        frames: int = 4,
        size: int = 112,
        stride: int | None = None,
        sound: str = "vggsound",
        streams: str = "both",
        labels: str = "fake",
        workers: int | None = None,
    ) -> None:
        for called, value, least in (("frames", frames, 1), ("size", size, 16)):
            if not isinstance(value, int) or value < least:
                raise InputError(f"{called} must be a whole number of at least {least}, got {value!r}")
        for called, each in (("stride", stride), ("workers", workers)):
            if each is not None and (not isinstance(each, int) or each < 1):
                raise InputError(f"{called} must be a whole number of at least 1, got {each!r}")
        if streams not in _STREAMS or labels not in LABELS:
            raise InputError(
                f"streams must be one of {', '.join(_STREAMS)}, labels of {', '.join(LABELS)}; "
                f"got {streams!r} and {labels!r}"
            )
        self.frames, self.size, self.stride, self.workers = frames, size, stride, workers
        self.sound, self.called = sound_of(sound), sound
        self.streams, self.labels = streams, labels

    def detect(self, path: Path) -> bool:
        """A folder with clips in it, right there or in folders of it, or a clip."""
        if not path.is_dir():
            return path.suffix.lower() in SUFFIXES
        places = [path, *(p for p in sorted(path.iterdir()) if p.is_dir())]
        return any(file.suffix.lower() in SUFFIXES for place in places for file in place.iterdir())

    def read(self, path: Path, options: SourceOptions, *, val_fraction: float, seed: int) -> MultimodalDataset:
        """Read the folder.

        Raises:
            DataError: there is no clip of the annotation file, or that is damaged.
            InputError: the extra ``equifuse[video]`` is not installed, or an option means nothing here.
        """
        options.refuse("a folder of clips", "annotations", "task")
        if not path.is_dir():
            raise DataError(f"{path} is no folder; expected one of clips")
        require("video", "av", "reading clips")
        file = Path(options.annotations) if options.annotations else _only_table(path)
        table = read_clip_table(file, self.labels)
        found = _files_of(path, table)
        here = [i for i, clip in enumerate(found) if clip is not None]
        if not here:
            raise DataError(f"{path} has none of the {len(found):,} clips of {file}, such as {table.clips[0].name}")
        paths = [file for file in found if file is not None]
        clips, kept, there, said = self._decoded(path, [table.clips[i] for i in here], paths)
        facts = [f"{len(table.clips):,} clips", *_said("not in the folder", table.clips, found), *said]
        inputs, contents, present = self._inputs(kept, there)
        lengths: dict[str, NDArray[np.int64]] = {}
        if TASKS.get(table.task).embeds:
            words = Words.of([clip.text for clip in clips], steps=32)
            inputs["text"], lengths["text"] = words.read([clip.text for clip in clips])
            contents["text"] = words
        target, task, classes = _targets(table, clips, options.task)
        columns: dict[str, Array] = {}
        if all(clip.group is not None for clip in clips):
            columns = {"group": np.array([clip.group for clip in clips])}
        ids = np.array([_id(clip) for clip in clips])
        whole = Split(inputs, present, target, ids, lengths, columns=columns)
        dataset = assemble(
            path.name.lower(),
            whole,
            task,
            _parts(clips),
            classes=classes,
            val_fraction=val_fraction,
            seed=seed,
            options=SourceOptions(group="group") if columns else None,
        )
        source = SourceFile(str(file), len(table.clips), 2, (table.kind, *facts))
        dataset = replace(dataset, sources=(source,), contents=contents)
        return with_words_of_training(dataset) if "text" in contents else dataset

    def rows(
        self, path: Path, wanted: Wanted, options: SourceOptions, *, labelled: bool, split: str | None
    ) -> Rows | None:
        """All clips of a folder, or one, for a trained model, where no file says which they are."""
        from equifuse.data.external import Rows  # noqa: PLC0415 - it reads by formats

        if labelled or split is not None or _are_named(path, options, self.labels):
            return None
        options.refuse("clips", "annotations", "task")
        require("video", "av", "reading clips")
        files = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not files:
            raise DataError(f"{path} has no clips; expected files such as {', '.join(sorted(SUFFIXES)[:_NAMED])}")
        folder = path if path.is_dir() else path.parent
        names = [file.relative_to(folder) for file in files]
        clips = [Clip(name.as_posix(), None) for name in names]
        clips, kept, there, said = self._decoded(path, clips, [member(folder, name) for name in names])
        inputs, _, present = self._inputs(kept, there)
        lacking = [
            f"modality {m!r} is nowhere in {path}: it counts as missing" for m in wanted.shapes if m not in inputs
        ]
        return Rows(Split(inputs, present, None, np.array([clip.name for clip in clips])), [*said, *lacking])

    def _decoded(
        self, path: Path, clips: list[Clip], paths: list[Path]
    ) -> tuple[list[Clip], list[Path], dict[str, NDArray[np.bool_]], list[str]]:
        """Those that can be decoded, where that is kept, which of them have which stream, and what was found."""
        kept = self._kept(paths, clips)
        there = {m: are_there(kept, m) for m in ("video", "audio") if self.streams in ("both", m)}
        some = np.flatnonzero(np.stack(list(there.values())).any(0))
        if not len(some):
            raise DataError(f"{path}: of {len(kept):,} clips none can be decoded, such as {paths[0]}")
        lost = len(kept) - len(some)
        facts = [f"{lost:,} that cannot be decoded and are left out"] if lost else []
        there = {m: mask[some] for m, mask in there.items()}
        facts += [f"{m} is lacking in {int((~mask).sum()):,}" for m, mask in there.items() if not mask.all()]
        return [clips[i] for i in some], [kept[i] for i in some], there, facts

    def _kept(self, paths: list[Path], clips: list[Clip]) -> list[Path]:
        """Decode each clip, or find it decoded."""
        settings = (_VERSION, self.frames, self.size, self.stride, self.called, self.streams)
        stamps = [
            stamp_of("clips", *settings, clip.window.start, clip.window.end, path)
            for path, clip in zip(paths, clips, strict=True)
        ]

        def made(i: int) -> Mapping[str, NDArray[np.generic]]:
            arrays: dict[str, NDArray[np.generic]] = {}
            if self.streams != "audio":
                shown = read_frames(paths[i], self.frames, self.size, stride=self.stride, window=clips[i].window)
                arrays["video"] = np.zeros(0, np.uint8) if shown is None else shown
            if self.streams != "video":
                wave = read_sound(paths[i], self.sound.rate, clips[i].window)
                arrays["audio"] = np.zeros(0, np.float32) if wave is None else self.sound.of(wave)
            return arrays

        return keep_rows("clips", stamps, made, workers=self.workers)

    def _inputs(
        self, kept: list[Path], there: Mapping[str, NDArray[np.bool_]]
    ) -> tuple[dict[str, Features], dict[str, Content], dict[str, NDArray[np.bool_]]]:
        shapes = {"video": (self.frames, 3, self.size, self.size), "audio": self.sound.shape}
        inputs: dict[str, Features] = {}
        contents: dict[str, Content] = {}
        present: dict[str, NDArray[np.bool_]] = {}
        for m, mask in there.items():
            if not mask.any():
                continue
            inputs[m] = loaded_if_small(KeptRows(kept, m, shapes[m]))
            contents[m] = Frames(self.size) if m == "video" else Spectrograms(self.called)
            if not mask.all():
                present[m] = mask
        return inputs, contents, present


def _are_named(path: Path, options: SourceOptions, labels: str) -> bool:
    """Whether a file says what some clips of a folder are: the one that is given, or the folder's own."""
    if not path.is_dir():
        return False
    file = Path(options.annotations or "")
    if not file.is_file():
        try:
            file = _only_table(path)
        except InputError:
            return False
    return any(_files_of(path, read_clip_table(file, labels)))


def _only_table(path: Path) -> Path:
    """The annotation file that a folder has itself.

    Raises:
        InputError: it has none, or several.
    """
    usual = [member(path, name) for name in _USUAL if (path / name).is_file()]
    tables = usual[:1] or [member(path, f.name) for f in sorted(path.iterdir()) if f.suffix in (".csv", ".json")]
    if len(tables) != 1:
        raise InputError(
            f"{path} has {len(tables)} files that may say what the clips are; name it: --split vggsound.csv"
        )
    return tables[0]


def _files_of(path: Path, table: ClipTable) -> list[Path | None]:
    """The file of each clip, or None."""
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES)
    named: dict[str, list[Path]] = {}
    for file in files:
        inside = member(path, file.relative_to(path))
        named.setdefault(file.name, []).append(inside)
        named.setdefault(file.stem, []).append(inside)
    found: list[Path | None] = []
    shared = Counter(Path(clip.name).name for clip in table.clips)
    for clip in table.clips:
        wanted = Path(clip.name)
        some = named.get(wanted.name) or named.get(f"v_{wanted.name}") or []
        agreeing = [f for f in some if _agree(f.relative_to(path).parts[:-1], wanted.parts[:-1])]
        # Clips of one name in several folders are told apart by these: another's file would be another's label.
        some = agreeing if agreeing or shared[wanted.name] > 1 else some
        if len(some) > 1 and wanted.suffix.lower() in SUFFIXES:
            raise DataError(f"{path} has {len(some)} files {clip.name!r}, such as {some[0]} and {some[1]}")
        found.append(some[0] if some else None)
    return found


def _agree(have: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    """Whether a file is in folders of the names that are wanted, from the innermost on as far as both go."""
    return all(a == b for a, b in zip(reversed(have), reversed(wanted), strict=False))


def _said(what: str, clips: list[Clip], found: list[Path | None]) -> list[str]:
    missing = [clip.name for clip, file in zip(clips, found, strict=True) if file is None]
    return [f"{len(missing):,} {what}, such as {', '.join(missing[:_NAMED])}"] if missing else []


def _targets(
    table: ClipTable, clips: list[Clip], asked: str | None
) -> tuple[Array | None, str, tuple[str, ...] | None]:
    if TASKS.get(table.task).embeds:
        return None, table.task, None
    if table.names is not None:
        return np.array([clip.label for clip in clips], dtype=np.float32), asked or table.task, table.names
    values: NDArray[Any] = np.array([[str(clip.label)] for clip in clips])
    return encode_target(values, asked or table.task, ["label"])


def _id(clip: Clip) -> str:
    start, end = clip.window.start, clip.window.end
    return clip.name if not start and end is None else f"{clip.name} {start:g}-{'' if end is None else f'{end:g}'}"


def _parts(clips: list[Clip]) -> dict[str, Indices]:
    """Part -> rows; {} where the file says nothing; a set without a test part is tested on its validation part."""
    said = {clip.part for clip in clips} - {None}
    if "train" not in said or not said & {"val", "test"}:
        return {}
    renamed = {} if "test" in said else {"val": "test"}
    rows: dict[str, list[int]] = {}
    for i, clip in enumerate(clips):
        if clip.part is not None:
            rows.setdefault(renamed.get(clip.part, clip.part), []).append(i)
    return {part: np.array(index, dtype=np.intp) for part, index in rows.items()}
