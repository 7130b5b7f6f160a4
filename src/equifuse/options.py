"""Options declared once: a field of a dataclass has its help, group and range; flags, YAML keys and checks follow.

Example:
    >>> from dataclasses import dataclass
    >>> from equifuse.options import Options, number, one_of, option
    >>> @dataclass(frozen=True)
    ... class Tea(Options):
    ...     minutes: float = option(3.0, number(above=0), help="Time to draw.", group="Taste")
    ...     kind: str = option("green", one_of("green", "black"), help="Leaves.", group="Taste")
    >>> Tea(minutes=4).to_dict()
    {'minutes': 4, 'kind': 'green'}
    >>> Tea(kind="blak")
    Traceback (most recent call last):
        ...
    equifuse.errors.UnknownNameError: unknown kind 'blak'; did you mean 'black'? known: green, black
    >>> Tea.from_dict({"minutes": 0})
    Traceback (most recent call last):
        ...
    equifuse.errors.InputError: minutes must be a positive number, got 0

Nothing here, and nothing that declares options, imports NumPy or PyTorch: ``equifuse --help`` is made from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Literal, Self, cast

from equifuse.errors import InputError, UnknownNameError

_META = "option"


def _same(value: Any) -> Any:
    return value


Known = tuple[str, ...] | Callable[[], Iterable[str]]


@dataclass(frozen=True)
class Check:
    """What a value of an option must be.

    Attributes:
        must: how a message says it, after the option's name and "must": ``"be in [0, 1)"``.
        accepts: whether a value is one.
        kind: what the command line reads: ``str``, ``int``, ``float`` or ``bool``.
        range: the same in short, for help: ``">= 1"``.
        many: the value is a list, and its flag may be repeated.
        pairs: for a mapping, whose flag ``key=value`` may be repeated: ``"nested"`` where dots in a key nest,
            ``"flat"`` where they do not, ``"text"`` where the values are text and not YAML; ``""`` for what is none.
        convert: from what YAML gives to what is stored.
    """

    must: str
    accepts: Callable[[Any], bool]
    kind: type = str
    range: str = ""
    many: bool = False
    pairs: Literal["", "nested", "flat", "text"] = ""
    convert: Callable[[Any], Any] = _same

    def __call__(self, name: str, value: Any) -> Any:
        """The value as it is stored.

        Raises:
            InputError: it does not fit.
        """
        value = self.convert(value)
        if not self.accepts(value):
            raise InputError(f"{name} must {self.must}, got {value!r}")
        return value


@dataclass(frozen=True)
class _OneOf(Check):
    known: Known = ()

    def __call__(self, name: str, value: Any) -> Any:
        value = super().__call__(name, value)
        known = self.known() if callable(self.known) else self.known
        for entry in value if self.many else (value,):
            if entry not in known:
                raise UnknownNameError(name, entry, known)
        return value


@dataclass(frozen=True)
class _Optional(Check):
    inner: Check | None = None

    def __call__(self, name: str, value: Any) -> Any:
        return value if value is None or self.inner is None else self.inner(name, value)


def whole(least: int = 0, below: int | None = None, below_text: str = "") -> Check:
    """A whole number of at least ``least``, and below ``below`` if given."""
    limit = "" if below is None else f" and below {below_text or below}"
    return Check(
        f"be a whole number of at least {least}{limit}",
        lambda v: _is(v, int) and v >= least and (below is None or v < below),
        int,
        f">= {least}",
    )


def number(*, least: float | None = None, above: float | None = None, below: float = math.inf) -> Check:
    """A number of at least ``least`` or above ``above``, and below ``below``."""
    low, opening = (above, "(") if least is None else (least, "[")
    assert low is not None
    if math.isfinite(below):
        span = f"{opening}{low:g}, {below:g})"
        must = f"be between {low:g} and {below:g}" if opening == "(" else f"be in {span}"
    elif opening == "(":
        span, must = f"> {low:g}", "be a positive number" if low == 0 else f"be a number above {low:g}"
    else:
        span, must = f">= {low:g}", f"be a number of at least {low:g}"
    strictly = opening == "("
    return Check(
        must,
        lambda v: _is(v, int, float) and (v > low if strictly else v >= low) and v < below,
        float,
        f"{low:g} {'<' if strictly else '<='} value < {below:g}" if math.isfinite(below) else span,
    )


def yes_no() -> Check:
    """True or false."""
    return Check("be true or false", lambda v: isinstance(v, bool), bool)


def text() -> Check:
    """A name: text that is not empty."""
    return Check("be a name", lambda v: isinstance(v, str) and bool(v))


def one_of(*known: str, names: Callable[[], Iterable[str]] | None = None) -> Check:
    """One of some names.

    Args:
        *known: the names.
        names: gives them when they are needed, where telling them imports what is heavy.
    """
    return _OneOf("be a name", lambda v: isinstance(v, str) and bool(v), convert=_text_of, known=names or known)


def some_of(names: Callable[[], Iterable[str]] | None = None) -> Check:
    """Any number of names, one alone or a list; those that ``names`` gives, or any."""
    fits = Check("list names", lambda v: all(isinstance(entry, str) and entry for entry in v), many=True)
    if names is None:
        return Check(fits.must, fits.accepts, many=True, convert=_tuple)
    return _OneOf(fits.must, fits.accepts, many=True, convert=_tuple, known=names)


def wholes(least: int = 1) -> Check:
    """Whole numbers of at least ``least``, one alone or a list of one or more."""
    return Check(
        f"list whole numbers of at least {least}",
        lambda v: bool(v) and all(_is(entry, int) and entry >= least for entry in v),
        int,
        f">= {least}",
        many=True,
        convert=_tuple,
    )


def mapping() -> Check:
    """Options of something by name."""
    return Check("be a mapping", lambda v: isinstance(v, Mapping), pairs="nested", convert=_plain)


def optional(check: Check) -> Check:
    """The same, or None."""
    return _Optional(
        check.must, check.accepts, check.kind, check.range, check.many, check.pairs, check.convert, inner=check
    )


AUTO = "auto"


@dataclass(frozen=True)
class _Auto(Check):
    inner: Check | None = None

    def __call__(self, name: str, value: Any) -> Any:
        if value == AUTO or (self.many and value in ([AUTO], (AUTO,))):
            return AUTO
        assert self.inner is not None
        try:
            return self.inner(name, _number_of(value))
        except InputError as error:
            raise InputError(f"{error}; or {AUTO!r}") from None


def auto(check: Check) -> Check:
    """The same, or ``"auto"``: a rule chooses, mostly by the data (:mod:`equifuse.training.rules`)."""
    return _Auto(check.must, check.accepts, str, check.range, check.many, inner=check)


def settled(value: int | str) -> int:
    """A number that a rule has put in the place of ``"auto"``.

    >>> from equifuse.options import settled
    >>> settled(64)
    64
    """
    if not isinstance(value, int):
        raise InputError(f"{value!r} is left to the data, which nobody has looked at; give a number")
    return value


def rates() -> Check:
    """A share in [0, 1), or one by name: ``{"image": 0.3}``."""
    return Check(
        "be in [0, 1), or name such numbers",
        lambda v: all(_share(entry) for entry in v.values()) if isinstance(v, Mapping) else _share(v),
        range="0 <= value < 1",
    )


def rates_by_name() -> Check:
    """Shares in [0, 1) by name."""
    return Check(
        "give numbers in [0, 1) by name",
        lambda v: isinstance(v, Mapping) and all(isinstance(k, str) and _share(entry) for k, entry in v.items()),
        pairs="flat",
        convert=_plain,
    )


@dataclass(frozen=True)
class Option:
    """What is declared of an option beside its name, type and default.

    Attributes:
        check: what its values must be.
        help: one sentence for ``--help`` and documentation.
        group: heading under which it is listed.
        flag: on the command line; None for ``--name``, ``""`` for none.
        const: for a flag without a value: what it stands for, where that is not True.
        estimator: whether the scikit-learn estimators have it as a parameter, or the task of those that do.
        parts: class of the options that a mapping consists of; each is a flag of its own.
        default_text: how help names the default, where that is not its value.
        descent: whether it is about training by gradient descent, so that a method that is fitted at once has no use
            for it.
    """

    check: Check
    help: str
    group: str
    flag: str | None = None
    const: Any = None
    estimator: bool | str = True
    parts: type[Options] | None = None
    default_text: str | None = None
    descent: bool = False


def option(
    default: Any,
    check: Check,
    *,
    help: str,
    group: str,
    flag: str | None = None,
    const: Any = None,
    estimator: bool | str = True,
    parts: type[Options] | None = None,
    default_text: str | None = None,
    descent: bool = False,
) -> Any:
    """Declare an option: the field of a dataclass.

    Args:
        default: its default; ``...`` where there is none, ``dict`` for an empty mapping.
        check: what its values must be: :func:`whole`, :func:`number`, :func:`one_of`, …
        help: see :class:`Option`, also for the others.
        group: likewise.
        flag: likewise.
        const: likewise.
        estimator: likewise.
        parts: likewise.
        default_text: likewise.
        descent: likewise.
    """
    declared = Option(check, help, group, flag, const, estimator, parts, default_text, descent)
    metadata = {_META: declared}
    if default is ...:
        return field(metadata=metadata)
    if default is dict:
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


class Options:
    """Base of a frozen dataclass whose fields are declared by :func:`option`; it checks them when it is made."""

    # What one of them is called in messages.
    _called = "option"

    def __post_init__(self) -> None:
        for name, declared in declarations(type(self)).items():
            object.__setattr__(self, name, declared.check(name, getattr(self, name)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values; :meth:`from_dict` reads them back."""
        return {name: _plain_lists(getattr(self, name)) for name in declarations(type(self))}

    def changed(self) -> list[str]:
        """Names of those that are not at their defaults."""
        return [name for name in declarations(type(self)) if getattr(self, name) != default_of(type(self), name)]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From plain values.

        Raises:
            UnknownNameError: a key that is none, naming the nearest one.
            InputError: a value does not fit.
        """
        cls.check_names(values)
        return cls(**values)

    @classmethod
    def check_names(cls, names: Iterable[str]) -> None:
        """Refuse what is no option.

        Raises:
            UnknownNameError: naming the nearest one.
        """
        known = list(declarations(cls))
        for name in names:
            if name not in known:
                raise UnknownNameError(cls._called, str(name), known)


def declarations(kind: type) -> dict[str, Option]:
    """What is declared of each option of a class, in the order of its groups, and within a group of its fields."""
    declared = {f.name: f.metadata[_META] for f in fields(cast(Any, kind)) if _META in f.metadata}
    groups = list(dict.fromkeys(o.group for o in declared.values()))
    order = [*(g for g in GROUPS if g in groups), *(g for g in groups if g not in GROUPS)]
    return {name: o for group in order for name, o in declared.items() if o.group == group}


# The order of headings in help, and of the keys in a stored configuration.
GROUPS = (
    "Data",
    "Preparation",
    "Model",
    "Task",
    "Training",
    "Optimiser",
    "Missing modalities",
    "Selection",
    "Machine",
    "Output",
)


def default_of(kind: type, name: str) -> Any:
    """The default of an option; ``...`` where it has none."""
    found: Field[Any] = next(f for f in fields(cast(Any, kind)) if f.name == name)
    if found.default is not MISSING:
        return found.default
    return ... if found.default_factory is MISSING else found.default_factory()


def sentence(kind: type, name: str, more: str = "") -> str:
    """An option's help, and ``more``, with its range and default: ``"Samples per step.  [>= 1; default: 64]"``."""
    declared, default = declarations(kind)[name], default_of(kind, name)
    if declared.default_text is not None:
        default = declared.default_text
    elif isinstance(default, tuple):
        default = ", ".join(str(entry) for entry in default)
    elif default is ... or default is None or isinstance(default, bool | dict):
        default = ""
    notes = [note for note in (declared.check.range, f"default: {default}" if default != "" else "") if note]
    return declared.help + more + (f"  [{'; '.join(notes)}]" if notes else "")


def documented(kind: type) -> str:
    """The ``Args:`` entries of a class of options, for its docstring."""
    return "\n".join(f"        {name}: {sentence(kind, name)}" for name in declarations(kind))


def _is(value: Any, *kinds: type) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _share(value: Any) -> bool:
    return _is(value, int, float) and 0 <= value < 1


def _number_of(value: Any) -> Any:
    """The command line gives numbers as text where a name is possible too."""
    entries = [_number_of(entry) for entry in value] if isinstance(value, list | tuple) else value
    if not isinstance(value, str):
        return entries
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _text_of(value: Any) -> Any:
    """YAML takes some names, such as 32, for numbers."""
    return str(value) if _is(value, int) else value


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else () if value is None else (value,)


def _plain(value: Any) -> Any:
    return {} if value is None else value


def _plain_lists(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain_lists(entry) for entry in value]
    if isinstance(value, Mapping):
        return {key: _plain_lists(entry) for key, entry in value.items()}
    return value
