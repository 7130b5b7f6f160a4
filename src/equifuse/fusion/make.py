"""Fusions by name, and fusions behind others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from equifuse.errors import InputError
from equifuse.fusion.base import Fusion
from equifuse.registry import FUSIONS


def register(kind: type[Fusion]) -> type[Fusion]:
    """Class decorator: make a fusion available under its ``name``."""
    return FUSIONS.register(kind)


def available_fusions() -> list[str]:
    """The names :func:`make_fusion` knows."""
    return FUSIONS.names()


def fusion_options(name: str) -> list[str]:
    """The options of a fusion beside ``dims``; one that takes ``**options`` passes them on to its base class.

    Raises:
        UnknownNameError: no such fusion.
    """
    return FUSIONS.options(name, skip=1)


def make_fusion(name: str, dims: Mapping[str, int], **options: Any) -> Fusion:
    """Build a fusion by name.

    Example:
        >>> import equifuse as ef
        >>> ef.make_fusion("gmu", {"text": 300, "image": 512}, dim=64).out_dim
        64

    Args:
        name: one of :func:`available_fusions`.
        dims: modality name -> width.
        **options: the fusion's own options.

    Raises:
        UnknownNameError: no such fusion, or an option it does not have.
        InputError: an option's value does not fit.
    """
    fusion: Fusion = FUSIONS.make(str(name), dims, **options)
    return fusion


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
