"""Fusion modules under one protocol: ``fusion(inputs, present) -> FusionOutput``. One file per method."""

from equifuse.fusion.base import Fusion, FusionOutput
from equifuse.fusion.concat import Concat
from equifuse.fusion.equilibrium import DEQFusion
from equifuse.fusion.monitor import EquilibriumMonitor, EquilibriumReport, PartReport, find_equilibrium
from equifuse.fusion.pnp import GMF, FoldedGMF, recombined_dims
from equifuse.fusion.registry import FUSIONS, available_fusions, fusion_options, make_fusion, register

__all__ = [
    "FUSIONS",
    "GMF",
    "Concat",
    "DEQFusion",
    "EquilibriumMonitor",
    "EquilibriumReport",
    "FoldedGMF",
    "Fusion",
    "FusionOutput",
    "PartReport",
    "available_fusions",
    "find_equilibrium",
    "fusion_options",
    "make_fusion",
    "recombined_dims",
    "register",
]
