"""The case studies as notebooks: everything of the page is there, commands run, and what they print is kept."""

import base64
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def notebooks(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    yield __import__("notebooks")
    sys.modules.pop("notebooks")


@pytest.mark.parametrize("name", ["omics", "affect", "sensors"])
def test_a_notebook_has_the_code_the_text_and_the_picture_of_its_page(notebooks, name):
    page = (DOCS / "tutorials" / f"case-{name}.md").read_text(encoding="utf-8")
    made = notebooks.cells(DOCS / "tutorials" / f"case-{name}.md")
    text = "".join(line for cell in made if cell["cell_type"] == "markdown" for line in cell["source"])
    code = ["".join(cell["source"]) for cell in made if cell["cell_type"] == "code"]
    assert page.count("```python") + page.count("```sh") == len(code)
    assert "```" not in text
    assert ".md" not in text
    assert page.count("\n## ") == text.count("## ")
    pictures = [file for cell in made for file in cell.get("attachments", {}).values()]
    assert [base64.b64decode(data) for file in pictures for data in file.values()] == [
        (DOCS / "pictures" / f"case-{name}.svg").read_bytes()
    ]
    assert len({cell["id"] for cell in made}) == len(made)


def test_what_is_printed_is_kept_and_a_failing_command_is_not_passed_over(notebooks, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A\n\n```python\nx = 2\nprint(x)\n```\n\n```none\n3\n```\n\n```sh\nequifuse \\\n  --version\n```\n"
    )
    made = notebooks.cells(page)
    assert notebooks.run(made)["x"] == 2
    printed = ["".join(line for o in cell["outputs"] for line in o["text"]) for cell in made[1:]]
    assert printed[0] == "2\n"
    assert printed[1].startswith("equifuse ")
    assert made[2]["source"] == ["!equifuse --version"]
    page.write_text("```sh\nequifuse report nowhere\n```\n")
    with pytest.raises(RuntimeError, match="exit code 2: !equifuse report nowhere"):
        notebooks.run(notebooks.cells(page))
