"""Encoders: from a modality's raw features to one vector per sample. Independent of fusion."""

from equifuse.encoders.clips import FrameEncoder, SpectrogramEncoder
from equifuse.encoders.guided import (
    GUIDED,
    CoAttention,
    FiLMEncoder,
    GridStates,
    GuidedAttention,
    GuidedEncoder,
    RegionStates,
)
from equifuse.encoders.mlp import MLPEncoder
from equifuse.encoders.pictures import PictureEncoder
from equifuse.encoders.preparation import Preparation, Standardize, complete_steps, fit_steps, parse_steps
from equifuse.encoders.preprocessed import Preprocessed
from equifuse.encoders.sequence import POOLINGS, SequenceEncoder
from equifuse.encoders.states import States, looks_at
from equifuse.encoders.tuned import TUNED, TunedEncoder
from equifuse.encoders.words import WordEncoder

# Names of encoders; "auto" is "mlp", "attention" where sequences are padded, "gru" of words and "cnn" of pictures.
# Pretrained are "efficientnet", "wordllama", or "pretrained:", "finetuned:" or "lora:" and one of these or a folder.
ENCODERS = ("auto", "mlp", "identity", *POOLINGS, "cnn", *GUIDED, *TUNED)

__all__ = [
    "ENCODERS",
    "GUIDED",
    "POOLINGS",
    "TUNED",
    "CoAttention",
    "FiLMEncoder",
    "FrameEncoder",
    "GridStates",
    "GuidedAttention",
    "GuidedEncoder",
    "MLPEncoder",
    "PictureEncoder",
    "Preparation",
    "Preprocessed",
    "RegionStates",
    "SequenceEncoder",
    "SpectrogramEncoder",
    "Standardize",
    "States",
    "TunedEncoder",
    "WordEncoder",
    "complete_steps",
    "fit_steps",
    "looks_at",
    "parse_steps",
]
