"""Classification with the interface of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets

from equifuse.data import Split
from equifuse.errors import DataError, InputError
from equifuse.estimators.base import FusionEstimator, Parameter
from equifuse.runs.prepare import balanced
from equifuse.tasks.base import probabilities


class FusionClassifier(ClassifierMixin, FusionEstimator):  # type: ignore[misc]
    """A fusion model as a scikit-learn classifier: fit it on a dict of arrays, one for each modality.

    >>> generator = np.random.default_rng(0)
    >>> y = np.repeat(["benign", "malignant"], 30)
    >>> X = {m: (y == "benign")[:, None] + 0.1 * generator.standard_normal((60, 4)) for m in ("mrna", "meth")}
    >>> model = ef.FusionClassifier("concat", epochs=5, lr=0.01, random_state=0).fit(X, y)
    >>> model.predict({"mrna": X["mrna"][:2]}).tolist()  # "meth" is missing
    ['benign', 'benign']

    ``X`` is one of

    - a mapping modality name -> array: ``(n, l)`` features, or ``(n, T, l)`` sequences, whose steps of NaN at the end
      are padding (where ``encoder`` is "auto" or a pooling), or arrays of more axes, which are flattened. Data frames
      (pandas, polars, Arrow, AnnData) and sparse matrices will do, and MuData in the mapping's place. In ``predict`` a
      frame's columns are found by their names. Rows are matched by index where pandas frames differ in theirs: they are
      those of ``y``'s index, or, where it has none, of the first frame (that is merely numbered, if one is); a frame
      without a row lacks the modality there;
    - a data frame, and ``modalities`` names its columns: ``{"mrna": "g_*", "age": ["age"]}``; others are ignored.
      Columns of two levels, as ``pd.concat({"mrna": f, "protein": g}, axis=1)`` has, need no ``modalities``;
    - an array ``(n, p)``, and ``modalities`` numbers its columns: ``{"a": slice(0, 10), "b": [10, 12]}``. Without
      ``modalities`` all columns are one modality, ``"x"``.

    The last two are for ``GridSearchCV``, ``cross_val_score`` and whatever else cuts samples by row: a mapping cannot
    be cut. :func:`equifuse.estimators.stack` makes one array of it. All three give the same model.

    A modality that is all NaN in a row is missing there; in ``predict``, a modality may also be None or left out of a
    mapping, or out of a data frame with all of its columns. A row with some NaN is refused: impute it.

    Args:
        {parameters}

    Attributes:
        classes_: the classes, sorted.
        model_: the trained :class:`~equifuse.FusionModel`, in evaluation mode; ``model_.save(path)`` stores it.
        history_: one row of numbers per epoch: losses, and metrics of the held-out samples.
        n_iter_: epochs trained, or calls of ``partial_fit``.
        n_features_in_: columns of ``X``; of a data frame with ``modalities``, those used; of a mapping, all features.
        feature_names_in_: their names, where ``X`` is a data frame.
    """

    _task: ClassVar[str] = "classification"
    _own: ClassVar[dict[str, Parameter]] = {
        **FusionEstimator._own,
        "class_weight": Parameter(
            None, 'Class -> factor of its samples in the loss, "balanced" for the inverse of the frequency, or None.'
        ),
    }

    class_weight: Mapping[Any, float] | str | None

    def partial_fit(
        self, X: Any, y: Any, classes: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """One pass over the samples, from where the estimator is; there is no early stopping.

        Preprocessing is fitted on the samples of the first call only.

        Args:
            X: as in ``fit``.
            y: labels ``(n,)``.
            classes: all classes there will be; needed in the first call.
            sample_weight: as in ``fit``.

        Returns:
            The estimator.

        Raises:
            InputError: no classes in the first call, or other ones in a later call; "balanced" class weights, whose
                frequencies are not known; what ``fit`` raises.
            DataError: a label that is not among the classes; what ``fit`` raises.
        """
        if self.class_weight == "balanced":
            raise InputError("class_weight='balanced' needs all samples at once; pass partial_fit a dict of factors")
        anew = not hasattr(self, "model_")
        given = None if classes is None else np.unique(classes)
        if anew:
            if given is None:
                raise InputError("classes must be passed on the first call to partial_fit")
            self.classes_: NDArray[Any] = given
            self._check_classes()
        elif given is not None and not np.array_equal(given, self.classes_):
            raise InputError(f"classes={given.tolist()} are not those of before, {self.classes_.tolist()}")
        return self._partial_fit(X, y, sample_weight, anew)

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Probabilities ``(n, K)`` in the order of ``classes_``; every row sums to 1.

        Raises:
            NotFittedError: there is no model yet.
            InputError: ``X`` does not fit the model.
            DataError: samples that cannot be used.
        """
        return probabilities(self._raw(X))

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable classes ``(n,)``; see :meth:`predict_proba`."""
        best = self.predict_proba(X).argmax(axis=1)
        labels: NDArray[Any] = self.classes_[best]
        return labels

    def score(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> float:
        """The accuracy of predictions; rows of frames are matched by index as in ``fit``."""
        return float(super().score(*self._in_order(X, y, sample_weight)))

    def _encode(self, y: NDArray[Any], anew: bool) -> NDArray[np.int64]:
        if y.dtype == object and (empty := [i for i, label in enumerate(y.ravel()) if label is None]):
            raise DataError(f"y has no label in {len(empty)} of {len(y)} rows, the first is {empty[0]}")
        check_classification_targets(y)
        if anew:
            self.classes_, codes = np.unique(y, return_inverse=True)
            self._check_classes()
            return codes.astype(np.int64)
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise DataError(f"label {unknown.tolist()[0]!r} is not among the classes {self.classes_.tolist()}")
        return np.searchsorted(self.classes_, y).astype(np.int64)

    def _check_classes(self) -> None:
        if len(self.classes_) < 2:
            raise DataError(f"y has only one class, {self.classes_.tolist()[0]!r}; there is nothing to tell apart")

    def _outputs_and_classes(self) -> tuple[int, tuple[str, ...] | None]:
        return len(self.classes_), tuple(str(c) for c in self.classes_)

    def _class_weights(self, train: Split) -> list[float] | None:
        assert train.target is not None
        if self.class_weight is None:
            return None
        if isinstance(self.class_weight, str) and self.class_weight == "balanced":
            return balanced(train.target, len(self.classes_), train.weight)
        if not isinstance(self.class_weight, Mapping):
            raise InputError(f"class_weight must be a dict, 'balanced' or None, got {self.class_weight!r}")
        labels = self.classes_[train.target]
        return [float(w) for w in compute_class_weight(dict(self.class_weight), classes=self.classes_, y=labels)]
