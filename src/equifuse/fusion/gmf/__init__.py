"""Generalized multimodal fusion (GMF): the fusion, its later form, and its form for inference."""

from equifuse.fusion.gmf.folded import FoldedGMF
from equifuse.fusion.gmf.module import GMF
from equifuse.fusion.gmf.recombination import recombined_dims
from equifuse.fusion.gmf.scfae import SCFAE

__all__ = ["GMF", "SCFAE", "FoldedGMF", "recombined_dims"]
