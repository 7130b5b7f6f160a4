"""What a search gives: the leaderboard, the weights, and the report in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from equifuse._display import html_table, short_text
from equifuse.files import read_json
from equifuse.records import OPTIONAL, Record

ENSEMBLE = "ensemble"
_NONE = "–"


@dataclass(frozen=True, eq=False, kw_only=True)
class Entry(Record):
    """A line of the leaderboard.

    >>> Entry(method="late", settings={"fusion": "late"}, models=5, loss=0.41, score=0.85).score
    0.85

    Attributes:
        method: name of the candidate, or ``"ensemble"``.
        settings: what was set of a training.
        models: how many were trained.
        loss: what was selected by, on rows that the models were not trained on; where modalities are expected to be
            missing, with as many missing.
        score: the task's headline metric of the same rows, as they are.
        expected_score: the same with as many modalities missing as are expected to be; None where none are.
        test: the headline metric on test, measured once after the selection; None where there is no test part, or no
            time was left.
        expected_test: the same with as many modalities missing as are expected to be.
        weight: its share of the ensemble.
        fit_seconds: of all its trainings.
        predict_seconds: for 1,000 rows.
        megabytes: of the stored models.
        note: why it was not trained on all folds; None where it was.
    """

    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    models: int = 0
    loss: float | None = None
    score: float | None = None
    expected_score: float | None = field(default=None, metadata=OPTIONAL)
    test: float | None = None
    expected_test: float | None = field(default=None, metadata=OPTIONAL)
    weight: float = 0.0
    fit_seconds: float = 0.0
    predict_seconds: float = 0.0
    megabytes: float = 0.0
    note: str | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class AutoResult(Record):
    """The result of :func:`equifuse.auto.auto`.

    >>> entries = [Entry(method="ensemble", models=10, loss=0.38, score=0.86), Entry(method="late", loss=0.41)]
    >>> found = AutoResult(
    ...     path="run", task="classification", headline="accuracy", selected_by="loss", entries=entries, report=["..."]
    ... )
    >>> found.best.method
    'late'

    Attributes:
        path: the run folder; the best single method is in ``best`` within.
        task: name of the task.
        headline: the metric that is shown.
        selected_by: the metric that decided.
        entries: the leaderboard, the ensemble first, then from the best method to those that were given up.
        report: what was found, in sentences.
        seconds: that it took.
    """

    path: str
    task: str
    headline: str
    selected_by: str
    entries: list[Entry]
    report: list[str]
    seconds: float = 0.0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From what ``auto.json`` holds."""
        return super().from_dict({**values, "entries": [Entry.from_dict(entry) for entry in values["entries"]]})

    @classmethod
    def read(cls, path: Path) -> Self:
        """From an ``auto.json``."""
        return cls.from_dict(read_json(path))

    @property
    def best(self) -> Entry:
        """The best single method."""
        return next(entry for entry in self.entries if entry.method != ENSEMBLE)

    @property
    def leaderboard(self) -> list[dict[str, Any]]:
        """The entries as rows of plain values, such as ``pandas.DataFrame`` takes."""
        return [entry.to_dict() for entry in self.entries]

    def table(self, full: bool = False) -> tuple[list[str], list[list[str]]]:
        """The leaderboard as text: header and rows.

        Args:
            full: also what predictions cost, and why a method was given up.
        """
        columns = {
            "method": [e.method for e in self.entries],
            f"val {self.selected_by}": [_number(e.loss) for e in self.entries],
            f"val {self.headline}": [_number(e.score) for e in self.entries],
            f"val {self.headline}, missing": [_number(e.expected_score) for e in self.entries],
            f"test {self.headline}": [_number(e.test) for e in self.entries],
            f"test {self.headline}, missing": [_number(e.expected_test) for e in self.entries],
            "weight": [f"{e.weight:.2f}" if e.weight else "" for e in self.entries],
            "models": [str(e.models) for e in self.entries],
            "fit s": [f"{e.fit_seconds:.1f}" for e in self.entries],
        }
        if full:
            columns["s per 1,000"] = [f"{e.predict_seconds:.2g}" for e in self.entries]
            columns["MB"] = [f"{e.megabytes:.1f}" for e in self.entries]
            columns["note"] = [e.note or "" for e in self.entries]
        shown = {name: cells for name, cells in columns.items() if set(cells) != {_NONE}}
        return list(shown), [list(row) for row in zip(*shown.values(), strict=True)]

    def __repr__(self) -> str:
        return short_text(f"AutoResult {self.path!r}", self.table()[1])

    def _repr_html_(self) -> str:
        return html_table(f"Leaderboard of {self.path}", *self.table())


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.4f}"
