"""Objects that know how they were made, so that they can be stored: the base of fusions, solvers and gradient rules."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any, Self

from equifuse.errors import InputError

# Where an object keeps the arguments of its constructor.
_GIVEN = "_constructor_arguments"


class Configurable:
    """Base of objects that are described by the arguments of their constructor, and can be built again from them.

    >>> from equifuse.configurable import Configurable
    >>> class Shape(Configurable):
    ...     name = "shape"
    ...     def __init__(self, width, height=1.0):
    ...         self.area = width * height
    >>> Shape(3.0).config()
    {'name': 'shape', 'width': 3.0, 'height': 1.0}

    A subclass needs no code for it: the arguments are recorded, and those that were not given are the defaults. A
    parameter ``**options`` stands for the parameters of the base class. An argument that is a ``Configurable`` itself
    is described by its own configuration, a mapping, from which the constructor must be able to build it
    (``make_solver`` and ``make_fusion`` do).
    """

    __slots__ = ()

    def __new__(cls, *arguments: Any, **options: Any) -> Self:  # noqa: D102
        # Containers are copied, as they may be changed later.
        made = super().__new__(cls)
        given = [_copied(value) for value in arguments], {key: _copied(value) for key, value in options.items()}
        object.__setattr__(made, _GIVEN, given)  # also where a class is frozen, or registers what it is given
        return made

    def config(self) -> dict[str, Any]:
        """Name and arguments as plain values, from which the same object can be built."""
        arguments = {**_arguments(self), **self.current_options()}
        return {"name": _name(self), **{key: _described(value, key, self) for key, value in arguments.items()}}

    def current_options(self) -> dict[str, Any]:
        """Options whose present value differs from the argument of the constructor, by name.

        Override it where an attribute may be replaced later, or where the constructor determines a default.
        """
        return {}


def constructor_parameters(kind: type) -> dict[str, inspect.Parameter]:
    """The named parameters of a class's constructor; ``**options`` stands for those of its base class."""
    found: dict[str, inspect.Parameter] = {}
    for base in inspect.getmro(kind):
        if base is object or base is Configurable:
            break
        try:
            parameters = inspect.signature(base).parameters.values()
        except ValueError:  # a class written in C need not have one
            break
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        found |= {p.name: p for p in named if p.name not in found}
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return found


def _arguments(made: Configurable) -> dict[str, Any]:
    """The arguments that an object was made with, including defaults."""
    positional, named = getattr(made, _GIVEN)
    bound = inspect.signature(type(made)).bind(*positional, **named)
    given: dict[str, Any] = {}
    for key, value in bound.arguments.items():
        kind = bound.signature.parameters[key].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            raise InputError(f"{type(made).__name__} takes *{key}, which have no names to be stored by")
        given |= value if kind is inspect.Parameter.VAR_KEYWORD else {key: value}
    parameters = constructor_parameters(type(made))
    fields = getattr(made, "__dataclass_fields__", {})  # these are what they were given as, or have a factory
    return {
        key: getattr(made, key) if key in fields else given[key] if key in given else parameters[key].default
        for key in {**parameters, **given}
    }


def _name(made: Configurable) -> str:
    return str(getattr(made, "name", type(made).__name__))


def _copied(value: Any) -> Any:
    """A container's copy, and anything else itself."""
    return type(value)(value) if type(value) in (dict, list, set) else value


def _described(value: Any, option: str, owner: Configurable) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Configurable):
        return value.config()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _described(part, option, owner) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_described(part, option, owner) for part in value]
    if isinstance(value, PathLike):
        return str(fspath(value))
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # a number of NumPy or PyTorch
        return value.item()
    raise InputError(
        f"option {option!r} of {_name(owner)!r} is a {type(value).__name__}, which cannot be stored; "
        "take numbers, strings, lists, or an object with a method config()"
    )
