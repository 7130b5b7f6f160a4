"""The service's page in a browser: type values, take a modality away, names that are attacks."""

import threading
import time

import pytest

pytest.importorskip("starlette", reason="needs equifuse[serve]")

import uvicorn

from equifuse.serve import Limits
from equifuse.serve.app import Application, build
from tests.browser.chromium import complaints, looking_at, looks_as_it_did, sideways
from tests.browser.conftest import HOSTILE
from tests.serve.conftest import Inline

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(hostile_run):
    """Where the service of that run answers."""
    application = Application(Inline({"run": hostile_run}), ["run"], Limits(), True, None)
    server = uvicorn.Server(uvicorn.Config(build(application), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    until = time.monotonic() + 60
    while not server.started and time.monotonic() < until:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize("width", [390, 1280])
def test_values_are_typed_and_a_modality_is_switched_off(browser, address, width):
    with looking_at(browser, f"{address}/", width) as page:
        page.locator("fieldset").first.wait_for()
        assert page.locator("fieldset").first.get_attribute("data-name") == HOSTILE
        for field in page.locator("fieldset textarea").all():
            field.fill("1.5, 0, -1, 2")
        page.get_by_role("button", name="Predict", exact=True).click()
        page.locator("#result strong").first.wait_for()
        both = page.locator("#result").inner_text()
        assert "converge" in both
        page.locator("fieldset input[type=checkbox]").first.uncheck()
        page.get_by_role("button", name="Predict", exact=True).click()
        page.wait_for_function("before => document.querySelector('#result').innerText !== before", arg=both)
        assert sideways(page) == 0
        assert complaints(page) == []


@pytest.mark.parametrize(
    ("name", "width", "dark"), [("service", 1280, False), ("service-phone", 390, False), ("service-dark", 1280, True)]
)
def test_the_page_says_what_each_modality_says_and_looks_as_it_did(browser, address, name, width, dark, tmp_path):
    with looking_at(browser, f"{address}/", width, dark=dark) as page:
        page.locator("fieldset").first.wait_for()
        for field in page.locator("fieldset textarea, fieldset [data-column]").all():
            field.fill("1.5, 0, -1, 2" if field.evaluate("e => e.tagName") == "TEXTAREA" else "1.5")
        page.get_by_role("button", name="Predict", exact=True).click()
        page.locator("#result caption", has_text="The same with one modality missing").wait_for()
        alone = page.locator("#result table", has=page.locator("caption", has_text="says alone"))
        assert alone.locator("tbody th").all_inner_texts() == [HOSTILE, "$b_{$"]
        assert all(text.endswith("\u00a0%") for text in alone.locator("td:nth-child(3)").all_inner_texts())
        assert sideways(page) == 0
        assert complaints(page) == []
        looks_as_it_did(page, name, tmp_path)


def test_the_api_is_described_for_all(browser, address):
    with looking_at(browser, f"{address}/docs", 390) as page:
        page.locator("h2").first.wait_for()
        assert "/predict" in page.locator("body").inner_text()
        assert sideways(page) == 0
        assert complaints(page) == []
