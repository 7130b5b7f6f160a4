"""Differences between batches (sites, plates, scanners) taken out of features."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equifuse.encoders.preparation.base import Sample
from equifuse.encoders.preparation.transforms import OfNumbers
from equifuse.errors import InputError
from equifuse.registry import PREPARATIONS

# The iteration of the posterior: relative change at which it ends, as in the authors' code, and most steps.
_TOLERANCE, _STEPS = 1e-4, 1000


class ByBatch(OfNumbers):
    """Base of the steps that know the batch of each row from a column of the modality, which they drop.

    A row is changed by ``(x - shift) / scale + centre``, shift and scale being those of its batch, the first of those
    stored for a row of no batch of the training part.

    Args:
        column: name of the column, a category or a number; it has to be one of the modality's.
    """

    place: Tensor
    others: Tensor
    batches: Tensor
    means: Tensor
    scales: Tensor

    def __init__(self, column: str) -> None:
        super().__init__()
        self.column = str(column)

    def rows_of(self, sample: Sample) -> list[Tensor]:
        """The other columns: of all rows, and of the rows of each batch.

        Raises:
            InputError: the modality has no such column, or no other.
        """
        if self.column not in sample.names:
            some = ", ".join(sample.names[:5]) or "columns without names"
            raise InputError(
                f"{self.spec}: the modality has no column {self.column!r}; it has {some}; name the column among those "
                f"of the modality, such as --modality mrna='g_*, {self.column}'"
            )
        place = sample.names.index(self.column)
        others = torch.tensor([i for i in range(sample.width) if i != place], dtype=torch.int64)
        if not len(others):
            raise InputError(f"{self.spec}: the modality has no column beside {self.column!r}")
        which, x = sample.x[:, place], sample.x[:, others]
        batches = torch.unique(which[~which.isnan()])
        numbers = sample.mask("number")[others]
        self.keep(place=torch.tensor([place]), others=others, batches=batches, numbers=numbers)
        return [x, *(x[which == batch] for batch in batches)]

    def of_batch(self, x: Tensor, arrays: Tensor) -> Tensor:
        """Of each row, the row of ``arrays`` ``(1 + batches, l - 1)`` of its batch."""
        is_batch = (x.index_select(-1, self.place) == self.batches.to(x)).to(x)
        none = 1 - is_batch.sum(-1, keepdim=True)
        return torch.cat([none, is_batch], dim=-1) @ arrays.to(x)

    def forward(self, x: Tensor) -> Tensor:
        """``(…, l) -> (…, l - 1)``."""
        rest = x.index_select(-1, self.others)
        return self._only_numbers((rest - self.of_batch(x, self.means)) / self.of_batch(x, self.scales), rest)

    def sources(self, width: int) -> NDArray[np.int64]:
        """See :class:`Preparation`."""
        found: NDArray[np.int64] = self.others.cpu().numpy()
        return found


@PREPARATIONS.register
class Batch(ByBatch):
    """Standardise the other features within each batch (site, plate, scanner) that a column of the modality names.

    >>> from equifuse.encoders.preparation import Sample
    >>> step = Batch("site")
    >>> rows = torch.tensor([[1.0, 0.0], [3.0, 0.0], [11.0, 1.0], [13.0, 1.0]])
    >>> step.learn(Sample(rows, ("number", "category"), ("g", "site")))
    >>> step(rows).squeeze(1).tolist()
    [-1.0, 1.0, -1.0, 1.0]

    The column itself is dropped. A row of a batch that the training part does not have, or without one, is
    standardised by the whole training part: what its own batch adds cannot be known of a single row.

    Args:
        column: name of the column, a category or a number; it has to be one of the modality's.

    Raises:
        InputError: no name; the modality has no such column, or no other.
    """

    name: ClassVar[str] = "batch"
    usage: ClassVar[str] = "batch:COLUMN"

    def learn(self, sample: Sample) -> None:
        """Means and deviations of each batch; see :class:`Preparation`."""
        groups = self.rows_of(sample)
        means, scales = zip(*(_moments(group, self.numbers) for group in groups), strict=True)
        # What a batch does not have at all is as in the whole training part.
        mean = torch.stack(means)
        mean = torch.where(mean.isnan(), mean[0].nan_to_num(), mean)
        self.keep(means=mean, scales=torch.stack(scales))


@PREPARATIONS.register
class Combat(ByBatch):
    """ComBat: take out of each feature what a batch adds to it and multiplies it by (Johnson, Li & Rabinovic 2007).

    >>> from equifuse.encoders.preparation import Sample
    >>> site = torch.arange(200) % 2
    >>> rows = torch.randn(200, 6, generator=torch.Generator().manual_seed(0)) + 3.0 * site[:, None]
    >>> step = Combat("site")
    >>> rows = torch.column_stack([rows, site])
    >>> step.learn(Sample(rows, ("number",) * 6 + ("category",), (*"abcdef", "site")))
    >>> after = step(rows)
    >>> round(float((after[site == 1] - after[site == 0]).mean().abs()), 1)
    0.0

    Location ``γ`` and scale ``δ`` of a batch are estimated for each feature by parametric empirical Bayes: shrunk
    towards what the batch does to all features, by a normal and an inverse gamma prior (their section 3.2, iterated).
    They are estimated on the training part once and then stay; a new row of a known batch is adjusted by them. A row
    of a batch that the training part does not have, or without one, stays as it is: nothing is known of its batch. The
    column itself is dropped. Targets are not looked at, so that a class that only one batch has goes with the batch.

    Args:
        column: name of the column, a category or a number; it has to be one of the modality's.

    Raises:
        InputError: no such column; one batch alone, one of a single row, or less than two features that vary.
    """

    name: ClassVar[str] = "combat"
    usage: ClassVar[str] = "combat:COLUMN"
    centre: Tensor

    def learn(self, sample: Sample) -> None:
        """Location and scale of each batch; see :class:`Preparation`."""
        whole, *groups = self.rows_of(sample)
        few = next((int(b) for b, group in zip(self.batches, groups, strict=True) if len(group) < 2), None)
        if len(groups) < 2 or few is not None:
            raise InputError(
                f"{self.spec} needs two batches or more in the training part, of two rows each or more; "
                + ("there is one" if len(groups) < 2 else f"number {few} of {len(groups)} has one row")
            )
        counts = torch.stack([(~group.isnan()).sum(0) for group in groups]).double()
        means = torch.stack([group.nanmean(0) for group in groups])
        total = counts.sum(0)
        centre = (counts * means.nan_to_num()).sum(0) / total.clamp(min=1)
        inside = torch.stack([(g - m).square().nansum(0) for g, m in zip(groups, means, strict=True)])
        deviation = (inside.sum(0) / total.clamp(min=1)).sqrt()
        used = self.numbers & (deviation > 1e-7 * centre.abs() + 1e-30)
        if int(used.sum()) < 2:
            raise InputError(f"{self.spec} needs two features that vary or more; use batch:{self.column}")
        shift, scale = (
            torch.zeros(len(groups), whole.shape[1]).double(),
            torch.ones(len(groups), whole.shape[1]).double(),
        )
        for i, group in enumerate(groups):
            z = (group[:, used] - centre[used]) / deviation[used]
            shift[i, used], scale[i, used] = _posterior(z)
        width = torch.where(used, deviation, 0.0)
        nothing = torch.zeros_like(shift[:1])
        # What is taken away and added again is the centre, so that a row stays in the feature's own units.
        self.keep(
            means=torch.cat([nothing, shift * width]) + centre,
            scales=torch.cat([nothing + 1, scale]),
            centre=centre,
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(…, l) -> (…, l - 1)``."""
        rest = x.index_select(-1, self.others)
        adjusted = (rest - self.of_batch(x, self.means)) / self.of_batch(x, self.scales) + self.centre.to(x)
        return self._only_numbers(adjusted, rest)


def _posterior(z: Tensor) -> tuple[Tensor, Tensor]:
    """Location ``γ*`` and scale ``δ*`` of a batch ``(n, G)``, standardised over all batches; each ``(G,)``."""
    n = (~z.isnan()).sum(0).double()
    location = z.nanmean(0)
    variance = (z - location).square().nansum(0) / (n - 1)
    known = n > 1
    mean, spread = location[known].mean(), location[known].var()
    level, noise = variance[known].mean(), variance[known].var()
    noise = noise.clamp(min=1e-12 * level.square() + 1e-30)  # equal variances: the prior is sure of itself
    shape, rate = (2 * noise + level**2) / noise, (level * noise + level**3) / noise
    gamma, delta = location.nan_to_num(nan=float(mean)), torch.where(known, variance, level)
    for _ in range(_STEPS):
        new = (n * spread * location.nan_to_num() + delta * mean) / (n * spread + delta)
        squares = (z - new).square().nansum(0)
        after = (squares / 2 + rate) / (n / 2 + shape - 1)
        change = torch.stack([(new - gamma).abs() / gamma.abs().clamp(min=1e-30), (after - delta).abs() / delta]).max()
        gamma, delta = new, after
        if change < _TOLERANCE:
            break
    return gamma, delta.sqrt()


def _moments(x: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each column's cells that are not empty; deviation 1 where there is none."""
    mean = x.nanmean(0)
    deviation = (x - mean).square().nanmean(0).sqrt()
    usable = numbers & (deviation > 1e-7 * mean.abs() + 1e-30)
    return mean, torch.where(usable, deviation, 1.0)
