"""The wheel and the source distribution are whole, say what they are, and the wheel holds every file of the package."""

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import equifuse

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "equifuse"
CORE = {"torch", "numpy", "numba", "scipy", "scikit-learn", "safetensors"}


def names(requirements):
    return {name.split(">")[0].split("[")[0].strip() for name in requirements}


def test_the_core_is_six_packages_and_all_is_everything_a_user_may_want():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert names(project["dependencies"]) == CORE
    (everything,) = extras["all"]
    of_developers = {"all", "peers", "audit", "browser", "fuzz", "docs", "test", "dev"}
    assert set(everything.partition("[")[2].rstrip("]").split(",")) == set(extras) - of_developers


@pytest.mark.slow
def test_wheel_and_source_distribution(tmp_path):
    pytest.importorskip("build", reason="needs equifuse[dev]")
    pytest.importorskip("twine", reason="needs equifuse[dev]")
    copy = tmp_path / "copy"  # building leaves files beside the sources
    here = {".git", ".venv", "build", "dist", "lightning_logs", "runs"}
    shutil.copytree(
        ROOT,
        copy,
        ignore=lambda folder, names: [
            name
            for name in names
            if (Path(folder) == ROOT and name in here)
            or name in ("__pycache__", "_build")
            or name.endswith(("_cache", ".egg-info"))
        ],
    )
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, copy]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,), (source,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", wheel, source], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout
    assert wheel.name.split("-")[1] == equifuse.__version__

    there = {path.relative_to(ROOT / "src").as_posix() for path in PACKAGE.rglob("*") if path.is_file()}
    wanted = {path for path in there if "__pycache__" not in path}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == wanted

    with tarfile.open(source) as archive:
        members = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert {f"src/{path}" for path in wanted} <= members
    assert {"README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "constraints.txt"} <= members
    assert {"tests/conftest.py", "tests/house/test_packaging.py", "tools/dev.py", "results/index.toml"} <= members
    assert [name for name in members if "__pycache__" in name or "_build" in name] == []
