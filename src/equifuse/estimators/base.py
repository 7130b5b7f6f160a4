"""What the estimators share: reading samples, training, raw outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from equifuse.data import Split
from equifuse.data.loaders import batches_of, mix
from equifuse.data.split import partition
from equifuse.encoders import POOLINGS
from equifuse.errors import DataError, InputError
from equifuse.estimators.layout import Columns, Layout, layout_of, names_columns
from equifuse.model import FusionModel
from equifuse.runs.config import TrainConfig
from equifuse.runs.folder import task_of
from equifuse.runs.predict import predict_batches
from equifuse.runs.prepare import model_for
from equifuse.runs.training import check_accelerator
from equifuse.training.randomness import own_random_numbers

if TYPE_CHECKING:  # it imports Lightning
    from equifuse.training.lightning_module import LitFusion

_DTYPES = ("float32", "float64")


class FusionEstimator(BaseEstimator, ABC):  # type: ignore[misc]
    """Base of the estimators; see :class:`FusionClassifier`."""

    _task: ClassVar[str]

    # The parameters that both have; see there.
    fusion: str
    modalities: Mapping[str, Columns] | None
    dim: int | None
    backend: str | None
    fusion_options: Mapping[str, Any] | None
    encoder: str
    hidden: tuple[int, ...]
    dropout: float
    input_dropout: float
    head_dropout: float
    modality_dropout: float
    epochs: int
    patience: int
    validation_fraction: float | None
    batch_size: int
    lr: float
    weight_decay: float
    accelerator: str
    dtype: str
    random_state: Any

    def __sklearn_tags__(self) -> Any:
        """A missing modality is NaN, and a mapping of arrays will do."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.dict = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """Train anew.

        Args:
            X: modality name -> array ``(n, …)``; a data frame; or an array ``(n, p)``. See the class.
            y: targets of the ``n`` samples.
            sample_weight: ``(n,)``, ≥ 0, what a sample counts in the loss and in preprocessing: 2 is as good as giving
                it twice, 0 as leaving it out. The regularisers of a fusion are not weighted.

        Returns:
            The estimator.

        Raises:
            InputError: a parameter out of range, modalities that do not fit ``X``, or training diverged.
            UnknownNameError: an unknown fusion, encoder or option.
            DataError: samples, targets or weights that cannot be used.
        """
        self._seed = seed = self._draw_seed()
        config = self._config(seed)
        whole, target = self._read(X, y, sample_weight, anew=True)
        whole = replace(whole, target=self._encode(target, anew=True))
        train, val = self._hold_out(whole, seed)
        self.model_ = self._build(config, train)
        module = self._train(config, train, val, None)
        self.history_ = module.history
        self.n_iter_ = len(module.history)
        self._steps: dict[str, Any] | None = None
        return self

    def _partial_fit(self, X: Any, y: Any, sample_weight: ArrayLike | None, anew: bool) -> Self:
        """One pass over the samples, from where the estimator is."""
        if anew:
            self.history_, self.n_iter_, self._steps, self._seed = [], 0, None, self._draw_seed()
        config = replace(self._config(mix(self._seed, self.n_iter_) % 2**31), epochs=1)
        train, target = self._read(X, y, sample_weight, anew=anew)
        train = replace(train, target=self._encode(target, anew=False))
        if anew:
            self.model_ = self._build(config, train)
        module = self._train(config, train, None, self._steps)
        self.history_ = [*self.history_, {**module.history[0], "epoch": float(self.n_iter_)}]
        self.n_iter_ += 1
        self._steps = module.trainer.optimizers[0].state_dict()["state"]
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
        names = {field.name for field in fields(TrainConfig)} & set(given)
        if given["dtype"] not in _DTYPES:
            raise InputError(f"dtype must be one of {', '.join(_DTYPES)}, got {self.dtype!r}")
        values = {name: given[name] for name in names} | {"fusion_options": dict(self.fusion_options or {})}
        config = TrainConfig(type(self).__name__, seed=seed, **values)
        check_accelerator(config)
        return config

    def _read(self, X: Any, y: Any, sample_weight: ArrayLike | None, *, anew: bool) -> tuple[Split, NDArray[Any]]:
        """Inputs and weights of samples to fit, without those that weigh nothing, and their targets as given."""
        layout: Layout | None = None if anew else self._layout
        if anew and names_columns(X, self.modalities):
            layout = layout_of(X, self.modalities)
        table = X if layout is None else layout.table(X)
        table, target = validate_data(self, table, y, reset=anew, **self._table_options(), **self._y_options())
        # A plain array is validated before its columns are counted.
        layout = layout or layout_of(table, self.modalities)
        if anew:
            layout = replace(layout, dtype=self.dtype, padded=self.encoder in ("auto", *POOLINGS))
        self._layout: Layout = layout
        weight = None
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, table, dtype=table.dtype, ensure_non_negative=True)
            some = weight > 0
            if not some.any():
                raise DataError("sample_weight is zero for all samples")
            table, target, weight = table[some], target[some], weight[some]
        return replace(layout.split(table), weight=weight), target

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
        labels = whole.target if self._task == "classification" else None
        keep, held = partition(len(whole), (1 - fraction, fraction), seed=seed, labels=labels)
        if len(held) == 0:
            raise DataError(
                f"validation_fraction={fraction} of {len(whole)} samples holds out none; give more samples, or "
                "validation_fraction=None to train without early stopping"
            )
        return whole.select(keep), whole.select(held)

    def _build(self, config: TrainConfig, train: Split) -> FusionModel:
        outputs, classes = self._outputs_and_classes()
        model = model_for(config, train, self._task, outputs, classes)
        model.features = self._layout.features()
        return model

    def _train(self, config: TrainConfig, train: Split, val: Split | None, steps: dict[str, Any] | None) -> LitFusion:
        """Train ``model_``, from a state of the optimiser if there is one."""
        from equifuse.training.lightning_module import LitFusion, fit  # noqa: PLC0415

        module = LitFusion(self.model_, task_of(self.model_, config, self._class_weights(train)), config)
        module.optimizer_state = steps
        batches = batches_of(train, config.batch_size, config.seed)
        with own_random_numbers(config.seed):
            fit(module, batches, None if val is None else batches_of(val), watch=False)
        return module

    def _raw(self, X: Any) -> Tensor:
        """The model's outputs ``(n, K)``."""
        check_is_fitted(self, "model_")
        table = validate_data(self, self._layout.table(X), reset=False, **self._table_options())
        return predict_batches(self.model_, batches_of(self._layout.split(table)), "X").prediction


def _plain(value: Any) -> Any:
    """NumPy's numbers, which grids are often made of, as Python's."""
    return value.item() if isinstance(value, np.generic) else value
