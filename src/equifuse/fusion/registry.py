"""Fusions by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from equifuse.errors import InputError, UnknownNameError
from equifuse.fusion.base import Fusion

FUSIONS: dict[str, type[Fusion]] = {}


def register(kind: type[Fusion]) -> type[Fusion]:
    """Class decorator: make a fusion available under its ``name``."""
    if kind.name in FUSIONS:
        raise InputError(f"a fusion named {kind.name!r} is already registered")
    FUSIONS[kind.name] = kind
    return kind


def available_fusions() -> list[str]:
    """The names :func:`make_fusion` knows."""
    return sorted(FUSIONS)


def fusion_options(name: str) -> list[str]:
    """The options of a fusion beside ``dims``.

    Raises:
        UnknownNameError: no such fusion.
    """
    if name not in FUSIONS:
        raise UnknownNameError("fusion", name, available_fusions())
    return [option for option in inspect.signature(FUSIONS[name]).parameters if option != "dims"]


def make_fusion(name: str, dims: Mapping[str, int], **options: Any) -> Fusion:
    """Build a fusion by name.

    Args:
        name: one of :func:`available_fusions`.
        dims: modality name -> width.
        **options: the fusion's own options.

    Raises:
        UnknownNameError: no such fusion, or an option it does not have.
        InputError: an option's value does not fit.
    """
    known = fusion_options(name)
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of fusion {name!r}:", option, known)
    return FUSIONS[name](dims, **options)
