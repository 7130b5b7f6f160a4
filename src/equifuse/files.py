"""Files written whole or not at all, and read with one clear line where they are damaged."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from equifuse.errors import DataError, OutputExistsError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: some writers choose the format by it.
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    staging = Path(name)
    try:
        yield staging
        staging.chmod(0o644)
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)


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
