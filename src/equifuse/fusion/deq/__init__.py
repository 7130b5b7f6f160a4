"""Deep-equilibrium fusion: the fusion, its variants under other names, and what watches it."""

from equifuse.fusion.deq.module import DEQFusion, JointMap
from equifuse.fusion.deq.monitor import EquilibriumMonitor, EquilibriumReport, PartReport, find_equilibrium
from equifuse.fusion.deq.problem import Solved
from equifuse.fusion.deq.reference_weights import reference_layout
from equifuse.fusion.deq.variants import MutualEquilibrium, WeightTied

__all__ = [
    "DEQFusion",
    "EquilibriumMonitor",
    "EquilibriumReport",
    "JointMap",
    "MutualEquilibrium",
    "PartReport",
    "Solved",
    "WeightTied",
    "find_equilibrium",
    "reference_layout",
]
