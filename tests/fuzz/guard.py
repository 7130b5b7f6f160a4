"""What must not happen while a hostile file is read, made to raise where it would."""

import os
import signal
import sys
from contextlib import contextmanager
from functools import cache
from pathlib import Path

# Beyond what any input of a few kilobytes may take: of the processor, and of the clock for whoever waits.
SECONDS, WAITING = 60.0, 600.0
# Running code, reaching out, ending the process: no reader has any business with it.
_FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "subprocess.Popen", "socket.connect",
              "shutil.rmtree", "os.kill", "ctypes.dlopen")  # fmt: skip
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.chmod", "os.link", "os.symlink", "os.mkdir")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_LOADMAT = "loadmat.py"

_allowed: list[Path] = []
_seen: list[str] = []


class Violation(BaseException):
    """A reader did what none may do; no ``except Exception`` hides it."""


class Hang(BaseException):
    """A reader did not come to an end."""


def _watch(event: str, arguments: tuple) -> None:
    if not _allowed:
        return
    paths = ()
    if event == "open":
        path, _, flags = arguments
        paths = (path,) if isinstance(path, (str, bytes, os.PathLike)) and (flags or 0) & _WRITING else ()
    elif event in _CHANGES:
        relative = len(arguments) > 1 and isinstance(arguments[-1], int) and arguments[-1] >= 0
        paths = () if relative else arguments[:1]  # of a folder that is open; its removal was seen as a whole
    elif event not in _FORBIDDEN or (event == "shutil.rmtree" and _inside(arguments[0])):
        return
    elif event in ("subprocess.Popen", "os.posix_spawn", "os.fork") and _LOADMAT in str(arguments):
        return  # the one reader that is a program of its own
    else:
        _violated(f"{event} {arguments!r:.200}")
    for path in paths:
        if isinstance(path, (str, bytes, os.PathLike)) and not _inside(path):
            _violated(f"{event} of {os.fsdecode(path)}")


@cache
def _real(folder: Path) -> Path:
    return Path(os.path.realpath(folder))


def _inside(path: object) -> bool:
    full = Path(os.path.realpath(os.fsdecode(path)))  # type: ignore[arg-type]
    harmless = full == Path("/dev/null") or "__pycache__" in full.parts or full.suffix == ".lock"
    return harmless or any(full.is_relative_to(folder) for folder in _allowed)


def _violated(what: str) -> None:
    _seen.append(what)
    raise Violation(what)


sys.addaudithook(_watch)


@contextmanager
def guarded(folder: Path, seconds: float = SECONDS):
    """Inside, only ``folder`` may be written to, nothing may be run, and there is an end.

    Raises:
        Violation: it was done, even if somebody caught the exception.
        Hang: it took too long.
    """

    def late(*_):
        raise Hang(f"no end after {seconds} s")

    before = {number: signal.signal(number, late) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, WAITING)
    _allowed.append(_real(folder))
    _seen.clear()
    try:
        yield
    finally:
        _allowed.clear()
        for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
    if _seen:
        raise Violation(_seen[0])
