"""What one can ask of a search: presets, and the options that all its trainings share. Imports no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from equifuse.errors import UnknownNameError
from equifuse.options import declarations
from equifuse.runs.config import TrainConfig

# The options that all candidates share: what is said of the data, the task and the machine.
SHARED = (
    "data",
    "source",
    "val_fraction",
    "seed",
    "expect_missing",
    "metric",
    "monitor",
    "class_weights",
    "task_options",
    "target_weight",
    "prepare",
    "row_missing",
    "feature_missing",
    "accelerator",
)


@dataclass(frozen=True)
class Preset:
    """How much is tried.

    >>> PRESETS["good"].folds
    5

    Args:
        folds: models of each method, each stopping on a fold of its own; 1 for one that stops on the validation part.
        epochs: of a training, at most.
        patience: epochs without improvement after which it stops.
        methods: names of candidates, in the order in which they are trained.
        trials: further settings of the best methods, at most.
        repeats: partitions into folds, at most: with what is left of a limit, the ensemble's methods are trained on
            further ones.
    """

    folds: int
    epochs: int
    patience: int
    methods: tuple[str, ...]
    trials: int
    repeats: int = 1


_FEW = ("linear", "late", "deq", "trees", "gmu")
_MANY = (*_FEW, "stacking", "gmf+deq", "concat", "lightgbm", "gmf")
PRESETS = {
    "fast": Preset(1, 40, 6, _FEW, 0),
    "good": Preset(5, 60, 8, _MANY, 30, 3),
    "best": Preset(8, 100, 15, (*_MANY, "boosting", "wide deq", "light late", "bottleneck"), 100, 5),
}


def preset_of(name: str) -> Preset:
    """A preset by name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in PRESETS:
        raise UnknownNameError("preset", name, PRESETS)
    return PRESETS[name]


def not_shared() -> list[str]:
    """Names of the options of a training that a search decides."""
    return [name for name in declarations(TrainConfig) if name not in SHARED]


def presets_table() -> list[str]:
    """The presets, as lines of a table.

    >>> from equifuse.auto.options import presets_table
    >>> print(presets_table()[2])
    | fast | 1 (the validation part) | 40 | linear, late, deq, trees, gmu | none |
    """
    lines = ["| preset | folds | epochs | methods | further settings |", "| --- | --- | --- | --- | --- |"]
    for name, preset in PRESETS.items():
        folds = str(preset.folds) if preset.folds > 1 else "1 (the validation part)"
        trials = f"up to {preset.trials}" if preset.trials else "none"
        lines.append(f"| {name} | {folds} | {preset.epochs} | {', '.join(preset.methods)} | {trials} |")
    return lines
