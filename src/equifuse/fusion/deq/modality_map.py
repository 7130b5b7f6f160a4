"""The map of the modality states, all modalities stacked, with its derivative."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from equifuse.fusion.deq.group_norm import NORM_EPS, affine, group_norm, normalise, normalise_pull, relu, relu_pull
from equifuse.fusion.deq.maps import TwoProductMap
from equifuse.fusion.deq.products import product, rounded_product
from equifuse.solve.explicit import Saved
from equifuse.solve.inexact import Evaluated
from equifuse.solve.recycling import copy, empty, recording, select, spare, spread

# From this mean gain of the last norm on, the part without products is repeated, this many times.
_STEEP = 0.5
_REPEATS = 2


class BlockWeights(NamedTuple):
    """Parameters of the modality blocks, stacked: matrices ``(M, d, d)`` (in × out), vectors ``(M, 1, d)``."""

    weight1: Tensor
    bias1: Tensor
    gain1: Tensor
    shift1: Tensor
    weight2: Tensor
    bias2: Tensor
    gain2: Tensor
    shift2: Tensor
    gain3: Tensor
    shift3: Tensor


class _BlockSaved(NamedTuple):
    z: Tensor
    normal1: Tensor
    scale1: Tensor
    hidden: Tensor
    normal2: Tensor
    scale2: Tensor
    outer: Tensor
    normal3: Tensor
    scale3: Tensor


class ModalityMap(TwoProductMap):
    """``f_m(z_m; x_m)`` of all modalities, on states stacked as rows ``(n, d)``, modality after modality.

    ``h = ReLU(GN(z W1 + b1))``, ``u = GN(h W2 + b2 + x)``, ``f = GN(ReLU(u + z))``; 0 where a modality is absent.

    Args:
        x: ``(M, R, d)`` injected inputs.
        mask: bool ``(M, R, 1)``, which rows have the modality; None for all.
        weights: the blocks' parameters.
        eps: ε of the norms.
        rounding: whether products may be rounded where tolerances still hold and it saves time.
        places: which of the ``M · R`` places the rows are, in order; None for all of them.
    """

    def __init__(
        self,
        x: Tensor,
        mask: Tensor | None,
        weights: BlockWeights,
        eps: float = NORM_EPS,
        *,
        rounding: bool = False,
        places: Tensor | None = None,
    ) -> None:
        super().__init__(x, weights.bias2, eps, rounding=rounding)
        self.x, self.mask, self.weights, self.places = x, mask, weights, places
        self._steep: bool | None = None

    @property
    def closure(self) -> tuple[Tensor, ...]:
        """The tensors it depends on besides the state."""
        return (self.x, *self.weights)

    def _stack(self, rows: Tensor) -> Tensor:
        """Flat states ``(n, k)`` in their places ``(M, R, k)``."""
        if self.places is not None:
            rows = spread(rows, self.places, self.x.shape[0] * self.x.shape[1])
        return rows.view(*self.x.shape[:2], rows.shape[1])

    def _flat(self, stacked: Tensor) -> Tensor:
        flat = stacked.flatten(0, 1)
        return flat if self.places is None else select(flat, self.places)

    def evaluate(self, z: Tensor) -> tuple[Tensor, _BlockSaved]:
        """``(M, R, d) -> (M, R, d)``, and what the derivative needs."""
        return self._evaluate(z, self._exactly, keep=True)

    def _evaluate(
        self, z: Tensor, affinely: Callable[[int, Tensor], Tensor], *, keep: bool
    ) -> tuple[Tensor, _BlockSaved]:
        """One evaluation with the given function for the two affine products."""
        w = self.weights
        lean = not recording()  # overwrite what is not kept
        over = lean and not keep
        normal1, scale1 = normalise(affinely(0, z), self.eps, reuse=lean)
        hidden = relu(affine(w.shift1, normal1, w.gain1, reuse=over))
        normal2, scale2 = normalise(affinely(1, hidden), self.eps, reuse=lean)
        outer = affine(w.shift2, normal2, w.gain2, reuse=over)
        outer = relu(outer.add_(z) if lean else outer + z)
        normal3, scale3 = normalise(outer, self.eps, reuse=over)
        image = self._present(affine(w.shift3, normal3, w.gain3, reuse=over))
        return image, _BlockSaved(z, normal1, scale1, hidden, normal2, scale2, outer, normal3, scale3)

    def _look_ahead(self, z: Tensor, affinely: Callable[[int, Tensor], Tensor]) -> Evaluated:
        if recording() or not self.steep:
            return super()._look_ahead(z, affinely)
        w = self.weights
        hidden = relu(self._norm(affinely(0, z), w.gain1, w.shift1))
        inner = self._norm(affinely(1, hidden), w.gain2, w.shift2)
        image = self._combined(inner, z)
        return Evaluated(image, self._repeated(inner, image))

    def _combined(self, inner: Tensor, z: Tensor) -> Tensor:
        """``f`` from ``u`` and the state: the part of the map without products."""
        outer = relu(torch.add(inner, z, out=spare(inner)))
        return self._present(self._norm(outer, self.weights.gain3, self.weights.shift3))

    def _repeated(self, inner: Tensor, z: Tensor) -> Tensor:
        """The part without products applied several times, with ``u`` fixed."""
        for _ in range(_REPEATS):
            z = self._combined(inner, z)
        return z

    @property
    def steep(self) -> bool:
        """Whether the gains are so large that repeating the part without products pays.

        Much of the Jacobian is then that of this part, ``z ↦ GN(ReLU(u + z))``.
        """
        if self._steep is None:
            self._steep = bool(self.weights.gain3.detach().abs().mean() > _STEEP)
        return self._steep

    def _present(self, image: Tensor) -> Tensor:
        return image if self.mask is None else torch.where(self.mask, image, 0.0)

    def _matrix(self, i: int) -> Tensor:
        return self.weights.weight1 if i == 0 else self.weights.weight2

    @property
    def _first_constant(self) -> Tensor:
        return self.weights.bias1

    def _known_at_zero(self) -> list[tuple[Tensor, Tensor]]:
        """The first product is 0; the second one is the same in every row, apart from the injected input."""
        if self._at_zero is None:
            w = self.weights
            hidden = F.relu(group_norm(w.bias1, w.gain1, w.shift1, self.eps))
            second = torch.add(self.x, torch.baddbmm(w.bias2, hidden, w.weight2), out=spare(self.x))
            self._at_zero = [(w.bias1.new_zeros(1), w.bias1), (hidden, second)]
        return self._at_zero

    def at_zero(self, *, ahead: bool = True) -> Tensor:
        """``f(0)`` ``(n, d)``, or the point ahead of it, without a product of the size of the batch."""
        w = self.weights
        second = self._known_at_zero()[1][1]
        inner = self._norm(second if recording() else copy(second), w.gain2, w.shift2)
        if recording() or not (ahead and self.steep):
            return self._flat(self._present(self._norm(relu(inner), w.gain3, w.shift3)))
        return self._flat(self._repeated(inner, self._combined(inner, inner.new_zeros(()))))

    def _pull(self, saved: Saved, u: Tensor, *, low_precision: bool = False) -> tuple[Tensor, ...]:
        """Gradients at the state, before the second product, after the first norm, and before the first product."""
        w, s = self.weights, _BlockSaved(*saved)
        outer, second, hidden, first, scratch = (empty(u) for _ in range(5))
        relu_pull(normalise_pull(s.normal3, s.scale3, torch.mul(u, w.gain3, out=outer), scratch), s.outer)
        normalise_pull(s.normal2, s.scale2, torch.mul(outer, w.gain2, out=second), scratch)
        if low_precision:
            rounded_product(second, self._rounded_matrices()[1].mT, out=hidden)
        else:
            product(second, w.weight2.mT, hidden)
        relu_pull(hidden, s.hidden)
        normalise_pull(s.normal1, s.scale1, torch.mul(hidden, w.gain1, out=first), scratch)
        return outer, second, hidden, first

    def _masked(self, u: Tensor) -> Tensor:
        stacked = self._stack(u)
        return stacked if self.mask is None else torch.where(self.mask, stacked, 0.0)

    def transposed(self, saved: Saved, u: Tensor, *, low_precision: bool = False) -> Tensor:
        """``Jᵀu`` ``(n, d)``."""
        outer, _, _, first = self._pull(saved, self._masked(u), low_precision=low_precision)
        if low_precision:
            return self._flat(outer.add_(rounded_product(first, self._rounded_matrices()[0].mT, out=first)))
        return self._flat(product(first, self.weights.weight1.mT, outer, outer))

    def pull(self, saved: Saved, u: Tensor) -> tuple[Tensor, ...]:
        """The gradients of ``Σ u ⊙ f`` in the order of :attr:`closure`."""
        s, u = _BlockSaved(*saved), self._masked(u)

        def total(values: Tensor) -> Tensor:
            return values.sum(1, keepdim=True)

        outer, second, hidden, first = self._pull(saved, u)
        scratch = empty(u)
        weights = BlockWeights(
            weight1=product(s.z.mT, first, empty(self.weights.weight1)),
            bias1=total(first),
            gain1=total(torch.mul(hidden, s.normal1, out=scratch)),
            shift1=total(hidden),
            weight2=product(s.hidden.mT, second, empty(self.weights.weight2)),
            bias2=total(second),
            gain2=total(torch.mul(outer, s.normal2, out=scratch)),
            shift2=total(outer),
            gain3=total(torch.mul(u, s.normal3, out=scratch)),
            shift3=total(u),
        )
        return (second, *weights)

    def select(self, rows: Tensor) -> ModalityMap:
        """The map of some rows; each modality's places are padded to those of the modality with the most rows."""
        gather, places = self._gather(rows)
        mask = None if self.mask is None else gather(self.mask)
        return ModalityMap(gather(self.x), mask, self.weights, self.eps, rounding=self.rounding, places=places)

    def select_saved(self, saved: Saved, rows: Tensor) -> Saved:
        """The tensors ``saved`` for the rows of ``select(rows)``."""
        gather, _ = self._gather(rows)
        return tuple(gather(tensor) for tensor in saved)

    def _gather(self, rows: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """A function that moves a tensor ``(M, R, …)`` to the places of some rows, zeros where padded; the places."""
        count, height = self.x.shape[:2]
        flat = rows if self.places is None else self.places[rows]
        modality = flat // height
        counts = torch.bincount(modality, minlength=count)
        widest = int(counts.max()) if len(rows) else 0
        rank = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[modality]
        places = modality * widest + rank

        def gather(tensor: Tensor) -> Tensor:
            some = select(tensor.flatten(0, 1), flat)
            return spread(some, places, count * widest).view(count, widest, *some.shape[1:])

        return gather, places
