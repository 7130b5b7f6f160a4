"""Everything that decides a training run, in one place, from keywords, a YAML file, or a stored run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Self

from equifuse.data.options import SourceOptions
from equifuse.errors import InputError, UnknownNameError
from equifuse.extras import require
from equifuse.files import read_yaml
from equifuse.options import (
    Check,
    auto,
    declarations,
    documented,
    mapping,
    number,
    one_of,
    option,
    optional,
    text,
    whole,
    wholes,
    yes_no,
)
from equifuse.training.options import TrainingOptions, refuse_unused
from equifuse.training.protocol import LOOSE

# The part of a run's config.yaml that records what happened, as against what was asked for.
RECORD = "run"
# In the place of a number of folds.
GROUPS_OUT = "group"
_SCIENTIFIC = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def _encoders() -> tuple[str, ...]:
    from equifuse.encoders import ENCODERS  # noqa: PLC0415 - PyTorch

    return ENCODERS


def _class_weights(value: Any) -> bool:
    listed = isinstance(value, list) and all(isinstance(w, int | float) and w >= 0 for w in value)
    return listed or value == "balanced"


def _count(value: Any) -> Any:
    """On the command line a number is text."""
    return int(value) if isinstance(value, str) and value.isdigit() else value


def _folds(value: Any) -> bool:
    return value == GROUPS_OUT or (isinstance(value, int) and not isinstance(value, bool) and value >= 2)


# What is the same in every fold, whatever is chosen.
_NOT_CHOSEN = (
    "data",
    "source",
    "cv",
    "repeats",
    "fold",
    "init",
    "choose",
    "val_fraction",
    "protocol",
    "metric",
    "monitor",
)
# Trainings of a fold.
_MOST_CANDIDATES = 100
# The weights of several targets, where they are trained along.
_LEARNT = "learnt"
# The name under which the preparation of all modalities without one of their own is stored.
EVERY = "*"


def _pipelines(value: Any) -> Any:
    """Modality -> steps, of ``"mrna=log1p,pca:64"``, of a list of such words, or of a mapping."""
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return dict(value)
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        return value
    found: dict[str, str] = {}
    for word in words:
        name, equals, steps = word.partition("=")
        name, steps = (name.strip(), steps) if equals else (EVERY, word)
        if name in found:
            called = "all modalities" if name == EVERY else repr(name)
            raise InputError(f"prepare is given twice for {called}; write the steps in one, separated by commas")
        found[name] = steps
    return found


def _choices(value: Any) -> Any:
    """Option -> values, of ``{"fusion": "deq,late"}`` as well."""
    if not isinstance(value, Mapping):
        return {} if value is None else value
    return {name: _values(each) if isinstance(each, str) else each for name, each in value.items()}


def _values(words: str) -> list[Any]:
    yaml = require("train", "yaml", "YAML")
    return [_numbers(yaml.safe_load(word)) for word in words.split(",")]


def _are_choices(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(each, list) and each for name, each in value.items()
    )


def _factors(value: Any) -> Any:
    """Target -> factor, of ``["age=0.5"]`` or a mapping; or the one word ``learnt``."""
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not words or not all(isinstance(word, str) for word in words):
        return value if value or value is None else None
    if list(words) == [_LEARNT]:
        return _LEARNT
    try:
        return {name: float(number) for name, _, number in (word.rpartition("=") for word in words)}
    except ValueError:
        return value


def _are_factors(value: Any) -> bool:
    if isinstance(value, Mapping):
        fits = (isinstance(k, str) and k and isinstance(v, int | float) and v >= 0 for k, v in value.items())
        return bool(all(fits))
    return value is None or value == _LEARNT


@dataclass(frozen=True)
class _Pipelines(Check):
    """Modality -> steps of its preparation, checked by name."""

    def __call__(self, name: str, value: Any) -> Any:
        value = super().__call__(name, value)
        if value:
            from equifuse.encoders import parse_steps  # noqa: PLC0415 - PyTorch

            for steps in value.values():
                parse_steps(steps)
        return value


def _are_pipelines(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(k, str) and isinstance(v, str) for k, v in value.items())


@dataclass(frozen=True)
class TrainConfig(TrainingOptions):
    """What to train, on what, and how.

    Example:
            >>> from equifuse.runs import TrainConfig
            >>> TrainConfig("digits", fusion="gmf", backend="deq", dim=32, epochs=30).resolved_fusion_options()
            {'backend': 'deq', 'backend_options': {'dim': 32}}

    Args:
    {options}

    Raises:
            UnknownNameError: an unknown fusion, encoder, balance, accelerator, protocol, strategy, precision, …
            InputError: a value of the wrong type or out of range.
    """

    data: str = option(
        ..., text(), help="Name of a data set, or path of a file or folder.", group="Data", estimator=False
    )
    fusion: str = option("deq", text(), help="Fusion: deq, gmf, concat, gmu, bottleneck, ...", group="Model")
    dim: int | None = option(
        None,
        optional(whole(1)),
        help="Common width of deq, of gmf's backend, or of concat's projections.",
        group="Model",
        default_text="the fusion's",
    )
    backend: str | None = option(
        None,
        optional(text()),
        help="For gmf, mm_dynamics: the fusion behind it, e.g. deq; concatenation without.",
        group="Model",
    )
    skip: bool = option(
        False,
        yes_no(),
        help="Add the encoders' outputs, projected, to what the fusion makes of them: a skip connection around it.",
        group="Model",
        descent=True,
    )
    fusion_options: dict[str, Any] = option(
        dict,
        mapping(),
        help="Further option of the fusion, such as combine=mean or solver.tol=1e-5.",
        group="Model",
        flag="--set",
    )
    source: dict[str, Any] = option(
        dict,
        mapping(),
        help="Which columns of a table are what: modalities, target, id, split, task.",
        group="Data",
        parts=SourceOptions,
        estimator=False,
    )
    encoder: str = option(
        "auto",
        one_of(names=_encoders),
        help="Encoder per modality: mlp, identity, for sequences mean, max, attention, gru, transformer or queries, or "
        "auto: attention for sequences, else mlp.",
        group="Model",
    )
    hidden: tuple[int, ...] | str = option(
        (128,),
        auto(wholes(1)),
        help="Width of an MLP encoder's layer, several for more layers; the last is that of any encoder's output.",
        group="Model",
        descent=True,
    )
    dropout: float = option(
        0.3,
        number(least=0, below=1),
        help="Dropout of the encoders' hidden layers.",
        group="Model",
        descent=True,
    )
    input_dropout: float = option(
        0.0,
        number(least=0, below=1),
        help="Dropout of the MLP encoders' input features.",
        group="Model",
        descent=True,
    )
    head_dropout: float = option(
        0.0,
        number(least=0, below=1),
        help="Dropout before the head.",
        group="Model",
        descent=True,
    )
    embedding: int = option(
        64, whole(1), help="Width of a retrieval model's embedding.", group="Model", estimator=False
    )
    label_smoothing: float = option(
        0.0,
        number(least=0, below=1),
        help="For classification: share of the probability spread over all classes in training.",
        group="Task",
        estimator="classification",
        descent=True,
    )
    class_weights: str | list[float] | None = option(
        None,
        optional(Check("be 'balanced' or numbers of at least 0", _class_weights)),
        help="For classification: weigh classes inversely to their frequency.",
        group="Task",
        flag="--balanced",
        const="balanced",
        estimator=False,
    )
    task_options: dict[str, Any] = option(
        dict,
        mapping(),
        help="Option of the task, e.g. focal=2, loss=triplet, sentiment=true.",
        group="Task",
        flag="--task-option",
        estimator=False,
    )
    target_weight: dict[str, float] | str | None = option(
        None,
        Check(
            "be 'learnt', or numbers of at least 0 such as age=0.5",
            _are_factors,
            many=True,
            convert=_factors,
        ),
        help="For several targets: factor of a target's loss, age=0.5; or learnt: by the noise of each target.",
        group="Task",
        estimator=False,
    )
    val_fraction: float = option(
        0.2,
        number(above=0, below=1),
        help="Share of the training part held out where the data have no validation part.",
        group="Data",
        estimator=False,
    )

    cv: int | str | None = option(
        None,
        optional(Check("be a number of folds of at least 2, or 'group'", _folds, convert=_count)),
        help="Cross-validate with this many folds, or with 'group': leave out one group at a time.",
        group="Data",
        estimator=False,
    )
    repeats: int = option(
        1, whole(1), help="Cross-validate so many times, with other folds each time.", group="Data", estimator=False
    )
    choose: dict[str, list[Any]] = option(
        dict,
        Check(
            "name options and their values, such as fusion=deq,late",
            _are_choices,
            pairs="text",
            convert=_choices,
        ),
        help="With --cv: values of an option, of which each fold takes the best on validation: fusion=deq,late.",
        group="Data",
        estimator=False,
    )
    fold: int | None = option(
        None,
        optional(whole(0)),
        help="Number of the fold that is tested on; cross-validation sets it.",
        group="Data",
        flag="",
        estimator=False,
    )
    ensemble: int | None = option(
        None,
        optional(whole(2)),
        help="Train so many models as one: each stops on a fold of its own of train and validation together, and their "
        "predictions are averaged.",
        group="Training",
    )
    member: int | None = option(
        None,
        optional(whole(0)),
        help="Number of the ensemble's member that is trained; the ensemble sets it.",
        group="Training",
        flag="",
        estimator=False,
    )
    prepare: dict[str, str] = option(
        dict,
        _Pipelines(
            "be steps such as 'impute:median', or name modalities: 'mrna=log1p,variance:2000'",
            _are_pipelines,
            many=True,
            convert=_pipelines,
        ),
        help="Preparation of features, fitted on train and stored in the model: mrna=log1p,variance:2000,pca:64, or "
        "steps alone for all other modalities; impute:median and standardise go without saying.",
        group="Preparation",
    )
    row_missing: float | None = option(
        None,
        optional(number(above=0, below=1)),
        help="Share of empty cells beyond which a row counts as one without the modality.",
        group="Preparation",
        default_text="only if all cells are empty",
    )
    feature_missing: float | None = option(
        None,
        optional(number(least=0, below=1)),
        help="Share of empty training rows beyond which a feature is dropped; the same as the step missing:SHARE.",
        group="Preparation",
    )

    init: str | None = option(
        None,
        optional(text()),
        help="Run folder whose model this run goes on from; fine-tuning sets it.",
        group="Data",
        flag="",
        estimator=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "source", SourceOptions.of(self.source).given())
        self._check_folds()
        self._check_choices()
        self.resolved_fusion_options()
        if self.fits_at_once:
            refuse_unused(self.fusion, type(self), self.changed())

    @property
    def fits_at_once(self) -> bool:
        """Whether the fusion is fitted at once, as linear models and trees are, and not by gradient descent."""
        return fits_at_once(self.fusion)

    def _check_folds(self) -> None:
        if self.member is not None and (self.ensemble is None or self.member >= self.ensemble):
            raise InputError(f"member {self.member} is of an ensemble of more members, not of {self.ensemble}")
        if self.ensemble is not None and self.protocol == LOOSE:
            raise InputError(f"protocol {LOOSE!r} chooses by the test part; train an ensemble without it")
        if self.ensemble is not None and self.devices * self.nodes > 1:
            raise InputError("the members of an ensemble are trained by one process each; leave out devices and nodes")
        if self.cv is None:
            if self.repeats > 1 or self.fold is not None:
                raise InputError("repeats are of a cross-validation; say with cv how many folds it has")
            return
        if self.cv == GROUPS_OUT and "group" not in self.source:
            raise InputError("to leave out one group at a time, say which column names the groups: --group patient")
        if self.repeats > 1 and (self.cv == GROUPS_OUT or "order" in self.source):
            raise InputError("there is one way to leave out each group, or the latest rows; repeats would be the same")
        if self.protocol == LOOSE:
            raise InputError(f"protocol {LOOSE!r} chooses by the test part; cross-validate without it")

    def _check_choices(self) -> None:
        if not self.choose:
            return
        if self.cv is None:
            raise InputError("choose is for a cross-validation, in which every fold chooses: --cv 5")
        for name in self.choose:
            if name not in declarations(type(self)) or name in _NOT_CHOSEN:
                known = [option for option in declarations(type(self)) if option not in _NOT_CHOSEN]
                raise UnknownNameError("option to choose:", name, known)
        if len(self.candidates()) > _MOST_CANDIDATES:
            raise InputError(
                f"choose has {len(self.candidates())} combinations, of which every fold would train all; name at most "
                f"{_MOST_CANDIDATES}"
            )

    def candidates(self) -> list[Self]:
        """The configurations that there are to choose from; itself alone where there is nothing to choose.

        Raises:
            UnknownNameError: an unknown value.
            InputError: a value that does not fit.
        """
        found: list[Self] = []
        for values in product(*self.choose.values()):
            chosen = {**self.to_dict(), **dict(zip(self.choose, values, strict=True)), "choose": {}}
            candidate = self.from_dict(without_unused(chosen))
            if candidate not in found:  # methods that are fitted at once differ in less
                found.append(candidate)
        return found

    def resolved_fusion_options(self) -> dict[str, Any]:
        """The fusion's options with ``dim`` and ``backend`` put where the fusion expects them.

        Raises:
            UnknownNameError: an unknown fusion or backend.
            InputError: the fusion has no use for ``dim`` or ``backend``, or an option is given twice.
        """
        from equifuse.fusion import fusion_options  # noqa: PLC0415 - PyTorch

        known = fusion_options(self.fusion)
        options = dict(self.fusion_options)
        for name in options:
            if name not in known:
                raise UnknownNameError(f"option of fusion {self.fusion!r}:", name, known)
        backend = self.backend or options.get("backend")
        given = {"backend": self.backend, "dim": self.dim}
        for name, value in given.items():
            if value is not None and name in options:
                raise InputError(f"{name} is given twice: {value!r}, and {options[name]!r} in fusion_options")
        if self.backend is not None:
            if "backend" not in known:
                raise InputError(f"fusion {self.fusion!r} takes no backend; use fusion 'gmf' with it")
            fusion_options(self.backend)
            options["backend"] = self.backend
        if self.dim is not None:
            if "dim" in known:
                options["dim"] = self.dim
            elif isinstance(backend, str) and "dim" in fusion_options(backend):
                options["backend_options"] = {"dim": self.dim, **(options.get("backend_options") or {})}
            else:
                raise InputError(
                    f"fusion {self.fusion!r} has no option 'dim'" + (" without a backend" * ("backend" in known))
                )
        return options

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """A configuration from plain values.

        Raises:
            UnknownNameError: a key that is none, naming the nearest one.
            InputError: ``data`` is missing, or a value does not fit.
        """
        cls.check_names(values)
        if values.get("data") is None:
            raise InputError("no data set given: pass its name or path as data")
        return cls(**values)

    @classmethod
    def from_options(
        cls,
        file: Path | None,
        options: Mapping[str, Any],
        settings: list[str] | None = None,
        task_settings: list[str] | None = None,
        balance_settings: list[str] | None = None,
    ) -> Self:
        """A configuration from a YAML file, overridden by options, overridden by ``key=value`` settings.

        Args:
            file: YAML file of options (a run's ``config.yaml`` will do), or None.
            options: options by name; None means not given. Mappings of options are added to those of the file.
            settings: ``"key=value"`` each, for ``fusion_options``; values are YAML, dots in keys nest.
            task_settings: likewise for ``task_options``.
            balance_settings: likewise for ``balance_options``.

        Raises:
            DataError: the file is missing or is not YAML.
            UnknownNameError: an unknown key.
            InputError: a value does not fit.
        """
        given = {name: value for name, value in options.items() if value is not None}
        for name, words in (
            ("fusion_options", settings),
            ("task_options", task_settings),
            ("balance_options", balance_settings),
        ):
            if words:
                given[name] = {**given.get(name, {}), **parse_settings(words)}
        values = read_config(file) if file is not None else {}
        for name, declared in declarations(cls).items():
            before = values.get(name)
            if name in given and declared.check.pairs and declared.parts is None and isinstance(before, Mapping):
                given[name] = {**before, **given[name]}
        config = cls.from_dict({**values, **given})
        if config.fits_at_once:
            refuse_unused(config.fusion, cls, given)
        return config


def fits_at_once(fusion: str) -> bool:
    """Whether a fusion is fitted at once, as linear models and trees are, and not by gradient descent.

    Raises:
        UnknownNameError: an unknown fusion.
    """
    from equifuse.fusion import FittedFusion  # noqa: PLC0415 - PyTorch
    from equifuse.registry import FUSIONS  # noqa: PLC0415

    return issubclass(FUSIONS.get(fusion), FittedFusion)


def without_unused(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options meant for several methods, without those that the ``fusion`` among them has no use for.

    >>> from equifuse.runs.config import without_unused
    >>> without_unused({"fusion": "linear", "lr": 0.01, "prepare": "log1p"})
    {'fusion': 'linear', 'prepare': 'log1p'}

    Raises:
        UnknownNameError: an unknown fusion.
    """
    if not fits_at_once(options["fusion"]):
        return dict(options)
    declared = declarations(TrainConfig)
    return {name: value for name, value in options.items() if name not in declared or not declared[name].descent}


TrainConfig.__doc__ = (TrainConfig.__doc__ or "").replace("{options}", documented(TrainConfig))


def read_config(path: Path) -> dict[str, Any]:
    """The options in a YAML file, without the record of a run.

    Raises:
        DataError: the file is missing or is not a YAML mapping.
    """
    return {key: _numbers(value) for key, value in read_yaml(path).items() if key != RECORD}


def parse_settings(settings: list[str], *, nested: bool = True) -> dict[str, Any]:
    """A mapping from ``"key=value"`` settings: values are YAML, dots in keys nest unless ``nested`` is False.

    Raises:
        InputError: one cannot be read.
    """
    yaml = require("train", "yaml", "YAML")

    parsed: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise InputError(f"expected key=value, got {setting!r}")
        try:
            value = _numbers(yaml.safe_load(text))
        except (yaml.YAMLError, ValueError, RecursionError):
            raise InputError(f"cannot read the value of {setting!r}") from None
        *path, last = key.strip().split(".") if nested else [key.strip()]
        place = parsed
        for step in path:
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                raise InputError(f"{setting!r}: {step!r} already has a value")
        place[last] = value
    return parsed


def _numbers(value: Any) -> Any:
    """YAML takes ``1e-3`` for a string; it is a number here."""
    if isinstance(value, dict):
        return {key: _numbers(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_numbers(entry) for entry in value]
    return float(value) if isinstance(value, str) and _SCIENTIFIC.fullmatch(value) else value
