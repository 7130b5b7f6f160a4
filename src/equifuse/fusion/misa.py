"""Modality-invariant and modality-specific representations."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from equifuse.errors import InputError
from equifuse.fusion.base import FlatInputs, FusionOutput
from equifuse.fusion.make import register
from equifuse.fusion.projected import ProjectedFusion

# Central moments that the similarity loss compares, as in the paper.
_MOMENTS = 5


@register
class MISA(ProjectedFusion):
    """MISA (Hazarika et al. 2020, arXiv 2005.03545): a shared and a private part of each modality, and attention.

    Of the projected ``z_m``: ``h_m^c = E_c(z_m)`` by one encoder for all, ``h_m^p = E_m(z_m)`` by one of its own
    (affine, sigmoid); a transformer layer over these ``2M`` tokens, then their concatenation. Losses, unweighted:

    - ``similarity``: central moment discrepancy between the shared parts of each pair of modalities, five moments over
      the batch;
    - ``difference``: squared Frobenius norms of the correlations between shared and private parts of a modality, and
      between private parts of each pair, centred over the batch and of unit length per sample;
    - ``reconstruction``: mean squared error of ``D(h_m^c + h_m^p)`` against ``z_m``.

    Each is over the samples that have the modalities in question. Absent modalities are not attended to, and 0 in the
    output.

    Args:
        dims: modality name -> width ``l_m``.
        dim: common width ``d``, a multiple of ``heads``; default 128. ``out_dim = 2 M d``.
        heads: of attention; default 2.
        similarity_weight: default weight of that loss; default 1.
        difference_weight: likewise; default 0.3.
        reconstruction_weight: likewise; default 1.

    Raises:
        InputError: a value out of range.
    """

    name: ClassVar[str] = "misa"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 128,
        heads: int = 2,
        similarity_weight: float = 1.0,
        difference_weight: float = 0.3,
        reconstruction_weight: float = 1.0,
    ) -> None:
        super().__init__(dims, dim)
        if heads < 1 or dim % heads:
            raise InputError(f"dim must be a multiple of heads, got {dim} and {heads}")
        self.weights = {
            "similarity": similarity_weight,
            "difference": difference_weight,
            "reconstruction": reconstruction_weight,
        }
        for label, weight in self.weights.items():
            if weight < 0:
                raise InputError(f"{label}_weight must not be negative, got {weight}")
        self.loss_weights = {label: weight for label, weight in self.weights.items() if weight}
        self.heads = heads
        self.out_dim = 2 * len(self.dims) * dim
        self.shared = nn.Linear(dim, dim)
        self.private = nn.ModuleDict({m: nn.Linear(dim, dim) for m in self.dims})
        self.decode = nn.Linear(dim, dim)
        self.attention = nn.TransformerEncoderLayer(dim, heads, 4 * dim, 0.0, batch_first=True)

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """``(R, out_dim)`` from rows ``(R, l_m)``."""
        z, there = self.tokens(rows)
        shared = torch.sigmoid(self.shared(z))
        private = torch.stack([torch.sigmoid(self.private[m](z[:, i])) for i, m in enumerate(self.dims)], dim=1)
        parts = torch.cat([private, shared], dim=1)
        both = torch.cat([there, there], dim=1)
        # A row without anything attends to everything, and is blanked afterwards.
        state = self.attention(parts, src_key_padding_mask=~both & both.any(1, keepdim=True))
        state = torch.where(both[:, :, None], state, 0.0)
        count = len(self.dims)
        states = torch.cat([state[:, :count], state[:, count:]], dim=2)
        losses = {}
        if "similarity" in self.loss_weights:
            losses["similarity"] = self._similarity(shared, there)
        if "difference" in self.loss_weights:
            losses["difference"] = self._difference(shared, private, there)
        if "reconstruction" in self.loss_weights:
            error = (self.decode(shared + private) - z).square().mean(2)
            losses["reconstruction"] = (error * there).sum() / there.sum().clamp(min=1)
        return self.output(state.flatten(1), states, losses)

    def _pairs(self) -> list[tuple[int, int]]:
        return list(combinations(range(len(self.dims)), 2))

    def _similarity(self, shared: Tensor, there: Tensor) -> Tensor:
        found = [_moment_distance(shared[both, i], shared[both, j]) for i, j, both in self._having(there)]
        return torch.stack(found).mean() if found else shared.new_zeros(())

    def _difference(self, shared: Tensor, private: Tensor, there: Tensor) -> Tensor:
        found = [_overlap(shared[there[:, i], i], private[there[:, i], i]) for i in range(len(self.dims))]
        found += [_overlap(private[both, i], private[both, j]) for i, j, both in self._having(there)]
        return torch.stack(found).sum()

    def _having(self, there: Tensor) -> list[tuple[int, int, Tensor]]:
        """Each pair of modalities, and bool ``(R,)``, which rows have both; pairs that none has are left out."""
        pairs = [(i, j, there[:, i] & there[:, j]) for i, j in self._pairs()]
        return [(i, j, both) for i, j, both in pairs if bool(both.any())]

    def config(self) -> dict[str, Any]:
        """Name, widths and options."""
        weights = {f"{label}_weight": weight for label, weight in self.weights.items()}
        return {**super().config(), "heads": self.heads, **weights}


def _moment_distance(a: Tensor, b: Tensor) -> Tensor:
    """Central moment discrepancy (Zellinger et al. 2017, arXiv 1702.08811) of samples ``(n, d)`` in [0, 1]."""
    total = _length(a.mean(0) - b.mean(0))
    a, b = a - a.mean(0), b - b.mean(0)
    for k in range(2, _MOMENTS + 1):
        total = total + _length((a**k).mean(0) - (b**k).mean(0))
    return total


def _length(v: Tensor) -> Tensor:
    """Euclidean length with a finite slope at 0."""
    root: Tensor = (v.square().sum() + torch.finfo(v.dtype).tiny ** 0.5).sqrt()
    return root


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    """Mean square of the correlations between features of ``(n, d)`` each; 0 for fewer than one sample."""
    if len(a) == 0:
        return a.new_zeros(())
    a, b = (F.normalize(v - v.mean(0), dim=1, eps=1e-6) for v in (a, b))
    return (a.T @ b).square().mean()
