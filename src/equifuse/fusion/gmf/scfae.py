"""The self-consistent field autoencoder: GMF in its later form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from equifuse.fusion.base import Fusion
from equifuse.fusion.gmf.module import GMF
from equifuse.fusion.make import register


@register
class SCFAE(GMF):
    """Self-consistent field autoencoder (Xiong et al. 2026, arXiv 2410.15475v2): :class:`GMF` in its later form.

    Written after summaries, the text of the paper was not at hand; what is done is stated at :class:`GMF`,
    ``form="scfae"``.

    Args:
        dims: as for :class:`GMF`, like the rest.
        expansion: ``n``, ≥ 2; default 2.
        boundary: ``b``, in (0, 1); paper and default 0.5.
        backend: a fusion, its name, or None (default).
        backend_options: options for a backend given by name.
        reconstruction_weight: default weight λ of the reconstruction loss, ≥ 0.

    Raises:
        InputError: as for :class:`GMF`.
        UnknownNameError: an unknown backend.
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

    def config(self) -> dict[str, Any]:
        """Name, widths and options; a backend as its own configuration."""
        return {option: value for option, value in super().config().items() if option != "form"}
