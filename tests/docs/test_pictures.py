"""Every tutorial and guide has a picture that says in words what it shows; those that are stored are small."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = [page for folder in ("tutorials", "howto") for page in sorted((DOCS / folder).glob("*.md"))]
DIRECTIVE = re.compile(r"^```\{(?:figure|image)\} (\S+)\n:alt: (.+)$", re.MULTILINE)
INLINE = re.compile(r"!\[(.+?)\]\((\S+?)\)")


@pytest.mark.parametrize("page", [p for p in PAGES if p.stem != "index"], ids=lambda page: page.stem)
def test_a_page_has_a_picture_and_says_what_it_shows(page):
    text = page.read_text(encoding="utf-8")
    found = [(path, words) for path, words in DIRECTIVE.findall(text)] + [
        (path, alt) for alt, path in INLINE.findall(text)
    ]
    assert found
    for path, words in found:
        assert len(words.split()) > 4, path
        assert path.startswith("drawn/") or (page.parent / path).is_file(), path


def test_stored_pictures_are_small():
    assert sum(path.stat().st_size for path in (DOCS / "pictures").iterdir() if path.suffix != ".py") < 1_000_000
