"""Encoders of what is no measurement: words, pictures, regions of images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from equifuse.data.contents import Content, Frames, Pixels, Spectrograms, Words
from equifuse.encoders import (
    ENCODERS,
    GUIDED,
    POOLINGS,
    CoAttention,
    FiLMEncoder,
    FrameEncoder,
    GridStates,
    GuidedAttention,
    PictureEncoder,
    RegionStates,
    SequenceEncoder,
    SpectrogramEncoder,
    WordEncoder,
)
from equifuse.errors import InputError, UnknownNameError

_GUIDED = {"guided": GuidedAttention, "coattention": CoAttention, "film": FiLMEncoder}
# What an encoder is by default, by what the numbers stand for.
_USUAL = {"words": "gru", "pixels": "cnn", "frames": "cnn", "spectrograms": "cnn", "regions": "attention"}


def content_encoder(
    name: str,
    shape: tuple[int, ...],
    content: Content,
    asked: str,
    options: Mapping[str, Any],
    modalities: tuple[str, ...],
) -> tuple[nn.Module, int]:
    """The encoder of a modality that is words, pictures or regions, and the width of its output.

    >>> from equifuse.data.contents import Words
    >>> from equifuse.model.contents import content_encoder
    >>> content_encoder("question", (14, 1), Words(("what", "is")), "auto", {"hidden": 32}, ("image", "question"))[1]
    32

    Args:
        name: of the modality.
        shape: of one sample.
        content: what its numbers stand for.
        asked: name of an encoder; ``"guided:question"`` says what it looks at.
        options: ``hidden``, of which the last is the width, and ``dropout``.
        modalities: all of the model.

    Raises:
        UnknownNameError: no such encoder, or modality to look at.
        InputError: the encoder does not fit.
    """
    if asked in ("identity", "average"):
        raise InputError(
            f"modality {name!r} is {content.kind}, which need an encoder that is trained; use another fusion"
        )
    kind, _, other = asked.partition(":")
    if kind not in ENCODERS:
        raise UnknownNameError("encoder", kind, ENCODERS)
    kind = _USUAL[content.kind] if kind == "auto" else kind
    hidden = options.get("hidden", (128,))
    dim = hidden if isinstance(hidden, int) else tuple(hidden)[-1]
    dropout = options.get("dropout", 0.3)
    if isinstance(content, Words):
        if kind not in POOLINGS:
            raise InputError(
                f"encoder {kind!r} is not for words, which modality {name!r} has; use {', '.join(POOLINGS)}"
            )
        return WordEncoder(content.tokens, dim, kind, dropout=dropout), dim
    if isinstance(content, Frames | Spectrograms):
        if kind != "cnn":
            raise InputError(f"encoder {kind!r} is not for {content.kind}, which modality {name!r} has; use cnn")
        if isinstance(content, Frames):
            return FrameEncoder(shape[-1], dim, dropout=dropout), dim
        return SpectrogramEncoder(shape, dim, dropout=dropout), dim
    pixels = isinstance(content, Pixels)
    if kind in GUIDED:
        regions = GridStates(PictureEncoder(shape[-1], dim)) if pixels else RegionStates(shape[-1], dim, dropout)
        made = _GUIDED[kind]
        return made(regions, _looked_at(name, other, modalities), dim, dropout=dropout), dim
    if pixels and kind == "cnn":
        return PictureEncoder(shape[-1], dim, dropout=dropout), dim
    if not pixels and kind in POOLINGS:
        return SequenceEncoder(shape[-1], dim, kind, dropout=dropout), dim
    fitting = ("cnn", *GUIDED) if pixels else (*POOLINGS, *GUIDED)
    raise InputError(
        f"encoder {kind!r} is not for {content.kind}, which modality {name!r} has; use {', '.join(fitting)}"
    )


def _looked_at(name: str, other: str, modalities: tuple[str, ...]) -> str:
    others = [m for m in modalities if m != name]
    if other and other not in others:
        raise UnknownNameError(f"modality for {name!r} to look at:", other, others)
    if not other and len(others) != 1:
        raise InputError(f"say which modality {name!r} looks at: guided:{others[0] if others else 'question'}")
    return other or others[0]
