"""The self-consistent field autoencoder: GMF in its later form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from equifuse.fusion.base import Fusion
from equifuse.fusion.gmf.module import GMF
from equifuse.fusion.make import register


@register
class SCFAE(GMF):
    """Self-consistent field autoencoder: the later form of :class:`GMF`, with gated maps in place of affine ones.

    >>> fusion = ef.fusion.SCFAE({"text": 30, "image": 50})
    >>> fusion({"text": torch.randn(8, 30), "image": torch.randn(8, 50)}).fused.shape
    torch.Size([8, 140])

    Args:
        dims: modality name -> width ``l_m``; at least two.
        expansion: ``n``, ≥ 2; default 2.
        boundary: ``b``, in (0, 1); default 0.5, as in the paper.
        backend: a fusion, its name, or None (default).
        backend_options: options for a backend given by name.
        reconstruction_weight: default weight λ of the ``reconstruction`` loss, ≥ 0; default 0.1.

    Raises:
        InputError: as for :class:`GMF`.
        UnknownNameError: an unknown backend.

    Source: Xiong et al. 2026, arXiv 2410.15475v2, written after summaries, because the text was not available;
    :class:`GMF` has the formulae under ``form="scfae"``.
    """

    name: ClassVar[str] = "scfae"

    def __init__(
        self,
        dims: Mapping[str, int],
        *,
        expansion: float = 2,
        boundary: float = 0.5,
        backend: Fusion | str | None = None,
        backend_options: Mapping[str, Any] | None = None,
        reconstruction_weight: float = 0.1,
    ) -> None:
        super().__init__(
            dims,
            form="scfae",
            expansion=expansion,
            boundary=boundary,
            backend=backend,
            backend_options=backend_options,
            reconstruction_weight=reconstruction_weight,
        )
