"""Poisson-Nernst-Planck fusion (GMF): dissociation, concentration, reconstruction; and its later form, SCFAE."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from equifuse.errors import InputError, UnknownNameError
from equifuse.fusion.base import FlatInputs, Fusion, FusionOutput, masked_mean, require_two
from equifuse.fusion.make import backend_config, make_backend, register
from equifuse.fusion.reductions import cosine


class _SwiGLU(nn.Module):
    """``SiLU(x W + b) ⊙ (x V + c)`` (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, width: int, expanded: int) -> None:
        super().__init__()
        self.both = nn.Linear(width, 2 * expanded)

    def forward(self, x: Tensor) -> Tensor:
        """``(R, width)`` -> ``(R, expanded)``."""
        gate, value = self.both(x).chunk(2, dim=-1)
        out: Tensor = F.silu(gate) * value
        return out


class _Maps(nn.Module, ABC):
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


class _Gated(_Maps):
    """The maps of the later form: gated ones before the affine."""

    def _dissociation(self, width: int, expanded: int) -> nn.Module:
        return _SwiGLU(width, expanded)

    def _reconstruction(self, width: int, expanded: int, out: int) -> nn.Module:
        return nn.Sequential(_SwiGLU(width, expanded), nn.Linear(expanded, out))

    def error(self, z: Tensor, x: Tensor) -> Tensor:
        """``(R, 1)``, ``1 − cos``."""
        return 1 - cosine(self.reconstruct(z), x)[:, None]


class _Affine(_Maps):
    """The maps of the first form, of which those in a row fold into one."""

    dissociate: nn.Linear

    def _dissociation(self, width: int, expanded: int) -> nn.Module:
        return nn.Linear(width, expanded)

    def _reconstruction(self, width: int, expanded: int, out: int) -> nn.Module:
        return nn.Linear(width, out)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(R, l)`` -> invariant ``(R, l*)`` and specific ``(R, l)``, in the cheaper of two orders of the products."""
        if not self.folds(x.shape[0]):
            return super().forward(x)
        both = F.linear(x, *self.folded())
        return both[:, : self.invariant.out_features], both[:, self.invariant.out_features :]

    def error(self, z: Tensor, x: Tensor) -> Tensor:
        """``(R, 1)``, the mean square of the difference."""
        return F.mse_loss(self.reconstruct(z), x, reduction="none").mean(dim=1, keepdim=True)

    def folds(self, rows: int) -> bool:
        """Whether fewer multiplications are needed with the matrices multiplied first, for so many rows.

        The same holds for the gradients, which cost twice as much either way, and agree.
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


def recombine(
    invariant: Mapping[str, Tensor], specific: Mapping[str, Tensor], rows: FlatInputs, dims: Mapping[str, int]
) -> dict[str, Tensor]:
    """``Z_m = [inv_{(m+1) mod M} ; spec_m]`` with what is absent filled in, per row.

    The invariant part of an absent modality is the mean of the invariant parts that are present in that row; the
    specific part of an absent modality is zero.

    Args:
        invariant: per modality given, ``(R, l*)``.
        specific: per modality given, ``(R, l_m)``.
        rows: the call's rows, for the masks.
        dims: all modalities in order.

    Returns:
        Per modality of ``dims``, ``(R, l* + l_m)``.
    """
    names = list(dims)
    all_present = all(name in rows.values and rows.masks[name] is None for name in names)
    kept = {m: inv if rows.masks[m] is None else torch.where(rows.mask(m), inv, 0.0) for m, inv in invariant.items()}
    fill = None
    if not all_present:
        count = torch.stack([rows.mask(m) for m in kept]).sum(0).clamp(min=1)
        fill = torch.stack(list(kept.values())).sum(0) / count
    recombined = {}
    for index, m in enumerate(names):
        k = names[(index + 1) % len(names)]
        if fill is None:
            shared = kept[k]
        else:
            shared = torch.where(rows.mask(k), kept[k], fill) if k in kept else fill
        if m not in specific:
            own = rows.like.new_zeros(rows.count, dims[m])
        else:
            mask = rows.masks[m]
            own = specific[m] if mask is None else torch.where(mask, specific[m], 0.0)
        recombined[m] = torch.cat([shared, own], dim=-1)
    return recombined


def _hand_over(parts: dict[str, Tensor], rows: FlatInputs, backend: Fusion | None) -> FusionOutput:
    """Concatenate the recombined features, or fuse those of the modalities present by the backend."""
    if backend is None:
        return FusionOutput(torch.cat(list(parts.values()), dim=-1), parts)
    values = {m: _masked(parts[m], rows.masks[m]) for m in rows.values}
    return backend.fuse(FlatInputs(values, rows.masks, rows.count, rows.index))


def _masked(value: Tensor, mask: Tensor | None) -> Tensor:
    return value if mask is None else torch.where(mask, value, 0.0)


# The maps of each form.
_FORMS: dict[str, type[_Maps]] = {"pnp": _Affine, "scfae": _Gated}


@register
class GMF(Fusion):
    """Generalized multimodal fusion by the Poisson-Nernst-Planck equation (Xiong et al. 2024, arXiv 2410.15475).

    All maps are affine. For modality ``m`` with ``n = expansion``, ``b_m = floor(boundary·n·l_m)``, ``l* = min l_m``:

    - dissociation ``s_m = P_dis x_m`` ``(n·l_m)``;
    - concentration ``inv_m = P_cinv s_m[:b_m]`` ``(l*)``, ``spec_m = P_cspec s_m[b_m:]`` ``(l_m)``;
    - recombination ``Z_m = [inv_{(m+1) mod M} ; spec_m]`` ``(l* + l_m)``;
    - reconstruction ``x̂_m = P_recon Z_m``, loss ``Σ_m mean (x_m − x̂_m)²``, the mean running over the features and
      over the rows that have the modality, so that every modality weighs the same whatever its width.

    A batch larger than about the expanded width is taken through the product of dissociation and concentration: the
    same map, and the same gradients, for fewer multiplications.

    A missing modality: its invariant part is taken to be the mean of the invariant parts present in the same
    sample, its specific part zero; it adds nothing to the reconstruction loss. ``modalities`` holds the ``Z_m``
    (stand-alone), or the backend's states. A backend is told which modalities are absent.

    Later form. ``form="scfae"`` is the authors' self-consistent field autoencoder (SCFAE, "Multimodal Fusion via
    Self-Consistent Task-Gradient Fields", ICML 2026, a later version under the same arXiv number). It is written after
    summaries, the text of the paper was not at hand. Partition, exchange and missing modalities stay as they are;
    the maps become SwiGLU and then linear, which is read as ``s_m = SwiGLU(x_m)`` with linear concentrations, and
    ``x̂_m = P_recon SwiGLU(Z_m)``, both of width ``n·l_m``; the loss becomes ``Σ_m mean (1 − cos(x_m, x̂_m))``.

    Args:
        dims: modality name -> width ``l_m``; at least two, widths need not agree.
        form: ``"pnp"`` (default) or ``"scfae"``, see above.
        expansion: ``n``, > 2 (the paper's bound), ≥ 2 for the later form; paper and default 4.
        boundary: ``b``, share of ``s_m`` that is modality-invariant, in (0, 1); paper and default 0.5.
        backend: any fusion fed with the ``Z_m`` (a Fusion built for the widths ``l* + l_m``, or the name of one), or
            None (default) for concatenation.
        backend_options: options for a backend given by name.
        reconstruction_weight: default weight λ of the reconstruction loss, ≥ 0.

    ``out_dim`` is ``Σ (l* + l_m)``, or the backend's.

    Raises:
        InputError: fewer than two modalities, an option out of range, or a backend of other widths.
        UnknownNameError: an unknown form or backend.
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
        if form not in _FORMS:
            raise UnknownNameError("form", form, _FORMS)
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
            self.maps[m] = _FORMS[form](width, self.shared_dim, expanded, split)
        widths = recombined_dims(self.dims)
        self.backend = make_backend(backend, backend_options, widths, "GMF (see recombined_dims)")
        self.out_dim = self.backend.out_dim if self.backend else sum(widths.values())
        self.loss_weights = {
            **(self.backend.loss_weights if self.backend else {}),
            "reconstruction": reconstruction_weight,
        }
        if self.backend:
            self.decides, self.tasks = self.backend.decides, self.backend.tasks
            self.target_loss_weights = dict(self.backend.target_loss_weights)

    def target_losses(
        self, output: FusionOutput, target: Tensor, present: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Those of the backend."""
        return self.backend.target_losses(output, target, present) if self.backend else {}

    def output_maps(self) -> list[nn.Linear]:
        """Those of the backend."""
        return self.backend.output_maps() if self.backend else []

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """Dissociate, recombine and hand over rows ``(R, l_m)``."""
        invariant, specific = {}, {}
        for m, x in rows.values.items():
            invariant[m], specific[m] = self.maps[m](x)
        parts = recombine(invariant, specific, rows, self.dims)
        output = _hand_over(parts, rows, self.backend)
        loss = rows.like.new_zeros(())
        for m, x in rows.values.items():
            maps = self.maps[m]
            assert isinstance(maps, _Maps)
            loss = loss + masked_mean(maps.error(parts[m], x), rows.masks[m])
        output.losses = {**output.losses, "reconstruction": loss}
        return output

    def folded(self) -> FoldedGMF:
        """The inference form: each modality's maps collapsed into one, the same outputs to rounding.

        Costs ``l_m · (l* + l_m)`` multiplications per modality whatever the expansion is. The weights are copied; the
        backend is shared. There is no reconstruction, hence no ``reconstruction`` loss.

        Raises:
            InputError: the maps are not affine (``form="scfae"``).
        """
        return FoldedGMF.of(self)

    def config(self) -> dict[str, Any]:
        """Name, widths and options; a backend as its own configuration."""
        return {
            "name": self.name,
            "dims": self.dims,
            "form": self.form,
            "expansion": self.expansion,
            "boundary": self.boundary,
            **backend_config(self.backend),
            "reconstruction_weight": self.reconstruction_weight,
        }


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


class FoldedGMF(Fusion):
    """Inference form of :class:`GMF`, made by :meth:`GMF.folded`: one affine map per modality.

    Args:
        dims: modality name -> width ``l_m``.
        backend: the fusion fed with the recombined features, or None for concatenation.
    """

    name: ClassVar[str] = "gmf_folded"

    def __init__(self, dims: Mapping[str, int], backend: Fusion | None = None) -> None:
        super().__init__(dims)
        self.shared_dim = min(self.dims.values())
        self.maps = nn.ModuleDict({m: nn.Linear(width, self.shared_dim + width) for m, width in self.dims.items()})
        self.backend = backend
        self.out_dim = backend.out_dim if backend else sum(recombined_dims(self.dims).values())
        self.loss_weights = dict(backend.loss_weights) if backend else {}
        if backend:
            self.decides, self.tasks = backend.decides, backend.tasks

    @classmethod
    def of(cls, gmf: GMF) -> FoldedGMF:
        """Fold a :class:`GMF`; dtype, device and training mode are kept.

        Raises:
            InputError: its maps are not affine.
        """
        if gmf.form != "pnp":
            raise InputError(f"only affine maps fold into one; those of form {gmf.form!r} are not, use it as it is")
        folded = cls(gmf.dims, gmf.backend)
        for m, dissociation in gmf.maps.items():
            assert isinstance(dissociation, _Affine)
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
        return _hand_over(recombine(invariant, specific, rows, self.dims), rows, self.backend)

    def config(self) -> dict[str, Any]:
        """Refused: save the GMF and fold after loading.

        Raises:
            InputError: always.
        """
        raise InputError("a folded GMF is not saved; save the GMF it came from and call folded() after loading")


def recombined_dims(dims: Mapping[str, int]) -> dict[str, int]:
    """Widths ``l* + l_m`` of the features that :class:`GMF` hands to its backend."""
    shared = min(dims.values())
    return {m: shared + width for m, width in dims.items()}
