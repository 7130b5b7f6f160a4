"""Preparation of features: steps fitted on the training part, stored as arrays, applied as layers of the model."""

from equifuse.encoders.preparation.base import LEARNT, Kind, Preparation, Sample
from equifuse.encoders.preparation.batches import Batch, Combat
from equifuse.encoders.preparation.categories import Embed, OneHot
from equifuse.encoders.preparation.gaps import Impute, Missing
from equifuse.encoders.preparation.pipeline import (
    complete_steps,
    fills_gaps,
    fit_steps,
    fixed_layers,
    front_mean,
    front_of,
    layers_before,
    parse_steps,
    raw_moments,
    restore_steps,
    steps_of,
    unasked_steps,
)
from equifuse.encoders.preparation.selection import Correlation, KBest, Laplacian, PrincipalComponents, Variance
from equifuse.encoders.preparation.standardize import Standardize
from equifuse.encoders.preparation.transforms import Asinh, CenteredLogRatio, Log1p, Quantile

__all__ = [
    "LEARNT",
    "Asinh",
    "Batch",
    "CenteredLogRatio",
    "Combat",
    "Correlation",
    "Embed",
    "Impute",
    "KBest",
    "Kind",
    "Laplacian",
    "Log1p",
    "Missing",
    "OneHot",
    "Preparation",
    "PrincipalComponents",
    "Quantile",
    "Sample",
    "Standardize",
    "Variance",
    "complete_steps",
    "fills_gaps",
    "fit_steps",
    "fixed_layers",
    "front_mean",
    "front_of",
    "layers_before",
    "parse_steps",
    "raw_moments",
    "restore_steps",
    "steps_of",
    "unasked_steps",
]
