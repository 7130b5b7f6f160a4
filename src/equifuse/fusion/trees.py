"""Decision trees: scikit-learn grows them, and they are kept and evaluated as plain arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from equifuse.errors import UnknownNameError
from equifuse.fusion.fitted import FittedFusion, FittingProblem, State, check_count, is_classes
from equifuse.fusion.make import register

_KINDS = ("extra", "boosting")
# Trees that are grown, of boosting rounds of them.
_TREES = {"extra": 300, "boosting": 100}
# Least samples of a leaf that are tried.
_LEAVES = (1, 3)
# Shares of the rounds of boosting that are tried.
_ROUNDS = (0.25, 0.5, 1.0)
# What becomes of the sum over the trees: nothing, their mean, or the logits of classes or labels.
_READINGS = ("sum", "mean", "classes", "labels")
_ARRAYS = ("root", "feature", "threshold", "left", "right", "leaf")


@register
class Trees(FittedFusion):
    """Decision trees on all modalities' columns: extremely randomised trees, or gradient boosting on histograms.

    Good where few columns decide, by thresholds. scikit-learn grows them; no setting but ``trees`` is to be chosen, the
    others are tried on validation. There is nothing to differentiate, so that gradients cannot explain them.

    >>> fusion = ef.fusion.Trees({"text": 30, "image": 50}, outputs=3)
    >>> fusion({"text": torch.randn(8, 30), "image": torch.randn(8, 50)}).fused.shape
    torch.Size([8, 3])

    Args:
        dims: modality name -> width ``l_m``.
        outputs: number of classes or other outputs ``K``; default 2, set by :func:`equifuse.build_model`.
        kind: ``"extra"`` (default; Geurts et al. 2006), or ``"boosting"``.
        trees: how many are grown, of boosting the rounds; default 300, and 100.
        reading: what becomes of the trees' sum; set by fitting, as the others are.
        roots: number of trees.
        nodes: of all trees together.
        leaves: of all trees together.
        depth: of the deepest tree.

    ``modalities`` holds the inputs.

    Raises:
        UnknownNameError: another ``kind``.
        InputError: a number is below 1.

    Formula: ``"boosting"`` is the sum of its trees' leaves. Of ``"extra"`` with ``T`` trees it is their mean for
    quantities, and for classes ``log((T p + 1/K) / (T + 1))`` with the trees' mean ``p``: one more tree that knows
    nothing, so that no class is impossible; a label is a pair of classes.
    """

    name: ClassVar[str] = "trees"
    differentiable: ClassVar[bool] = False

    def __init__(
        self,
        dims: Mapping[str, int],
        outputs: int = 2,
        kind: str = "extra",
        trees: int | None = None,
        reading: str = "sum",
        roots: int = 1,
        nodes: int = 1,
        leaves: int = 1,
        depth: int = 1,
    ) -> None:
        super().__init__(dims, outputs)
        if kind not in _KINDS:
            raise UnknownNameError("kind of trees", kind, _KINDS)
        if reading not in _READINGS:
            raise UnknownNameError("reading of trees", reading, _READINGS)
        trees = _TREES[kind] if trees is None else trees
        for name, value in (("trees", trees), ("roots", roots), ("nodes", nodes), ("leaves", leaves), ("depth", depth)):
            check_count(name, value)
        self.kind, self.trees, self.reading, self.depth = kind, trees, reading, depth
        self.root: Tensor
        self.feature: Tensor
        self.threshold: Tensor
        self.left: Tensor
        self.right: Tensor
        self.leaf: Tensor
        for name, size in zip(_ARRAYS, (roots, *[nodes] * 5), strict=True):
            self.register_buffer(name, torch.zeros(size, dtype=torch.float32 if name == "threshold" else torch.int32))
        # What a leaf adds to the sum.
        self.value = nn.Parameter(torch.zeros(leaves, outputs))

    def current_options(self) -> dict[str, Any]:
        """With what fitting decided."""
        sizes = {"roots": len(self.root), "nodes": len(self.feature), "leaves": len(self.value), "depth": self.depth}
        return {**super().current_options(), "reading": self.reading, **sizes}

    def candidates(self, problem: FittingProblem) -> Iterator[State]:
        """Trees with a few settings each."""
        return (_extra if self.kind == "extra" else _boosted)(problem, self.trees, self.outputs)

    def restore(self, state: State) -> None:
        """Take the arrays."""
        for name in _ARRAYS:
            setattr(self, name, state[name].to(getattr(self, name)))
        self.value = nn.Parameter(state["value"].to(self.value))
        self.reading, self.depth = _READINGS[int(state["reading"])], int(state["depth"])

    def ends(self, columns: Tensor) -> Tensor:
        """The nodes ``(R, T)`` that the rows ``(R, D)`` end in, of each tree."""
        # Thresholds were rounded down to float32, so that comparing columns of float32 with them is exact.
        x = columns.float()
        node = self.root.long().expand(x.shape[0], -1)
        feature, left, right = self.feature.long(), self.left.long(), self.right.long()
        threshold = self.threshold.float()
        for _ in range(self.depth):
            below = x.gather(1, feature[node]) <= threshold[node]
            node = torch.where(below, left[node], right[node])  # a leaf leads to itself
        return node

    @torch.no_grad()
    def rescale(self, scale: Tensor, shift: Tensor) -> None:
        """Predict ``scale · prediction + shift`` of quantities, by output ``(K,)``."""
        self.value.mul_(scale.to(self.value))
        # The mean of the leaves is shifted with each of them; of a sum the first tree is one leaf, the constant.
        shifted = self.value if self.reading == "mean" else self.value[:1]
        shifted.add_(shift.to(self.value))

    def predict(self, columns: Tensor) -> Tensor:
        """See the formula."""
        leaf = self.leaf.long()[self.ends(columns)]
        if torch.compiler.is_compiling():
            total = self.value[leaf].sum(1)
        else:  # without the memory of R x T x K numbers
            total = functional.embedding_bag(leaf, self.value, mode="sum")
        count = len(self.root)
        if self.reading == "mean":
            return total / count
        if self.reading == "classes":
            return ((total + 1 / self.outputs) / (count + 1)).log()
        if self.reading == "labels":
            return (total + 0.5).log() - (count - total + 0.5).log()
        return total


@register
class Boosting(Trees):
    """Gradient boosting on histograms of all modalities' columns: ``trees`` with ``kind="boosting"`` under a name.

    How many of its rounds are taken is chosen on validation. A modality that is missing is at its mean, and a column
    says so.

    >>> fusion = ef.fusion.Boosting({"text": 30, "image": 50}, outputs=3)
    >>> fusion({"text": torch.randn(8, 30), "image": torch.randn(8, 50)}).fused.shape
    torch.Size([8, 3])

    Args:
        dims: modality name -> width ``l_m``.
        outputs: number of classes or other outputs ``K``; default 2, set by :func:`equifuse.build_model`.
        trees: most rounds; default 100.
        reading: see :class:`Trees`, also for the others.
        roots: likewise.
        nodes: likewise.
        leaves: likewise.
        depth: likewise.

    ``modalities`` holds the inputs.

    Raises:
        InputError: a number is below 1.

    Formula: the sum of the leaves that a row ends in.
    """

    name: ClassVar[str] = "boosting"

    def __init__(
        self,
        dims: Mapping[str, int],
        outputs: int = 2,
        trees: int | None = None,
        reading: str = "sum",
        roots: int = 1,
        nodes: int = 1,
        leaves: int = 1,
        depth: int = 1,
    ) -> None:
        super().__init__(dims, outputs, "boosting", trees, reading, roots, nodes, leaves, depth)


class _Forest:
    """Arrays of all trees together, in the making."""

    def __init__(self) -> None:
        self.parts: dict[str, list[NDArray[Any]]] = {name: [] for name in (*_ARRAYS, "value")}
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

    def state(self, reading: str) -> State:
        """The arrays, as :meth:`Trees.restore` takes them."""
        arrays = {name: torch.from_numpy(np.concatenate(parts)) for name, parts in self.parts.items()}
        numbers = {"reading": _READINGS.index(reading), "depth": self.depth}
        return {**arrays, **{name: torch.tensor(number) for name, number in numbers.items()}}


def _extra(problem: FittingProblem, trees: int, outputs: int) -> Iterator[State]:
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
        forest = _Forest()
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


def _boosted(problem: FittingProblem, rounds: int, outputs: int) -> Iterator[State]:
    """Gradient boosting, of each label and each quantity on its own, after more and more rounds."""
    from sklearn import ensemble  # noqa: PLC0415 - it takes a second to import

    x, y = problem.columns.astype(np.float32), problem.target
    assert y is not None
    chances = is_classes(problem)
    kind = ensemble.HistGradientBoostingClassifier if chances else ensemble.HistGradientBoostingRegressor
    options = {"max_iter": rounds, "early_stopping": False, "random_state": problem.seed}
    columns = [y] if y.ndim == 1 else list(y.T)
    fits = [kind(**options).fit(x, c, problem.weight) if len(np.unique(c)) > 1 else None for c in columns]
    for count in sorted({max(1, round(share * rounds)) for share in _ROUNDS}):
        forest = _Forest()
        for k, (fit, column) in enumerate(zip(fits, columns, strict=True)):
            places = _places(y, fit, k, outputs)
            base = _constant(column, chances) if fit is None else np.asarray(fit._baseline_prediction).reshape(-1)
            none = np.zeros(1, np.int64)
            forest.add(none, none, none, np.zeros(1), (base @ places)[None], 1)
            for of_round in [] if fit is None else fit._predictors[:count]:
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


def _places(y: NDArray[Any], fit: Any, k: int, outputs: int) -> NDArray[np.float64]:
    """``(trees of a round, K)``: what each tree of a round counts in each raw output."""
    if y.ndim == 2:
        return np.eye(outputs)[k : k + 1]
    classes = [0] if fit is None else [int(c) for c in fit.classes_]
    found = np.zeros((1 if len(classes) == 2 else len(classes), outputs))
    if len(classes) == 2:  # one score between two classes
        found[0, classes] = (-0.5, 0.5)
    else:
        found[np.arange(len(classes)), classes] = 1
    return found


def _constant(column: NDArray[Any], chances: bool) -> NDArray[np.float64]:
    """What is predicted where all samples have the same target: of a label a logit counted once more than seen."""
    if not chances:
        return np.asarray(column[:1], dtype=np.float64)
    size = np.log(len(column) + 1.0)
    return np.array([size if column[0] else -size])
