"""The case studies as notebooks that were run: ``python docs/notebooks.py FOLDER [omics] [affect] [sensors]``.

A notebook is the page itself: its text, its code and its commands, in order, with what they printed when the notebook
was made. What the page shows as printed is left out. The documentation makes them when it is built.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAGES = HERE / "tutorials"
CASES = ("omics", "affect", "sensors")
Cell = dict[str, Any]
_BLOCK = re.compile(r"^```(\{?\w+\}?)[^\n]*\n(.*?)^```\n?", re.MULTILINE | re.DOTALL)
_PICTURE = re.compile(r"```\{image\} (\S+)\n:alt: ([^\n]*)\n.*?^```\n?", re.MULTILINE | re.DOTALL)


def cells(page: Path) -> list[Cell]:
    """The cells of a page, in order, not run yet.

    A command is a line that begins with ``!equifuse``, as notebooks have it.
    """
    text = page.read_text(encoding="utf-8")
    made: list[Cell] = []
    end = 0
    for block in [*_BLOCK.finditer(text), None]:
        start = len(text) if block is None else block.start()
        if block is not None and block[1] == "{image}":
            continue  # a part of the text around it
        made.append(_prose(text[end:start], page.parent))
        if block is None:
            break
        end = block.end()
        if block[1] == "python":
            made.append(_code(block[2]))
        elif block[1] == "sh":
            made.append(_code("\n".join(f"!{line}" for line in _commands(block[2]))))
    kept = [cell for cell in made if cell["source"]]
    return [{"id": f"cell-{place}", **cell} for place, cell in enumerate(kept)]


def _commands(block: str) -> list[str]:
    return [" ".join(line.split()) for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def _code(source: str) -> Cell:
    return {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {},
        "outputs": [],
        "source": source.strip().splitlines(keepends=True),
    }


def _prose(text: str, folder: Path) -> Cell:
    """Markdown without what only the documentation understands; pictures are in the notebook itself."""
    attachments: dict[str, Any] = {}

    def picture(found: re.Match[str]) -> str:
        path = folder / found[1]
        kind = {".svg": "image/svg+xml", ".png": "image/png"}[path.suffix]
        attachments[path.name] = {kind: base64.b64encode(path.read_bytes()).decode()}
        return f"![{found[2]}](attachment:{path.name})\n"

    text = _PICTURE.sub(picture, text)
    text = re.sub(r"\{\w+:\w+\}`~?(?:[^`<]*\.)?(\w+)`", r"`\1`", text)
    text = re.sub(r"(?<!!)\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", text)  # pages that are not there
    cell: Cell = {"cell_type": "markdown", "metadata": {}, "source": text.strip().splitlines(keepends=True)}
    return {**cell, "attachments": attachments} if attachments else cell


def run(made: list[Cell]) -> dict[str, Any]:
    """Run the code of cells in the working folder, keep in each what it prints, and return Python's names."""
    from equifuse.cli import main as equifuse  # noqa: PLC0415 - converting needs none of it

    names: dict[str, Any] = {"__name__": "__main__"}
    count = 0
    for cell in made:
        if cell["cell_type"] != "code":
            continue
        source, printed = "".join(cell["source"]), io.StringIO()
        with contextlib.redirect_stdout(printed):
            if source.startswith("!"):
                for line in source.splitlines():
                    _ended_well(equifuse, line)
            else:
                exec(compile(source, f"cell {count + 1}", "exec"), names)
        count += 1
        cell["execution_count"] = count
        if printed.getvalue():
            lines = printed.getvalue().splitlines(keepends=True)
            cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": lines}]
    return names


def _ended_well(command: Any, line: str) -> None:
    try:
        command(shlex.split(line)[1:])
    except SystemExit as ended:
        if ended.code:
            raise RuntimeError(f"exit code {ended.code}: {line}") from None


def notebook(made: list[Cell]) -> dict[str, Any]:
    """A notebook of cells, in format 4.5."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    about = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": made, "metadata": about, "nbformat": 4, "nbformat_minor": 5}


def write(folder: Path, name: str, executed: bool = True) -> Path:
    """Make the notebook of a case study, in a folder of its own while it runs."""
    made = cells(PAGES / f"case-{name}.md")
    if executed:
        with tempfile.TemporaryDirectory() as empty, contextlib.chdir(empty):
            run(made)
    path = folder / f"case-{name}.ipynb"
    path.write_text(json.dumps(notebook(made), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def main() -> None:
    """Make what was asked for, or everything."""
    os.environ["COLUMNS"] = "100"
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or CASES:
        path = write(folder, name)
        print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
