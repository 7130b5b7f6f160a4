"""Everything that can be chosen by name: one registry class, one registry for each kind of part."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from equifuse.errors import EquifuseError, InputError, UnknownNameError

if TYPE_CHECKING:
    from equifuse.data.formats.base import Format
    from equifuse.fusion import Fusion
    from equifuse.solve import Gradient, Solver
    from equifuse.tasks import Metric, Task
    from equifuse.training.balancing import Balancer
    from equifuse.training.loggers import LoggerFactory

T = TypeVar("T")
R = TypeVar("R")


class Registry(Generic[T]):
    """Parts of one kind by name: those of this library, registered ones, and those of installed packages.

    Example:
        >>> from equifuse.registry import Registry
        >>> shapes = Registry("shape", group="mypackage.shapes")
        >>> @shapes.register
        ... class Square:
        ...     name = "square"
        ...     def __init__(self, side=1.0):
        ...         self.side = side
        >>> shapes.make("square", side=2.0).side
        2.0
        >>> shapes.names()
        ['square']

    A class (or an object) with a ``name`` joins by the decorator :meth:`register`, once its module is imported. A
    package that is only installed joins by an entry point: its ``pyproject.toml`` says, for the group of the kind,
    ``name = "package.module:Class"``; it is imported when that name is asked for.

    Args:
        kind: what the parts are called in messages, such as ``"fusion"``.
        group: of the entry points, such as ``"equifuse.fusions"``.
        home: package of this library whose import registers the built-in parts, or None.
    """

    def __init__(self, kind: str, *, group: str, home: str | None = None) -> None:
        self.kind, self.group, self.home = kind, group, home
        self._parts: dict[str, T] = {}
        self._installed: dict[str, EntryPoint] | None = None

    def register(self, part: R) -> R:
        """Make a class or an object available under its ``name``; a decorator.

        Raises:
            InputError: another part has that name already, or it has no name.
        """
        name = getattr(part, "name", None)
        if not isinstance(name, str) or not name:
            raise InputError(f"a {self.kind} needs a class attribute 'name' to be registered, {part!r} has none")
        before = self._parts.get(name)
        # A cell of a notebook that is run again defines the same class anew.
        if before is not None and _origin(before) != _origin(part):
            raise InputError(f"a {self.kind} named {name!r} is already registered: {before!r}")
        self._parts[name] = part  # type: ignore[assignment]
        return part

    def unregister(self, name: str) -> None:
        """Take a registered part away again, as tests and notebooks need it; nothing where there is none."""
        self._parts.pop(name, None)

    def names(self) -> list[str]:
        """All names, sorted, those of installed packages among them."""
        self._import_home()
        return sorted({*self._parts, *self._entry_points()})

    def get(self, name: str) -> T:
        """The part of a name.

        Raises:
            UnknownNameError: there is none; the message has the nearest name.
            EquifuseError: an installed package offers it and cannot be imported.
        """
        self._import_home()
        if name not in self._parts and name in self._entry_points():
            self._load(self._entry_points()[name])
        if name not in self._parts:
            raise UnknownNameError(self.kind, str(name), self.names())
        return self._parts[name]

    def options(self, name: str, skip: int = 0) -> list[str]:
        """The keyword arguments of a registered class; one that takes ``**options`` passes them on to its base class.

        Args:
            name: of the class.
            skip: how many leading arguments are not options.

        Raises:
            UnknownNameError: no such part.
        """
        options: dict[str, None] = {}
        for kind in inspect.getmro(self.get(name)):  # type: ignore[arg-type]
            parameters = list(inspect.signature(kind).parameters.values())[skip:]
            named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
            options |= dict.fromkeys(p.name for p in named)
            if kind is object or all(p.kind is not p.VAR_KEYWORD for p in parameters):
                break
        return list(options)

    def make(self, spec: Any, *arguments: Any, **options: Any) -> Any:
        """An object from a name, from a mapping with ``"name"`` and options, or the object itself.

        Args:
            spec: ``"anderson"``, ``{"name": "anderson", "tol": 1e-5}``, or an object, which is returned as it is.
            *arguments: leading arguments of the class, beside the options.
            **options: further options.

        Raises:
            UnknownNameError: no such part, or an option that it does not have; the message has the nearest.
            InputError: options for an object that is made already.
        """
        if isinstance(spec, Mapping):
            given = dict(spec)
            name = str(given.pop("name", None))
            options = {**given, **options}
        elif isinstance(spec, str):
            name = spec
        else:
            if options:
                raise InputError(f"options go with a {self.kind} given by name, not with {type(spec).__name__}(...)")
            return spec
        part: Any = self.get(name)
        if not inspect.isclass(part):
            return part
        known = self.options(name, len(arguments))
        for option in options:
            if option not in known:
                raise UnknownNameError(f"option of {self.kind} {name!r}:", str(option), known)
        try:
            return part(*arguments, **options)
        except TypeError as error:
            raise InputError(f"{self.kind} {name!r}: {error}") from error

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def __repr__(self) -> str:
        return f"Registry({self.kind!r}: {', '.join(self.names())})"

    def _import_home(self) -> None:
        if self.home is not None:
            home, self.home = self.home, None
            import_module(home)

    def _entry_points(self) -> dict[str, EntryPoint]:
        if self._installed is None:
            self._installed = {point.name: point for point in entry_points(group=self.group)}
        return self._installed

    def _load(self, point: EntryPoint) -> None:
        try:
            part = point.load()
        except Exception as error:  # another package's code may fail in any way
            package = point.dist.name if point.dist is not None else point.value
            message = f"{self.kind} {point.name!r} of package {package!r} cannot be imported: {error}"
            raise EquifuseError(message) from error
        if point.name not in self._parts:
            self._parts[point.name] = part


def _origin(part: Any) -> tuple[str | None, str]:
    """Where a part was defined: of a class that is defined again, the same."""
    named = inspect.unwrap(part)  # a metric is where its function is
    named = named if inspect.isclass(named) or inspect.isfunction(named) else type(named)
    return named.__module__, f"{named.__qualname__}/{part.name}"


FUSIONS: Registry[type[Fusion]] = Registry("fusion", group="equifuse.fusions", home="equifuse.fusion")
SOLVERS: Registry[type[Solver]] = Registry("solver", group="equifuse.solvers", home="equifuse.solve")
GRADIENTS: Registry[type[Gradient]] = Registry("gradient", group="equifuse.gradients", home="equifuse.solve")
FORMATS: Registry[type[Format]] = Registry("format", group="equifuse.formats", home="equifuse.data.formats")
TASKS: Registry[type[Task]] = Registry("task", group="equifuse.tasks", home="equifuse.tasks")
METRICS: Registry[Metric] = Registry("metric", group="equifuse.metrics", home="equifuse.tasks")
BALANCERS: Registry[type[Balancer]] = Registry(
    "balance", group="equifuse.balancers", home="equifuse.training.balancing"
)
LOGGERS: Registry[LoggerFactory] = Registry("logger", group="equifuse.loggers", home="equifuse.training.loggers")
