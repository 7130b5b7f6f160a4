"""Data: readers, splits, checks, batches. Knows nothing of models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equifuse._lazy import attach

if TYPE_CHECKING:
    from equifuse.data.batch import Batch as Batch
    from equifuse.data.catalog import available as available
    from equifuse.data.catalog import load as load
    from equifuse.data.dataset import MultimodalDataset as MultimodalDataset
    from equifuse.data.dataset import Split as Split
    from equifuse.data.digits import load_digits_views as load_digits_views
    from equifuse.data.formats.npz import read_npz as read_npz
    from equifuse.data.formats.npz import write_npz as write_npz
    from equifuse.data.inputs import read_input_pieces as read_input_pieces
    from equifuse.data.inputs import read_inputs as read_inputs
    from equifuse.data.options import SourceOptions as SourceOptions

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "equifuse.data.batch": ["Batch"],
        "equifuse.data.catalog": ["available", "load"],
        "equifuse.data.dataset": ["MultimodalDataset", "Split"],
        "equifuse.data.digits": ["load_digits_views"],
        "equifuse.data.formats.npz": ["read_npz", "write_npz"],
        "equifuse.data.inputs": ["read_input_pieces", "read_inputs"],
        "equifuse.data.options": ["SourceOptions"],
    },
)
