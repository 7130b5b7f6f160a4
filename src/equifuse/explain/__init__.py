"""Explanations of trained models, and calibrated uncertainty. :func:`explain` does all of it in one call."""

from equifuse.explain.attribution import Attributions, attribute
from equifuse.explain.calibration import (
    Calibration,
    ProbabilityScores,
    Reliability,
    brier_score,
    calibrate,
    fit_temperature,
    reliability,
)
from equifuse.explain.conformal import Intervals, PredictionSets, intervals, prediction_sets, quantile
from equifuse.explain.embeddings import embeddings
from equifuse.explain.explanation import Explanation, explain
from equifuse.explain.information import InformationFlow, StageBits, information_flow
from equifuse.explain.internals import GateActivity, Internals, PartEnergies, look_inside
from equifuse.explain.markers import Marker, markers
from equifuse.explain.shapley import (
    CoalitionOutputs,
    Coalitions,
    Contributions,
    all_coalitions,
    base_output,
    evaluate_coalitions,
    sampled_coalitions,
    shapley_values,
)

__all__ = [
    "Attributions",
    "Calibration",
    "CoalitionOutputs",
    "Coalitions",
    "Contributions",
    "Explanation",
    "GateActivity",
    "InformationFlow",
    "Internals",
    "Intervals",
    "Marker",
    "PartEnergies",
    "PredictionSets",
    "ProbabilityScores",
    "Reliability",
    "StageBits",
    "all_coalitions",
    "attribute",
    "base_output",
    "brier_score",
    "calibrate",
    "embeddings",
    "evaluate_coalitions",
    "explain",
    "fit_temperature",
    "information_flow",
    "intervals",
    "look_inside",
    "markers",
    "prediction_sets",
    "quantile",
    "reliability",
    "sampled_coalitions",
    "shapley_values",
]
