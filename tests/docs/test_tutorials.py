"""The pages' code does what the pages say: every block is run, in order, in an empty folder."""

import doctest
import re
import shlex
import textwrap
import warnings
from pathlib import Path

import pytest

from equifuse.cli import main
from equifuse.registry import FUSIONS

pytestmark = pytest.mark.slow

PAGES = Path(__file__).resolve().parents[2] / "docs"
# Also within comments, and indented in lists.
BLOCK = re.compile(r"^( *)```(python|sh|text)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
LENIENT = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
pages = [page for folder in ("tutorials", "howto") for page in sorted((PAGES / folder).glob("*.md"))]


def run_line(line):
    words = shlex.split(line)
    assert words[0] == "equifuse", f"only equifuse can be run here: {line}"
    with pytest.raises(SystemExit) as ended:
        main(words[1:])
    return ended.value.code


@pytest.fixture
def own_fusions():
    """What a page registers is not there for the next."""
    before = FUSIONS.names()
    yield
    for name in set(FUSIONS.names()) - set(before):
        FUSIONS.unregister(name)


@pytest.mark.usefixtures("own_fusions")
@pytest.mark.parametrize("page", pages, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_every_block_runs_and_prints_what_the_page_shows(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("EQUIFUSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # the command line sets its own
    names = {"__name__": "__main__"}
    text = page.read_text(encoding="utf-8")
    printed = ""
    for block in BLOCK.finditer(text):
        _, kind, code = block.groups()
        code = textwrap.dedent(code)
        where = f"{page.name}, line {text.count(chr(10), 0, block.start()) + 2}"
        if kind == "text":
            assert doctest.OutputChecker().check_output(code, printed, LENIENT), f"{where}: printed\n{printed}"
            continue
        if kind == "sh":
            for line in code.replace("\\\n", " ").splitlines():
                assert run_line(line) == 0, f"{where}: {line}\n{capsys.readouterr().err}"
        else:
            padding = "\n" * text.count("\n", 0, block.start(3))  # so that tracebacks name the page's lines
            exec(compile(padding + code, str(page), "exec"), names)
        printed = capsys.readouterr().out
