"""Transforms of each row or feature by itself: logarithms, inverse hyperbolic sines, log ratios, quantiles."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from equifuse.encoders.preparation.base import Preparation, Sample
from equifuse.encoders.preparation.outliers import usual_range
from equifuse.encoders.preparation.standardize import moments, replace_outliers
from equifuse.errors import InputError, UnknownNameError
from equifuse.registry import PREPARATIONS

# Quantiles that are stored of each feature.
_QUANTILES = 100
# Columns whose quantiles are found at once.
_COLUMNS = 256
# Quantiles of all features that are compared at once; more are gone through one by one.
_AT_ONCE = 2**17
# Skewness beyond which a feature is transformed, how many scales are tried, and what part of the skewness may be left:
# of a feature with two values all of it is.
_SKEWED, _SCALES, _LEFT = 2.0, 9, 0.9
# Rows that are enough to tell skewness by.
_ROWS = 2000
# A scale is no smaller: single precision divides by it.
_SMALLEST = 1e-30
# Deviations beyond which a quantile is not mapped: as in scikit-learn, the quantile of 1e-7.
_CLIP = 1e-7


class OfNumbers(Preparation):
    """A step that changes numbers, and leaves codes of categories, parts of dates and texts as they are."""

    early: ClassVar[bool] = True
    numbers: Tensor

    def _only_numbers(self, changed: Tensor, x: Tensor) -> Tensor:
        return torch.where(self.numbers, changed, x)


@PREPARATIONS.register
class Log1p(OfNumbers):
    """``log(1 + x)`` of counts and other numbers of at least 0; ``-log(1 - x)`` of what is below 0 later.

    >>> from equifuse.encoders.preparation import Sample
    >>> step = Log1p()
    >>> step.learn(Sample(torch.tensor([[0.0], [1.0]])))
    >>> step(torch.tensor([[1.0]]))
    tensor([[0.6931]])
    """

    name: ClassVar[str] = "log1p"
    usage: ClassVar[str] = "log1p"

    def learn(self, sample: Sample) -> None:
        """Refuse negative numbers; see :class:`Preparation`."""
        _need_positive(self.spec, sample)
        self.keep(numbers=sample.mask("number"))

    def forward(self, x: Tensor) -> Tensor:
        """``(…, l) -> (…, l)``."""
        return self._only_numbers(x.sign() * x.abs().log1p(), x)


@PREPARATIONS.register
class Asinh(OfNumbers):
    """``asinh((x - end) / size)`` of skewed features, such as counts and concentrations; others stay as they are.

    >>> from equifuse.encoders.preparation import Sample
    >>> g = torch.linspace(-2.0, 2.0, 21)
    >>> step = Asinh()
    >>> step.learn(Sample(torch.stack([g, torch.exp(3 * g)], dim=1)))
    >>> step.numbers.tolist()
    [False, True]

    The inverse hyperbolic sine is linear near 0 and a logarithm of either sign far from it. ``end`` is the training
    part's smallest value of a feature (of one with a tail downwards the largest), ``size`` that of nine quantiles of
    the distances from there which leaves the least skewness. Both look past outliers, so that one wrong cell changes
    nothing. Skewness is that of 2000 evenly spaced rows.

    Args:
        skew: skewness (third standardised moment) beyond which a feature counts as skewed, >= 0; default 2.

    Raises:
        InputError: ``skew`` is negative.

    Source: the generalised logarithm of Durbin et al. 2002; its scale is chosen by skewness instead of by likelihood.
    """

    name: ClassVar[str] = "asinh"
    usage: ClassVar[str] = "asinh[:SKEW]"
    end: Tensor
    size: Tensor

    def __init__(self, skew: float = _SKEWED) -> None:
        super().__init__()
        if isinstance(skew, bool) or not isinstance(skew, int | float) or not skew >= 0:
            raise InputError(f"asinh:SKEW must be a number of at least 0, got {skew!r}")
        self.skew = skew

    def learn(self, sample: Sample) -> None:
        """Which features are skewed, their ends and sizes; see :class:`Preparation`."""
        skewed, end, size = (torch.cat(found) for found in zip(*self._by_columns(sample), strict=True))
        self.keep(numbers=skewed, end=end, size=size)

    def finds(self, sample: Sample) -> bool:
        """Whether any feature is skewed; looks no further than the first columns that have one."""
        return any(bool(skewed.any()) for skewed, _, _ in self._by_columns(sample))

    def _by_columns(self, sample: Sample) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Which columns are skewed, their ends and sizes; of some columns at a time."""
        rows = torch.linspace(0, len(sample.x) - 1, min(len(sample.x), _ROWS), dtype=torch.float64).long()
        columns = torch.split(sample.x[rows], _COLUMNS, dim=1)
        for x, numbers in zip(columns, torch.split(sample.mask("number"), _COLUMNS), strict=True):
            skewed, end, size = self._learnt(x)
            yield numbers & skewed, end, size

    def _learnt(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ends = (torch.from_numpy(end) for end in usual_range(x.cpu().numpy()))
        x = replace_outliers(x, *ends, by=torch.nan)
        skew = skewness(x)
        skewed = skew.abs() > self.skew
        end, size = torch.zeros_like(skew), torch.ones_like(skew)
        if bool(skewed.any()):
            end[skewed], size[skewed], left = _least_skewed(x[:, skewed], skew[skewed])
            skewed[skewed.clone()] = left < _LEFT * skew[skewed].abs()
        return skewed, end, size

    def forward(self, x: Tensor) -> Tensor:
        """``(…, l) -> (…, l)``."""
        return self._only_numbers(((x - self.end.to(x)) / self.size.to(x)).asinh(), x)

    @property
    def summary(self) -> str:
        """How it was written, of how many features, and the number of columns; see :class:`Preparation`."""
        return f"{self.spec} of {int(self.numbers.sum())} -> {self.width}"


@PREPARATIONS.register
class CenteredLogRatio(OfNumbers):
    """Centred log ratio of compositions: ``log x - mean(log x)`` over the features of a row (Aitchison 1982).

    >>> from equifuse.encoders.preparation import Sample
    >>> step = CenteredLogRatio()
    >>> step.learn(Sample(torch.tensor([[1.0, 3.0], [2.0, 2.0]])))
    >>> step(torch.tensor([[5.0, 5.0]]))
    tensor([[0., 0.]])

    Args:
        zero: what stands for a zero, > 0; default half of the smallest positive number of the training part.

    Raises:
        InputError: ``zero`` is not positive.
    """

    name: ClassVar[str] = "clr"
    usage: ClassVar[str] = "clr[:ZERO]"
    complete: ClassVar[bool] = True
    zero: Tensor

    def __init__(self, zero: float | None = None) -> None:
        super().__init__()
        if zero is not None and (isinstance(zero, bool) or not isinstance(zero, int | float) or not zero > 0):
            raise InputError(f"clr:ZERO must be a positive number, got {zero!r}")
        self._given = zero

    def learn(self, sample: Sample) -> None:
        """Find the smallest number; see :class:`Preparation`."""
        _need_positive(self.spec, sample)
        numbers = sample.mask("number")
        positive = sample.x[:, numbers]
        positive = positive[positive > 0]
        if not positive.numel():
            raise InputError(f"{self.spec} needs positive numbers, and there are none")
        zero = self._given if self._given is not None else 0.5 * float(positive.min())
        self.keep(numbers=numbers, zero=torch.tensor(zero, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """``(…, l) -> (…, l)``."""
        logs = torch.where(x > 0, x, self.zero.to(x)).log()
        mean = torch.where(self.numbers, logs, 0.0).sum(-1, keepdim=True) / self.numbers.sum()
        return self._only_numbers(logs - mean, x)


@PREPARATIONS.register
class Quantile(OfNumbers):
    """Map each feature to a normal (or uniform) distribution by its quantiles in the training part.

    >>> from equifuse.encoders.preparation import Sample
    >>> step = Quantile("uniform")
    >>> step.learn(Sample(torch.arange(101.0)[:, None]))
    >>> round(float(step(torch.tensor([[25.0]]))), 3)
    0.25

    100 quantiles are stored of each feature (fewer rows: as many), between which it is linear, as in scikit-learn's
    ``QuantileTransformer``. A value that many rows share, such as 0 of counts, gets the middle of its quantiles, also
    at the ends.

    Args:
        output: "normal" (default) or "uniform".

    Raises:
        UnknownNameError: another word.
    """

    name: ClassVar[str] = "quantile"
    usage: ClassVar[str] = "quantile[:normal|uniform]"
    quantiles: Tensor

    def __init__(self, output: str = "normal") -> None:
        super().__init__()
        if output not in ("normal", "uniform"):
            raise UnknownNameError("output of quantile:", str(output), ("normal", "uniform"))
        self.output = output

    def learn(self, sample: Sample) -> None:
        """Quantiles; see :class:`Preparation`."""
        count = max(2, min(_QUANTILES, len(sample.x)))
        quantiles = torch.cat([_quantiles(part, count) for part in torch.split(sample.x, _COLUMNS, dim=1)], dim=1)
        self.keep(quantiles=quantiles, numbers=sample.mask("number"))

    def forward(self, x: Tensor) -> Tensor:
        """``(…, l) -> (…, l)``: the share of each feature's quantiles below it, linear between two of them."""
        q = self.quantiles.to(x)
        if not torch.compiler.is_compiling():
            total = _searched(x.reshape(-1, x.shape[-1]), q).reshape(x.shape)
        elif q.numel() <= _AT_ONCE:
            total = _reached(x.unsqueeze(-2), q[:-1], q[1:]).sum(-2)
        else:
            total = torch.zeros_like(x)
            for low, high in pairwise(q):
                total = total + _reached(x, low, high)
        share = torch.where(x.isnan(), x, total / (len(q) - 1))
        if self.output == "normal":
            share = normal_quantile(share.clamp(_CLIP, 1 - _CLIP))
        return self._only_numbers(share, x)


def skewness(x: Tensor) -> Tensor:
    """The third standardised moment ``(l,)`` of the cells of each column of ``(n, l)`` that are not empty.

    0 of a constant.

    >>> from equifuse.encoders.preparation.transforms import skewness
    >>> skewness(torch.tensor([[0.0, 1.0], [0.0, 1.0], [3.0, 1.0]]).double())
    tensor([0.7071, 0.0000], dtype=torch.float64)
    """
    mean, deviation = moments(x)
    return ((x - mean) / deviation).pow(3).nanmean(0).nan_to_num()


def _least_skewed(x: Tensor, skew: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ends, sizes and absolute skewness ``(l,)`` of the least skewed ``asinh((x - end) / size)`` among some sizes."""
    end = torch.where(skew > 0, x.nan_to_num(nan=torch.inf).amin(0), x.nan_to_num(nan=-torch.inf).amax(0))
    distances = x - end
    sizes = _quantiles(torch.where(distances == 0, torch.nan, distances.abs()), _SCALES + 2)[1:-1].clamp(min=_SMALLEST)
    left, least = torch.stack([skewness((distances / size).asinh()).abs() for size in sizes]).min(0)
    return end, sizes.gather(0, least[None]).squeeze(0), left


def _quantiles(x: Tensor, count: int) -> Tensor:
    """``(count, l)`` quantiles of the cells of each column that are not empty, linear between them; 0 of none."""
    ordered = x.T.contiguous().sort(1).values  # NaN is sorted to the end
    last = ((~x.isnan()).sum(0) - 1).clamp(min=0)[:, None]
    places = torch.linspace(0, 1, count, dtype=x.dtype) * last
    low = places.floor().long()
    below, above = ordered.gather(1, low), ordered.gather(1, (low + 1).minimum(last))
    return (below + (places - low) * (above - below)).T.nan_to_num().contiguous()


def _searched(x: Tensor, q: Tensor) -> Tensor:
    """``(n, l)``: how many quantiles ``(count, l)`` each value has passed: :func:`_reached` by binary search."""
    columns, values = q.T.contiguous(), x.T.contiguous()
    low, high = torch.searchsorted(columns, values), torch.searchsorted(columns, values, right=True)
    last = len(q) - 1
    above = low.clamp(max=last)
    below = (above - 1).clamp(min=0)
    start, end = columns.gather(1, below), columns.gather(1, above)
    between = below + ((values - start) / torch.where(end > start, end - start, 1.0)).clamp(0.0, 1.0)
    found = torch.where(high > low, (low + high - 1) / 2, between)
    return torch.where(low > last, last, found).to(x).T


def _reached(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """How much of the way from one quantile to the next is below ``x``: 0 to 1."""
    # Where quantiles are equal there is a step, of which a value that is just there has half.
    step = torch.where(x > low, 1.0, torch.where(x == low, 0.5, 0.0)).to(x)
    linear = ((x - low) / torch.where(high > low, high - low, 1.0)).clamp(0.0, 1.0)
    return torch.where(high > low, linear, step)


def _need_positive(spec: str, sample: Sample) -> None:
    below = ((sample.x < 0) & sample.mask("number")).any(0).nonzero().squeeze(1)
    if len(below):
        first = int(below[0])
        least = float(sample.x[:, first].nan_to_num().min())
        raise InputError(f"{spec} needs numbers of at least 0; {sample.name(first)} has {least:g}")


# Coefficients of the rational functions of AS 241, numerators and denominators, from the constant upwards.
_CENTRE = (
    (3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4),
    (4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3),
    (1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3),
    (2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3),
)
_TAIL = (
    (1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0),
    (1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4),
    (1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1),
    (1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9),
)
_FAR = (
    (6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1),
    (2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7),
    (1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2),
    (7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15),
)


def normal_quantile(p: Tensor) -> Tensor:
    """The number below which a standard normal one is with probability ``p`` in (0, 1).

    >>> from equifuse.encoders.preparation.transforms import normal_quantile
    >>> normal_quantile(torch.tensor([0.5, 0.975]))
    tensor([0.0000, 1.9600])

    Algorithm AS 241 (Wichura 1988), of sums, products and logarithms only: programs and ONNX have no such function.
    """
    q = p - 0.5
    centre = q * _ratio(_CENTRE, 0.180625 - q * q)
    r = torch.minimum(p, 1 - p).clamp(min=1e-300 if p.dtype == torch.float64 else 1e-37).log().neg().sqrt()
    tail = torch.where(r <= 5, _ratio(_TAIL, r - 1.6), _ratio(_FAR, r - 5))
    return torch.where(q.abs() <= 0.425, centre, torch.where(q < 0, -tail, tail))


def _ratio(coefficients: tuple[tuple[float, ...], ...], x: Tensor) -> Tensor:
    low, high, *below = coefficients
    return _polynomial((*low, *high), x) / _polynomial((*below[0], *below[1]), x)


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    found = torch.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        found = found * x + c
    return found
