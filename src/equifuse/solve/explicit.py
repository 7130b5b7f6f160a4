"""Maps that implement their own derivative, which the implicit gradient uses instead of autograd."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor

from equifuse.solve.inexact import Evaluated, ReferencePoint

Saved = tuple[Tensor, ...]


class Linearized(NamedTuple):
    """A map linearised at a point: its value there, and what products with its derivative need.

    >>> ef.solve.Linearized(torch.ones(1, 2), saved=()).image
    tensor([[1., 1.]])

    Attributes:
        image: the value of the map, ``(B, …)``.
        saved: tensors that products with the derivative need.
        error: ``(B,)`` estimate of the image's error, rather too large than too small; None if it is exact.
    """

    image: Tensor
    saved: Saved
    error: Tensor | None = None


class ExplicitMap(ABC):
    """Base of maps ``(B, …) -> (B, …)`` with hand-written vector-Jacobian products.

    Derive from it if the backward pass through your map must be fast. :class:`equifuse.Implicit` then records no graph:
    one evaluation stores what the products need, every product reuses it, and samples that are solved leave the batch.
    Samples must be independent of each other.

    >>> class Scale(ef.solve.ExplicitMap):
    ...     def __init__(self, w): self.w = w
    ...     @property
    ...     def closure(self): return (self.w,)
    ...     def __call__(self, z): return self.w * z + 1
    ...     def select(self, rows): return self
    ...     def linearize(self, z, slack=0.0): return ef.solve.Linearized(self(z), (z,))
    ...     def select_saved(self, saved, rows): return (saved[0][rows],)
    ...     def transposed(self, saved, u, **_): return self.w * u
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

    def look_ahead(self, z: Tensor) -> Evaluated:
        """One evaluation, with the point ahead of the image where the map has one."""
        return Evaluated(self(z))

    @abstractmethod
    def select(self, rows: Tensor) -> ExplicitMap:
        """The map of some samples alone (sorted int64 indices)."""

    @property
    def has_low_precision(self) -> bool:
        """Whether :meth:`anchored` and ``transposed(low_precision=True)`` are there and cheaper."""
        return False

    def anchored(self, *, ahead: bool = True) -> ReferencePoint:
        """Low-precision evaluations for one solve.

        Args:
            ahead: whether points ahead of the image are wanted.

        Raises:
            NotImplementedError: the map has none.
        """
        raise NotImplementedError(f"{type(self).__name__} has no low-precision evaluation")

    @abstractmethod
    def linearize(self, z: Tensor, slack: float = 0.0) -> Linearized:
        """``f(z)``, and what :meth:`transposed` and :meth:`pull` need from this evaluation.

        Args:
            z: ``(B, …)``.
            slack: allowed error of the image relative to the norm of ``z``; default 0, exact. Above 0 only after a
                solve, near the solution, where the map may have a cheaper way.
        """

    @abstractmethod
    def select_saved(self, saved: Saved, rows: Tensor) -> Saved:
        """The tensors ``saved`` for the samples of ``select(rows)``."""

    @abstractmethod
    def transposed(self, saved: Saved, u: Tensor, *, low_precision: bool = False) -> Tensor:
        """``Jᵀu`` with ``J = ∂f/∂z``, shaped like ``u`` ``(B, …)``; with rounded products if ``low_precision``."""

    @abstractmethod
    def pull(self, saved: Saved, u: Tensor) -> tuple[Tensor, ...]:
        """The gradient of ``Σ u ⊙ f`` with respect to each tensor of :attr:`closure`."""
