"""What the estimators share: reading samples, training, raw outputs."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from equifuse.data import Split
from equifuse.data.assemble import hold_out
from equifuse.data.frames import matched
from equifuse.data.loaders import batches_of, mix
from equifuse.data.options import SourceOptions
from equifuse.encoders import POOLINGS
from equifuse.errors import DataError, InputError
from equifuse.estimators.encoding import encoded, schema_of
from equifuse.estimators.layout import Columns, Layout, layout_of, names_columns, samples
from equifuse.model import Ensemble, FusionModel
from equifuse.options import declarations, default_of, sentence
from equifuse.registry import TASKS
from equifuse.runs.config import TrainConfig
from equifuse.runs.folder import task_of
from equifuse.runs.folds import member_folds
from equifuse.runs.kinds import kind_of
from equifuse.runs.predict import predict_batches
from equifuse.runs.prepare import model_for
from equifuse.runs.training import check_machine
from equifuse.training.cycles import left_by
from equifuse.training.rules import resolved
from equifuse.training.trainer import Trainer, TrainingResult, facts_of

_DTYPES = ("float32", "float64")
# The column of groups.
_GROUP = "group"


@dataclass(frozen=True)
class Parameter:
    """A parameter that an estimator has and a training run has not."""

    default: Any
    help: str


class FusionEstimator(BaseEstimator, ABC):  # type: ignore[misc]
    """Base of the estimators; see :class:`FusionClassifier`.

    The parameters are the options of :class:`~equifuse.runs.TrainConfig` that are declared for estimators, with the
    same names, defaults and checks, and those of :attr:`_own`.
    """

    _task: ClassVar[str]
    # The options of a training run that are parameters; None for those that are declared for estimators of the task.
    _of_run: ClassVar[tuple[str, ...] | None] = None
    # Parameters beside the options of a training run.
    _own: ClassVar[dict[str, Parameter]] = {
        "modalities": Parameter(
            None, 'Modality name -> columns: a pattern (``"g_*"`` or ``"g_*, h_*"``), names, numbers, or a slice.'
        ),
        "kinds": Parameter(
            None,
            'Column of a data frame -> what it holds: "number", "boolean", "category", "date", "text" or "embedding", '
            "where its type and values say something else.",
        ),
        "validation_fraction": Parameter(
            0.2,
            "Share of the samples held out for early stopping, in (0, 1), in classification stratified; the model is "
            "that of the best epoch. None trains on all samples, for all epochs.",
        ),
        "dtype": Parameter("float32", '"float32" or "float64".'),
        "random_state": Parameter(
            None,
            "Of the held-out samples, initial weights, order of the samples and dropout: a seed, a "
            "``numpy.random.RandomState``, or None for NumPy's global one.",
        ),
    }

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give the class its parameters: a constructor that stores them, and their documentation."""
        super().__init_subclass__(**kwargs)
        parameters = _parameters(cls._options(), cls._own)
        if cls.__doc__:
            described = "\n".join(f"        {name}: {text}" for name, (_, text) in parameters.items())
            cls.__doc__ = cls.__doc__.replace("        {parameters}", described)
        if "__init__" in cls.__dict__:
            return
        kinds = inspect.Parameter
        given = [
            kinds(name, kinds.POSITIONAL_OR_KEYWORD if name == "fusion" else kinds.KEYWORD_ONLY, default=default)
            for name, (default, _) in parameters.items()
        ]
        own_self = kinds("self", kinds.POSITIONAL_OR_KEYWORD)
        signature = inspect.Signature([own_self, *given])

        def __init__(self: FusionEstimator, *args: Any, **named: Any) -> None:
            bound = signature.bind(self, *args, **named)
            bound.apply_defaults()
            for name in parameters:
                setattr(self, name, bound.arguments[name])

        __init__.__signature__ = signature  # type: ignore[attr-defined]
        __init__.__qualname__ = f"{cls.__qualname__}.__init__"
        cls.__init__ = __init__  # type: ignore[method-assign]

    @classmethod
    def _options(cls) -> list[str]:
        """The options of a training run that are parameters."""
        if cls._of_run is not None:
            return list(cls._of_run)
        return [name for name, declared in declarations(TrainConfig).items() if declared.estimator in (True, cls._task)]

    if TYPE_CHECKING:

        def __init__(self, fusion: str = "deq", **parameters: Any) -> None: ...

    # Some of the parameters.
    modalities: Mapping[str, Columns] | None
    kinds: Mapping[str, str] | None
    encoder: str | dict[str, str]
    validation_fraction: float | None
    dtype: str
    random_state: Any

    def __sklearn_tags__(self) -> Any:
        """A missing modality is NaN, and a mapping of arrays will do."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        tags.input_tags.dict = True
        return tags

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
        eval_set: tuple[Any, Any] | None = None,
    ) -> Self:
        """Train anew.

        Args:
            X: modality name -> array ``(n, …)``; a data frame; or an array ``(n, p)``. See the class.
            y: targets of the ``n`` samples.
            sample_weight: ``(n,)``, ≥ 0, what a sample counts in the loss and in preprocessing: 2 is as good as giving
                it twice, 0 as leaving it out, but for which modalities training hides from it. The regularisers of a
                fusion are not weighted.
            groups: ``(n,)``, such as the patient of each sample: what is held out for early stopping is whole groups.
            eval_set: the samples ``(X, y)`` for early stopping; ``validation_fraction`` is not used then.

        Returns:
            The estimator.

        Raises:
            InputError: a parameter out of range, both ``groups`` and ``eval_set``, modalities that do not fit ``X``, or
                training diverged.
            UnknownNameError: an unknown fusion, encoder or option.
            DataError: samples, targets or weights that cannot be used.
        """
        self._seed = seed = self._draw_seed()
        config = self._config(seed)
        if groups is not None and eval_set is not None:
            raise InputError("groups are for what is held out of X; eval_set takes its place, so give one of them")
        whole, target = self._read(X, y, sample_weight, anew=True, groups=groups)
        whole = replace(whole, target=self._encode(target, anew=True))
        if config.ensemble is None:
            train, val = self._parts(whole, eval_set)
            config = resolved(config, facts_of(train, list(train.inputs), TASKS.get(self._task)))
            self.model_ = self._build(config, train)
            self.history_ = self._train(config, train, val, None).history
        elif not kind_of(config).draws_folds:
            self._fit_members(config, [self._parts(whole, eval_set)] * config.members)
        elif eval_set is None:
            source = SourceOptions(group=next(iter(whole.columns), None))
            folds = member_folds(whole, self._task, config, source)
            self._fit_members(config, [(whole.select(learn), whole.select(stop)) for learn, stop in folds])
        else:
            raise InputError("each member of an ensemble of folds stops on one of its own; give no eval_set")
        self.n_iter_ = len(self.history_)
        self._steps: dict[str, Any] | None = None
        return self

    def _parts(self, whole: Split, eval_set: Any) -> tuple[Split, Split | None]:
        """What is trained on, and what early stopping looks at."""
        return self._hold_out(whole, self._seed) if eval_set is None else (whole, self._given(eval_set))

    def _fit_members(self, config: TrainConfig, parts: Sequence[tuple[Split, Split | None]]) -> None:
        """Train the members of an ensemble, each on the first of its two parts, with early stopping on the second."""
        kind, history = kind_of(config), []
        members: list[FusionModel] = []
        for first in range(0, config.members, kind.cycles(config)):
            train, val = parts[first]
            own = replace(config, member=first)
            own = replace(own, seed=kind.seed(own))
            own = resolved(own, facts_of(train, list(train.inputs), TASKS.get(self._task)))
            self.model_ = self._build(own, train)
            result = self._train(own, train, val, None)
            began = 0
            for snapshot in left_by(result, self.model_):
                member = deepcopy(self.model_)
                member.load_state_dict(snapshot.weights)
                rows = result.history[began : snapshot.epochs]
                history += [{"member": float(len(members)), **row} for row in rows]
                members.append(member)
                began = snapshot.epochs
        self.model_ = Ensemble(members).eval()
        self.history_ = history

    def _partial_fit(self, X: Any, y: Any, sample_weight: ArrayLike | None, anew: bool) -> Self:
        """One pass over the samples, from where the estimator is."""
        if anew:
            self.history_, self.n_iter_, self._steps, self._seed = [], 0, None, self._draw_seed()
        config = self._config(mix(self._seed, self.n_iter_) % 2**31)
        if config.ensemble is not None:
            raise InputError("partial_fit goes on with one model; fit trains an ensemble")
        if config.averaging != "none":
            raise InputError("partial_fit knows no epochs to average; use averaging='none'")
        if config.fits_at_once:
            raise InputError(f"fusion {config.fusion!r} is fitted at once to all samples; use fit")
        if config.schedule != "constant" or config.warmup:
            raise InputError("partial_fit does not know how long training will be; use schedule='constant', warmup=0")
        config = replace(config, epochs=1)
        train, target = self._read(X, y, sample_weight, anew=anew)
        train = replace(train, target=self._encode(target, anew=False))
        config = resolved(config, facts_of(train, list(train.inputs), TASKS.get(self._task)))
        if anew:
            self.model_ = self._build(config, train)
        result = self._train(config, train, None, self._steps)
        self.history_ = [*self.history_, {**result.history[0], "epoch": float(self.n_iter_)}]
        self.n_iter_ += 1
        self._steps = result.optimizer_state
        return self

    def _draw_seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    @abstractmethod
    def _encode(self, y: NDArray[Any], anew: bool) -> NDArray[Any]:
        """Targets as the task has them."""

    @abstractmethod
    def _outputs_and_classes(self) -> tuple[int, tuple[str, ...] | None]:
        """Width of the model's output, and the names of the classes."""

    def _class_weights(self, train: Split) -> list[float] | None:
        return None

    def _config(self, seed: int) -> TrainConfig:
        """The parameters as a training run has them; they are checked there."""
        given = {name: _plain(value) for name, value in self.get_params(deep=False).items()}
        if given["dtype"] not in _DTYPES:
            raise InputError(f"dtype must be one of {', '.join(_DTYPES)}, got {self.dtype!r}")
        values = {name: given[name] for name in self._options() if name in given}
        config = TrainConfig(type(self).__name__, seed=seed, **values)
        check_machine(config)
        return config

    def _read(
        self, X: Any, y: Any, sample_weight: ArrayLike | None, *, anew: bool, groups: ArrayLike | None = None
    ) -> tuple[Split, NDArray[Any]]:
        """Inputs and weights of samples to fit, without those that weigh nothing, and their targets as given."""
        layout: Layout | None = None if anew else self._layout
        modalities = self.modalities
        if layout is not None:
            X = layout.samples(X)
            schema = layout.schema
        else:
            X, modalities = samples(X, modalities)
            schema, modalities = schema_of(X, modalities, self.kinds or {})
            X = encoded(X, schema)
        X, y, sample_weight, groups = matched(X, y, sample_weight, groups, fitting=True)
        if anew and names_columns(X, modalities):
            layout = layout_of(X, modalities)
        table = X if layout is None else layout.table(X)
        table, target = validate_data(self, table, y, reset=anew, **self._table_options(), **self._y_options())
        # A plain array is validated before its columns are counted.
        layout = layout or layout_of(table, modalities)
        if anew:
            padded = not isinstance(self.encoder, str) or self.encoder in ("auto", *POOLINGS)
            layout = replace(layout, dtype=self.dtype, padded=padded, schema=schema)
        self._layout: Layout = layout
        columns = {} if groups is None else {_GROUP: _groups(groups)}
        check_consistent_length(table, *columns.values())
        weight = None
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, table, dtype=table.dtype, ensure_non_negative=True)
            some = weight > 0
            if not some.any():
                raise DataError("sample_weight is zero for all samples")
            table, target, weight = table[some], target[some], weight[some]
            columns = {name: column[some] for name, column in columns.items()}
        return replace(layout.split(table), weight=weight, columns=columns), target

    def _given(self, eval_set: Any) -> Split:
        """The samples for early stopping that ``fit`` is given."""
        pairs = eval_set if isinstance(eval_set, list) else [eval_set]
        if len(pairs) != 1 or not isinstance(pairs[0], tuple | list) or len(pairs[0]) != 2:
            raise InputError("eval_set must be one pair (X, y)")
        X, y = pairs[0]
        val, target = self._read(X, y, None, anew=False)
        return replace(val, target=self._encode(target, anew=False))

    def _table_options(self) -> dict[str, Any]:
        return {"dtype": ("float64", "float32"), "ensure_all_finite": "allow-nan"}

    def _y_options(self) -> dict[str, Any]:
        return {}

    def _hold_out(self, whole: Split, seed: int) -> tuple[Split, Split | None]:
        """What is trained on, and what early stopping looks at."""
        fraction = self.validation_fraction
        if fraction is None:
            return whole, None
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction < 1:
            raise InputError(
                f"validation_fraction must be between 0 and 1, or None for no validation, got {fraction!r}"
            )
        train, val = hold_out(whole, self._task, fraction, seed, SourceOptions(group=next(iter(whole.columns), None)))
        if len(val) == 0:
            raise DataError(
                f"validation_fraction={fraction} of {len(whole)} samples holds out none; give more samples"
                + " or smaller groups" * bool(whole.columns)
                + ", or validation_fraction=None to train without early stopping"
            )
        return train, val

    def _build(self, config: TrainConfig, train: Split) -> FusionModel:
        outputs, classes = self._outputs_and_classes()
        features, schema = self._layout.original_features(), self._layout.schema
        return model_for(config, train, self._task, outputs, classes, features=features, columns=schema)

    def _train(
        self, config: TrainConfig, train: Split, val: Split | None, steps: dict[str, Any] | None
    ) -> TrainingResult:
        """Train ``model_``, from a state of the optimiser if there is one."""
        task = task_of(self.model_, config, self._class_weights(train))
        trainer = Trainer(config, watch=False, cycles=kind_of(config).cycles(config))
        return trainer.fit(self.model_, train, val, task=task, optimizer_state=steps)

    def _in_order(self, X: Any, y: Any, sample_weight: ArrayLike | None) -> tuple[Any, ...]:
        """Samples, targets and weights with rows in one order, as in ``fit``."""
        check_is_fitted(self, "model_")
        # As they are: what predicts them makes numbers of them.
        return matched(self._layout.frames(X), y, sample_weight, fitting=True)

    def _raw(self, X: Any) -> Tensor:
        """The model's outputs ``(n, K)``."""
        check_is_fitted(self, "model_")
        X = matched(self._layout.samples(X), fitting=False)[0]
        layout = self._layout.lengthened(X)
        if layout is self._layout:
            table = validate_data(self, layout.table(X), reset=False, **self._table_options())
        else:  # longer sequences have more columns than those of fit
            table = check_array(layout.table(X), **self._table_options())
        return predict_batches(self.model_, batches_of(layout.split(table)), "X").prediction


def _groups(groups: ArrayLike) -> NDArray[Any]:
    """The group of each sample, none of them unknown."""
    found: NDArray[Any] = column_or_1d(groups, dtype=object)
    lacking = [i for i, value in enumerate(found) if value is None or (isinstance(value, float) and np.isnan(value))]
    if lacking:
        raise DataError(f"groups has no value in {len(lacking)} rows, the first is row {lacking[0]}")
    return np.asarray([str(value) for value in found])


def _parameters(options: list[str], own: Mapping[str, Parameter]) -> dict[str, tuple[Any, str]]:
    """Name -> default and description of each parameter; the fusion comes first."""
    found: dict[str, tuple[Any, str]] = {}
    for name in sorted(options, key=lambda option: option != "fusion"):
        default = default_of(TrainConfig, name)
        # scikit-learn's parameters are never changed in place; no mapping is None.
        found[name] = (None if isinstance(default, dict) else default, sentence(TrainConfig, name))
    return found | {name: (parameter.default, parameter.help) for name, parameter in own.items()}


def _plain(value: Any) -> Any:
    """NumPy's numbers, which grids are often made of, as Python's."""
    return value.item() if isinstance(value, np.generic) else value
