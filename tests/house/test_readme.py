"""The README is short, its links lead somewhere, its commands and figures exist, its Python prints what it shows."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = tomllib.loads((ROOT / "results" / "index.toml").read_text(encoding="utf-8"))["result"]
NUMBER = re.compile(r"\d+\.\d+|\d{3,}")


def figures():
    """Rows of the table of figures: what is claimed, and the command beside it."""
    rows = re.search(r"## Five figures.*?\| --- \| --- \|\n(.*?)\n\n", TEXT, re.DOTALL)[1]
    return [re.fullmatch(r"\| (.*) \| `(.*)` \|", row).groups() for row in rows.splitlines()]


def test_it_is_short():
    assert len(TEXT.encode()) <= 7_000
    assert len(TEXT.splitlines()) <= 120


def test_links_and_pictures_lead_to_files():
    targets = re.findall(r"\]\(([^)]+)\)", TEXT) + re.findall(r'src="([^"]+)"', TEXT)
    assert len(targets) > 10
    assert [target for target in targets if not (ROOT / target.partition("#")[0]).is_file()] == []


def test_pictures_are_small():
    pictures = [path for path in (ROOT / "docs" / "pictures").iterdir() if path.suffix in (".svg", ".png")]
    assert len(pictures) >= 3
    assert [path.name for path in pictures if path.stat().st_size > 150_000] == []


@pytest.mark.parametrize(("claim", "command"), figures())
def test_every_number_is_in_the_results_of_its_command(claim, command):
    script = re.search(r"benchmarks/\S+", command)[0]
    (entry,) = (entry for entry in RESULTS if script in entry["command"])
    raw = "\n".join((ROOT / "results" / file).read_text(encoding="utf-8") for file in entry["files"])
    assert [number for number in NUMBER.findall(claim) if number not in raw] == []


def test_there_are_five_figures():
    assert len(figures()) == 5


@pytest.mark.slow
def test_its_python_prints_what_it_shows(capsys):
    code, shown = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", TEXT, re.DOTALL).groups()
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
    # Another processor rounds otherwise, and training makes more of it.
    expected = pytest.approx([float(number) for number in NUMBER.findall(shown)], abs=0.02)
    assert [float(number) for number in NUMBER.findall(printed)] == expected
