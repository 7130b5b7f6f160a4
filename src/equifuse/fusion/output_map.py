"""Affine maps to predictions that have units."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OutputMap(nn.Linear):
    """An affine map to outputs in units of their own: ``scale · (W x + b) + shift``.

    ``W`` and ``b`` are trained, the units are not, so that a target in millions is learnt as fast as a standardised
    one. Without units it is :class:`torch.nn.Linear`.

    >>> from equifuse.fusion.output_map import OutputMap
    >>> price = OutputMap(8, 1)
    >>> price.set_units(torch.tensor([50_000.0]), torch.tensor([300_000.0]))
    >>> price(torch.zeros(1, 8))
    tensor([[300000.]], grad_fn=<AddcmulBackward0>)

    Attributes:
        scale: ``(K,)``, or None without units.
        shift: likewise.
    """

    scale: Tensor | None
    shift: Tensor | None

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.register_buffer("scale", None)
        self.register_buffer("shift", None)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., l) -> (..., K)``."""
        said = super().forward(x)
        return said if self.scale is None or self.shift is None else torch.addcmul(self.shift, said, self.scale)

    @torch.no_grad()
    def set_units(self, scale: Tensor, shift: Tensor) -> None:
        """Count outputs in ``scale`` from ``shift``, both ``(K,)``, where they begin."""
        self.scale, self.shift = scale.to(self.bias, copy=True), shift.to(self.bias, copy=True)
        self.bias.zero_()

    def share_units(self, other: OutputMap) -> None:
        """Count outputs as another map does."""
        self.scale, self.shift = (None if x is None else x.clone() for x in (other.scale, other.shift))

    @torch.no_grad()
    def rescale(self, scale: Tensor, shift: Tensor) -> None:
        """Give ``scale · output + shift`` from now on, by output ``(K,)``."""
        if self.scale is not None and self.shift is not None:
            self.shift.copy_(self.shift.double() * scale + shift)
            self.scale.copy_(self.scale.double() * scale)
            return
        self.weight.mul_(scale[:, None])
        self.bias.copy_(self.bias.double() * scale + shift)


class OutputOffset(OutputMap):
    """What is predicted of nothing, in the same units as what :class:`OutputMap` predicts: ``scale · b + shift``.

    >>> from equifuse.fusion.output_map import OutputOffset
    >>> price = OutputOffset(1)
    >>> price.set_units(torch.tensor([50_000.0]), torch.tensor([300_000.0]))
    >>> price.value()
    tensor([300000.], grad_fn=<AddcmulBackward0>)

    Args:
        out_features: number of outputs ``K``.
    """

    def __init__(self, out_features: int) -> None:
        super().__init__(1, out_features)
        self.weight.requires_grad_(False)
        with torch.no_grad():
            self.weight.zero_()
            self.bias.zero_()

    def value(self) -> Tensor:
        """``(K,)``."""
        value: Tensor = self(self.weight.new_zeros(1))
        return value
