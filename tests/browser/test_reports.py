"""Pages of reports in a browser: nothing fails, nothing sticks out, tables can be used, and everyone can read them."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from equifuse.report.benchmark import score_table
from equifuse.report.leaderboard import benchmark_tiles, benchmark_verdict, rank_cards, set_cards
from equifuse.report.page import Section, render_page
from tests.browser.chromium import complaints, looking_at, looks_as_it_did, sideways
from tests.browser.conftest import HOSTILE
from tests.report.test_benchmark_page import summary_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def leaderboard(tmp_path_factory):
    """A benchmark's page of fixed numbers."""
    folder = tmp_path_factory.mktemp("leaderboard")
    generator = np.random.default_rng(0)
    methods = {"late": 0.95, "deq": 0.94, "gmf": 0.93, "concat": 0.92, "linear": 0.9}
    scores = {
        f"set {i}": {m: (level + 0.01 * generator.standard_normal(5)).tolist() for m, level in methods.items()}
        for i in range(6)
    }
    summary = summary_of(scores)
    sections = [
        Section("On each data set", cards=set_cards(summary, folder)),
        Section("Ranks", cards=rank_cards(summary, folder)),
        Section("All scores", tables=[score_table(summary)]),
    ]
    said, tiles = benchmark_verdict(summary), benchmark_tiles(summary)
    page = folder / "page.html"
    page.write_text(render_page("Methods", sections, verdict=said, tiles=tiles), encoding="utf-8")
    return page.as_uri()


def smallest(page):
    """The least height of letters in a plot, in pixels of the screen."""
    return page.evaluate(
        "Math.min(...[...document.querySelectorAll('.plot text')].filter(t => t.getBoundingClientRect().height > 0)"
        ".map(t => parseFloat(getComputedStyle(t).fontSize) * t.ownerSVGElement.getBoundingClientRect().width"
        " / t.ownerSVGElement.viewBox.baseVal.width))"
    )


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_run_report_is_readable_by_all_and_as_wide_as_its_window(browser, report, width, dark):
    with looking_at(browser, report, width, dark=dark) as page:
        assert sideways(page) == 0
        assert HOSTILE in page.locator("h1, .verdict").all_inner_texts()[-1]
        assert complaints(page) == []
        assert smallest(page) > 7.5


def test_tables_are_sorted_searched_and_saved(browser, report):
    with looking_at(browser, report) as page:
        table = page.locator("table[data-file='features.csv']")
        sizes = lambda: [float(text) for text in table.locator("tbody td:last-child:visible").all_inner_texts()]  # noqa: E731
        assert sizes() == sorted(sizes(), reverse=True)
        head = table.locator("th", has_text="mean size")
        head.get_by_role("button").click()
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == "ascending"
        assert sizes() == sorted(sizes())
        page.get_by_label("Search").fill("$B_{$")
        assert len(sizes()) == 4
        page.get_by_label("Search").fill("")
        with page.expect_download() as download:
            page.locator(".tools", has=page.get_by_label("Search")).get_by_role("button").click()
        rows = list(csv.reader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8"))))
        assert rows[0] == ["feature", "modality", "mean size"]
        assert len(rows) == 9
        assert any(HOSTILE in row[1] for row in rows)


def test_a_wide_table_scrolls_inside_itself_and_shows_that_it_does(browser, leaderboard):
    with looking_at(browser, leaderboard, 390) as page:
        assert sideways(page) == 0
        assert smallest(page) > 7.5
        assert complaints(page) == []
        box = page.locator(".scroll", has=page.locator("table")).last
        inside, window = box.evaluate("e => [e.scrollWidth, e.clientWidth]")
        assert inside > window
        assert "gradient" in box.evaluate("e => getComputedStyle(e).backgroundImage")
        box.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("e => e.scrollLeft > 0", arg=box.element_handle())


def test_on_paper_everything_is_open_and_black_on_white(browser, report):
    with looking_at(browser, report, dark=True) as page:
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
        assert not page.locator(".tools").first.is_visible()
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("details:not([open])").count() == 0


@pytest.mark.parametrize(
    ("name", "width", "dark"), [("phone", 390, False), ("wide", 1280, False), ("dark", 1280, True)]
)
def test_the_page_looks_as_it_did(browser, leaderboard, name, width, dark, tmp_path):
    with looking_at(browser, leaderboard, width, dark=dark) as page:
        looks_as_it_did(page, name, tmp_path)
