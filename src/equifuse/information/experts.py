"""The models that information is found with: linear ones, trees, a small network, and pairs of columns."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equifuse.information.pooling import Fold, log_prior

Floats = NDArray[np.float64]
Classes = NDArray[np.int64]
# Columns that models see, and that are looked through in pairs; of more, those that say most on the rows of fitting.
_MOST_COLUMNS = 1500
# Pairs that are kept, and class codes that they are judged by where there are many classes.
_PAIRS = 12
_CODES = 8
# Columns that are kept because they say most alone.
_SINGLE = 8
_COMPONENTS = 40
_TREES = 60
_TREES_OF_PAIRS = 30
_FLOOR = 1e-5


@dataclass(frozen=True)
class Fitting:
    """Rows to fit on and to predict: standardised columns, classes, and the quantities behind them or None."""

    x: Floats
    new: Floats
    y: Classes
    classes: int
    values: Floats | None
    seed: int


def linear_predictions(
    x: Floats, y: Classes, classes: int, folds: list[Fold], values: Floats | None = None
) -> list[Floats]:
    """:func:`out_of_fold` of linear models of the leading principal components alone: fast."""
    return _by_fold(x, y, classes, folds, values, _linear)


def out_of_fold(x: Floats, y: Classes, classes: int, folds: list[Fold], values: Floats | None = None) -> list[Floats]:
    """Log probabilities ``(n, K)`` of each expert, each sample's made without it.

    Args:
        x: ``(n, d)``.
        y: classes ``(n,)``.
        classes: K.
        folds: rows to fit on and rows to predict.
        values: quantities ``(n,)`` whose bins are the classes, or None.
    """
    return _by_fold(x, y, classes, folds, values, _predictions)


def _by_fold(
    x: Floats,
    y: Classes,
    classes: int,
    folds: list[Fold],
    values: Floats | None,
    predictions: Callable[[Fitting], Iterable[Floats]],
) -> list[Floats]:
    found: list[Floats] = []
    for seed, (fit, rest) in enumerate(folds):
        known = x[fit]
        columns = _telling(known, y[fit], _MOST_COLUMNS)
        fitting = Fitting(
            known[:, columns], x[rest][:, columns], y[fit], classes, None if values is None else values[fit], seed
        )
        for i, predicted in enumerate(predictions(fitting)):
            if i == len(found):
                found.append(np.zeros((len(y), classes)))
            found[i][rest] = predicted
    return found


def _telling(x: Floats, y: Classes, most: int) -> NDArray[np.intp]:
    """The columns whose means differ most between the classes; all where there are few enough."""
    if x.shape[1] <= most:
        return np.arange(x.shape[1])
    codes = _class_codes(y)
    score = ((x.T @ codes) ** 2).sum(1)
    return np.sort(np.argsort(-score, kind="stable")[:most])


def _predictions(f: Fitting) -> Iterator[Floats]:
    pairs, new_pairs = selected_columns(f.x, f.new, f.y)
    parts, new_parts = _components(f.x, f.new)
    if f.values is None:
        for strength in (0.003, 0.3):
            yield _of_classes(f, _logistic(strength), f.x, f.new)
        yield _of_classes(f, _logistic(0.1), pairs, new_pairs)
    else:
        yield _of_quantities(f, f.x, f.new)
        yield _of_quantities(f, pairs, new_pairs)
    yield _of_classes(f, _trees(f, _TREES, "sqrt", 2), f.x, f.new)
    yield _of_classes(f, _trees(f, _TREES_OF_PAIRS, 1.0, 5), pairs, new_pairs)
    yield _of_classes(f, _network(f), np.hstack([parts, pairs]), np.hstack([new_parts, new_pairs]))


def _linear(f: Fitting) -> Iterator[Floats]:
    parts, new_parts = _components(f.x, f.new)
    if f.values is not None:
        yield _of_quantities(f, parts, new_parts)
        return
    for strength in (0.01, 1.0):
        yield _of_classes(f, _logistic(strength), parts, new_parts)


def selected_columns(x: Floats, new: Floats, y: Classes) -> tuple[Floats, Floats]:
    """Few columns for models that noise confuses: products of two that go with a class, though neither column need do
    so alone; those columns themselves; and the columns that go with a class most.

    Args:
        x: ``(n, d)`` to choose by.
        new: ``(m, d)`` to make the same columns of.
        y: classes ``(n,)``.
    """
    if x.shape[1] < 2:
        return x, new
    wide, codes = x.astype(np.float32), _class_codes(y).astype(np.float32)
    score = np.zeros((x.shape[1], x.shape[1]), np.float32)
    for code in codes.T:
        score = np.maximum(score, np.abs((wide * code[:, None]).T @ wide))
    score[np.tril_indices(len(score))] = -1.0
    count = min(_PAIRS, len(score) * (len(score) - 1) // 2)
    best = np.argpartition(-score.ravel(), count - 1)[:count]
    best = best[np.argsort(-score.ravel()[best], kind="stable")]
    first, second = np.unravel_index(best, score.shape)
    single = np.argsort(-np.abs(wide.T @ codes).max(1), kind="stable")[:_SINGLE]
    own = np.unique(np.concatenate([first, second, single]))

    def of(z: Floats) -> Floats:
        return np.hstack([z[:, first] * z[:, second], z[:, own]])

    return of(x), of(new)


def _class_codes(y: Classes) -> Floats:
    """Centred columns of unit length ``(n, C)``: one of each class, or random halves of many."""
    classes = int(y.max()) + 1
    one_hot = np.eye(classes)[y]
    if classes == 2:
        one_hot = one_hot[:, :1]
    elif classes > _CODES:
        one_hot = one_hot @ np.sign(np.random.default_rng(0).standard_normal((classes, _CODES)))
    centred = one_hot - one_hot.mean(0)
    return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=0), 1e-12), np.float64)


def _components(x: Floats, new: Floats) -> tuple[Floats, Floats]:
    """Principal components, to unit variance; the columns themselves where they are few."""
    if x.shape[1] <= _COMPONENTS:
        return x, new
    from sklearn.decomposition import PCA  # noqa: PLC0415

    pca = PCA(min(_COMPONENTS, len(x) - 1), whiten=True, svd_solver="randomized", random_state=0).fit(x)
    return pca.transform(x), pca.transform(new)


def _of_classes(f: Fitting, model: Any, x: Floats, new: Floats) -> Floats:
    """What a classifier says; a class that it has not seen gets the prior's floor."""
    if len(np.unique(f.y)) < 2 or not x.shape[1]:
        return np.broadcast_to(log_prior(f.y, f.classes), (len(new), f.classes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an early end of a fit is one of its means
        model.fit(x, f.y)
        p = np.zeros((len(new), f.classes))
        p[:, model.classes_] = model.predict_proba(new)
    # A share of the prior keeps votes of trees from being infinitely sure.
    prior = np.exp(log_prior(f.y, f.classes))
    return np.asarray(np.log((1 - _FLOOR) * p + _FLOOR * prior), np.float64)


def _of_quantities(f: Fitting, x: Floats, new: Floats) -> Floats:
    """Ridge regression with Gaussian errors: the probability of each bin between its edges."""
    from scipy.stats import norm  # noqa: PLC0415
    from sklearn.linear_model import RidgeCV  # noqa: PLC0415

    assert f.values is not None
    prior = np.exp(log_prior(f.y, f.classes))
    if not x.shape[1]:
        return np.broadcast_to(np.log(prior), (len(new), f.classes))
    # Ranks as Gaussian values: no outlier rules the fit.
    order = f.values.argsort(kind="stable").argsort(kind="stable")
    scores = norm.ppf((order + 0.5) / len(order))
    model = RidgeCV(alphas=np.geomspace(1, 1e5, 11), store_cv_results=True).fit(x, scores)
    best = int(np.argmin(model.cv_results_.mean(0)))
    deviation = max(float(np.sqrt(model.cv_results_[:, best].mean())), 1e-3)
    edges = [0.5 * (scores[f.y <= k].max() + scores[f.y > k].min()) for k in range(f.classes - 1) if (f.y > k).any()]
    edges += [np.inf] * (f.classes - 1 - len(edges))
    below = norm.cdf((np.array(edges)[None] - model.predict(new)[:, None]) / deviation)
    p = np.diff(below, axis=1, prepend=0.0, append=1.0)
    return np.asarray(np.log(0.999 * np.maximum(p, 0) + 0.001 * prior), np.float64)


def _logistic(strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    return LogisticRegression(C=strength, max_iter=60, tol=1e-3)


def _trees(f: Fitting, count: int, features: float | str, leaf: int) -> Any:
    from sklearn.ensemble import ExtraTreesClassifier  # noqa: PLC0415

    return ExtraTreesClassifier(count, max_features=features, min_samples_leaf=leaf, random_state=f.seed)


def _network(f: Fitting) -> Any:
    from sklearn.neural_network import MLPClassifier  # noqa: PLC0415

    early = len(f.y) >= 100 and bool(np.bincount(f.y)[np.unique(f.y)].min() >= 2)
    return MLPClassifier(
        (32,), alpha=0.1, max_iter=60, early_stopping=early, n_iter_no_change=6, learning_rate_init=5e-3,
        batch_size=min(64, len(f.y)), random_state=f.seed,
    )  # fmt: skip
