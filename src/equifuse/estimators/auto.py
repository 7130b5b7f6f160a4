"""The best model for the samples at hand within a time, with the interface of scikit-learn."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from numpy.typing import ArrayLike

from equifuse.auto.finishing import Finishing
from equifuse.auto.limits import Budget, seconds_of
from equifuse.auto.options import Preset, preset_of
from equifuse.auto.portfolio import Candidate, check_candidates, lacking, portfolio_of
from equifuse.auto.run import search
from equifuse.auto.search import Plan
from equifuse.data import MultimodalDataset, Split
from equifuse.data.assemble import hold_out
from equifuse.data.options import SourceOptions
from equifuse.errors import InputError, UnknownNameError
from equifuse.estimators.base import FusionEstimator, Parameter
from equifuse.estimators.classifier import FusionClassifier
from equifuse.estimators.regressor import FusionRegressor, Units, rescale
from equifuse.model import FusionModel
from equifuse.model.ensemble import members_of
from equifuse.runs.config import TrainConfig, check_installed
from equifuse.runs.training import check_machine

_OWN = {
    "time_limit": Parameter("10m", 'For ``fit``: ``"90s"``, ``"10m"``, ``"1h"``, seconds, or ``"none"`` for no limit.'),
    "preset": Parameter(
        "good", '``"fast"``, ``"good"`` or ``"best"``, see :data:`equifuse.auto.PRESETS`; or one of your own.'
    ),
    "portfolio": Parameter(
        None, "What is tried, a list of :class:`equifuse.auto.Candidate`; default that of the preset."
    ),
    **{name: FusionEstimator._own[name] for name in ("modalities", "kinds", "dtype", "random_state")},
}
_OF_RUN = (
    "expect_missing",
    "metric",
    "monitor",
    "prepare",
    "row_missing",
    "feature_missing",
    "accelerator",
)
# Of samples that are no file.
_NAME = "samples"


class _Search(FusionEstimator):
    """What the estimators share: a search in the place of a training."""

    _of_run: ClassVar[tuple[str, ...] | None] = _OF_RUN
    _own: ClassVar[dict[str, Parameter]] = _OWN
    encoder = "auto"
    time_limit: str | float | None
    preset: str | Preset
    portfolio: Iterable[Candidate] | None

    if TYPE_CHECKING:

        def __init__(self, **parameters: Any) -> None: ...

    @property
    def partial_fit(self) -> Any:
        """There is none: a search needs all samples."""
        raise AttributeError(f"{type(self).__name__} has no partial_fit: a search needs all samples")

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None, *, groups: ArrayLike | None = None) -> Self:  # type: ignore[override]
        """Search anew, in this process.

        Args:
            X: as in :class:`~equifuse.FusionClassifier`.
            y: targets of the ``n`` samples.
            sample_weight: ``(n,)``, ≥ 0, what a sample counts in training.
            groups: ``(n,)``, such as the patient of each sample: a group is in one fold.

        Returns:
            The estimator.

        Raises:
            InputError: a parameter out of range, modalities that do not fit ``X``, or a limit that is too short.
            UnknownNameError: an unknown preset, option or modality.
            DataError: samples, targets or weights that cannot be used.
        """
        budget = Budget(seconds_of(self.time_limit))
        preset = self.preset if isinstance(self.preset, Preset) else preset_of(self.preset)
        self._seed = seed = self._draw_seed()
        whole, target = self._read(X, y, sample_weight, anew=True, groups=groups)
        whole = self._scaled_whole(replace(whole, target=self._encode(target, anew=True)))
        config = self._config_of(seed, whole)
        given = None if self.portfolio is None else check_candidates(self.portfolio, config)
        for name in config.expect_missing:
            if name not in whole.inputs:
                raise UnknownNameError("modality", name, whole.inputs)
        dataset = self._dataset(config, whole)
        lacks = lacking(preset, self._task) if given is None else []
        candidates = given or portfolio_of(preset, self._task, len(whole.inputs), lacks)
        for candidate in candidates:
            check_installed(candidate.settings["fusion"])
        with tempfile.TemporaryDirectory() as folder:
            plan = Plan(config, dataset, candidates, preset, Path(folder), budget, lacking=lacks)
            model, found = Finishing(plan, search(plan)).in_memory()
        self.model_ = self._in_units(model)
        self.leaderboard_: list[dict[str, Any]] = found.leaderboard
        self.report_ = "\n".join(found.report)
        return self

    def _config_of(self, seed: int, whole: Split) -> TrainConfig:
        config = self._config(seed)
        group = next(iter(whole.columns), None)
        config = replace(config, source={} if group is None else {"group": group})
        weights = self._class_weights(whole)
        config = config if weights is None else replace(config, class_weights=weights)
        check_machine(config)
        return config

    def _dataset(self, config: TrainConfig, whole: Split) -> MultimodalDataset:
        """The samples as a data set; there is no test part, and nothing looks at the one that stands in its place."""
        train, val = hold_out(whole, self._task, config.val_fraction, config.seed, SourceOptions.of(config.source))
        if len(val) == 0:
            raise InputError(f"{len(whole)} samples are too few to hold some out; give more, or smaller groups")
        _, classes = self._outputs_and_classes()
        features, schema = self._layout.original_features(), self._layout.schema
        return MultimodalDataset(
            _NAME,
            {"train": train, "val": val, "test": val},
            self._task,
            classes,
            features=features or None,
            schema=dict(schema),
        )

    def _scaled_whole(self, whole: Split) -> Split:
        """The samples with targets in the units of training."""
        return whole

    def _in_units(self, model: FusionModel) -> FusionModel:
        """The model that predicts in the units of the targets."""
        return model


class AutoFusionClassifier(_Search, FusionClassifier):
    """The best classifier within a time: many methods are tried, and the best are averaged; see ``equifuse auto``.

    >>> from equifuse.auto import Candidate, Preset
    >>> generator = np.random.default_rng(0)
    >>> y = np.repeat(["benign", "malignant"], 30)
    >>> X = {m: (y == "benign")[:, None] + 0.1 * generator.standard_normal((60, 4)) for m in ("mrna", "meth")}
    >>> few = [Candidate("linear", {"fusion": "linear"}), Candidate("trees", {"fusion": "trees"})]
    >>> model = ef.AutoFusionClassifier(time_limit="none", preset="fast", portfolio=few, random_state=0).fit(X, y)
    >>> model.predict({"mrna": X["mrna"][:2]}).tolist(), model.leaderboard_[0]["method"]
    (['benign', 'benign'], 'ensemble')

    What ``X`` may be is said of :class:`~equifuse.FusionClassifier`. Methods and weights are selected by what models
    say of samples that they were not trained on.

    Args:
        {parameters}

    Attributes:
        classes_: the classes, sorted.
        model_: the ensemble, a :class:`~equifuse.FusionModel` in evaluation mode; ``model_.save(path)`` stores it.
        leaderboard_: a row for the ensemble and each method, such as ``pandas.DataFrame`` takes; see
            :class:`equifuse.auto.Entry`.
        report_: what was found, in sentences.
        n_features_in_: see :class:`~equifuse.FusionClassifier`.
        feature_names_in_: likewise.
    """

    _own: ClassVar[dict[str, Parameter]] = {**_OWN, "class_weight": FusionClassifier._own["class_weight"]}


class AutoFusionRegressor(_Search, FusionRegressor):
    """The best regressor within a time: many methods are tried, and the best are averaged; see ``equifuse auto``.

    >>> from equifuse.auto import Candidate
    >>> generator = np.random.default_rng(0)
    >>> X = {m: generator.standard_normal((60, 4)) for m in ("mrna", "meth")}
    >>> few = [Candidate("linear", {"fusion": "linear"}), Candidate("trees", {"fusion": "trees"})]
    >>> model = ef.AutoFusionRegressor(time_limit="none", preset="fast", portfolio=few, random_state=0)
    >>> model.fit(X, 1000 * X["mrna"].sum(1)).score(X, 1000 * X["mrna"].sum(1)) > 0.9
    True

    The targets are standardised for the search; losses of the leaderboard are in these units, ``model_`` predicts in
    those of the targets.

    Args:
        {parameters}

    Attributes:
        model_: see :class:`~equifuse.AutoFusionClassifier`.
        leaderboard_: likewise.
        report_: likewise.
        n_features_in_: see :class:`~equifuse.FusionClassifier`.
        feature_names_in_: likewise.
    """

    _own: ClassVar[dict[str, Parameter]] = {**_OWN, "loss": FusionRegressor._own["loss"]}

    def _scaled_whole(self, whole: Split) -> Split:
        assert whole.target is not None
        self._units = Units.of(whole.target, whole.weight)
        return self._scaled(whole)

    def _in_units(self, model: FusionModel) -> FusionModel:
        for member in members_of(model):
            rescale(member, self._units.scale, self._units.shift)
        return model
