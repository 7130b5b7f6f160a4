"""Fixed-point maps that know their own derivative: what the implicit gradient can use instead of autograd."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

Saved = tuple[Tensor, ...]


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

    @abstractmethod
    def take(self, rows: Tensor) -> ExplicitMap:
        """The map of some samples alone (sorted int64 indices)."""

    @abstractmethod
    def linearize(self, z: Tensor) -> tuple[Tensor, Saved]:
        """``f(z)``, and what :meth:`transposed` and :meth:`pull` need of this evaluation."""

    @abstractmethod
    def take_saved(self, saved: Saved, rows: Tensor) -> Saved:
        """What ``take(rows)`` needs in place of ``saved``."""

    @abstractmethod
    def transposed(self, saved: Saved, u: Tensor) -> Tensor:
        """``Jᵀu`` with ``J = ∂f/∂z``, shaped like ``u`` ``(B, …)``."""

    @abstractmethod
    def pull(self, saved: Saved, u: Tensor) -> tuple[Tensor, ...]:
        """The gradient of ``Σ u ⊙ f`` with respect to each tensor of :attr:`closure`."""
