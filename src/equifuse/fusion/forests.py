"""Trees as they are grown by scikit-learn and by LightGBM, made plain arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from equifuse.errors import InputError
from equifuse.extras import require
from equifuse.fusion.fitted import FittingProblem, Floats, State, is_classes

# What becomes of the sum over the trees: nothing, their mean, or the logits of classes or labels.
READINGS = ("sum", "mean", "classes", "labels")
# Of all trees together: where each begins, and of each node its column, its threshold, where it leads to, and its leaf.
ARRAYS = ("root", "feature", "threshold", "left", "right", "leaf")
# Where a node leads to.
_SIDES = ("left", "right")
# Least samples of a leaf that are tried.
_LEAVES = (1, 3)
# Shares of the rounds of boosting that are tried.
_ROUNDS = (0.25, 0.5, 1.0)
# LightGBM takes for zero what is no further away from it, this number and its negative among them.
_ZERO = float(np.float32(1e-35))
# Samples of a leaf of LightGBM at least, of sets that are not small; of small ones a share of the samples.
_LEAST, _SHARE = 20, 0.1
# Columns that a tree of LightGBM sees: so many, of more columns a share.
_COLUMNS, _SEEN = 30, 0.3


class Forest:
    """Arrays of all trees together, in the making."""

    def __init__(self) -> None:
        self.parts: dict[str, list[NDArray[Any]]] = {name: [] for name in (*ARRAYS, "value")}
        self.nodes = self.leaves = self.depth = 0

    def add(
        self,
        left: NDArray[Any],
        right: NDArray[Any],
        feature: NDArray[Any],
        threshold: NDArray[Any],
        value: NDArray[Any],
        depth: int,
    ) -> None:
        """Add a tree.

        Args:
            left: ``(N,)``, where a node leads to whose column is at most its threshold; of a leaf anything.
            right: likewise for others; below 1 for a leaf, since no node leads to the first one.
            feature: ``(N,)`` of columns.
            threshold: ``(N,)``.
            value: ``(N, K)`` of leaves.
            depth: of the tree.
        """
        here, is_leaf = np.arange(len(left)), right < 1
        leaf = np.zeros(len(left), np.int64)
        leaf[is_leaf] = self.leaves + np.arange(int(is_leaf.sum()))
        down = threshold.astype(np.float32)
        down = np.where(down > threshold, np.nextafter(down, np.float32(-np.inf)), down)
        added = {
            "root": np.array([self.nodes]),
            "feature": np.where(is_leaf, 0, feature),
            "threshold": np.where(is_leaf, np.float32(0), down),
            "left": self.nodes + np.where(is_leaf, here, left),
            "right": self.nodes + np.where(is_leaf, here, right),
            "leaf": leaf,
            "value": value[is_leaf],
        }
        for name, array in added.items():
            self.parts[name].append(array)
        self.nodes += len(left)
        self.leaves += int(is_leaf.sum())
        self.depth = max(self.depth, depth, 1)

    def add_constant(self, value: Floats) -> None:
        """Add a tree that is one leaf, ``(K,)``."""
        none = np.zeros(1, np.int64)
        self.add(none, none, none, np.zeros(1), value[None], 1)

    def state(self, reading: str) -> State:
        """The arrays, as :meth:`equifuse.fusion.Trees.restore` takes them."""
        arrays = {name: torch.from_numpy(np.concatenate(parts)) for name, parts in self.parts.items()}
        numbers = {"reading": READINGS.index(reading), "depth": self.depth}
        return {**arrays, **{name: torch.tensor(number) for name, number in numbers.items()}}


def extra_trees(problem: FittingProblem, trees: int, outputs: int) -> Iterator[State]:
    """Extremely randomised trees; those of labels predict all of them."""
    from sklearn import ensemble  # noqa: PLC0415 - it takes a second to import

    x, y = problem.columns.astype(np.float32), problem.target
    assert y is not None
    chances = is_classes(problem)
    reading = "mean" if not chances else "classes" if y.ndim == 1 else "labels"
    kind = ensemble.ExtraTreesClassifier if chances else ensemble.ExtraTreesRegressor
    for least in _LEAVES:
        options = {"min_samples_leaf": least, "max_features": "sqrt" if chances else 1 / 3}
        grown = kind(trees, random_state=problem.seed, n_jobs=1, **options).fit(
            x, y[:, 0] if not chances and y.shape[1] == 1 else y, sample_weight=problem.weight
        )
        forest = Forest()
        for tree in (estimator.tree_ for estimator in grown.estimators_):
            value = _chances(tree.value, grown.classes_, outputs, reading) if chances else tree.value[:, :, 0]
            forest.add(
                tree.children_left, tree.children_right, tree.feature, tree.threshold, value, int(tree.max_depth)
            )
        yield forest.state(reading)


def _chances(value: NDArray[Any], classes: Any, outputs: int, reading: str) -> NDArray[Any]:
    """``(N, K)``: of each node the probability of every class, or of every label."""
    found = np.zeros((len(value), outputs))
    if reading == "classes":
        found[:, classes.astype(np.int64)] = value[:, 0]
        return found
    for k, known in enumerate(classes):  # a label that all samples have, or none, has one class only
        if 1 in known:
            found[:, k] = value[:, k, list(known).index(1)]
    return found


def boosted_trees(problem: FittingProblem, rounds: int, outputs: int) -> Iterator[State]:
    """Gradient boosting, of each label and each quantity on its own, after more and more rounds."""
    from sklearn import ensemble  # noqa: PLC0415 - it takes a second to import

    x, y = problem.columns.astype(np.float32), problem.target
    assert y is not None
    chances = is_classes(problem)
    kind = ensemble.HistGradientBoostingClassifier if chances else ensemble.HistGradientBoostingRegressor
    options = {"max_iter": rounds, "early_stopping": False, "random_state": problem.seed}
    columns = [y] if y.ndim == 1 else list(y.T)
    fits = [kind(**options).fit(x, c, problem.weight) if len(np.unique(c)) > 1 else None for c in columns]
    for count in _counts(rounds):
        forest = Forest()
        forest.add_constant(_certain(problem, outputs))
        for k, fit in ((k, fit) for k, fit in enumerate(fits) if fit is not None):
            places = _places(y, k, outputs)
            forest.add_constant(np.asarray(fit._baseline_prediction).reshape(-1) @ places)
            for of_round in fit._predictors[:count]:
                for place, predictor in zip(places, of_round, strict=True):
                    nodes = predictor.nodes
                    forest.add(
                        nodes["left"].astype(np.int64),
                        np.where(nodes["is_leaf"] == 1, 0, nodes["right"].astype(np.int64)),
                        nodes["feature_idx"],
                        nodes["num_threshold"],
                        nodes["value"][:, None] * place,
                        int(nodes["depth"].max()),
                    )
        yield forest.state("sum")


def lightgbm_trees(problem: FittingProblem, rounds: int, outputs: int) -> Iterator[State]:
    """Gradient boosting by LightGBM, of each label and each quantity on its own, after more and more rounds.

    Raises:
        InputError: LightGBM is not installed, or refuses the samples.
    """
    y = problem.target
    assert y is not None
    columns = [y] if y.ndim == 1 else list(y.T)
    fits = [_lightgbm(problem, column, rounds) if len(np.unique(column)) > 1 else None for column in columns]
    for count in _counts(rounds):
        forest = Forest()
        forest.add_constant(_certain(problem, outputs))
        for k, fit in ((k, fit) for k, fit in enumerate(fits) if fit is not None):
            places = _places(y, k, outputs)
            for number, tree in enumerate(fit[: count * len(places)]):
                _add_lightgbm(forest, tree, places[number % len(places)])
        yield forest.state("sum")


def _lightgbm(problem: FittingProblem, target: NDArray[Any], rounds: int) -> list[dict[str, str]]:
    """The trees that LightGBM grows for one target, in each round one for each class, as its model file has them."""
    lightgbm = require("lightgbm", "lightgbm", "boosting by LightGBM")
    x, classes = problem.columns.astype(np.float32), 0
    if is_classes(problem):
        known, target = np.unique(target, return_inverse=True)
        classes = len(known)
    options = {
        "objective": "regression" if not classes else "binary" if classes == 2 else "multiclass",
        **({"num_class": classes} if classes > 2 else {}),
        # Slower steps and coarser columns than LightGBM's own 0.1 and 255: as good, in a third of the time.
        "learning_rate": 0.05,
        "max_bin": 63,
        "feature_fraction": min(1.0, max(_SEEN, _COLUMNS / x.shape[1])),
        "min_data_in_leaf": min(_LEAST, max(1, round(_SHARE * len(x)))),
        "seed": problem.seed % 2**31,
        # The same trees by any number of threads, and no more threads than PyTorch takes.
        "deterministic": True,
        "force_col_wise": True,
        "num_threads": torch.get_num_threads(),
        # A gap is a zero, and a column of its own says so.
        "use_missing": False,
        "verbosity": -1,
    }
    try:
        data = lightgbm.Dataset(x, np.ascontiguousarray(target), weight=problem.weight, params=options)
        text = lightgbm.train(options, data, rounds).model_to_string(num_iteration=-1)
    except lightgbm.basic.LightGBMError as error:
        raise InputError(f"LightGBM cannot fit these samples: {' '.join(str(error).split())}") from None
    trees = [part.partition("\n\n")[0] for part in text.split("\nTree=")[1:]]
    return [dict(line.split("=", 1) for line in tree.splitlines() if "=" in line) for tree in trees]


def _add_lightgbm(forest: Forest, tree: dict[str, str], place: Floats) -> None:
    """Add a tree of LightGBM, which numbers its leaves apart from its inner nodes, as -1, -2 and so on."""

    def read(name: str, kind: type) -> NDArray[Any]:
        return np.array(tree.get(name, "").split(), dtype=kind)

    value = read("leaf_value", np.float64)
    leaves, inner = len(value), len(value) - 1
    left, right = (np.where(to < 0, inner + ~to, to) for to in (read(f"{side}_child", np.int64) for side in _SIDES))
    threshold = read("threshold", np.float64)
    threshold[threshold == -_ZERO] = np.nextafter(-_ZERO, -np.inf)
    none = np.zeros(leaves, np.int64)
    depth = np.zeros(inner + leaves, np.int64)
    for node in range(inner):  # one that a node leads to has a higher number
        depth[[left[node], right[node]]] = depth[node] + 1
    forest.add(
        np.concatenate([left, none]),
        np.concatenate([right, none]),
        np.concatenate([read("split_feature", np.int64), none]),
        np.concatenate([threshold, none]),
        np.concatenate([np.zeros(inner), value])[:, None] * place,
        int(depth.max()),
    )


def _counts(rounds: int) -> list[int]:
    """Numbers of rounds that are tried."""
    return sorted({max(1, round(share * rounds)) for share in _ROUNDS})


def _places(y: NDArray[Any], k: int, outputs: int) -> Floats:
    """``(trees of a round, K)``: what each tree of a round counts in each raw output."""
    if y.ndim == 2:
        return np.eye(outputs)[k : k + 1]
    classes = np.unique(y).astype(np.int64)
    if len(classes) > 2:
        return np.eye(outputs)[classes]
    found = np.zeros((1, outputs))
    found[0, classes] = (-0.5, 0.5)  # one score between two classes
    return found


def _certain(problem: FittingProblem, outputs: int) -> Floats:
    """``(K,)``: what is said without trees: where all samples have the same target, and of classes that none has.

    A class or a label counts once more than it was seen.
    """
    found, y, chances = np.zeros(outputs), problem.target, is_classes(problem)
    assert y is not None
    size = np.log(len(y) + 1.0)
    if y.ndim == 1:
        found[~np.isin(np.arange(outputs), y)] = -size
        return found
    for k, column in enumerate(y.T):
        if (column == column[0]).all():
            found[k] = column[0] if not chances else size if column[0] else -size
    return found
