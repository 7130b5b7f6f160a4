"""Formats of data sets, one file each: what it looks like on disk, and how it is read."""

from equifuse.data.formats.base import Format, chosen_format, find_format, is_one_set, known_formats
from equifuse.data.formats.clips import ClipsFormat
from equifuse.data.formats.folder import FolderFormat
from equifuse.data.formats.h5mu import AnnDataFormat, MuDataFormat
from equifuse.data.formats.hdf5 import HDF5Format
from equifuse.data.formats.mat import MatFormat
from equifuse.data.formats.mfeat import MfeatFormat
from equifuse.data.formats.mmimdb import MMIMDBFormat
from equifuse.data.formats.mogonet import MogonetFormat
from equifuse.data.formats.npz import NpzFormat
from equifuse.data.formats.table import TableFormat
from equifuse.data.formats.votenet import VoteNetFormat
from equifuse.data.formats.vqa import VQAFormat

__all__ = [
    "AnnDataFormat",
    "ClipsFormat",
    "FolderFormat",
    "Format",
    "HDF5Format",
    "MMIMDBFormat",
    "MatFormat",
    "MfeatFormat",
    "MogonetFormat",
    "MuDataFormat",
    "NpzFormat",
    "TableFormat",
    "VQAFormat",
    "VoteNetFormat",
    "chosen_format",
    "find_format",
    "is_one_set",
    "known_formats",
]
