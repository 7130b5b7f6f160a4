"""Flags of a command from declared options, grouped in its help."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand
from typer.exceptions import TyperException

from equifuse.errors import InputError
from equifuse.interruption import advice
from equifuse.options import GROUPS, Option, Options, declarations, sentence

Command = Callable[..., Any]
# Of a command with many options, those that most people need; its help opens with them, in this order.
MOST_USED = (
    *("--data", "--modality", "--target", "--id", "--split-column", "--fusion", "--method", "--epochs", "--lr"),
    *("--seeds", "--trials", "--missing", "--time-limit", "--preset", "--out"),
)
# So many are many.
_MANY = 30
_FIRST = "Most used"
# Flags that may be repeated with values, and mean something without one.
_ALONE: dict[str, str] = {}
# Options of a source that only matter where rows are split, not where a trained model is used.
OF_SPLITTING = ("split", "task", "group", "stratify", "order", "annotations")


def with_options(kind: type[Options], into: str, without: Collection[str] = ()) -> Callable[[Command], Command]:
    """Decorate a command: beside its own parameters it has a flag for each option of a class.

    Args:
        kind: the class.
        into: parameter that gets what was given, a mapping as ``kind.from_dict`` takes it.
        without: options that mean nothing to the command.
    """

    def decorate(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True)
        flags = {name: parameter for name, parameter in parameters(kind).items() if name not in without}

        @wraps(command)
        def run(**values: Any) -> Any:
            options = {name: values.pop(name) for name in flags}
            return command(**values, **{into: collected(kind, options)})

        every = [*flags.values(), *(p for name, p in own.parameters.items() if name != into)]
        # Arguments, which have a place, come first; Typer takes all by name.
        every = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in every]
        run.__signature__ = own.replace(parameters=every)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in every}
        return run

    return decorate


def parameters(kind: type[Options]) -> dict[str, inspect.Parameter]:
    """Parameters that Typer makes flags of; an option of parts has one for each of them."""
    found: dict[str, inspect.Parameter] = {}
    for name, declared in declarations(kind).items():
        if declared.parts is not None:
            found |= parameters(declared.parts)
        elif declared.flag != "":
            check = declared.check
            many = " May be repeated." if check.many or check.pairs else ""
            option = typer.Option(
                flag(name, declared),
                help=sentence(kind, name, many),
                rich_help_panel=declared.group,
                metavar="KEY=VALUE" if check.pairs else f"<{check.kind.__name__}>" if check.many else None,
                show_default=False,
            )
            annotation: Any = Annotated[_read_as(declared), option]
            default = False if declared.const is not None and not check.many else None
            if declared.const is not None and check.many:
                _ALONE[flag(name, declared)] = declared.const
            found[name] = inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
            )
    return found


def flag(name: str, declared: Option) -> str:
    """The flag of an option."""
    return declared.flag or "--" + name.replace("_", "-")


def _read_as(declared: Option) -> Any:
    check = declared.check
    if declared.const is not None and not check.many:
        return bool
    if check.pairs:
        return list[str] | None
    kind: Any = check.kind
    return list[kind] | None if check.many else kind | None


def collected(kind: type[Options], values: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, as ``kind.from_dict`` takes them.

    Raises:
        InputError: words that are not ``key=value`` where they should be.
    """
    given: dict[str, Any] = {}
    for name, declared in declarations(kind).items():
        if declared.parts is not None:
            value: Any = collected(declared.parts, values)
        else:
            value = values.get(name)
        if declared.const is not None and not declared.check.many:
            value = declared.const if value else None
        if value is None or value in ([], {}):
            continue
        given[name] = _pairs(flag(name, declared), declared, value) if declared.check.pairs and value else value
    return given


def _pairs(flag: str, declared: Option, words: Any) -> dict[str, Any]:
    if isinstance(words, Mapping):  # of parts
        return dict(words)
    if declared.check.pairs != "text":
        from equifuse.runs.settings import parse_settings

        return parse_settings(words, nested=declared.check.pairs == "nested")
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name or not value:
            raise InputError(f"expected {flag} name=pattern, got {word!r}")
        if name in found:
            raise InputError(f"{flag} {name} is given twice: {found[name]!r} and {value!r}")
        found[name] = value
    return found


@contextmanager
def resumable(out: Path, begun: str) -> Iterator[None]:
    """Around a command that ``--resume`` continues: an interrupt says so.

    Args:
        out: its folder.
        begun: the file in it that resuming needs.
    """

    def how() -> str:
        if (out / begun).is_file():
            return f"continue with the same options, --out {out} and --resume"
        return "nothing was written yet; run it again"

    with advice(how):
        yield


class GroupedCommand(TyperCommand):
    """A command whose help lists its options under the headings of their groups."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give flags without a value the one that they stand for; what follows such a flag may be an argument."""
        given = [
            f"{word}={_ALONE[word]}" if word in _ALONE and (after is None or after.startswith("-")) else word
            for word, after in zip_longest(args, args[1:])
        ]
        last = next((i for i in reversed(range(len(given))) if given[i] in _ALONE), None)
        try:
            return super().parse_args(ctx, list(given))
        except TyperException as error:
            lacks = getattr(getattr(error, "param", None), "param_type_name", "")
            if last is None or lacks != "argument":
                raise
        given[last] = f"{given[last]}={_ALONE[given[last]]}"
        return super().parse_args(ctx, given)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, what is used most where there are many options, then each group's options."""
        parameters = self.get_params(ctx)
        first = MOST_USED if len(parameters) > _MANY else ()
        headings = ("Arguments", _FIRST, *GROUPS)
        groups: dict[str, list[tuple[str, str]]] = {heading: [] for heading in headings}
        for parameter in sorted(parameters, key=lambda p: first.index(p.opts[0]) if p.opts[0] in first else len(first)):
            record = parameter.get_help_record(ctx)
            if record is not None:
                heading = "Arguments" if parameter.param_type_name == "argument" else None
                heading = heading or (_FIRST if parameter.opts[0] in first else None)
                heading = heading or getattr(parameter, "rich_help_panel", None) or "Options"
                groups.setdefault(heading, []).append((re.sub(r"<list\[(\w+)\]>", r"<\1>", record[0]), record[1]))
        for heading, records in groups.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)
