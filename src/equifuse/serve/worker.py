"""A worker: a process that has the models, reads jobs from its standard input, and writes the answers to its output.

It ends when its input does, and is stopped by force when it takes too long: everything that could take long or need
memory, decoding a body included, is done here and not where connections are kept.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO

from equifuse.errors import EquifuseError
from equifuse.serve.limits import Limits
from equifuse.serve.messages import Begun, Done, Failed, FromWorker, Job, Settings, frame, read_frame

_MIB = 2**20


def main() -> None:
    """Work until there are no more jobs."""
    # What a library prints must not get between the answers.
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    # Whoever stops the service stops its workers once they are done; Ctrl-C and the like reach all of a terminal's.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    settings = read_frame(source)
    if isinstance(settings, Settings):
        _work(settings, source, sink)
    os._exit(0)  # there is nothing to tidy up, and libraries complain when they try


def _work(settings: Settings, source: BinaryIO, sink: BinaryIO) -> None:
    limits = Limits(**settings.limits)  # type: ignore[arg-type]
    try:
        import torch  # noqa: PLC0415

        from equifuse.serve.service import Services  # noqa: PLC0415

        torch.set_num_threads(max(1, torch.get_num_threads() // settings.share))
        services = Services(settings.runs, settings.explain, limits)
        loaded = frame(services.describe())
    except EquifuseError as error:
        _send(sink, Failed(str(error)))
        return
    except ModuleNotFoundError as error:
        _send(sink, Failed(f"serving needs {error.name}: pip install 'equifuse[serve]'"))
        return
    except Exception as error:
        logging.getLogger("equifuse.serve").exception("a worker cannot start")
        _send(sink, Failed(f"a worker cannot start: {error}"))
        return
    _limit_memory(limits.memory)
    gc.collect()
    gc.freeze()  # models stay; there is no need to look at them again
    _write(sink, loaded)
    while isinstance(job := read_frame(source), Job):
        _send(sink, Begun())
        _send(sink, Done(services.answer(job.model, job.questions)))


def _send(sink: BinaryIO, message: FromWorker) -> None:
    _write(sink, frame(message))


def _write(sink: BinaryIO, content: bytes | bytearray) -> None:
    try:
        sink.write(content)
        sink.flush()
    except BrokenPipeError:  # the service has ended
        os._exit(0)


def _limit_memory(mebibytes: int) -> None:
    """So much more than it takes now, where the system can say and limit it."""
    try:
        import resource  # noqa: PLC0415

        status = Path("/proc/self/status").read_text(encoding="ascii")
        now = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData:"))
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (now + mebibytes * _MIB, hard))
    except (ImportError, OSError, StopIteration, ValueError):
        pass


def _end_with_parent(parent: int) -> None:
    """End when the service was killed, even in the middle of a request that takes for ever."""
    while os.getppid() == parent:
        time.sleep(2)
    os._exit(1)


if __name__ == "__main__":
    main()
