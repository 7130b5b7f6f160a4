"""What an exported program says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from equifuse.errors import DataError
from equifuse.records import Record


@dataclass(frozen=True, eq=False)
class ExportedSolver(Record):
    """How a program solves for its equilibrium, and how that went on the examples.

    Attributes:
        steps: evaluations of each part of the equilibrium; with ``loop`` the most.
        loop: whether it ends by itself.
        memory: of Anderson's method; 0 is plain iteration.
        tol: tolerance of a sample's relative residual.
        converged: share of the examples that reached it.
        largest_residual: of all examples.
    """

    steps: int
    loop: bool
    memory: int
    tol: float
    converged: float
    largest_residual: float


@dataclass(frozen=True, eq=False)
class ExportedExamples(Record):
    """The samples that a program was checked with.

    Attributes:
        count: how many.
        made_up: whether they were drawn at random.
    """

    count: int
    made_up: bool


@dataclass(frozen=True, eq=False)
class ExportDescription(Record):
    """What a program is, and how well it agrees with its model; it is stored in the file.

    Attributes:
        format: version of this description.
        versions: of the packages that made the file.
        task: name of the task.
        classes: names of the outputs, or None.
        fusion: name of the fusion.
        modalities: modality name -> shape of a row.
        sequences: modalities that are padded sequences.
        features: modality name -> names of its features, where they are known.
        columns: modality name -> what each column of its table holds, where they are not all numbers: a category is its
            place among the values, a date days since 2000 and its circles, what is empty NaN.
        inputs: names of the program's inputs.
        outputs: names of its outputs.
        examples: what it was checked with.
        solver: how it solves for an equilibrium; None where there is none.
        error: largest difference of the first output from the same steps in PyTorch.
        difference: largest difference from the model with its own solver.
    """

    format: int
    versions: dict[str, str]
    task: str | None
    classes: list[str] | None
    fusion: str
    modalities: dict[str, list[int]]
    sequences: list[str]
    features: dict[str, list[str]]
    columns: dict[str, list[dict[str, Any]]]
    inputs: list[str]
    outputs: list[str]
    examples: ExportedExamples
    solver: ExportedSolver | None
    error: float
    difference: float

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From what a file holds.

        Raises:
            DataError: something is missing.
        """
        try:
            solver = values["solver"]
            parts: dict[str, Any] = {
                "columns": values.get("columns", {}),
                "examples": ExportedExamples.from_dict(values["examples"]),
                "solver": None if solver is None else ExportedSolver.from_dict(solver),
            }
            return super().from_dict({**values, **parts})
        except (TypeError, KeyError, AttributeError) as error:
            raise DataError(f"the description of an exported program is damaged: {error}") from None
