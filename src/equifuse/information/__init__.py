"""What modalities know of a target, alone and together, in bits: before training, and inside of trained models."""

from equifuse.information.decomposition import Decomposition, decompose, decompose_gaussian, union_information
from equifuse.information.discrete import Discrete
from equifuse.information.estimator import Estimate, Estimator, PairBits
from equifuse.information.gaussian import Gaussian
from equifuse.information.measurement import Interactions, Pair, interactions
from equifuse.information.measures import (
    class_entropy,
    entropy,
    gained_bits,
    gaussian_bias,
    gaussian_entropy,
    gaussian_information,
    mutual_information,
    o_information,
    shapley_bits,
)
from equifuse.information.pointwise import Pointwise
from equifuse.information.predictive import Predictive
from equifuse.information.probe import common_bits, probe
from equifuse.information.samples import Target, targets_of
from equifuse.information.verdict import verdict

__all__ = [
    "Decomposition",
    "Discrete",
    "Estimate",
    "Estimator",
    "Gaussian",
    "Interactions",
    "Pair",
    "PairBits",
    "Pointwise",
    "Predictive",
    "Target",
    "class_entropy",
    "common_bits",
    "decompose",
    "decompose_gaussian",
    "entropy",
    "gained_bits",
    "gaussian_bias",
    "gaussian_entropy",
    "gaussian_information",
    "interactions",
    "mutual_information",
    "o_information",
    "probe",
    "shapley_bits",
    "targets_of",
    "union_information",
    "verdict",
]
