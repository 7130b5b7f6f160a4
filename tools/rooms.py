"""The rooms of the package: their order, what each is for, and which imports another.

``python tools/rooms.py`` prints the imports that go against the order. Only imports at the top of a module count,
not what a function imports when it is called.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "equifuse"
# From the ground up: a room imports itself and rooms of lower floors, and none above.
FLOORS = (
    ("errors", "extras", "files", "interruption", "registry", "configurable", "options", "records", "hub"),
    ("kernels",),
    ("solve",),
    ("fusion",),
    ("encoders",),
    ("detection",),
    ("data", "datasets"),
    ("model",),
    ("tasks",),
    ("evaluation",),
    ("information",),
    ("explain",),
    ("export",),
    ("training",),
    ("runs",),
    ("benchmark",),
    ("auto",),
    ("report",),
    ("estimators", "serve"),
    ("cli",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def rooms() -> Iterator[str]:
    """Every room that is there: public modules and packages of equifuse."""
    for path in sorted(PACKAGE.iterdir()):
        if path.stem[0] != "_" and (path.suffix == ".py" or any(path.glob("*.py"))):
            yield path.stem


def files(room: str) -> list[Path]:
    """Modules of a room."""
    return sorted((PACKAGE / room).rglob("*.py")) or [PACKAGE / f"{room}.py"]


def purpose(room: str) -> str:
    """First line of a room's docstring."""
    text = ast.get_docstring(ast.parse(files(room)[0].read_text(encoding="utf-8"))) or ""
    return text.split("\n\n")[0].replace("\n", " ")


def imports(room: str) -> set[tuple[str, str]]:
    """What the modules of a room import from other rooms: pairs of a file's name and a room."""
    found = set()
    for path in files(room):
        for node in _outside_of_functions(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            if modules == ["equifuse"]:
                modules = [f"equifuse.{alias.name}" for alias in node.names]
            for name in filter(None, modules):
                package, _, rest = name.partition(".")
                other = rest.partition(".")[0]
                if package == "equifuse" and other in FLOOR and other != room:
                    found.add((path.relative_to(PACKAGE).as_posix(), other))
    return found


def _outside_of_functions(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue  # names in annotations cost nothing when the program runs
        elif not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _outside_of_functions(child)


def against_the_order() -> list[str]:
    """Imports of a room of the same floor or one above, as lines."""
    return [
        f"{path} imports {other}"
        for room in rooms()
        if room in FLOOR
        for path, other in sorted(imports(room))
        if FLOOR[other] > FLOOR[room]
    ]


if __name__ == "__main__":
    wrong = against_the_order()
    print("\n".join(wrong))
    sys.exit(bool(wrong))
