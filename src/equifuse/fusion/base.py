"""What every fusion module is: the call, presence masks, and the checks that come before any mathematics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from equifuse.errors import InputError, UnknownNameError
from equifuse.solve import SolverStats
from equifuse.solve.warm_start import check_index


@dataclass
class FusionOutput:
    """What a fusion returns.

    Attributes:
        fused: ``(B, ..., out_dim)``.
        modalities: per modality, its state after fusion ``(B, ..., k)``; what an absent one holds is stated by the
            fusion.
        losses: unweighted scalar regularisers by name, {} if none; weigh them by ``fusion.loss_weights``.
        stats: per-sample convergence ``(B, ...)``, or None for a closed-form fusion.
        decisions: per modality given, the raw prediction from it alone ``(B, ..., K)``, 0 where it is absent; {} for a
            fusion that makes none.
        confidence: per modality given, how far the fusion trusts it ``(B, ..., 1)``, 0 where it is absent; likewise.
    """

    fused: Tensor
    modalities: dict[str, Tensor]
    losses: dict[str, Tensor] = field(default_factory=dict)
    stats: SolverStats | None = None
    decisions: dict[str, Tensor] = field(default_factory=dict)
    confidence: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class FlatInputs:
    """The inputs of one call with every leading shape flattened: what a fusion's mathematics works on.

    Attributes:
        values: per modality given, ``(R, l_m)``; the rows where it is absent hold zeros and pass no gradient.
        masks: per modality given, bool ``(R, 1)``, or None where every row has it.
        count: ``R``.
        index: int64 ``(R,)``, the samples' numbers in their data set, or None where nobody gave any.
    """

    values: dict[str, Tensor]
    masks: dict[str, Tensor | None]
    count: int
    index: Tensor | None = None

    @property
    def like(self) -> Tensor:
        """Any of the values, for device and dtype."""
        return next(iter(self.values.values()))

    def mask(self, name: str) -> Tensor:
        """Bool ``(R, 1)``: which rows have modality ``name``."""
        if name not in self.values:
            return torch.zeros(self.count, 1, dtype=torch.bool, device=self.like.device)
        mask = self.masks[name]
        if mask is None:
            return torch.ones(self.count, 1, dtype=torch.bool, device=self.like.device)
        return mask


class Fusion(nn.Module, ABC):
    """Base of every fusion module: modalities in, one representation out.

    Args:
        dims: modality name -> width ``l_m``; the order is the modality order.

    Raises:
        InputError: no modality, or a width below 1.
    """

    name: ClassVar[str]
    out_dim: int
    # Whether ``fused`` is a prediction already, so that no head belongs behind it: the fusion of decisions.
    decides: bool = False
    # Tasks that the fusion is defined for; None for all.
    tasks: tuple[str, ...] | None = None

    def __init__(self, dims: Mapping[str, int]) -> None:
        super().__init__()
        if not dims:
            raise InputError("a fusion needs at least one modality")
        for name, width in dims.items():
            if isinstance(width, bool) or not isinstance(width, int) or width < 1:
                raise InputError(f"modality {name!r}: its width must be a positive integer, got {width!r}")
            if not isinstance(name, str) or not name or "." in name:
                raise InputError(f"modality names must be non-empty strings without a dot, got {name!r}")
        self.dims: dict[str, int] = dict(dims)
        self.loss_weights: dict[str, float] = {}
        self.target_loss_weights: dict[str, float] = {}

    @abstractmethod
    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """The fusion itself, on flattened rows ``(R, l_m)``; outputs are ``(R, ...)``."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """``{"name": …, "dims": …, options}`` as plain values, from which ``make_fusion(**config)`` builds it anew."""

    def target_losses(
        self, output: FusionOutput, target: Tensor, present: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Losses of the method that compare with the target; :class:`FusionOutput` has those that do not.

        Args:
            output: what the call returned, of leading shape ``(B,)``.
            target: int64 ``(B,)`` classes, or what the task has.
            present: as in the call: bool ``(B,)``; a modality without a key is present in every sample.

        Returns:
            Unweighted scalars by name, {} for most methods; weigh them by ``fusion.target_loss_weights``.
        """
        return {}

    def output_maps(self) -> list[nn.Linear]:
        """The affine maps whose biases, where all are the same, are the offset of a prediction that is decided here."""
        return []

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None = None,
        *,
        index: Tensor | None = None,
    ) -> FusionOutput:
        """Fuse a batch.

        Args:
            inputs: modality name -> ``(B, ..., l_m)``, the same leading shape for all. A modality of ``dims`` that is
                not in it is absent from the whole batch. Every leading position is fused alone.
            present: modality name -> bool ``(B,)`` or the full leading shape; a modality without a key is present
                in every sample. What an absent modality's rows hold does not matter (NaN included), and no gradient
                flows into them. A sample's result equals that of a batch in which the modality was never given.
            index: int64, the full leading shape: the positions' numbers in the data set, ≥ 0, for a fusion with a
                :class:`~equifuse.EquilibriumCache`; the others do not look at it.

        Returns:
            :class:`FusionOutput` with leading shape ``(B, ...)``.

        Raises:
            UnknownNameError: a modality this fusion was not built for.
            InputError: no modality given, a wrong width, differing leading shapes, or an unusable mask or index.
        """
        leading, rows = flatten(inputs, present, self.dims)
        if index is not None:
            rows.index = index.reshape(-1)
            check_index(rows.index, rows.count)
        output = self.fuse(rows)
        output.fused = output.fused.reshape(*leading, -1)
        output.modalities, output.decisions, output.confidence = (
            {name: state.reshape(*leading, -1) for name, state in found.items()}
            for found in (output.modalities, output.decisions, output.confidence)
        )
        if output.stats is not None:
            output.stats = output.stats.reshape(*leading)
        return output

    def extra_repr(self) -> str:
        """Widths in and out."""
        return f"{self.dims} -> {self.out_dim}"


def require_two(dims: Mapping[str, int], name: str, deed: str) -> None:
    """Refuse a single modality for a fusion of ``name`` that does ``deed`` between modalities.

    Raises:
        InputError: fewer than two modalities.
    """
    if len(dims) < 2:
        raise InputError(f"{name} {deed} between modalities and needs at least two, got {list(dims)}")


def flatten(
    inputs: Mapping[str, Tensor], present: Mapping[str, Tensor] | None, dims: Mapping[str, int]
) -> tuple[tuple[int, ...], FlatInputs]:
    """Check a call's arguments and flatten them to rows; see :meth:`Fusion.forward`."""
    present = present or {}
    for name in (*inputs, *present):
        if name not in dims:
            raise UnknownNameError("modality", name, dims)
    given = [name for name in dims if name in inputs]
    if not given:
        raise InputError(f"no modality given; expected some of {', '.join(dims)}")
    leading: tuple[int, ...] | None = None
    values: dict[str, Tensor] = {}
    masks: dict[str, Tensor | None] = {}
    for name in given:
        x = inputs[name]
        if x.dim() < 2 or x.shape[-1] != dims[name]:
            width = x.shape[-1] if x.dim() else 0
            raise InputError(
                f"modality {name!r} has width {width} (shape {tuple(x.shape)}), the fusion was built for {dims[name]}"
            )
        if not x.is_floating_point():
            raise InputError(f"modality {name!r} must be floating point, got {x.dtype}; call .float() on it")
        if leading is None:
            leading = tuple(x.shape[:-1])
        elif tuple(x.shape[:-1]) != leading:
            raise InputError(
                f"modality {name!r} has leading shape {tuple(x.shape[:-1])}, {given[0]!r} has {leading}; "
                "all modalities must share it"
            )
        mask = _row_mask(name, present[name], leading, x.device) if name in present else None
        flat = x.reshape(-1, dims[name])
        values[name] = flat if mask is None else torch.where(mask, flat, 0.0)
        masks[name] = mask
    assert leading is not None
    return leading, FlatInputs(values, masks, values[given[0]].shape[0])


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of ``(R, ...)`` over the rows of bool ``mask`` of the same shape, or over all; 0 where there is none."""
    if mask is None:
        return values.mean() if values.numel() else values.sum()
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def _row_mask(name: str, mask: Tensor, leading: tuple[int, ...], device: torch.device) -> Tensor:
    if mask.dtype != torch.bool:
        raise InputError(f"present[{name!r}] must be a bool tensor, got {mask.dtype}")
    if tuple(mask.shape) == leading[:1]:
        mask = mask.reshape(-1, *[1] * (len(leading) - 1)).expand(leading)
    elif tuple(mask.shape) != leading:
        raise InputError(
            f"present[{name!r}] has shape {tuple(mask.shape)}, expected {leading[:1]} or the leading shape {leading}"
        )
    return mask.to(device).reshape(-1, 1)
