"""A data set: splits of modalities, presence and targets, in memory or on disk, checked when it is made."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from equifuse._display import html_table, short_text
from equifuse.data.columns import Columns
from equifuse.data.lazy import Features, Floats, Indices, LazyArray, SharedRows, blocks, in_memory, select
from equifuse.data.sources import SourceFile
from equifuse.errors import DataError, InputError, UnknownNameError
from equifuse.registry import TASKS

if TYPE_CHECKING:
    from equifuse.data.contents import Content

Array = NDArray[np.generic]
PARTS = ("train", "val", "test")


def _is_text(name: object) -> bool:
    """Whether a name can be written down: what comes from undecodable bytes cannot."""
    try:
        return isinstance(name, str) and bool(name.encode())
    except UnicodeEncodeError:
        return False


@dataclass(frozen=True)
class Split:
    """One part of a data set: features of each modality, which samples have them, targets and ids.

    >>> split = ef.datasets.Split({"a": np.zeros((4, 3), np.float32)}, target=np.array([0, 1, 0, 1]))
    >>> len(split), split.select(np.array([0, 2])).target.tolist()
    (4, [0, 0])

    Attributes:
        inputs: modality name -> float32 ``(n, *shape)``, an array or a :class:`~equifuse.data.lazy.LazyArray` on disk.
        present: modality name -> bool ``(n,)``, True where present; a modality without a key is present in every row.
            Rows of an absent modality hold NaN.
        target: int64 ``(n,)`` class indices, or float32 ``(n, K)`` for regression and multilabel, or float32 ``(n, 2)``
            for survival (time, and 1 where the event was seen), or None (retrieval without labels).
        ids: ``(n,)`` row identifiers, or None.
        lengths: modality name -> int64 ``(n,)``, numbers of valid steps of sequences ``(n, T, l)``; a modality without
            a key has no padding.
        weight: ``(n,)``, ≥ 0, weight of each row in the loss and in preprocessing; None for equal weights.
        columns: name -> ``(n,)``, further columns of the source by which rows are split or compared, such as the
            patient or the site; no model sees them.
    """

    inputs: dict[str, Features]
    present: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    target: Array | None = None
    ids: Array | None = None
    lengths: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    weight: NDArray[np.floating[Any]] | None = None
    columns: dict[str, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def __repr__(self) -> str:
        rows = [[m, *self._facts(m)] for m in self.inputs]
        return short_text(f"Split: {len(self)} rows, {len(self.inputs)} modalities{self._target_fact()}", rows)

    def _repr_html_(self) -> str:
        title = f"Split: {len(self)} rows{self._target_fact()}"
        return html_table(title, ["modality", "shape", "present"], [[m, *self._facts(m)] for m in self.inputs])

    def _facts(self, modality: str) -> list[str]:
        """Shape of a row, and the share of the rows that have the modality."""
        present = float(self.present[modality].mean()) if modality in self.present and len(self) else 1.0
        return [" x ".join(map(str, self.inputs[modality].shape[1:])), f"{present:.0%} present"]

    def _target_fact(self) -> str:
        return ", no target" if self.target is None else f", target {self.target.dtype}{self.target.shape}"

    @property
    def on_disk(self) -> bool:
        """Whether the rows of some modality are read only when they are needed."""
        return any(isinstance(x, LazyArray) for x in self.inputs.values())

    def without(self, modalities: Iterable[str]) -> Split:
        """The same samples without whole modalities.

        Raises:
            UnknownNameError: a modality that the split does not have.
            InputError: no modality would remain.
        """
        dropped = set(modalities)
        for name in sorted(dropped):
            if name not in self.inputs:
                raise UnknownNameError("modality", name, self.inputs)
        if dropped == set(self.inputs):
            raise InputError(f"all modalities ({', '.join(self.inputs)}) were taken away; at least one must stay")
        return Split(
            {m: x for m, x in self.inputs.items() if m not in dropped},
            {m: mask for m, mask in self.present.items() if m not in dropped},
            self.target,
            self.ids,
            {m: steps for m, steps in self.lengths.items() if m not in dropped},
            self.weight,
            self.columns,
        )

    def select(self, rows: Indices) -> Split:
        """The given rows as a new split; features on disk stay there."""
        return Split(
            {m: select(x, rows) for m, x in self.inputs.items()},
            {m: mask[rows] for m, mask in self.present.items()},
            None if self.target is None else self.target[rows],
            None if self.ids is None else self.ids[rows],
            {m: steps[rows] for m, steps in self.lengths.items()},
            None if self.weight is None else self.weight[rows],
            {name: column[rows] for name, column in self.columns.items()},
        )

    def labelled(self) -> Split:
        """The rows that weigh something: of a data set those that have a target."""
        if self.weight is None or bool((self.weight > 0).all()):
            return self
        return self.select(np.flatnonzero(self.weight > 0))

    def joined(self, *others: Split) -> Split:
        """These rows and those of other splits of the same modalities, in memory."""
        splits = (self, *others)

        def rows(values: Iterable[Any]) -> Any:
            return np.concatenate(list(values))

        def where_some_have(name: str, otherwise: Callable[[Split, str], Any]) -> dict[str, Any]:
            of = [getattr(split, name) for split in splits]
            keys = dict.fromkeys(m for each in of for m in each)
            return {
                m: rows(each[m] if m in each else otherwise(split, m) for each, split in zip(of, splits, strict=True))
                for m in keys
            }

        weighted = any(split.weight is not None for split in splits)
        columns = [name for name in self.columns if all(name in split.columns for split in splits)]
        return Split(
            {m: rows(in_memory(split.inputs[m]) for split in splits) for m in self.inputs},
            where_some_have("present", lambda split, _: np.ones(len(split), np.bool_)),
            None if any(s.target is None for s in splits) else rows(s.target for s in splits),
            None if any(s.ids is None for s in splits) else rows(s.ids for s in splits),
            where_some_have("lengths", lambda split, m: np.full(len(split), split.inputs[m].shape[1])),
            rows(np.ones(len(s)) if s.weight is None else s.weight for s in splits) if weighted else None,
            {name: rows(split.columns[name] for split in splits) for name in columns},
        )


@dataclass(frozen=True)
class MultimodalDataset:
    """A data set: train, val and test splits of several modalities, and a task.

    >>> data = ef.datasets.load("digits")
    >>> data.modalities, len(data.splits["train"])
    (('pixels', 'fourier', 'zernike', 'profiles', 'morphology'), 1079)

    Attributes:
        name: for reports.
        splits: ``"train"``, ``"val"`` and ``"test"``.
        task: "classification", "multilabel", "regression", "retrieval", "survival", or a registered one.
        classes: names of the classes or targets, or None.
        features: modality name -> names of its features, where a source has them, or None.
        of_model: whether the classes are those of a trained model: the training part need not have every one.
        drawn: the parts that were split off when the set was read, because its source does not have them.
        sources: what was understood of the files it was read from, where they say.
        schema: modality name -> what the columns of its table hold, where they are not all numbers; {} for numbers.
        contents: modality name -> what its numbers stand for, where they are no measurements: words, pixels, regions.

    Raises:
        DataError: the splits disagree, a row holds infinity, or labels do not fit the task.
        UnknownNameError: an unknown task.
    """

    name: str
    splits: dict[str, Split]
    task: str
    classes: tuple[str, ...] | None = None
    features: dict[str, tuple[str, ...]] | None = None
    drawn: tuple[str, ...] = ()
    sources: tuple[SourceFile, ...] = ()
    schema: dict[str, Columns] = field(default_factory=dict)
    of_model: bool = False
    contents: dict[str, Content] = field(default_factory=dict)

    def __post_init__(self) -> None:
        TASKS.get(self.task)
        missing = [part for part in PARTS if part not in self.splits]
        if missing:
            raise DataError(f"data set {self.name!r} has no {missing[0]!r} split")
        for part, split in self.splits.items():
            self._check_split(part, split)
        self._check_labels()

    def __repr__(self) -> str:
        return short_text(self._title(), [["modality", "shape", *PARTS], *self._table()])

    def _repr_html_(self) -> str:
        return html_table(self._title(), ["modality", "shape", *PARTS], self._table())

    def _title(self) -> str:
        called = TASKS.get(self.task).targets.outputs_called
        outputs = f", {self.n_outputs} {called}" if self.n_outputs else ""
        return f"MultimodalDataset {self.name!r}: {self.task}{outputs}"

    def _table(self) -> list[list[str]]:
        """The number of rows of each part, in all and with each modality."""
        sizes = [str(len(self.splits[part])) for part in PARTS]
        rows = [["all rows", "", *sizes]]
        for m, shape in self.shapes.items():
            masks = [self.splits[part].present.get(m) for part in PARTS]
            counts = [size if mask is None else str(int(mask.sum())) for mask, size in zip(masks, sizes, strict=True)]
            rows.append([m, " x ".join(map(str, shape)), *counts])
        return rows

    def _check_split(self, part: str, split: Split) -> None:
        reference = self.splits["train"]
        if list(split.inputs) != list(reference.inputs) or not split.inputs:
            raise DataError(
                f"split {part!r} of {self.name!r} has modalities {list(split.inputs)}, 'train' has "
                f"{list(reference.inputs)}; all splits need the same, in the same order"
            )
        rows = len(split)
        if rows == 0:
            raise DataError(f"split {part!r} of {self.name!r} has no rows")
        check_rows(split, f"split {part!r} of {self.name!r}")
        for m, x in split.inputs.items():
            if not _is_text(m):
                raise DataError(f"modality {m!r} of {self.name!r} has a name that is no text; rename it")
            if x.shape[1:] != reference.inputs[m].shape[1:] or x.ndim < 2:
                raise DataError(
                    f"modality {m!r} has shape {x.shape[1:]} in split {part!r}, "
                    f"{reference.inputs[m].shape[1:]} in 'train'"
                )
            check_finite(m, x, split.present.get(m), f"split {part!r}")
        for m, steps in split.lengths.items():
            if m not in split.inputs or split.inputs[m].ndim < 3 or len(steps) != rows:
                raise DataError(f"lengths of {m!r} in split {part!r} need a sequence (n, T, l) and {rows} rows")
            if steps.min() < 0 or steps.max() > split.inputs[m].shape[1]:
                raise DataError(f"lengths of {m!r} in split {part!r} must be from 0 to {split.inputs[m].shape[1]}")
        check_weight(split.weight, rows, f"split {part!r}")

    def _check_labels(self) -> None:
        kind = TASKS.get(self.task).targets
        targets = {part: split.target for part, split in self.splits.items()}
        if kind.optional and all(target is None for target in targets.values()):
            return
        for part, target in targets.items():
            if target is None:
                raise DataError(f"split {part!r} of {self.name!r} has no labels; task {self.task!r} needs them")
        if self.of_model and self.classes is not None and all(y is None or y.ndim == 1 for y in targets.values()):
            return
        kind.check({part: y for part, y in targets.items() if y is not None}, self.classes, self.task)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modality names in order."""
        return tuple(self.splits["train"].inputs)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one row of each modality."""
        return {m: x.shape[1:] for m, x in self.splits["train"].inputs.items()}

    @property
    def dims(self) -> dict[str, int]:
        """Flattened width of each modality."""
        return {m: math.prod(shape) for m, shape in self.shapes.items()}

    @property
    def n_outputs(self) -> int:
        """Number of classes, labels or targets, 1 for survival; 0 for retrieval without labels."""
        target = self.splits["train"].target
        kind = TASKS.get(self.task).targets
        if (self.of_model or kind.mixes or kind.named) and self.classes is not None:
            return len(self.classes)
        return 0 if target is None else kind.n_outputs(target)

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of a SHA-256 over all values and splits: equal data, equal digits."""
        digest = hashlib.sha256()
        for part in PARTS:
            split = self.splits[part]
            # A mask that hides nothing is none.
            masks = {f"{m}/present": mask for m, mask in split.present.items() if not mask.all()}
            arrays: Mapping[str, Features | Array | None] = {**split.inputs, **masks, "target": split.target}
            arrays = {**arrays, "weight": split.weight}
            for m, steps in split.lengths.items():
                arrays = {**arrays, f"{m}/lengths": steps}
            for key, array in arrays.items():
                digest.update(f"{part}/{key}".encode())
                if isinstance(array, SharedRows):
                    digest.update(array.digest())
                elif isinstance(array, LazyArray):
                    digest.update(f"float32{array.shape}".encode())
                    for _, block in blocks(array):
                        digest.update(block.tobytes())
                elif array is not None:
                    digest.update(f"{array.dtype}{array.shape}".encode())
                    digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]


def check_rows(split: Split, where: str) -> None:
    """Refuse what does not have one entry for each row, and modalities without features.

    Raises:
        DataError: naming it.
    """
    rows = len(split)
    beside = {"labels": split.target, "ids": split.ids, "weights": split.weight}
    beside |= {f"entries of column {name!r}": column for name, column in split.columns.items()}
    beside |= {f"entries in the mask of {m!r}": mask for m, mask in split.present.items()}
    beside |= {f"lengths of {m!r}": steps for m, steps in split.lengths.items()}
    for m, x in split.inputs.items():
        if len(x) != rows:
            raise DataError(f"modality {m!r} has {len(x)} rows in {where}, others have {rows}")
        if 0 in x.shape[1:]:
            raise DataError(
                f"modality {m!r} has no features in {where}, its rows have shape {x.shape[1:]}; leave it out"
            )
    for what, values in beside.items():
        if values is not None and (np.ndim(values) == 0 or len(values) != rows):
            raise DataError(f"{where} has {np.size(values)} {what} for {rows} rows")


def check_finite(modality: str, x: Features, present: NDArray[np.bool_] | None, where: str) -> None:
    """Refuse infinity in rows that count as present; NaN is an empty cell.

    Raises:
        DataError: naming the modality and the number of rows.
    """
    if isinstance(x, LazyArray) and x.checks_itself:
        return
    pieces = [np.isinf(_flat(block)).any(axis=1) for _, block in blocks(x)]
    bad = np.concatenate(pieces) if pieces else np.zeros(0, bool)
    if present is not None:
        bad &= present
    if bad.any():
        raise DataError(
            f"modality {modality!r} has infinite values in {int(bad.sum())} of {len(x)} rows of {where}; "
            "make them NaN where they mean that nothing was measured"
        )


def check_weight(weight: NDArray[np.floating[Any]] | None, rows: int, where: str) -> None:
    """Refuse weights of samples that are none.

    Raises:
        DataError: not one per row, negative, not finite, or all 0.
    """
    if weight is None:
        return
    fits = weight.shape == (rows,) and bool(np.isfinite(weight).all()) and bool((weight >= 0).all())
    if not fits or not weight.any():
        raise DataError(f"weights of {where} must be {rows} numbers of at least 0, not all zero")


def missing_rows(x: Features) -> NDArray[np.bool_] | None:
    """Bool ``(n,)`` presence of a modality whose missing rows are all NaN; None if no row is missing."""
    if math.prod(x.shape) == 0:
        return None
    if isinstance(x, SharedRows):
        return ~x.missing() if x.missing().any() else None
    pieces = [~np.isnan(_flat(block)).all(axis=1) for _, block in blocks(x)]
    present = np.asarray(np.concatenate(pieces), dtype=np.bool_)
    return None if present.all() else present


def _flat(x: Floats) -> Floats:
    return x.reshape(len(x), math.prod(x.shape[1:]))
