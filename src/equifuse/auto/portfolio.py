"""What is tried: methods with their settings."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from equifuse.auto.options import SHARED, Preset
from equifuse.errors import InputError
from equifuse.registry import FUSIONS, TASKS
from equifuse.runs.config import TrainConfig, check_installed, fits_at_once, without_unused


@dataclass(frozen=True)
class Candidate:
    """A method with its settings.

    >>> from equifuse.runs import TrainConfig
    >>> Candidate("wide deq", {"fusion": "deq", "hidden": [256]}).config(TrainConfig("digits")).hidden
    (256,)

    Args:
        name: as the leaderboard calls it.
        settings: options of :class:`~equifuse.runs.TrainConfig`, ``fusion`` among them.

    Raises:
        InputError: there is no fusion among the settings.
    """

    name: str
    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        if "fusion" not in self.settings:
            raise InputError(f"the candidate {self.name!r} has no fusion among its settings")

    @property
    def fitted(self) -> bool:
        """Whether it is fitted at once, not by epochs."""
        return fits_at_once(self.settings["fusion"])

    def config(self, base: TrainConfig) -> TrainConfig:
        """The training of one model.

        Raises:
            UnknownNameError: a setting that there is not.
            InputError: a value that does not fit.
        """
        shared = {name: getattr(base, name) for name in ("data", *base.changed()) if name in SHARED}
        fusion = {"fusion": self.settings["fusion"]}
        return TrainConfig.from_dict({**without_unused({**shared, **fusion}), **self.settings})


# What is the same for all networks: the settings of results/grand, in batches by the number of rows.
_NETWORK = {"batch_size": "auto", "lr": 2e-3, "weight_decay": 0.1, "input_dropout": 0.2}
_METHODS: dict[str, dict[str, Any]] = {
    "linear": {"fusion": "linear"},
    "trees": {"fusion": "trees"},
    "stacking": {"fusion": "stacking"},
    "boosting": {"fusion": "boosting"},
    "lightgbm": {"fusion": "lightgbm"},
    **{name: {**_NETWORK, "fusion": name} for name in ("late", "deq", "gmu", "concat", "gmf", "bottleneck")},
    "gmf+deq": {**_NETWORK, "fusion": "gmf", "backend": "deq"},
    "wide deq": {**_NETWORK, "fusion": "deq", "hidden": [256]},
    "light late": {**_NETWORK, "fusion": "late", "weight_decay": 1e-3, "input_dropout": 0.0},
}
# Methods that are for several modalities.
_OF_SEVERAL = ("late", "gmu", "gmf", "stacking")
# What is tried where the package is not installed that trains a method.
INSTEAD = {"lightgbm": "boosting"}
# What is drawn for a further setting of a method.
_SPACE: dict[str, tuple[Any, ...]] = {
    "lr": (5e-4, 1e-3, 2e-3, 5e-3),
    "weight_decay": (1e-3, 1e-2, 0.1, 1.0),
    "hidden": ([64], [128], [256], [128, 128]),
    "dropout": (0.1, 0.3, 0.5),
    "input_dropout": (0.0, 0.2, 0.4),
}


def lacking(preset: Preset, task: str) -> list[str]:
    """The methods of a preset for a task whose packages are not installed.

    >>> from equifuse.auto.options import PRESETS
    >>> lacking(PRESETS["fast"], "classification")
    []
    """
    fusions = {name: _METHODS[name]["fusion"] for name in preset.methods}
    return [name for name, fusion in fusions.items() if _is_for(fusion, task) and not _is_installed(fusion)]


def portfolio_of(preset: Preset, task: str, modalities: int, without: Collection[str] = ()) -> list[Candidate]:
    """The candidates of a preset that are made for a task.

    >>> from equifuse.auto.options import PRESETS
    >>> from equifuse.auto.portfolio import portfolio_of
    >>> [candidate.name for candidate in portfolio_of(PRESETS["fast"], "survival", 2)]
    ['late', 'deq', 'gmu']

    Args:
        preset: which, and for how many epochs.
        task: name of the task.
        modalities: number of them.
        without: methods that are left out; see :func:`lacking`. What may stand in for one does.
    """
    found = []
    names = [INSTEAD.get(name, "") if name in without else name for name in preset.methods]
    for name in dict.fromkeys(name for name in names if name):
        settings = dict(_METHODS[name])
        if not _is_for(settings["fusion"], task) or (modalities == 1 and settings["fusion"] in _OF_SEVERAL):
            continue
        if not fits_at_once(settings["fusion"]):
            settings |= {"epochs": preset.epochs, "patience": preset.patience}
        found.append(Candidate(name, settings))
    return found


def _is_for(fusion: str, task: str) -> bool:
    """Whether a fusion is made for a task."""
    if fusion == "linear":
        return TASKS.get(task).has_linear_models()
    tasks = FUSIONS.get(fusion).tasks
    return tasks is None or task in tasks


def _is_installed(fusion: str) -> bool:
    """Whether what trains a fusion can be imported."""
    try:
        check_installed(fusion)
    except InputError:
        return False
    return True


def further(method: Candidate, number: int, seed: int) -> Candidate:
    """Another setting of a method, drawn from a small grid.

    Args:
        method: the method as the portfolio has it.
        number: of the setting, from 1.
        seed: of the search.
    """
    generator = np.random.default_rng([seed, number])
    drawn = {name: values[int(generator.integers(len(values)))] for name, values in _SPACE.items()}
    return Candidate(f"{method.name} #{number}", {**method.settings, **drawn})


def check_candidates(candidates: Iterable[Candidate], base: TrainConfig) -> list[Candidate]:
    """Candidates whose names differ and whose settings fit.

    Raises:
        InputError: there is none, two have the same name, or a setting is shared by all.
        UnknownNameError: a setting that there is not.
    """
    found = list(candidates)
    names = [candidate.name for candidate in found]
    if not found:
        raise InputError("there is no method to try")
    for candidate in found:
        if names.count(candidate.name) > 1:
            raise InputError(f"two candidates are called {candidate.name!r}")
        of_all = [name for name in candidate.settings if name in SHARED]
        if of_all:
            raise InputError(f"{of_all[0]} is the same for all candidates, and {candidate.name!r} has its own")
        candidate.config(base)
    return found
