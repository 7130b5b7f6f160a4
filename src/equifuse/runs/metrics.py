"""What a run's ``metrics.json`` holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from equifuse._display import html_table, short_text
from equifuse.errors import DataError
from equifuse.files import read_json
from equifuse.records import OPTIONAL, Record
from equifuse.training.mix import Mix

Metrics = dict[str, float | None]


@dataclass(frozen=True, eq=False)
class Convergence(Record):
    """How the equilibria of a split's samples went.

    Attributes:
        converged: share of the samples that reached the tolerance.
        mean_steps: evaluations of the map per sample.
        max_steps: the most of them.
        max_residual: the largest relative residual.
    """

    converged: float
    mean_steps: float
    max_steps: float
    max_residual: float

    @classmethod
    def of(cls, values: Mapping[str, float] | None) -> Self | None:
        """From plain values; None for a closed-form fusion."""
        return None if values is None else cls.from_dict(values)


@dataclass(frozen=True, eq=False)
class Alert(Record):
    """What the equilibrium's monitor found worrying.

    Attributes:
        epoch: counted from 1.
        message: in words.
    """

    epoch: int
    message: str


@dataclass(frozen=True, eq=False)
class MemberScore(Record):
    """One member of an ensemble.

    Attributes:
        method: what it is.
        weight: its share of the prediction.
        loss: what its training watched, on the rows that it stopped on.
        test: the headline metric on test of the member alone, where there is a test part.
        epochs: that were trained.
        seconds: of its training.
    """

    method: str
    weight: float
    loss: float
    test: float | None
    epochs: int
    seconds: float


@dataclass(frozen=True, eq=False, kw_only=True)
class RunMetrics(Record):
    """The numbers of a finished run.

    Attributes:
        val: metric -> value on validation, None where undefined; None under the loose protocol, which keeps no such
            part; of an ensemble that of members on rows that they were not trained on.
        test: the same on test.
        without: modality -> the headline metric on test with it taken away.
        train_seconds: of all epochs.
        parameters: of the model.
        convergence: on test, or None for a closed-form fusion.
        convergence_at_start: the same before training.
        epochs: that were trained.
        best_epoch: whose weights were kept, counted from 1.
        alerts: what the equilibrium's monitor found worrying.
        protocol: its name, and what it means.
        undefined: part -> metric -> why it has no value; None where all have one.
        alone: modality -> the headline metric on test of what it says alone, from the same model, over the samples that
            have it; None where the model has no such outputs.
        mix: of what the fusion and the modalities alone say; None where it was not fitted.
        soup: the epochs whose weights the model has the mean of, from 1; None unless asked for.
        members: of an ensemble; None for a single model.
        notes: what looks wrong, such as classes that are never predicted on test, scores that need no features, or a
            linear model that does better on validation; None where nothing does.
    """

    val: Metrics | None = field(default=None, metadata=OPTIONAL)
    test: Metrics
    without: Metrics = field(default_factory=dict)
    train_seconds: float
    parameters: int
    convergence: Convergence | None = None
    convergence_at_start: Convergence | None = None
    epochs: int
    best_epoch: int
    alerts: list[Alert] = field(default_factory=list)
    protocol: str = "clean"
    undefined: dict[str, dict[str, str]] | None = field(default=None, metadata=OPTIONAL)
    notes: list[str] | None = field(default=None, metadata=OPTIONAL)
    alone: Metrics | None = field(default=None, metadata=OPTIONAL)
    mix: Mix | None = field(default=None, metadata=OPTIONAL)
    members: list[MemberScore] | None = field(default=None, metadata=OPTIONAL)
    soup: list[int] | None = field(default=None, metadata=OPTIONAL)

    @property
    def members_sentence(self) -> str:
        """How the members of an ensemble do alone, in one line; empty for a single model."""
        scores = [member.test for member in self.members or () if member.test is not None]
        if not scores:
            return ""
        mean = sum(scores) / len(scores)
        return f"{len(scores)} members, alone on test: mean {mean:.4f}, from {min(scores):.4f} to {max(scores):.4f}"

    def __repr__(self) -> str:
        return short_text("RunMetrics", self._table())

    def _repr_html_(self) -> str:
        return html_table("Metrics of a run", ["metric", "val", "test"], self._table())

    def _table(self) -> list[list[str]]:
        """Each metric on both parts."""
        val = self.val or {}
        return [[name, _shown(val.get(name)), _shown(value)] for name, value in self.test.items()]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From what the file holds."""
        return super().from_dict(
            {
                **values,
                "convergence": Convergence.of(values.get("convergence")),
                "convergence_at_start": Convergence.of(values.get("convergence_at_start")),
                "mix": None if values.get("mix") is None else Mix.from_dict(values["mix"]),
                "members": None
                if values.get("members") is None
                else [MemberScore.from_dict(member) for member in values["members"]],
                "alerts": [Alert.from_dict(alert) for alert in values.get("alerts", [])],
            }
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a ``metrics.json``.

        Raises:
            DataError: the file is missing or damaged.
        """
        values = read_json(path)
        try:
            return cls.from_dict(values)
        except (TypeError, AttributeError) as error:
            raise DataError(f"{path} does not hold the metrics of a run: {error}") from None


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
