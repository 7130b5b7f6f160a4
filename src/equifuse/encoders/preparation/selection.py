"""Selection of features, and their principal components; all fitted on the training part alone."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equifuse.encoders.preparation.base import Preparation, Sample, share, whole_number
from equifuse.errors import InputError
from equifuse.registry import PREPARATIONS

# Columns that are correlated with others at a time.
_BLOCK = 1024
# Rows and neighbours of the graph that the Laplacian score is defined on.
_GRAPH_ROWS, _NEIGHBOURS = 2000, 5


class _Selection(Preparation):
    """A step that keeps some columns."""

    columns: Tensor

    def learn(self, sample: Sample) -> None:
        """Choose; see :class:`Preparation`."""
        self.keep(columns=np.sort(self.choose(sample)))

    @abstractmethod
    def choose(self, sample: Sample) -> NDArray[np.intp]:
        """The numbers of the columns that stay."""

    def forward(self, x: Tensor) -> Tensor:
        """``(…, l) -> (…, k)``."""
        return x.index_select(-1, self.columns)

    def sources(self, width: int) -> NDArray[np.int64]:
        """See :class:`Preparation`."""
        found: NDArray[np.int64] = self.columns.cpu().numpy()
        return found


class _Best(_Selection):
    """A step that keeps the ``k`` columns of the largest score, all where there are not more.

    Args:
        k: how many, ≥ 1.

    Raises:
        InputError: it is no such number.
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = whole_number(f"the number of features of {self.name}", k)

    def choose(self, sample: Sample) -> NDArray[np.intp]:
        """See :class:`_Selection`."""
        scores = np.nan_to_num(self.scores(sample), nan=-np.inf, posinf=np.finfo(float).max, neginf=-np.inf)
        return np.argsort(-scores, kind="stable")[: self.k]

    @abstractmethod
    def scores(self, sample: Sample) -> NDArray[np.float64]:
        """Score of each column ``(l,)``; the larger the better."""


@PREPARATIONS.register
class Variance(_Best):
    """Keep the ``k`` features of largest variance.

    >>> from equifuse.encoders.preparation import Sample
    >>> step = Variance(1)
    >>> step.learn(Sample(torch.tensor([[1.0, 10.0], [2.0, 30.0]])))
    >>> step(torch.tensor([[5.0, 6.0]])).tolist()
    [[6.0]]

    Args:
        k: how many, ≥ 1; all where there are not more.

    Raises:
        InputError: it is no such number.
    """

    name: ClassVar[str] = "variance"
    usage: ClassVar[str] = "variance:K"

    def scores(self, sample: Sample) -> NDArray[np.float64]:
        """Variances of the cells that are not empty."""
        x = sample.x
        found: NDArray[np.float64] = (x - x.nanmean(0)).square().nanmean(0).numpy()
        return found


@PREPARATIONS.register
class KBest(_Best):
    """Keep the ``k`` features that tell most of the target one by one: by the F test of scikit-learn.

    >>> from equifuse.encoders.preparation import Sample
    >>> step = KBest(1)
    >>> rows = torch.tensor([[1.0, 5.0], [1.1, 2.0], [2.0, 2.1], [2.1, 5.1]])
    >>> step.learn(Sample(rows, response=np.array([0, 0, 1, 1]), classes=True))
    >>> step.columns.tolist()
    [0]

    Of several targets the best counts; of survival, the martingale residuals of the model without features.

    Args:
        k: how many, ≥ 1; all where there are not more.

    Raises:
        InputError: it is no such number, or there is no target.
    """

    name: ClassVar[str] = "kbest"
    usage: ClassVar[str] = "kbest:K"
    complete: ClassVar[bool] = True

    def scores(self, sample: Sample) -> NDArray[np.float64]:
        """F statistics."""
        from sklearn.feature_selection import f_classif, f_regression  # noqa: PLC0415

        if sample.response is None:
            raise InputError(f"{self.spec} needs targets in the training part; use variance:{self.k}")
        targets = np.asarray(sample.response).reshape(len(sample.x), -1)
        test = f_classif if sample.classes else f_regression
        x = sample.x.numpy()
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # of constant features, which score nothing
            each = [test(x, y)[0] for y in targets.T if len(np.unique(y)) > 1]
        if not each:
            raise InputError(f"{self.spec}: the target is the same in all training rows")
        return np.asarray(np.nanmax(np.nan_to_num(each, nan=-np.inf), axis=0), dtype=np.float64)


@PREPARATIONS.register
class Laplacian(_Best):
    """Keep the ``k`` features that vary least between neighbouring rows, by their Laplacian score (He et al. 2005).

    >>> from equifuse.encoders.preparation import Sample
    >>> step = Laplacian(1)
    >>> chance, group = torch.rand(40), torch.tensor([0.0, 1.0]).repeat(20)
    >>> step.learn(Sample(torch.stack([chance, group], dim=1)))
    >>> step.columns.tolist()
    [1]

    The graph joins each standardised row to its 5 nearest, with heat-kernel weights; of at most 2000 rows.

    Args:
        k: how many, ≥ 1; all where there are not more.

    Raises:
        InputError: it is no such number.
    """

    name: ClassVar[str] = "laplacian"
    usage: ClassVar[str] = "laplacian:K"
    complete: ClassVar[bool] = True

    def scores(self, sample: Sample) -> NDArray[np.float64]:
        """Negative Laplacian scores."""
        from sklearn.neighbors import kneighbors_graph  # noqa: PLC0415

        x = sample.x.numpy()
        if len(x) > _GRAPH_ROWS:
            x = x[np.linspace(0, len(x) - 1, _GRAPH_ROWS).astype(int)]
        deviation = x.std(0)
        constant = deviation <= 1e-12 * np.abs(x).max(0, initial=0)
        z = (x - x.mean(0)) / np.where(constant, 1.0, deviation)
        near = kneighbors_graph(z, min(_NEIGHBOURS, len(z) - 1), mode="distance")
        squared = near.data**2
        near.data = np.exp(-squared / max(float(np.median(squared)), 1e-300))
        weights = near.maximum(near.T)
        degree = np.asarray(weights.sum(1)).ravel()
        centred = z - (degree @ z) / degree.sum()
        spread = degree @ centred**2
        smooth = spread - np.einsum("nl,nl->l", centred, weights @ centred)
        return np.where(constant | (spread <= 0), -np.inf, -smooth / np.where(spread > 0, spread, 1.0))


@PREPARATIONS.register
class Correlation(_Selection):
    """Drop each feature that is correlated with an earlier one, which stays, by more than ``r``.

    >>> from equifuse.encoders.preparation import Sample
    >>> step = Correlation(0.9)
    >>> step.learn(Sample(torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.1, 0.0], [3.0, 6.0, 1.0]])))
    >>> step.columns.tolist()
    [0, 2]

    Args:
        most: absolute correlation that is still admitted, in [0, 1].

    Raises:
        InputError: it is no such number.
    """

    name: ClassVar[str] = "correlation"
    usage: ClassVar[str] = "correlation:R"
    complete: ClassVar[bool] = True

    def __init__(self, most: float) -> None:
        super().__init__()
        self.most = share("the correlation", most)

    def choose(self, sample: Sample) -> NDArray[np.intp]:
        """See :class:`_Selection`."""
        x = sample.x - sample.x.mean(0)
        size = x.square().sum(0).sqrt()
        x = x / torch.where(size > 0, size, 1.0)  # a constant feature is correlated with nothing
        kept = torch.zeros(0, dtype=torch.int64)
        for block in torch.split(torch.arange(x.shape[1]), _BLOCK):
            free = block
            if len(kept):
                free = block[~((x[:, block].T @ x[:, kept]).abs() > self.most).any(1)]
            among = (x[:, free].T @ x[:, free]).abs() > self.most
            stays = torch.ones(len(free), dtype=torch.bool)
            for i in range(1, len(free)):
                stays[i] = not bool((among[i, :i] & stays[:i]).any())
            kept = torch.cat([kept, free[stays]])
        found: NDArray[np.intp] = kept.numpy()
        return found


@PREPARATIONS.register
class PrincipalComponents(Preparation):
    """The first ``k`` principal components, or as many as explain a share of the variance; scikit-learn's PCA.

    >>> from equifuse.encoders.preparation import Sample
    >>> step = PrincipalComponents(1)
    >>> step.learn(Sample(torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])))
    >>> [round(abs(v), 3) for v in step(torch.tensor([[2.0, 2.0]]))[0].tolist()]
    [1.414]

    Args:
        k: whole number ≥ 1, or a share in (0, 1).

    Raises:
        InputError: it is none of them, or there are fewer rows or features.
    """

    name: ClassVar[str] = "pca"
    usage: ClassVar[str] = "pca:K"
    complete: ClassVar[bool] = True
    mean: Tensor
    axes: Tensor

    def __init__(self, k: float) -> None:
        super().__init__()
        fits = isinstance(k, float) and 0 < k < 1
        self.k: float = k if fits else whole_number("the number of components of pca", k)

    def learn(self, sample: Sample) -> None:
        """Find the axes; see :class:`Preparation`."""
        from sklearn.decomposition import PCA  # noqa: PLC0415

        rows, width = sample.x.shape
        if self.k > min(rows, width):
            raise InputError(f"{self.spec} needs at least {self.k} training rows and features, got {rows} and {width}")
        found = PCA(self.k, random_state=0).fit(sample.x.numpy())
        self.keep(mean=found.mean_, axes=found.components_)

    def forward(self, x: Tensor) -> Tensor:
        """``(…, l) -> (…, k)``."""
        return (x - self.mean.to(x)) @ self.axes.to(x).T

    def sources(self, width: int) -> None:
        """A component is made of all columns."""
        return None
