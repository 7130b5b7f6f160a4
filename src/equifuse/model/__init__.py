"""Models: encoders, a fusion and a head as one module; built from names, stored without code."""

from equifuse.model.build import build_model
from equifuse.model.ensemble import Ensemble
from equifuse.model.heads import InputHead, LinearHead, MLPHead
from equifuse.model.module import FusionModel, ModelOutput, Piece
from equifuse.model.skip import SkipConnection
from equifuse.model.store import load
from equifuse.model.unimodal import UnimodalHeads

__all__ = [
    "Ensemble",
    "FusionModel",
    "InputHead",
    "LinearHead",
    "MLPHead",
    "ModelOutput",
    "Piece",
    "SkipConnection",
    "UnimodalHeads",
    "build_model",
    "load",
]
