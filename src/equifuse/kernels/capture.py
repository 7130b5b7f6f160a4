"""Anderson solves on CUDA as replays of recorded steps: some evaluations with their updates are one call of the host.

A recording belongs to shapes and options, not to values: inputs are copied into its memory before a solve and results
are cloned from it after. A device keeps a few recordings, those used last. One solve at a time runs on a device; it
waits for the one before also on another stream.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from equifuse.kernels import Run, cuda
from equifuse.kernels.rows import CONVERGED, EXHAUSTED, RowLimits, Rows

_log = logging.getLogger(__name__)
# Recordings kept per device. A training step of a fusion needs four per batch size.
_CAPACITY = 32
# Solves remembered as seen: only the second of a kind is recorded, so that a size that occurs once costs little.
_REMEMBERED = 256
# Replays before the host first asks whether all rows have stopped, where nothing is known from the solve before.
_FIRST = 2


class Preparable(Protocol):
    """The evaluation of a map on given memory.

    Attributes:
        looks_ahead: whether ``ahead`` is filled.
    """

    looks_ahead: bool

    def prepare(self, z: Tensor, out: Tensor, ahead: Tensor, idle: Tensor | None) -> Run:
        """What writes the image of ``z`` ``(R, N)`` to ``out``, and the point ahead to ``ahead`` if it looks ahead.

        Rows whose ``idle`` is not 0 need not be computed.
        """


class Capturable(Preparable, Protocol):
    """An evaluation that can be recorded: nothing of it depends on values or waits for the device."""

    @property
    def key(self) -> Hashable:
        """What two evaluations must share to use one recording, besides the shapes of ``tensors``: kind and options."""

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """The tensors that it reads, in a fixed order."""

    def with_tensors(self, tensors: tuple[Tensor | None, ...]) -> Self:
        """The same evaluation of other tensors. What it or ``prepare`` derives from them is recorded, too."""


class Solved(NamedTuple):
    """Results in memory of their own.

    Attributes:
        best: ``(R, N)`` the iterates with the smallest residuals.
        residual: ``(R,)`` these.
        steps: int32 ``(R,)`` evaluations made.
        status: int8 ``(R,)`` what has become of the rows.
        trace: ``(K, R)`` the residuals of all evaluations, of a row that has stopped the last.
        failed: how many rows have stopped without having converged; None if the host has not asked.
        history: which rows these are, int64 ``(failed,)``, and their ``q`` and ``g``; None if there are none.
    """

    best: Tensor
    residual: Tensor
    steps: Tensor
    status: Tensor
    trace: Tensor
    failed: int | None
    history: tuple[Tensor, Tensor, Tensor] | None


class Start(NamedTuple):
    """Where a solve begins.

    Attributes:
        z: ``(R, N)`` the states.
        scale: ``(R,)`` what residuals are relative to, a row with 0 is solved by its start; None for the image's norm.
        steps: ``(R,)`` evaluations that each row has had before; None for none.
    """

    z: Tensor
    scale: Tensor | None = None
    steps: Tensor | None = None


class _Steps:
    """The memory of a solve, and some steps on it: evaluations, each with its update.

    Args:
        evaluation: makes the map's evaluation.
    """

    def __init__(
        self, evaluation: Callable[[], Preparable], start: Start, memory: int, limits: RowLimits, count: int
    ) -> None:  # fmt: skip
        copies = (None if x is None else x.clone(memory_format=torch.contiguous_format) for x in start)
        self.start = Start(*copies)  # type: ignore[arg-type]
        self.count, self.z = count, self.start.z
        self.rows = Rows.begin(self.z, memory, self.start.scale)
        # The first row is the last one of the steps before.
        self._trace = self.z.new_empty(count + 1, len(self.z))
        self.trace = self._trace[1:]
        self.limits = self.z.new_empty(4, dtype=torch.float64)
        cuda.set_limits(limits, self.limits)
        self.progress = self.z.new_zeros(3, dtype=torch.int32)
        self._image, self._evaluation = torch.empty_like(self.z), evaluation
        self._ahead = torch.empty_like(self.z) if evaluation().looks_ahead else self._image
        which = torch.arange(len(self.z), device=self.z.device)
        rest = which, self.rows, self.limits, self._trace, self.progress
        self._update = cuda.anderson(self.z, self._image, self._ahead, *rest)
        self.begin()

    def begin(self) -> None:
        """Be at the start, again."""
        self._evaluate = self._evaluation().prepare(self.z, self._image, self._ahead, self.rows.status)
        rows = self.rows
        rows.best.copy_(self.z)
        rows.residual.fill_(torch.inf)
        for numbers in (rows.steps, rows.since, rows.status):
            numbers.zero_()
        if self.start.steps is not None:
            rows.steps.copy_(self.start.steps)
            rows.status.masked_fill_(self.start.steps >= self.limits[1], EXHAUSTED)
            rows.q.zero_()
            rows.g.zero_()
        if self.start.scale is not None:
            rows.status.masked_fill_(self.start.scale == 0, CONVERGED)
            rows.residual.masked_fill_(self.start.scale == 0, 0)
        self._trace[-1].copy_(rows.residual)

    def advance(self) -> None:
        """Make the steps; rows that have stopped stay as they are."""
        self._trace[0].copy_(self._trace[-1])
        for k in range(1, self.count + 1):
            self._evaluate()
            self._update(k, report=k == self.count)

    def results(self, trace: Tensor, failed: int | None) -> Solved:
        """What the rows hold now, cloned, with the ``trace`` given."""
        rows = self.rows
        history = None
        if failed:
            chosen = rows.status.argsort(descending=True, stable=True)[:failed].sort().values
            history = chosen, rows.q[chosen], rows.g[chosen]
        best, residual, steps, status = (x.clone() for x in (rows.best, rows.residual, rows.steps, rows.status))
        return Solved(best, residual, steps, status, trace, failed, history)


def _run(steps: _Steps, advance: Run, limits: RowLimits, first: int) -> tuple[Solved, int]:
    """Advance until no row is running; the results, and how often it would have been enough to advance.

    The host asks after ``first`` times, and each time it goes on doubles what is done.
    """
    traces: list[Tensor] = []
    burst, most = first, max(1, -(-limits.max_steps // steps.count))
    while True:
        for _ in range(min(burst, most - len(traces))):
            advance()
            traces.append(steps.trace.clone())
        running, failed, longest = steps.progress.tolist()
        if running == 0 or len(traces) == most:
            trace = torch.cat(traces)[: max(1, longest)].clone()
            return steps.results(trace, failed), max(1, -(-longest // steps.count))
        burst = len(traces)


class _Recording:
    """Recorded steps on memory of their own, for solves like the one given.

    Args:
        record: function from a function to one that launches again what that has launched.
    """

    def __init__(
        self, map: Capturable, start: Start, memory: int, limits: RowLimits, count: int, record: Callable[[Run], Run]
    ) -> None:
        self._inputs = inputs = tuple(None if tensor is None else tensor.clone() for tensor in map.tensors)
        own = map.with_tensors(inputs)  # which keeps nothing of the first solve alive
        self._steps = steps = _Steps(lambda: own.with_tensors(inputs), start, memory, limits, count)
        self._limits, self._expected = limits, _FIRST
        steps.advance()  # libraries start and kernels are compiled before they are recorded
        self._begin, self._advance = record(steps.begin), record(steps.advance)

    def solve(self, map: Capturable, start: Start, limits: RowLimits) -> Solved:
        """A solve like the one recorded, on these values."""
        steps = self._steps
        _copy((*self._inputs, *steps.start), (*map.tensors, *start))
        if limits != self._limits:
            cuda.set_limits(limits, steps.limits)
            self._limits = limits
        self._begin()
        solved, self._expected = _run(steps, self._advance, limits, self._expected)
        return solved


def _copy(targets: tuple[Tensor | None, ...], sources: tuple[Tensor | None, ...]) -> None:
    """Copy tensors in one launch per dtype."""
    lists: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for target, source in zip(targets, sources, strict=True):
        if target is not None and source is not None:
            of_dtype = lists.setdefault(target.dtype, ([], []))
            of_dtype[0].append(target)
            of_dtype[1].append(source)
    for pair in lists.values():
        torch._foreach_copy_(*pair)


class _Device:
    """The recordings of one device."""

    def __init__(self, device: torch.device) -> None:
        self.lock = threading.RLock()
        self._recordings: OrderedDict[Hashable, _Recording | None] = OrderedDict()
        self._seen: OrderedDict[Hashable, None] = OrderedDict()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the solve before, and keep others waiting."""
        with self.lock:
            torch.cuda.current_stream().wait_event(self._done)
            try:
                yield
            finally:
                self._done.record()

    def get(self, key: Hashable, make: Callable[[], _Recording]) -> _Recording | None:
        """The recording for a key, made when it is wanted for the second time; None if there is none."""
        if key in self._recordings:
            self._recordings.move_to_end(key)
            return self._recordings[key]
        if key not in self._seen:
            self._seen[key] = None
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
            return None
        if len(self._recordings) >= _CAPACITY:
            torch.cuda.synchronize()  # it may still be running
            self._recordings.popitem(last=False)
        try:
            recording = make()
        except RuntimeError as error:
            _log.info("a solve is not recorded as a CUDA graph, its steps are launched one by one: %s", error)
            recording = None
        self._recordings[key] = recording
        return recording

    def recorder(self) -> Callable[[Run], Run]:
        """A function that records what a function launches, and gives what launches it again.

        What it records shares temporary memory of its own: a pool cannot be used again once all its graphs are gone.
        """
        pool: Any = torch.cuda.graph_pool_handle()

        def record(function: Run) -> Run:
            graph = torch.cuda.CUDAGraph()
            # Other threads may use the device meanwhile.
            mode: Any = {"capture_error_mode": "thread_local"}
            with _own_workspace(), torch.cuda.graph(graph, pool=pool, stream=self._stream, **mode):
                function()
            return graph.replay

        return record

    def clear(self) -> None:
        """Forget all recordings."""
        with self.lock:
            torch.cuda.synchronize()
            self._recordings.clear()
            self._seen.clear()


@contextmanager
def _own_workspace() -> Iterator[None]:
    """Let the matrix products recorded within have a workspace in the memory of their graph.

    PyTorch keeps one per thread and stream for as long as it likes, in the memory of whichever graph needed it first.
    Others recorded later would go on using it after that graph is gone, or after Lightning has emptied the caches.
    """
    torch._C._cuda_clearCublasWorkspaces()
    try:
        yield
    finally:
        torch._C._cuda_clearCublasWorkspaces()


_devices: dict[int, _Device] = {}
_devices_lock = threading.Lock()


def _device_of(x: Tensor) -> _Device:
    with _devices_lock:
        if x.get_device() not in _devices:
            _devices[x.get_device()] = _Device(x.device)
        return _devices[x.get_device()]


def clear() -> None:
    """Free the recordings of all devices and their memory."""
    with _devices_lock:
        devices = list(_devices.values())
    for device in devices:
        device.clear()


def solve(map: Capturable, start: Start, memory: int, limits: RowLimits, count: int = 8) -> Solved:
    """Solve all rows from ``start``, which is not changed; the host waits for the device a few times.

    Args:
        map: the evaluation of the map.
        start: where it begins.
        memory: directions stored per row.
        limits: when a row stops.
        count: steps that are recorded together.
    """
    z = start.z
    with torch.no_grad(), torch.autocast(z.device.type, enabled=False), torch.cuda.device_of(z):  # type: ignore[no-untyped-call]
        if not z.is_cuda:
            return launch(map, start, memory, limits, count)
        device = _device_of(z)
        shapes = tuple(None if x is None else (x.shape, x.dtype) for x in (*map.tensors, *start))

        def make() -> _Recording:
            # Memory that is made in inference mode could not be written to outside of it.
            with torch.inference_mode(False), torch.no_grad():
                return _Recording(map, start, memory, limits, count, device.recorder())

        with device.turn():
            recording = device.get((map.key, shapes, memory, count), make)
            if recording is not None:
                return recording.solve(map, start, limits)
        return launch(map, start, memory, limits, count)


def within(map: Preparable, start: Start, memory: int, limits: RowLimits) -> Solved:
    """:func:`solve` inside of a graph that somebody else records, for any map.

    The host cannot ask whether rows have stopped, so that ``limits.max_steps`` steps are recorded.
    """
    with torch.no_grad(), torch.autocast(start.z.device.type, enabled=False):
        steps = _Steps(lambda: map, start, memory, limits, limits.max_steps)
        steps.advance()
        return steps.results(steps.trace.clone(), None)


def launch(map: Preparable, start: Start, memory: int, limits: RowLimits, count: int = 8) -> Solved:
    """:func:`solve` without a recording, for any map: the steps are launched one by one."""
    with torch.no_grad():
        steps = _Steps(lambda: map, start, memory, limits, count)
        return _run(steps, steps.advance, limits, _FIRST)[0]
