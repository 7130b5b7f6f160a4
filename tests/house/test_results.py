"""What was measured has a page, a command that exists, and raw figures; and no raw figure is left out."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGES = ROOT / "results", ROOT / "docs" / "results"
ENTRIES = tomllib.loads((RESULTS / "index.toml").read_text(encoding="utf-8"))["result"]


def test_every_entry_has_its_page_and_no_page_is_left_over():
    assert {f"{entry['name']}.md" for entry in ENTRIES} | {"index.md", "not-worked.md"} == {
        path.name for path in PAGES.iterdir()
    }
    for entry in ENTRIES:
        assert f"{{{{result {entry['name']}}}}}\n" in (PAGES / f"{entry['name']}.md").read_text(encoding="utf-8")
        assert f"\n{entry['name']}\n" in (PAGES / "index.md").read_text(encoding="utf-8")


def test_every_table_is_on_a_page():
    named = {RESULTS / file for entry in ENTRIES for file in entry["files"]}
    assert named == set(RESULTS.rglob("*.md"))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["name"])
def test_every_command_is_one_of_this_repository(entry):
    words = entry["command"].split()
    paths = [word for word in words if word.startswith("benchmarks/")]
    assert paths or words in (["make", "demo"], ["make", "fuzz"])
    assert [path for path in paths if not (ROOT / path).is_file()] == []
    assert entry["machine"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", str(entry["date"]))
