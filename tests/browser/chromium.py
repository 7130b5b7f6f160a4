"""A headless Chromium, where there is one: pages are opened as people open them."""

import atexit
import shutil
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest

BINARY = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome", "chrome") if (found := shutil.which(name))),
    None,
)
PICTURES = Path(__file__).resolve().parents[1] / "fixtures" / "pages"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def missing():
    """Why no page can be opened; "" where one can."""
    if BINARY is None:
        return "no Chromium on this machine"
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "playwright is not installed"
    return ""


@cache
def driver():
    """What starts browsers: one for all tests of a process, since there can be no second beside it."""
    from playwright.sync_api import sync_playwright

    started = sync_playwright().start()
    atexit.register(started.stop)
    return started


@contextmanager
def opened():
    """A browser, or a skip with the reason."""
    if missing():
        pytest.skip(missing())
    browser = driver().chromium.launch(executable_path=BINARY, headless=True, args=FLAGS)
    try:
        yield browser
    finally:
        browser.close()


@contextmanager
def looking_at(browser, address, width=1280, height=900, dark=False):
    """A page on which nothing goes wrong: no error in the console, no request that fails, nothing from elsewhere."""
    scheme = "dark" if dark else "light"
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, bypass_csp=False)
    page, wrong = context.new_page(), []
    page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("requestfailed", lambda request: wrong.append(request.url))
    page.on("dialog", lambda dialog: (wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.goto(address)
    try:
        yield page
    finally:
        context.close()
    assert wrong == []


def sideways(page):
    """By how many pixels a page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def complaints(page):
    """What axe-core finds serious or critical, contrast among it."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page).response["violations"]
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    return [(each["id"], node["html"][:120]) for each in serious for node in each["nodes"][:3]]


def looks_as_it_did(page, name, folder):
    """Compare downscaled, since fonts differ between machines. A wanted change: copy the new picture over the old."""
    from PIL import Image

    page.screenshot(path=folder / f"{name}.png", full_page=True)
    new = Image.open(folder / f"{name}.png").convert("L")
    new = new.resize((80, round(80 * new.height / new.width)))
    new.save(folder / f"{name}-small.png")
    old = Image.open(PICTURES / f"{name}.png").convert("L")
    assert new.height == pytest.approx(old.height, rel=0.15)
    difference = np.abs(np.asarray(new.resize(old.size), float) - np.asarray(old, float))
    assert difference.mean() < 14, folder / f"{name}-small.png"
