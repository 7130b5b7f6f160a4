"""Modality-invariant and modality-specific representations (MISA)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import ClassVar

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
    """MISA: splits each modality into a part shared with the others and a private part, then attends over all parts.

    >>> fusion = ef.fusion.MISA({"text": 300, "audio": 74}, dim=32)
    >>> out = fusion({"text": torch.randn(8, 300), "audio": torch.randn(8, 74)})
    >>> out.fused.shape, sorted(out.losses)
    (torch.Size([8, 128]), ['difference', 'reconstruction', 'similarity'])

    Args:
        dims: modality name -> width ``l_m``.
        dim: common width ``d``, a multiple of ``heads``; default 128. ``out_dim`` is ``2 M d``.
        heads: attention heads; default 2.
        similarity_weight: default weight of the ``similarity`` loss, ≥ 0; default 1.
        difference_weight: default weight of the ``difference`` loss, ≥ 0; default 0.3.
        reconstruction_weight: default weight of the ``reconstruction`` loss, ≥ 0; default 1.

    Absent modalities are not attended to, and are 0 in the output.

    Raises:
        InputError: a value is out of range.

    Formula (Hazarika et al. 2020, arXiv 2005.03545): with ``z_m`` the projected modality, ``h_m^c = E_c(z_m)`` by one
    encoder for all modalities and ``h_m^p = E_m(z_m)`` by one of its own (both affine, then sigmoid); a transformer
    layer over these ``2M`` tokens, then their concatenation. The losses, each over the samples that have the
    modalities:

    - ``similarity``: central moment discrepancy between the shared parts of each pair of modalities, five moments over
      the batch;
    - ``difference``: squared Frobenius norms of the correlations between the shared and the private part of a modality,
      and between the private parts of each pair, centred over the batch and of unit length per sample;
    - ``reconstruction``: mean squared error of ``D(h_m^c + h_m^p)`` against ``z_m``.
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
        # A row without modalities attends to everything, and is set to 0 afterwards.
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
        """Each pair of modalities and bool ``(R,)``, the rows that have both; pairs without such rows are left out."""
        pairs = [(i, j, there[:, i] & there[:, j]) for i, j in self._pairs()]
        return [(i, j, both) for i, j, both in pairs if bool(both.any())]


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
