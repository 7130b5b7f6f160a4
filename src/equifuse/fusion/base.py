"""The protocol of every fusion module: the call, presence masks, and the checks of its arguments."""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from equifuse.configurable import Configurable, constructor_parameters
from equifuse.errors import InputError, UnknownNameError
from equifuse.fusion.output_map import OutputMap
from equifuse.solve import SolverStats
from equifuse.solve.warm_start import check_index

# What modalities' layers are kept in, by their names.
_CONTAINER = nn.ModuleDict()


@dataclass
class FusionOutput:
    """What a fusion returns: the fused representation, the state of each modality, losses and convergence statistics.

    >>> out = ef.Concat({"text": 3, "image": 2})({"text": torch.ones(4, 3), "image": torch.zeros(4, 2)})
    >>> out.fused.shape, sorted(out.modalities)
    (torch.Size([4, 5]), ['image', 'text'])
    >>> out.stats is None  # concatenation solves nothing
    True

    Attributes:
        fused: ``(B, ..., out_dim)``.
        modalities: for each modality its state after fusion, ``(B, ..., k)``. Each fusion documents what the state of
            an absent modality is.
        losses: unweighted scalar regularisers by name, {} if there are none; ``fusion.loss_weights`` has the weights.
        stats: convergence of each sample ``(B, ...)``; None for a fusion that solves nothing.
        decisions: for each given modality the raw prediction from it alone, ``(B, ..., K)``, 0 where it is absent; {}
            if the fusion makes no such predictions.
        confidence: for each given modality how much the fusion relies on it, ``(B, ..., 1)``, 0 where it is absent; {}
            if the fusion has no such measure.
    """

    fused: Tensor
    modalities: dict[str, Tensor]
    losses: dict[str, Tensor] = field(default_factory=dict)
    stats: SolverStats | None = None
    decisions: dict[str, Tensor] = field(default_factory=dict)
    confidence: dict[str, Tensor] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Tensor]:
        """Refused; ``nn.DataParallel`` tries it to gather the outputs of several devices."""
        raise InputError(
            "a FusionOutput cannot be iterated over or gathered by nn.DataParallel: take its .fused inside the wrapped "
            "module, or use DistributedDataParallel"
        )


@dataclass
class FlatInputs:
    """The inputs of one call with all leading axes flattened to ``R`` rows; a fusion's mathematics works on these.

    Attributes:
        values: for each given modality ``(R, l_m)``; rows in which it is absent hold zeros and pass no gradient.
        masks: for each given modality bool ``(R, 1)``, True where it is present, or None if it is present in every row.
        count: the number of rows ``R``.
        index: int64 ``(R,)``, the samples' numbers in their data set; None if the caller gave none.
    """

    values: dict[str, Tensor]
    masks: dict[str, Tensor | None]
    count: int
    index: Tensor | None = None

    @property
    def like(self) -> Tensor:
        """One of the values, to read device and dtype from."""
        return next(iter(self.values.values()))

    def mask(self, name: str) -> Tensor:
        """Bool ``(R, 1)``: which rows have modality ``name``."""
        if name not in self.values:
            return torch.zeros(self.count, 1, dtype=torch.bool, device=self.like.device)
        mask = self.masks[name]
        if mask is None:
            return torch.ones(self.count, 1, dtype=torch.bool, device=self.like.device)
        return mask


def _check_name(name: object) -> None:
    """Refuse a name that a modality cannot have: layers are kept and told by it, in files and on terminals.

    Raises:
        InputError: it is empty, has a dot or a sign that is not written, or is one that PyTorch's containers need.
    """
    if not isinstance(name, str) or not name or "." in name:
        raise InputError(f"modality names must be non-empty strings without a dot, got {name!r}")
    if any(unicodedata.category(sign) in ("Cc", "Cs") for sign in name):
        raise InputError(f"modality names cannot have control characters, got {name!r}")
    if hasattr(_CONTAINER, name):
        raise InputError(f"PyTorch has a use of its own for the name {name!r}; call this modality something else")


class Fusion(nn.Module, Configurable, ABC):
    """Base class of every fusion module: several modalities in, one representation out.

    Build one by its class or by :func:`make_fusion`; to write your own, derive from this class, set ``name`` and
    ``out_dim``, and implement :meth:`fuse` on flattened rows.

    >>> class Largest(ef.Fusion):
    ...     name = "largest"
    ...     def __init__(self, dims):
    ...         super().__init__(dims)
    ...         self.out_dim = max(dims.values())
    ...     def fuse(self, rows):
    ...         fused = torch.stack(list(rows.values.values())).amax(0)
    ...         return ef.FusionOutput(fused, dict(rows.values))
    >>> fusion = Largest({"a": 2, "b": 2})
    >>> fusion({"a": torch.zeros(1, 2), "b": torch.tensor([[-1.0, 1.0]])}).fused
    tensor([[0., 1.]])
    >>> fusion.config()
    {'name': 'largest', 'dims': {'a': 2, 'b': 2}}

    Args:
        dims: modality name -> width ``l_m`` of its feature vectors; the order is the modality order.

    Attributes:
        out_dim: width of ``fused``.
        loss_weights: default weight of each loss in ``FusionOutput.losses``.
        target_loss_weights: default weight of each loss that :meth:`target_losses` returns.
        decides: True if ``fused`` is already a prediction, so that no head follows it.
        additive: True if ``fused`` is a sum of functions of single modalities, so that what one says never depends on
            another; with several modalities a head with a hidden layer makes up for that.
        takes_steps: whether modalities may be sequences of lengths of their own.
        tasks: names of the tasks that the fusion is made for; None for all.

    Raises:
        InputError: there is no modality, or a width is below 1.
    """

    name: ClassVar[str]
    out_dim: int
    # True if ``fused`` is already a prediction, so that no head follows: a fusion of decisions.
    decides: bool = False
    additive: bool = False
    # Extra of this library, and its package, that training needs; what was trained does without.
    trained_by: ClassVar[str | None] = None
    # Whether a modality may be a sequence (B, T_m, l_m) with a mask (B, T_m), each of its own length.
    takes_steps: bool = False
    # Tasks that the fusion is made for; None for all.
    tasks: tuple[str, ...] | None = None

    def __init__(self, dims: Mapping[str, int]) -> None:
        super().__init__()
        if not dims:
            raise InputError("a fusion needs at least one modality")
        for name, width in dims.items():
            if isinstance(width, bool) or not isinstance(width, int) or width < 1:
                raise InputError(f"modality {name!r}: its width must be a positive integer, got {width!r}")
            _check_name(name)
        self.dims: dict[str, int] = dict(dims)
        self.loss_weights: dict[str, float] = {}
        self.target_loss_weights: dict[str, float] = {}

    @abstractmethod
    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """Fuse flattened rows ``(R, l_m)``; all outputs are ``(R, ...)``. Implemented by each fusion."""

    def current_options(self) -> dict[str, Any]:
        """The widths, and the weights of losses: the option ``kl_weight`` is the weight of the loss ``kl``."""
        weights = {
            f"{label}_weight": weight for label, weight in {**self.loss_weights, **self.target_loss_weights}.items()
        }
        known = constructor_parameters(type(self))
        return {"dims": self.dims, **{option: weight for option, weight in weights.items() if option in known}}

    def target_losses(
        self, output: FusionOutput, target: Tensor, present: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Losses that compare the ``output`` of a call with the target: unweighted, by name, {} for most methods."""
        return {}

    @classmethod
    def suited(cls, quantities: bool) -> dict[str, Any]:
        """Options that suit a task better than their defaults; :func:`equifuse.build_model` takes them where not given.

        Args:
            quantities: whether it predicts quantities, as regression does.
        """
        return {}

    def output_maps(self) -> list[OutputMap]:
        """The affine maps that produce the prediction, if the fusion decides itself; they have a regression's units."""
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
            inputs: modality name -> ``(B, ..., l_m)``, with the same leading shape for all, whose positions are fused
                independently. A modality of ``dims`` without a key is absent from the whole batch.
            present: modality name -> bool, ``(B,)`` or the full leading shape, True (default) where the modality is
                present. Rows of an absent modality may hold anything, NaN included, get no gradient and do not affect
                the result.
            index: int64, the positions' numbers in the data set, ≥ 0; for a fusion with an ``EquilibriumCache``.

        Returns:
            :class:`FusionOutput` with leading shape ``(B, ...)``.

        Raises:
            UnknownNameError: a modality that the fusion was not built for.
            InputError: no modality, a wrong width, different leading shapes, what is no tensor, or an unusable mask or
                index.
        """
        leading, rows = flatten(inputs, present, self.dims)
        if index is not None:
            rows.index = index.reshape(-1)
            check_index(rows.index, rows.count)
        empty = not torch.compiler.is_compiling() and rows.count == 0
        output = _without_rows(self.fuse(_one_row(rows))) if empty else self.fuse(rows)
        output.fused = output.fused.reshape(*leading, output.fused.shape[-1])
        output.modalities, output.decisions, output.confidence = (
            {name: state.reshape(*leading, state.shape[-1]) for name, state in found.items()}
            for found in (output.modalities, output.decisions, output.confidence)
        )
        if output.stats is not None:
            output.stats = output.stats.reshape(*leading)
        return output

    def extra_repr(self) -> str:
        """Widths of the inputs and of the output."""
        return f"{self.dims} -> {self.out_dim}"


def require_two(dims: Mapping[str, int], name: str, deed: str) -> None:
    """Raise :class:`InputError` unless there are at least two modalities.

    Args:
        dims: modality name -> width.
        name: the fusion, for the message.
        deed: what it does between modalities, for the message.

    Raises:
        InputError: there are fewer than two modalities.
    """
    if len(dims) < 2:
        raise InputError(f"{name} {deed} between modalities and needs at least two, got {list(dims)}")


def flatten(
    inputs: Mapping[str, Tensor], present: Mapping[str, Tensor] | None, dims: Mapping[str, int]
) -> tuple[tuple[int, ...], FlatInputs]:
    """Check the arguments of a call and flatten them to rows; see :meth:`Fusion.forward`."""
    present = {} if present is None else present
    for what, value in (("inputs", inputs), ("present", present)):
        if not isinstance(value, Mapping):
            raise InputError(f"{what} must map modality names to tensors, got {type(value).__name__}")
    for name in (*inputs, *present):
        if name not in dims:
            raise UnknownNameError("modality", str(name), dims)
    given = [name for name in dims if name in inputs]
    if not given:
        raise InputError(f"no modality given; expected some of {', '.join(dims)}")
    leading: tuple[int, ...] | None = None
    values: dict[str, Tensor] = {}
    masks: dict[str, Tensor | None] = {}
    for name in given:
        x = inputs[name]
        if not isinstance(x, Tensor):
            raise InputError(no_tensor(name, x))
        if x.dim() < 2:
            raise InputError(
                f"modality {name!r} has shape {tuple(x.shape)}, without an axis of samples; one sample is "
                f"(1, {dims[name]})"
            )
        if x.shape[-1] != dims[name]:
            width = x.shape[-1]
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
    if not isinstance(mask, Tensor):
        raise InputError(f"present[{name!r}] must be a bool tensor, got {_kind(mask)}; torch.as_tensor makes one")
    if mask.dtype != torch.bool:
        raise InputError(f"present[{name!r}] must be a bool tensor, got {mask.dtype}")
    if tuple(mask.shape) == leading[:1]:
        mask = mask.reshape(-1, *[1] * (len(leading) - 1)).expand(leading)
    elif tuple(mask.shape) != leading:
        raise InputError(
            f"present[{name!r}] has shape {tuple(mask.shape)}, expected {leading[:1]} or the leading shape {leading}"
        )
    return mask.to(device).reshape(-1, 1)


def no_tensor(name: str, value: object) -> str:
    """The message where a modality is no tensor."""
    advice = "pass a tensor, which torch.as_tensor makes"
    if value is None:
        advice = "leave it out where the whole batch lacks it"
    return f"modality {name!r} is {_kind(value)}; {advice}"


def _kind(value: object) -> str:
    """What something is, for a message."""
    return "None" if value is None else f"a {type(value).__module__}.{type(value).__name__}".replace("builtins.", "")


def _one_row(rows: FlatInputs) -> FlatInputs:
    """One row of zeros that has every modality given: what is fused in place of no rows at all.

    It is the sum of no rows, so that what the inputs were computed by gets gradients, which are zero.
    """
    values = {name: x.sum(0, keepdim=True) for name, x in rows.values.items()}
    return FlatInputs(values, dict.fromkeys(values), 1)


def _without_rows(output: FusionOutput) -> FusionOutput:
    """The output of an empty batch: all of the right width, losses of 0 that parameters get zero gradients from."""
    return FusionOutput(
        output.fused[:0],
        {name: state[:0] for name, state in output.modalities.items()},
        {name: 0 * loss for name, loss in output.losses.items()},
        None if output.stats is None else _no_solves(output.stats),
        {name: x[:0] for name, x in output.decisions.items()},
        {name: x[:0] for name, x in output.confidence.items()},
    )


def _no_solves(stats: SolverStats) -> SolverStats:
    none = stats.select(slice(0, 0))
    none.parts = {name: _no_solves(part) for name, part in stats.parts.items()}
    return none
