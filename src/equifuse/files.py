"""Files written whole or not at all, and read with one clear line where they are damaged."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from equifuse.errors import DataError, EquifuseError, OutputError, OutputExistsError
from equifuse.extras import require

# Says where what was made is kept.
CACHE_VARIABLE = "EQUIFUSE_CACHE"
# In an output folder, while a process writes there.
LOCK = ".lock"
# Errors that only writing can be the reason of, whatever else happens meanwhile; and all there are.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ANY = None
# Of a YAML file, references counted each time: far beyond any configuration.
_MOST_ENTRIES = 100_000
# Seconds.
_ABANDONED_AFTER = 86_400


@contextmanager
def parse_errors(path: Path, kind: str) -> Iterator[None]:
    """Around another library's reader: whatever a damaged or hostile file makes of it becomes one clear line.

    Args:
        path: the file.
        kind: what it should be, for the message.

    Raises:
        DataError: anything was raised inside.
    """
    try:
        yield
    except EquifuseError:
        raise
    except Exception as error:  # parsers fail in any way on bytes that nobody wrote
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} cannot be read as {kind}: {reason[:500]}") from None


def check_fits(path: Path, declared: int) -> None:
    """Refuse what memory cannot hold before any of it is claimed: a few bytes may declare, or unpack to, any size.

    Args:
        path: the file.
        declared: bytes it says it has.

    Raises:
        DataError: more than this machine's memory.
    """
    if declared > memory():
        raise DataError(f"{path} declares {declared / 2**30:,.0f} GiB, this machine has {memory() / 2**30:,.0f} GiB")


def check_unpacked_fits(path: Path) -> None:
    """:func:`check_fits` of what a ZIP archive's members unpack to; their own headers cannot make it more.

    Raises:
        DataError: more than this machine's memory.
    """
    with zipfile.ZipFile(path) as archive:
        check_fits(path, sum(member.file_size for member in archive.infolist()))


# Python 3.11 may fail to parse the headers of two arrays at a time, where it collects garbage in between.
_ONE_HEADER = threading.Lock()


def read_array(path: Path, kind: str, name: str = "") -> Any:
    """The array of a ``.npy`` file, or one of those of a ``.npz`` file: no pickle is run, and it fits into memory.

    Args:
        path: the file.
        kind: what it should be, for the message.
        name: of the array in a ``.npz`` file.

    Raises:
        DataError: it is missing, damaged, or has no such array.
    """
    import numpy as np  # noqa: PLC0415 - most of what reads and writes files needs no arrays

    with parse_errors(path, kind), _ONE_HEADER:
        if name:
            check_unpacked_fits(path)
            with np.load(path, allow_pickle=False) as archive:
                return archive[name]
        found = np.load(path, allow_pickle=False)
        if not isinstance(found, np.ndarray):
            found.close()
            raise DataError(f"{path} is an archive of arrays; expected one array")
        return found


def memory() -> int:
    """Bytes of this machine's memory; where the system does not say, more than any has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**50


def cache_folder() -> Path:
    """Where what was made is kept: the variable ``EQUIFUSE_CACHE``, or the user's folder for what can be made again."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE])
    usual = os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else os.environ.get("XDG_CACHE_HOME")
    return (Path(usual) if usual else Path.home() / ".cache") / "equifuse"


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without an error.

    What a killed process has left of an earlier attempt is removed.

    Raises:
        OutputError: the folder cannot be written to, or there is no space left.
    """
    with _clear(path, _ANY):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        # The suffix stays last: some writers choose the format by it.
        prefix = f".{path.stem}-{os.getpid()}-"
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=path.suffix, dir=path.parent)
        os.close(handle)
    staging = Path(name)
    try:
        with _clear(path, _NO_SPACE):
            yield staging
        with _clear(path, _ANY):
            staging.chmod(0o644)
            staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its place when the block ends without an error.

    What a killed process has left of an earlier attempt is removed.

    Args:
        path: folder to create.
        overwrite: replace an existing one.

    Raises:
        OutputExistsError: ``path`` exists and ``overwrite`` is False.
        OutputError: the folder cannot be written to, or there is no space left.
    """
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} already exists; choose another path or pass overwrite=True")
    with _clear(path, _ANY):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        prefix = f".{path.stem}-{os.getpid()}-"
        staging = Path(tempfile.mkdtemp(prefix=prefix, suffix=path.suffix, dir=path.parent))
    try:
        with _clear(path, _NO_SPACE):
            yield staging
        staging.chmod(0o755)
        if path.exists():
            # A folder cannot be replaced in one step: the old one is moved aside, and is only removed after the new
            # one stands in its place.
            aside = Path(tempfile.mkdtemp(prefix=prefix, suffix=path.suffix, dir=path.parent))
            path.replace(aside / path.name)
            staging.replace(path)
            shutil.rmtree(aside)
        else:
            staging.replace(path)
    finally:
        if staging.exists():
            shutil.rmtree(staging)


@contextmanager
def _clear(path: Path, known: Collection[int] | None) -> Iterator[None]:
    """One line with the output's path, where the errors of writers name a temporary file, or none.

    Args:
        path: the output.
        known: error numbers that are the output's fault; None for all.
    """
    try:
        yield
    except EquifuseError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if number is None:  # some writers only say it
            number = next((n for n in _NO_SPACE if os.strerror(n) in str(error)), None)
        if number is None or (known is not None and number not in known):
            raise
        raise OutputError(f"{path} cannot be written: {os.strerror(number)}") from None


def _remove_abandoned(path: Path) -> None:
    """Remove temporary files and folders of ``path`` whose process is no more."""
    pattern = re.compile(rf"\.{re.escape(path.stem)}-(\d+)-[^.]*{re.escape(path.suffix)}")
    for entry in path.parent.iterdir():
        found = pattern.fullmatch(entry.name)
        if not found or _in_use(entry, int(found.group(1))):
            continue
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _in_use(entry: Path, pid: int) -> bool:
    """Whether the process that made a temporary file may still be writing it."""
    if sys.platform == "win32":
        # There, os.kill ends the process whatever the signal; so only what nobody has written to for a day goes.
        return time.time() - entry.stat().st_mtime < _ABANDONED_AFTER
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as staging:
        staging.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; NaN and infinity, which JSON does not have, are refused by the encoder."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        DataError: the file is missing or damaged.
    """
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    with parse_errors(path, "JSON"):
        return json.loads(path.read_text(encoding="utf-8"))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        DataError: the file is missing or damaged, is no mapping, or repeats itself beyond measure.
    """
    yaml = require("train", "yaml", "YAML")

    if not path.is_file():
        raise DataError(f"no such file: {path}")
    with parse_errors(path, "YAML"):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold options as 'name: value' lines")
    # A few lines of references to references stand for more than any machine can go through, or for themselves.
    left, entries = [content], 0
    while left:
        entry = left.pop()
        left.extend(entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ())
        entries += 1
        if entries > _MOST_ENTRIES:
            raise DataError(f"{path} has more than {_MOST_ENTRIES} entries")
    return content


def write_yaml(path: Path, content: dict[str, Any]) -> None:
    """Write YAML atomically, keys in the given order."""
    write_text(path, yaml_text(content))


def yaml_text(content: dict[str, Any]) -> str:
    """A mapping as YAML, keys in the given order."""
    text: str = require("train", "yaml", "YAML").safe_dump(content, sort_keys=False, allow_unicode=True)
    return text


def refuse_existing(path: Path) -> None:
    """Raise if a file or a folder with something in it is in the way.

    Raises:
        OutputExistsError: it is.
    """
    if path.is_file() or (path.is_dir() and any(entry.name != LOCK for entry in path.iterdir())):
        raise OutputExistsError(f"{path} already exists and is not overwritten; choose another path")


@contextmanager
def locked(folder: Path, *, resume: bool = False) -> Iterator[None]:
    """Keep an output folder to this process for as long as the block runs; it is made if it is not there.

    The lock is one of the operating system's on a file in the folder, so that it ends with the process, however that
    ends: what a killed one leaves behind is only a file. A folder into which nothing came is removed again.

    Args:
        folder: to write in.
        resume: whether there may be something in it.

    Raises:
        OutputError: another process writes there, or the folder cannot be written to.
        OutputExistsError: there is something in it, and ``resume`` is False.
    """
    filelock = require("train", "filelock", "writing a folder")

    if not resume:
        refuse_existing(folder)
    path = folder / LOCK
    with _clear(folder, _ANY):
        made = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path, timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            who = _holder(path)
            raise OutputError(f"{folder} is being written by {who}; wait for it, or choose another folder") from None
    try:
        if not resume:
            refuse_existing(folder)
        with suppress(OSError):  # only for the message; Windows does not let it be read meanwhile
            path.write_text(f"process {os.getpid()} on {platform.node()}\n", encoding="utf-8")
        yield
    finally:
        if sys.platform == "win32":
            lock.release()
            with suppress(OSError):  # somebody else may have it by now
                path.unlink(missing_ok=True)
        else:  # the library recognises a lock on a file that is no longer there
            path.unlink(missing_ok=True)
            lock.release()
        with suppress(OSError):  # not empty
            for place in made:
                place.rmdir()


def _holder(path: Path) -> str:
    """Who has a lock, as it says of itself."""
    try:
        return " ".join(path.read_text(encoding="utf-8").split())[:200] or "another process"
    except (OSError, UnicodeDecodeError):
        return "another process"
