"""Encoders of what is no measurement: words, pictures, regions of images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from equifuse.data.contents import Content, Frames, Pixels, Spectrograms, Tokens, Words
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
    TunedEncoder,
    WordEncoder,
)
from equifuse.encoders.backbones import PICTURES, TEXTS, load_backbone, restored, tokenizer_of
from equifuse.encoders.tuned import tuned
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
    described: Mapping[str, Any] | None = None,
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
        options: ``hidden``, of which the last is the width, ``dropout``, and of pretrained models ``lora_rank`` and
            ``gradient_checkpointing``.
        modalities: all of the model.
        described: of a pretrained model whose weights are loaded afterwards, as :meth:`Backbone.described` gave it.

    Raises:
        UnknownNameError: no such encoder, or modality to look at.
        InputError: the encoder does not fit.
    """
    if asked in ("identity", "average"):
        raise InputError(
            f"modality {name!r} is {content.kind}, which need an encoder that is trained; use another fusion"
        )
    if asked.partition(":")[0] not in ENCODERS:
        raise UnknownNameError("encoder", asked.partition(":")[0], ENCODERS)
    hidden = options.get("hidden", (128,))
    dim = hidden if isinstance(hidden, int) else tuple(hidden)[-1]
    if (wanted := tuned(asked)) is not None:
        return _pretrained(name, content, *wanted, options, described), dim
    if isinstance(content, Tokens):
        raise InputError(f"modality {name!r} was read for a pretrained encoder; name it, such as {name}=wordllama")
    return _from_scratch(name, shape, content, asked, options.get("dropout", 0.3), dim, modalities), dim


def _from_scratch(
    name: str,
    shape: tuple[int, ...],
    content: Content,
    asked: str,
    dropout: float,
    dim: int,
    modalities: tuple[str, ...],
) -> nn.Module:
    """An encoder whose weights are all trained from scratch."""
    kind, _, other = asked.partition(":")
    kind = _USUAL[content.kind] if kind == "auto" else kind
    if isinstance(content, Words):
        if kind not in POOLINGS:
            raise InputError(
                f"encoder {kind!r} is not for words, which modality {name!r} has; use {', '.join(POOLINGS)}"
            )
        return WordEncoder(content.tokens, dim, kind, dropout=dropout)
    if isinstance(content, Frames | Spectrograms):
        if kind != "cnn":
            raise InputError(f"encoder {kind!r} is not for {content.kind}, which modality {name!r} has; use cnn")
        if isinstance(content, Frames):
            return FrameEncoder(shape[-1], dim, dropout=dropout)
        return SpectrogramEncoder(shape, dim, dropout=dropout)
    pixels = isinstance(content, Pixels)
    if kind in GUIDED:
        regions = GridStates(PictureEncoder(shape[-1], dim)) if pixels else RegionStates(shape[-1], dim, dropout)
        guided: nn.Module = _GUIDED[kind](regions, _looked_at(name, other, modalities), dim, dropout=dropout)
        return guided
    if pixels and kind == "cnn":
        return PictureEncoder(shape[-1], dim, dropout=dropout)
    if not pixels and kind in POOLINGS:
        return SequenceEncoder(shape[-1], dim, kind, dropout=dropout)
    fitting = ("cnn", *GUIDED) if pixels else (*POOLINGS, *GUIDED)
    raise InputError(
        f"encoder {kind!r} is not for {content.kind}, which modality {name!r} has; use {', '.join(fitting)}"
    )


def _pretrained(
    name: str,
    content: Content,
    mode: str,
    source: str,
    options: Mapping[str, Any],
    described: Mapping[str, Any] | None,
) -> TunedEncoder:
    """A pretrained model of pictures or texts, of which the latter must have been read for it.

    Raises:
        InputError: it does not fit what was read.
    """
    if not isinstance(content, Pixels | Frames | Tokens):
        raise InputError(
            f"a pretrained encoder takes pictures, frames, or texts read for it; modality {name!r} has {content.kind} "
            "(a column of texts: --modality NAME=text:column)"
        )
    takes = TEXTS if isinstance(content, Tokens) else PICTURES
    backbone = load_backbone(source, takes) if described is None else restored(described)
    if described is None and isinstance(content, Tokens) and tokenizer_of(source)[0] != content.tokenizer:
        raise InputError(f"the texts of modality {name!r} were read for another encoder than {source!r}")
    hidden = options.get("hidden", (128,))
    return TunedEncoder(
        backbone,
        mode,
        (hidden,) if isinstance(hidden, int) else tuple(hidden),
        dropout=options.get("dropout", 0.3),
        rank=options.get("lora_rank", 8),
        checkpointing=options.get("gradient_checkpointing", False),
    )


def _looked_at(name: str, other: str, modalities: tuple[str, ...]) -> str:
    others = [m for m in modalities if m != name]
    if other and other not in others:
        raise UnknownNameError(f"modality for {name!r} to look at:", other, others)
    if not other and len(others) != 1:
        raise InputError(f"say which modality {name!r} looks at: guided:{others[0] if others else 'question'}")
    return other or others[0]
