"""Training of a model: options, trainer, callbacks, loggers, balancing of modalities, several processes."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from equifuse._lazy import attach

if TYPE_CHECKING:
    from equifuse.training.options import TrainingOptions as TrainingOptions
    from equifuse.training.trainer import Trainer as Trainer
    from equifuse.training.trainer import TrainingResult as TrainingResult

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
_own, __dir__, __all__ = attach(
    __name__,
    {
        "equifuse.training.options": ["TrainingOptions"],
        "equifuse.training.trainer": ["Trainer", "TrainingResult"],
    },
)


def __getattr__(name: str) -> Any:
    """A name of this package, or one of version 0.1 with a warning that says where it is now."""
    if name not in _MOVED:
        return _own(name)
    warnings.warn(f"equifuse.training.{name} is now {_MOVED[name]}.{name}", DeprecationWarning, stacklevel=2)
    return getattr(import_module(_MOVED[name]), name)
