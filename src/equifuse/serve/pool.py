"""The workers of a service: who works on what, for how long, and what happens when one of them dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, repeat

from equifuse.serve.limits import Limits, Refusal
from equifuse.serve.messages import (
    HEAD,
    Answer,
    Begun,
    Done,
    Failed,
    FromWorker,
    Job,
    Loaded,
    Question,
    Settings,
    ToWorker,
    answer_of,
    parts,
)

_log = logging.getLogger("equifuse.serve")
# Without the folder it is started in among those that modules come from.
WORKER = (sys.executable, "-P", "-m", "equifuse.serve.worker")
# Seconds in which a worker has to import and load everything.
_START = 600.0
# Requests that are answered together: so many, of so many bytes in all.
_TOGETHER, _SMALL = 64, 2**18
# After requests that came together, the next ones are waited for this share of the time that those took, at most
# so many seconds.
_PATIENCE, _LONGEST_PATIENCE = 0.25, 0.02
# Seconds until a worker is started again after it could not be started.
_PAUSES = (1.0, 5.0, 30.0)


class StartError(Exception):
    """A worker cannot start, and why, in one line."""


class NeverBegunError(Exception):
    """A worker died before it had a whole job."""


@dataclass(frozen=True)
class Timing:
    """Seconds that a request waited and was worked on, and how many were answered with it."""

    waited: float = 0.0
    worked: float = 0.0
    together: int = 1


@dataclass(eq=False)
class _Waiting:
    """A request that has arrived."""

    model: str
    question: Question = field(repr=False)  # a body is not for messages, and takes long to be written out
    future: asyncio.Future[tuple[Answer, Timing]]
    alone: bool
    since: float = field(default_factory=time.perf_counter)
    timer: asyncio.TimerHandle | None = None
    returns: int = 0  # by workers that died before they began

    def expire(self) -> None:
        """It does not wait any more."""
        if self.timer is not None:
            self.timer.cancel()


class _Process:
    """One worker process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, command: Sequence[str], settings: Settings) -> tuple[_Process, Loaded]:
        """A worker that is ready, and what it serves.

        Raises:
            StartError: it cannot start.
        """
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=2**20)
        self = cls(process)
        try:
            async with asyncio.timeout(_START):
                found = await self._exchange(settings)
        except (EOFError, OSError):
            await self.kill(grace=1)
            raise StartError(f"a worker ended while it was starting (exit code {process.returncode})") from None
        except TimeoutError:
            await self.kill()
            raise StartError(f"a worker was not ready within {_START:g} s") from None
        except BaseException:
            await self.kill()
            raise
        if isinstance(found, Loaded):
            return self, found
        await self.kill()
        raise StartError(found.message if isinstance(found, Failed) else "a worker does not answer as it should")

    async def _exchange(self, message: ToWorker) -> FromWorker:
        assert self._process.stdin is not None
        for piece in parts(message):
            self._process.stdin.write(piece)
            await self._process.stdin.drain()
            await asyncio.sleep(0)  # while the worker keeps up, draining lets nobody else in
        return await self._next()

    async def _next(self) -> FromWorker:
        assert self._process.stdout is not None
        head = await self._process.stdout.readexactly(HEAD)
        return answer_of(await self._process.stdout.readexactly(int.from_bytes(head, "big")))

    async def work(self, job: Job) -> list[Answer]:
        """The answers to a job.

        Raises:
            NeverBegunError: the worker died before it had all of it.
            EOFError: the worker died.
            OSError: likewise.
        """
        try:
            found = await self._exchange(job)
        except (EOFError, OSError):
            raise NeverBegunError from None
        if isinstance(found, Begun):
            found = await self._next()
        if not isinstance(found, Done) or len(found.answers) != len(job.questions):
            raise EOFError
        return found.answers

    def when_dead(self, call: Callable[[], None]) -> None:
        """Call this once it has ended."""
        self._watch = asyncio.create_task(self._process.wait())
        self._watch.add_done_callback(lambda _: call())

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.returncode is None

    async def end(self) -> None:
        """Let it end: it does when there are no more jobs."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await self._process.wait()
        await self.kill()

    async def kill(self, grace: float = 0.0) -> None:
        """End it now, or in so many seconds if it is about to end by itself."""
        if grace:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._process.wait()
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()


class Pool:
    """Worker processes that answer requests; each works on one job at a time.

    Requests that arrive while all workers are busy wait, and small predictions for the same model are answered
    together. A worker that is too slow is stopped and replaced. If it had begun with one request, that one is lost
    (504, or 503 if the worker died by itself); if it had several, each of them is tried once more, alone.

    Args:
        runs: name -> run folder.
        explain: whether there are explanations.
        limits: of a request.
        workers: processes.
        command: that starts one.
    """

    def __init__(
        self,
        runs: Mapping[str, str],
        explain: bool,
        limits: Limits,
        workers: int = 1,
        command: Sequence[str] = WORKER,
    ) -> None:
        self._command = command
        self._settings = Settings(dict(runs), asdict(limits), explain, workers)
        self._limits, self._workers = limits, workers
        self._queue: deque[_Waiting] = deque()
        self._working = 0
        self._napping: set[asyncio.Future[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._ready: set[_Process] = set()
        self._outdated: set[_Process] = set()
        self._replacements: deque[_Process] = deque()
        self._ending: set[asyncio.Task[None]] = set()
        self._reloading = asyncio.Lock()
        self.loaded: Loaded | None = None
        self.failure: str | None = None
        self.lost = 0

    @property
    def runs(self) -> dict[str, str]:
        """Name -> run folder."""
        return self._settings.runs

    def count(self) -> int:
        """Workers that are ready."""
        return sum(process.alive for process in self._ready)

    async def start(self) -> None:
        """Start the workers; returns at once."""
        self._tasks = [asyncio.create_task(self._slot()) for _ in range(self._workers)]

    async def first(self) -> None:
        """Wait until a worker is ready.

        Raises:
            StartError: the first one cannot start.
        """
        while self.loaded is None and self.failure is None:
            await self._nap()
        if self.loaded is None:
            raise StartError(self.failure)

    async def close(self) -> None:
        """Stop the workers: those that are idle end by themselves."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        processes = [*self._ready, *self._replacements]
        await asyncio.gather(*(process.end() for process in processes), *self._ending)
        self._ready.clear()
        while self._queue:
            self._refuse(self._queue.popleft(), 503, "the service is being stopped")

    async def reload(self) -> None:
        """Read the models again: new workers take the place of old ones as they get ready and these become idle.

        Raises:
            StartError: they cannot be read; those of before go on.
        """
        async with self._reloading:
            for old in list(self._ready):
                process, loaded = await _Process.start(self._command, self._settings)
                self.loaded = loaded
                self._outdated.add(old)
                self._replacements.append(process)
                self._wake()

    async def ask(self, model: str, question: Question) -> tuple[Answer, Timing]:
        """The answer to a request.

        Raises:
            Refusal: it took too long, there are too many, or its worker died.
        """
        if len(self._queue) + self._working >= self._limits.max_waiting:
            raise Refusal(503, f"{self._limits.max_waiting} requests are waiting already; try again later")
        alone = question.kind != "predict" or sum(map(len, question.pieces())) > _SMALL
        waiting = _Waiting(model, question, asyncio.get_running_loop().create_future(), alone)
        self._put(waiting)
        try:
            return await waiting.future
        finally:  # also where the client's task is cancelled
            if waiting in self._queue:
                self._queue.remove(waiting)
            waiting.expire()

    def _put(self, waiting: _Waiting, first: bool = False) -> None:
        if first:
            self._queue.appendleft(waiting)
        else:
            self._queue.append(waiting)
        seconds = self._limits.timeout
        text = f"no worker was free within {seconds:g} s; try again later"
        loop = asyncio.get_running_loop()
        waiting.timer = loop.call_later(seconds, self._refuse, waiting, 503, text)
        self._wake()

    def _refuse(self, waiting: _Waiting, status: int, message: str) -> None:
        waiting.expire()
        if not waiting.future.done():
            waiting.future.set_exception(Refusal(status, message))

    def _wake(self) -> None:
        for future in self._napping:
            if not future.done():
                future.set_result(None)

    async def _nap(self) -> None:
        """Wait until something has changed."""
        future = asyncio.get_running_loop().create_future()
        self._napping.add(future)
        try:
            await future
        finally:
            self._napping.discard(future)

    async def _slot(self) -> None:
        """One worker after the other, each with one job after the other."""
        process: _Process | None = None
        together, seconds = 1, 0.0
        while True:
            if process is not None and not process.alive:
                self._ready.discard(process)
                process = None
            if self._replacements and (process is None or process in self._outdated):
                process = self._replace(process)
            if process is None:
                process = await self._started()
            if not self._queue:
                await self._nap()
                continue
            jobs = await self._take(together, seconds)
            if jobs:
                together, seconds = len(jobs), await self._work(process, jobs)

    def _replace(self, old: _Process | None) -> _Process:
        process = self._replacements.popleft()
        if old is not None:
            self._ready.discard(old)
            self._outdated.discard(old)
            ending = asyncio.create_task(old.end())
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
        return self._watched(process)

    async def _started(self) -> _Process:
        """A new worker, however long it takes to get one."""
        for pause in chain(_PAUSES, repeat(_PAUSES[-1])):
            try:
                process, loaded = await _Process.start(self._command, self._settings)
            except StartError as error:
                self.failure = str(error)
                # That the service cannot start at all is for whoever started it to say.
                level = logging.INFO if self.loaded is None else logging.ERROR
                _log.log(level, "%s; trying again in %g s", error, pause)
                self._wake()
                await asyncio.sleep(pause)
                continue
            self.failure = None
            self.loaded = self.loaded or loaded
            return self._watched(process)
        raise AssertionError  # it goes on for ever

    def _watched(self, process: _Process) -> _Process:
        self._ready.add(process)
        process.when_dead(self._wake)
        self._wake()
        return process

    async def _take(self, together: int, seconds: float) -> list[_Waiting]:
        """What to work on next: one request, or several that can be answered together.

        Args:
            together: requests of the last job; where these were several, as many are likely to come again.
            seconds: that the last job took.
        """
        deadline = time.perf_counter() + min(_PATIENCE * seconds, _LONGEST_PATIENCE)
        while 0 < len(self._queue) < together and time.perf_counter() < deadline:
            await asyncio.sleep(0.0005)
        found: list[_Waiting] = []
        size = 0
        for waiting in list(self._queue):
            if waiting.future.done():
                self._queue.remove(waiting)
                continue
            if found and (waiting.alone or waiting.model != found[0].model or size > _SMALL):
                continue
            self._queue.remove(waiting)
            waiting.expire()
            found.append(waiting)
            size += sum(map(len, waiting.question.pieces()))
            if waiting.alone or len(found) == _TOGETHER:
                break
        return found

    async def _work(self, process: _Process, jobs: list[_Waiting]) -> float:
        """Have requests answered; seconds that it took."""
        start = time.perf_counter()
        limit = self._limits.timeout if len(jobs) == 1 else self._limits.timeout / 4
        self._working += len(jobs)
        try:
            async with asyncio.timeout(limit):
                answers = await process.work(Job(jobs[0].model, [waiting.question for waiting in jobs]))
        except TimeoutError:
            await process.kill()
            _log.error("a worker was stopped: %d requests took more than %g s", len(jobs), limit)
            self._lost(jobs, 504, f"not answered within {limit:g} s; try again with fewer rows")
        except NeverBegunError:  # it may have been dying since before
            await process.kill(grace=1)
            _log.error("a worker died before it began with %d requests", len(jobs))
            self._return(jobs)
        except (EOFError, OSError):
            await process.kill(grace=1)
            _log.error("a worker died while it worked on %d requests", len(jobs))
            self._lost(jobs, 503, "the worker died; try again")
        except asyncio.CancelledError:
            await process.kill()
            for waiting in jobs:
                self._refuse(waiting, 503, "the service is being stopped")
            raise
        else:
            end = time.perf_counter()
            for waiting, answer in zip(jobs, answers, strict=True):
                if not waiting.future.done():
                    waiting.future.set_result((answer, Timing(start - waiting.since, end - start, len(jobs))))
        finally:
            self._working -= len(jobs)
        return time.perf_counter() - start

    def _return(self, jobs: list[_Waiting]) -> None:
        """Let requests that no worker has seen wait again, until as many as there are have died."""
        for waiting in reversed(jobs):
            waiting.returns += 1
            if waiting.returns > self._workers:
                self._refuse(waiting, 503, "the worker died; try again")
            else:
                self._put(waiting, first=True)

    def _lost(self, jobs: list[_Waiting], status: int, message: str) -> None:
        """Refuse a request that had a worker for itself; of several, which one is to blame shows when each has."""
        self.lost += 1
        if len(jobs) == 1:
            self._refuse(jobs[0], status, message)
            return
        for waiting in reversed(jobs):
            waiting.alone = True
            self._put(waiting, first=True)
