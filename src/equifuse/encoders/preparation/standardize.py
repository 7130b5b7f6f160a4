"""Standardising as a layer of the model, so that a stored model takes raw features."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from equifuse.encoders.preparation.base import LEARNT, Preparation, Sample
from equifuse.encoders.preparation.outliers import usual_range
from equifuse.encoders.sequence import valid_steps
from equifuse.errors import InputError
from equifuse.registry import PREPARATIONS

# Beyond this size float32 lacks whole numbers; a deviation below this part of the mean is a few dozen of its steps.
_WHOLE, _ROUNDED = 2.0**24, 4e-6


@PREPARATIONS.register
class Standardize(Preparation):
    """Standardise features to mean 0 and deviation 1, as a layer of the model: a stored model then takes raw features.

    A feature that is constant in the training part is 0, whatever it is later: nothing was learnt about it.

    >>> layer = ef.encoders.Standardize((2,))
    >>> layer.fit(torch.tensor([[0.0, 10.0], [2.0, 30.0]]))
    >>> layer(torch.tensor([[2.0, 20.0]]))
    tensor([[1., 0.]])

    Args:
        shape: trailing shape of one sample, or of one step if the samples are sequences.
        clip: largest absolute value after standardising, > 0, or None for no bound; default 5.

    Raises:
        InputError: ``clip`` is not positive.
    """

    name: ClassVar[str] = "standardise"
    usage: ClassVar[str] = "standardise[:CLIP]"
    mean: Tensor
    scale: Tensor

    def __init__(self, shape: tuple[int, ...], clip: float | None = 5.0) -> None:
        super().__init__()
        if clip is not None and not (isinstance(clip, int | float) and clip > 0):
            raise InputError(f"clip must be positive or None, got {clip}")
        self.clip = clip
        self.keep(mean=torch.zeros(shape), scale=torch.ones(shape))
        self._left: Tensor | None = None  # bool, columns that stay as they are; while fitting
        self._usual: tuple[Tensor, Tensor] | None = None  # lower and upper end of what is no outlier; while fitting
        self._seen: tuple[Tensor, Tensor, Tensor] | None = None  # count, mean, sum of squared deviations; while fitting

    @classmethod
    def of_words(cls, *words: Any) -> Self:
        """See :class:`Preparation`; the shape is that of the rows it is fitted on."""
        return cls((), *words)

    def learn(self, sample: Sample) -> None:
        """Mean and deviation of each column, and of the cells that are not empty; see :class:`Preparation`."""
        self.begin(sample)
        mean, deviation = _moments(self._within(sample.x), sample.weight)
        self._set(mean, deviation)

    def begin(self, sample: Sample) -> None:
        """Start anew with the columns of a sample of the training part, which says what their outliers are.

        Mean and deviation look past outliers (``usual_range``), which would squeeze all other values to
        nothing.
        """
        low, high = (torch.from_numpy(end) for end in usual_range(sample.x.cpu().numpy()))
        self.resize(sample.width, sample.mask(LEARNT))
        self._usual = None if bool(low.isinf().all()) else (low, high)

    def resize(self, width: int, left: Tensor | None = None) -> None:
        """Start anew with vectors of ``width`` features, of which those of bool ``left`` are to stay as they are."""
        self.width, self._left, self._usual = width, left, None
        self.keep(mean=torch.zeros(width, dtype=torch.float64), scale=torch.ones(width, dtype=torch.float64))

    def restore(self, width: int, arrays: Mapping[str, Sequence[Any]]) -> Self:
        """See :class:`Preparation`."""
        self.width = width
        self.keep(**{name: torch.zeros([int(n) for n in shape]) for name, (_, *shape) in arrays.items()})
        return self

    def fit(self, x: Tensor, lengths: Tensor | None = None) -> None:
        """Set mean and deviation of each feature from ``x`` ``(n, *shape)``."""
        self.update(x, lengths)
        self.finish()

    @torch.no_grad()
    def update(self, x: Tensor, lengths: Tensor | None = None, weight: Tensor | None = None) -> None:
        """Add a piece of the training part; call :meth:`finish` after the last one (Chan et al. 1979).

        Args:
            x: ``(n, *shape)``, or sequences ``(n, T, *shape)``.
            lengths: int64 ``(n,)``, numbers of valid steps of the sequences; None for all.
            weight: ``(n,)``, ≥ 0, weight of each sample; None for equal weights.
        """
        weight = torch.ones(len(x), device=x.device) if weight is None else weight
        if x.dim() > self.mean.dim() + 1:
            steps = valid_steps(x, lengths)
            x, weight = x[steps], weight[:, None].expand_as(steps)[steps]
        if not bool(weight.any()):
            return
        x, weight = self._within(x.double()), weight.double()
        count = weight.sum()
        mean = torch.tensordot(weight, x, 1) / count
        deviations = torch.tensordot(weight, (x - mean).square_(), 1)
        if self._seen is not None:
            before, old_mean, old_deviations = self._seen
            apart = mean - old_mean
            mean = old_mean + apart * (count / (before + count))
            deviations += old_deviations + apart.square() * (before * count / (before + count))
            count += before
        self._seen = count, mean, deviations

    @torch.no_grad()
    def finish(self) -> None:
        """Set mean and deviation from all pieces; without any, leave them unchanged."""
        if self._seen is None:
            return
        count, mean, deviations = self._seen
        self._set(mean, (deviations / count).sqrt())
        self._seen = None

    def _within(self, x: Tensor) -> Tensor:
        """Values without their outliers, see :func:`replace_outliers`."""
        return x if self._usual is None else replace_outliers(x, *self._usual)

    def _set(self, mean: Tensor, deviation: Tensor) -> None:
        rounded = (deviation < _ROUNDED * mean.abs()) & (mean.abs() > _WHOLE)
        if bool(rounded.any()):
            warnings.warn(
                f"{int(rounded.sum())} features are numbers such as {float(mean[rounded][0]):.12g} that hardly differ "
                "in single precision; subtract an offset from them",
                stacklevel=3,
            )
        self.mean.copy_(mean)
        self.scale.copy_(_or(0.0, deviation, mean))
        if self._left is not None:
            left = self._left.to(self.mean.device)
            self.mean.masked_fill_(left, 0.0)
            self.scale.masked_fill_(left, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, *shape) -> (B, *shape)``."""
        scale = self.scale.to(x)
        varies = scale > 0
        x = (x - self.mean.to(x)) / torch.where(varies, scale, 1.0) * varies
        return x if self.clip is None else x.clamp(-self.clip, self.clip)


def replace_outliers(x: Tensor, low: Tensor, high: Tensor, *, by: float | None = None) -> Tensor:
    """Values ``(n, l)`` with ``by`` in the place of those that are not usual, not within ``low`` to ``high`` ``(l,)``.

    Without ``by`` it is the middle of the two.
    """
    low, high = low.to(x), high.to(x)
    return torch.where((x < low) | (x > high), (low + high) / 2 if by is None else by, x)


def moments(x: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the cells of each column of ``(n, l)`` that are not empty; deviation 1 of a constant."""
    mean, deviation = _moments(x, weight)
    return mean, _or(1.0, deviation, mean)


def _moments(x: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    if weight is None and not bool(x.isnan().any()):
        variance, mean = torch.var_mean(x, 0, correction=0)
        return mean, variance.sqrt()
    counted = (torch.ones(len(x), dtype=x.dtype) if weight is None else weight.to(x))[:, None] * ~x.isnan()
    count = counted.sum(0).clamp(min=1e-300)
    mean = (counted * x.nan_to_num()).sum(0) / count
    return mean, ((counted * (x - mean).nan_to_num().square()).sum(0) / count).sqrt()


def _or(constant: float, deviation: Tensor, mean: Tensor) -> Tensor:
    """The deviations; of a feature that is constant up to the rounding of its own mean another number."""
    return torch.where(deviation <= 1e-7 * mean.abs() + 1e-30, constant, deviation)
