"""From any known format to one file of plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equifuse.data.apart import read_apart
from equifuse.data.catalog import load
from equifuse.data.dataset import MultimodalDataset
from equifuse.data.formats.hdf5 import SUFFIXES, write_hdf5
from equifuse.data.formats.mmsa import read_mmsa
from equifuse.data.formats.npz import write_npz
from equifuse.data.options import SourceOptions
from equifuse.errors import InputError, OutputExistsError


def convert(
    path: Path, out: Path, source: SourceOptions | Mapping[str, Any] | None = None, *, seed: int = 0
) -> MultimodalDataset:
    """Write a data set as ``.npz`` or HDF5, atomically, its split included.

    Args:
        path: in any format that :func:`equifuse.data.load` reads, or a pickle of MMSA, of which only plain data is
            admitted; see :mod:`equifuse.data.formats.mmsa`.
        out: file to create; ``.npz``, ``.h5`` or ``.hdf5``.
        source: which columns of a table are what.
        seed: of parts that the source does not have.

    Returns:
        What was written.

    Raises:
        OutputExistsError: ``out`` exists.
        InputError: ``out`` is of another kind.
        DataError: the source cannot be used.
    """
    if out.suffix not in (".npz", *SUFFIXES):
        raise InputError(f"{out}: cannot write {out.suffix!r}; use .npz, .h5 or .hdf5")
    if out.exists():
        raise OutputExistsError(f"{out} already exists; choose another path or remove it first")
    options = SourceOptions.of(source)
    if path.suffix in (".pkl", ".pickle"):
        options.refuse("a file of MMSA", "task", "untrusted")
        task = options.task or "regression"
        dataset = read_apart("read_mmsa", path, task=task) if options.untrusted else read_mmsa(path, task=task)
    else:
        dataset = load(path, seed=seed, source=options)
    if dataset.schema:
        m, columns = next(iter(dataset.schema.items()))
        odd = next(column for column in columns if column.kind not in ("number", "boolean"))
        raise InputError(
            f"column {odd.name!r} of modality {m!r} is a {odd.kind}, which plain arrays cannot say; leave the table as "
            "it is, it can be trained on"
        )
    if any(len(split.labelled()) < len(split) for split in dataset.splits.values()):
        raise InputError("plain arrays cannot say which rows have no target; leave out --use-unlabelled")
    if out.suffix == ".npz":
        write_npz(out, dataset)
    else:
        write_hdf5(out, dataset)
    return dataset
