"""The inputs of deep-equilibrium fusion: the stacked modalities, and their weighted sum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from equifuse.solve.recycling import empty, spare


def _stack_and_sum(xs: Sequence[Tensor], mask: Tensor | None, weights: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    stacked = torch.stack(list(xs), out=empty(xs[0], len(xs), *xs[0].shape))
    if mask is not None:
        stacked = torch.where(mask, stacked, 0.0)
    total = torch.mul(stacked[0], weights[0], out=empty(stacked[0]))
    for x, weight in zip(stacked[1:], weights[1:], strict=True):
        total.addcmul_(x, weight)
    return stacked, total.add_(bias)


class _Inject(torch.autograd.Function):
    """Stack, mask and sum as one node of the graph; separate nodes would spend most time on large gradients."""

    @staticmethod
    def forward(ctx: Any, mask: Tensor | None, weights: Tensor, bias: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        stacked, total = _stack_and_sum(xs, mask, weights, bias)
        ctx.save_for_backward(mask, weights, stacked)
        ctx.set_materialize_grads(False)
        return stacked, total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        mask, weights, stacked = ctx.saved_tensors
        of_stack, of_sum = grads
        if of_sum is None:
            gradient = of_stack if mask is None or of_stack is None else torch.where(mask, of_stack, 0.0)
            return None, None, None, *(gradient if gradient is not None else (None,) * len(stacked))
        of_bias = of_sum.sum().view(1)
        of_weights = torch.stack([(x * of_sum).sum() for x in stacked])
        if of_stack is None:
            gradient = torch.mul(weights[:, None, None], of_sum, out=spare(stacked))
        else:
            gradient = torch.addcmul(of_stack, weights[:, None, None], of_sum, out=spare(stacked))
        if mask is not None:
            gradient = torch.where(mask, gradient, 0.0)
        return None, of_weights, of_bias, *gradient


def inject(xs: list[Tensor], mask: Tensor | None, weights: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The modalities' inputs as one tensor, zero where absent, and ``Σ_m w_m x_m + β``.

    Args:
        xs: ``M`` tensors ``(R, d)``.
        mask: bool ``(M, R, 1)``, or None where everything is present.
        weights: ``(M,)``.
        bias: ``(1,)``.

    Returns:
        ``(M, R, d)`` and ``(R, d)``.
    """
    if not torch.is_grad_enabled():  # compilers fail on a node without gradients
        return _stack_and_sum(xs, mask, weights, bias)
    return cast(Callable[..., tuple[Tensor, Tensor]], _Inject.apply)(mask, weights, bias, *xs)
