"""Makefile, CI, workflow and hooks call what tools/dev.py has; the image is made of files that are there."""

import re
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

import dev

ROOT = Path(__file__).resolve().parents[2]


def text(*parts):
    return ROOT.joinpath(*parts).read_text(encoding="utf-8")


def commands(workflow):
    """Every command line of a workflow."""
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            yield from step.get("run", "").splitlines()


def test_make_has_every_task():
    assert set(re.search(r"^TASKS := (.*)$", text("Makefile"), re.M)[1].split()) == set(dev.TASKS)


def test_whatever_is_called_is_a_task():
    workflow = yaml.safe_load(text(".github", "workflows", "ci.yml"))
    lines = [*commands(workflow), *text(".ci", "run").splitlines(), *text("README.md").splitlines()]
    called = [word for line in lines for word in re.findall(r"^make ([\w-]+)", line)]
    called += [
        word for line in lines for words in re.findall(r"tools/dev.py ([\w -]+)", line) for word in words.split()
    ]
    assert {"demo", "test", "test-all"} <= set(called)
    assert set(called) <= set(dev.TASKS)


def test_the_workflow_has_the_systems_and_versions_that_are_promised():
    jobs = yaml.safe_load(text(".github", "workflows", "ci.yml"))["jobs"]
    versions = re.findall(r"Python :: (3\.\d+)", text("pyproject.toml"))
    assert jobs["all"]["strategy"]["matrix"]["python"] == versions
    assert {"macos-latest", "windows-latest"} <= set(jobs["fast"]["strategy"]["matrix"]["system"])


@pytest.mark.parametrize(
    "path",
    [".pre-commit-config.yaml", "CITATION.cff", *(str(p.relative_to(ROOT)) for p in ROOT.glob(".github/**/*.yml"))],
)
def test_settings_can_be_read(path):
    assert isinstance(yaml.safe_load(text(path)), dict)


def test_the_citation_is_of_a_version_in_the_changelog():
    citation = yaml.safe_load(text("CITATION.cff"))
    assert f"\n## {citation['version']} - {citation['date-released']}\n" in text("CHANGELOG.md")


def test_the_image_is_small_and_has_no_rights():
    lines = [line for line in text("Dockerfile").replace("\\\n", " ").splitlines() if line and line[0] != "#"]
    instructions = [line.split(maxsplit=1) for line in lines]
    bases = [rest.split()[0] for word, rest in instructions if word == "FROM"]
    assert all(re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", base) for base in bases), "a base without a version"
    last = max(i for i, (word, _) in enumerate(instructions) if word == "FROM")
    users = [rest for word, rest in instructions[last:] if word == "USER"]
    assert users
    assert users[-1] not in ("root", "0")
    allowed = [line[1:] for line in text(".dockerignore").splitlines() if line.startswith("!")]
    copied = [
        file for word, rest in instructions if word == "COPY" and "--from" not in rest for file in rest.split()[:-1]
    ]
    assert copied
    assert [file for file in copied if not (ROOT / file).exists()] == []
    assert [file for file in copied if not any(fnmatch(file, pattern) for pattern in allowed)] == []


def test_hadolint_has_nothing_to_say_of_the_image():
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
