"""Multi-view data in MATLAB files: handwritten, Scene15, PIE, CUB, Caltech101, NUS-WIDE and so on.

The usual layout of the multi-view literature: ``X`` (or ``data``, ``fea``), a cell array of one matrix per view, rows
or columns being the samples, and ``Y`` (or ``gt``, ``gnd``, ``label``, ``labels``, ``truth``), the classes from 0 or 1.
Files of version 7.3 are HDF5 and are read as well. There is no split: 20 % are the test part, stratified.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from equifuse.data.assemble import assemble
from equifuse.data.dataset import MultimodalDataset, Split
from equifuse.data.formats.base import Format
from equifuse.data.formats.hdf5 import array_of, opened
from equifuse.data.formats.npz import read_arrays
from equifuse.data.lazy import Features
from equifuse.data.options import SourceOptions
from equifuse.errors import DataError
from equifuse.extras import require
from equifuse.files import check_fits, memory, parse_errors
from equifuse.registry import FORMATS

_READER = Path(__file__).with_name("loadmat.py")
# The kind of a compressed element in files of version 7, and how much is unpacked at a time.
_COMPRESSED, _PIECE = 15, 2**20
_VIEWS = ("X", "data", "fea", "views")
_LABELS = ("Y", "y", "gt", "gnd", "label", "labels", "truth", "truelabel")


@FORMATS.register
class MatFormat(Format):
    """Multi-view MATLAB files."""

    name: ClassVar[str] = "mat"
    description: ClassVar[str] = "multi-view .mat"

    def detect(self, path: Path) -> bool:
        """A ``.mat`` file."""
        return path.suffix == ".mat"

    def read(self, path: Path, options: SourceOptions, *, val_fraction: float, seed: int) -> MultimodalDataset:
        """Read the file.

        Raises:
            DataError: it is damaged, or has no views or labels in the usual places.
        """
        options.refuse("a multi-view .mat file")
        content = mat_content(path)
        key = next((k for k in _VIEWS if k in content), None)
        label_key = next((k for k in _LABELS if k in content), None)
        if key is None or label_key is None:
            raise DataError(
                f"{path} has {', '.join(sorted(content)) or 'nothing'}; expected views in one of {', '.join(_VIEWS)} "
                f"and labels in one of {', '.join(_LABELS)}"
            )
        labels = _labels(path, content[label_key])
        rows = len(labels)
        inputs: dict[str, Features] = {}
        for i, view in enumerate(content[key], 1):
            matrix = _matrix(path, view, i)
            if matrix.shape[0] != rows and matrix.shape[1] == rows:
                matrix = matrix.T
            if matrix.shape[0] != rows:
                raise DataError(f"{path}: view {i} has shape {matrix.shape}, {label_key} has {rows} labels")
            inputs[f"view{i}"] = np.ascontiguousarray(matrix, dtype=np.float32)
        if not inputs:
            raise DataError(f"{path}: {key} holds no view")
        names, codes = np.unique(labels, return_inverse=True)
        classes = tuple(f"{name:g}" for name in names)
        whole = Split(inputs, target=codes.astype(np.int64))
        return assemble(path.stem, whole, "classification", {}, classes=classes, val_fraction=val_fraction, seed=seed)


def _labels(path: Path, found: Any) -> NDArray[np.float64]:
    while isinstance(found, list):  # a cell of labels, one per view, all the same
        found = found[0] if found else np.empty(0)
    values = np.asarray(found)
    if values.dtype.kind not in "fiub" or values.size == 0 or max(values.shape) != values.size:
        raise DataError(f"{path}: labels must be one number per sample, got {values.dtype} of shape {values.shape}")
    return values.ravel().astype(np.float64)


def _matrix(path: Path, view: Any, number: int) -> NDArray[np.generic]:
    values = np.asarray(view)
    if values.dtype.kind not in "fiub" or values.ndim != 2:
        raise DataError(
            f"{path}: view {number} is {values.dtype} of shape {values.shape}, expected a matrix of numbers"
        )
    return values


def mat_content(path: Path) -> dict[str, Any]:
    """Variables by name, cell arrays as lists."""
    h5py = require("train", "h5py", "HDF5")

    if h5py.is_hdf5(path):
        return _content_of_hdf5(path)
    with parse_errors(path, "a MATLAB file"):
        check_fits(path, _unpacked(path))
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.npz"
        words = [sys.executable, "-I", str(_READER), str(path), str(plain), str(memory())]
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0:
            reason = done.stderr.strip().splitlines()
            raise DataError(f"{path} cannot be read as a MATLAB file: {reason[-1] if reason else 'its reader crashed'}")
        arrays = read_arrays(plain)
    content: dict[str, Any] = {}
    for name in arrays.pop("names"):
        cells = [key for key in arrays if key.rpartition(":")[0] == name]
        content[str(name)] = [arrays[key] for key in cells] if cells else arrays.get(str(name), np.empty(0, dtype=str))
    return content


def _unpacked(path: Path) -> int:
    """Bytes that the compressed variables of a file of version 5 to 7 unpack to; none of it is kept."""
    total = 0
    with path.open("rb") as file:
        marks = {b"IM": "<", b"MI": ">"}
        order = marks.get(file.read(128)[126:])
        if order is None:  # version 4 does not compress
            return 0
        while len(tag := file.read(8)) == 8:
            kind, size = struct.unpack(f"{order}II", tag)
            end = file.tell() + size
            if kind != _COMPRESSED:
                file.seek(end)
                continue
            unpacking = zlib.decompressobj()
            while file.tell() < end and (packed := file.read(min(_PIECE, end - file.tell()))):
                while packed:
                    total += len(unpacking.decompress(packed, _PIECE))
                    packed = unpacking.unconsumed_tail
            check_fits(path, total)
    return total


def _content_of_hdf5(path: Path) -> dict[str, Any]:
    h5py = require("train", "h5py", "HDF5")

    def value(file: Any, item: Any) -> Any:
        if item.dtype == h5py.ref_dtype:
            return [array_of(path, file[ref]).T for ref in np.asarray(item).ravel()]
        return np.asarray(item).T  # MATLAB stores columns first

    with opened(path) as file:
        check_fits(path, sum(item.nbytes for item in file.values() if isinstance(item, h5py.Dataset)))
        return {name: value(file, item) for name, item in file.items() if isinstance(item, h5py.Dataset)}
