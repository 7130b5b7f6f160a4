"""The maps of one modality in GMF: dissociation, concentration, reconstruction, in two forms."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from equifuse.fusion.reductions import cosine


class SwiGLU(nn.Module):
    """``SiLU(x W + b) ⊙ (x V + c)`` (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, width: int, expanded: int) -> None:
        super().__init__()
        self.both = nn.Linear(width, 2 * expanded)

    def forward(self, x: Tensor) -> Tensor:
        """``(R, width)`` -> ``(R, expanded)``."""
        gate, value = self.both(x).chunk(2, dim=-1)
        out: Tensor = F.silu(gate) * value
        return out


class ModalityMaps(nn.Module, ABC):
    """One modality's maps: ``x -> s``, then invariant and specific concentration, then reconstruction."""

    def __init__(self, width: int, shared: int, expanded: int, boundary: int) -> None:
        super().__init__()
        self.boundary = boundary
        self.dissociate = self._dissociation(width, expanded)
        self.invariant = nn.Linear(boundary, shared)
        self.specific = nn.Linear(expanded - boundary, width)
        self.reconstruct = self._reconstruction(shared + width, expanded, width)

    @abstractmethod
    def _dissociation(self, width: int, expanded: int) -> nn.Module:
        """``(R, width)`` -> ``(R, expanded)``."""

    @abstractmethod
    def _reconstruction(self, width: int, expanded: int, out: int) -> nn.Module:
        """``(R, width)`` -> ``(R, out)``."""

    @abstractmethod
    def error(self, z: Tensor, x: Tensor) -> Tensor:
        """``(R, 1)``, how far the reconstruction from ``z`` ``(R, l* + l)`` is from ``x`` ``(R, l)``."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(R, l)`` -> invariant ``(R, l*)`` and specific ``(R, l)``."""
        s = self.dissociate(x)
        return self.invariant(s[:, : self.boundary]), self.specific(s[:, self.boundary :])


class GatedMaps(ModalityMaps):
    """The maps of the later form: a SwiGLU before each affine map."""

    def _dissociation(self, width: int, expanded: int) -> nn.Module:
        return SwiGLU(width, expanded)

    def _reconstruction(self, width: int, expanded: int, out: int) -> nn.Module:
        return nn.Sequential(SwiGLU(width, expanded), nn.Linear(expanded, out))

    def error(self, z: Tensor, x: Tensor) -> Tensor:
        """``(R, 1)``, ``1 − cos``."""
        return 1 - cosine(self.reconstruct(z), x)[:, None]


class AffineMaps(ModalityMaps):
    """The maps of the first form; consecutive ones can be multiplied into one."""

    dissociate: nn.Linear

    def _dissociation(self, width: int, expanded: int) -> nn.Module:
        return nn.Linear(width, expanded)

    def _reconstruction(self, width: int, expanded: int, out: int) -> nn.Module:
        return nn.Linear(width, out)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(R, l)`` -> invariant ``(R, l*)`` and specific ``(R, l)``, in the cheaper order of the products."""
        if not self.folds(x.shape[0]):
            return super().forward(x)
        both = F.linear(x, *self.folded())
        return both[:, : self.invariant.out_features], both[:, self.invariant.out_features :]

    def error(self, z: Tensor, x: Tensor) -> Tensor:
        """``(R, 1)``, the mean square of the difference."""
        return F.mse_loss(self.reconstruct(z), x, reduction="none").mean(dim=1, keepdim=True)

    def folds(self, rows: int) -> bool:
        """Whether multiplying the matrices first needs fewer multiplications for this number of rows.

        The same holds for the gradients, which cost twice as much in both cases, and agree.
        """
        width, expanded, shared = self.dissociate.in_features, self.dissociate.out_features, self.invariant.out_features
        lower = expanded - self.boundary
        apart = width * expanded + self.boundary * shared + lower * width
        together = width * (shared + width)
        return rows * (apart - together) > width * (shared * self.boundary + width * lower)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight ``(l* + l, l)`` and bias of the one affine map equal to both steps, outputs concatenated."""
        upper, lower = self.dissociate.weight[: self.boundary], self.dissociate.weight[self.boundary :]
        upper_bias, lower_bias = self.dissociate.bias[: self.boundary], self.dissociate.bias[self.boundary :]
        with torch.autocast(upper.device.type, enabled=False):  # a product of weights keeps their precision
            weight = torch.cat([self.invariant.weight @ upper, self.specific.weight @ lower])
            bias = torch.cat([self.invariant(upper_bias), self.specific(lower_bias)])
        return weight, bias


# The maps of each form.
FORMS: dict[str, type[ModalityMaps]] = {"pnp": AffineMaps, "scfae": GatedMaps}
