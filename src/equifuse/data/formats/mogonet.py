"""BRCA, ROSMAP and others in the folders of MOGONET (Wang et al. 2021).

From the public repository ``txWang/MOGONET`` (folders ``BRCA`` and ``ROSMAP``), and the many that reuse its layout:

- ``1_tr.csv``, ``2_tr.csv``, … and ``1_te.csv``, …: one file per view and part, rows of numbers without a header;
- ``labels_tr.csv``, ``labels_te.csv``: one class per row, from 0;
- ``1_featname.csv``, …: names of the features, one per line (optional).

Three views are mRNA, methylation and miRNA; otherwise they are called ``view1``, ``view2``, ….
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from equifuse.data.assemble import assemble_parts
from equifuse.data.dataset import MultimodalDataset, Split
from equifuse.data.formats.base import Format
from equifuse.data.lazy import Floats, as_numbers
from equifuse.data.options import SourceOptions
from equifuse.data.selfcontained import member
from equifuse.errors import DataError
from equifuse.extras import require
from equifuse.files import parse_errors
from equifuse.registry import FORMATS

_THREE = ("mrna", "methylation", "mirna")


@FORMATS.register
class MogonetFormat(Format):
    """Folders of MOGONET."""

    name: ClassVar[str] = "mogonet"
    description: ClassVar[str] = "MOGONET folder (1_tr.csv, labels_tr.csv, ...)"
    priority: ClassVar[int] = 10

    def detect(self, path: Path) -> bool:
        """A folder with labels of two parts."""
        return path.is_dir() and (path / "labels_tr.csv").is_file()

    def read(self, path: Path, options: SourceOptions, *, val_fraction: float, seed: int) -> MultimodalDataset:
        """Read the folder; the validation part is held out from training.

        Raises:
            DataError: a file is missing, damaged or does not fit the others.
        """
        options.refuse("a MOGONET folder")
        views: list[int] = []
        while (path / f"{len(views) + 1}_tr.csv").is_file():
            views.append(len(views) + 1)
        if not views:
            raise DataError(f"{path} has labels_tr.csv but no 1_tr.csv; expected 1_tr.csv, 1_te.csv, 2_tr.csv, ...")
        names = _THREE if len(views) == len(_THREE) else tuple(f"view{i}" for i in views)
        splits = {}
        for part, suffix in (("train", "tr"), ("test", "te")):
            labels = _numbers(member(path, f"labels_{suffix}.csv"))[:, 0]
            if not np.array_equal(labels, np.floor(labels)):
                raise DataError(f"{path / f'labels_{suffix}.csv'} holds {labels[0]}; expected whole numbers from 0")
            inputs = {}
            for name, i in zip(names, views, strict=True):
                inputs[name] = _numbers(member(path, f"{i}_{suffix}.csv"))
                if len(inputs[name]) != len(labels):
                    file = path / f"{i}_{suffix}.csv"
                    raise DataError(f"{file} has {len(inputs[name])} rows, labels_{suffix}.csv has {len(labels)}")
            splits[part] = Split(dict(inputs), target=labels.astype(np.int64))
        features = {}
        for name, i in zip(names, views, strict=True):
            file = member(path, f"{i}_featname.csv")
            if file.is_file():
                with parse_errors(file, "text"):
                    lines = file.read_text(encoding="utf-8").splitlines()
                features[name] = tuple(line.strip() for line in lines if line.strip())
                width = splits["train"].inputs[name].shape[1]
                if len(features[name]) != width:
                    raise DataError(f"{file} names {len(features[name])} features, {i}_tr.csv has {width}")
        return assemble_parts(
            path.name.lower(), splits, "classification", features=features, val_fraction=val_fraction, seed=seed
        )


def _numbers(path: Path) -> Floats:
    """A CSV file of numbers without a header, ``(n, d)``."""
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    csv = require("train", "pyarrow.csv", "reading and writing tables")

    with parse_errors(path, "a table of numbers"):
        table = csv.read_csv(path, csv.ReadOptions(autogenerate_column_names=True))
        columns = [as_numbers(column) for column in table.columns]
    return np.stack(columns, axis=1).astype(np.float32)
