"""Everything that can be chosen by name: one registry class, one registry for each kind of part."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from equifuse.configurable import constructor_parameters
from equifuse.errors import EquifuseError, InputError, UnknownNameError

if TYPE_CHECKING:
    from equifuse.data.formats.base import Format
    from equifuse.data.public.base import PublicSet
    from equifuse.data.raw import RawColumn
    from equifuse.encoders.preparation import Preparation
    from equifuse.fusion import Fusion
    from equifuse.information.estimator import Estimator
    from equifuse.solve import GMRES, Gradient, Solver
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
        self._origins: dict[str, tuple[str, str]] = {}
        self._installed: dict[str, list[EntryPoint]] | None = None
        self._broken: set[str] = set()

    @overload
    def register(self, part: R, /) -> R: ...

    @overload
    def register(self, /, *, name: str) -> Callable[[R], R]: ...

    def register(self, part: Any = None, /, *, name: str | None = None) -> Any:
        """Make a class, a function or an object available under its ``name``; a decorator.

        Args:
            part: what has an attribute ``name``.
            name: for what has none, such as a function: ``@LOGGERS.register(name="csv")``.

        Raises:
            InputError: another part has that name already, or it has no name.
        """
        module = _calling_module()
        if part is None:

            def named(part: R) -> R:
                self._add(part, str(name), module)
                return part

            return named
        own = getattr(part, "name", None)
        if not isinstance(own, str) or not own:
            raise InputError(f"a {self.kind} needs a class attribute 'name' to be registered, {part!r} has none")
        self._add(part, own, module)
        return part

    def unregister(self, name: str) -> None:
        """Take a registered part away again, as tests and notebooks need it; nothing where there is none."""
        self._parts.pop(name, None)
        self._origins.pop(name, None)

    def names(self) -> list[str]:
        """All names, sorted, those of installed packages among them."""
        self._import_home()
        return sorted({*self._parts, *self._entry_points()})

    def get(self, name: object) -> T:
        """The part of a name.

        Raises:
            UnknownNameError: there is none; the message has the nearest name.
            EquifuseError: an installed package offers it and cannot be imported, or several offer it.
        """
        self._import_home()
        if not isinstance(name, str):  # as a configuration of somebody's may say
            raise UnknownNameError(self.kind, str(name), self.names())
        if name not in self._parts and name in self._entry_points():
            self._load(name)
        if name not in self._parts:
            raise UnknownNameError(self.kind, name, self.names())
        return self._parts[name]

    def parts(self) -> list[T]:
        """All parts, sorted by name; those of installed packages are imported.

        Warns:
            UserWarning: an installed package offers one that cannot be imported; it is left out.
        """
        found = []
        for name in self.names():
            try:
                found.append(self.get(name))
            except EquifuseError as error:
                if name not in self._broken:  # once is enough
                    self._broken.add(name)
                    warnings.warn(str(error), stacklevel=2)
        return found

    def options(self, name: str, skip: int = 0) -> list[str]:
        """The keyword arguments of a registered class; one that takes ``**options`` passes them on to its base class.

        Args:
            name: of the class.
            skip: how many leading arguments are not options.

        Raises:
            UnknownNameError: no such part.
        """
        part = self.get(name)
        return list(constructor_parameters(part))[skip:] if inspect.isclass(part) else []

    def make(self, spec: Any, *arguments: Any, **options: Any) -> Any:
        """An object from a name, from a mapping with ``"name"`` and options, or the object itself.

        Args:
            spec: ``"anderson"``, ``{"name": "anderson", "tol": 1e-5}``, or an object, which is returned as it is.
            *arguments: leading arguments of the class, beside the options.
            **options: further options.

        Raises:
            UnknownNameError: no such part, or an option that it does not have; the message has the nearest.
            InputError: options for an object that is made already, options without a name, or a class in place of
                an object.
        """
        if isinstance(spec, Mapping):
            given = {str(key): value for key, value in spec.items()}
            if not isinstance(given.get("name"), str):
                raise InputError(f"the options of a {self.kind} need its 'name' among them, got {dict(spec)!r}")
            name = str(given.pop("name"))
            options = {**given, **options}
        elif isinstance(spec, str):
            name = spec
        elif inspect.isclass(spec):
            raise InputError(f"a {self.kind} is given by name or as an object, not as a class; write {spec.__name__}()")
        else:
            if options:
                raise InputError(f"options go with a {self.kind} given by name, not with {type(spec).__name__}(...)")
            return spec
        part: Any = self.get(name)
        known = self.options(name, len(arguments))
        for option in options:
            if option not in known:
                raise UnknownNameError(f"option of {self.kind} {name!r}:", str(option), known)
        if not inspect.isclass(part):
            return part
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

    def _add(self, part: Any, name: str, module: str) -> None:
        origin = _origin(part, module)
        # A cell of a notebook that is run again defines the same class anew.
        if name in self._parts and self._origins[name] != origin:
            raise InputError(f"a {self.kind} named {name!r} is already registered: {self._parts[name]!r}")
        self._parts[name], self._origins[name] = part, origin

    def _import_home(self) -> None:
        if self.home is not None:
            import_module(self.home)
            self.home = None

    def _entry_points(self) -> dict[str, list[EntryPoint]]:
        if self._installed is None:
            self._installed = {}
            for point in entry_points(group=self.group):
                others = self._installed.setdefault(point.name, [])
                if all(other.value != point.value for other in others):
                    others.append(point)
            for name in self._parts:
                taken = [point for point in self._installed.get(name, []) if not _is_at(self._parts[name], point)]
                if taken:
                    warnings.warn(
                        f"{self.kind} {name!r} of package {_package(taken[0])!r} is not used: the name is taken by "
                        f"{self._parts[name]!r}",
                        stacklevel=3,
                    )
        return self._installed

    def _load(self, name: str) -> None:
        points = self._entry_points()[name]
        if len(points) > 1:
            packages = " and ".join(repr(_package(point)) for point in points)
            raise EquifuseError(f"packages {packages} both offer a {self.kind} {name!r}; uninstall one of them")
        (point,) = points
        which = f"{self.kind} {name!r} of package {_package(point)!r}"
        try:
            part = point.load()
        except Exception as error:  # another package's code may fail in any way
            raise EquifuseError(f"{which} cannot be imported: {type(error).__name__}: {error}") from error
        if name in self._parts:  # its import registered it
            return
        own = getattr(part, "name", name)
        if inspect.ismodule(part) or own != name:
            raise EquifuseError(f"{which}: its entry point {point.value!r} gives {part!r}, which has another name")
        self._add(part, name, point.module)


def _origin(part: Any, module: str) -> tuple[str, str]:
    """Where a part was defined: of a class that is defined again, the same."""
    named = inspect.unwrap(part)  # a metric is where its function is
    if inspect.isclass(named) or inspect.isfunction(named):
        return named.__module__, named.__qualname__
    return module, type(part).__qualname__


def _calling_module() -> str:
    """The name of the module that called the caller."""
    frame = sys._getframe(2)
    return str(frame.f_globals.get("__name__", ""))


def _is_at(part: Any, point: EntryPoint) -> bool:
    """Whether a registered part is what an entry point refers to, or comes from the same package."""
    module = getattr(part, "__module__", type(part).__module__)
    return bool(module.partition(".")[0] == point.module.partition(".")[0])


def _package(point: EntryPoint) -> str:
    """What a package that has an entry point is called."""
    return str(point.dist.name) if point.dist is not None else point.module.partition(".")[0]


FUSIONS: Registry[type[Fusion]] = Registry("fusion", group="equifuse.fusions", home="equifuse.fusion")
SOLVERS: Registry[type[Solver] | type[GMRES]] = Registry("solver", group="equifuse.solvers", home="equifuse.solve")
GRADIENTS: Registry[type[Gradient]] = Registry("gradient", group="equifuse.gradients", home="equifuse.solve")
FORMATS: Registry[type[Format]] = Registry("format", group="equifuse.formats", home="equifuse.data.formats")
TASKS: Registry[type[Task]] = Registry("task", group="equifuse.tasks", home="equifuse.tasks")
METRICS: Registry[Metric] = Registry("metric", group="equifuse.metrics", home="equifuse.tasks")
BALANCERS: Registry[type[Balancer]] = Registry(
    "balance", group="equifuse.balancers", home="equifuse.training.balancing"
)
PREPARATIONS: Registry[type[Preparation]] = Registry(
    "preparation", group="equifuse.preparations", home="equifuse.encoders.preparation"
)
LOGGERS: Registry[LoggerFactory] = Registry("logger", group="equifuse.loggers", home="equifuse.training.loggers")
INFORMATION: Registry[type[Estimator]] = Registry(
    "information estimator", group="equifuse.information", home="equifuse.information"
)
PUBLIC_SETS: Registry[PublicSet] = Registry(
    "public data set", group="equifuse.public_sets", home="equifuse.data.public"
)
RAW_COLUMNS: Registry[type[RawColumn]] = Registry("raw column", group="equifuse.raw_columns", home="equifuse.data.raw")
