"""The two maps of deep-equilibrium fusion: modality blocks and fusion state, each with its derivative.

Both are written as ``evaluate`` (plain differentiable operations), ``pull_back`` (the derivative, by hand) and a thin
:class:`~equifuse.solve.ExplicitMap` around them that a solver can call. ``R`` rows, ``M`` modalities, width ``d``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from equifuse.fusion.deq.products import ReferenceMap, ReferenceProducts, product, rough_pays, rounded_product
from equifuse.solve.explicit import ExplicitMap, Linearized, Saved
from equifuse.solve.inexact import ROUGH, Evaluated
from equifuse.solve.recycling import copy, empty, recording, select, spare, spread

GROUPS = 4
NORM_EPS = 1e-5
# From this mean gain of the last norm on, repeating what comes after the products pays, so many times.
_STEEP = 0.5
_REPEATS = 2
# Below this many numbers a call costs more than its arithmetic, so one fused operation beats several lean ones.
_FUSED_BELOW = 2**17


def _grouped(v: Tensor) -> Tensor:
    return v.view(*v.shape[:-1], GROUPS, v.shape[-1] // GROUPS)


def normalise(v: Tensor, eps: float = NORM_EPS, *, reuse: bool = False) -> tuple[Tensor, Tensor]:
    """GroupNorm with 4 groups and no affine part.

    Args:
        v: ``(..., d)``.
        eps: added to the variance.
        reuse: the result may be written over ``v``.

    Returns:
        The normalised ``(..., d)`` and the reciprocal deviations ``(..., 4, 1)``.
    """
    grouped = _grouped(v)
    # A compiled graph is for any number of rows, and fuses by itself.
    if torch.compiler.is_compiling() or v.numel() < _FUSED_BELOW:
        normal, _, scale = torch.native_layer_norm(grouped, grouped.shape[-1:], None, None, eps)
        return normal.flatten(-2), scale
    mean = grouped.mean(-1, keepdim=True)
    if recording():
        centred = grouped - mean
        scale = (centred.square().mean(-1, keepdim=True) + eps).rsqrt()
        return (centred * scale).flatten(-2), scale
    centred = torch.sub(grouped, mean, out=grouped if reuse else empty(grouped))
    norm = torch.linalg.vector_norm(centred, dim=-1, keepdim=True)
    scale = norm.square_().div_(grouped.shape[-1]).add_(eps).rsqrt_()
    return centred.mul_(scale).flatten(-2), scale


def normalise_pull(normal: Tensor, scale: Tensor, g: Tensor, scratch: Tensor) -> Tensor:
    """The derivative of :func:`normalise`, transposed, applied to ``g`` ``(..., d)``, which is overwritten.

    Args:
        normal: what :func:`normalise` returned.
        scale: likewise.
        g: gradient at ``normal``.
        scratch: memory shaped like ``g``.
    """
    n, grouped = _grouped(normal), _grouped(g)
    if g.numel() < _FUSED_BELOW and not recording():
        # As if of n itself, whose mean is 0, and its deviation taken for 1.
        zero, one = torch.zeros_like(scale), torch.ones_like(scale)
        pulled = torch.ops.aten.native_layer_norm_backward(
            grouped, n, n.shape[-1:], zero, one, None, None, [True, False, False]
        )
        return torch.mul(pulled[0], scale, out=grouped).flatten(-2)
    along = torch.mul(grouped, n, out=_grouped(scratch)).mean(-1, keepdim=True)
    mean = grouped.mean(-1, keepdim=True)
    grouped.sub_(mean).addcmul_(n, along, value=-1.0).mul_(scale)
    return g


def affine(shift: Tensor, normal: Tensor, gain: Tensor, *, reuse: bool = False) -> Tensor:
    """``normal · gain + shift``, written over ``normal`` if it may be."""
    return torch.addcmul(shift, normal, gain, out=normal if reuse else spare(normal))


def _relu(v: Tensor) -> Tensor:
    """Written over ``v`` unless recording."""
    return F.relu(v) if recording() else v.relu_()


def _relu_pull(g: Tensor, output: Tensor) -> Tensor:
    """``g``, which is overwritten, with zeros where the ReLU's output vanishes; a mask is many times slower."""
    torch.ops.aten.threshold_backward.grad_input(g, output, 0, grad_input=g)
    return g


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = NORM_EPS) -> Tensor:
    """GroupNorm with 4 groups over the last axis of ``(..., d)``, then ``· weight + bias`` (broadcast)."""
    return affine(bias, normalise(x, eps)[0], weight)


def _rounded(matrix: Tensor) -> Tensor:
    """In bfloat16, and as it lies in memory: of a transposed view, the view of a copy."""
    if matrix.is_contiguous():
        return empty(matrix, dtype=ROUGH).copy_(matrix)
    return empty(matrix.mT, dtype=ROUGH).copy_(matrix.mT).mT


class _Map(ExplicitMap):
    """What both maps are: two affine products with elementwise operations about them, one sum in which stays constant.

    Args:
        x: what is injected, ``(..., d)``.
        bias: what is always added to it, broadcast.
        eps: of the norms.
        rounding: whether products may be rounded where a solve does not feel it and it saves time.

    Attributes:
        from_zero: whether a solve starts at ``f(0)``, so that what is known at 0 is of use.
    """

    def __init__(self, x: Tensor, bias: Tensor, eps: float, *, rounding: bool) -> None:
        self.eps, self.rounding = eps, rounding
        self.from_zero = False
        self._terms = x, bias
        self._sum: Tensor | None = None
        self._rounded: tuple[Tensor, ...] | None = None
        self._solved: ReferenceProducts | None = None  # those of the latest solve
        self._at_zero: list[tuple[Tensor, Tensor]] | None = None  # what is known there, until the solve is done

    @property
    def has_rough(self) -> bool:
        """Whether rough evaluations are allowed and cheaper."""
        return self.rounding and rough_pays(self._terms[0])

    def _norm(self, v: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        """The whole norm; ``v`` is written over unless recording."""
        lean = not recording()
        return affine(shift, normalise(v, self.eps, reuse=lean)[0], gain, reuse=lean)

    @abstractmethod
    def _evaluate(self, z: Tensor, affinely: Callable[[int, Tensor], Tensor], *, keep: bool) -> tuple[Tensor, Saved]:
        """With the two affine products as given."""

    def _look_ahead(self, z: Tensor, affinely: Callable[[int, Tensor], Tensor]) -> Evaluated:
        """``f`` on a stacked state, and the point ahead where one is known, with the two affine products as given."""
        return Evaluated(self._evaluate(z, affinely, keep=False)[0])

    @abstractmethod
    def _matrix(self, i: int) -> Tensor:
        """The weight of product ``i``, in × out."""

    @property
    def _matrices(self) -> tuple[Tensor, ...]:
        return self._matrix(0), self._matrix(1)

    @property
    @abstractmethod
    def _first_constant(self) -> Tensor:
        """What the first product is added to; the second is to what is injected."""

    @abstractmethod
    def _known_at_zero(self) -> list[tuple[Tensor, Tensor]]:
        """The products' inputs, and they themselves, where the state is 0."""

    def _stack(self, rows: Tensor) -> Tensor:
        """FlatInputs ``(n, k)`` as :meth:`evaluate` takes them."""
        return rows

    def _flat(self, stacked: Tensor) -> Tensor:
        """And back."""
        return stacked

    def _of_state(self, norms: Tensor) -> Tensor:
        """Norms ``(n,)`` of the state, from those of what the first product is with."""
        return self._flat(norms)

    def _exactly(self, i: int, v: Tensor) -> Tensor:
        """The affine product ``i`` of ``v``."""
        constant = self._first_constant if i == 0 else self._injected()
        return product(v, self._matrix(i), spare(v), constant)

    def __call__(self, z: Tensor) -> Tensor:
        """One evaluation ``(n, d) -> (n, d)``."""
        return self._flat_image(z, self._exactly).image

    def _flat_image(self, z: Tensor, affinely: Callable[[int, Tensor], Tensor]) -> Evaluated:
        return Evaluated(self._flat(self._evaluate(self._stack(z), affinely, keep=False)[0]))

    def look_ahead(self, z: Tensor) -> Evaluated:
        """One evaluation ``(n, d)``, and the point ahead of it."""
        return self._flat_ahead(z, self._exactly)

    def _flat_ahead(self, z: Tensor, affinely: Callable[[int, Tensor], Tensor]) -> Evaluated:
        image, ahead, _ = self._look_ahead(self._stack(z), affinely)
        return Evaluated(self._flat(image), None if ahead is None else self._flat(ahead))

    def anchored(self, *, ahead: bool = True) -> ReferenceMap:
        """Rough evaluations; at zero the products are known."""
        start = self._known_at_zero() if self.from_zero else []
        constants = self._first_constant, self._injected()
        self._solved = ReferenceProducts(constants, self._matrices, self._rounded_matrices(), start)
        return ReferenceMap(self._solved, self._flat_ahead if ahead else self._flat_image, self._of_state)

    def linearize(self, z: Tensor, slack: float = 0.0) -> Linearized:
        """``f(z)`` ``(n, d)``, and what the derivative there needs; the products are rounded about the last anchor."""
        products, self._solved, self._at_zero = self._solved, None, None  # they keep the anchor's memory
        if products is not None and products.moved and slack > 0:
            products.begin(exact=False)
            image, saved = self._evaluate(self._stack(z), products, keep=True)
            error = self._of_state(products.error)
            if bool((error <= slack * torch.linalg.vector_norm(z, dim=1)).all()):
                return Linearized(self._flat(image), tuple(saved), error)
        image, saved = self._evaluate(self._stack(z), self._exactly, keep=True)
        return Linearized(self._flat(image), tuple(saved))

    def _rounded_matrices(self) -> tuple[Tensor, ...]:
        if self._rounded is None:
            self._rounded = tuple(_rounded(matrix) for matrix in self._matrices)
        return self._rounded

    def _injected(self) -> Tensor:
        """``x + bias``."""
        if recording():
            return self._terms[0] + self._terms[1]
        if self._sum is None:
            self._sum = torch.add(*self._terms, out=empty(self._terms[0]))
        return self._sum


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


class ModalityMap(_Map):
    """``f_m(z_m; x_m)`` for all modalities, on states stacked as rows ``(n, d)``, modality after modality.

    ``h = ReLU(GN(z W1 + b1))``, ``u = GN(h W2 + b2 + x)``, ``f = GN(ReLU(u + z))``; 0 where a modality is absent.

    Args:
        x: ``(M, R, d)`` injected inputs.
        mask: bool ``(M, R, 1)``, which rows have the modality; None for all.
        weights: the blocks' parameters.
        eps: of the norms.
        rounding: whether products may be rounded where a solve does not feel it and it saves time.
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
        """FlatInputs ``(n, k)`` in their places ``(M, R, k)``."""
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
        """With the two affine products as given."""
        w = self.weights
        lean = not recording()  # what is not kept is written over
        over = lean and not keep
        normal1, scale1 = normalise(affinely(0, z), self.eps, reuse=lean)
        hidden = _relu(affine(w.shift1, normal1, w.gain1, reuse=over))
        normal2, scale2 = normalise(affinely(1, hidden), self.eps, reuse=lean)
        outer = affine(w.shift2, normal2, w.gain2, reuse=over)
        outer = _relu(outer.add_(z) if lean else outer + z)
        normal3, scale3 = normalise(outer, self.eps, reuse=over)
        image = self._present(affine(w.shift3, normal3, w.gain3, reuse=over))
        return image, _BlockSaved(z, normal1, scale1, hidden, normal2, scale2, outer, normal3, scale3)

    def _look_ahead(self, z: Tensor, affinely: Callable[[int, Tensor], Tensor]) -> Evaluated:
        if recording() or not self.steep:
            return super()._look_ahead(z, affinely)
        w = self.weights
        hidden = _relu(self._norm(affinely(0, z), w.gain1, w.shift1))
        inner = self._norm(affinely(1, hidden), w.gain2, w.shift2)
        image = self._combined(inner, z)
        return Evaluated(image, self._repeated(inner, image))

    def _combined(self, inner: Tensor, z: Tensor) -> Tensor:
        """``f`` from ``u`` and the state: the part that costs no product."""
        outer = _relu(torch.add(inner, z, out=spare(inner)))
        return self._present(self._norm(outer, self.weights.gain3, self.weights.shift3))

    def _repeated(self, inner: Tensor, z: Tensor) -> Tensor:
        """That part again, and again, with ``u`` as it is."""
        for _ in range(_REPEATS):
            z = self._combined(inner, z)
        return z

    @property
    def steep(self) -> bool:
        """Whether gains are so large that repeating what comes after the products pays.

        Much of the Jacobian is then of what passes beside them, ``z ↦ GN(ReLU(u + z))``.
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
        """The first product vanishes; the second is, but for what is injected, the same for every row."""
        if self._at_zero is None:
            w = self.weights
            hidden = F.relu(group_norm(w.bias1, w.gain1, w.shift1, self.eps))
            second = torch.add(self.x, torch.baddbmm(w.bias2, hidden, w.weight2), out=spare(self.x))
            self._at_zero = [(w.bias1.new_zeros(1), w.bias1), (hidden, second)]
        return self._at_zero

    def at_zero(self, *, ahead: bool = True) -> Tensor:
        """``f(0)`` ``(n, d)``, or the point ahead of it if wanted, without a product of the size of the batch."""
        w = self.weights
        second = self._known_at_zero()[1][1]
        inner = self._norm(second if recording() else copy(second), w.gain2, w.shift2)
        if recording() or not (ahead and self.steep):
            return self._flat(self._present(self._norm(_relu(inner), w.gain3, w.shift3)))
        return self._flat(self._repeated(inner, self._combined(inner, inner.new_zeros(()))))

    def _pull(self, saved: Saved, u: Tensor, *, rough: bool = False) -> tuple[Tensor, ...]:
        """Gradients at the state, before the second product, after the first norm's affine, and before the first."""
        w, s = self.weights, _BlockSaved(*saved)
        outer, second, hidden, first, scratch = (empty(u) for _ in range(5))
        _relu_pull(normalise_pull(s.normal3, s.scale3, torch.mul(u, w.gain3, out=outer), scratch), s.outer)
        normalise_pull(s.normal2, s.scale2, torch.mul(outer, w.gain2, out=second), scratch)
        if rough:
            rounded_product(second, self._rounded_matrices()[1].mT, out=hidden)
        else:
            product(second, w.weight2.mT, hidden)
        _relu_pull(hidden, s.hidden)
        normalise_pull(s.normal1, s.scale1, torch.mul(hidden, w.gain1, out=first), scratch)
        return outer, second, hidden, first

    def _masked(self, u: Tensor) -> Tensor:
        stacked = self._stack(u)
        return stacked if self.mask is None else torch.where(self.mask, stacked, 0.0)

    def transposed(self, saved: Saved, u: Tensor, *, rough: bool = False) -> Tensor:
        """``Jᵀu`` ``(n, d)``."""
        outer, _, _, first = self._pull(saved, self._masked(u), rough=rough)
        if rough:
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
        """The map of some rows: each modality's places are padded to those of the modality with the most rows."""
        gather, places = self._gather(rows)
        mask = None if self.mask is None else gather(self.mask)
        return ModalityMap(gather(self.x), mask, self.weights, self.eps, rounding=self.rounding, places=places)

    def select_saved(self, saved: Saved, rows: Tensor) -> Saved:
        """What ``select(rows)`` needs in place of ``saved``."""
        gather, _ = self._gather(rows)
        return tuple(gather(tensor) for tensor in saved)

    def _gather(self, rows: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """What moves a tensor ``(M, R, …)`` to the places of some rows, zeros where padded; and these places."""
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


class FusionMap(_Map):
    """``f_fuse(z_fuse)`` on states ``(n, d)``, given the modality states.

    ``Σ_m z'_m = z ⊙ α`` with ``α = constant + (count · z) Wα`` (without a gate ``constant + count · z``);
    ``f = GN(ReLU(share · (Σ_m z'_m) Wf + bf + x_fuse))``.

    Args:
        x_fuse: ``(n, d)``.
        constant: ``(n, d)`` ``(Σ_m z_m) Wα + M bα``, what the gate gets from the modality states.
        count: ``(n, 1)`` number of modalities present.
        share: ``(n, 1)`` factor of the gated sum, None for 1.
        weights: the parameters.
        eps: of the norm.
        bound: with a gate: ``z`` is clamped to [-1, 1] and ``α`` bounded smoothly by ``count · bound``; None for the
            plain product.
        rounding: whether products may be rounded where a solve does not feel it and it saves time.
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
        """With the affine products as given: the gate's, where there is one, and the combining one."""
        w = self.weights
        lean = not recording()  # what is not kept is written over
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
        outer = _relu(outer)
        normal, scale = normalise(outer, self.eps, reuse=over)
        image = affine(w.shift, normal, w.gain, reuse=over)
        return image, _FusionSaved(z, alpha, purified, outer, normal, scale, inside, slope)

    @property
    def has_rough(self) -> bool:
        """Whether rough evaluations are allowed and cheaper; an ablation does without."""
        return self.weights.gate is not None and super().has_rough

    def _matrix(self, i: int) -> Tensor:
        weight = self.weights.gate if i == 0 else self.weights.mix
        assert weight is not None  # without a gate the first product is not asked for
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
        """``f(0)`` ``(n, d)``, ahead of which nothing is known: with a gate, nothing is left of the product."""
        w = self.weights
        if w.gate is None:
            return self(torch.zeros_like(self.x_fuse))
        return self._norm(_relu(torch.add(self.x_fuse, w.mix_bias, out=spare(self.x_fuse))), w.gain, w.shift)

    def _pull(self, saved: Saved, u: Tensor, *, rough: bool = False) -> tuple[Tensor, Tensor]:
        """Gradients before the norm's ReLU, and at the gated sum."""
        w, s = self.weights, _FusionSaved(*saved)
        scaled = torch.mul(u, w.gain, out=empty(u))
        mixed = _relu_pull(normalise_pull(s.normal, s.scale, scaled, empty(u)), s.outer)
        purified = empty(u)
        if rough:
            rounded_product(mixed, self._rounded_matrices()[1].t(), out=purified)
        else:
            torch.mm(mixed, w.mix, out=purified)
        return mixed, purified if self.share is None else purified.mul_(self.share)

    def _at_gate(self, s: _FusionSaved, purified: Tensor) -> Tensor:
        """Gradient before the gate's bound, where the gate is the modality states' constant plus a product."""
        at_alpha = torch.mul(purified, s.z, out=empty(purified))
        return at_alpha if self.bound is None else at_alpha.mul_(s.slope)

    def transposed(self, saved: Saved, u: Tensor, *, rough: bool = False) -> Tensor:
        """``Jᵀu`` ``(n, d)``."""
        s, gate = _FusionSaved(*saved), self.weights.gate
        _, purified = self._pull(saved, u, rough=rough)
        if gate is None:
            return purified.mul_(self.count)
        at_gate = self._at_gate(s, purified).mul_(self.count)
        if rough:
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
        """What ``select(rows)`` needs in place of ``saved``."""
        return tuple(select(tensor, rows) for tensor in saved)
