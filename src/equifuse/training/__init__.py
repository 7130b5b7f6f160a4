"""Training of a model: the Lightning module, its callbacks, balancing of modalities, several processes."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

# What version 0.1 had here, and where it is now.
_MOVED = {
    **dict.fromkeys(
        (
            "Run",
            "RunResult",
            "TrainConfig",
            "evaluate_run",
            "export_run",
            "initial_model",
            "load_run",
            "predict_run",
            "predict_shards",
            "train",
        ),
        "equifuse.runs",
    ),
    "evaluate_model": "equifuse.evaluation",
}


def __getattr__(name: str) -> Any:
    """A name of version 0.1, with a warning that says where it is now."""
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"equifuse.training.{name} is now {_MOVED[name]}.{name}", DeprecationWarning, stacklevel=2)
    return getattr(import_module(_MOVED[name]), name)
