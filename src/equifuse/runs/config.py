"""Everything that decides a training run, in one place, from keywords, a YAML file, or a stored run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, Self

from equifuse.data.options import SourceOptions, added_to
from equifuse.errors import InputError, UnknownNameError
from equifuse.extras import require
from equifuse.options import (
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
from equifuse.runs import checks
from equifuse.runs.checks import BY, FOLDS, GROUPS_OUT
from equifuse.runs.encoders import encoders, reading_for
from equifuse.runs.settings import parse_settings, read_config
from equifuse.training.options import TrainingOptions, of_descent, refuse_unused
from equifuse.training.protocol import LOOSE

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
# What is about a head, or what leads to it.
_OF_HEADS = ("skip", "head_dropout", "head_hidden")
# Trainings of a fold.
_MOST_CANDIDATES = 100


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
    encoder: str | dict[str, str] = option(
        "auto",
        encoders(),
        help="Encoder of all modalities, or of one, image=guided: mlp, identity, for sequences and words mean, max, "
        "attention, gru, transformer or queries, for bags bag, for images cnn, guided, film or coattention "
        "(guided:NAME says what it looks at), for columns of pictures and texts efficientnet, wordllama, "
        "pretrained:FOLDER, finetuned:FOLDER or lora:FOLDER, or auto.",
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
        help="Dropout of the hidden layers of the encoders and of the head.",
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
    lora_rank: int = option(
        8,
        whole(1),
        help="Rank of the changes that lora:FOLDER trains in each linear map of a pretrained model.",
        group="Model",
        estimator=False,
        descent=True,
    )
    gradient_checkpointing: bool = option(
        False,
        yes_no(),
        help="Train pretrained models in less memory and more time: activations are computed again for the gradient.",
        group="Model",
        estimator=False,
        descent=True,
    )
    head_dropout: float = option(
        0.0,
        number(least=0, below=1),
        help="Dropout before the head.",
        group="Model",
        descent=True,
    )
    head_hidden: int | str = option(
        "auto",
        auto(whole(0)),
        help="Width of the hidden layer between the fused representation and the outputs; 0 for an affine map alone. "
        "auto: that of the encoders after a fusion that adds up what the modalities say, as concat and gmf do, else 0.",
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
        optional(checks.class_weights()),
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
        checks.factors(),
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
        optional(checks.folds()),
        help="Cross-validate with this many folds, or with 'group': leave out one group at a time.",
        group="Data",
        estimator=False,
    )
    repeats: int = option(
        1,
        whole(1),
        help="Cross-validate so many times, or without --cv bag so many times, with other folds each time.",
        group="Data",
    )
    choose: dict[str, list[Any]] = option(
        dict,
        checks.choices(),
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
        help="Train so many models as one: their predictions are averaged.",
        group="Training",
    )
    ensemble_by: str = option(
        BY[0],
        one_of(*BY),
        help="How an ensemble's models differ. folds: each stops on a fold of train and validation "
        "together; seeds: in initial weights and the order of samples; snapshots: they are of one training, whose "
        "learning rate falls to 0 once for each.",
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
        checks.pipelines(),
        help="Preparation of features, fitted on train and stored in the model: mrna=log1p,variance:2000,pca:64, or "
        "steps alone for all other modalities; impute:median and standardise go without saying, and asinh of skewed "
        "features where no steps are given.",
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
        object.__setattr__(self, "source", reading_for(self.encoder, SourceOptions.of(self.source)).given())
        self._check_folds()
        self._check_ensemble()
        self._check_choices()
        self.resolved_fusion_options()
        refuse_unused(self.fusion, *unused_by(self.fusion), self.changed())

    @property
    def fits_at_once(self) -> bool:
        """Whether the fusion is fitted at once, as linear models and trees are, and not by gradient descent."""
        return fits_at_once(self.fusion)

    @property
    def bags(self) -> int:
        """How often the folds of an ensemble are drawn; in a cross-validation, whose repeats they are, once."""
        return self.repeats if self.cv is None else 1

    @property
    def of_ensemble(self) -> tuple[str, ...]:
        """Names of the options that a single model of the same run has no use for."""
        return "ensemble", "ensemble_by", "member", *(["repeats"] if self.cv is None else [])

    @property
    def members(self) -> int:
        """How many models make the prediction: 1 without an ensemble."""
        return 1 if self.ensemble is None else self.ensemble * self.bags

    def _check_folds(self) -> None:
        if self.repeats > 1 and (self.cv == GROUPS_OUT or "order" in self.source):
            raise InputError("there is one way to leave out each group, or the latest rows; repeats would be the same")
        if self.cv is None:
            if self.fold is not None:
                raise InputError("a fold is of a cross-validation; say with cv how many folds it has")
            if self.repeats > 1 and self.ensemble is None:
                raise InputError(
                    "repeats are of a cross-validation or an ensemble; say with cv or ensemble how many folds it has"
                )
            return
        if self.cv == GROUPS_OUT and "group" not in self.source:
            raise InputError("to leave out one group at a time, say which column names the groups: --group patient")
        if self.protocol == LOOSE:
            raise InputError(f"protocol {LOOSE!r} chooses by the test part; cross-validate without it")

    def _check_ensemble(self) -> None:
        if self.member is not None and (self.ensemble is None or self.member >= self.members):
            raise InputError(f"member {self.member} is of an ensemble of more members, not of {self.members}")
        if self.ensemble is None:
            if self.ensemble_by != FOLDS:
                raise InputError(f"ensemble_by {self.ensemble_by!r} is of an ensemble; say of how many: ensemble=5")
            return
        if self.protocol == LOOSE:
            raise InputError(f"protocol {LOOSE!r} chooses by the test part; train an ensemble without it")
        if self.devices * self.nodes > 1:
            raise InputError("the members of an ensemble are trained by one process each; leave out devices and nodes")
        if self.bags > 1 and self.ensemble_by != FOLDS:
            raise InputError(
                f"repeats draw folds anew, of which an ensemble by {self.ensemble_by} has none; leave them out, or "
                "give ensemble more members"
            )
        from equifuse.runs.kinds import kind_of  # noqa: PLC0415 - it reads data

        kind_of(self).check(self)

    def _check_choices(self) -> None:
        if not self.choose:
            return
        if self.cv is None:
            raise InputError("choose is for a cross-validation, in which every fold chooses: --cv 5")
        for name in self.choose:
            if name not in declarations(type(self)) or name in _NOT_CHOSEN:
                known = [option for option in declarations(type(self)) if option not in _NOT_CHOSEN]
                raise UnknownNameError("option to choose:", name, known)
        count = prod(len(values) for values in self.choose.values())
        if count > _MOST_CANDIDATES:
            raise InputError(
                f"choose has {count} combinations, of which every fold would train all; name at most {_MOST_CANDIDATES}"
            )
        self.candidates()

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
            if name in given and isinstance(before, Mapping) and declared.parts is not None:
                given[name] = added_to(before, given[name])
            elif name in given and isinstance(before, Mapping) and declared.check.pairs:
                given[name] = {**before, **given[name]}
        config = cls.from_dict({**values, **given})
        refuse_unused(config.fusion, *unused_by(config.fusion), given)
        return config


def fits_at_once(fusion: str) -> bool:
    """Whether a fusion is fitted at once, as linear models and trees are, and not by gradient descent.

    Raises:
        UnknownNameError: an unknown fusion.
    """
    from equifuse.fusion import FittedFusion  # noqa: PLC0415 - PyTorch
    from equifuse.registry import FUSIONS  # noqa: PLC0415

    return issubclass(FUSIONS.get(fusion), FittedFusion)


def check_installed(fusion: str) -> None:
    """Refuse a fusion that is trained by a package that is not installed.

    >>> from equifuse.runs.config import check_installed
    >>> check_installed("boosting")

    Raises:
        InputError: it is one; the message says what to install.
        UnknownNameError: an unknown fusion.
    """
    from equifuse.registry import FUSIONS  # noqa: PLC0415 - PyTorch

    extra = FUSIONS.get(fusion).trained_by
    if extra is not None:
        require(extra, extra, f"training of the fusion {fusion!r}")


def unused_by(fusion: str) -> tuple[str, list[str]]:
    """Why a fusion has no use for some options, and which these are.

    >>> from equifuse.runs.config import unused_by
    >>> unused_by("late")
    ('decides without a head', ['skip', 'head_dropout', 'head_hidden'])

    Raises:
        UnknownNameError: an unknown fusion.
    """
    from equifuse.registry import FUSIONS  # noqa: PLC0415 - PyTorch

    if fits_at_once(fusion):
        return "is fitted at once", of_descent(TrainConfig)
    if FUSIONS.get(fusion).decides:
        return "decides without a head", list(_OF_HEADS)
    return "", []


def without_unused(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options meant for several methods, without those that the ``fusion`` among them has no use for.

    >>> from equifuse.runs.config import without_unused
    >>> without_unused({"fusion": "linear", "lr": 0.01, "prepare": "log1p"})
    {'fusion': 'linear', 'prepare': 'log1p'}

    Raises:
        UnknownNameError: an unknown fusion.
    """
    _, unused = unused_by(options["fusion"])
    return {name: value for name, value in options.items() if name not in unused}


TrainConfig.__doc__ = (TrainConfig.__doc__ or "").replace("{options}", documented(TrainConfig))
