"""Rows that are made from files once, and then kept in a folder: what takes long to decode is decoded once."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equifuse.data.lazy.base import Floats, Indices, LazyArray
from equifuse.errors import DataError
from equifuse.files import atomic, cache_folder, read_array

# Seconds between two lines about how far it is.
_TELL_AFTER = 5.0
Arrays = Mapping[str, NDArray[np.generic]]


def stamp_of(*parts: Any) -> str:
    """A word for what a row is made of: paths count with their size and time, all else as text.

    Raises:
        DataError: there is no such file.
    """
    told = []
    for part in parts:
        if isinstance(part, Path):
            try:
                found = part.stat()
            except OSError:
                raise DataError(f"no such file: {part}") from None
            told.append(f"{part.resolve()} {found.st_size} {found.st_mtime_ns}")
        else:
            told.append(repr(part))
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:32]


def keep_rows(
    what: str,
    stamps: Sequence[str],
    make: Callable[[int], Arrays],
    *,
    workers: int | None = None,
    tell: Callable[[str], None] | None = None,
) -> list[Path]:
    """Make the rows that are not kept yet, several at a time; each is written whole or not at all.

    Args:
        what: they are, such as ``"clips"``: a folder of the cache, and what progress calls them.
        stamps: of each row, by :func:`stamp_of`; rows of equal stamps are one.
        make: gives the arrays of row ``i`` by name; it is called in threads.
        workers: how many; default one for each core.
        tell: gets a line on progress and throughput now and then; default standard error.

    Returns:
        The file of each row.

    Raises:
        DataError: what ``make`` raises.
        OutputError: the cache cannot be written to.
    """
    folder = cache_folder() / what
    files = [folder / stamp[:2] / f"{stamp}.npz" for stamp in stamps]
    wanted = {file: i for i, file in enumerate(files) if not file.is_file()}
    if not wanted:
        return files

    def made(file: Path) -> None:
        arrays = make(wanted[file])
        with atomic(file) as staging, staging.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]

    say = tell or (lambda line: print(line, file=sys.stderr, flush=True))
    began = told = time.monotonic()
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        work = [pool.submit(made, file) for file in wanted]
        try:
            for done, each in enumerate(as_completed(work), 1):
                each.result()
                now = time.monotonic()
                if now - told > _TELL_AFTER or done == len(work):
                    told, rate = now, done / max(now - began, 1e-9)
                    say(f"{what}: {done:,} of {len(work):,} read, {rate:.1f} a second; kept in {folder}")
        except BaseException:
            for each in work:
                each.cancel()
            raise
    return files


def are_there(files: Sequence[Path], name: str) -> NDArray[np.bool_]:
    """Which kept rows have an array that is not empty; a modality that a row lacks is kept as an empty one."""
    found = np.zeros(len(files), dtype=np.bool_)
    for row, file in enumerate(files):
        found[row] = read_array(file, "a kept row", name).size > 0
    return found


class KeptRows(LazyArray):
    """One array of each kept row, as float32; NaN where it is empty, or there is none.

    Args:
        files: of the rows, by :func:`keep_rows`; None where there is none.
        name: of the array in each of them.
        shape: of it.
        index: which of the files these are, in order; None for all.
    """

    def __init__(
        self, files: Sequence[Path | None], name: str, shape: tuple[int, ...], index: Indices | None = None
    ) -> None:
        super().__init__(len(files), shape, index)
        self._files, self._name = files, name

    def _read(self, places: Indices) -> Floats:
        found = np.empty((len(places), *self._shape), dtype=np.float32)
        for row, place in enumerate(places):
            file = self._files[place]
            if file is None:
                found[row] = np.nan
                continue
            values = read_array(file, "a kept row", self._name)
            found[row] = values if values.size else np.nan
        return found

    def _with(self, index: Indices) -> KeptRows:
        return KeptRows(self._files, self._name, self._shape, index)
