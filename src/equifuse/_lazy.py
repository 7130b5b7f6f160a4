"""Names of a package that are imported when they are first asked for (PEP 562)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any


def attach(
    package: str, exports: Mapping[str, Iterable[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package that imports nothing before it is used.

    Example:
        ``__getattr__, __dir__, __all__ = attach(__name__, {"equifuse.model": ["FusionModel", "load"]})``

    Args:
        package: its ``__name__``.
        exports: module -> the names that the package offers of it; a module without names is offered itself, under
            the last part of its own name.
    """
    home = {name: module for module, names in exports.items() for name in names}
    modules = {module.rpartition(".")[2]: module for module, names in exports.items() if not list(names)}

    def getattr_(name: str) -> Any:
        if name in home:
            return getattr(import_module(home[name]), name)
        if name in modules:
            return import_module(modules[name])
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    public = sorted({*home, *modules})
    return getattr_, lambda: public, public
