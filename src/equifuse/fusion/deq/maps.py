"""What the two maps of deep-equilibrium fusion share: two affine products with elementwise operations around them.

Both are written as ``evaluate`` (plain differentiable operations), ``pull_back`` (the derivative, by hand) and a thin
:class:`~equifuse.solve.ExplicitMap` around them that a solver can call. ``R`` rows, ``M`` modalities, width ``d``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from equifuse.fusion.deq.group_norm import affine, normalise
from equifuse.fusion.deq.products import ReferenceMap, ReferenceProducts, low_precision_pays, product
from equifuse.solve.explicit import ExplicitMap, Linearized, Saved
from equifuse.solve.inexact import LOW_PRECISION, Evaluated
from equifuse.solve.recycling import empty, recording, spare


def _rounded(matrix: Tensor) -> Tensor:
    """The matrix in bfloat16, in the same memory order; of a transposed view, the view of a copy."""
    if matrix.is_contiguous():
        return empty(matrix, dtype=LOW_PRECISION).copy_(matrix)
    return empty(matrix.mT, dtype=LOW_PRECISION).copy_(matrix.mT).mT


class TwoProductMap(ExplicitMap):
    """Base of both maps: two affine products with elementwise operations around them, one of them with a constant term.

    Args:
        x: the input that is added, ``(..., d)``.
        bias: is always added to it, broadcast.
        eps: ε of the norms.
        rounding: whether products may be rounded where tolerances still hold and it saves time.

    Attributes:
        from_zero: whether a solve starts at ``f(0)``, where the products are known without computing them.
    """

    def __init__(self, x: Tensor, bias: Tensor, eps: float, *, rounding: bool) -> None:
        self.eps, self.rounding = eps, rounding
        self.from_zero = False
        self._terms = x, bias
        self._sum: Tensor | None = None
        self._rounded: tuple[Tensor, ...] | None = None
        self._solved: ReferenceProducts | None = None  # the products of the latest solve
        self._at_zero: list[tuple[Tensor, Tensor]] | None = None  # products at zero, until the solve is done

    @property
    def has_low_precision(self) -> bool:
        """Whether low-precision evaluations are allowed and cheaper."""
        return self.rounding and low_precision_pays(self._terms[0])

    def _norm(self, v: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        """The norm with its affine part; ``v`` is overwritten unless a graph is recorded."""
        lean = not recording()
        return affine(shift, normalise(v, self.eps, reuse=lean)[0], gain, reuse=lean)

    @abstractmethod
    def _evaluate(self, z: Tensor, affinely: Callable[[int, Tensor], Tensor], *, keep: bool) -> tuple[Tensor, Saved]:
        """One evaluation with the given function for the two affine products."""

    def _look_ahead(self, z: Tensor, affinely: Callable[[int, Tensor], Tensor]) -> Evaluated:
        """``f`` of a stacked state, and the point ahead if there is one, with the given function for the products."""
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
        """What the first product is added to; the second one is added to the injected input."""

    @abstractmethod
    def _known_at_zero(self) -> list[tuple[Tensor, Tensor]]:
        """The inputs of the products, and the products, where the state is 0."""

    def _stack(self, rows: Tensor) -> Tensor:
        """Flat states ``(n, k)`` in the shape that :meth:`evaluate` takes."""
        return rows

    def _flat(self, stacked: Tensor) -> Tensor:
        """The inverse of :meth:`_stack`."""
        return stacked

    def _of_state(self, norms: Tensor) -> Tensor:
        """Norms ``(n,)`` of the state, from the norms of the first product's input."""
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
        """Low-precision evaluations; the products at zero are the first reference point."""
        start = self._known_at_zero() if self.from_zero else []
        constants = self._first_constant, self._injected()
        self._solved = ReferenceProducts(constants, self._matrices, self._rounded_matrices(), start)
        return ReferenceMap(self._solved, self._flat_ahead if ahead else self._flat_image, self._of_state)

    def linearize(self, z: Tensor, slack: float = 0.0) -> Linearized:
        """``f(z)`` ``(n, d)``, and what the derivative there needs; in low precision if ``slack`` allows its error."""
        products, self._solved, self._at_zero = self._solved, None, None  # frees the memory of the reference point
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
        """``x + bias``, computed once."""
        if recording():
            return self._terms[0] + self._terms[1]
        if self._sum is None:
            self._sum = torch.add(*self._terms, out=empty(self._terms[0]))
        return self._sum
