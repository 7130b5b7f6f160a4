"""Fixed-point maps that know their own derivative: what the implicit gradient can use instead of autograd."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor

from equifuse.solve.inexact import Evaluated, ReferencePoint

Saved = tuple[Tensor, ...]


class Linearized(NamedTuple):
    """A map about a point.

    Attributes:
        image: its value there, ``(B, …)``.
        saved: what products with its derivative need.
        error: ``(B,)`` estimate of how far the image is off, on the large side; None if it is exact.
    """

    image: Tensor
    saved: Saved
    error: Tensor | None = None


class ExplicitMap(ABC):
    """A map ``(B, …) -> (B, …)``, independent per sample, with hand-written vector-Jacobian products.

    :class:`equifuse.solve.Implicit` then records no graph for the adjoint solve: one evaluation keeps what the
    products need, each product reuses it, and samples that are done can leave the batch.
    """

    @property
    @abstractmethod
    def closure(self) -> tuple[Tensor, ...]:
        """The tensors, besides the state, that the map depends on and that may need gradients."""

    @abstractmethod
    def __call__(self, z: Tensor) -> Tensor:
        """One evaluation, differentiable by autograd too."""

    def look_ahead(self, z: Tensor) -> Evaluated:
        """One evaluation, and the point ahead of it where the map knows one."""
        return Evaluated(self(z))

    @abstractmethod
    def select(self, rows: Tensor) -> ExplicitMap:
        """The map of some samples alone (sorted int64 indices)."""

    @property
    def has_rough(self) -> bool:
        """Whether :meth:`anchored` and ``transposed(rough=True)`` are there and cheaper."""
        return False

    def anchored(self, *, ahead: bool = True) -> ReferencePoint:
        """Cheap evaluations for one solve; only asked for if :attr:`has_rough`.

        Args:
            ahead: whether points ahead are wanted.

        Raises:
            NotImplementedError: the map has none.
        """
        raise NotImplementedError(f"{type(self).__name__} has no rough evaluation")

    @abstractmethod
    def linearize(self, z: Tensor, slack: float = 0.0) -> Linearized:
        """``f(z)``, and what :meth:`transposed` and :meth:`pull` need of this evaluation.

        Args:
            z: ``(B, …)``.
            slack: how far the image may be off, relative to the norm of ``z``; more than 0 only after a solve, near
                its solution, where the map may know a cheap way.
        """

    @abstractmethod
    def select_saved(self, saved: Saved, rows: Tensor) -> Saved:
        """What ``select(rows)`` needs in place of ``saved``."""

    @abstractmethod
    def transposed(self, saved: Saved, u: Tensor, *, rough: bool = False) -> Tensor:
        """``Jᵀu`` with ``J = ∂f/∂z``, shaped like ``u`` ``(B, …)``; with rounded products if ``rough``."""

    @abstractmethod
    def pull(self, saved: Saved, u: Tensor) -> tuple[Tensor, ...]:
        """The gradient of ``Σ u ⊙ f`` with respect to each tensor of :attr:`closure`."""
