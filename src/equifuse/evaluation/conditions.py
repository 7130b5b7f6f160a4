"""What samples can be made to lack: modalities, a share of them, clean values, or their order.

A :class:`Condition` has a name that can be read back, and damages a split when it is called. Robustness, the benchmark,
``equifuse evaluate --without`` and modality dropout in training all take modalities away with what is in this file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from equifuse.data.batch import Batch
from equifuse.data.dataset import Split
from equifuse.data.lazy import Features, in_memory, select
from equifuse.data.loaders import mix
from equifuse.errors import InputError

Seed = int | Sequence[int]
_AND = " + "
# With more modalities than this, single ones and pairs are kept or removed, not every subset.
_MOST_SUBSETS = 6


class Condition(ABC):
    """What is done to every sample of a split before a model sees it.

    Call it with a split, and with a seed where something is drawn.

    Example:
        >>> import numpy as np
        >>> from equifuse.datasets import Split
        >>> from equifuse.evaluation.conditions import Condition, Missing
        >>> split = Split({"text": np.ones((4, 2), np.float32), "image": np.ones((4, 3), np.float32)})
        >>> list(Condition.parse("without image")(split).inputs)
        ['text']
        >>> Missing(0.5).name, Missing(0.5)(split, seed=1).present["text"].shape
        ('missing 0.5', (4,))

    Attributes:
        random: whether a seed changes what it does.
    """

    random: ClassVar[bool] = False

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is called in tables and stores; :meth:`parse` reads it."""

    @property
    def kind(self) -> str:
        """The name under which conditions of several modalities are averaged: ``"without one"``, ``"only one"``."""
        return self.name

    @abstractmethod
    def __call__(self, split: Split, seed: Seed = 0) -> Split:
        """The damaged split; the given one is left as it is.

        Args:
            split: the samples.
            seed: of what is drawn.
        """

    @staticmethod
    def parse(name: str) -> Condition:
        """The condition of a name: ``"intact"``, ``"without a + b"``, ``"only a"``, ``"missing 0.5"``,
        ``"noise 2 on a"``, ``"permuted a"``.

        Raises:
            InputError: it is none of these.
        """
        word, _, rest = name.strip().partition(" ")
        modalities = tuple(part.strip() for part in rest.split(_AND)) if rest.strip() else ()
        if word == "intact" and not rest:
            return Intact()
        if word in ("without", "only") and modalities:
            return Without(modalities) if word == "without" else Only(modalities)
        if word == "missing" and _number(rest) is not None:
            return Missing(float(rest))
        if word == "permuted" and rest:
            return Permuted(rest)
        level, on, modality = rest.partition(" on ")
        if word == "noise" and on and _number(level) is not None:
            return Noise(modality, float(level))
        raise InputError(
            f"no condition {name!r}; write 'intact', 'without NAME', 'only NAME' (several: 'a + b'), 'missing 0.5', "
            "'noise 2 on NAME' or 'permuted NAME'"
        )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


@dataclass(frozen=True)
class Intact(Condition):
    """Nothing is done."""

    @property
    def name(self) -> str:
        """``"intact"``."""
        return "intact"

    def __call__(self, split: Split, seed: Seed = 0) -> Split:
        """The split itself."""
        del seed
        return split


@dataclass(frozen=True)
class Without(Condition):
    """Whole modalities are taken away from every sample.

    Args:
        modalities: their names.
    """

    modalities: tuple[str, ...]

    @property
    def name(self) -> str:
        """``"without a + b"``."""
        return f"without {_AND.join(self.modalities)}"

    @property
    def kind(self) -> str:
        """``"without one"``."""
        return "without one" if len(self.modalities) == 1 else self.name

    def __call__(self, split: Split, seed: Seed = 0) -> Split:
        """The split without them; see :meth:`~equifuse.datasets.Split.without` for the errors."""
        del seed
        return split.without(self.modalities)


@dataclass(frozen=True)
class Only(Condition):
    """All modalities but some are taken away from every sample.

    Args:
        modalities: names of those that stay.
    """

    modalities: tuple[str, ...]

    @property
    def name(self) -> str:
        """``"only a + b"``."""
        return f"only {_AND.join(self.modalities)}"

    @property
    def kind(self) -> str:
        """``"only one"``."""
        return "only one" if len(self.modalities) == 1 else self.name

    def __call__(self, split: Split, seed: Seed = 0) -> Split:
        """The split with these alone; see :meth:`~equifuse.datasets.Split.without` for the errors."""
        del seed
        split.without([m for m in self.modalities if m not in split.inputs])  # refuses unknown names
        return split.without([m for m in split.inputs if m not in self.modalities])


@dataclass(frozen=True)
class Missing(Condition):
    """Each modality of each sample is hidden with a probability, but never the last one that a sample has.

    Args:
        rate: the probability, in [0, 1).

    Raises:
        InputError: the rate is out of range.
    """

    rate: float
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise InputError(f"rates must be in [0, 1), got {self.rate}")

    @property
    def name(self) -> str:
        """``"missing 0.5"``."""
        return f"missing {self.rate:g}"

    def __call__(self, split: Split, seed: Seed = 0) -> Split:
        """The split with fewer rows present."""
        return hide(split, self.rate, np.random.default_rng(seed))


@dataclass(frozen=True)
class Noise(Condition):
    """Normal noise is added to one modality.

    Args:
        modality: its name.
        level: standard deviation of the noise, in units of ``deviation``, ≥ 0.
        deviation: of each feature, broadcast over them; default 1.

    Raises:
        InputError: the level is negative.
    """

    modality: str
    level: float
    deviation: Any = field(default=1.0, compare=False)
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.level >= 0:
            raise InputError(f"noise must not be negative, got {self.level}")

    @property
    def name(self) -> str:
        """``"noise 2 on a"``."""
        return f"noise {self.level:g} on {self.modality}"

    def __call__(self, split: Split, seed: Seed = 0) -> Split:
        """The split with noisy values."""
        return add_noise(split, self.modality, self.level * self.deviation, np.random.default_rng(seed))


@dataclass(frozen=True)
class Permuted(Condition):
    """Each sample gets one modality of another sample: what is left is what the others say.

    Args:
        modality: its name.
    """

    modality: str
    random: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """``"permuted a"``."""
        return f"permuted {self.modality}"

    def __call__(self, split: Split, seed: Seed = 0) -> Split:
        """The split with that modality's rows in another order."""
        return permute(split, self.modality, np.random.default_rng(seed))


def without_each(modalities: Sequence[str], least: int = 1) -> list[Condition]:
    """Each modality taken away in turn; none where fewer than ``least`` would be left.

    Example:
        >>> [condition.name for condition in without_each(["a", "b"])]
        ['without a', 'without b']
        >>> without_each(["a", "b"], least=2)
        []
    """
    return [Without((m,)) for m in modalities] if len(modalities) > least else []


def only_each(modalities: Sequence[str], least: int = 1) -> list[Condition]:
    """Each modality alone; none where there is no other one, or one alone is fewer than ``least``."""
    return [Only((m,)) for m in modalities] if len(modalities) > least == 1 else []


def subsets(modalities: Sequence[str], least: int = 1) -> list[Only]:
    """Every subset of at least ``least`` modalities; of more than six only single ones, all, and all but one or two."""
    count = len(modalities)
    sizes = range(1, count + 1) if count <= _MOST_SUBSETS else sorted({1, count - 2, count - 1, count})
    return [Only(kept) for size in sizes if size >= least for kept in combinations(modalities, size)]


def kind_of(name: str) -> str:
    """The kind of the condition of a name; see :attr:`Condition.kind`. A name that is none is its own kind."""
    word, _, rest = name.partition(" ")
    return f"{word} one" if word in ("without", "only") and rest else name


def hide(split: Split, rate: float, generator: np.random.Generator) -> Split:
    """Hide each modality of each sample with probability ``rate``, but never the last one that a sample has.

    Args:
        split: the samples.
        rate: in [0, 1).
        generator: of the draws.
    """
    names = list(split.inputs)
    has = np.stack([split.present.get(m, np.ones(len(split), dtype=bool)) for m in names])
    draws = torch.Generator().manual_seed(int(generator.integers(2**31)))
    keep = keep_some(torch.from_numpy(has), rate, draws).numpy()
    return replace(split, present=dict(zip(names, keep, strict=True)))


def permute(split: Split, modality: str, generator: np.random.Generator) -> Split:
    """Give each sample the modality of another one: what is left is what the others say."""
    order = generator.permutation(len(split))
    present, lengths = dict(split.present), dict(split.lengths)
    if modality in present:
        present[modality] = present[modality][order]
    if modality in lengths:
        lengths[modality] = lengths[modality][order]
    inputs = {m: select(x, order) if m == modality else x for m, x in split.inputs.items()}
    return replace(split, inputs=inputs, present=present, lengths=lengths)


def add_noise(split: Split, modality: str, scale: Any, generator: np.random.Generator) -> Split:
    """Add normal noise of standard deviation ``scale`` (broadcast over the features) to a modality."""
    x = in_memory(split.inputs[modality])
    noisy: Features = (x + generator.standard_normal(x.shape, dtype=np.float32) * np.float32(scale)).astype(np.float32)
    return replace(split, inputs={**split.inputs, modality: noisy})


def drop_modalities(
    batch: Batch, probability: float | Mapping[str, float], generator: torch.Generator | None = None
) -> Batch:
    """Hide modalities of a batch as :class:`Missing` does of a split.

    Example:
        >>> import torch
        >>> from equifuse.data.batch import Batch
        >>> from equifuse.evaluation.conditions import drop_modalities
        >>> batch = Batch({"a": torch.zeros(4, 2), "b": torch.zeros(4, 3)})
        >>> drop_modalities(batch, {"b": 0.999}).present["a"]
        tensor([True, True, True, True])

    Args:
        batch: the samples of a training step.
        probability: of each modality of each sample, one for all or by modality (0 for those that are not named); a
            sample never loses the last one that it has.
        generator: of the draws, on the CPU; None for PyTorch's own, where the samples are.
    """
    names = list(batch.inputs)
    every = torch.ones(len(batch), dtype=torch.bool, device=batch.inputs[names[0]].device)
    has = torch.stack([batch.present.get(m, every) for m in names])
    if isinstance(probability, Mapping):
        rates = torch.tensor([[probability.get(m, 0.0)] for m in names], device=has.device)
        keep = keep_some(has, rates, generator)
    else:
        keep = keep_some(has, probability, generator)
    return replace(batch, present=dict(zip(names, keep, strict=True)))


def reduced(batch: Batch, probability: float | Mapping[str, float], seed: int, number: int) -> Batch:
    """A batch of the validation part with modalities hidden: the same ones each time.

    Args:
        batch: the samples.
        probability: see :func:`drop_modalities`.
        seed: of the training.
        number: of the batch in its part.
    """
    return drop_modalities(batch, probability, torch.Generator().manual_seed(mix(seed, number)))


def keep_some(has: Tensor, probability: float | Tensor, generator: torch.Generator | None = None) -> Tensor:
    """What is left of bool ``(M, B)``, which sample has which modality, if each is taken with this probability.

    A sample never loses the last one; one that has nothing keeps having nothing.
    """
    drawn_at = has.device if generator is None else generator.device
    draw = torch.rand(has.shape, device=drawn_at, generator=generator).to(has.device).masked_fill(~has, -1.0)
    keep = has & (draw >= probability)
    # Where all would go, the luckiest draw stays.
    lucky = torch.nn.functional.one_hot(draw.argmax(0), len(has)).T.bool() & has
    return torch.where(keep.any(0), keep, lucky)
