import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from equifuse.benchmark import BenchmarkConfig, run_benchmark
from equifuse.report.page import Section, TextTable, render_markdown, render_page
from equifuse.report.tables import Strong
from tests.benchmark.conftest import SETTINGS

pytestmark = pytest.mark.slow

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
VOID = {"meta", "img", "br", "link", "hr", "input"}


class Checker(HTMLParser):
    """Whether tags are closed in the order in which they were opened, and what the page loads."""

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.ids, self.links = [], [], [], []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.loads += [given[name] for name in ("src", "srcset", "data") if name in given]
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if "href" in given else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(two_sets, tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmark") / "out"
    given = BenchmarkConfig.from_dict(
        {
            "data": two_sets,
            "methods": ["deq", "gmf", "concat", "linear"],
            "seeds": 2,
            "trials": 1,
            "missing": [0.5, "without"],
            "protocols": ["clean", "loose"],
            "settings": {**SETTINGS, "epochs": 1},
        }
    )
    run_benchmark(given, out, progress=False, workers=0)
    return out / "report.html"


def test_the_page_is_whole_and_needs_no_network(page):
    text = page.read_text()
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    assert checker.loads
    assert all(source.startswith("data:image/svg+xml;base64,") for source in checker.loads)
    assert len(set(checker.ids)) == len(checker.ids)
    assert {link.removeprefix("#") for link in checker.links} == set(checker.ids)
    assert text.count("<script") == 1
    assert not re.search(r"(src|href)=.https?:|@import|url\(.?http", text)
    for words in ("Ranks and tests", "Missing modalities", "Convergence", "not evidence", "benchmark.yaml", "torch 2"):
        assert words in text


def test_tables_hold_the_same_in_markdown(page):
    text = (page.parent / "tables.md").read_text()
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")
    assert text.count("| first | accuracy |") == 3  # clean, loose, difference


def test_text_is_escaped_and_strong_cells_are_bold():
    section = Section("a < b", ["<script>alert(1)</script>"], tables=[TextTable(["x"], [[Strong("1 & 2")]])])
    page = render_page("t", [section])
    assert "<script>alert" not in page
    assert "<strong>1 &amp; 2</strong>" in page
    assert "| **1 & 2** |" in render_markdown("t", [section])


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1200])
def test_in_a_browser_nothing_fails_and_nothing_sticks_out(page, tmp_path, width):
    """A copy tells its own measures in its title, so that the browser's dump of the page has them."""
    measured = tmp_path / "page.html"
    probe = (
        "<script>addEventListener('load', () => { document.title = JSON.stringify({"
        "wide: document.documentElement.scrollWidth, seen: document.documentElement.clientWidth,"
        "broken: [...document.images].filter(i => !i.naturalWidth).length, images: document.images.length})})</script>"
    )
    measured.write_text(page.read_text().replace("</body>", probe + "</body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    options += ["--enable-logging=stderr", f"--window-size={max(width, 500)},900"]
    command = [BROWSER, *options, "--virtual-time-budget=5000"]
    dump = [*command, "--dump-dom", measured.as_uri()]
    done = subprocess.run(dump, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<title>\{(.*?)\}</title>", done.stdout)
    assert found, done.stderr[-2000:]
    numbers = dict(re.findall(r'"(\w+)":(\d+)', found.group(1).replace("&quot;", '"')))
    assert numbers["broken"] == "0"
    assert int(numbers["images"]) >= 4
    assert int(numbers["wide"]) <= int(numbers["seen"])
    assert "CONSOLE" not in done.stderr
    shot = tmp_path / "shot.png"
    subprocess.run([*command, f"--screenshot={shot}", page.as_uri()], capture_output=True, timeout=120, check=True)
    assert shot.stat().st_size > 10_000
