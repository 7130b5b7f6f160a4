"""One class per sample, as scikit-learn knows it."""

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
from equifuse.estimators.base import FusionEstimator
from equifuse.estimators.layout import Columns
from equifuse.runs.prepare import balanced
from equifuse.tasks.base import probabilities


class FusionClassifier(ClassifierMixin, FusionEstimator):  # type: ignore[misc]
    """A fusion model as a scikit-learn classifier.

    ``X`` is one of

    - a mapping modality name -> array: ``(n, l)`` features, or ``(n, T, l)`` sequences, whose steps of NaN at the end
      are padding (where ``encoder`` is "auto" or a pooling), or arrays of more axes, which are flattened;
    - a data frame, and ``modalities`` names its columns: ``{"mrna": "g_*", "age": ["age"]}``; others are ignored;
    - an array ``(n, p)``, and ``modalities`` numbers its columns: ``{"a": slice(0, 10), "b": [10, 12]}``. Without
      ``modalities`` all columns are one modality, ``"x"``.

    The last two are for ``GridSearchCV``, ``cross_val_score`` and whatever else cuts samples by row: a mapping cannot
    be cut. :func:`equifuse.estimators.stack` makes one array of it. All three give the same model.

    A modality that is all NaN in a row is missing there; in ``predict``, a modality may also be None or left out of a
    mapping, or out of a data frame with all of its columns. A row with some NaN is refused: impute it.

    Args:
        fusion: name of a fusion, see :func:`equifuse.available_fusions`.
        modalities: modality name -> columns: a pattern (``"g_*"`` or ``"g_*, h_*"``), names, numbers, or a slice.
        dim: the fusion's common width, None for its default.
        backend: for "gmf": name of the fusion behind it, None for concatenation.
        fusion_options: further options of the fusion.
        encoder: "mlp", "identity", for sequences "mean", "max", "attention", "gru", "transformer" or "queries", or
            "auto": "attention" for sequences, else "mlp".
        hidden: widths of the encoders' layers.
        dropout: dropout of the encoders' hidden layers, in [0, 1).
        input_dropout: dropout of the encoders' inputs, in [0, 1).
        head_dropout: dropout before the head, in [0, 1).
        modality_dropout: probability with which each modality of each training sample is hidden, in [0, 1).
        class_weight: class -> factor of its samples in the loss, "balanced" for the inverse of the frequency, or None.
        label_smoothing: share of the probability spread over all classes in training, in [0, 1).
        epochs: most passes over the samples, ≥ 1.
        patience: epochs without a better validation loss after which training stops, ≥ 1.
        validation_fraction: share of the samples held out for early stopping, in (0, 1), stratified; the model is that
            of the best epoch. None trains on all samples, for all epochs.
        batch_size: samples per step, ≥ 1.
        lr: AdamW's learning rate, > 0.
        weight_decay: AdamW's, ≥ 0.
        accelerator: what training runs on: "cpu", "gpu" or "auto".
        dtype: "float32" or "float64".
        random_state: of the held-out samples, initial weights, order of the samples and dropout: a seed, a
            ``numpy.random.RandomState``, or None for NumPy's global one.

    Attributes:
        classes_: the classes, sorted.
        model_: the trained :class:`~equifuse.FusionModel`, in evaluation mode; ``model_.save(path)`` stores it.
        history_: one row of numbers per epoch: losses, and metrics of the held-out samples.
        n_iter_: epochs trained, or calls of ``partial_fit``.
        n_features_in_: columns of ``X``; of a data frame with ``modalities``, those used; of a mapping, all features.
        feature_names_in_: their names, where ``X`` is a data frame.
    """

    _task: ClassVar[str] = "classification"

    def __init__(
        self,
        fusion: str = "deq",
        *,
        modalities: Mapping[str, Columns] | None = None,
        dim: int | None = None,
        backend: str | None = None,
        fusion_options: Mapping[str, Any] | None = None,
        encoder: str = "auto",
        hidden: tuple[int, ...] = (128,),
        dropout: float = 0.3,
        input_dropout: float = 0.0,
        head_dropout: float = 0.0,
        modality_dropout: float = 0.0,
        class_weight: Mapping[Any, float] | str | None = None,
        label_smoothing: float = 0.0,
        epochs: int = 100,
        patience: int = 15,
        validation_fraction: float | None = 0.2,
        batch_size: int = 64,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        accelerator: str = "cpu",
        dtype: str = "float32",
        random_state: Any = None,
    ) -> None:
        self.fusion = fusion
        self.modalities = modalities
        self.dim = dim
        self.backend = backend
        self.fusion_options = fusion_options
        self.encoder = encoder
        self.hidden = hidden
        self.dropout = dropout
        self.input_dropout = input_dropout
        self.head_dropout = head_dropout
        self.modality_dropout = modality_dropout
        self.epochs = epochs
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.accelerator = accelerator
        self.dtype = dtype
        self.random_state = random_state
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing

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

    def _encode(self, y: NDArray[Any], anew: bool) -> NDArray[np.int64]:
        check_classification_targets(y)
        if anew:
            self.classes_, codes = np.unique(y, return_inverse=True)
            return codes.astype(np.int64)
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise DataError(f"label {unknown.tolist()[0]!r} is not among the classes {self.classes_.tolist()}")
        return np.searchsorted(self.classes_, y).astype(np.int64)

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
