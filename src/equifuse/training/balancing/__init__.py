"""Balancing of modalities: what keeps training from relying on the one that is easiest to learn."""

from equifuse.training.balancing.base import (
    Balancer,
    BalancingMethod,
    discrepancy,
    make_balancer,
    scores,
)
from equifuse.training.balancing.gradient_blending import GradientBlending, blending_weights, progress
from equifuse.training.balancing.ogm_ge import OGMGE, modulated, modulation
from equifuse.training.balancing.pmr import PMR, Prototypes, entropy, rebalance

__all__ = [
    "OGMGE",
    "PMR",
    "Balancer",
    "BalancingMethod",
    "GradientBlending",
    "Prototypes",
    "blending_weights",
    "discrepancy",
    "entropy",
    "make_balancer",
    "modulated",
    "modulation",
    "progress",
    "rebalance",
    "scores",
]
