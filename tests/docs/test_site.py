"""The documentation builds without a warning, loads nothing from elsewhere, and its links lead somewhere."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.browser.chromium import looking_at, missing, opened, sideways

pytestmark = pytest.mark.slow

pytest.importorskip("sphinx", reason="needs equifuse[docs]")
DOCS = Path(__file__).resolve().parents[2] / "docs"
# Elements that make a browser fetch what they name.
FETCHING = {"script": "src", "link": "href", "img": "src", "source": "src", "iframe": "src", "object": "data"}


class Page(HTMLParser):
    """What a page fetches, where it leads to, its anchors, and its text."""

    def __init__(self, path):
        super().__init__()
        self.fetched, self.links, self.anchors, self.text = [], [], set(), ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors |= {values[key] for key in ("id", "name") if values.get(key)}
        if values.get(FETCHING.get(tag, "")):
            self.fetched.append(values[FETCHING[tag]])
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])

    def handle_data(self, data):
        self.text += data


def check_every_page_is_there(site, pages):
    sources = [path for path in everything(DOCS) if path.suffix == ".md"]
    written = {path.relative_to(DOCS).with_suffix(".html") for path in sources}
    assert {site / path for path in written} <= set(pages)


def check_nothing_is_loaded_from_elsewhere(site, pages):
    remote = re.compile(r"(https?:)?//")
    assert not [(path.name, url) for path, page in pages.items() for url in page.fetched if remote.match(url)]
    styles = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.css")}
    assert not [path.name for path, text in styles.items() if re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", text)]


def check_internal_links_resolve(site, pages):
    broken = []
    for path, page in pages.items():
        for url in [*page.links, *page.fetched]:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.is_file() or (anchor and target in pages and anchor not in pages[target].anchors):
                broken.append((path.name, url))
    assert not broken


def check_formulas_are_drawn_by_the_browser(site, pages):
    text = (site / "mathematics" / "equilibrium.html").read_text(encoding="utf-8")
    assert text.count("<math") > 20
    assert "mathjax" not in text.lower()


def check_every_command_and_public_name_is_described(site, pages):
    from typer.main import get_command

    import equifuse as ef
    from equifuse.cli import app
    from equifuse.registry import FUSIONS

    text = pages[site / "reference" / "commands.html"].text
    for name, command in get_command(app).commands.items():
        assert f"equifuse {name}" in text
        assert all(option in text for parameter in command.params for option in parameter.opts if option[0] == "-")
    anchors = set().union(*(page.anchors for page in pages.values()))
    described = {
        anchor.rpartition(".")[2] for anchor in anchors if anchor.removeprefix("module-").startswith("equifuse.")
    }
    assert {name for name in ef.__all__ if not name.startswith("__")} <= described
    assert {FUSIONS.get(name).__name__ for name in FUSIONS} <= described


def check_on_a_phone_nothing_is_cut_off(site, pages):
    """Where there is a browser: no page is wider than its window, and all columns of "Choose a fusion" are seen."""
    if missing():
        return
    with opened() as browser:
        for name in ("howto/choose", "index", "gallery", "cheatsheet", "results/not-worked", "reference/commands"):
            with looking_at(browser, (site / f"{name}.html").as_uri(), 390) as page:
                assert sideways(page) == 0, name
                wide = "[...document.querySelectorAll('article table')].map(t => t.getBoundingClientRect().right)"
                if name == "howto/choose":
                    assert all(right <= 390 for right in page.evaluate(wide))
                broken = page.evaluate("[...document.images].filter(i => !i.naturalWidth).map(i => i.src)")
                assert broken == []


def check_search_works_from_the_file_system(site, pages):
    if missing():
        return
    with opened() as browser, looking_at(browser, f"{(site / 'search.html').as_uri()}?q=calibration") as page:
        page.locator("#search-results li a").first.wait_for()
        assert "calibrat" in page.locator("#search-results").inner_text().lower()


CHECKS = (
    check_on_a_phone_nothing_is_cut_off,
    check_search_works_from_the_file_system,
    check_every_page_is_there,
    check_nothing_is_loaded_from_elsewhere,
    check_internal_links_resolve,
    check_formulas_are_drawn_by_the_browser,
    check_every_command_and_public_name_is_described,
)


def everything(folder):
    return {path for path in folder.rglob("*") if "_build" not in path.parts}


@pytest.mark.slow
def test_the_site(tmp_path):
    """One test, so that the site is built once, however many processes share the tests."""
    before = everything(DOCS)
    site = tmp_path / "html"
    command = [
        sys.executable,
        "-B",
        "-m",
        "sphinx",
        "-W",
        "-q",
        "-D",
        "run_notebooks=0",
        "-b",
        "html",
        "-d",
        tmp_path / "doctrees",
        DOCS,
        site,
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert everything(DOCS) == before
    pages = {path: Page(path) for path in site.rglob("*.html")}
    for check in CHECKS:
        check(site, pages)
