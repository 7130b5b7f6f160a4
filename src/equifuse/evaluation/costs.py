"""What a module costs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from equifuse.fusion.modes import evaluation_mode


def flops_per_sample(module: nn.Module, *args: Any, **kwargs: Any) -> int:
    """FLOPs of one forward pass in evaluation mode, by PyTorch's counter.

    Two per multiply-add of matrix products and attention, nothing else; of an equilibrium, those of the evaluations
    that it took.

    Args:
        module: any module; its mode is left as it was.
        *args: what it is called with: a batch of one sample.
        **kwargs: likewise.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: PLC0415
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415

    # The counter does not see inside of the other kernels of attention, and fails without gradients.
    counter = FlopCounterMode(display=False)
    with evaluation_mode(module), sdpa_kernel(SDPBackend.MATH), counter, torch.enable_grad():
        module(*args, **kwargs)
    return int(counter.get_total_flops())
