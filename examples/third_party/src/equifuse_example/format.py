"""A format of data sets: a JSON file with rows of numbers for each modality, and labels."""

import json
from pathlib import Path

import numpy as np

from equifuse.data import MultimodalDataset, SourceOptions, Split
from equifuse.data.assemble import assemble
from equifuse.data.formats import Format
from equifuse.errors import DataError


class JSON(Format):
    """``{"modalities": {"a": [[1, 2], …], …}, "labels": [0, 1, …]}``; null in a row is a missing value."""

    name = "json"
    description = "JSON with modalities and labels"

    def detect(self, path: Path) -> bool:
        """A ``.json`` file."""
        return path.suffix == ".json"

    def read(self, path: Path, options: SourceOptions, *, val_fraction: float, seed: int) -> MultimodalDataset:
        """Read the file; parts that it does not have are split off."""
        options.refuse("a JSON data set")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            inputs = {m: np.array(rows, dtype=np.float32) for m, rows in content["modalities"].items()}
            labels = np.array(content["labels"], dtype=np.int64)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is no JSON with modalities and labels: {error}") from error
        whole = Split(dict(inputs), target=labels)
        return assemble(path.stem, whole, "classification", {}, val_fraction=val_fraction, seed=seed)
