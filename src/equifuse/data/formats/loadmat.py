"""A program of its own: ``python -I loadmat.py FILE OUT MOST`` turns a MATLAB file into plain arrays.

SciPy's reader trusts what it reads and takes the process down with it where a file is damaged in the right place. So it
gets one that nobody misses, which imports nothing of equifuse. OUT is an ``.npz`` file of ``names`` (all variables),
``NAME`` for a matrix and ``NAME:0``, ``NAME:1``, … for the entries of a cell array; what is no matrix of numbers is an
empty text there. A sparse matrix that would take more than MOST bytes is refused.
"""

import sys
from typing import Any

import numpy as np
from scipy.io import loadmat
from scipy.sparse import issparse


def is_cell(value: Any) -> bool:
    """Whether it is a cell array, which SciPy gives as an array of objects."""
    return isinstance(value, np.ndarray) and value.dtype.kind == "O"


def plain(value: Any, most: int) -> Any:
    """A matrix of numbers, dense; empty text for anything else."""
    if issparse(value):
        if 8 * value.shape[0] * value.shape[1] > most:
            raise MemoryError(f"a sparse matrix of {value.shape[0]} x {value.shape[1]}")
        value = value.toarray()
    return value if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" else np.array("")


def main(source: str, out: str, most: int) -> None:
    """Read and write."""
    found = {name: value for name, value in loadmat(source).items() if not name.startswith("__")}
    arrays: dict[str, Any] = {"names": np.array(list(found), dtype=str)}
    for name, value in found.items():
        entries = {name: value}
        if is_cell(value):
            entries = {f"{name}:{i}": entry for i, entry in enumerate(value.ravel())}
        for key, entry in entries.items():
            # A cell of cells, one deep: labels are sometimes stored like this.
            inner = entry.ravel()[0] if is_cell(entry) and entry.size else entry
            arrays[key] = plain(inner, most)
            most -= arrays[key].nbytes
    np.savez(out, **arrays)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")
