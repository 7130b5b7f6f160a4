"""Categories as columns of 0 and 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equifuse.encoders.preparation.base import Kind, Preparation, Sample, whole_number
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
