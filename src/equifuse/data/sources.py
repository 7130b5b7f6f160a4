"""What was understood of the files of a data set: rows, columns, ids, and how they fit together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from equifuse.data.columns import Columns, said_of_columns
from equifuse.data.ids import Matched
from equifuse.data.lazy import share_of_gaps


@dataclass(frozen=True)
class SourceFile:
    """What was understood of one file.

    >>> print(SourceFile("rna.tsv", 3, 500, ("separator tab",), "rna", Matched(2, (1, ("p3",)), (1, ("x9",)))))
    rna.tsv (rna): 3 rows, 500 columns; separator tab; 2 of 3 ids found; none for 1 id, such as p3; 1 row is of no other
    id, such as x9

    Attributes:
        path: of the file.
        rows: that it has.
        columns: that it has.
        facts: about its form.
        modality: that it holds; None for the table that the others are joined to.
        ids: how its ids fit those of that table; None where it was not joined by them.
        schema: what its columns hold, where they are not all numbers.
    """

    path: str
    rows: int
    columns: int
    facts: tuple[str, ...] = ()
    modality: str | None = None
    ids: Matched | None = None
    schema: Columns = ()

    def __str__(self) -> str:
        name = self.path if self.modality is None else f"{self.path} ({self.modality})"
        said = [f"{name}: {_count(self.rows, 'row')}, {_count(self.columns, 'column')}", *self.facts]
        if self.ids is not None:
            lacking, unused = self.ids.lacking, self.ids.unused
            said.append(f"{self.ids.matched} of {self.ids.matched + lacking[0]} ids found")
            if lacking[0]:
                said.append(f"none for {_count(lacking[0], 'id')}, such as {', '.join(lacking[1])}")
            if unused[0]:
                verb = "is" if unused[0] == 1 else "are"
                said.append(f"{_count(unused[0], 'row')} {verb} of no other id, such as {', '.join(unused[1])}")
            if self.ids.merged:
                said.append(f"{_count(self.ids.merged, 'row')} merged into others of the same id")
        return "; ".join(said)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        found: dict[str, Any] = {"path": self.path, "rows": self.rows, "columns": self.columns}
        if self.facts:
            found["facts"] = list(self.facts)
        if self.modality is not None:
            found["modality"] = self.modality
        if self.ids is not None:
            found |= {
                "ids_found": self.ids.matched,
                "ids_lacking": self.ids.lacking[0],
                "rows_unused": self.ids.unused[0],
                "rows_merged": self.ids.merged,
            }
        return found


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def understood(dataset: Any) -> list[str]:
    """What was understood of a data set, in lines: its files, modalities, targets and parts.

    >>> from equifuse.data import load
    >>> print(*understood(load("digits"))[-2:], sep=chr(10))
    classes: 0: 178, 1: 182, 2: 177, 3: 183, 4: 181, 5: 182, 6: 181, 7: 179, 8: 174, 9: 180
    parts: train 1,079 rows, val 359, test 359

    Args:
        dataset: a :class:`~equifuse.datasets.MultimodalDataset`.
    """
    said = [str(replace(source, path=_from_here(source.path))) for source in dataset.sources]
    splits = dataset.splits
    rows = sum(len(split) for split in splits.values())
    for m, shape in dataset.shapes.items():
        lacking = sum(int((~split.present[m]).sum()) for split in splits.values() if m in split.present)
        columns = dataset.schema.get(m, ())
        size = _count(len(columns), "column") if columns else _shape(shape)
        facts = [f"modality {m}: {size}, {_missing(lacking, rows)}", *said_of_columns(columns)]
        gaps = share_of_gaps(splits["train"].inputs[m], splits["train"].present.get(m))
        if gaps:
            facts.append(f"{gaps:.2%} of the training cells are empty, and are filled")
        said.append("; ".join(facts))
    nothing = sum(_without_any(split) for split in splits.values())
    if nothing:
        said.append(f"{_count(nothing, 'row')} without any modality")
    said += _targets(dataset)
    (first, train), *others = ((part, len(split)) for part, split in splits.items())
    said.append(", ".join([f"parts: {first} {train:,} rows", *(f"{part} {n:,}" for part, n in others)]))
    return said


def _from_here(path: str) -> str:
    """A path without the folder one is in."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def _shape(shape: Sequence[int]) -> str:
    return _count(shape[0], "feature") if len(shape) == 1 else f"shape {' x '.join(map(str, shape))}"


def _missing(lacking: int, rows: int) -> str:
    return f"missing in {lacking:,} of {rows:,} rows ({lacking / rows:.1%})" if lacking else "in all rows"


def _without_any(split: Any) -> int:
    every = [split.present.get(m) for m in split.inputs]
    masks = [mask for mask in every if mask is not None]
    return int((~np.stack(masks).any(axis=0)).sum()) if len(masks) == len(every) else 0


def _targets(dataset: Any) -> list[str]:
    from equifuse.registry import TASKS  # noqa: PLC0415 - tasks are read from here

    targets = [split.labelled().target for split in dataset.splits.values() if split.target is not None]
    if not targets:
        return ["no target"]
    return [TASKS.get(dataset.task).targets.understood(np.concatenate(targets), dataset.classes)]
