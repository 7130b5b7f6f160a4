"""A method of balancing: the gradients of all encoders get the same length."""

import torch

from equifuse.model import FusionModel
from equifuse.training.balancing import BalancingMethod


class Even(BalancingMethod):
    """Every encoder's gradient is scaled to the mean length, ``share`` of the way."""

    name = "even"

    def __init__(self, *, share: float = 1.0) -> None:
        super().__init__()
        self.share = share

    def after_backward(self, model: FusionModel) -> None:
        """Scale the gradients of a step."""
        gradients = [[p.grad for p in e.parameters() if p.grad is not None] for e in model.encoders.values()]
        lengths = torch.stack([torch.stack([g.norm() for g in found]).norm() for found in gradients if found])
        factors = torch.lerp(torch.ones_like(lengths), lengths.mean() / lengths.clamp(min=1e-12), self.share)
        for factor, found in zip(factors, filter(None, gradients), strict=True):
            for g in found:
                g.mul_(factor)
