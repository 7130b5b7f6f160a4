"""The option that names encoders: one for all modalities, or one for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from equifuse.data.options import SourceOptions
from equifuse.errors import InputError, UnknownNameError
from equifuse.options import Check

_ALL = "auto"


def encoder_of(asked: str | Mapping[str, str], modality: str) -> str:
    """The encoder of a modality.

    >>> from equifuse.runs.encoders import encoder_of
    >>> encoder_of({"image": "guided"}, "image"), encoder_of({"image": "guided"}, "question"), encoder_of("gru", "a")
    ('guided', 'auto', 'gru')

    Args:
        asked: the option's value.
        modality: its name.
    """
    return asked if isinstance(asked, str) else asked.get(modality, _ALL)


def reading_for(asked: str | Mapping[str, str], source: SourceOptions) -> SourceOptions:
    """The options of a source whose columns of pictures and texts are read as their pretrained encoders want it.

    >>> from equifuse.runs.encoders import reading_for
    >>> source = ef.datasets.SourceOptions(modalities={"photo": "image:path", "lab": "a*"})
    >>> reading_for("efficientnet", source).encoders
    {'photo': 'efficientnet'}

    Args:
        asked: the encoders, as the option has them.
        source: the options.

    Raises:
        InputError: a pretrained model is not named.
    """
    from equifuse.encoders.tuned import tuned  # noqa: PLC0415 - PyTorch
    from equifuse.registry import RAW_COLUMNS  # noqa: PLC0415 - its home is imported

    wanted = {m: tuned(encoder_of(asked, m)) for m, p in source.modalities.items() if p.partition(":")[1]}
    found = {m: each[1] for m, each in wanted.items() if each and source.modalities[m].partition(":")[0] in RAW_COLUMNS}
    return replace(source, encoders={**source.encoders, **found}) if found else source


def _choice(value: Any) -> Any:
    """One name, or modality -> name, of ``["image=guided", "question=gru"]``."""
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        return dict(value) if isinstance(value, Mapping) else value
    pairs = [word.partition("=") for word in words]
    if len(pairs) == 1 and not pairs[0][1]:
        return words[0]
    found: dict[str, str] = {}
    for name, equals, kind in pairs:
        if not equals or not name or not kind:
            raise InputError(f"encoder must be one name, or name modalities such as image=guided, got {name!r}")
        if name in found:
            raise InputError(f"encoder {name} is given twice: {found[name]!r} and {kind!r}")
        found[name] = kind
    return found


def _is_choice(value: Any) -> bool:
    if isinstance(value, Mapping):
        return bool(value) and all(isinstance(k, str) and isinstance(v, str) for k, v in value.items())
    return isinstance(value, str) and bool(value)


@dataclass(frozen=True)
class _Encoders(Check):
    """Names of encoders, checked; what one looks at, after a colon, only when the modalities are known."""

    def __call__(self, name: str, value: Any) -> Any:
        value = super().__call__(name, value)
        from equifuse.encoders import ENCODERS  # noqa: PLC0415 - PyTorch

        for kind in value.values() if isinstance(value, dict) else (value,):
            if kind.partition(":")[0] not in ENCODERS:
                raise UnknownNameError("encoder", kind, ENCODERS)
        return value


def encoders() -> Check:
    """What the option may be."""
    return _Encoders("be a name, or name modalities: 'image=guided'", _is_choice, many=True, convert=_choice)
