"""What pages say of the code is taken from it when they are built: commands, fusions, public names, rooms, results."""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

import equifuse
from equifuse.cli import app as command_line
from equifuse.registry import FUSIONS
from rooms import FLOOR, files, purpose
from rooms import rooms as all_rooms

# Beside the documentation, wherever that is built.
RESULTS = Path(__file__).resolve().parents[2] / "results"


def commands() -> str:
    """Every command of the command line: its help, arguments and options."""
    return "\n".join(_command(get_command(command_line), "equifuse"))


def _command(command: Any, name: str) -> Iterator[str]:
    context = command.make_context(name, [], resilient_parsing=True)
    nested = getattr(command, "commands", {})
    if " " in name:
        yield f"## `{name}`\n\n{inspect.cleandoc(command.help or '').replace(chr(8), '')}\n"
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
    """A table of all fusions by name, each of which leads to its class."""
    lines = [":::{container} names", "", "| name | what it is |", "| --- | --- |"]
    for name, kind in ((name, FUSIONS.get(name)) for name in FUSIONS):
        lines.append(f"| {{py:class}}`{name} <equifuse.fusion.{kind.__name__}>` | {_first_sentence(kind)} |")
    return "\n".join([*lines, "", ":::"])


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


def measured() -> dict[str, dict[str, Any]]:
    """What was measured, by name: the entries of ``results/index.toml``."""
    entries = tomllib.loads((RESULTS / "index.toml").read_text(encoding="utf-8"))["result"]
    return {entry["name"]: entry for entry in entries}


def results() -> str:
    """A table of all that was measured, each with its command and its page."""
    lines = ["| question | page | command | date |", "| --- | --- | --- | --- |"]
    for name, entry in measured().items():
        page = f"[{entry['title']}]({name}.md)"
        lines.append(f"| {entry['question']} | {page} | `{entry['command']}` | {entry['date']} |")
    return "\n".join(lines)


def result(name: str) -> str:
    """A page about one measurement: question, command, machine, date, and its files, one below the other."""
    entry = measured()[name]
    first, *others = [(RESULTS / file).read_text(encoding="utf-8") for file in entry["files"]]
    facts = f"{entry['question']}\n\n```console\n$ {entry['command']}\n```\n\n{entry['date']}; {entry['machine']}.\n"
    return "\n".join([f"# {entry['title']}\n", facts, first, *map(_demoted, others)])


def _demoted(text: str) -> str:
    """Markdown with every heading one level lower; what looks like one within code is left alone."""
    pieces = re.split(r"(^```.*?^```$)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(piece if piece.startswith("```") else re.sub(r"^#", "##", piece, flags=re.M) for piece in pieces)


def rooms() -> str:
    """A table of the package's rooms, from the ground up."""
    lines = ["| room | what it is | files | lines |", "| --- | --- | ---: | ---: |"]
    for room in sorted(all_rooms(), key=lambda room: (FLOOR[room], room)):
        size = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files(room))
        what = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", purpose(room)).replace("``", "`").replace("|", r"\|")
        lines.append(f"| `{room}` | {what} | {len(files(room))} | {size:,} |")
    return "\n".join(lines)


def gallery() -> str:
    """Every script of ``docs/gallery`` with the picture that it draws."""
    pieces = []
    for script in sorted((Path(__file__).resolve().parents[1] / "gallery").glob("*.py")):
        title, _, code = script.read_text(encoding="utf-8").removeprefix('"""').partition('"""')
        picture = f"```{{figure}} drawn/gallery-{script.stem}.svg\n:alt: {title}\n:width: 26rem\n```"
        pieces.append(f"## {title}\n\n{picture}\n\n```python\n{code.strip()}\n```\n")
    return "\n".join(pieces)


_MARKS = {
    "commands": commands,
    "gallery": gallery,
    "fusions": fusions,
    "names": names,
    "results": results,
    "result": result,
    "rooms": rooms,
}


def fill(text: str) -> str:
    """Replace every line ``{{mark}}`` or ``{{mark argument}}`` of a page by what it stands for."""
    marks = re.compile(rf"^\{{\{{({'|'.join(_MARKS)})(?: (\w+))?\}}\}}$", re.MULTILINE)
    return marks.sub(lambda found: _MARKS[found[1]](*filter(None, [found[2]])), text)


def _fill(app: Any, name: str, source: list[str]) -> None:
    source[0] = fill(source[0])


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
