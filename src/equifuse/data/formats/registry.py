"""Which format a path is in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from equifuse.data.dataset import MultimodalDataset
from equifuse.data.formats import folder, h5mu, hdf5, mat, mfeat, mmimdb, mogonet, npz, table
from equifuse.errors import DataError

_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".joblib")


class Format(NamedTuple):
    """A format of data sets.

    Attributes:
        name: for messages.
        detect: whether a path, which exists, is in it.
        read: path, :class:`~equifuse.data.options.SourceOptions`, ``val_fraction`` and ``seed`` -> the data set.
    """

    name: str
    detect: Callable[[Path], bool]
    read: Callable[..., MultimodalDataset]


# The first that fits reads: what is special comes before what is general.
FORMATS = (
    Format(".npz with one array per modality", npz.detect, npz.read),
    Format("MOGONET folder (1_tr.csv, labels_tr.csv, ...)", mogonet.detect, mogonet.read),
    Format("UCI mfeat folder", mfeat.detect, mfeat.read),
    Format("folder of features with split.csv", folder.detect, folder.read),
    Format("MM-IMDB HDF5", mmimdb.detect, mmimdb.read),
    Format("HDF5 with one array per modality", hdf5.detect, hdf5.read),
    Format("multi-view .mat", mat.detect, mat.read),
    Format("MuData .h5mu", h5mu.detect, h5mu.read),
    Format("CSV or Parquet table", table.detect, table.read),
)


def find_format(path: Path) -> Format:
    """The format of a file or folder.

    Raises:
        DataError: there is nothing, or it is in none of the formats.
    """
    if not path.exists():
        raise DataError(f"no such file: {path}")
    if path.suffix in _PICKLES:
        raise DataError(
            f"{path} is a pickle, which could run any code when it is read; if it is a file of MMSA, "
            f"'equifuse datasets convert {path} data.hdf5' makes plain data of it"
        )
    for known in FORMATS:
        if known.detect(path):
            return known
    kind = "folder" if path.is_dir() else f"kind of file {path.suffix!r}"
    raise DataError(f"{path}: unknown {kind}; known are: {'; '.join(f.name for f in FORMATS)}")
