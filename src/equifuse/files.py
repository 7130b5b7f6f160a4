"""Files written whole or not at all, and read with one clear line where they are damaged."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from equifuse.errors import DataError, OutputExistsError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without an error.

    What a killed process has left of an earlier attempt is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    # The suffix stays last: some writers choose the format by it.
    prefix = f".{path.stem}-{os.getpid()}-"
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=path.suffix, dir=path.parent)
    os.close(handle)
    staging = Path(name)
    try:
        yield staging
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
    """
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} already exists; choose another path or pass overwrite=True")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    prefix = f".{path.stem}-{os.getpid()}-"
    staging = Path(tempfile.mkdtemp(prefix=prefix, suffix=path.suffix, dir=path.parent))
    try:
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


def _remove_abandoned(path: Path) -> None:
    """Remove temporary files and folders of ``path`` whose process is no more."""
    pattern = re.compile(rf"\.{re.escape(path.stem)}-(\d+)-[^.]*{re.escape(path.suffix)}")
    for entry in path.parent.iterdir():
        found = pattern.fullmatch(entry.name)
        if not found or _alive(int(found.group(1))):
            continue
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
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
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from None


def write_yaml(path: Path, content: dict[str, Any]) -> None:
    """Write YAML atomically, keys in the given order."""
    import yaml  # noqa: PLC0415

    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def refuse_existing(path: Path) -> None:
    """Raise if a file or a folder with something in it is in the way.

    Raises:
        OutputExistsError: it is.
    """
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise OutputExistsError(f"{path} already exists and is not overwritten; choose another path")
