"""Matrix products in bfloat16: where they pay, and products that are only rounded on the way from a known point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from equifuse.solve.inexact import ROUNDOFF, Evaluated, ReferencePoint
from equifuse.solve.recycling import copy, empty

# With fewer numbers in a batch of states than this, the conversions cost as much as the products save.
_WORTH_ROUNDING = 2**17
# From this many multiplications per matrix on, matrices are multiplied one by one, each on all threads of a CPU: a
# batched product gives whole matrices to threads, and leaves threads idle where the numbers do not divide.
_WORTH_ALL_THREADS = 2**23


def product(a: Tensor, b: Tensor, out: Tensor | None, plus: Tensor | None = None) -> Tensor:
    """``a @ b``, optionally plus a tensor.

    Args:
        a: ``(n, k)`` or ``(M, n, k)``.
        b: ``(k, p)`` or ``(M, k, p)``.
        out: memory for the result; None while a graph is recorded.
        plus: tensor that broadcasts to the result, or ``out`` itself.
    """
    if a.dim() == 2:
        return torch.mm(a, b, out=out) if plus is None else torch.addmm(plus, a, b, out=out)
    multiplications = a.shape[1] * a.shape[2] * b.shape[2]
    if out is None or a.device.type != "cpu" or multiplications < _WORTH_ALL_THREADS:
        return torch.bmm(a, b, out=out) if plus is None else torch.baddbmm(plus, a, b, out=out)
    for i in range(len(a)):
        product(a[i], b[i], out[i], None if plus is None else plus[i])
    return out


@cache
def _cpu_has_fast_bfloat16() -> bool:
    """Whether this CPU has instructions for products of bfloat16; without them they are slower than float32."""
    ask = getattr(torch.cpu, "get_capabilities", None)  # not in every version
    capabilities = ask() if ask is not None else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def low_precision_pays(state: Tensor) -> bool:
    """Whether rounding the products of a batch of states ``(..., d)`` saves time: large, float32, on a suitable CPU.

    On a GPU the caller decides, by ``torch.set_float32_matmul_precision``.
    """
    fits = state.dtype == torch.float32 and state.device.type == "cpu" and state.numel() >= _WORTH_ROUNDING
    return fits and not torch.compiler.is_compiling() and _cpu_has_fast_bfloat16()


def rounded_product(x: Tensor, weight: Tensor, out: Tensor) -> Tensor:
    """``x @ weight`` with both rounded, ``(..., n, d) × (..., d, d)``, written to ``out``, which may be ``x``.

    Args:
        x: float32.
        weight: already rounded.
        out: float32, shaped like ``x``.
    """
    low = empty(weight, *x.shape).copy_(x)
    # Widened here, because a sum of two dtypes would make a copy in newly allocated memory.
    return out.copy_(torch.matmul(low, weight, out=empty(low)))


class ReferenceProducts:
    """The affine products ``c_i + x W_i`` of a map: exact, or in low precision relative to the last exact ones.

    A low-precision product rounds only the distance between its input and the input of the last exact product (the
    reference point), so its error is small near the reference point.

    Args:
        constants: the ``c_i``.
        weights: the ``W_i``, square, float32.
        rounded: the ``W_i`` in bfloat16.
        start: inputs and products of a reference point that is known without computing it; empty for none.
    """

    def __init__(
        self,
        constants: Sequence[Tensor],
        weights: Sequence[Tensor],
        rounded: Sequence[Tensor],
        start: Sequence[tuple[Tensor, Tensor]] = (),
    ) -> None:
        self.constants, self.weights, self.rounded = constants, weights, rounded
        self.anchor = list(start)
        self.way: Tensor | None = None  # norms (...) of the distance of the first input from the reference point
        self.moved = False  # whether the reference point is no longer the one it was started with
        self._moving = False

    def begin(self, *, exact: bool) -> None:
        """Begin an evaluation; if ``exact``, its inputs become the reference point."""
        self._moving = exact
        if exact:
            self.anchor, self.moved = [], True

    @property
    def error(self) -> Tensor:
        """Estimate ``(...)`` of the latest low-precision evaluation's error, from the distance that was rounded."""
        assert self.way is not None
        return ROUNDOFF * self.way

    def __call__(self, i: int, x: Tensor) -> Tensor:
        """``c_i + x W_i``; the caller may overwrite it."""
        return self._exactly(i, x) if self._moving else self._in_low_precision(i, x)

    def _exactly(self, i: int, x: Tensor) -> Tensor:
        """The exact product, stored as part of the reference point."""
        known = product(x, self.weights[i], empty(x), self.constants[i])
        self.anchor.append((copy(x), known))
        return copy(known)

    def _in_low_precision(self, i: int, x: Tensor) -> Tensor:
        at, known = self.anchor[i]
        way = torch.sub(x, at, out=empty(x))
        if i == 0:
            self.way = torch.linalg.vector_norm(way, dim=-1)
        return rounded_product(way, self.rounded[i], out=way).add_(known)


class ReferenceMap(ReferencePoint):
    """A map made of :class:`ReferenceProducts` and elementwise operations, whose first product is with its state.

    Args:
        products: its products ``(..., d) -> (..., d)``.
        evaluate: function of a state ``(n, d)`` and the products that returns the evaluation, without an error.
        flatten: function from norms of the first product's inputs to norms of the state ``(n,)``.
    """

    def __init__(
        self,
        products: ReferenceProducts,
        evaluate: Callable[[Tensor, ReferenceProducts], Evaluated],
        flatten: Callable[[Tensor], Tensor],
    ) -> None:
        self._products, self._evaluate, self._flatten = products, evaluate, flatten

    @property
    def known(self) -> bool:
        """Whether there is a reference point."""
        return bool(self._products.anchor)

    def adopt(self, other: ReferencePoint, select_rows: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]) -> None:
        """Start from the reference point of ``other``, the same map with more samples.

        A reference point that ``other`` was started with is not copied, because it is not computed from its samples.
        """
        assert isinstance(other, ReferenceMap)
        self._products.anchor = []
        if other._products.moved:
            flat = select_rows(tuple(tensor for pair in other._products.anchor for tensor in pair))
            self._products.anchor = list(zip(flat[::2], flat[1::2], strict=True))
            self._products.moved = True

    def exact(self, z: Tensor) -> Evaluated:
        """``f(z)`` exactly; ``z`` becomes the reference point."""
        self._products.begin(exact=True)
        return self._evaluate(z, self._products)

    def low_precision(self, z: Tensor) -> Evaluated:
        """``f(z)`` approximately, with an estimate of its error."""
        self._products.begin(exact=False)
        return self._evaluate(z, self._products)._replace(error=self._flatten(self._products.error))
