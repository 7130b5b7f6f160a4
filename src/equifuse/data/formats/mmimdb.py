"""MM-IMDB (Arevalo et al. 2017): movie posters and plots, 23 genres, in one HDF5 file.

``multimodal_imdb.hdf5`` of the data set's own site, a file in the layout of Fuel: ``features`` ``(25959, 300)``, the
mean word2vec vector of the plot; ``vgg_features`` ``(25959, 4096)`` of the poster; ``genres`` ``(25959, 23)``, zeros
and ones; and the attribute ``split``, which says which rows are train, dev and test (15,552, 2,608 and 7,799). A file
without the attribute must have that many rows in that order. Features stay on disk if they are large.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from equifuse.data.assemble import assemble, part_rows
from equifuse.data.dataset import MultimodalDataset, Split
from equifuse.data.formats.base import Format
from equifuse.data.formats.hdf5 import SUFFIXES, array_of, opened, text_of
from equifuse.data.lazy import HDF5Array, Indices, loaded_if_small
from equifuse.data.options import SourceOptions
from equifuse.errors import DataError
from equifuse.registry import FORMATS

_FEATURES = {"text": "features", "image": "vgg_features"}
_OFFICIAL = {"train": 15552, "val": 2608, "test": 7799}


@FORMATS.register
class MMIMDBFormat(Format):
    """The HDF5 file of MM-IMDB."""

    name: ClassVar[str] = "mmimdb"
    description: ClassVar[str] = "MM-IMDB HDF5"
    priority: ClassVar[int] = 10

    def detect(self, path: Path) -> bool:
        """An HDF5 file with genres and poster features."""
        if path.suffix not in SUFFIXES:
            return False
        with opened(path) as file:
            return "genres" in file and any(key in file for key in _FEATURES.values())

    def read(self, path: Path, options: SourceOptions, *, val_fraction: float, seed: int) -> MultimodalDataset:
        """Read the file with its official split.

        Raises:
            DataError: an array is missing or does not fit, or the split is unknown.
        """
        options.refuse("the MM-IMDB file")
        with opened(path) as file:
            for key in _FEATURES.values():
                if key not in file:
                    raise DataError(f"{path} has genres but no array {key!r}")
            genres = array_of(path, file["genres"])
            parts = _fuel_split(path, file.attrs.get("split")) or _official_split(path, len(genres))
        if genres.ndim != 2 or genres.dtype.kind not in "fiub":
            raise DataError(f"{path}: genres must be (n, K), got shape {genres.shape}")
        inputs = {m: loaded_if_small(HDF5Array(path, key)) for m, key in _FEATURES.items()}
        for m, x in inputs.items():
            if len(x) != len(genres):
                raise DataError(f"{path}: {_FEATURES[m]} has {len(x)} rows, genres has {len(genres)}")
        whole = Split(inputs, target=genres.astype(np.float32))
        return assemble("mmimdb", whole, "multilabel", parts, val_fraction=val_fraction, seed=seed)


def _fuel_split(path: Path, table: Any) -> dict[str, Indices] | None:
    """LazyArray of each part from Fuel's attribute: records of split, source, start, stop and more."""
    if table is None:
        return None
    if not {"split", "start", "stop"} <= set(table.dtype.names or ()):
        raise DataError(f"{path}: the attribute 'split' is not Fuel's table of split, source, start and stop")
    parts = {}
    for record in table:
        (part,) = part_rows([text_of(record["split"])], f"{path}: the attribute 'split'")
        parts[part] = np.arange(int(record["start"]), int(record["stop"]), dtype=np.intp)
    return parts


def _official_split(path: Path, rows: int) -> dict[str, Indices]:
    if rows != sum(_OFFICIAL.values()):
        raise DataError(f"{path} has no attribute 'split' and {rows} rows; the official file has 25959")
    ends = np.cumsum(list(_OFFICIAL.values()))
    return {
        part: np.arange(end - size, end, dtype=np.intp)
        for (part, size), end in zip(_OFFICIAL.items(), ends, strict=True)
    }
