"""Encoders: from a modality's raw features to one vector per sample. Independent of fusion."""

from equifuse.encoders.mlp import MLPEncoder
from equifuse.encoders.preparation import Preparation, Standardize, complete_steps, fit_steps, parse_steps
from equifuse.encoders.preprocessed import Preprocessed
from equifuse.encoders.sequence import POOLINGS, SequenceEncoder

# Names of encoders that need nothing but numbers; "auto" is "mlp", and "attention" where sequences are padded.
ENCODERS = ("auto", "mlp", "identity", *POOLINGS)

__all__ = [
    "ENCODERS",
    "POOLINGS",
    "MLPEncoder",
    "Preparation",
    "Preprocessed",
    "SequenceEncoder",
    "Standardize",
    "complete_steps",
    "fit_steps",
    "parse_steps",
]
