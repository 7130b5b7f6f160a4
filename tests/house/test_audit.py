"""What equifuse pulls in may be used and passed on, and has no weakness that is known."""

import re
import tomllib
from email.message import Message
from pathlib import Path

import pytest

import audit
import lock

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("packaging", reason="needs equifuse[test]")


class Package:
    """A distribution that says this of itself."""

    def __init__(self, **said):
        self.metadata = Message()
        for key, value in said.items():
            self.metadata[key.replace("_", "-")] = value


def test_every_package_that_is_installed_may_be_passed_on():
    packages = audit.needed()
    assert "torch" in packages
    assert audit.binding(packages) == {}


def test_licences_that_bind_and_silence_are_found():
    found = audit.binding(
        {
            "free": Package(License_Expression="BSD-3-Clause AND MIT"),
            "old": Package(Classifier="License :: OSI Approved :: Apache Software License"),
            "binding": Package(License_Expression="GPL-3.0-only"),
            "both": Package(License="MIT or LGPL"),
            "silent": Package(),
            "scikit-survival": Package(License="GPLv3"),
        }
    )
    assert found == {"binding": "GPL-3.0-only", "both": "MIT or LGPL", "silent": "says nothing"}


def test_versions_are_within_the_ranges_and_the_ranges_begin_where_weaknesses_end():
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    named = map(Requirement, [*project["dependencies"], *(line for extra in extras for line in extra)])
    wanted = {audit.canonical(requirement.name): requirement.specifier for requirement in named}
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {audit.canonical(name): v for name, v in re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE)}
    assert [name for name, version in pinned.items() if name in wanted and not wanted[name].contains(version)] == []
    compromised = {"torch": "2.9.1", "lightning": "2.6.3", "pyarrow": "23.0.0", "pillow": "12.1.0", "jinja2": "3.1.5"}
    assert [name for name, version in compromised.items() if wanted[name].contains(version)] == []


def test_what_is_locked_is_what_is_pinned_and_each_has_its_hash():
    versions = lock.pinned()
    _, *lines = (ROOT / "locked.txt").read_text(encoding="utf-8").splitlines()
    locked = [re.fullmatch(r"([a-z0-9-]+)==(\S+) --hash=sha256:[0-9a-f]{64}", line) for line in lines]
    assert all(locked)
    assert {m[1]: m[2] for m in locked} == {m[1]: versions[m[1]] for m in locked}
    assert {"safetensors", "pyarrow", "h5py", "starlette", "uvicorn", "captum"} <= {m[1] for m in locked}
    assert "torch" not in {m[1] for m in locked}


def test_an_answer_of_pip_audit_is_read_and_silence_is_no_answer(monkeypatch):
    def answers(text):
        done = type("Done", (), {"stdout": text, "stderr": "ConnectionError: no route"})
        monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: done)

    answers(
        '{"dependencies": [{"name": "A_b", "version": "1", "vulns": [{"id": "X-1"}]}, {"name": "c", "version": "2"}]}'
    )
    assert audit.weaknesses({"a-b": None, "c": None}) == {"A_b 1": ["X-1"]}
    answers("")
    with pytest.raises(audit.Unreachable, match="no route"):
        audit.weaknesses({})


@pytest.mark.slow
def test_no_weakness_is_known():
    pytest.importorskip("pip_audit", reason="needs equifuse[audit]")
    try:
        assert audit.weaknesses(audit.needed()) == {}
    except audit.Unreachable as error:
        pytest.skip(f"no advisory source is reachable: {error}")
