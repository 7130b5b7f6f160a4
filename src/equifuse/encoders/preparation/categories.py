"""Categories as columns of 0 and 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from equifuse.encoders.preparation.base import LEARNT, Kind, Preparation, Sample, whole_number
from equifuse.errors import InputError
from equifuse.registry import PREPARATIONS

_MOST = 100


@PREPARATIONS.register
class OneHot(Preparation):
    """A column of 0 and 1 for each category of the training part, instead of the category's code.

    >>> from equifuse.encoders.preparation import Sample
    >>> step = OneHot()
    >>> step.learn(Sample(torch.tensor([[0.0], [2.0], [float("nan")]]), ("category",)))
    >>> step(torch.tensor([[2.0], [7.0]])).tolist()  # 7 was never seen: as what was empty
    [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]

    A last column of each category feature stands for what is empty, for categories beyond the most frequent, and for
    those that the training part does not have, if it has any of the former; else these are 0 in all columns, so that
    nothing untrained acts on a prediction. It is there by itself wherever a modality has categories.

    Args:
        most: largest number of categories of a feature that get a column, the most frequent ones, ≥ 1; default 100.

    Raises:
        InputError: it is no such number.
    """

    name: ClassVar[str] = "onehot"
    usage: ClassVar[str] = "onehot[:MOST]"
    early: ClassVar[bool] = True
    numbers: Tensor
    origins: Tensor
    codes: Tensor
    groups: Tensor
    others: Tensor

    def __init__(self, most: int = _MOST) -> None:
        super().__init__()
        self.most = whole_number("the number of categories of onehot", most)

    def learn(self, sample: Sample) -> None:
        """Which categories there are; see :class:`Preparation`."""
        origins: list[int] = []
        codes: list[float] = []
        others: list[int] = []
        for i in np.flatnonzero(sample.mask("category").numpy()):
            column = sample.x[:, int(i)]
            values, counts = torch.unique(column[~column.isnan()], return_counts=True)
            frequent = values[counts.argsort(descending=True, stable=True)[: self.most]].sort().values
            origins += [int(i)] * len(frequent)
            codes += frequent.tolist()
            if len(frequent) < len(values) or bool(column.isnan().any()):
                others.append(int(i))
        self.keep(
            numbers=torch.nonzero(~sample.mask("category")).squeeze(1),
            origins=torch.tensor(origins, dtype=torch.int64),
            codes=torch.tensor(codes, dtype=torch.float64),
            others=torch.tensor(others, dtype=torch.int64),
            groups=torch.tensor([[o == i for i in others] for o in origins], dtype=torch.float64).reshape(
                len(origins), len(others)
            ),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(…, l) -> (…, numbers + categories + others)``."""
        hot = (x.index_select(-1, self.origins) == self.codes.to(x)).to(x)
        parts = [x.index_select(-1, self.numbers), hot]
        if len(self.others):
            parts.append(1 - hot @ self.groups.to(x))
        return torch.cat(parts, dim=-1)

    def sources(self, width: int) -> NDArray[np.int64]:
        """See :class:`Preparation`."""
        parts = (self.numbers, self.origins, self.others)
        return np.concatenate([part.cpu().numpy() for part in parts])

    def kinds(self, before: Sequence[Kind]) -> tuple[Kind, ...]:
        """See :class:`Preparation`."""
        made = ("part",) * (len(self.origins) + len(self.others))
        return tuple(before[int(i)] for i in self.numbers) + made


@PREPARATIONS.register
class Embed(OneHot):
    """A learnt vector for each category of the training part, instead of the category's code.

    >>> from equifuse.encoders.preparation import Sample
    >>> step = Embed(2)
    >>> step.learn(Sample(torch.tensor([[0.0], [2.0], [2.0]]), ("category",)))
    >>> x = step(torch.tensor([[0.0], [2.0], [7.0]]))
    >>> x.shape, x[2].tolist()  # 7 was never seen
    (torch.Size([3, 2]), [0.0, 0.0])

    The vectors begin as random numbers and are trained along with the encoder. A vector of its own, which begins as
    zeros, is that of what is empty, of categories beyond the 100 most frequent, and of those that the training part
    does not have; it stays zeros where the training part has no such row. Other columns stay as they are.

    Args:
        width: of a vector, ≥ 1; default 8.

    Raises:
        InputError: it is no such number.
    """

    name: ClassVar[str] = "embed"
    usage: ClassVar[str] = "embed[:WIDTH]"
    features: Tensor
    members: Tensor
    shares: Tensor

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.size = whole_number("the width of embed", width)

    def learn(self, sample: Sample) -> None:
        """Which categories there are, and their first vectors; see :class:`Preparation`."""
        super().learn(sample)
        features = torch.nonzero(sample.mask("category")).squeeze(1)
        if not len(features):
            raise InputError(f"{self.spec}: the modality has no category; --column NAME=category says what is one")
        members = (self.origins[:, None] == features[None, :]).double()
        hot = (sample.x[:, self.origins] == self.codes).double()
        self.keep(features=features, members=members, shares=torch.cat([hot, 1 - hot @ members], dim=1).mean(0))
        self._make()
        with torch.no_grad():
            known = torch.randn(len(self.codes), self.size, generator=torch.Generator().manual_seed(0))
            self.vectors[: len(known)] = known

    def _make(self) -> None:
        self.vectors = nn.Parameter(torch.zeros(len(self.codes) + len(self.features), self.size))

    def restore(self, width: int, arrays: Mapping[str, Sequence[Any]]) -> Self:
        """See :class:`Preparation`; a place for the vectors as well."""
        super().restore(width, arrays)
        self._make()
        return self

    @property
    def mean(self) -> Tensor:
        """The mean of what the step makes of the categories of the training part, with the vectors as they are now."""
        count, vectors = len(self.codes), self.vectors.detach()
        weighted = self.shares.to(vectors)[:, None] * vectors
        return (self.members.to(vectors).T @ weighted[:count] + weighted[count:]).flatten()

    def forward(self, x: Tensor) -> Tensor:
        """``(…, l) -> (…, numbers + features · width)``."""
        hot = (x.index_select(-1, self.origins) == self.codes.to(x)).to(x)
        members, vectors, count = self.members.to(x), self.vectors.to(x), len(self.codes)
        known = torch.einsum("...h,hk,hf->...fk", hot, vectors[:count], members)
        unknown = (1 - hot @ members).unsqueeze(-1) * vectors[count:]
        return torch.cat([x.index_select(-1, self.numbers), (known + unknown).flatten(-2)], dim=-1)

    def sources(self, width: int) -> NDArray[np.int64]:
        """See :class:`Preparation`."""
        features = self.features.cpu().numpy()
        return np.concatenate([self.numbers.cpu().numpy(), np.repeat(features, self.size)])

    def kinds(self, before: Sequence[Kind]) -> tuple[Kind, ...]:
        """See :class:`Preparation`."""
        return tuple(before[int(i)] for i in self.numbers) + (LEARNT,) * (len(self.features) * self.size)
