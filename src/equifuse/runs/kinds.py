"""How the members of an ensemble come about: what each is trained on, by which trainings, with which seeds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from equifuse.data import MultimodalDataset, Split
from equifuse.data.lazy import Indices
from equifuse.data.loaders import mix
from equifuse.errors import InputError
from equifuse.runs.config import TrainConfig
from equifuse.runs.folds import bag_of, bagged
from equifuse.training.cycles import check_cycles


class Kind(ABC):
    """A way to make the members of an ensemble; they are numbered from 0, and a training makes one or several of them.

    >>> from equifuse.runs.kinds import kind_of
    >>> config = TrainConfig("digits", ensemble=3, ensemble_by="snapshots")
    >>> kind_of(config).cycles(config)
    3

    Attributes:
        name: what users call it.
        draws_folds: whether each member stops on rows of its own, drawn from training and validation part together; if
            not, all train on the one and stop on the other.
    """

    name: ClassVar[str]
    draws_folds: ClassVar[bool] = False

    @abstractmethod
    def check(self, config: TrainConfig) -> None:
        """Refuse options that mean nothing for this kind.

        Raises:
            InputError: there are some.
        """

    def cycles(self, config: TrainConfig) -> int:
        """How many members a training makes, one in each cycle of its learning rate."""
        return 1

    def seed(self, config: TrainConfig) -> int:
        """That of the training that makes the configuration's member."""
        return mix(config.seed, 1 + (config.member or 0)) % 2**31

    def part(self, dataset: MultimodalDataset, config: TrainConfig) -> MultimodalDataset:
        """The data set of the configuration's member: what it stops on is the validation part; the test part stays.

        Raises:
            DataError: it cannot be used.
            InputError: there are too few rows, or the data stay on disk.
        """
        return dataset

    def unseen(self, dataset: MultimodalDataset, config: TrainConfig) -> tuple[Split, list[Indices]]:
        """Rows that some members were not trained on, and numbers of those that each member stopped on.

        Raises:
            InputError: there are too few rows, or the data stay on disk.
        """
        rows = dataset.splits["val"]
        return rows, [np.arange(len(rows))] * config.members


class Folds(Kind):
    """Bagging: training and validation part are cut into folds, and each member trains on all but one."""

    name = "folds"
    draws_folds = True

    def check(self, config: TrainConfig) -> None:
        """Everything goes with folds."""

    def part(self, dataset: MultimodalDataset, config: TrainConfig) -> MultimodalDataset:
        """See :meth:`Kind.part`."""
        return bag_of(dataset, config)

    def unseen(self, dataset: MultimodalDataset, config: TrainConfig) -> tuple[Split, list[Indices]]:
        """Training and validation part as one."""
        rows, every = bagged(dataset, config)
        return rows, [stop for _, stop in every]


class Seeds(Kind):
    """Members that differ in initial weights, order of samples and dropout (Lakshminarayanan et al. 2017)."""

    name = "seeds"

    def check(self, config: TrainConfig) -> None:
        """Refuse what is nearly or wholly the same with every seed."""
        _refuse_fitted(config, "and another seed changes little or nothing")


class Snapshots(Kind):
    """Members of one training, whose learning rate falls to 0 once for each of them (Huang et al. 2017)."""

    name = "snapshots"

    def check(self, config: TrainConfig) -> None:
        """Refuse what has no learning rate, or one of its own."""
        _refuse_fitted(config, "without a learning rate that could fall")
        check_cycles(config, self.cycles(config))

    def cycles(self, config: TrainConfig) -> int:
        """As many as there are members."""
        return config.members

    def seed(self, config: TrainConfig) -> int:
        """That of a single model."""
        return config.seed


def _refuse_fitted(config: TrainConfig, why: str) -> None:
    if config.fits_at_once:
        raise InputError(f"fusion {config.fusion!r} is fitted at once, {why}; use ensemble_by folds")


KINDS: dict[str, Kind] = {kind.name: kind for kind in (Folds(), Seeds(), Snapshots())}


def kind_of(config: TrainConfig) -> Kind:
    """How the members of a configuration's ensemble come about."""
    return KINDS[config.ensemble_by]
