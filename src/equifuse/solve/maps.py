"""Maps whose fixed points are solved for: any function of the state, or one that knows its own derivative."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import NamedTuple, Protocol, Self, cast

import torch
from torch import Tensor

from equifuse.errors import InputError
from equifuse.kernels import Run
from equifuse.solve.tensors import flatten_batch
from equifuse.solve.transforms import transformed

FixedPointMap = Callable[[Tensor], Tensor]
RowSelector = Callable[[Tensor], FixedPointMap]
Saved = tuple[Tensor, ...]


def row_selector(f: FixedPointMap) -> RowSelector | None:
    """The map's method that returns the map of some samples alone, or None if it has none.

    Warns:
        DeprecationWarning: the method is named ``take``, as in version 0.1.
    """
    if hasattr(f, "select"):
        return cast(RowSelector, f.select)
    if hasattr(f, "take"):
        warnings.warn("name a map's method take(rows) select(rows)", DeprecationWarning, stacklevel=3)
        return cast(RowSelector, f.take)
    return None


class Evaluation(Protocol):
    """The evaluation of a map on memory that a solver owns; how fused solvers call it.

    Attributes:
        looks_ahead: whether ``ahead`` is filled.
        worth_selecting: numbers in a batch of states from which on :meth:`select` saves more than it costs.
    """

    looks_ahead: bool
    worth_selecting: int

    def prepare(self, z: Tensor, out: Tensor, ahead: Tensor, idle: Tensor | None) -> Run:
        """What writes the image of ``z`` ``(n, N)`` to ``out``, and the point ahead to ``ahead`` if it looks ahead.

        Rows whose ``idle`` is not 0 need not be computed.
        """

    def select(self, rows: Tensor) -> Evaluation | None:
        """The evaluation of some rows alone (sorted int64 indices); None if it cannot be divided."""


class CapturableEvaluation(Evaluation, Protocol):
    """An evaluation of which nothing depends on values, so that a GPU can record and replay it."""

    @property
    def key(self) -> Hashable:
        """What two evaluations must share to use one recording: kind, shapes, options."""

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """The tensors that it reads, in a fixed order."""

    def with_tensors(self, tensors: tuple[Tensor | None, ...]) -> Self:
        """The same evaluation of other tensors."""


class Called:
    """The evaluation of any function ``f``: of a copy of the state, so that ``f`` may do with it what it likes.

    Args:
        f: the map.
        like: a state as ``f`` takes it; only its shape behind the first axis and its dtype count.
        select_rows: function from row indices of the whole batch to the map of these rows; None if there is none.
        rows: which rows of the whole batch ``f`` is of; None for all.
    """

    looks_ahead = False
    worth_selecting = 0

    def __init__(
        self, f: FixedPointMap, like: Tensor, select_rows: RowSelector | None, rows: Tensor | None = None
    ) -> None:
        self._f, self._like, self._select_rows, self._rows = f, like, select_rows, rows

    def fused(self, z: Tensor) -> Evaluation:
        """The evaluation for a fused solver of states like ``z`` ``(n, N)``: the map's own, if it has one."""
        own = self._f.evaluation(z) if isinstance(self._f, ExplicitMap) else None
        return self if own is None else own

    def __call__(self, z: Tensor) -> Tensor:
        """``f`` of the flat state ``z`` ``(n, N)``, flat and in the dtype of ``z``, in memory of its own."""
        state = z.reshape(z.shape[0], *self._like.shape[1:]).to(self._like.dtype)
        if transformed() or (not torch.compiler.is_compiling() and state.data_ptr() == z.data_ptr()):
            state = state.clone()
        image = self._f(state)
        if not isinstance(image, Tensor) or image.shape != state.shape:
            what = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise InputError(f"the map must keep its input's shape {tuple(state.shape)}, it returned {what}")
        return flatten_batch(image).to(z.dtype, copy=True)

    def prepare(self, z: Tensor, out: Tensor, ahead: Tensor, idle: Tensor | None) -> Run:
        """See :class:`Evaluation`."""
        return lambda: out.copy_(self(z))

    def select(self, rows: Tensor) -> Called | None:
        """See :class:`Evaluation`."""
        if self._select_rows is None:
            return None
        rows = rows if self._rows is None else self._rows[rows]
        return Called(self._select_rows(rows), self._like, self._select_rows, rows)


class Linearized(NamedTuple):
    """A map linearised at a point: its value there, and what products with its derivative need.

    >>> ef.solve.Linearized(torch.ones(1, 2), saved=()).image
    tensor([[1., 1.]])

    Attributes:
        image: the value of the map, ``(B, …)``.
        saved: tensors that products with the derivative need.
    """

    image: Tensor
    saved: Saved


class ExplicitMap(ABC):
    """Base of maps ``(B, …) -> (B, …)`` with hand-written vector-Jacobian products.

    Derive from it if the backward pass through your map must be fast. :class:`equifuse.Implicit` then records no graph:
    one evaluation stores what the products need, every product reuses it, and samples that are solved leave the batch.
    Samples must be independent of each other, and a solve must leave nothing behind in the map.

    >>> class Scale(ef.solve.ExplicitMap):
    ...     def __init__(self, w): self.w = w
    ...     @property
    ...     def closure(self): return (self.w,)
    ...     def __call__(self, z): return self.w * z + 1
    ...     def select(self, rows): return self
    ...     def linearize(self, z): return ef.solve.Linearized(self(z), (z,))
    ...     def select_saved(self, saved, rows): return (saved[0][rows],)
    ...     def transposed(self, saved, u): return self.w * u
    ...     def pull(self, saved, u): return ((u * saved[0]).sum(),)
    >>> w = torch.tensor(0.5, requires_grad=True)
    >>> z, _ = ef.fixed_point(Scale(w), torch.zeros(1, 1))
    >>> z.sum().backward()
    >>> round(w.grad.item(), 2)
    4.0
    """

    @property
    @abstractmethod
    def closure(self) -> tuple[Tensor, ...]:
        """The tensors besides the state that the map depends on and that may need gradients."""

    @abstractmethod
    def __call__(self, z: Tensor) -> Tensor:
        """One evaluation; also differentiable by autograd."""

    @abstractmethod
    def select(self, rows: Tensor) -> ExplicitMap:
        """The map of some samples alone (sorted int64 indices)."""

    @abstractmethod
    def linearize(self, z: Tensor) -> Linearized:
        """``f(z)``, and what :meth:`transposed` and :meth:`pull` need from this evaluation."""

    @abstractmethod
    def select_saved(self, saved: Saved, rows: Tensor) -> Saved:
        """The tensors ``saved`` for the samples of ``select(rows)``."""

    @abstractmethod
    def transposed(self, saved: Saved, u: Tensor) -> Tensor:
        """``Jᵀu`` with ``J = ∂f/∂z``, shaped like ``u`` ``(B, …)``."""

    @abstractmethod
    def pull(self, saved: Saved, u: Tensor) -> tuple[Tensor, ...]:
        """The gradient of ``Σ u ⊙ f`` with respect to each tensor of :attr:`closure`."""

    def evaluation(self, like: Tensor) -> Evaluation | None:
        """The map for a fused solver of states ``(B, N)`` like ``like``; None (default) if it has no fused form."""
        return None

    def adjoint(self, saved: Saved, g: Tensor) -> Evaluation | None:
        """The map ``u ↦ Jᵀu + g`` ``(B, N)`` for a fused solver; None (default) if it has no fused form."""
        return None


class Packed(NamedTuple):
    """A map as tensors and numbers alone, of which it can be made again.

    Attributes:
        closure: the map's :attr:`~ExplicitMap.closure`.
        constants: other tensors, which get no gradient.
        numbers: its options.
    """

    closure: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]
    numbers: tuple[float, ...]


class PackedMap(ExplicitMap):
    """Base of explicit maps that compiled graphs can hold; see :mod:`equifuse.solve.operators`."""

    @abstractmethod
    def packed(self) -> Packed:
        """The map as tensors and numbers."""

    @classmethod
    @abstractmethod
    def unpacked(cls, packed: Packed) -> Self:
        """The map made of them."""


class TupleMap:
    """A map of several states, ``f(z1, z2, …) -> (z1, z2, …)``, as a map of one flat state ``(B, N)``.

    Args:
        f: the map.
        like: the states, whose shapes and dtypes count.

    Raises:
        InputError: what is given are no floating-point tensors with a common batch axis.
    """

    def __init__(self, f: Callable[..., tuple[Tensor, ...]], like: tuple[Tensor, ...]) -> None:
        for z in like:
            if not isinstance(z, Tensor) or not z.is_floating_point() or z.dim() == 0 or len(z) != len(like[0]):
                shapes = [tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__ for z in like]
                raise InputError(f"z0 must be floating-point tensors (B, ...) with one batch size, got {shapes}")
        if not like:
            raise InputError("z0 must be a tensor or a tuple of tensors, got an empty tuple")
        self._f, self._like = f, like
        select_rows = row_selector(cast(FixedPointMap, f))
        if select_rows is not None:
            self.select = lambda rows: TupleMap(select_rows(rows), like)  # type: ignore[arg-type]

    def join(self, states: tuple[Tensor, ...]) -> Tensor:
        """The states as one ``(B, N)``, in the widest of their dtypes."""
        return torch.cat([flatten_batch(z) for z in states], dim=1)

    def split(self, z: Tensor) -> tuple[Tensor, ...]:
        """The states that ``z`` consists of."""
        pieces = torch.split(z, [math.prod(like.shape[1:]) for like in self._like], dim=1)
        return tuple(
            piece.reshape(len(z), *like.shape[1:]).to(like.dtype)
            for piece, like in zip(pieces, self._like, strict=True)
        )

    def __call__(self, z: Tensor) -> Tensor:
        """One evaluation."""
        images = self._f(*self.split(z))
        expected = [tuple(like.shape[1:]) for like in self._like]
        if not isinstance(images, tuple | list) or [tuple(x.shape[1:]) for x in images] != expected:
            what = [tuple(x.shape[1:]) for x in images] if isinstance(images, tuple | list) else type(images).__name__
            raise InputError(
                f"the map must return a tuple of states of shapes {expected} per sample, it returned {what}"
            )
        return self.join(tuple(images)).to(z.dtype)
