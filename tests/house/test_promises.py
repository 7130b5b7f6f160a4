"""Every promise of the documentation names a test that exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (.+?) \| `(tests/[\w/]+\.py)::(\w+)` \|(.*)\|$", TEXT, re.MULTILINE)


def test_the_table_is_read_whole():
    lines = [line for line in TEXT.splitlines() if line.startswith("| ") and "`tests/" in line]
    assert len(lines) == len(ROWS) > 20


@pytest.mark.parametrize(("promise", "file", "test"), [row[:3] for row in ROWS], ids=[row[2] for row in ROWS])
def test_each_names_a_test(promise, file, test):
    assert (ROOT / file).is_file(), promise
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, promise


def test_each_has_a_figure():
    assert [promise for promise, *_, figure in ROWS if not figure.strip()] == []
