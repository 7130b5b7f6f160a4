"""Outputs on any system: odd paths, folders in the way, what a killed process left."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import equifuse as ef
from equifuse.files import atomic, atomic_folder, read_json, write_json

NAMES = ["with space", "ümläut ß", "日本", "it's", "a-b.c"]


@pytest.mark.parametrize("name", NAMES)
def test_paths_with_spaces_and_other_letters(tmp_path, name):
    folder = tmp_path / name
    write_json(folder / f"{name}.json", {"wert": name})
    assert read_json(folder / f"{name}.json") == {"wert": name}
    model = ef.build_model({"a": 3}, "classification", 2, fusion="concat")
    model.save(folder / "model")
    model.save(folder / "model", overwrite=True)
    assert ef.load(folder / "model").modalities == ("a",)
    assert sorted(path.name for path in folder.iterdir()) == sorted([f"{name}.json", "model"])


def test_a_folder_takes_the_place_of_an_existing_one_only_when_asked(tmp_path):
    target = tmp_path / "out"
    with atomic_folder(target) as staging:
        (staging / "old").touch()
    with pytest.raises(ef.OutputExistsError), atomic_folder(target):
        pass
    with atomic_folder(target, overwrite=True) as staging:
        (staging / "new").touch()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def _left_behind(path: Path) -> Path:
    """The temporary file that a process leaves when it ends inside of the block."""
    code = (
        "import os; from pathlib import Path; from equifuse.files import atomic\n"
        f"with atomic(Path({str(path)!r})) as staging:\n"
        "    print(staging, flush=True); os._exit(1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return Path(done.stdout.strip())


@pytest.mark.skipif(sys.platform == "win32", reason="there, what is left behind is kept for a day")
def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    path = tmp_path / "out.json"
    left = _left_behind(path)
    living = tmp_path / f".out-{os.getppid()}-x.json"
    living.touch()
    assert left.is_file()
    with atomic(path) as staging:
        staging.write_text("{}", encoding="utf-8")
    assert not left.exists()
    assert living.exists()


def test_on_windows_no_process_is_signalled(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("os.kill would end the process")

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "kill", refuse)
    recent, old = tmp_path / ".out-12345-a.json", tmp_path / ".out-12345-b.json"
    recent.touch()
    old.touch()
    os.utime(old, (0, 0))
    write_json(tmp_path / "out.json", [])
    assert recent.exists()
    assert not old.exists()
