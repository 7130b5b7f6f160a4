"""Fusion modules under one protocol: ``fusion(inputs, present) -> FusionOutput``. One file per method."""

from equifuse.fusion.attention import BottleneckTransformer, CrossAttention, Perceiver, SelfAttention
from equifuse.fusion.base import Fusion, FusionOutput
from equifuse.fusion.channel_exchange import ChannelExchange
from equifuse.fusion.concat import Concat
from equifuse.fusion.deq import (
    DEQFusion,
    EquilibriumMonitor,
    EquilibriumReport,
    MutualEquilibrium,
    PartReport,
    WeightTied,
    find_equilibrium,
)
from equifuse.fusion.drfuse import DrFuse
from equifuse.fusion.dynamics import MMDynamics
from equifuse.fusion.experts import MixtureOfExperts, ProductOfExperts
from equifuse.fusion.film import FiLM
from equifuse.fusion.fitted import FittedFusion, LinearModel
from equifuse.fusion.gmf import GMF, SCFAE, FoldedGMF, recombined_dims
from equifuse.fusion.gmu import GMU
from equifuse.fusion.late import LateFusion
from equifuse.fusion.make import available_fusions, fusion_options, make_fusion, register
from equifuse.fusion.misa import MISA
from equifuse.fusion.mmtm import MMTM
from equifuse.fusion.qmf import QMF
from equifuse.fusion.stacking import Stacking
from equifuse.fusion.sums import Mean, Sum, WeightedSum
from equifuse.fusion.support_vectors import SupportVectors
from equifuse.fusion.tensor import BilinearFusion, LowRankFusion, TensorFusion
from equifuse.fusion.tmc import TMC
from equifuse.fusion.trees import Boosting, LightGBM, Trees

__all__ = [
    "GMF",
    "GMU",
    "MISA",
    "MMTM",
    "QMF",
    "SCFAE",
    "TMC",
    "BilinearFusion",
    "Boosting",
    "BottleneckTransformer",
    "ChannelExchange",
    "Concat",
    "CrossAttention",
    "DEQFusion",
    "DrFuse",
    "EquilibriumMonitor",
    "EquilibriumReport",
    "FiLM",
    "FittedFusion",
    "FoldedGMF",
    "Fusion",
    "FusionOutput",
    "LateFusion",
    "LightGBM",
    "LinearModel",
    "LowRankFusion",
    "MMDynamics",
    "Mean",
    "MixtureOfExperts",
    "MutualEquilibrium",
    "PartReport",
    "Perceiver",
    "ProductOfExperts",
    "SelfAttention",
    "Stacking",
    "Sum",
    "SupportVectors",
    "TensorFusion",
    "Trees",
    "WeightTied",
    "WeightedSum",
    "available_fusions",
    "find_equilibrium",
    "fusion_options",
    "make_fusion",
    "recombined_dims",
    "register",
]
