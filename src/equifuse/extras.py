"""Packages that only a part of the library needs, and what to install where one is missing."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from equifuse.errors import InputError


def require(extra: str, module: str, what: str | None = None) -> ModuleType:
    """Import a module of an optional package, or say in one line how to install it.

    Example:
        >>> from equifuse.extras import require
        >>> require("train", "json").__name__
        'json'
        >>> require("train", "no_such_package", "this example")
        Traceback (most recent call last):
            ...
        equifuse.errors.InputError: this example needs no_such_package: pip install 'equifuse[train]'

    Args:
        extra: of this library, that has it.
        module: to import.
        what: needs it; by default this function of equifuse.

    Raises:
        InputError: it cannot be imported.
    """
    try:
        return import_module(module)
    except (ImportError, OSError) as error:  # the latter where a library of the system is missing
        package = module.partition(".")[0]
        missing = isinstance(error, ModuleNotFoundError) and (error.name or package).partition(".")[0] == package
        reason = "" if missing else f" ({error})"
        name = what or "this function of equifuse"
        raise InputError(f"{name} needs {package}{reason}: pip install 'equifuse[{extra}]'") from None
