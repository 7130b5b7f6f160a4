"""What the numbers of a modality stand for, where they are no measurements: words, pixels, regions of images.

A model does not standardise them but encodes them for what they are, and keeps what it takes to read others alike: the
vocabulary of its training part, or the size of its images.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from equifuse.data.dataset import MultimodalDataset, Split
from equifuse.data.lazy import Floats, in_memory
from equifuse.errors import DataError
from equifuse.extras import require

# The numbers of tokens that stand for no word: padding, and any word that the training part does not have.
PADDING, UNKNOWN = 0, 1
_FIRST = 2
_DROPPED = re.compile(r"[.,'!?\"()*#:;]")
_JOINED = re.compile(r"[-/]")


def words_of(text: str) -> list[str]:
    """The words of a text as questions about images are cut: lower case, no punctuation, ``-`` and ``/`` part words.

    >>> from equifuse.data.contents import words_of
    >>> words_of("What's the T-shirt's color?")
    ['whats', 'the', 't', 'shirts', 'color']
    """
    return _JOINED.sub(" ", _DROPPED.sub("", text.lower())).split()


@dataclass(frozen=True)
class Content:
    """Base of what a modality's numbers stand for.

    Attributes:
        kind: by which it is stored.
    """

    kind: ClassVar[str]

    def stored(self) -> dict[str, Any]:
        """Plain values, for :func:`content_of`."""
        return {"kind": self.kind, **vars(self)}


@dataclass(frozen=True)
class Words(Content):
    """Texts as numbers of words, ``(n, T, 1)`` with lengths: 0 is padding, 1 a word that is not known.

    >>> from equifuse.data.contents import Words
    >>> words = Words.of(["what color is it?", "is it blue?"], steps=3)
    >>> words.vocabulary
    ('is', 'it', 'blue', 'color', 'what')
    >>> tokens, lengths = words.read(["Is it green?", None])
    >>> tokens[:, :, 0].tolist(), lengths.tolist()
    ([[2.0, 3.0, 1.0], [nan, nan, nan]], [3, 0])

    Attributes:
        vocabulary: the words from number 2 on.
        steps: words of a text that are kept.
    """

    kind: ClassVar[str] = "words"
    vocabulary: tuple[str, ...]
    steps: int = 14

    @classmethod
    def of(cls, texts: Iterable[str | None], steps: int = 14) -> Words:
        """The words of texts, the most frequent first."""
        counts: dict[str, int] = {}
        for text in texts:
            for word in words_of(text or ""):
                counts[word] = counts.get(word, 0) + 1
        return cls(tuple(sorted(counts, key=lambda word: (-counts[word], word))), steps)

    @property
    def tokens(self) -> int:
        """How many different numbers there are."""
        return _FIRST + len(self.vocabulary)

    def read(self, texts: Sequence[str | None]) -> tuple[Floats, NDArray[np.int64]]:
        """Texts as float32 ``(n, T, 1)`` and lengths ``(n,)``; None is missing, an empty text one unknown word."""
        places = {word: _FIRST + i for i, word in enumerate(self.vocabulary)}
        numbers = (
            None if text is None else [places.get(word, UNKNOWN) for word in words_of(text)] or [UNKNOWN]
            for text in texts
        )
        return _rows_of(numbers, len(texts), self.steps)


@dataclass(frozen=True)
class Tokens(Content):
    """Texts as a pretrained model's tokenizer cuts them, numbers ``(n, T, 1)`` with lengths.

    >>> from equifuse.data.contents import Tokens
    >>> Tokens("{}", steps=32).stored()
    {'kind': 'tokens', 'tokenizer': '{}', 'steps': 32, 'special': True}

    Attributes:
        tokenizer: as JSON, whole, so that a trained model reads texts without the folder it came from.
        steps: tokens of a text that are kept.
        special: whether the tokenizer puts tokens of its own around a text.
    """

    kind: ClassVar[str] = "tokens"
    tokenizer: str
    steps: int
    special: bool = True

    def read(self, texts: Sequence[str | None]) -> tuple[Floats, NDArray[np.int64]]:
        """Texts as float32 ``(n, T, 1)`` and lengths ``(n,)``; None is missing, a text without tokens the token 0.

        Raises:
            InputError: the package ``tokenizers`` is not installed.
            DataError: the tokenizer is damaged.
        """
        package: Any = require("text", "tokenizers", "texts by a tokenizer")
        try:
            tokenizer = package.Tokenizer.from_str(self.tokenizer)
            tokenizer.no_padding()
            tokenizer.enable_truncation(self.steps)
            given = [text for text in texts if text is not None]
            cut = iter(tokenizer.encode_batch(given, add_special_tokens=self.special))
        except Exception as error:  # the package raises nothing narrower
            raise DataError(f"a tokenizer cannot be used: {' '.join(str(error).split())[:200]}") from None
        numbers = (None if text is None else next(cut).ids or [0] for text in texts)
        return _rows_of(numbers, len(texts), self.steps)


def _rows_of(numbers: Iterable[Sequence[int] | None], count: int, steps: int) -> tuple[Floats, NDArray[np.int64]]:
    """Numbers of texts, None of one that is missing, as float32 ``(n, T, 1)`` and lengths ``(n,)``; the first ``T``."""
    found = np.zeros((count, steps, 1), dtype=np.float32)
    lengths = np.zeros(count, dtype=np.int64)
    for row, own in enumerate(numbers):
        if own is None:
            found[row] = np.nan
            continue
        kept = own[:steps]
        found[row, : len(kept), 0] = kept
        lengths[row] = len(kept)
    return found, lengths


@dataclass(frozen=True)
class Pixels(Content):
    """Images as bytes ``(n, 3, H, W)`` from 0 to 255, red, green and blue.

    >>> from equifuse.data.contents import Pixels
    >>> Pixels(64).stored()
    {'kind': 'pixels', 'size': 64}

    Attributes:
        size: ``H`` and ``W``.
    """

    kind: ClassVar[str] = "pixels"
    size: int


@dataclass(frozen=True)
class Frames(Content):
    """Frames of clips as bytes ``(n, F, 3, H, W)`` from 0 to 255, red, green and blue.

    >>> from equifuse.data.contents import Frames
    >>> Frames(112).stored()
    {'kind': 'frames', 'size': 112}

    Attributes:
        size: ``H`` and ``W``.
    """

    kind: ClassVar[str] = "frames"
    size: int


@dataclass(frozen=True)
class Spectrograms(Content):
    """Spectrograms of sounds, ``(n, bins, steps)``, on a logarithmic scale.

    >>> from equifuse.data.contents import Spectrograms
    >>> Spectrograms("vggsound").stored()
    {'kind': 'spectrograms', 'sound': 'vggsound'}

    Attributes:
        sound: by which name of :data:`equifuse.data.media.SOUNDS` they were made.
    """

    kind: ClassVar[str] = "spectrograms"
    sound: str


@dataclass(frozen=True)
class Regions(Content):
    """Features of an image's regions, boxes or grid cells, by a pretrained network: ``(n, regions, width)``.

    >>> from equifuse.data.contents import Regions
    >>> Regions().stored()
    {'kind': 'regions'}
    """

    kind: ClassVar[str] = "regions"


_KINDS: dict[str, type[Content]] = {each.kind: each for each in (Words, Tokens, Pixels, Frames, Spectrograms, Regions)}


def content_of(described: Mapping[str, Any]) -> Content:
    """A content from its plain values.

    Raises:
        DataError: a damaged description.
    """
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in described.items()}
    kind = _KINDS.get(str(values.pop("kind", "")))
    try:
        if kind is None:
            raise TypeError
        found = kind(**values)
    except TypeError:
        raise DataError(f"{dict(described)!r} is no content of a modality") from None
    return found


def with_words_of_training(dataset: MultimodalDataset) -> MultimodalDataset:
    """The data set with vocabularies of its training part: other words become unknown.

    Args:
        dataset: whose words are numbered by all rows.
    """
    contents, splits = dict(dataset.contents), dict(dataset.splits)
    for m, content in dataset.contents.items():
        if not isinstance(content, Words):
            continue
        train = splits["train"]
        seen = np.zeros(content.tokens, dtype=np.bool_)
        tokens = in_memory(train.inputs[m])
        seen[np.unique(tokens[~np.isnan(tokens)]).astype(np.int64)] = True
        kept = [word for word, here in zip(content.vocabulary, seen[_FIRST:], strict=True) if here]
        numbers = np.full(content.tokens, UNKNOWN, dtype=np.float32)
        numbers[PADDING] = PADDING
        numbers[_FIRST:][seen[_FIRST:]] = np.arange(_FIRST, _FIRST + len(kept))
        contents[m] = replace(content, vocabulary=tuple(kept))
        splits = {part: _renumbered(split, m, numbers) for part, split in splits.items()}
    return replace(dataset, splits=splits, contents=contents)


def _renumbered(split: Split, m: str, numbers: Floats) -> Split:
    tokens = in_memory(split.inputs[m])
    empty = np.isnan(tokens)
    found = numbers[np.where(empty, 0, tokens).astype(np.int64)]
    found[empty] = np.nan
    return replace(split, inputs={**split.inputs, m: found})
