"""Every task of a developer, on Linux, macOS and Windows: ``python tools/dev.py test``; ``make test`` is the same.

A task makes the virtual environment it needs, installs what it needs and no more, and runs.
Settings are environment variables: VENV (default ``.venv``), OUT (the demo's folder, default ``runs/demo``),
SECONDS_EACH (of a fuzzing target, default 30).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / (os.environ.get("VENV") or ".venv")
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
# What decides about an installation: an environment older than one of these is brought up to date.
SOURCES = (ROOT / "pyproject.toml", ROOT / "constraints.txt")
# From small to large; each holds the ones before it.
LEVELS = {"demo": "train", "test": "test", "dev": "dev"}


def run(*words: str | Path, **environment: str) -> None:
    """Run a command in the repository; its exit code ends this process unless it is 0."""
    done = subprocess.run([str(word) for word in words], cwd=ROOT, env={**os.environ, **environment}, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def python(*words: str | Path) -> None:
    """Run Python of the virtual environment."""
    run(PYTHON, *words)


def install(*what: str) -> None:
    """Install into the virtual environment, in the versions of constraints.txt."""
    # --no-compile: bytecode is made when a module is first imported, not for every file of every package
    options = ("--quiet", "--no-compile", "--disable-pip-version-check", "--constraint", "constraints.txt")
    python("-m", "pip", "install", *options, *what)


def setup(level: str) -> None:
    """Make the virtual environment, and install what a level needs, unless that or more is there."""
    order = list(LEVELS)
    newest = max(path.stat().st_mtime for path in SOURCES)
    stamps = [VENV / f".installed-{name}" for name in order[order.index(level) :]]
    if any(stamp.is_file() and stamp.stat().st_mtime >= newest for stamp in stamps):
        return
    if not PYTHON.is_file():
        run(sys.executable, "-m", "venv", VENV)
    install("--editable", f".[{LEVELS[level]}]")
    python("-m", "equifuse.kernels")  # compiled once, not while the first solve waits
    stamps[0].touch()


def demo() -> None:
    """Compare four fusions on the embedded digits: a table, and a page in runs/demo."""
    setup("demo")
    out = os.environ.get("OUT") or "runs/demo"
    # A demonstration that is there already is shown again; what an interrupted one has finished is not repeated.
    resume = ["--resume"] if (ROOT / out / "store.sqlite").is_file() else []
    python("-m", "equifuse", "demo", "--out", out, *resume)


def test() -> None:
    """Run the fast tests."""
    setup("test")
    python("-m", "pytest", "-n", "auto", "-m", "not slow")


def test_slow() -> None:
    """Run the tests marked slow: kills, full disks, documentation, packaging."""
    setup("dev")
    python("-m", "pytest", "-n", "auto", "-m", "slow")


def check() -> None:
    """Run the linter, the formatter and the type checker."""
    setup("dev")
    python("-m", "ruff", "check", ".")
    python("-m", "ruff", "format", "--check", ".")
    python("-m", "mypy")


def test_all() -> None:
    """Run the linter, the type checker and all tests, with everything installed that a test may need."""
    setup("dev")
    test()
    check()
    test_slow()


def docs() -> None:
    """Build the documentation into docs/_build/html; a warning is an error."""
    setup("dev")
    out = Path("docs", "_build")
    python("-m", "sphinx", "-W", "-q", "-b", "html", "-d", out / "doctrees", "docs", out / "html")
    print(f"open {out / 'html' / 'index.html'}")


def fuzz() -> None:
    """Attack everything that reads with damaged input, guided by coverage (Linux)."""
    setup("dev")
    install("--editable", ".[fuzz]")
    python("-m", "tests.fuzz.campaign", "--seconds", os.environ.get("SECONDS_EACH") or "30")


def build() -> None:
    """Make the wheel and the source distribution in dist/, and check what they say of themselves."""
    setup("dev")
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    python("-m", "build", "--no-isolation")
    python("-m", "twine", "check", "--strict", *sorted((ROOT / "dist").iterdir()))


def clean() -> None:
    """Remove the virtual environment and what was built."""
    for folder in (VENV, ROOT / "build", ROOT / "dist", ROOT / "docs" / "_build"):
        shutil.rmtree(folder, ignore_errors=True)


TASKS: dict[str, Callable[[], None]] = {
    "demo": demo,
    "test": test,
    "test-slow": test_slow,
    "test-all": test_all,
    "check": check,
    "docs": docs,
    "fuzz": fuzz,
    "build": build,
    "setup": lambda: setup("dev"),
    "clean": clean,
}


def main() -> None:
    """Run the tasks that are named, in order."""
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever has an older one is told here
        sys.exit(f"equifuse needs Python 3.11 or newer; this is {sys.version.split()[0]}")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", choices=TASKS, metavar="task", help=", ".join(TASKS))
    for name in parser.parse_args().tasks:
        TASKS[name]()


if __name__ == "__main__":
    main()
