"""Poisson-Nernst-Planck fusion (GMF): dissociation, concentration, recombination, reconstruction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from equifuse.errors import InputError, UnknownNameError
from equifuse.fusion.base import FlatInputs, Fusion, FusionOutput, flatten, masked_mean, require_two
from equifuse.fusion.gmf.folded import FoldedGMF
from equifuse.fusion.gmf.maps import FORMS, ModalityMaps
from equifuse.fusion.gmf.recombination import hand_over, recombine, recombined_dims
from equifuse.fusion.make import backend_config, make_backend, register
from equifuse.fusion.output_map import OutputMap


@register
class GMF(Fusion):
    """Poisson-Nernst-Planck fusion: splits each modality into a shared and an own part, and exchanges the shared parts.

    Cheap, keeps all information (inputs can be reconstructed), and copes with missing modalities; a good front end for
    any other fusion, by ``backend=``.

    >>> fusion = ef.GMF({"text": 300, "image": 512})
    >>> out = fusion({"text": torch.randn(8, 300), "image": torch.randn(8, 512)})
    >>> out.fused.shape, list(out.losses)  # (300 + 300) + (300 + 512)
    (torch.Size([8, 1412]), ['reconstruction'])
    >>> ef.GMF({"text": 300, "image": 512}, backend="deq", backend_options={"dim": 64}).out_dim
    64

    Args:
        dims: modality name -> width ``l_m``; at least two, widths need not agree.
        form: ``"pnp"`` (default) or ``"scfae"``, see below.
        expansion: factor ``n`` of the expanded width, > 2 (the paper's bound), ≥ 2 for ``"scfae"``; default 4, as in
            the paper.
        boundary: share ``b`` of ``s_m`` that is shared between modalities, in (0, 1); default 0.5, as in the paper.
        backend: any fusion of the ``Z_m`` (a Fusion built for the widths ``l* + l_m``, or the name of one), or None
            (default) for concatenation.
        backend_options: options for a backend given by name.
        reconstruction_weight: default weight λ of the ``reconstruction`` loss, ≥ 0; default 0.1.

    ``out_dim`` is ``Σ (l* + l_m)``, or the backend's. ``modalities`` holds the ``Z_m``, or the backend's states. The
    shared part of an absent modality is the mean of the shared parts present in the sample, its own part is zero, and
    it adds nothing to the loss. The backend gets masks of absent modalities.

    Raises:
        InputError: there are fewer than two modalities, an option is out of range, or the backend has other widths.
        UnknownNameError: an unknown form or backend.

    Formula (Xiong et al. 2024, arXiv 2410.15475): all maps are affine. For modality ``m`` with ``n = expansion``,
    ``b_m = floor(boundary·n·l_m)`` and ``l* = min l_m``:

    - dissociation ``s_m = P_dis x_m`` ``(n·l_m)``;
    - concentration ``inv_m = P_cinv s_m[:b_m]`` ``(l*)``, ``spec_m = P_cspec s_m[b_m:]`` ``(l_m)``;
    - recombination ``Z_m = [inv_{(m+1) mod M} ; spec_m]`` ``(l* + l_m)``;
    - reconstruction ``x̂_m = P_recon Z_m``, loss ``Σ_m mean (x_m − x̂_m)²``, the mean over the features and over the
      rows that have the modality, so that every modality counts the same whatever its width.

    Large batches use the product of dissociation and concentration: the same map for fewer multiplications.

    ``form="scfae"`` is the authors' later self-consistent field autoencoder ("Multimodal Fusion via Self-Consistent
    Task-Gradient Fields", ICML 2026, same arXiv number), written after summaries, because the text was not available.
    The maps become SwiGLU and then linear: ``s_m = SwiGLU(x_m)`` with linear concentrations,
    ``x̂_m = P_recon SwiGLU(Z_m)``, both of width ``n·l_m``; the loss becomes ``Σ_m mean (1 − cos(x_m, x̂_m))``.
    """

    name: ClassVar[str] = "gmf"

    def __init__(
        self,
        dims: Mapping[str, int],
        *,
        form: Literal["pnp", "scfae"] = "pnp",
        expansion: float = 4,
        boundary: float = 0.5,
        backend: Fusion | str | None = None,
        backend_options: Mapping[str, Any] | None = None,
        reconstruction_weight: float = 0.1,
    ) -> None:
        super().__init__(dims)
        require_two(self.dims, type(self).__name__, "exchanges parts")
        if form not in FORMS:
            raise UnknownNameError("form", form, FORMS)
        if not (expansion > 2 or (form == "scfae" and expansion == 2)):
            bound = "greater than 2" if form == "pnp" else "at least 2"
            raise InputError(f"expansion must be {bound}, got {expansion}")
        if not 0 < boundary < 1:
            raise InputError(f"boundary must be between 0 and 1, got {boundary}")
        if reconstruction_weight < 0:
            raise InputError(f"reconstruction_weight must not be negative, got {reconstruction_weight}")
        self.form, self.expansion, self.boundary = form, expansion, boundary
        self.reconstruction_weight = reconstruction_weight
        self.shared_dim = min(self.dims.values())
        self.maps = nn.ModuleDict()
        for m, width in self.dims.items():
            expanded = int(expansion * width)
            split = int(boundary * expansion * width)
            if not 0 < split < expanded:
                raise InputError(
                    f"modality {m!r} (width {width}): boundary {boundary} of {expanded} features leaves one part "
                    "empty; raise expansion or move boundary towards 0.5"
                )
            self.maps[m] = FORMS[form](width, self.shared_dim, expanded, split)
        widths = recombined_dims(self.dims)
        self.backend = make_backend(backend, backend_options, widths, "GMF (see recombined_dims)")
        self.out_dim = self.backend.out_dim if self.backend else sum(widths.values())
        self.loss_weights = {
            **(self.backend.loss_weights if self.backend else {}),
            "reconstruction": reconstruction_weight,
        }
        self.additive = self.backend is None or self.backend.additive
        if self.backend:
            self.decides, self.tasks = self.backend.decides, self.backend.tasks
            self.target_loss_weights = dict(self.backend.target_loss_weights)

    def target_losses(
        self, output: FusionOutput, target: Tensor, present: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Those of the backend."""
        return self.backend.target_losses(output, target, present) if self.backend else {}

    def output_maps(self) -> list[OutputMap]:
        """Those of the backend."""
        return self.backend.output_maps() if self.backend else []

    def current_options(self) -> dict[str, Any]:
        """The backend by name and options, whatever it was given as."""
        return {**super().current_options(), **backend_config(self.backend)}

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """Dissociate, recombine, and pass on rows ``(R, l_m)``."""
        invariant, specific = {}, {}
        for m, x in rows.values.items():
            invariant[m], specific[m] = self.maps[m](x)
        parts = recombine(invariant, specific, rows, self.dims)
        output = hand_over(parts, rows, self.backend)
        loss = rows.like.new_zeros(())
        for m, x in rows.values.items():
            maps = self.maps[m]
            assert isinstance(maps, ModalityMaps)
            loss = loss + masked_mean(maps.error(parts[m], x), rows.masks[m])
        output.losses = {**output.losses, "reconstruction": loss}
        return output

    def reconstructions(
        self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """``x̂_m`` of every modality, ``(B, ..., l_m)``; of an absent one from what the others have in common.

        >>> fusion = ef.GMF({"a": 3, "b": 4})
        >>> fusion.reconstructions({"a": torch.randn(8, 3)})["b"].shape
        torch.Size([8, 4])

        Args:
            inputs: as in the call.
            present: likewise.
        """
        leading, rows = flatten(inputs, present, self.dims)
        split = {m: self.maps[m](x) for m, x in rows.values.items()}
        invariant, specific = ({m: pair[k] for m, pair in split.items()} for k in (0, 1))
        parts = recombine(invariant, specific, rows, self.dims)
        found = {}
        for m, z in parts.items():
            maps = self.maps[m]
            assert isinstance(maps, ModalityMaps)
            x: Tensor = maps.reconstruct(z)
            found[m] = x.reshape(*leading, x.shape[-1])
        return found

    def folded(self) -> FoldedGMF:
        """The inference form: the maps of each modality multiplied into one, with the same outputs up to rounding.

        It needs ``l_m · (l* + l_m)`` multiplications per modality for any expansion. The weights are copied; the
        backend is shared. There is no reconstruction, hence no ``reconstruction`` loss.

        Raises:
            InputError: the maps are not affine (``form="scfae"``).
        """
        return FoldedGMF.of(self)
