"""The map of the fusion state, given the modality states, with its derivative and its fused forms."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from equifuse import kernels
from equifuse.fusion.deq.products import least_rows
from equifuse.kernels import Kernels, Run, reference
from equifuse.solve.maps import Evaluation, Linearized, Packed, PackedMap, Saved
from equifuse.solve.operators import operator


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


@operator
class FusionMap(PackedMap):
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
    """

    def __init__(
        self,
        x_fuse: Tensor,
        constant: Tensor,
        count: Tensor,
        share: Tensor | None,
        weights: FusionWeights,
        eps: float,
        bound: float | None = None,
    ) -> None:
        self.x_fuse, self.constant, self.count, self.share = x_fuse, constant, count, share
        self.weights, self.eps = weights, eps
        self.bound = bound if weights.gate is not None else None

    @property
    def closure(self) -> tuple[Tensor, ...]:
        """The tensors it depends on besides the state."""
        gate = () if self.weights.gate is None else (self.weights.gate,)
        return (self.x_fuse, self.constant, *gate, *self.weights[1:])

    def packed(self) -> Packed:
        """The map as tensors and numbers."""
        share = () if self.share is None else (self.share,)
        return Packed(self.closure, (self.count, *share), (self.eps,) if self.bound is None else (self.eps, self.bound))

    @classmethod
    def unpacked(cls, packed: Packed) -> FusionMap:
        """The map made of them."""
        x_fuse, constant, *weights = packed.closure
        gate = weights.pop(0) if len(weights) == len(FusionWeights._fields) else None
        (count, *share), (eps, *bound) = packed.constants, packed.numbers
        gated = FusionWeights(gate, *weights)
        return cls(x_fuse, constant, count, share[0] if share else None, gated, eps, bound[0] if bound else None)

    def evaluate(self, z: Tensor) -> tuple[Tensor, _FusionSaved]:
        """``(n, d) -> (n, d)``, differentiable, and what the derivative needs."""
        w = self.weights
        inside = slope = z
        if self.bound is not None:
            inside = z.abs() < 1
            z = z.clamp(-1, 1)
        if w.gate is None:
            alpha, purified = z, self.constant + self.count * z
        else:
            alpha = torch.addmm(self.constant, self.count * z, w.gate.t())
            if self.bound is not None:
                most = self.bound * self.count.clamp(min=1)
                level = torch.tanh(alpha / most)
                alpha, slope = most * level, 1 - level.square()
            purified = z * alpha
        if self.share is not None:
            purified = purified * self.share
        outer = F.relu(torch.addmm(self.x_fuse + w.mix_bias, purified, w.mix.t()))
        normal, scale = reference.normalise(outer, self.eps)
        image = torch.addcmul(w.shift, normal, w.gain)
        return image, _FusionSaved(z, alpha, purified, outer, normal, scale, inside, slope)

    def __call__(self, z: Tensor) -> Tensor:
        """One evaluation ``(n, d) -> (n, d)``."""
        rows = z.shape[0]  # not len, which would fix the batch of an exported graph
        if self.x_fuse.shape[0] == rows:
            return self.evaluate(z)[0]
        return self.evaluate(F.pad(z, (0, 0, 0, self.x_fuse.shape[0] - rows)))[0][:rows]

    def start(self) -> Tensor:
        """``f(0)`` ``(n, d)``; with a gate the gated sum is 0 and needs no product."""
        w = self.weights
        if w.gate is None:
            return self(torch.zeros_like(self.x_fuse))
        injected = self.x_fuse + w.mix_bias
        fused = kernels.fused(injected)
        if fused is None:
            return reference.relu_norm(injected, w.gain, w.shift, self.eps)
        fused.relu_norm(injected, w.gain[None], w.shift[None], self.eps, injected, None)()
        return injected

    def linearize(self, z: Tensor) -> Linearized:
        """``f(z)`` ``(n, d)``, and what the derivative there needs."""
        image, saved = self.evaluate(z)
        return Linearized(image, tuple(saved))

    def _pull(self, s: _FusionSaved, u: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients before the norm's ReLU, and at the gated sum."""
        gain, fused = self.weights.gain, kernels.fused(u)
        if fused is None:
            mixed = reference.relu_norm_vjp(u, s.outer, s.normal, s.scale, gain)
        else:
            mixed = torch.empty_like(s.outer)
            fused.relu_norm_vjp(u.contiguous(), s.outer, s.normal, s.scale, gain[None], mixed, None)()
        purified = mixed @ self.weights.mix
        return mixed, purified if self.share is None else purified * self.share[: len(u)]

    def _at_gate(self, s: _FusionSaved, purified: Tensor) -> Tensor:
        """Gradient before the gate's bound."""
        at_alpha = purified * s.z
        return at_alpha if self.bound is None else at_alpha * s.slope

    def transposed(self, saved: Saved, u: Tensor) -> Tensor:
        """``Jᵀu`` ``(n, d)``."""
        s, gate = _FusionSaved(*saved), self.weights.gate
        _, purified = self._pull(s, u)
        count = self.count[: len(u)]
        if gate is None:
            return purified * count
        image = torch.addmm(purified * s.alpha, self._at_gate(s, purified) * count, gate)
        return image if self.bound is None else image * s.inside

    def pull(self, saved: Saved, u: Tensor) -> tuple[Tensor, ...]:
        """The gradients of ``Σ u ⊙ f`` in the order of :attr:`closure`."""
        s = _FusionSaved(*saved)
        mixed, purified = self._pull(s, u)
        gate: tuple[Tensor, ...] = ()
        if self.weights.gate is not None:
            purified = self._at_gate(s, purified)
            gate = (purified.t() @ (self.count * s.z),)
        return (mixed, purified, *gate, mixed.t() @ s.purified, mixed.sum(0), (u * s.normal).sum(0), u.sum(0))

    def select(self, rows: Tensor) -> FusionMap:
        """The map of some rows; its constants are padded to the fewest rows that a product may have."""
        lacking = max(0, least_rows(rows) - len(rows))

        def gather(x: Tensor) -> Tensor:
            return F.pad(x[rows], (0, 0, 0, lacking))

        share = None if self.share is None else gather(self.share)
        constants = gather(self.x_fuse), gather(self.constant), gather(self.count), share
        return FusionMap(*constants, self.weights, self.eps, self.bound)

    def select_saved(self, saved: Saved, rows: Tensor) -> Saved:
        """The tensors ``saved`` for the rows of ``select(rows)``."""
        return tuple(tensor[rows] for tensor in saved)

    def evaluation(self, like: Tensor) -> Evaluation | None:
        """The map on the solver's memory."""
        fused = kernels.fused(like)
        if fused is None:
            return None
        w = self.weights
        tensors = (self.x_fuse + w.mix_bias, self.constant, self.count, self.share, w.gate, w.mix, w.gain, w.shift)
        return _FusionEvaluation(tensors, self.eps, self.bound, fused, self)

    def adjoint(self, saved: Saved, g: Tensor) -> Evaluation | None:
        """``u ↦ Jᵀu + g`` on the solver's memory."""
        fused = kernels.fused(g)
        if fused is None:
            return None
        s, w, count = _FusionSaved(*saved), self.weights, self.count[: len(g)]
        share = None if self.share is None else self.share[: len(g)]
        scaled = s.z * count if self.bound is None else s.z * count * s.slope
        inside = None if self.bound is None else s.inside.to(g.dtype)
        tensors = (g, s.outer, s.normal, s.scale, s.alpha, scaled, inside, share, count, w.gate, w.mix, w.gain)
        return _FusionAdjoint(tensors, fused, self, saved)


class _Constants(NamedTuple):
    """What an evaluation reads; ``injected`` is ``x_fuse`` with the bias, ``present`` the count."""

    injected: Tensor
    constant: Tensor
    present: Tensor
    share: Tensor | None
    gate: Tensor | None
    mix: Tensor
    gain: Tensor
    shift: Tensor


class _AdjointConstants(NamedTuple):
    """What a product with the transposed Jacobian reads; ``scaled`` is the derivative of the gate's product."""

    g: Tensor
    outer: Tensor
    normal: Tensor
    scale: Tensor
    alpha: Tensor
    scaled: Tensor
    inside: Tensor | None
    share: Tensor | None
    present: Tensor
    gate: Tensor | None
    mix: Tensor
    gain: Tensor


class _FusionEvaluation:
    """``f`` in two products, the gate's elementwise operations and one pass over each row."""

    looks_ahead = False
    worth_selecting = 2**16

    def __init__(
        self,
        tensors: tuple[Tensor | None, ...],
        eps: float,
        bound: float | None,
        fused: Kernels,
        whole: FusionMap | None,
    ) -> None:
        self.tensors, self._eps, self._bound, self._kernels, self._whole = tensors, eps, bound, fused, whole
        injected, constant, count, self._share, self._gate, mix, gain, shift = _Constants(*tensors)  # type: ignore[arg-type]
        self._injected, self._constant, self._count = injected, constant, count
        self._mix, self._gain, self._shift = mix, gain[None], shift[None]
        self._purified, self._alpha = torch.zeros_like(injected), torch.empty_like(injected)
        self._inside = self._most = None
        if bound is not None:
            self._inside, self._most = torch.empty_like(injected), bound * count.clamp(min=1)

    @property
    def key(self) -> Hashable:
        """What decides the sequence of operations."""
        return "fusion", self._injected.shape, self._gate is None, self._share is None, self._eps, self._bound

    def with_tensors(self, tensors: tuple[Tensor | None, ...]) -> _FusionEvaluation:
        """The same evaluation of other tensors."""
        return _FusionEvaluation(tensors, self._eps, self._bound, self._kernels, None)

    def prepare(self, z: Tensor, out: Tensor, ahead: Tensor, idle: Tensor | None) -> Run:
        """See :class:`~equifuse.solve.maps.Evaluation`."""
        purified, alpha, inside, most = self._purified, self._alpha, self._inside, self._most
        gate, mix = None if self._gate is None else self._gate.t(), self._mix.t()
        rows = len(z)  # the rest is padding, and stays 0
        inside = None if inside is None else inside[:rows]
        state = z if inside is None else inside
        count, gated, gates = self._count[:rows], purified[:rows], alpha[:rows]
        norm = self._kernels.relu_norm(gates, self._gain, self._shift, self._eps, out, idle)

        def run() -> None:
            if inside is not None:
                torch.clamp(z, -1, 1, out=inside)
            torch.mul(state, count, out=gated)
            if gate is None:
                purified.add_(self._constant)
            else:
                torch.addmm(self._constant, purified, gate, out=alpha)
                if most is not None:
                    alpha.div_(most).tanh_().mul_(most)
                torch.mul(state, gates, out=gated)
            if self._share is not None:
                purified.mul_(self._share)
            torch.addmm(self._injected, purified, mix, out=alpha)
            norm()

        return run

    def select(self, rows: Tensor) -> Evaluation | None:
        """See :class:`~equifuse.solve.maps.Evaluation`."""
        return None if self._whole is None else self._whole.select(rows).evaluation(self._injected)


class _FusionAdjoint:
    """``u ↦ Jᵀu + g`` in two products, the gate's elementwise operations and one pass over each row."""

    looks_ahead = False
    worth_selecting = 2**16

    def __init__(
        self, tensors: tuple[Tensor | None, ...], fused: Kernels, whole: FusionMap | None, saved: Saved | None = None
    ) -> None:
        self.tensors, self._kernels, self._whole, self._saved = tensors, fused, whole, saved
        of = _AdjointConstants(*tensors)  # type: ignore[arg-type]
        g, outer, normal, scale, alpha, scaled, self._inside, self._share, count, self._gate, mix, gain = of
        self._g, self._outer, self._normal, self._scale, self._alpha = g, outer, normal, scale, alpha
        self._scaled, self._count, self._mix, self._gain = scaled, count, mix, gain[None]
        self._mixed, self._purified = torch.empty_like(g), torch.empty_like(g)

    @property
    def key(self) -> Hashable:
        """What decides the sequence of operations."""
        return "fusion adjoint", self._g.shape, self._gate is None, self._share is None, self._inside is None

    def with_tensors(self, tensors: tuple[Tensor | None, ...]) -> _FusionAdjoint:
        """The same evaluation of other tensors."""
        return _FusionAdjoint(tensors, self._kernels, None)

    def prepare(self, z: Tensor, out: Tensor, ahead: Tensor, idle: Tensor | None) -> Run:
        """See :class:`~equifuse.solve.maps.Evaluation`."""
        mixed, purified, g = self._mixed, self._purified, self._g
        norm = self._kernels.relu_norm_vjp(z, self._outer, self._normal, self._scale, self._gain, mixed, idle)

        def run() -> None:
            norm()
            torch.mm(mixed, self._mix, out=purified)
            if self._share is not None:
                purified.mul_(self._share)
            if self._gate is None:
                torch.addcmul(g, purified, self._count, out=out)
                return
            torch.mul(purified, self._scaled, out=mixed)
            if self._inside is None:
                torch.addcmul(g, purified, self._alpha, out=purified)
                torch.addmm(purified, mixed, self._gate, out=out)
            else:
                torch.addmm(purified.mul_(self._alpha), mixed, self._gate, out=out)
                torch.addcmul(g, out, self._inside, out=out)

        return run

    def select(self, rows: Tensor) -> Evaluation | None:
        """See :class:`~equifuse.solve.maps.Evaluation`."""
        if self._whole is None or self._saved is None:
            return None
        return self._whole.select(rows).adjoint(self._whole.select_saved(self._saved, rows), self._g[rows])
