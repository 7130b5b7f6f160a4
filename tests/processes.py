"""The command line in a process of its own that does not import everything anew: POSIX only."""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

_CONTEXT = multiprocessing.get_context(
    "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else None
)
# Imported once, by the server that the processes are forked from.
_PRELOADED = ["equifuse.cli", "equifuse.runs.training", "equifuse.report.plots"]
_PRELOADED += ["equifuse.training.lightning_module", "torch.onnx"]


def _child(words: Sequence[str], folder: str, before: Callable[[], object] | None, outputs: Sequence[str]) -> None:
    for descriptor, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.chdir(folder)
    if before is not None:
        before()
    code = 0
    try:
        from equifuse.cli import main

        main(list(words))
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def command_line(
    words: Sequence[str], folder: Path, before: Callable[[], object] | None = None
) -> tuple[int | None, str, str]:
    """Run ``equifuse words``.

    Args:
        words: the arguments.
        folder: where it runs.
        before: called in the process first; can be pickled.

    Returns:
        Exit code, standard output, standard error.
    """
    _CONTEXT.set_forkserver_preload(_PRELOADED)
    with tempfile.TemporaryDirectory() as place:
        outputs = [str(Path(place) / name) for name in ("out", "err")]
        process = _CONTEXT.Process(target=_child, args=(list(words), str(folder), before, outputs))
        process.start()
        process.join(300)
        if process.is_alive():
            process.kill()
            process.join()
        texts = [Path(path).read_text(encoding="utf-8") if Path(path).exists() else "" for path in outputs]
    return process.exitcode, texts[0], texts[1]
