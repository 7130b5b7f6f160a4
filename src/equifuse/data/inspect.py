"""What a data set looks like, what is suspicious about it, and how to train on it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from equifuse.data.columns import kinds_of, names_of, said_of_columns
from equifuse.data.dataset import Array, MultimodalDataset, Split
from equifuse.data.lazy import Floats, in_memory, is_numeric
from equifuse.data.options import SourceOptions
from equifuse.data.tables import is_table, read_table
from equifuse.options import declarations
from equifuse.registry import TASKS

if TYPE_CHECKING:
    from equifuse.tasks.targets import Targets

# Columns are judged by at most this many rows of the training part.
_ROWS = 20_000
_LISTED = 5


@dataclass(frozen=True)
class ModalityReport:
    """One modality.

    Attributes:
        shape: of a sample.
        missing: share of samples without it, by part.
        gaps: share of empty cells in the training rows that have it.
        padded: share of padding among the steps of its sequences, or None if they have no lengths.
        constant: features with one value in the training part.
        duplicated: features that repeat an earlier one of the modality.
        leaking: features that give the target away by themselves.
    """

    shape: tuple[int, ...]
    missing: dict[str, float]
    gaps: float
    padded: float | None
    constant: list[str]
    duplicated: list[str]
    leaking: list[str]


@dataclass(frozen=True)
class Inspection:
    """A whole data set.

    Attributes:
        name: of the set.
        task: its task.
        rows: number of samples, by part.
        modalities: by name.
        balance: share of each class (or label) in the training part; empty for other tasks.
        warnings: what is suspicious, in plain words.
        command: a command line to start with.
    """

    name: str
    task: str
    rows: dict[str, int]
    modalities: dict[str, ModalityReport]
    balance: dict[str, float]
    warnings: list[str] = field(default_factory=list)
    command: str = ""


def inspect(dataset: MultimodalDataset, path: str, source: SourceOptions | None = None) -> Inspection:
    """Look at a data set.

    Args:
        dataset: what was read.
        path: from where, for the command.
        source: the options it was read with, for the command.
    """
    target = dataset.splits["train"].labelled().target
    modalities = {m: _modality(dataset, m, target) for m in dataset.modalities}
    found = Inspection(
        dataset.name,
        dataset.task,
        {part: len(split) for part, split in dataset.splits.items()},
        modalities,
        _balance(dataset),
        command=_command(dataset, path, source or SourceOptions()),
    )
    found.warnings.extend(_warnings(dataset, found))
    return found


def _names(dataset: MultimodalDataset, modality: str, width: int) -> Sequence[str]:
    columns = dataset.schema.get(modality)
    known = (dataset.features or {}).get(modality, ()) if columns is None else names_of(columns)
    return known if len(known) == width else [f"{modality}[{i}]" for i in range(width)]


def _modality(dataset: MultimodalDataset, m: str, target: Array | None) -> ModalityReport:
    train = dataset.splits["train"].labelled()
    rows = np.arange(min(len(train), _ROWS))
    mask = train.present.get(m)
    if mask is not None:
        rows = rows[mask[: len(rows)]]
    x = np.asarray(train.inputs[m][rows])
    padded = None
    if m in train.lengths:  # a feature is one of a step's, and is judged by the steps that count
        steps = train.lengths[m][rows]
        padded = 1 - float(train.lengths[m].mean()) / max(1, x.shape[1])
        x = x[np.arange(x.shape[1])[None] < steps[:, None]]
    flat = x.reshape(len(x), -1)
    names = _names(dataset, m, flat.shape[1])
    empty = np.isnan(flat)
    filled = (
        np.where(empty, np.inf, flat).min(axis=0, initial=np.inf),
        np.where(empty, -np.inf, flat).max(axis=0, initial=-np.inf),
    )
    constant = filled[0] >= filled[1] if len(flat) else np.zeros(flat.shape[1], bool)
    leaking: list[int] = []
    if target is not None and padded is None and len(flat) > 1:
        y, kind = target[rows], TASKS.get(dataset.task).targets
        leaking = [int(j) for j in np.flatnonzero(~constant) if _tells(kind, flat[:, j], y)]
    kinds = kinds_of(dataset.schema.get(m, ()))
    judged = np.array([kind != "part" for kind in kinds]) if kinds else np.ones(flat.shape[1], bool)
    return ModalityReport(
        dataset.shapes[m],
        {part: _share_missing(split, m) for part, split in dataset.splits.items()},
        float(empty.mean()) if empty.size else 0.0,
        padded,
        [names[int(j)] for j in np.flatnonzero(constant & judged)],
        [names[j] for j in _repeated(flat) if judged[j] and not constant[j]],
        [names[j] for j in leaking],
    )


def _tells(kind: Targets, feature: Floats, target: Array) -> bool:
    """Whether a feature gives the target away where it is not empty."""
    there = ~np.isnan(feature)
    return bool(there.sum() > 1 and kind.told_by(feature[there], target[there]))


def _share_missing(split: Split, m: str) -> float:
    mask = split.present.get(m)
    return 0.0 if mask is None else 1 - float(mask.mean())


def _repeated(flat: Floats) -> list[int]:
    """Columns that equal an earlier one."""
    seen: dict[bytes, int] = {}
    repeated = []
    for j in range(flat.shape[1]):
        key = np.ascontiguousarray(flat[:, j]).tobytes()
        if key in seen:
            repeated.append(j)
        seen.setdefault(key, j)
    return repeated


def _balance(dataset: MultimodalDataset) -> dict[str, float]:
    target = dataset.splits["train"].labelled().target
    shares = None if target is None else TASKS.get(dataset.task).targets.shares(target)
    if shares is None:
        return {}
    names = dataset.classes or tuple(str(i) for i in range(len(shares)))
    return {str(name): float(share) for name, share in zip(names, shares, strict=True)}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")


def _warnings(dataset: MultimodalDataset, found: Inspection) -> list[str]:
    said = []
    for m, report in found.modalities.items():
        if report.gaps:
            said.append(
                f"{m}: {report.gaps:.2%} of the cells are empty; they are filled with the training part's medians, "
                "or as --prepare impute:mean, impute:knn or impute:indicator says"
            )
        kinds = said_of_columns(dataset.schema.get(m, ()))
        if kinds:
            said.append(f"{m}: taken as {'; '.join(kinds)}; --column NAME=KIND says otherwise")
        if report.leaking:
            said.append(f"{m}: {_some(report.leaking)} tells the target alone; is it known before the target is?")
        if report.constant:
            said.append(f"{m}: {len(report.constant)} constant features ({_some(report.constant)})")
        if report.duplicated:
            said.append(f"{m}: {len(report.duplicated)} features repeat another one ({_some(report.duplicated)})")
        if max(report.missing.values()) > 0.5:
            said.append(f"{m} is missing in more than half of the samples of a part")
    weighed = "class_weights" in TASKS.options(dataset.task)
    if found.balance and weighed and min(found.balance.values()) < 0.2 / len(found.balance):
        rarest = min(found.balance, key=lambda name: found.balance[name])
        said.append(f"class {rarest} is rare ({found.balance[rarest]:.1%}): look at the macro F1, and try --balanced")
    crossing = _crossing(dataset)
    if crossing:
        said.append(f"{crossing} samples of val or test are in train as well, with the same values in all modalities")
    if min(found.rows.values()) < 30:
        said.append(f"a part has {min(found.rows.values())} samples: differences of a few points mean nothing there")
    return said


def _crossing(dataset: MultimodalDataset) -> int:
    """Rows of val and test that equal one of train in everything that they have; of what is in memory.

    Rows without any modality are no copies of each other.
    """
    if dataset.splits["train"].on_disk:
        return 0

    def keys(split: Split) -> list[int]:
        columns = [np.ascontiguousarray(in_memory(x)).reshape(len(split), -1) for x in split.inputs.values()]
        masks = [split.present.get(m) for m in split.inputs]

        def key(i: int) -> int:
            parts = [c[i].tobytes() if mask is None or mask[i] else b"" for c, mask in zip(columns, masks, strict=True)]
            return hash(tuple(parts)) if any(parts) else 0

        return [found for found in map(key, range(len(split))) if found]

    known = set(keys(dataset.splits["train"]))
    return sum(key in known for part in ("val", "test") for key in keys(dataset.splits[part]))


def _command(dataset: MultimodalDataset, path: str, source: SourceOptions) -> str:
    """The linear method first: it is fast, robust, and often as good; the equilibrium is one word away."""
    words = ["equifuse", "train", "--data", path]
    words += _flags(source)
    words += ["--fusion", "gmf"]
    train = dataset.splits["train"]
    width = sum(dataset.shapes[m][-1] if m in train.lengths else dataset.dims[m] for m in dataset.modalities)
    if width > len(train) < 1000:
        words += ["--hidden", "32", "--input-dropout", "0.5", "--weight-decay", "1"]
    if any(max(_share_missing(split, m) for split in dataset.splits.values()) > 0 for m in dataset.modalities):
        words += ["--modality-dropout", "0.2"]
    return shlex.join(words)


def _flags(source: SourceOptions) -> list[str]:
    """The options as words of a command."""
    given, words = source.given(), []
    for name, declared in declarations(SourceOptions).items():
        value, flag = given.get(name), declared.flag or "--" + name.replace("_", "-")
        if isinstance(value, dict):
            words += [word for key, entry in value.items() for word in (flag, f"{key}={entry}")]
        elif isinstance(value, list):
            words += [w for entry in value for w in ((flag,) if entry == declared.const else (flag, str(entry)))]
        elif value is not None:
            words += [flag] if declared.const is not None else [flag, str(value)]
    return words


def guess_options(path: Path) -> SourceOptions | None:
    """Groups of columns of a table by the beginnings of their names, where there are no patterns yet; None if none
    show.

    ``g_1, g_2, meth.a, meth.b`` are ``g='g_*'`` and ``meth='meth.*'``.
    """
    if not (path.is_file() and is_table(path)):
        return None
    table = read_table(path)
    groups: dict[str, list[str]] = {}
    for name in table.column_names:
        start = re.match(r"([A-Za-z][A-Za-z0-9]*?)([_.:\-]|\d)", name)
        if start and is_numeric(table.schema.field(name).type):
            separator = start[2] if not start[2].isdigit() else ""
            groups.setdefault(f"{start[1]}{separator}", []).append(name)
    patterns = {key.rstrip("_.:-"): f"{key}*" for key, names in groups.items() if len(names) > 1}
    return SourceOptions(modalities=patterns) if patterns else None
