"""Files that are not trusted, read in a process of their own: with limits, and handed over as plain arrays.

libhdf5, Arrow and openpyxl are large programs that trust what they read. A file that takes one of them over, or down,
takes over or down a process that holds nothing else and ends with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from equifuse.data.options import SourceOptions
from equifuse.data.plain import read_plain, write_plain
from equifuse.errors import DataError, EquifuseError, InputError
from equifuse.files import memory, read_json

# Of what the reading needs beyond its imports; and seconds of the processor, and for whoever waits.
_SHARE, _LEAST = 0.5, 2**30
_CPU_SECONDS, _SECONDS = 1800, 3600
# What the child sees of the surroundings: none of a caller's passwords.
_SURROUNDINGS = ("PATH", "LANG", "LC_ALL", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "OMP_NUM_THREADS", "EQUIFUSE_DATA",
                 "NUMBA_CACHE_DIR", "EQUIFUSE_KERNELS")  # fmt: skip
_PROGRAM = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from equifuse.data.apart import child; child(*sys.argv[2:])"
)
_ASKED, _GIVEN, _SAID = "asked", "given", "said.json"


def read_apart(what: str, path: Any, **arguments: Any) -> Any:
    """What a reader of this room gives, of a file that is not trusted.

    Args:
        what: ``"load"``, ``"read_rows"`` or ``"read_mmsa"``.
        path: what it reads.
        **arguments: the reader's others; ``SourceOptions`` among them lose their ``untrusted``.

    Raises:
        DataError: the reader does, or its process ended before it was done.
        InputError: the reader does.
    """
    plain = {k: replace(v, untrusted=False) if isinstance(v, SourceOptions) else v for k, v in arguments.items()}
    with tempfile.TemporaryDirectory(prefix="equifuse-apart-") as place:
        folder = Path(place)
        for name in (_ASKED, _GIVEN):
            (folder / name).mkdir()
        write_plain(folder / _ASKED, {"what": what, "path": os.fspath(path), "arguments": plain})
        words = [sys.executable, "-I", "-c", _PROGRAM, json.dumps(sys.path), str(folder), str(_limit())]
        surroundings = {name: os.environ[name] for name in _SURROUNDINGS if name in os.environ}
        try:
            done = subprocess.run(
                words, capture_output=True, text=True, errors="replace", check=False, env=surroundings, timeout=_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise DataError(f"{path} took longer than {_SECONDS} s to read") from None
        if not (folder / _SAID).is_file():
            raise DataError(f"{path} cannot be read: {_end(done.returncode)}")
        said = read_json(folder / _SAID)
        for message in said["warnings"]:
            warnings.warn(str(message), stacklevel=3)
        if said["error"] is not None:
            kind = InputError if said["error"] == "InputError" else DataError
            raise kind(str(said["message"]))
        return read_plain(folder / _GIVEN)


def child(place: str, limit: str) -> None:
    """The other process: read what is asked for, and write what it gives."""
    folder = Path(place)
    asked = read_plain(folder / _ASKED)
    read = _readers()[asked["what"]]
    _limit_this_process(int(limit))
    said: dict[str, Any] = {"error": None, "message": ""}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            write_plain(folder / _GIVEN, read(asked["path"], **asked["arguments"]))
        except EquifuseError as error:
            said |= {"error": type(error).__name__, "message": str(error)}
        except MemoryError:
            said |= {"error": "DataError", "message": f"{asked['path']} needs more than {_gib(int(limit))} to read"}
    said["warnings"] = [str(entry.message) for entry in caught if issubclass(entry.category, UserWarning)]
    (folder / _SAID).write_text(json.dumps(said), encoding="utf-8")


def _readers() -> dict[str, Callable[..., Any]]:
    from equifuse.data.catalog import load  # noqa: PLC0415 - they read by this module
    from equifuse.data.external import read_rows  # noqa: PLC0415
    from equifuse.data.formats.mmsa import read_mmsa  # noqa: PLC0415

    def mmsa(path: str, **arguments: Any) -> Any:
        return read_mmsa(Path(path), **arguments)

    return {"load": load, "read_rows": read_rows, "read_mmsa": mmsa}


def _limit() -> int:
    """Bytes that a reader may take."""
    return max(_LEAST, int(_SHARE * memory())) if memory() < 2**49 else 2**33


def _limit_this_process(limit: int) -> None:
    """Memory beyond what it has now, time of the processor, no dump of either; where the system has such limits."""
    with suppress(ImportError):
        import resource  # noqa: PLC0415 - POSIX

        now = 0
        with suppress(OSError):  # Linux
            now = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
        wanted = {"RLIMIT_AS": now + limit, "RLIMIT_CPU": _CPU_SECONDS, "RLIMIT_CORE": 0}
        for name, most in wanted.items():
            with suppress(ValueError, OSError, AttributeError):  # macOS knows it and refuses
                resource.setrlimit(getattr(resource, name), (most, most))


def _end(code: int) -> str:
    """Why a process has no answer."""
    if code < 0:
        with suppress(ValueError):
            return f"its reader crashed ({signal.Signals(-code).name})"
    return "its reader crashed, perhaps for want of memory"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
