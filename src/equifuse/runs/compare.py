"""A run's own test part beside other data: scores, certainty, and which features have moved."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from equifuse.data.loaders import batches_of
from equifuse.data.options import SourceOptions
from equifuse.errors import ConvergenceWarning
from equifuse.evaluation.shift import Shift, shifts
from equifuse.explain.attribution import feature_names
from equifuse.explain.conformal import Intervals, PredictionSets
from equifuse.explain.explanation import certainty
from equifuse.runs.evaluate import Measured, measure_run
from equifuse.runs.folder import PathLike, load_run
from equifuse.runs.samples import samples_of


@dataclass(frozen=True)
class Comparison:
    """The result of :func:`compare_run`.

    >>> run = train(TrainConfig("digits", fusion="concat", epochs=1), "run", progress=False).path
    >>> found = compare_run(run, "digits", intervals=False)
    >>> found.internal.n, found.external.n, sum(shift.moved for shift in found.shifts)
    (359, 1797, 0)

    Attributes:
        internal: on the run's own test part.
        external: on the other data.
        shifts: every feature, the one that has moved most first.
        missing: modality -> share of samples without it, in training and in the other data.
        certainty: ``"internal"`` and ``"external"`` -> sets or intervals that promise a coverage, calibrated on the
            run's validation part; {} where the task has none.
        notes: what looks wrong, in words.
    """

    internal: Measured
    external: Measured
    shifts: list[Shift]
    missing: dict[str, tuple[float, float]]
    certainty: dict[str, PredictionSets | Intervals]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the features."""
        return {
            "internal": self.internal.to_dict(),
            "external": self.external.to_dict(),
            "moved": sum(shift.moved for shift in self.shifts),
            "features": len(self.shifts),
            "missing": {m: list(shares) for m, shares in self.missing.items()},
            "certainty": {name: found.summary() for name, found in self.certainty.items()},
            "notes": self.notes,
        }


def compare_run(
    run: PathLike,
    data: str,
    *,
    source: SourceOptions | Mapping[str, Any] | None = None,
    by: str | None = None,
    intervals: bool = True,
) -> Comparison:
    """Compare a run's own test part with other data.

    >>> run = train(TrainConfig("digits", fusion="concat", epochs=1), "run", progress=False).path
    >>> found = compare_run(run, "digits", intervals=False)
    >>> found.external.metrics["accuracy"] > 0.7
    True

    Args:
        run: the run folder; its data have to be there still.
        data: name or path of the other data, with targets; all rows are measured.
        source: which of their columns and files are what.
        by: column of the other data, such as the site: also measure each of its values.
        intervals: whether to draw bootstrap samples.

    Raises:
        DataError: no finished run there, or data that cannot be used or do not fit the model.
        UnknownNameError: an unknown data set, modality or class.
        InputError: an option is missing.
    """
    opened = load_run(run)
    own = opened.dataset()
    internal = measure_run(run, intervals=intervals)
    external = measure_run(run, data, source=source, by=by, intervals=intervals)
    train = own.splits["train"]
    samples, _ = samples_of(opened, data, source=SourceOptions.of(source))
    names = {m: feature_names(opened.model, m, shape) for m, shape in own.shapes.items()}
    moved = shifts(train, samples, names)
    missing = {m: (_share(train, m), _share(samples, m)) for m in own.modalities}
    sure: dict[str, PredictionSets | Intervals] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for name, split in (("internal", own.splits["test"]), ("external", samples)):
            found = certainty(opened.model, opened.task, opened.validation(), batches_of(split))
            if found is not None:
                sure[name] = found
    notes = [*external.notes]
    far = [f"{shift.feature} of {shift.modality}" for shift in moved if shift.moved]
    if far:
        verb = "has" if len(far) == 1 else "have"
        notes.append(f"{len(far)} of {len(moved)} features {verb} moved, such as {', '.join(far[:3])}")
    for m, (before, now) in missing.items():
        if now > before + 0.2:
            notes.append(f"modality {m!r} is missing in {now:.0%} of the samples, in training in {before:.0%}")
    notes += [f"{name} data: conformal prediction {found.warning}" for name, found in sure.items() if found.warning]
    return Comparison(internal, external, moved, missing, sure, notes)


def _share(split: Any, m: str) -> float:
    if m not in split.inputs:
        return 1.0
    mask = split.present.get(m)
    return 0.0 if mask is None else float(1 - mask.mean())
