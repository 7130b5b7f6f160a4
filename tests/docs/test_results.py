"""Every measured result has a page that is made of its files, with headings that go down one level at a time."""

import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def generated(monkeypatch):
    for folder in ("docs/extensions", "tools"):
        monkeypatch.syspath_prepend(ROOT / folder)
    yield __import__("generated")
    sys.modules.pop("generated")


def test_a_page_of_results_has_headings_one_level_at_a_time(generated):
    for name in generated.measured():
        text = re.sub(r"^```.*?^```$", "", generated.result(name), flags=re.DOTALL | re.MULTILINE)
        levels = [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)]
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in pairwise(levels)), name


def test_every_result_has_a_page(generated):
    pages = {page.stem for page in (ROOT / "docs" / "results").glob("*.md")}
    assert set(generated.measured()) <= pages
