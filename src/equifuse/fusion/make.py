"""Build fusions by name, also inside other fusions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from equifuse.errors import InputError
from equifuse.fusion.base import Fusion
from equifuse.registry import FUSIONS


def register(kind: type[Fusion]) -> type[Fusion]:
    """Class decorator that makes a fusion available by its ``name``, in Python and on the command line.

    >>> @ef.fusion.register
    ... class First(ef.Fusion):
    ...     name = "first_only"
    ...     def __init__(self, dims):
    ...         super().__init__(dims)
    ...         self.out_dim = next(iter(dims.values()))
    ...     def fuse(self, rows):
    ...         first = next(iter(self.dims))
    ...         return ef.FusionOutput(rows.values[first], dict(rows.values))
    >>> ef.make_fusion("first_only", {"a": 5, "b": 2}).out_dim
    5
    """
    return FUSIONS.register(kind)


def available_fusions() -> list[str]:
    """The names of all fusions that :func:`make_fusion` can build.

    >>> "deq" in ef.available_fusions()
    True
    """
    return FUSIONS.names()


def fusion_options(name: str) -> list[str]:
    """The names of a fusion's options, besides ``dims``.

    >>> ef.fusion.fusion_options("lowrank")
    ['dim', 'rank']

    Args:
        name: one of :func:`available_fusions`.

    Returns:
        Option names; of a fusion that takes ``**options`` also those of its base class.

    Raises:
        UnknownNameError: no fusion has this name.
    """
    return FUSIONS.options(name, skip=1)


def make_fusion(name: str, dims: Mapping[str, int], **options: Any) -> Fusion:
    """Build a fusion by name, which is how the command line and configurations choose one.

    >>> ef.make_fusion("gmu", {"text": 300, "image": 512}, dim=64).out_dim
    64

    Args:
        name: one of :func:`available_fusions`.
        dims: modality name -> width.
        **options: the fusion's own options; see :func:`equifuse.fusion.fusion_options`.

    Returns:
        The fusion, with fresh weights.

    Raises:
        UnknownNameError: no fusion has this name, or it has no such option.
        InputError: the value of an option is out of range.
    """
    fusion: Fusion = FUSIONS.make(str(name), dims, **options)
    return fusion


def make_backend(
    backend: Fusion | str | None, options: Mapping[str, Any] | None, dims: Mapping[str, int], owner: str
) -> Fusion | None:
    """The fusion that the fusion ``owner`` passes its features on to.

    Args:
        backend: a fusion built for these widths, the name of one, or None for none.
        options: options for a backend given by name.
        dims: modality name -> width of the features.
        owner: the name of the other fusion, for messages.

    Raises:
        UnknownNameError: no fusion has this name, or it has no such option.
        InputError: other widths, options for a fusion that is already built, or an option's value is out of range.
    """
    if isinstance(backend, str):
        return make_fusion(backend, dims, **(options or {}))
    if options:
        raise InputError("backend_options go with a backend given by name")
    if backend is not None and list(backend.dims.items()) != list(dims.items()):
        raise InputError(f"the backend was built for {backend.dims}, {owner} hands it {dict(dims)}")
    return backend


def backend_config(backend: Fusion | None) -> dict[str, Any]:
    """The options ``backend`` and ``backend_options``, from which :func:`make_backend` builds the backend again."""
    config = backend.config() if backend else {"name": None}
    options = {key: value for key, value in config.items() if key not in ("name", "dims")}
    return {"backend": config["name"], "backend_options": options}
