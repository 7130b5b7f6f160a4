"""Training on several processes: which of them this is, and which samples are its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from equifuse.data.batch import Batch
from equifuse.data.loaders import Batches
from equifuse.errors import InputError
from equifuse.training.options import TrainingOptions


@dataclass(frozen=True)
class ProcessGroupInfo:
    """This process among those that train one model.

    Attributes:
        rank: its number, 0 for the one that writes.
        devices: processes on each machine.
        nodes: machines.
    """

    rank: int
    devices: int
    nodes: int

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.devices * self.nodes

    @property
    def writes(self) -> bool:
        """Whether this process writes the run folder."""
        return self.rank == 0


def process_group_info(options: TrainingOptions) -> ProcessGroupInfo:
    """Where this process is: by what ``torchrun`` or Slurm says, or by the options.

    Raises:
        InputError: ``torchrun`` started another number of processes than the options ask for, or an option does not go
            with several processes.
    """
    started = os.environ.get("WORLD_SIZE"), os.environ.get("LOCAL_WORLD_SIZE")
    devices, nodes = options.devices, options.nodes
    if started[0] and started[1]:  # torchrun; Lightning's own children have the first only
        devices, nodes = int(started[1]), int(started[0]) // int(started[1])
        asked = options.devices * options.nodes
        if asked not in (1, devices * nodes):
            raise InputError(f"{devices * nodes} processes were started, devices and nodes ask for {asked}")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    node = int(os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", "0")))
    rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", node * devices + local)))
    place = ProcessGroupInfo(rank if devices * nodes > 1 else 0, devices, nodes)
    if place.world > 1 and options.balance is not None:
        raise InputError(f"balance {options.balance!r} looks at all samples; train it in one process")
    return place


class ShardedBatches(Batches):
    """One process's rows of the batches of all: every ``world``-th, from ``rank`` on.

    A batch's ``share`` is what its mean loss counts in the mean over the processes, so that the gradient is that of
    the whole batch, also where the last one does not divide. A process without a row takes part with the first one,
    which then counts nothing.

    Args:
        whole: the batches of all processes.
        rank: of this process.
        world: how many there are.
    """

    def __init__(self, whole: Batches, rank: int, world: int) -> None:
        self.whole, self.rank, self.world = whole, rank, world
        super().__init__(whole.size, whole.seed)

    @property
    def rows(self) -> int:
        """Number of samples of all processes."""
        return self.whole.rows

    def __iter__(self) -> Iterator[Batch]:
        self.whole.epoch = self.epoch
        for batch in self.whole:
            own = torch.arange(len(batch))[self.rank :: self.world]
            share = self.world * _size(batch.select(own)) / _size(batch) if len(own) else 0.0
            yield replace(batch.select(own if len(own) else torch.zeros(1, dtype=torch.int64)), share=share)


def _size(batch: Batch) -> float:
    return float(len(batch)) if batch.weight is None else float(batch.weight.sum())
