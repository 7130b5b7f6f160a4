"""Columns of a table that hold no numbers but what a model can see, hear or read: paths of files, and texts.

``--modality photo=image:path_column`` makes pictures of a column's paths, ``audio:`` and ``video:`` spectrograms and
frames, and ``--modality notes=text:column`` words of its texts. More kinds join :data:`equifuse.registry.RAW_COLUMNS`.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from equifuse.data.contents import Content, Frames, Pixels, Spectrograms, Tokens, Words, words_of
from equifuse.data.lazy import Features, loaded_if_small
from equifuse.data.lazy.kept import KeptRows, are_there, keep_rows, stamp_of
from equifuse.data.media import read_frames, read_sound, sound_of
from equifuse.data.tables import Table
from equifuse.data.vision import Pictures
from equifuse.errors import DataError, InputError
from equifuse.extras import require
from equifuse.registry import RAW_COLUMNS

# Words of a text that are kept, and words of a vocabulary.
_WORDS, _VOCABULARY = 64, 30_000
# Of a column of clips, where nothing is asked for: pixels of a frame's side, frames, and the spectrogram.
_SIZE, _FRAMES, _SOUND = 112, 4, "vggsound"
# Of what is kept of a clip.
_VERSION = 1
Decode = Callable[[Path], NDArray[np.generic] | None]


@dataclass(frozen=True)
class Raw:
    """A column that was read.

    Attributes:
        features: of each row; NaN where there is nothing.
        content: what the numbers stand for.
        lengths: ``(n,)`` of sequences, or None.
    """

    features: Features
    content: Content
    lengths: NDArray[np.int64] | None = None


class RawColumn(ABC):
    """Base of the kinds of columns that are read raw: ``name`` is what stands before the column, ``image:photo``.

    >>> from equifuse.registry import RAW_COLUMNS
    >>> RAW_COLUMNS.names()
    ['audio', 'image', 'text', 'video']

    Attributes:
        name: of the kind.
        contents: what its numbers may stand for.
    """

    name: ClassVar[str]
    contents: ClassVar[tuple[type[Content], ...]]

    @abstractmethod
    def read(
        self, values: Sequence[str | None], folder: Path, known: Content | None, options: Mapping[str, Any]
    ) -> Raw:
        """Read a column.

        Args:
            values: its cells, None where one is empty.
            folder: of the table, in which files must lie.
            known: what a trained model knows of it; None in training.
            options: settings of the format, such as ``image_size``; ``encoder``, for which it is read; and ``shape``,
                which a trained model knows.

        Raises:
            DataError: nothing of the column can be used, or a path leaves the folder.
        """


@RAW_COLUMNS.register
class TextColumn(RawColumn):
    """Texts as numbers of words; the vocabulary is that of the training part.

    >>> raw = TextColumn().read(["a red car", None], Path("."), None, {})
    >>> raw.features.shape, raw.lengths.tolist()
    ((2, 3, 1), [3, 0])
    """

    name: ClassVar[str] = "text"
    contents: ClassVar[tuple[type[Content], ...]] = (Words, Tokens)

    def read(
        self, values: Sequence[str | None], folder: Path, known: Content | None, options: Mapping[str, Any]
    ) -> Raw:
        """See :meth:`RawColumn.read`."""
        if known is None and options.get("encoder"):
            known = _tokens_for(options["encoder"], values)
        if known is None:
            longest = max((len(words_of(text)) for text in values if text is not None), default=0)
            if not longest:
                raise DataError("there are no words in any row")
            found = Words.of(values, min(longest, _WORDS))
            known = Words(found.vocabulary[:_VOCABULARY], found.steps)
        if not isinstance(known, Words | Tokens):
            raise DataError(f"the model takes {known.kind} here, not texts")
        tokens, lengths = known.read(values)
        return Raw(tokens, known, lengths)


@RAW_COLUMNS.register
class ImageColumn(RawColumn):
    """Paths of pictures, from the table's folder; a file that is missing or broken is a modality that the row lacks."""

    name: ClassVar[str] = "image"
    contents: ClassVar[tuple[type[Content], ...]] = (Pixels,)

    def read(
        self, values: Sequence[str | None], folder: Path, known: Content | None, options: Mapping[str, Any]
    ) -> Raw:
        """See :meth:`RawColumn.read`."""
        content = known if known is not None else Pixels(_size(options))
        if not isinstance(content, Pixels):
            raise DataError(f"the model takes {content.kind} here, not pictures")
        names = list(dict.fromkeys(value for value in values if value is not None))
        there, missing, broken = [], [], []
        for name in names:
            if not _within(folder, name).is_file():
                missing.append(name)
            elif _is_picture(folder / name):
                there.append(name)
            else:
                broken.append(name)
        _tell_lost("picture", folder, there, missing, broken)
        table, places = Pictures(folder, content.size, there), {name: place for place, name in enumerate(there)}
        index = np.array([-1 if value is None else places.get(value, -1) for value in values], dtype=np.intp)
        return Raw(loaded_if_small(table.rows(index)), content)


class ClipColumn(RawColumn):
    """Base of paths of clips, of which a stream is decoded once and kept (``EQUIFUSE_CACHE``).

    A file that is missing, broken or without the stream is a modality that the row lacks.

    Attributes:
        noun: what a file is called.
    """

    noun: ClassVar[str]

    @abstractmethod
    def decoding(
        self, known: Content | None, options: Mapping[str, Any]
    ) -> tuple[Content, tuple[int, ...], tuple[Any, ...], Decode]:
        """What a clip becomes: its content, shape, the settings that decide it, and what decodes a file."""

    def read(
        self, values: Sequence[str | None], folder: Path, known: Content | None, options: Mapping[str, Any]
    ) -> Raw:
        """See :meth:`RawColumn.read`."""
        if known is not None and not isinstance(known, self.contents):
            raise DataError(f"the model takes {known.kind} here, not {self.name}")
        require("video", "av", f"reading columns of {self.name}")
        content, shape, settings, decode = self.decoding(known, options)
        names = list(dict.fromkeys(value for value in values if value is not None))
        paths = {name: path for name in names if (path := _within(folder, name)).is_file()}
        files = list(paths.values())

        def made(i: int) -> Mapping[str, NDArray[np.generic]]:
            decoded = decode(files[i])
            return {self.name: np.zeros(0, np.uint8) if decoded is None else decoded}

        stamps = [stamp_of(self.name, _VERSION, *settings, path) for path in files]
        kept = dict(zip(paths, keep_rows(f"{self.name} columns", stamps, made), strict=True))
        whole = dict(zip(kept, are_there(list(kept.values()), self.name), strict=True))
        there, broken = [name for name in kept if whole[name]], [name for name in kept if not whole[name]]
        _tell_lost(self.noun, folder, there, [name for name in names if name not in paths], broken)
        rows = [None if value is None else kept.get(value) for value in values]
        return Raw(loaded_if_small(KeptRows(rows, self.name, shape)), content)


@RAW_COLUMNS.register
class AudioColumn(ClipColumn):
    """Paths of sounds, or of films with sound, as spectrograms.

    >>> AudioColumn().decoding(None, {"sound": "mel"})[1]
    (128, 800)
    """

    name: ClassVar[str] = "audio"
    noun: ClassVar[str] = "sound"
    contents: ClassVar[tuple[type[Content], ...]] = (Spectrograms,)

    def decoding(
        self, known: Content | None, options: Mapping[str, Any]
    ) -> tuple[Content, tuple[int, ...], tuple[Any, ...], Decode]:
        """See :meth:`ClipColumn.decoding`."""
        called = known.sound if isinstance(known, Spectrograms) else options.get("sound") or _SOUND
        sound = sound_of(called)

        def decode(path: Path) -> NDArray[np.generic] | None:
            wave = read_sound(path, sound.rate)
            return None if wave is None else sound.of(wave)

        return Spectrograms(called), sound.shape, (called,), decode


@RAW_COLUMNS.register
class VideoColumn(ClipColumn):
    """Paths of films, as frames that are spread evenly.

    >>> VideoColumn().decoding(None, {"frames": 8, "image_size": 64})[1]
    (8, 3, 64, 64)
    """

    name: ClassVar[str] = "video"
    noun: ClassVar[str] = "film"
    contents: ClassVar[tuple[type[Content], ...]] = (Frames,)

    def decoding(
        self, known: Content | None, options: Mapping[str, Any]
    ) -> tuple[Content, tuple[int, ...], tuple[Any, ...], Decode]:
        """See :meth:`ClipColumn.decoding`."""
        size = known.size if isinstance(known, Frames) else options.get("image_size") or _SIZE
        count = options["shape"][0] if options.get("shape") else options.get("frames") or _FRAMES
        return Frames(size), (count, 3, size, size), (count, size), lambda path: read_frames(path, count, size)


def _tell_lost(what: str, folder: Path, there: Sequence[str], missing: Sequence[str], broken: Sequence[str]) -> None:
    """Warn of files that cannot be used.

    Raises:
        DataError: there are no others.
    """
    both = (("missing", missing), ("broken", broken))
    said = [f"{len(some)} {how}, such as {some[0]}" for how, some in both if some]
    if not there:
        raise DataError(f"no {what} can be read in {folder}: {'; '.join(said) or 'no row names one'}")
    if said:
        count = len(there) + len(missing) + len(broken)
        warnings.warn(f"of {count} files of {what}s {' and '.join(said)}; their rows lack the modality", stacklevel=3)


def _size(options: Mapping[str, Any]) -> int:
    """The size of pictures: what is asked for, or what a pretrained encoder wants, or 64."""
    if options.get("image_size") is None and options.get("encoder"):
        from equifuse.encoders.backbones import picture_size  # noqa: PLC0415 - where there is one

        return picture_size(options["encoder"])
    return int(options.get("image_size") or 64)


def _tokens_for(encoder: str, values: Sequence[str | None]) -> Tokens:
    """How a pretrained encoder cuts texts, with no more steps than the longest needs."""
    from equifuse.encoders.backbones import tokenizer_of  # noqa: PLC0415 - where there is one

    tokens = Tokens(*tokenizer_of(encoder))
    _, lengths = tokens.read(values)
    if not lengths.any():
        raise DataError("there are no words in any row")
    return replace(tokens, steps=int(lengths.max()))


def _within(folder: Path, name: str) -> Path:
    """The path of a file in a folder.

    Raises:
        DataError: it leads out of it.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(
            f"{name!r} leaves the folder {folder}; put the files beside the table, and name them from there"
        )
    return path


def _is_picture(path: Path) -> bool:
    """Whether a picture's file can be decoded to its end."""
    images = require("vision", "PIL.Image", "reading images")
    try:
        with images.open(path) as image:
            image.load()
    except Exception:  # decoders fail in any way on bytes that nobody wrote
        return False
    return True


def raw_pattern(pattern: str, columns: Sequence[str]) -> tuple[RawColumn, str] | None:
    """The kind and the column of a pattern such as ``image:photo``; None where it is a pattern of columns.

    >>> from equifuse.data.raw import raw_pattern
    >>> raw_pattern("text:notes", ["notes", "age"])[1], raw_pattern("image:*", ["image:0", "image:1"])
    ('notes', None)

    Raises:
        DataError: there is no such column.
    """
    kind, colon, column = pattern.partition(":")
    if not colon or kind not in RAW_COLUMNS or any(name.startswith(f"{kind}:") for name in columns):
        return None
    if column not in columns:
        raise DataError(f"there is no column {column!r} to read as {kind}; there are {', '.join(columns[:12])}")
    return RAW_COLUMNS.get(kind)(), column


def raw_column(
    table: Table, modality: str, kind: RawColumn, column: str, known: Content | None, options: Mapping[str, Any]
) -> Raw:
    """A column of a table, read raw.

    Raises:
        DataError: see :meth:`RawColumn.read`; the message names file, modality and column.
        InputError: a package is missing.
    """
    cells = [
        None if value is None or str(value).strip() == "" else str(value) for value in table.column(column).to_pylist()
    ]
    try:
        return kind.read(cells, table.path.parent, known, options)
    except (DataError, InputError) as error:
        raise type(error)(f"{table.path}: modality {modality!r}, column {column!r}: {error}") from None
