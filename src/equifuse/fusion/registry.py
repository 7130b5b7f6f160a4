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
    """The options of a fusion beside ``dims``; one that takes ``**options`` passes them on to its base class.

    Raises:
        UnknownNameError: no such fusion.
    """
    if name not in FUSIONS:
        raise UnknownNameError("fusion", name, available_fusions())
    options: dict[str, None] = {}
    for kind in FUSIONS[name].__mro__:
        parameters = inspect.signature(kind).parameters.values()
        options |= {p.name: None for p in parameters if p.name != "dims" and p.kind is not p.VAR_KEYWORD}
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return list(options)


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


def make_backend(
    backend: Fusion | str | None, options: Mapping[str, Any] | None, dims: Mapping[str, int], owner: str
) -> Fusion | None:
    """The fusion that another one, ``owner``, hands features of widths ``dims`` to.

    Args:
        backend: a fusion built for these widths, the name of one, or None for none.
        options: options for one given by name.
        dims: modality name -> width.
        owner: how messages call the other fusion.

    Raises:
        UnknownNameError: no such fusion, or an option it does not have.
        InputError: other widths, options for a fusion that is built already, or an option's value that does not fit.
    """
    if isinstance(backend, str):
        return make_fusion(backend, dims, **(options or {}))
    if options:
        raise InputError("backend_options go with a backend given by name")
    if backend is not None and list(backend.dims.items()) != list(dims.items()):
        raise InputError(f"the backend was built for {backend.dims}, {owner} hands it {dict(dims)}")
    return backend


def backend_config(backend: Fusion | None) -> dict[str, Any]:
    """The options ``backend`` and ``backend_options`` that :func:`make_backend` rebuilds a backend from."""
    config = backend.config() if backend else {"name": None}
    options = {key: value for key, value in config.items() if key not in ("name", "dims")}
    return {"backend": config["name"], "backend_options": options}
