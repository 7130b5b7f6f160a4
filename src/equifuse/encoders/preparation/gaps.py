"""Empty cells: features that have too many are dropped, the others are filled."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equifuse.encoders.preparation.base import Kind, Preparation, Sample, share, whole_number
from equifuse.errors import InputError, UnknownNameError
from equifuse.registry import PREPARATIONS

_HOW = ("median", "mean", "indicator", "knn")
# Numbers that filling by neighbours holds at a time.
_BLOCK = 2**22
# Rows that may fill others' gaps.
_DONORS = 2000


@PREPARATIONS.register
class Impute(Preparation):
    """Fill empty cells from the training part.

    >>> from equifuse.encoders.preparation import Sample
    >>> step = Impute("median")
    >>> step.learn(Sample(torch.tensor([[1.0], [2.0], [6.0]])))
    >>> step(torch.tensor([[float("nan")], [5.0]])).tolist()
    [[2.0], [5.0]]

    ``median`` and ``mean`` are those of the feature; ``indicator`` is the median, and a column for each feature with
    gaps that says where they are; ``knn`` is the mean of the ``k`` nearest rows that have the feature, by the distance
    over the features that both rows have (Troyanskaya et al. 2001, as in scikit-learn), of at most 2000 rows. A feature
    that is empty in the whole training part is 0 everywhere: nothing was learned about it.

    Args:
        how: "median" (default), "mean", "indicator" or "knn".
        k: neighbours, ≥ 1; default 5.

    Raises:
        UnknownNameError: another word.
        InputError: ``k`` is no such number, or goes with another word.
    """

    name: ClassVar[str] = "impute"
    usage: ClassVar[str] = "impute:median|mean|indicator|knn[:K]"
    fills: ClassVar[bool] = True
    early: ClassVar[bool] = True

    fill: Tensor
    filled: Tensor
    gaps: Tensor
    donors: Tensor

    def __init__(self, how: str = "median", k: int | None = None) -> None:
        super().__init__()
        if how not in _HOW:
            raise UnknownNameError("way to impute:", str(how), _HOW)
        if k is not None and how != "knn":
            raise InputError(f"impute:{how} takes no number, got {k}")
        self.how, self.k = how, whole_number("the number of neighbours of impute:knn", 5 if k is None else k)

    def learn(self, sample: Sample) -> None:
        """Medians or means; see :class:`Preparation`."""
        x = sample.x
        empty = x.isnan()
        seen = ~empty.all(0) if len(x) else torch.zeros(sample.width, dtype=torch.bool)
        central = _means if self.how in ("mean", "knn") else _medians
        fill = torch.where(seen, central(x, sample.weight), 0.0)
        # 0: left as it is (the code of a category); 1: filled; 2: never seen.
        filled = torch.where(seen, 1, 2) * ~sample.mask("category")
        self.keep(fill=fill, filled=filled)
        if self.how == "indicator":
            self.keep(gaps=torch.nonzero(empty.any(0) & (filled == 1)).squeeze(1))
        if self.how == "knn":
            donors = x[~empty.all(1)]  # a row without any value is no neighbour of anything
            if len(donors) > _DONORS:
                donors = donors[torch.linspace(0, len(donors) - 1, _DONORS).long()]
            self.keep(donors=donors)

    def forward(self, x: Tensor) -> Tensor:
        """``(…, l) -> (…, l)``, or ``(…, l + g)`` with indicators."""
        empty = x.isnan()
        values = self._neighbours(x) if self.how == "knn" else self.fill.to(x)
        out = torch.where(empty & (self.filled == 1), values, x)
        out = torch.where(self.filled == 2, 0.0, out)
        if self.how != "indicator":
            return out
        return torch.cat([out, empty.index_select(-1, self.gaps).to(x)], dim=-1)

    def sources(self, width: int) -> NDArray[np.int64]:
        """See :class:`Preparation`."""
        own = np.arange(width)
        return np.concatenate([own, self.gaps.cpu().numpy()]) if self.how == "indicator" else own

    def kinds(self, before: Any) -> tuple[Kind, ...]:
        """Indicators are no numbers to be transformed."""
        more = ("part",) * (len(self.gaps) if self.how == "indicator" else 0)
        return (*before, *more)

    def _neighbours(self, x: Tensor) -> Tensor:
        """What the nearest rows that have a feature say, for every cell ``(…, l)``."""
        rows = x.reshape(-1, x.shape[-1])
        if torch.compiler.is_compiling():
            return self._of_donors(rows).reshape(x.shape)
        out = torch.zeros_like(rows)
        some = rows.isnan().any(1).nonzero().squeeze(1)
        size = max(1, _BLOCK // max(1, len(self.donors) * 8))
        for part in torch.split(some, size):
            out[part] = self._of_donors(rows[part])
        return out.reshape(x.shape)

    def _of_donors(self, rows: Tensor) -> Tensor:
        """``(B, l) -> (B, l)``: donors in the order of their distance, the first ``k`` that have the feature."""
        donors = self.donors.to(rows)
        use = self.filled == 1
        mine, theirs = ~rows.isnan() & use, ~donors.isnan() & use
        a, b = rows.masked_fill(~mine, 0.0), donors.masked_fill(~theirs, 0.0)
        p, q = mine.to(rows), theirs.to(rows)
        # Near ties decide who is a neighbour: the squares are summed in double precision.
        a, b, p, q = a.double(), b.double(), p.double(), q.double()
        common = p @ q.T
        squares = (a * a) @ q.T + p @ (b * b).T - 2 * a @ b.T
        distance = torch.where(common > 0, squares.clamp(min=0) / common.clamp(min=1), float("inf"))
        near, order = distance.topk(distance.shape[1], dim=1, largest=False)  # sorted
        usable = near < float("inf")
        pieces = []
        size = max(1, _BLOCK // max(1, len(donors) * (1 if torch.compiler.is_compiling() else len(rows))))
        for start in range(0, donors.shape[1], size):
            has = theirs[:, start : start + size][order] & usable[:, :, None]  # (B, n, c)
            taken = has & (has.to(torch.int64).cumsum(1) <= self.k)
            count = taken.sum(1)
            total = torch.where(taken, donors[:, start : start + size].nan_to_num()[order], 0.0).sum(1)
            fill = self.fill[start : start + size].to(rows)
            pieces.append(torch.where(count > 0, total / count.clamp(min=1), fill))
        return torch.cat(pieces, dim=1)


def enough_cells(empty: Tensor, most: float, lengths: Tensor | None = None, columns: Tensor | None = None) -> Tensor:
    """Bool ``(n,)``: rows of which not all cells are empty, and no larger share than ``most``.

    >>> from equifuse.encoders.preparation.gaps import enough_cells
    >>> enough_cells(torch.tensor([[True, False], [True, True]]), 0.5).tolist()
    [True, False]

    Args:
        empty: bool ``(n, *shape)``; of sequences ``(n, T, l)``.
        most: share that may be empty, in (0, 1].
        lengths: int64 ``(n,)``, how many steps of sequences count; None for all.
        columns: of the last axis, those that are counted; None for all.
    """
    cells = empty if columns is None else empty.index_select(-1, columns)
    if lengths is None:
        share = cells.flatten(1).double().mean(1)
    else:
        steps = torch.arange(cells.shape[1], device=cells.device) < lengths[:, None]
        counted = steps.reshape(*steps.shape, *[1] * (cells.dim() - 2)).expand_as(cells)
        share = (cells & counted).flatten(1).sum(1).double() / counted.flatten(1).sum(1).clamp(min=1).double()
    return (share < 1) & (share <= most)


def _means(x: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of each column's cells that are not empty; NaN where all are."""
    if weight is None:
        return x.nanmean(0)
    w = weight.to(x)[:, None] * ~x.isnan()
    return (w * x.nan_to_num()).sum(0) / w.sum(0)


def _medians(x: Tensor, weight: Tensor | None) -> Tensor:
    """Median of each column's cells that are not empty: the mean of the two in the middle; NaN where all are empty.

    With weights that are whole numbers, that of as many copies of each row.
    """
    found = torch.empty(x.shape[1], dtype=x.dtype)
    for columns in torch.split(torch.arange(x.shape[1]), max(1, _BLOCK // max(1, len(x)))):
        part = x[:, columns]
        if weight is None and not bool(part.isnan().any()):
            found[columns] = torch.from_numpy(np.median(part.T.contiguous().numpy(), axis=1, overwrite_input=True))
            continue
        ordered, order = (each.T for each in part.T.contiguous().sort(1))  # NaN is sorted to the end
        if weight is None:
            count = (~part.isnan()).sum(0)
            low = ((count - 1).clamp(min=0) // 2)[None]
            high = (count // 2).clamp(max=max(len(x) - 1, 0))[None]
        else:
            w = weight.to(x)[order] * ~ordered.isnan()
            reached, half = w.cumsum(0), w.sum(0) / 2
            close = 1e-9 * half
            low = (reached >= half - close).int().argmax(0)[None]
            high = (reached > half + close).int().argmax(0)[None]
        found[columns] = ((ordered.gather(0, low) + ordered.gather(0, high)) / 2)[0]
    return found


@PREPARATIONS.register
class Missing(Preparation):
    """Drop the features of which more than a share of the training rows is empty.

    >>> from equifuse.encoders.preparation import Sample
    >>> step, nan = Missing(0.4), float("nan")
    >>> step.learn(Sample(torch.tensor([[1.0, nan], [2.0, 3.0]])))
    >>> step(torch.tensor([[5.0, 6.0]])).tolist()
    [[5.0]]

    Args:
        most: share that may be empty, in [0, 1].

    Raises:
        InputError: it is no such number, or no feature is left.
    """

    name: ClassVar[str] = "missing"
    usage: ClassVar[str] = "missing:SHARE"
    early: ClassVar[bool] = True

    columns: Tensor

    def __init__(self, most: float) -> None:
        super().__init__()
        self.most = share("the share of missing", most)

    def learn(self, sample: Sample) -> None:
        """Which features stay; see :class:`Preparation`."""
        columns = torch.nonzero(sample.x.isnan().double().mean(0) <= self.most).squeeze(1)
        if not len(columns):
            raise InputError(f"{self.spec} leaves no feature: all are empty in more than {self.most:.0%} of the rows")
        self.keep(columns=columns)

    def forward(self, x: Tensor) -> Tensor:
        """``(…, l) -> (…, k)``."""
        return x.index_select(-1, self.columns)

    def sources(self, width: int) -> NDArray[np.int64]:
        """See :class:`Preparation`."""
        found: NDArray[np.int64] = self.columns.cpu().numpy()
        return found
