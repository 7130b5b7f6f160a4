"""Questions about images in the layout of VQA v2 (Goyal et al. 2017), with images or features of any public layout.

A folder with files of questions and of annotations, as ``v2_OpenEnded_mscoco_train2014_questions.json`` and
``v2_mscoco_train2014_annotations.json``; which part a file is, its name says: train, val or test. Where the questions
of test have no annotations, those of val are the test part, and validation is held out of train by image, as in
published figures of "train -> val".

The images are those that ``--modality image=PATH`` names, several separated by commas, or else what lies in the folder:
HDF5 or TSV of bottom-up attention, a folder of one ``.npz`` or ``.npy`` for each image, or a folder of pictures. They
are read as they are needed, and an image is kept once for all of its questions.

The answers that can be given are those that :func:`~equifuse.data.answers.answer_vocabulary` finds in the annotations
of train and val, as in published work, or those of a file ``answers.json``, a list. The words of questions are those of
the training part.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from equifuse.data.answers import answer_vocabulary, packed
from equifuse.data.contents import Words
from equifuse.data.dataset import PARTS, MultimodalDataset, Split
from equifuse.data.formats.base import Format
from equifuse.data.lazy import Features, Indices, loaded_if_small
from equifuse.data.options import SourceOptions
from equifuse.data.questions import Annotated, Asked, read_annotations, read_questions
from equifuse.data.sources import SourceFile
from equifuse.data.split import partition
from equifuse.data.vision import ImageTable, open_images
from equifuse.data.vision.base import PICTURES
from equifuse.errors import DataError, InputError
from equifuse.files import parse_errors
from equifuse.registry import FORMATS

if TYPE_CHECKING:
    from equifuse.data.external import Rows, Wanted

IMAGE, QUESTION = "image", "question"
_ANSWERS = "answers.json"
# Where no validation or test part is given, the share of images whose questions are tested on.
_TEST_FRACTION = 0.2
# Words of a question that are kept.
_STEPS = 14
_ALLOWED = ("modalities", "task")


@FORMATS.register
class VQAFormat(Format):
    """Folders and files of questions in the layout of VQA v2.

    Args:
        image_size: width and height to which pictures are brought; default 64.
        least_answers: an answer can be given if it is the most common one of so many questions; default 9.
    """

    name: ClassVar[str] = "vqa"
    description: ClassVar[str] = "questions about images (a folder with *questions*.json and *annotations*.json)"
    priority: ClassVar[int] = 15
    whole: ClassVar[bool] = True

    def __init__(self, image_size: int = 64, least_answers: int = 9) -> None:
        for option, value, least in (("image_size", image_size, 8), ("least_answers", least_answers, 1)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"{option} must be a whole number of at least {least}, got {value!r}")
        self.image_size, self.least_answers = image_size, least_answers

    def detect(self, path: Path) -> bool:
        """A folder with a file of questions and one of annotations, or a JSON file of questions."""
        if path.is_dir():
            return bool(_named(path, "question")) and bool(_named(path, "annotation"))
        return path.suffix == ".json" and "question" in path.name.lower()

    def read(self, path: Path, options: SourceOptions, *, val_fraction: float, seed: int) -> MultimodalDataset:
        """Read the questions, annotations and images.

        Raises:
            DataError: a file is missing or damaged, or no question has an answer.
            InputError: there are no images, or an option means nothing here.
        """
        options.refuse("a folder of questions", *_ALLOWED)
        if not path.is_dir():
            raise InputError(f"{path} has questions alone; pass the folder that has the annotations too")
        asked, annotations, sources = _files_of(path)
        parts = _parts(path, asked, annotations, val_fraction, seed)
        vocabulary = _vocabulary(path, asked, annotations, self.least_answers)
        tables = _tables(path, options, self.image_size)
        words = Words.of((each.text for each in parts["train"]), _STEPS)
        splits = {part: _split(parts[part], annotations, vocabulary, words, tables) for part in PARTS}
        _say_missing(splits)
        given = _annotated(asked, annotations)
        drawn = tuple(part for part in ("val", "test") if part not in given and not (part == "test" and "val" in given))
        drawn = ("val", *drawn) if "test" not in given and "val" in given else drawn
        return MultimodalDataset(
            path.name,
            splits,
            "vqa",
            vocabulary,
            drawn=drawn,
            sources=tuple(sources),
            contents={IMAGE: tables[0].content, QUESTION: words},
        )

    def rows(
        self, path: Path, wanted: Wanted, options: SourceOptions, *, labelled: bool, split: str | None
    ) -> Rows | None:
        """Questions for a trained model, with its words: of a file of questions, or of a part of a folder."""
        from equifuse.data.external import Rows  # noqa: PLC0415 - it reads by formats

        folder = path if path.is_dir() else path.parent
        options.refuse("questions about images", *_ALLOWED, "keep")
        questions = _all(
            read_questions(file) for file in ([path] if path.is_file() else _named(path, "question", split))
        )
        annotations: dict[str, Annotated] = {}
        for file in _named(folder, "annotation") if labelled else ():
            annotations |= read_annotations(file)
        notes = []
        if labelled:
            known = [each for each in questions if each.id in annotations]
            if len(known) < len(questions):
                notes.append(
                    f"{len(questions) - len(known)} of {len(questions)} questions have no annotation and are left out"
                )
            questions = known
        if not questions:
            raise DataError(f"{path} has no questions{' with annotations' if labelled else ''}")
        words = wanted.contents.get(QUESTION)
        if not isinstance(words, Words) or wanted.classes is None:
            raise DataError(f"the model was not built for questions: it has no modality {QUESTION!r} of words")
        found = _split(questions, annotations, wanted.classes, words, _tables(folder, options, self.image_size))
        lacking = _lacking({"": found})
        notes += [lacking] if lacking else []
        return Rows(found, notes)


def _part_of_file(name: str) -> str:
    """``train``, ``val`` or ``test``, by a file's name; "" for none of them."""
    lowered = name.lower()
    return next((part for part in ("test", "train", "val") if part in lowered), "")


def _named(folder: Path, word: str, split: str | None = None) -> list[Path]:
    files = [file for file in sorted(folder.glob("*.json")) if word in file.name.lower()]
    return files if split is None else [file for file in files if _part_of_file(file.name) == split]


def _all(each: Iterable[list[Asked]]) -> list[Asked]:
    return [asked for some in each for asked in some]


def _files_of(folder: Path) -> tuple[dict[str, list[Asked]], dict[str, Annotated], list[SourceFile]]:
    """Questions by the part that their file's name says, annotations by question, and what was read."""
    asked: dict[str, list[Asked]] = {}
    sources = []
    for file in _named(folder, "question"):
        found = read_questions(file)
        sources.append(SourceFile(str(file), len(found), 3, ("questions",)))
        asked.setdefault(_part_of_file(file.name) or "train", []).extend(found)
    annotations: dict[str, Annotated] = {}
    for file in _named(folder, "annotation"):
        annotated = read_annotations(file)
        sources.append(SourceFile(str(file), len(annotated), 3, ("annotations",)))
        annotations |= annotated
    if not asked or not annotations:
        raise DataError(
            f"{folder} needs a file of questions and one of annotations, *questions*.json and *annotations*.json"
        )
    return asked, annotations, sources


def _annotated(asked: Mapping[str, list[Asked]], annotations: Mapping[str, Annotated]) -> dict[str, list[Asked]]:
    """The questions of each part that people's answers are known to."""
    known = {part: [each for each in some if each.id in annotations] for part, some in asked.items()}
    return {part: some for part, some in known.items() if some}


def _parts(
    folder: Path,
    asked: Mapping[str, list[Asked]],
    annotations: Mapping[str, Annotated],
    val_fraction: float,
    seed: int,
) -> dict[str, list[Asked]]:
    """The questions of train, val and test; what is split off goes by image."""
    found = _annotated(asked, annotations)
    if "train" not in found:
        raise DataError(f"{folder} has no annotated questions of train; it has {', '.join(found) or 'none'}")
    if "test" not in found and "val" in found:
        found["test"] = found.pop("val")
    if "test" not in found:
        found["train"], found["test"] = _torn(folder, found["train"], _TEST_FRACTION, seed)
    if "val" not in found:
        if not 0 < val_fraction < 1:
            raise DataError(f"val_fraction must be between 0 and 1, got {val_fraction}")
        found["train"], found["val"] = _torn(folder, found["train"], val_fraction, seed)
    return found


def _torn(folder: Path, asked: list[Asked], fraction: float, seed: int) -> list[list[Asked]]:
    """Questions in two parts, all of an image in one.

    Raises:
        DataError: one of them would be empty.
    """
    groups = np.array([each.image for each in asked])
    parts = partition(len(asked), (1 - fraction, fraction), seed=seed, groups=groups)
    if not all(len(rows) for rows in parts):
        raise DataError(f"{folder}: {len(set(groups.tolist()))} images of train are too few to hold a part out of them")
    return [[asked[row] for row in rows] for rows in parts]


def _vocabulary(
    folder: Path, asked: Mapping[str, list[Asked]], annotations: Mapping[str, Annotated], least: int
) -> tuple[str, ...]:
    """The answers that can be given."""
    file = folder / _ANSWERS
    if file.is_file():
        with parse_errors(file, "a list of answers"):
            listed = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(listed, list) or len(set(map(str, listed))) < len(listed):
            raise DataError(f"{file} must be a list of answers, each once")
        return tuple(map(str, listed))
    known = _annotated(asked, annotations)
    common = [annotations[each.id].common for part in ("train", "val") for each in known.get(part, ())]
    found = answer_vocabulary(common, least)
    if len(found) < 2:
        raise DataError(
            f"{folder}: {len(found)} answers are the most common one of at least {least} questions; take rarer ones: "
            "--format-option least_answers=1"
        )
    return found


def _tables(folder: Path, options: SourceOptions, size: int) -> list[ImageTable]:
    """The sources of images, which go together."""
    unknown = [m for m in options.modalities if m != IMAGE]
    if unknown:
        raise InputError(f"of questions about images only {IMAGE!r} can be named, not {unknown[0]!r}")
    if IMAGE in options.modalities:
        names = [name.strip() for name in options.modalities[IMAGE].split(",") if name.strip()]
        paths = [folder / name if (folder / name).exists() else Path(name) for name in names]
    else:
        paths = _guessed(folder)
    if not paths:
        raise InputError(f"{folder} has no images and no features of them; name them: --modality image=FOLDER_OR_FILE")
    tables = [open_images(path, size) for path in paths]
    first = tables[0]
    for other in tables[1:]:
        if other.content != first.content or other.shape[-1] != first.shape[-1]:
            raise DataError(f"{other.path} and {first.path} hold features of different kinds or widths")
    return tables


def _guessed(folder: Path) -> list[Path]:
    """Features in files, or else folders of one file for each image, or else of pictures."""
    files = sorted(file for file in folder.iterdir() if file.suffix in (".hdf5", ".h5", ".tsv"))
    if files:
        return files
    folders = sorted({file.parent for file in folder.rglob("*") if file.suffix.lower() in (".npz", ".npy", *PICTURES)})
    features = [each for each in folders if any(file.suffix in (".npz", ".npy") for file in each.iterdir())]
    return features or folders


def _split(
    asked: list[Asked],
    annotations: Mapping[str, Annotated],
    vocabulary: tuple[str, ...],
    words: Words,
    tables: list[ImageTable],
) -> Split:
    """Questions as rows, with their images."""
    tokens, steps = words.read([each.text for each in asked])
    images, present, regions = _images(tables, [each.image for each in asked])
    target = None
    if annotations:
        target = packed([annotations[each.id].question for each in asked], vocabulary)
    lengths = {QUESTION: steps} if regions is None else {IMAGE: regions, QUESTION: steps}
    inputs: dict[str, Features] = {IMAGE: images, QUESTION: tokens}
    ids = np.array([each.id for each in asked])
    columns = {IMAGE: np.array([each.image for each in asked])}
    said = [annotations[each.id].question_type if annotations else "" for each in asked]
    if any(said):
        columns["question_type"] = np.array(said)
    masks = {} if present.all() else {IMAGE: present}
    return Split(inputs, masks, target, ids, lengths, columns=columns)


def _images(
    tables: list[ImageTable], images: list[str]
) -> tuple[Features, NDArray[np.bool_], NDArray[np.int64] | None]:
    """The rows of images, which there are, and how many regions each has."""
    together = _Together(tables) if len(tables) > 1 else tables[0]
    index = together.find(images)
    present = index >= 0
    lengths = None
    if together.lengths is not None:
        lengths = np.where(present, together.lengths[np.where(present, index, 0)], 0)
    return loaded_if_small(together.rows(index)), present, lengths


@dataclass
class _Together(ImageTable):
    """Several sources as one, such as the features of train2014 and val2014."""

    tables: list[ImageTable]
    kind: ClassVar[str] = "together"

    def __post_init__(self) -> None:
        self.path, self.content = self.tables[0].path, self.tables[0].content
        self.ids = [name for table in self.tables for name in table.ids]
        self.shape = max((table.shape for table in self.tables), key=lambda shape: shape[0])
        counts = [table.lengths for table in self.tables]
        self.lengths = None if counts[0] is None else np.concatenate([c for c in counts if c is not None])
        self._starts = np.cumsum([0, *(len(table.ids) for table in self.tables)])

    def stamp(self) -> str:
        """See :meth:`ImageTable.stamp`."""
        return "+".join(table.stamp() for table in self.tables)

    def read(self, places: Indices) -> NDArray[np.generic]:
        """See :meth:`ImageTable.read`."""
        owner = np.searchsorted(self._starts, places, side="right") - 1
        pieces = []
        for number in np.unique(owner):
            found = self.tables[number].read(places[owner == number] - self._starts[number])
            if found.shape[1:] != self.shape:  # fewer regions at most than another source has
                found = np.pad(found, [(0, 0), (0, self.shape[0] - found.shape[1]), (0, 0)])
            pieces.append(found)
        return np.concatenate(pieces)


def _lacking(splits: Mapping[str, Split]) -> str:
    """How many questions are without their image; "" for none."""
    masks = [split.present[IMAGE] for split in splits.values() if IMAGE in split.present]
    count, rows = sum(int((~mask).sum()) for mask in masks), sum(map(len, splits.values()))
    return f"{count} of {rows} questions are about an image that is not there: it counts as missing" if count else ""


def _say_missing(splits: Mapping[str, Split]) -> None:
    said = _lacking(splits)
    if said:
        if all(not split.present.get(IMAGE, np.ones(1)).any() for split in splits.values()):
            raise DataError("no question's image is there: do the images belong to these questions?")
        warnings.warn(said, stacklevel=3)
