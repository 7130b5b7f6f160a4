"""Predict the features of one modality from the others, through what the model makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from equifuse.data import Split
from equifuse.data.assemble import ROW
from equifuse.data.loaders import batches_of
from equifuse.data.options import SourceOptions
from equifuse.errors import InputError, UnknownNameError
from equifuse.explain.attribution import feature_names
from equifuse.explain.embeddings import FUSED, embeddings
from equifuse.explain.targets import evaluating
from equifuse.fusion import GMF
from equifuse.runs.folder import PathLike, Run, load_run
from equifuse.runs.output import check_output, write_columns
from equifuse.runs.samples import ALL, samples_of
from equifuse.tasks import Columns

# Strengths of the ridge, of which validation chooses.
_STRENGTHS = np.logspace(-1, 5, 13)
_LEAST = 10
# What the features are predicted from.
FUSED_VECTOR, RECONSTRUCTION = "fused vector", "reconstruction"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Imputed:
    """The result of :func:`impute_run`.

    >>> run = train(TrainConfig("digits", fusion="gmf", epochs=1), "run", progress=False).path
    >>> found = impute_run(run, "zernike", split="test")
    >>> found.values.shape, bool(found.imputed.any()), found.median > 0.3  # nothing is missing there
    ((359, 47), False, True)

    Attributes:
        modality: its name.
        names: of its features.
        values: ``(n, l)``, measured where there is a measurement, predicted where there is none.
        imputed: bool ``(n,)``, which rows are predicted.
        r2: by feature, on the run's test part, whose own values are hidden: 1 is perfect, 0 as good as the mean.
        about: id, part and kept columns of each row.
        notes: what was understood of other data.
        through: what the features are predicted from: "fused vector", or "reconstruction" of the fusion.
        errors: mean squared error on validation through each, in variances of the features; the least was chosen.
    """

    modality: str
    names: tuple[str, ...]
    values: Floats
    imputed: NDArray[np.bool_]
    r2: dict[str, float]
    about: Columns
    notes: list[str] = field(default_factory=list)
    through: str = FUSED_VECTOR
    errors: dict[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Of the features' R²."""
        return float(np.median(list(self.r2.values())))

    def columns(self) -> Columns:
        """A table: what is known of the rows, whether they are predicted, and the features."""
        return {**self.about, "imputed": self.imputed, **dict(zip(self.names, self.values.T, strict=True))}


def impute_run(
    run: PathLike,
    modality: str,
    data: str | None = None,
    split: str | None = None,
    *,
    source: SourceOptions | Mapping[str, Any] | None = None,
    out: PathLike | None = None,
) -> Imputed:
    """Predict the features of a modality where it is missing, from the other modalities.

    >>> run = train(TrainConfig("digits", fusion="gmf", epochs=1), "run", progress=False).path
    >>> found = impute_run(run, "zernike", split="test", out="zernike.csv")
    >>> len(found.r2)
    47

    The model fuses each sample without the modality; a ridge regression from the fused vector to the features, fitted
    on the training rows that have it, with a strength chosen on validation, predicts them. So it works with any fusion.
    Where the fusion reconstructs its inputs (gmf, scfae), the same is done from what it reconstructs of the encoded
    modality, and validation chooses. How well it does is measured on the test rows that have the modality.

    Args:
        run: the run folder; its data have to be there still.
        modality: of vectors of numbers.
        data: name or path of other data; default the run's own.
        split: a part; default all rows.
        source: which columns and files of other data are what; columns to ``keep``.
        out: table to create: CSV, Parquet, Excel or ``.npz``; None for none.

    Raises:
        OutputExistsError: ``out`` exists.
        DataError: no finished run there, or data that cannot be used.
        UnknownNameError: an unknown modality.
        InputError: it is the only one, or holds something else than vectors of numbers, or too few rows have it.
    """
    if out is not None:
        check_output(Path(out))
    opened = load_run(run)
    model = opened.model
    if modality not in model.modalities:
        raise UnknownNameError("modality", modality, model.modalities)
    if len(model.modalities) < 2:
        raise InputError(f"{modality!r} is the only modality; there is nothing to predict it from")
    if len(model.shapes[modality]) != 1 or modality in model.schema:
        raise InputError(f"modality {modality!r} is not of vectors of numbers, which alone can be predicted")
    own = opened.dataset().splits
    samples, notes = samples_of(
        opened, data, split or (ALL if data is None else None), SourceOptions.of(source), labelled=False
    )
    x, y = _pairs(opened, own["train"], modality)
    val_x, val_y = _pairs(opened, own["val"], modality)
    fitted = {through: _fitted(x[through], y, val_x[through], val_y) for through in x}
    errors = {through: error for through, (_, error) in fitted.items()}
    through = min(errors, key=errors.__getitem__)
    predict = fitted[through][0]
    names = feature_names(model, modality, model.shapes[modality])
    test_x, test_y = _pairs(opened, own["test"], modality)
    left = np.nansum((test_y - predict(test_x[through])) ** 2, axis=0)
    whole = np.nansum((test_y - np.nanmean(y, axis=0)) ** 2, axis=0)
    r2 = {name: float(1 - a / b) if b > 0 else 0.0 for name, a, b in zip(names, left, whole, strict=True)}
    there = _has(samples, modality)
    values = predict(_fused(opened, samples, modality)[through])
    if modality in samples.inputs:
        known = np.asarray(samples.inputs[modality][np.arange(len(samples))], dtype=np.float64)
        values = np.where(there[:, None] & ~np.isnan(known), known, values)
    about: Columns = {ROW: np.arange(len(samples))} if samples.ids is None else {"id": np.asarray(samples.ids)}
    about |= {name: column for name, column in samples.columns.items() if name not in about}
    found = Imputed(modality, names, values, ~there, r2, about, notes, through, errors)
    if out is not None:
        write_columns(Path(out), found.columns())
    return found


def _has(split: Split, m: str) -> NDArray[np.bool_]:
    if m not in split.inputs:
        return np.zeros(len(split), dtype=np.bool_)
    return split.present.get(m, np.ones(len(split), dtype=np.bool_))


def _fused(run: Run, split: Split, m: str) -> dict[str, Floats]:
    """Fused vectors of samples whose modality is hidden, and what the fusion reconstructs of it."""
    hidden, model = split.without([m]) if m in split.inputs else split, run.model
    found = {FUSED_VECTOR: embeddings(model, batches_of(hidden))[FUSED]}
    if isinstance(model.fusion, GMF):
        pieces = []
        with evaluating(model) as device, torch.no_grad():
            for batch in (batch.to(device) for batch in batches_of(hidden)):
                present = model.presence(batch.inputs, batch.present, lengths=batch.lengths)
                encoded = model.encode(batch.inputs, present, lengths=batch.lengths)
                pieces.append(model.fusion.reconstructions(encoded, present)[m].flatten(1).double().cpu().numpy())
        found[RECONSTRUCTION] = np.concatenate(pieces)
    return found


def _pairs(run: Run, split: Split, m: str) -> tuple[dict[str, Floats], Floats]:
    """:func:`_fused` without the modality, and its features, of the rows that have it and another one."""
    other = np.any([_has(split, name) for name in run.model.modalities if name != m], axis=0)
    rows = np.flatnonzero(_has(split, m) & other)
    if len(rows) < _LEAST:
        raise InputError(f"{len(rows)} rows of a part have {m!r} and another modality; at least {_LEAST} are needed")
    some = split.select(rows)
    return _fused(run, some, m), np.asarray(some.inputs[m][np.arange(len(some))], dtype=np.float64)


def _fitted(x: Floats, y: Floats, val_x: Floats, val_y: Floats) -> tuple[Any, float]:
    """A function from vectors to features, and its error on validation."""
    from sklearn.linear_model import Ridge  # noqa: PLC0415 - it takes a second to import
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    mean, spread = np.nanmean(y, axis=0), np.nanstd(y, axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    scaled = np.nan_to_num((y - mean) / spread)
    wanted = (val_y - mean) / spread

    def error(model: Any) -> float:
        return float(np.nanmean((model.predict(val_x).reshape(wanted.shape) - wanted) ** 2))

    fitted = [make_pipeline(StandardScaler(), Ridge(strength)).fit(x, scaled) for strength in _STRENGTHS]
    best = min(fitted, key=error)
    return lambda new: best.predict(new).reshape(len(new), -1) * spread + mean, error(best)
