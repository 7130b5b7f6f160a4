"""Data sets: readers, splits, checks. NumPy only; knows nothing of models."""

from equifuse.datasets.catalog import available, load
from equifuse.datasets.dataset import MultimodalDataset, Split
from equifuse.datasets.digits import load_digits_views
from equifuse.datasets.formats.npz import read_npz, write_npz
from equifuse.datasets.options import SourceOptions
from equifuse.datasets.table import read_input_pieces, read_inputs

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
