"""Features that stay on disk until their rows are asked for: of HDF5, ``.npy`` and Parquet files."""

from equifuse.data.lazy.base import (
    Features,
    Floats,
    Indices,
    LazyArray,
    blocks,
    in_memory,
    loaded_if_small,
    select,
    share_of_gaps,
)
from equifuse.data.lazy.hdf5 import HDF5Array
from equifuse.data.lazy.npy import NpyArray
from equifuse.data.lazy.parquet import ParquetArray, as_numbers, columns_of, is_numeric, rows_of_groups
from equifuse.data.lazy.shared import SharedRows

__all__ = [
    "Features",
    "Floats",
    "HDF5Array",
    "Indices",
    "LazyArray",
    "NpyArray",
    "ParquetArray",
    "SharedRows",
    "as_numbers",
    "blocks",
    "columns_of",
    "in_memory",
    "is_numeric",
    "loaded_if_small",
    "rows_of_groups",
    "select",
    "share_of_gaps",
]
