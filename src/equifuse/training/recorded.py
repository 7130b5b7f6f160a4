"""Training steps recorded as CUDA graphs: the host launches a whole forward and backward pass by one call."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from equifuse.data.batch import Batch
from equifuse.errors import EquifuseError, InputError

Run = Callable[[], object]
Numbers = dict[str, Tensor]
Step = Callable[[Batch], tuple[Tensor, Numbers]]
# Batches of a shape that are worked on as usual before it is recorded: kernels are compiled and libraries start.
_BEFORE = 3
# Shapes recorded: that of full batches, and of a last one. Each has memory of its own.
_MOST = 2


class RecordedSteps:
    """Forward and backward passes as replays of graphs, one for each shape of batch that comes often.

    A recording reads the batch, the weights and the random numbers of each replay anew; whatever else the step looks at
    stays as it was when it was recorded. Gradients are those of the replay alone: nothing is added up.

    >>> layer = torch.nn.Linear(2, 1)
    >>> def step(batch):
    ...     loss = layer(batch.inputs["a"]).square().mean()
    ...     loss.backward()
    ...     return loss, {}
    >>> steps = RecordedSteps(step, layer.parameters(), record=lambda function: function)  # as if there were a GPU
    >>> batch = Batch({"a": torch.ones(4, 2)})
    >>> [steps(batch) is None for _ in range(4)]  # the first ones are worked on as usual
    [True, True, True, False]

    Args:
        step: function of a batch that computes a loss and other numbers, and the gradients of ``parameters``. Nothing
            of it may wait for the device.
        parameters: those that are trained.
        record: function from a function to one that repeats what it launches; by default a CUDA graph.
    """

    def __init__(
        self, step: Step, parameters: Iterable[nn.Parameter], record: Callable[[Run], Run] | None = None
    ) -> None:
        self._step, self._parameters = step, list(parameters)
        self._record = _as_graph if record is None else record
        self._seen: Counter[Hashable] = Counter()
        self._recordings: dict[Hashable, _Recording] = {}

    def __call__(self, batch: Batch) -> tuple[Tensor, Numbers] | None:
        """A step: its results, and its gradients are the parameters'. None where the caller has to make it as usual.

        Raises:
            EquifuseError: the step cannot be recorded.
        """
        key = _key(batch)
        if key not in self._recordings:
            self._seen[key] += 1
            if self._seen[key] <= _BEFORE or len(self._recordings) == _MOST:
                return None
            self._recordings[key] = self._recorded(batch)
        recording = self._recordings[key]
        recording.fill(batch)
        recording.replay()
        for parameter, gradient in zip(self._parameters, recording.gradients, strict=True):
            parameter.grad = gradient
        return recording.loss, recording.numbers

    def _recorded(self, batch: Batch) -> _Recording:
        recording = _Recording(batch.to(next(iter(batch.inputs.values())).device, copy=True))

        def run() -> None:
            for parameter in self._parameters:
                parameter.grad = None
            recording.loss, recording.numbers = self._step(recording.batch)
            recording.gradients = [parameter.grad for parameter in self._parameters]

        try:
            recording.replay = self._record(run)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise EquifuseError(
                f"this training step cannot be recorded as a CUDA graph ({reason}); leave out cuda_graph"
            ) from error
        return recording


@dataclass
class _Recording:
    """A recorded step, and the memory that it reads and writes."""

    batch: Batch
    replay: Run = lambda: None
    loss: Tensor = field(default_factory=lambda: torch.zeros(()))
    numbers: Numbers = field(default_factory=dict)
    gradients: list[Tensor | None] = field(default_factory=list)

    def fill(self, batch: Batch) -> None:
        """Copy the values of a batch to where the step reads them."""
        for own, other in zip(_tensors(self.batch), _tensors(batch), strict=True):
            own.copy_(other)


def _tensors(batch: Batch) -> list[Tensor]:
    """In a fixed order."""
    by_name = [x for part in (batch.inputs, batch.present, batch.lengths) for _, x in sorted(part.items())]
    return [*by_name, *(x for x in (batch.target, batch.index, batch.weight) if x is not None)]


def _key(batch: Batch) -> Hashable:
    names = tuple(tuple(sorted(part)) for part in (batch.inputs, batch.present, batch.lengths))
    given = tuple(x is not None for x in (batch.target, batch.index, batch.weight))
    return names, given, batch.share, tuple((x.shape, x.dtype) for x in _tensors(batch))


def check_records(device: torch.device) -> None:
    """Refuse to record where there is no GPU.

    Raises:
        InputError: the device is another one.
    """
    if device.type != "cuda":
        raise InputError(f"cuda_graph needs a GPU, and training runs on {device.type}; leave it out")


def _as_graph(function: Run) -> Run:
    # What is left of earlier steps would tie the gradients to the stream they were made on.
    gc.collect()
    torch.clear_autocast_cache()
    graph = torch.cuda.CUDAGraph()
    # Other threads may use the device meanwhile; the backward pass itself runs in one.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        function()
    torch.clear_autocast_cache()
    return graph.replay
