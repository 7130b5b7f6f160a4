"""A full disk, a file that may not grow, a folder that may not be written to: one line, and nothing half-written."""

import ctypes
import os
import shutil
import subprocess
import sys
from functools import partial as partial_of
from pathlib import Path

import pytest

import equifuse as ef
from equifuse.datasets import load, write_npz
from equifuse.files import atomic, atomic_folder
from equifuse.runs import TrainConfig, train
from tests.processes import command_line

pytestmark = pytest.mark.slow
resource = pytest.importorskip("resource", reason="limits of files and folders as POSIX has them")

WORK = {
    "train": ["train", "--data", "digits", "--fusion", "gmf", "--hidden", "16", "--epochs", "1", "--quiet", "--out"],
    "predict": ["predict", "run", "--input", "digits.npz", "--out"],
    "convert": ["datasets", "convert", "digits.npz"],
    "export": ["export", "run", "--out"],
    "benchmark": ["benchmark", "--data", "digits", "--method", "gmf", "--seeds", "1", "--set", "epochs=1",
                  "--workers", "0", "--quiet", "--out"],
}  # fmt: skip
OUTPUTS = {"train": ["run"], "predict": ["p.csv", "p.parquet", "p.npz"], "convert": ["d.npz", "d.hdf5"],
           "export": ["m.onnx", "m.pt2"], "benchmark": ["b"]}  # fmt: skip
_CAPABILITY_VERSION, _CAP_DAC_OVERRIDE = 0x20080522, 1


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a data set and a run."""
    folder = tmp_path_factory.mktemp("disk")
    write_npz(folder / "digits.npz", load("digits"))
    train(TrainConfig(data="digits", fusion="gmf", hidden=(16,), epochs=1), folder / "run", progress=False)
    return folder


def run(words, folder, before=None):
    """The command line in a process of its own; exit code and what it complained of."""
    code, _, errors = command_line(words, folder, before)
    return code, errors


def one_line(code, errors, out):
    assert code == 2, errors
    lines = [line for line in errors.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, errors
    assert lines[0].startswith("error: ")
    assert str(out) in lines[0]
    return lines[0]


def partial(folder):
    return [p.name for p in folder.rglob(".*")]


def outputs(*, one_each):
    return [(work, name) for work, names in OUTPUTS.items() for name in names[-1 if one_each else 0 :]]


@pytest.mark.parametrize(("work", "output"), outputs(one_each=False))
def test_a_file_that_may_not_grow(work, output, place):
    """As with a quota: nothing larger than two kilobytes."""
    out = Path("small") / output
    if output.startswith("m."):
        pytest.importorskip("onnxscript")
    code, errors = run(
        [*WORK[work], str(out)], place, partial_of(resource.setrlimit, resource.RLIMIT_FSIZE, (2048, 2048))
    )
    line = one_line(code, errors, "small")
    assert "File too large" in line or "disk I/O error" in line or "disk is full" in line
    assert partial(place / "small") == []
    assert out.suffix == "" or not (place / out).exists()
    shutil.rmtree(place / "small", ignore_errors=True)  # where nothing was written there is none


@pytest.mark.parametrize(("work", "output"), outputs(one_each=True))
def test_a_full_disk(work, output, place):
    disk = place / "full"
    disk.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("needs a file system of its own, which only root may mount")
    try:
        (disk / "fill").write_bytes(bytes(32 * 1024))
        code, errors = run([*WORK[work], f"full/{output}"], place)
        line = one_line(code, errors, "full")
        assert "No space left on device" in line or "disk is full" in line or "disk I/O error" in line
        assert partial(disk) == []
        assert "." not in output or not (disk / output).exists()
        if work == "train":  # with room again, it goes on
            (disk / "fill").unlink()
            subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
            assert run([*WORK[work], f"full/{output}", "--resume"], place)[0] == 0
    finally:
        subprocess.run(["umount", disk], check=True)


def _obey_permissions():
    """Root may write anywhere; without this capability it may not."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    sets[0] &= ~(1 << _CAP_DAC_OVERRIDE)  # of those in effect
    assert libc.capset(header, sets) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="permissions as on Linux")
@pytest.mark.parametrize(("work", "output"), outputs(one_each=True))
def test_a_folder_that_may_not_be_written_to(work, output, place):
    folder = place / "closed"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o555)
    code, errors = run([*WORK[work], f"closed/{output}"], place, _obey_permissions)
    assert "Permission denied" in one_line(code, errors, "closed")
    assert list(folder.iterdir()) == []


def test_what_was_there_stays_when_its_replacement_does_not_fit(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    path.write_text("before")

    def full(error):
        with pytest.raises(ef.OutputError, match=r"file\.txt cannot be written: No space left on device"), atomic(path):
            raise error
        assert path.read_text() == "before"
        assert list(tmp_path.iterdir()) == [path]

    full(OSError(28, "No space left on device"))
    full(RuntimeError("PytorchStreamWriter failed: No space left on device"))  # of libraries that are not so precise
    with pytest.raises(RuntimeError, match="something else"), atomic(path):
        raise RuntimeError("something else")
    folder = tmp_path / "folder"
    with pytest.raises(ef.OutputError, match="folder cannot be written"), atomic_folder(folder):
        raise OSError(28, "No space left on device")
    assert not folder.exists()
