"""Where many models are trained: processes of this machine, or the workers of a Dask cluster."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext

from equifuse.errors import InputError
from equifuse.interruption import leave_to_parent

# More models at a time gain little on one machine unless asked for.
_MOST_WORKERS = 4
# What a training and its evaluation import, Lightning above all.
TRAINING = ("equifuse.training.lightning_module", "equifuse.benchmark.job", "sklearn.metrics")


@contextmanager
def executor(
    workers: int | None = None, scheduler: str | None = None, preload: Sequence[str] = TRAINING
) -> Iterator[Executor]:
    """An executor of :mod:`concurrent.futures`; what has not begun when the block is left is cancelled.

    Args:
        workers: processes, one thread each; default one per core, at most 4. 0 works in this process, which saves the
            seconds that a process takes to start.
        scheduler: address of a Dask scheduler, in place of processes. Its workers need equifuse, the same data at the
            same paths, and one thread each: PyTorch's random numbers are those of a process. Dask was chosen because
            it is plain Python, its futures are those of the standard library, and it starts on SSH, Slurm,
            Kubernetes and the clouds by tools of its own.
        preload: modules that the processes' work imports.

    Raises:
        InputError: Dask is not installed, the scheduler does not answer, or a worker has several threads.
    """
    if scheduler is not None:
        with _dask(scheduler) as pool:
            yield pool
        return
    if workers == 0:
        with ThreadPoolExecutor(1) as single:
            try:
                yield single
            except BaseException:
                single.shutdown(wait=False, cancel_futures=True)
                raise
        return
    count = workers or default_workers()
    begin = partial(_begin, dict(os.environ), os.getcwd())
    pool = ProcessPoolExecutor(count, mp_context=_context(preload), initializer=begin)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list((pool._processes or {}).values()):
            process.terminate()  # a training under way would hold the interpreter until it is done
        raise
    pool.shutdown()


def default_workers() -> int:
    """One process per core, at most 4."""
    return min(os.cpu_count() or 1, _MOST_WORKERS)


def begin_imports(preload: Sequence[str] = TRAINING) -> None:
    """Start the imports of the workers that will be asked for, while this process goes on with its own.

    Only a server that workers are forked from can do it, as on Linux; elsewhere nothing happens.

    Args:
        preload: modules that the processes' work imports.
    """
    if sys.platform == "linux":
        from multiprocessing import forkserver  # noqa: PLC0415 - there is none on Windows

        _context(preload)
        forkserver.ensure_running()


def _context(preload: Sequence[str]) -> BaseContext:
    """How worker processes start.

    Forking this process could lock up, since it has used threads. On Linux a server that has imported everything and
    computed nothing is forked instead: the imports, which take longer than a small training, happen once for all.
    Elsewhere each worker is a fresh interpreter.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    return context


def _begin(environment: dict[str, str], folder: str) -> None:
    """Set up a worker: surroundings of the caller, one thread, and an end with its parent, which may be killed.

    Args:
        environment: variables of the caller; a forked worker has those of the time when the server was started.
        folder: the caller's.
    """
    import torch  # noqa: PLC0415 - the caller may have nothing to compute

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    leave_to_parent()
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


@contextmanager
def _dask(address: str) -> Iterator[Executor]:
    try:
        from distributed import Client  # noqa: PLC0415
    except ImportError:
        raise InputError("a scheduler needs Dask: pip install 'equifuse[dask]'") from None
    try:
        client = Client(address, timeout=20)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise InputError(f"no Dask scheduler at {address}: {error}") from None
    with client:
        workers = client.scheduler_info(n_workers=-1)["workers"]
        several = [name for name, worker in workers.items() if worker["nthreads"] != 1]
        if several:
            raise InputError(f"the Dask worker {several[0]} has several threads; start workers with --nthreads 1")
        pool: Executor = client.get_executor(pure=False, retries=0)  # type: ignore[no-untyped-call]
        try:
            yield pool
        finally:
            pool.shutdown(wait=False)
