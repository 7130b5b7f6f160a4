"""GMF for inference: the affine maps of each modality multiplied into one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from equifuse.errors import InputError
from equifuse.fusion.base import FlatInputs, Fusion, FusionOutput
from equifuse.fusion.gmf.maps import AffineMaps
from equifuse.fusion.gmf.recombination import hand_over, recombine, recombined_dims

if TYPE_CHECKING:
    from equifuse.fusion.gmf.module import GMF


class FoldedGMF(Fusion):
    """GMF for inference: one affine map per modality, made from a trained :class:`GMF` by :meth:`GMF.folded`.

    >>> gmf = ef.GMF({"text": 30, "image": 50}).eval()
    >>> inputs = {"text": torch.randn(8, 30), "image": torch.randn(8, 50)}
    >>> torch.allclose(gmf.folded()(inputs).fused, gmf(inputs).fused, atol=1e-5)
    True

    Args:
        dims: modality name -> width ``l_m``.
        backend: the fusion of the recombined features, or None for concatenation.
    """

    name: ClassVar[str] = "gmf_folded"

    def __init__(self, dims: Mapping[str, int], backend: Fusion | None = None) -> None:
        super().__init__(dims)
        self.shared_dim = min(self.dims.values())
        self.maps = nn.ModuleDict({m: nn.Linear(width, self.shared_dim + width) for m, width in self.dims.items()})
        self.backend = backend
        self.out_dim = backend.out_dim if backend else sum(recombined_dims(self.dims).values())
        self.loss_weights = dict(backend.loss_weights) if backend else {}
        self.additive = backend is None or backend.additive
        if backend:
            self.decides, self.tasks = backend.decides, backend.tasks

    @classmethod
    def of(cls, gmf: GMF) -> FoldedGMF:
        """Fold a :class:`GMF`; dtype, device and training mode stay the same.

        Raises:
            InputError: its maps are not affine.
        """
        if gmf.form != "pnp":
            raise InputError(f"only affine maps fold into one; those of form {gmf.form!r} are not, use it as it is")
        folded = cls(gmf.dims, gmf.backend)
        for m, dissociation in gmf.maps.items():
            assert isinstance(dissociation, AffineMaps)
            with torch.no_grad():
                weight, bias = dissociation.folded()
                linear = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
                linear.weight.copy_(weight)
                linear.bias.copy_(bias)
            folded.maps[m] = linear
        return folded.train(gmf.training)

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """One product per modality, then recombination."""
        invariant, specific = {}, {}
        for m, x in rows.values.items():
            both = self.maps[m](x)
            invariant[m], specific[m] = both[:, : self.shared_dim], both[:, self.shared_dim :]
        return hand_over(recombine(invariant, specific, rows, self.dims), rows, self.backend)

    def config(self) -> dict[str, Any]:
        """Always an error: save the GMF, and fold it after loading.

        Raises:
            InputError: always.
        """
        raise InputError("a folded GMF is not saved; save the GMF it came from and call folded() after loading")
