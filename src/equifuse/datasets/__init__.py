"""Data sets by name or path: the public front of :mod:`equifuse.data`. NumPy only; knows nothing of models."""

from equifuse.data.catalog import available, load
from equifuse.data.dataset import MultimodalDataset, Split
from equifuse.data.digits import load_digits_views
from equifuse.data.formats.npz import read_npz, write_npz
from equifuse.data.inputs import read_input_pieces, read_inputs
from equifuse.data.options import SourceOptions

__all__ = [
    "MultimodalDataset",
    "SourceOptions",
    "Split",
    "available",
    "load",
    "load_digits_views",
    "read_input_pieces",
    "read_inputs",
    "read_npz",
    "write_npz",
]
