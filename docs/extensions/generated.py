"""What pages say of the code is taken from it when they are built: commands, fusions, and public names."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

import equifuse
from equifuse.cli import app as command_line
from equifuse.registry import FUSIONS


def commands() -> str:
    """Every command of the command line: its help, arguments and options."""
    return "\n".join(_command(get_command(command_line), "equifuse"))


def _command(command: Any, name: str) -> Iterator[str]:
    context = command.make_context(name, [], resilient_parsing=True)
    nested = getattr(command, "commands", {})
    if " " in name:
        yield f"## `{name}`\n\n{inspect.cleandoc(command.help or '')}\n"
        yield f"```console\n$ {command.get_usage(context).removeprefix('Usage: ')}\n```\n"
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is not None and "--help" not in record[0]:
            shown = re.sub(r"<list\[(\w+)\]>", lambda kind: f"<{kind[1].lower()}> ...", record[0])
            yield f"`{shown}`\n: {_plain(record[1])}\n"
    for key, other in nested.items():
        yield from _command(other, f"{name} {key}")


def _plain(text: str) -> str:
    """Text in which Markdown finds nothing to mark up."""
    return re.sub(r"([*_\[\]<>`])", r"\\\1", text)


def fusions() -> str:
    """A table of all fusions by name."""
    lines = ["| name | class | what it is |", "| --- | --- | --- |"]
    for name, kind in ((name, FUSIONS.get(name)) for name in FUSIONS):
        lines.append(f"| `{name}` | {{py:class}}`~equifuse.fusion.{kind.__name__}` | {_first_sentence(kind)} |")
    return "\n".join(lines)


def names() -> str:
    """A table of what ``import equifuse as ef`` gives."""
    lines = ["| name | what it is |", "| --- | --- |"]
    for name in equifuse.__all__:
        thing = getattr(equifuse, name)
        if name.startswith("__"):
            continue
        role = "class" if inspect.isclass(thing) else "mod" if inspect.ismodule(thing) else "func"
        if inspect.isclass(thing) and issubclass(thing, BaseException):
            role = "exc"
        lines.append(f"| {{py:{role}}}`ef.{name} <equifuse.{name}>` | {_first_sentence(thing)} |")
    return "\n".join(lines)


def _first_sentence(thing: Any) -> str:
    """A docstring's first sentence as Markdown, without its full stop."""
    paragraph = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
    sentence = re.split(r"[.](?= [A-Z]|$)", paragraph)[0]
    sentence = re.sub(r":\w+:`~?([^`]+)`", lambda m: f"`{m[1].rpartition('.')[2]}`", sentence)
    return sentence.replace("``", "`").replace("|", r"\|").replace("<", "&lt;")


_MARKS = {"{{commands}}": commands, "{{fusions}}": fusions, "{{names}}": names}


def _fill(app: Any, name: str, source: list[str]) -> None:
    for mark, make in _MARKS.items():
        if f"\n{mark}\n" in source[0]:
            source[0] = source[0].replace(mark, make())


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
