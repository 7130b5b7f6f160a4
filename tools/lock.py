"""Hashes of the packages that the container installs: ``python tools/lock.py > locked.txt``.

They are those of ``constraints.txt`` that ``equifuse[train,serve,explain]`` needs, for the system and the Python of the
container. PyTorch is left out, with what comes with it: which build of it is right depends on the machine, so that
it is taken by its version alone. Needs an environment where all of them are installed, and the index that pip uses.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import audit

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = frozenset({"train", "serve", "explain"})
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
# What is chosen by the machine.
_BY_MACHINE = re.compile(r"torch|triton|nvidia-.*|cuda-.*")


def pinned() -> dict[str, str]:
    """Name -> version of everything in ``constraints.txt``."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return {audit.canonical(name): v for name, v in re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE)}


def wanted() -> list[str]:
    """``name==version`` of what is locked."""
    needed, versions = audit.needed(extras=EXTRAS), pinned()
    named = (name for name in sorted(versions) if name in needed and not _BY_MACHINE.fullmatch(name))
    return [f"{name}=={versions[name]}" for name in named]


def hashes(requirements: list[str]) -> dict[str, str]:
    """Requirement -> SHA-256 of the wheel that pip would install of it.

    Raises:
        SystemExit: pip finds one not.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        words = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--dry-run"]
        words += ["--ignore-installed", "--no-deps", "--only-binary=:all:", "--python-version", PYTHON]
        words += [word for platform in PLATFORMS for word in ("--platform", platform)]
        words += ["--target", folder, "--report", str(report), *requirements]
        if subprocess.run(words, check=False).returncode:
            sys.exit("pip does not find all of them")
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {
        f"{audit.canonical(entry['metadata']['name'])}=={entry['metadata']['version']}": entry["download_info"][
            "archive_info"
        ]["hashes"]["sha256"]
        for entry in found
    }


def main() -> None:
    """Print the file."""
    print(f"# Made by tools/lock.py: Linux on x86-64, Python {PYTHON}; all but PyTorch.")
    for requirement, sha in sorted(hashes(wanted()).items()):
        print(f"{requirement} --hash=sha256:{sha}")


if __name__ == "__main__":
    main()
