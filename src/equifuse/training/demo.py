"""The demonstration: four methods on the embedded digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from equifuse.training.comparison import compare, four_methods

_DIM = 64
_SETTINGS = {"data": "digits", "hidden": [_DIM], "batch_size": 128, "lr": 2e-3, "patience": 6}


def run_demo(
    out: Path, *, seeds: int = 3, epochs: int = 30, resume: bool = False, progress: bool = True
) -> dict[str, Any]:
    """Compare deq, gmf, gmf -> deq and concat on the digits; see :func:`equifuse.training.comparison.compare`."""
    return compare(
        out, four_methods(_DIM), {**_SETTINGS, "epochs": epochs}, seeds=seeds, resume=resume, progress=progress
    )
