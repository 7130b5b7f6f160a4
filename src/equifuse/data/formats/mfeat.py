"""UCI Multiple Features: handwritten digits in six views, as a folder of text files.

From the UCI Machine Learning Repository, data set "Multiple Features": ``mfeat-fac``, ``mfeat-fou``, ``mfeat-kar``,
``mfeat-mor``, ``mfeat-pix`` and ``mfeat-zer``, each 2000 rows of numbers in the same order, 200 per digit from 0 to 9.
There is no official split: 20 % of each digit are the test part.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from equifuse.data.assemble import assemble
from equifuse.data.dataset import MultimodalDataset, Split
from equifuse.data.formats.base import Format
from equifuse.data.lazy import Features
from equifuse.data.options import SourceOptions
from equifuse.data.selfcontained import member
from equifuse.errors import DataError
from equifuse.files import parse_errors
from equifuse.registry import FORMATS

_VIEWS = ("fac", "fou", "kar", "mor", "pix", "zer")
_CLASSES = 10


@FORMATS.register
class MfeatFormat(Format):
    """The folder of UCI Multiple Features."""

    name: ClassVar[str] = "mfeat"
    description: ClassVar[str] = "UCI mfeat folder"
    priority: ClassVar[int] = 10

    def detect(self, path: Path) -> bool:
        """A folder with at least one of the files."""
        return path.is_dir() and any((path / f"mfeat-{view}").is_file() for view in _VIEWS)

    def read(self, path: Path, options: SourceOptions, *, val_fraction: float, seed: int) -> MultimodalDataset:
        """Read the folder.

        Raises:
            DataError: a file is missing, damaged or does not fit the others.
        """
        options.refuse("the mfeat folder")
        inputs: dict[str, Features] = {}
        for view in _VIEWS:
            file = member(path, f"mfeat-{view}")
            if not file.is_file():
                raise DataError(f"no such file: {file}; the folder needs {', '.join(f'mfeat-{v}' for v in _VIEWS)}")
            with parse_errors(file, "a table of numbers"):
                inputs[view] = np.loadtxt(file, dtype=np.float32, ndmin=2)
        rows = {view: len(x) for view, x in inputs.items()}
        count = rows["fac"]
        if set(rows.values()) != {count} or count % _CLASSES or count == 0:
            raise DataError(f"{path}: the views need the same number of rows, a multiple of {_CLASSES}; got {rows}")
        target = np.repeat(np.arange(_CLASSES), count // _CLASSES)
        classes = tuple(str(digit) for digit in range(_CLASSES))
        whole = Split(inputs, target=target)
        return assemble("mfeat", whole, "classification", {}, classes=classes, val_fraction=val_fraction, seed=seed)
