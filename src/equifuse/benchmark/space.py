"""What is tuned: options of a training, and the values they may take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from equifuse.errors import InputError

if TYPE_CHECKING:  # an extra
    from optuna.trial import Trial

# Option of TrainConfig (a dot leads into a mapping) -> list of choices, or {"low", "high", "log"}.
Space = dict[str, Any]

# The same for every method: what decides most, and what no method is about.
DEFAULT_SPACE: Space = {
    "lr": {"low": 3e-4, "high": 1e-2, "log": True},
    "weight_decay": {"low": 1e-4, "high": 3.0, "log": True},
    "hidden": [32, 64, 128, 256],
    "dropout": [0.0, 0.3, 0.5],
    "input_dropout": [0.0, 0.3, 0.5],
}


def check_space(space: Mapping[str, Any]) -> Space:
    """The space, checked.

    Raises:
        InputError: it is no mapping, or an entry is neither a list of choices nor a range.
    """
    if not isinstance(space, Mapping):
        raise InputError(f"space must be a mapping from options to values, got {space!r}")
    for name, values in space.items():
        if isinstance(values, list) and values:
            continue
        fits = isinstance(values, Mapping) and {"low", "high"} <= set(values) <= {"low", "high", "log"}
        if not fits or not _is_range(values):
            raise InputError(
                f"space: {name} must be a list of choices, or low and high (and log: true); got {values!r}"
            )
    return {name: values if isinstance(values, list) else dict(values) for name, values in space.items()}


def _is_range(values: Mapping[str, Any]) -> bool:
    low, high = values["low"], values["high"]
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (low, high))
    return numbers and low < high and not (values.get("log") and low <= 0)


def suggest(trial: Trial, space: Space) -> dict[str, Any]:
    """One value for each option, drawn by an Optuna trial; whole numbers where both ends are."""
    return {name: _suggest(trial, name, values) for name, values in space.items()}


def _suggest(trial: Trial, name: str, values: Any) -> Any:
    if isinstance(values, list):
        return trial.suggest_categorical(name, values)
    low, high, log = values["low"], values["high"], bool(values.get("log"))
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(name, low, high, log=log)
    return trial.suggest_float(name, low, high, log=log)
