"""The map of the fusion state, given the modality states, with its derivative."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from equifuse.fusion.deq.group_norm import NORM_EPS, affine, normalise, normalise_pull, relu, relu_pull
from equifuse.fusion.deq.maps import TwoProductMap
from equifuse.fusion.deq.products import rounded_product
from equifuse.solve.explicit import Saved
from equifuse.solve.recycling import empty, recording, select, spare


class FusionWeights(NamedTuple):
    """Parameters of the fusion map; ``gate`` is None without one. Matrices ``(d, d)`` (out × in), vectors ``(d,)``."""

    gate: Tensor | None
    mix: Tensor
    mix_bias: Tensor
    gain: Tensor
    shift: Tensor


class _FusionSaved(NamedTuple):
    z: Tensor  # what the gate multiplies: the state, clamped where the gate is bounded
    alpha: Tensor
    purified: Tensor
    outer: Tensor
    normal: Tensor
    scale: Tensor
    inside: Tensor  # where the clamp passes, and the slope of the bounded gate; not read without a bound
    slope: Tensor


class FusionMap(TwoProductMap):
    """``f_fuse(z_fuse)`` on states ``(n, d)``, for given modality states.

    ``Σ_m z'_m = z ⊙ α`` with ``α = constant + (count · z) Wα`` (without a gate ``constant + count · z``);
    ``f = GN(ReLU(share · (Σ_m z'_m) Wf + bf + x_fuse))``.

    Args:
        x_fuse: ``(n, d)``.
        constant: ``(n, d)`` ``(Σ_m z_m) Wα + M bα``, the modality states' part of the gate.
        count: ``(n, 1)`` number of modalities present.
        share: ``(n, 1)`` factor of the gated sum, None for 1.
        weights: the parameters.
        eps: ε of the norm.
        bound: with a gate: ``z`` is clamped to [-1, 1] and ``α`` bounded smoothly by ``count · bound``; None for the
            plain product.
        rounding: whether products may be rounded where tolerances still hold and it saves time.
    """

    def __init__(
        self,
        x_fuse: Tensor,
        constant: Tensor,
        count: Tensor,
        share: Tensor | None,
        weights: FusionWeights,
        eps: float = NORM_EPS,
        bound: float | None = None,
        *,
        rounding: bool = False,
    ) -> None:
        super().__init__(x_fuse, weights.mix_bias, eps, rounding=rounding)
        self.x_fuse, self.constant, self.count, self.share = x_fuse, constant, count, share
        self.weights = weights
        self.bound = bound if weights.gate is not None else None

    @property
    def closure(self) -> tuple[Tensor, ...]:
        """The tensors it depends on besides the state."""
        gate = () if self.weights.gate is None else (self.weights.gate,)
        return (self.x_fuse, self.constant, *gate, *self.weights[1:])

    def evaluate(self, z: Tensor) -> tuple[Tensor, _FusionSaved]:
        """``(n, d) -> (n, d)``, and what the derivative needs."""
        return self._evaluate(z, self._exactly, keep=True)

    def _evaluate(
        self, z: Tensor, affinely: Callable[[int, Tensor], Tensor], *, keep: bool
    ) -> tuple[Tensor, _FusionSaved]:
        """One evaluation with the given function for the affine products: the gate's, if any, and the second one."""
        w = self.weights
        lean = not recording()  # overwrite what is not kept
        over = lean and not keep
        inside = slope = z
        if self.bound is not None:
            inside = z.abs() < 1
            z = z.clamp(-1, 1)
        if w.gate is None:
            alpha, purified = z, self.constant + self.count * z
        elif self.bound is not None:
            alpha = affinely(0, self.count * z)
            most = self.bound * self.count.clamp(min=1)
            level = torch.tanh(alpha / most)
            alpha, slope = most * level, 1 - level.square()
            purified = z * alpha
        else:
            alpha = affinely(0, torch.mul(z, self.count, out=spare(z)))
            purified = torch.mul(z, alpha, out=alpha if over else spare(z))
        if self.share is not None:
            purified = purified * self.share
        outer = affinely(1, purified)
        outer = relu(outer)
        normal, scale = normalise(outer, self.eps, reuse=over)
        image = affine(w.shift, normal, w.gain, reuse=over)
        return image, _FusionSaved(z, alpha, purified, outer, normal, scale, inside, slope)

    @property
    def has_low_precision(self) -> bool:
        """Whether low-precision evaluations are allowed and cheaper; not without a gate."""
        return self.weights.gate is not None and super().has_low_precision

    def _matrix(self, i: int) -> Tensor:
        weight = self.weights.gate if i == 0 else self.weights.mix
        assert weight is not None  # without a gate there is no first product
        return weight.t()

    @property
    def _first_constant(self) -> Tensor:
        return self.constant

    def _known_at_zero(self) -> list[tuple[Tensor, Tensor]]:
        zero = self.constant.new_zeros(1)
        return [(zero, self.constant), (zero, self._injected())]

    def _of_state(self, norms: Tensor) -> Tensor:
        return norms / self.count.squeeze(1).clamp(min=1)

    def at_zero(self, *, ahead: bool = True) -> Tensor:
        """``f(0)`` ``(n, d)``; there is no point ahead of it. With a gate the gated sum is 0 and needs no product."""
        w = self.weights
        if w.gate is None:
            return self(torch.zeros_like(self.x_fuse))
        return self._norm(relu(torch.add(self.x_fuse, w.mix_bias, out=spare(self.x_fuse))), w.gain, w.shift)

    def _pull(self, saved: Saved, u: Tensor, *, low_precision: bool = False) -> tuple[Tensor, Tensor]:
        """Gradients before the norm's ReLU, and at the gated sum."""
        w, s = self.weights, _FusionSaved(*saved)
        scaled = torch.mul(u, w.gain, out=empty(u))
        mixed = relu_pull(normalise_pull(s.normal, s.scale, scaled, empty(u)), s.outer)
        purified = empty(u)
        if low_precision:
            rounded_product(mixed, self._rounded_matrices()[1].t(), out=purified)
        else:
            torch.mm(mixed, w.mix, out=purified)
        return mixed, purified if self.share is None else purified.mul_(self.share)

    def _at_gate(self, s: _FusionSaved, purified: Tensor) -> Tensor:
        """Gradient before the gate's bound."""
        at_alpha = torch.mul(purified, s.z, out=empty(purified))
        return at_alpha if self.bound is None else at_alpha.mul_(s.slope)

    def transposed(self, saved: Saved, u: Tensor, *, low_precision: bool = False) -> Tensor:
        """``Jᵀu`` ``(n, d)``."""
        s, gate = _FusionSaved(*saved), self.weights.gate
        _, purified = self._pull(saved, u, low_precision=low_precision)
        if gate is None:
            return purified.mul_(self.count)
        at_gate = self._at_gate(s, purified).mul_(self.count)
        if low_precision:
            through_gate = rounded_product(at_gate, self._rounded_matrices()[0].t(), out=at_gate)
            image = purified.mul_(s.alpha).add_(through_gate)
        else:
            image = purified.mul_(s.alpha).addmm_(at_gate, gate)
        return image if self.bound is None else image.mul_(s.inside)

    def pull(self, saved: Saved, u: Tensor) -> tuple[Tensor, ...]:
        """The gradients of ``Σ u ⊙ f`` in the order of :attr:`closure`."""
        s = _FusionSaved(*saved)
        mixed, purified = self._pull(saved, u)
        gate: tuple[Tensor, ...] = ()
        if self.weights.gate is not None:
            purified = self._at_gate(s, purified)
            gate = (purified.t() @ (self.count * s.z),)
        return (mixed, purified, *gate, mixed.t() @ s.purified, mixed.sum(0), (u * s.normal).sum(0), u.sum(0))

    def select(self, rows: Tensor) -> FusionMap:
        """The map of some rows."""
        share = None if self.share is None else select(self.share, rows)
        constants = select(self.x_fuse, rows), select(self.constant, rows), select(self.count, rows), share
        return FusionMap(*constants, self.weights, self.eps, self.bound, rounding=self.rounding)

    def select_saved(self, saved: Saved, rows: Tensor) -> Saved:
        """The tensors ``saved`` for the rows of ``select(rows)``."""
        return tuple(select(tensor, rows) for tensor in saved)
