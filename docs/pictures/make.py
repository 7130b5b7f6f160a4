"""The pictures of README and documentation: ``python docs/pictures/make.py [patients] [report] [benchmark] [service]
[auto] [rooms] [interactions]``.

They are made of a real run: a model of 569 patients (scikit-learn's breast cancer data, embedded) in three groups of
measurements, a third of which is taken away at random. ``patients.svg`` shows test patients, what they lack, and what
the model says of them; ``report.png`` is the page that ``equifuse report`` writes about that run, photographed by a
browser without a window (Debian: ``apt-get install chromium-headless-shell``; else set BROWSER to any Chromium or
Chrome); ``benchmark.png`` that of ``equifuse benchmark`` about four methods on the same patients; ``service.png`` that
of ``equifuse serve``, asked about one of them (playwright types the values); ``auto.png`` that of ``equifuse auto``
about the embedded digits; ``rooms.svg`` shows the package's rooms and who imports whom; ``interactions.svg`` what three
views of the embedded digits know of them.

The files are committed, so that nobody needs a browser to build or to read the documentation.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from textwrap import shorten
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from PIL import Image
from sklearn.datasets import load_breast_cancer

from equifuse.cli import main as equifuse
from equifuse.datasets import load_digits_views
from equifuse.information import interactions
from equifuse.report.information import interactions_plot

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "tools"))

import rooms  # noqa: E402

GROUPS = {"mean": "#4477aa", "spread": "#228833", "worst": "#cc6677"}
ABSENT = 1 / 3
PATIENTS = 28  # shown
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
LIMIT = 150_000  # bytes of a picture


def patients() -> pd.DataFrame:
    """569 patients in three groups of ten columns; a third of the groups' rows is empty."""
    data = load_breast_cancer()
    table = pd.DataFrame(data.data, columns=[f"{group}_{i}" for group in GROUPS for i in range(10)])
    rng = np.random.default_rng(0)
    absent = rng.random((len(table), len(GROUPS))) < ABSENT
    absent[absent.all(axis=1)] = False
    for group, rows in zip(GROUPS, absent.T, strict=True):
        table.loc[rows, [f"{group}_{i}" for i in range(10)]] = np.nan
    table.insert(0, "patient", [f"P{i:03}" for i in range(len(table))])
    table["diagnosis"] = np.where(data.target == 1, "benign", "malignant")
    order = rng.permutation(len(table))
    table["split"] = "train"
    table.loc[order[:110], "split"] = "val"
    table.loc[order[110:240], "split"] = "test"
    return table


def command(*words: str) -> None:
    """A command of equifuse, which ends well."""
    try:
        equifuse(list(words))
    except SystemExit as ended:
        if ended.code:
            raise


@cache
def folder() -> Path:
    """Where the run is: ``patients.csv``, ``run/`` with its page, ``predictions.csv``."""
    place = Path(tempfile.mkdtemp())
    table = patients()
    table.to_csv(place / "patients.csv", index=False)
    table[table["split"] == "test"].to_csv(place / "new.csv", index=False)
    groups = [word for group in GROUPS for word in ("--modality", f"{group}={group}_*")]
    source = ["--data", str(place / "patients.csv"), *groups, "--target", "diagnosis"]
    options = ["--id", "patient", "--split-column", "split", "--fusion", "deq", "--dim", "64", "--hidden", "64"]
    command("train", *source, *options, "--epochs", "40", "--lr", "0.002", "--out", str(place / "run"), "--quiet")
    command("predict", str(place / "run"), "--input", str(place / "new.csv"), "--out", str(place / "predictions.csv"))
    command("report", str(place / "run"))
    return place


def canvas(width: float, height: float) -> Figure:
    """An empty figure."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def draw_patients() -> Figure:
    """Patients × modalities with gaps, and beside each patient what the model says."""
    table = pd.read_csv(folder() / "new.csv").head(PATIENTS)
    predicted = pd.read_csv(folder() / "predictions.csv").head(PATIENTS)
    figure = canvas(8, 4.4)
    grid, says = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for column, (group, color) in enumerate(GROUPS.items()):
        left = column * 11
        values = table[[f"{group}_{i}" for i in range(10)]].rank(pct=True).to_numpy()
        absent = np.isnan(values)
        pixels = np.empty((*values.shape, 4))
        pixels[..., :3] = to_rgb(color)
        pixels[..., 3] = np.where(absent, 0, 0.25 + 0.7 * np.nan_to_num(values))
        grid.imshow(pixels, extent=(left, left + 10, PATIENTS, 0), aspect="auto", interpolation="nearest")
        for row in np.flatnonzero(absent.any(axis=1)):
            gap = Rectangle((left, row + 0.07), 10, 0.86, facecolor="none", edgecolor="#aaaaaa", linestyle=":")
            grid.add_patch(gap)
        grid.hlines(range(PATIENTS + 1), left, left + 10, color="white", linewidth=1)
        grid.text(left + 5, -0.5, f"{group}: 10 features", ha="center", va="bottom")
    grid.set(xlim=(-0.3, 32.3), ylim=(PATIENTS, -1.6), ylabel="patients")
    grid.set_title("what was measured", fontsize=10)
    chance = predicted["prob_malignant"].to_numpy()
    right = (predicted["prediction"] == table["diagnosis"]).to_numpy()
    for row, (p, good) in enumerate(zip(chance, right, strict=True)):
        says.add_patch(Rectangle((0, row + 0.07), 1, 0.86, color="#eeeeee", linewidth=0))
        says.add_patch(Rectangle((0, row + 0.07), p, 0.86, color="#cc3311" if p > 0.5 else "#ee9988", linewidth=0))
        says.text(1.03, row + 0.5, "✓" if good else "✗", va="center", ha="left", fontsize=7)
    says.axvline(0.5, color="black", linewidth=0.6, linestyle="--")
    says.set(xlim=(0, 1.1), xlabel="predicted probability that the tumour is malignant", xticks=(0, 0.5, 1))
    says.set_title("what one model says", fontsize=10)
    for ax in (grid, says):
        ax.spines[:].set_visible(False)
        ax.tick_params(left=False, labelleft=False)
    grid.set_xticks([])
    return figure


def draw_rooms() -> Figure:
    """The package's rooms, floor above floor, and what each floor builds on."""
    there = set(rooms.rooms())
    floors = [names for floor in rooms.FLOORS if (names := sorted(there & set(floor)))]
    figure = canvas(8, 0.44 * len(floors))
    ax = figure.subplots()
    for height, names in enumerate(floors):
        for i, name in enumerate(names):
            left = 2.05 * i
            box = FancyBboxPatch((left, height), 1.9, 0.7, boxstyle="round,pad=0,rounding_size=0.12")
            box.set(facecolor="#dde7f3", edgecolor="#4477aa", linewidth=0.8)
            ax.add_patch(box)
            ax.text(left + 0.95, height + 0.35, name, ha="center", va="center", fontsize=9)
        if len(names) == 1:
            purpose = shorten(rooms.purpose(names[0]).replace("``", "").split(". ")[0], 100, placeholder=" …")
            ax.text(2.1, height + 0.35, purpose, va="center", fontsize=7, color="#555555")
    ax.annotate("", (-0.35, len(floors) - 0.3), (-0.35, 0), arrowprops={"arrowstyle": "->", "color": "#4477aa"})
    ax.text(-0.55, len(floors) / 2, "a room imports from rooms below it", rotation=90, va="center", ha="center")
    ax.set(xlim=(-0.9, 10), ylim=(-0.1, len(floors)))
    ax.axis("off")
    return figure


def draw_interactions() -> Figure:
    """What three views of handwritten digits know of the digit, alone and in pairs."""
    found = interactions(load_digits_views(), without=["zernike", "profiles"], most_samples=600)
    return interactions_plot(found)


def compared() -> Path:
    """The page of a benchmark of four methods on the patients."""
    place = Path(tempfile.mkdtemp())
    table = patients()
    table.to_csv(place / "patients.csv", index=False)
    groups = [word for group in GROUPS for word in ("--modality", f"{group}={group}_*")]
    methods = [word for name in ("late", "deq", "concat", "linear") for word in ("--method", name)]
    source = ["--data", str(place / "patients.csv"), *groups, "--target", "diagnosis", "--id", "patient"]
    options = ["--seeds", "3", "--missing", "without", "--missing", "0.5", "--set", "epochs=12", "--workers", "0"]
    command("benchmark", *source, *methods, *options, "--out", str(place / "benchmark"), "--quiet")
    return place / "benchmark" / "report.html"


def searched() -> Path:
    """The page of a search on the embedded digits."""
    place = Path(tempfile.mkdtemp()) / "auto"
    options = ["--preset", "fast", "--time-limit", "3m", "--workers", "0", "--quiet"]
    command("auto", "--data", "digits", *options, "--out", str(place))
    return place / "leaderboard.html"


def ask_service(picture: Path) -> None:
    """The service's page after it was asked about the first test patient who lacks nothing."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - this picture alone needs it

    whole = pd.read_csv(folder() / "new.csv").dropna().iloc[0]
    words = [sys.executable, "-m", "equifuse", "serve", str(folder() / "run"), "--port", "8801"]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as service, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_here(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        for _ in range(60):
            with contextlib.suppress(Exception):
                page.goto("http://127.0.0.1:8801/")
                break
            time.sleep(1)
        page.locator("fieldset").first.wait_for(timeout=60_000)
        for field in page.locator("[data-column]").all():
            field.fill(f"{whole[field.get_attribute('data-column')]:.4g}")
        page.get_by_role("button", name="Predict", exact=True).click()
        page.locator("#result strong").first.wait_for()
        page.screenshot(path=picture, full_page=True)
        browser.close()
        service.terminate()
    shrink(picture)


def browser_here() -> str:
    """A Chromium."""
    found = os.environ.get("BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        sys.exit(f"this picture needs a browser: install one of {', '.join(BROWSERS)}, or set BROWSER to one")
    return found


def shrink(picture: Path) -> None:
    """900 pixels wide, in few colours."""
    with Image.open(picture) as image:
        small = image.convert("RGB").resize((900, 900 * image.height // image.width), Image.Resampling.LANCZOS)
        small.quantize(200, method=Image.Quantize.MAXCOVERAGE, kmeans=2).save(picture, optimize=True)


def photograph(page: Path, picture: Path, width: int = 1280, height: int = 1500) -> None:
    """What a browser shows of a page, in few colours."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={width},{height}"]
    words = [browser_here(), *options, f"--screenshot={picture}", page.as_uri()]
    subprocess.run(words, check=True, capture_output=True)
    shrink(picture)


def main() -> None:
    """Draw what was asked for, or everything."""
    wanted = sys.argv[1:] or ["patients", "report", "benchmark", "service", "auto", "rooms", "interactions"]
    settings: dict[str, Any] = {"svg.hashsalt": "equifuse", "font.size": 8}
    with mpl.rc_context(settings):
        for name, draw in {"patients": draw_patients, "rooms": draw_rooms, "interactions": draw_interactions}.items():
            if name in wanted:
                draw().savefig(HERE / f"{name}.svg", metadata={"Date": None})
    if "report" in wanted:
        photograph(folder() / "run" / "report" / "report.html", HERE / "report.png")
    if "benchmark" in wanted:
        photograph(compared(), HERE / "benchmark.png")
    if "auto" in wanted:
        photograph(searched(), HERE / "auto.png", height=1250)
    if "service" in wanted:
        ask_service(HERE / "service.png")
    for path in [*HERE.glob("*.svg"), *HERE.glob("*.png")]:
        print(f"{path.name}: {path.stat().st_size:,} bytes")
        if path.stat().st_size > LIMIT:
            sys.exit(f"{path.name} is larger than {LIMIT:,} bytes")


if __name__ == "__main__":
    main()
