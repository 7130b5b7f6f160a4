"""The map of the modality states, all modalities stacked, with its derivative and its fused forms."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from equifuse import kernels
from equifuse.fusion.deq.products import least_rows, product
from equifuse.kernels import Kernels, Run, reference
from equifuse.kernels.reference import TailSaved, TailWeights
from equifuse.solve.maps import Evaluation, Linearized, Packed, PackedMap, Saved
from equifuse.solve.operators import operator
from equifuse.solve.sync import is_recorded

# From this mean gain of the last norm on, `z ↦ GN(ReLU(u + z))` is repeated, this many times, for a point ahead.
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

    @property
    def tail(self) -> TailWeights:
        """The affine parts behind the second product."""
        return TailWeights(self.gain2, self.shift2, self.gain3, self.shift3)


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

    @property
    def tail(self) -> TailSaved:
        return TailSaved(self.normal2, self.scale2, self.outer, self.normal3, self.scale3)


@operator
class ModalityMap(PackedMap):
    """``f_m(z_m; x_m)`` of all modalities, on states stacked as rows ``(n, d)``, modality after modality.

    ``h = ReLU(GN(z W1 + b1))``, ``u = GN(h W2 + b2 + x)``, ``f = GN(ReLU(u + z))``; 0 where a modality is absent.

    Args:
        x: ``(M, R, d)`` injected inputs.
        mask: bool ``(M, R, 1)``, which rows have the modality; None for all.
        weights: the blocks' parameters.
        eps: ε of the norms.
        places: which of the ``M · R`` places the rows are, in order; None for all of them.
    """

    def __init__(
        self, x: Tensor, mask: Tensor | None, weights: BlockWeights, eps: float, *, places: Tensor | None = None
    ) -> None:
        self.x, self.mask, self.weights, self.eps, self.places = x, mask, weights, eps, places
        self._steep: bool | None = None

    @property
    def closure(self) -> tuple[Tensor, ...]:
        """The tensors it depends on besides the state."""
        return (self.x, *self.weights)

    def packed(self) -> Packed:
        """The map as tensors and numbers."""
        return Packed(self.closure, () if self.mask is None else (self.mask,), (self.eps,))

    @classmethod
    def unpacked(cls, packed: Packed) -> ModalityMap:
        """The map made of them."""
        (x, *weights), (eps,) = packed.closure, packed.numbers
        return cls(x, packed.constants[0] if packed.constants else None, BlockWeights(*weights), eps)

    def _stack(self, rows: Tensor) -> Tensor:
        """Flat states ``(n, k)`` in their places ``(M, R, k)``."""
        if self.places is not None:
            rows = rows.new_zeros(self.x.shape[0] * self.x.shape[1], rows.shape[1]).index_copy(0, self.places, rows)
        return rows.reshape(*self.x.shape[:2], rows.shape[1])

    def _flat(self, stacked: Tensor) -> Tensor:
        flat = stacked.flatten(0, 1)
        return flat if self.places is None else flat[self.places]

    def evaluate(self, z: Tensor) -> Tensor:
        """``(M, R, d) -> (M, R, d)``, differentiable."""
        w = self.weights
        hidden = reference.norm_relu(torch.baddbmm(w.bias1, z, w.weight1), w.gain1, w.shift1, self.eps)
        second = torch.baddbmm(self.x + w.bias2, hidden, w.weight2)
        return reference.block_tail(second, z, w.tail, self.mask, self.eps)[0]

    def __call__(self, z: Tensor) -> Tensor:
        """One evaluation ``(n, d) -> (n, d)``."""
        return self._flat(self.evaluate(self._stack(z)))

    def start(self) -> Tensor:
        """``f(0)`` ``(n, d)``, or the point ahead of it, without a product of the size of the batch."""
        w = self.weights
        hidden = reference.norm_relu(w.bias1, w.gain1, w.shift1, self.eps)  # the same in every row
        second = self.x + torch.baddbmm(w.bias2, hidden, w.weight2)
        fused = kernels.fused(second)
        if fused is None:
            return self._flat(reference.block_tail(second, torch.zeros_like(second), w.tail, self.mask, self.eps)[0])
        repeats, image, ahead = self._repeats(), torch.empty_like(second), torch.empty_like(second)
        fused.block_tail(second, torch.zeros_like(second), w.tail, self.mask, self.eps, repeats, image, ahead, None)()
        return self._flat(ahead if repeats else image)

    def _repeats(self) -> int:
        """How often the part without products is repeated: much of the Jacobian is its where the gains are large."""
        if self._steep is None and is_recorded(self.x):
            return _REPEATS  # right for any gain
        if self._steep is None:
            self._steep = float(self.weights.gain3.detach().abs().mean()) > _STEEP
        return _REPEATS if self._steep else 0

    def linearize(self, z: Tensor) -> Linearized:
        """``f(z)`` ``(n, d)``, and what the derivative there needs."""
        w = self.weights
        z = self._stack(z)
        normal1, scale1 = reference.normalise(torch.baddbmm(w.bias1, z, w.weight1), self.eps)
        hidden = F.relu(torch.addcmul(w.shift1, normal1, w.gain1))
        normal2, scale2 = reference.normalise(torch.baddbmm(self.x + w.bias2, hidden, w.weight2), self.eps)
        outer = F.relu(torch.addcmul(w.shift2, normal2, w.gain2).add_(z))
        normal3, scale3 = reference.normalise(outer, self.eps)
        image = torch.addcmul(w.shift3, normal3, w.gain3)
        if self.mask is not None:
            image = torch.where(self.mask, image, 0.0)
        saved = _BlockSaved(z, normal1, scale1, hidden, normal2, scale2, outer, normal3, scale3)
        return Linearized(self._flat(image), tuple(saved))

    def _pull(self, s: _BlockSaved, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients at the state, before the second norm, after the first ReLU, and before the first norm."""
        w, fused = self.weights, kernels.fused(u)
        if fused is None:
            at_state, second = reference.block_tail_vjp(u, s.tail, w.gain2, w.gain3, self.mask)
            hidden = torch.bmm(second, w.weight2.mT)
            return at_state, second, hidden, reference.norm_relu_vjp(hidden, s.hidden, s.normal1, s.scale1, w.gain1)
        at_state, second, first = (torch.empty_like(s.z) for _ in range(3))
        fused.block_tail_vjp(u.contiguous(), s.tail, w.gain2, w.gain3, self.mask, at_state, second, None)()
        hidden = torch.bmm(second, w.weight2.mT)
        fused.norm_relu_vjp(hidden, s.hidden, s.normal1, s.scale1, w.gain1, first, None)()
        return at_state, second, hidden, first

    def transposed(self, saved: Saved, u: Tensor) -> Tensor:
        """``Jᵀu`` ``(n, d)``."""
        at_state, _, _, first = self._pull(_BlockSaved(*saved), self._stack(u))
        return self._flat(torch.baddbmm(at_state, first, self.weights.weight1.mT))

    def pull(self, saved: Saved, u: Tensor) -> tuple[Tensor, ...]:
        """The gradients of ``Σ u ⊙ f`` in the order of :attr:`closure`."""
        s, u = _BlockSaved(*saved), self._stack(u)
        if self.mask is not None:
            u = torch.where(self.mask, u, 0.0)
        at_state, second, hidden, first = self._pull(s, u)
        hidden = torch.where(s.hidden > 0, hidden, 0.0)

        def total(values: Tensor) -> Tensor:
            return values.sum(1, keepdim=True)

        weights = BlockWeights(
            weight1=torch.bmm(s.z.mT, first),
            bias1=total(first),
            gain1=total(hidden * s.normal1),
            shift1=total(hidden),
            weight2=torch.bmm(s.hidden.mT, second),
            bias2=total(second),
            gain2=total(at_state * s.normal2),
            shift2=total(at_state),
            gain3=total(u * s.normal3),
            shift3=total(u),
        )
        return (second, *weights)

    def select(self, rows: Tensor) -> ModalityMap:
        """The map of some rows; each modality's places are padded to those of the modality with the most rows."""
        gather, places = self._gather(rows)
        mask = None if self.mask is None else gather(self.mask)
        return ModalityMap(gather(self.x), mask, self.weights, self.eps, places=places)

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
        widest = max(int(counts.max()), least_rows(rows)) if len(rows) else 0
        rank = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[modality]
        places = modality * widest + rank

        def gather(tensor: Tensor) -> Tensor:
            some = tensor.flatten(0, 1)[flat]
            spread = some.new_zeros(count * widest, *some.shape[1:]).index_copy(0, places, some)
            return spread.view(count, widest, *some.shape[1:])

        return gather, places

    def evaluation(self, like: Tensor) -> Evaluation | None:
        """The map on the solver's memory."""
        fused = kernels.fused(like)
        if fused is None:
            return None
        w = self.weights
        tensors = (self.x + w.bias2, self.mask, self.places, *w)
        return _BlockEvaluation(tensors, self.eps, self._repeats(), fused, self)

    def adjoint(self, saved: Saved, g: Tensor) -> Evaluation | None:
        """``u ↦ Jᵀu + g`` on the solver's memory."""
        fused = kernels.fused(g)
        return (
            None
            if fused is None
            else _BlockAdjoint((self._stack(g), self.mask, self.places, *self.weights, *saved), fused, self, g)
        )


class _Stacked:
    """An evaluation of stacked states in the places of a map.

    Args:
        tensors: one ``(M, n, d)`` of all places, the mask, the places, and others.
        fused: the kernels.
        whole: the map; None for an evaluation that is not divided into rows, and keeps nothing but its tensors alive.
    """

    looks_ahead: bool
    worth_selecting = 2**16

    def __init__(self, tensors: tuple[Tensor | None, ...], fused: Kernels, whole: ModalityMap | None) -> None:
        self.tensors, self._kernels, self._whole = tensors, fused, whole
        first, self._places = tensors[0], tensors[2]
        assert first is not None
        self._shape = first.shape
        # Of a part of the rows: their states in the places of the map, and the results there.
        parts = 0 if self._places is None else 3 if self.looks_ahead else 2
        self._padded = [torch.zeros_like(first) for _ in range(parts)]

    def _passes(self, z: Tensor, out: Tensor, ahead: Tensor, idle: Tensor | None) -> tuple[Run, ...]:
        """The parts of an evaluation of ``(M, n, d)``, in order."""
        raise NotImplementedError

    def prepare(self, z: Tensor, out: Tensor, ahead: Tensor, idle: Tensor | None) -> Run:
        """See :class:`~equifuse.solve.maps.Evaluation`."""
        shape, places = self._shape, self._places
        if places is None:
            passes = self._passes(z.view(shape), out.view(shape), ahead.view(shape), idle)
            return lambda: [run() for run in passes]
        state, *results = self._padded
        passes = self._passes(state, results[0], results[-1], None)

        def run() -> None:
            state.view(-1, shape[-1]).index_copy_(0, places, z)
            for part in passes:
                part()
            for padded, wanted in zip(results, (out, ahead), strict=False):
                torch.index_select(padded.view(-1, shape[-1]), 0, places, out=wanted)

        return run


class _BlockEvaluation(_Stacked):
    """``f`` in two products and two passes over each row."""

    def __init__(
        self, tensors: tuple[Tensor | None, ...], eps: float, repeats: int, fused: Kernels, whole: ModalityMap | None
    ) -> None:
        self._eps, self._repeats, self.looks_ahead = eps, repeats, repeats > 0
        super().__init__(tensors, fused, whole)
        injected, self._mask, _, *weights = tensors
        assert injected is not None
        self._injected, self._weights = injected, BlockWeights(*weights)  # type: ignore[arg-type]
        self._first, self._second = torch.empty_like(injected), torch.empty_like(injected)

    @property
    def key(self) -> Hashable:
        """What decides the sequence of operations."""
        return "block", self._mask is None, self._eps, self._repeats

    def with_tensors(self, tensors: tuple[Tensor | None, ...]) -> _BlockEvaluation:
        """The same evaluation of other tensors."""
        return _BlockEvaluation(tensors, self._eps, self._repeats, self._kernels, None)

    def _passes(self, z: Tensor, out: Tensor, ahead: Tensor, idle: Tensor | None) -> tuple[Run, ...]:
        w, fused = self._weights, self._kernels
        return (
            product(w.bias1, z, w.weight1, self._first),
            fused.norm_relu(self._first, w.gain1, w.shift1, self._eps, self._first, idle),
            product(self._injected, self._first, w.weight2, self._second),
            fused.block_tail(self._second, z, w.tail, self._mask, self._eps, self._repeats, out, ahead, idle),
        )

    def select(self, rows: Tensor) -> Evaluation | None:
        """See :class:`~equifuse.solve.maps.Evaluation`."""
        return None if self._whole is None else self._whole.select(rows).evaluation(self._injected)


class _BlockAdjoint(_Stacked):
    """``u ↦ Jᵀu + g`` in two products and two passes over each row."""

    looks_ahead = False

    def __init__(
        self, tensors: tuple[Tensor | None, ...], fused: Kernels, whole: ModalityMap | None, g: Tensor | None = None
    ) -> None:
        super().__init__(tensors, fused, whole)
        self._rows = g
        self._g, self._mask, _, *rest = tensors
        self._weights = BlockWeights(*rest[: len(BlockWeights._fields)])  # type: ignore[arg-type]
        self._saved = _BlockSaved(*rest[len(BlockWeights._fields) :])  # type: ignore[arg-type]
        assert self._g is not None
        self._state, self._second, self._first = (torch.empty_like(self._g) for _ in range(3))

    @property
    def key(self) -> Hashable:
        """What decides the sequence of operations."""
        return "block adjoint", self._mask is None

    def with_tensors(self, tensors: tuple[Tensor | None, ...]) -> _BlockAdjoint:
        """The same evaluation of other tensors."""
        return _BlockAdjoint(tensors, self._kernels, None)

    def _passes(self, z: Tensor, out: Tensor, ahead: Tensor, idle: Tensor | None) -> tuple[Run, ...]:
        w, s, fused = self._weights, self._saved, self._kernels
        g, state = self._g, self._state
        assert g is not None
        return (
            fused.block_tail_vjp(z, s.tail, w.gain2, w.gain3, self._mask, state, self._second, idle),
            product(None, self._second, w.weight2.mT, self._first),
            fused.norm_relu_vjp(self._first, s.hidden, s.normal1, s.scale1, w.gain1, self._first, idle),
            lambda: state.add_(g),
            product(state, self._first, w.weight1.mT, out),
        )

    def select(self, rows: Tensor) -> Evaluation | None:
        """See :class:`~equifuse.solve.maps.Evaluation`."""
        if self._whole is None or self._rows is None:
            return None
        return self._whole.select(rows).adjoint(self._whole.select_saved(tuple(self._saved), rows), self._rows[rows])
