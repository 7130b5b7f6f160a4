"""Decision trees: scikit-learn or LightGBM grows them, and they are kept and evaluated as plain arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from equifuse.errors import UnknownNameError
from equifuse.fusion.fitted import FittedFusion, FittingProblem, State, check_count
from equifuse.fusion.forests import ARRAYS, READINGS, boosted_trees, extra_trees, lightgbm_trees
from equifuse.fusion.make import register

# Of each kind what grows it, and trees, of boosting rounds of them.
_KINDS = {"extra": (extra_trees, 300), "boosting": (boosted_trees, 100), "lightgbm": (lightgbm_trees, 200)}


@register
class Trees(FittedFusion):
    """Decision trees on all modalities' columns: extremely randomised trees, or gradient boosting on histograms.

    Good where few columns decide, by thresholds. scikit-learn or LightGBM grows them; no setting but ``trees`` is to be
    chosen, the others are tried on validation. There is nothing to differentiate: gradients cannot explain them.

    >>> fusion = ef.fusion.Trees({"text": 30, "image": 50}, outputs=3)
    >>> fusion({"text": torch.randn(8, 30), "image": torch.randn(8, 50)}).fused.shape
    torch.Size([8, 3])

    Args:
        dims: modality name -> width ``l_m``.
        outputs: number of classes or other outputs ``K``; default 2, set by :func:`equifuse.build_model`.
        kind: ``"extra"`` (default; Geurts et al. 2006), ``"boosting"``, or ``"lightgbm"``; see :class:`LightGBM`.
        trees: how many are grown, of boosting the rounds; default 300, 100, and 200.
        reading: what becomes of the trees' sum; set by fitting, as the others are.
        roots: number of trees.
        nodes: of all trees together.
        leaves: of all trees together.
        depth: of the deepest tree.

    ``modalities`` holds the inputs.

    Raises:
        UnknownNameError: another ``kind``.
        InputError: a number is below 1.

    Formula: boosting is the sum of its trees' leaves. Of ``"extra"`` with ``T`` trees it is their mean for
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
        if reading not in READINGS:
            raise UnknownNameError("reading of trees", reading, READINGS)
        trees = _KINDS[kind][1] if trees is None else trees
        for name, value in (("trees", trees), ("roots", roots), ("nodes", nodes), ("leaves", leaves), ("depth", depth)):
            check_count(name, value)
        self.kind, self.trees, self.reading, self.depth = kind, trees, reading, depth
        self.root: Tensor
        self.feature: Tensor
        self.threshold: Tensor
        self.left: Tensor
        self.right: Tensor
        self.leaf: Tensor
        for name, size in zip(ARRAYS, (roots, *[nodes] * 5), strict=True):
            self.register_buffer(name, torch.zeros(size, dtype=torch.float32 if name == "threshold" else torch.int32))
        # What a leaf adds to the sum.
        self.value = nn.Parameter(torch.zeros(leaves, outputs))

    def current_options(self) -> dict[str, Any]:
        """With what fitting decided."""
        sizes = {"roots": len(self.root), "nodes": len(self.feature), "leaves": len(self.value), "depth": self.depth}
        return {**super().current_options(), "reading": self.reading, **sizes}

    def candidates(self, problem: FittingProblem) -> Iterator[State]:
        """Trees with a few settings each."""
        return _KINDS[self.kind][0](problem, self.trees, self.outputs)

    def restore(self, state: State) -> None:
        """Take the arrays."""
        for name in ARRAYS:
            setattr(self, name, state[name].to(getattr(self, name)))
        self.value = nn.Parameter(state["value"].to(self.value))
        self.reading, self.depth = READINGS[int(state["reading"])], int(state["depth"])

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
        super().__init__(dims, outputs, self.name, trees, reading, roots, nodes, leaves, depth)


@register
class LightGBM(Boosting):
    """Gradient boosting by LightGBM on all modalities' columns: ``trees`` with ``kind="lightgbm"`` under a name.

    Quicker than ``boosting``, since each tree sees a share of the columns, and these in fewer steps. LightGBM grows the
    trees, and has to be installed for that: ``pip install 'equifuse[lightgbm]'``; what was fitted is plain arrays and
    needs it no more. How many of its rounds are taken is chosen on validation. A modality that is missing is at its
    mean, and a column says so.

    >>> fusion = ef.fusion.LightGBM({"text": 30, "image": 50}, outputs=3)
    >>> fusion({"text": torch.randn(8, 30), "image": torch.randn(8, 50)}).fused.shape
    torch.Size([8, 3])

    Args:
        dims: modality name -> width ``l_m``.
        outputs: number of classes or other outputs ``K``; default 2, set by :func:`equifuse.build_model`.
        trees: most rounds; default 200.
        reading: see :class:`Trees`, also for the others.
        roots: likewise.
        nodes: likewise.
        leaves: likewise.
        depth: likewise.

    ``modalities`` holds the inputs.

    Raises:
        InputError: a number is below 1.

    Formula: the sum of the leaves that a row ends in (Ke et al. 2017).
    """

    name: ClassVar[str] = "lightgbm"
    trained_by: ClassVar[str | None] = "lightgbm"
