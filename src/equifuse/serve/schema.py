"""What a model's requests and responses look like: checked by pydantic, described by OpenAPI."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, NotRequired

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from typing_extensions import TypedDict

from equifuse.data.columns import Columns as Schema
from equifuse.errors import InputError, UnknownNameError
from equifuse.tasks import Columns

_LARGEST = float(np.finfo(np.float32).max)
_Value = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-_LARGEST, le=_LARGEST)]
_Cell = bool | float | str | None
_Steps = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
_NOT_A_VALUE = ("float_type", "finite_number", "greater_than_equal", "less_than_equal")
Shapes = Mapping[str, tuple[int, ...]]


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str


class Modality(BaseModel):
    """What a row of a modality is.

    Attributes:
        shape: of one row; of a sequence (steps, width), of which any number of steps may be given.
        sequence: whether rows are sequences.
        features: names of the columns it was trained on, where these are known.
        columns: what each column holds, its values where it is a category; None where all are numbers.
    """

    shape: list[int]
    sequence: bool
    features: list[str] | None
    columns: list[dict[str, Any]] | None = None


class Description(BaseModel):
    """The model that is served.

    Attributes:
        name: of the run folder.
        data: name of the data set it was trained on.
        task: classification, multilabel, regression, retrieval or survival.
        fusion: name of the fusion.
        classes: names of the classes, labels or targets, where they have names.
        modalities: by name, in the model's order.
        columns: of a prediction, beside ``row`` or ``id``.
        parameters: number of weights.
        explained: what ``/explain`` can explain of a row, the default first; empty where there is no ``/explain``.
        limits: of a request.
    """

    name: str
    data: str
    task: str
    fusion: str
    classes: list[str] | None
    modalities: dict[str, Modality]
    columns: list[str]
    parameters: int
    explained: list[str]
    limits: dict[str, int | float]


class Health(BaseModel):
    """That the service answers, what it serves, and with which versions."""

    status: str
    model: str
    task: str
    fusion: str
    versions: dict[str, str]


class Explained(BaseModel):
    """Shapley contributions of the modalities to a value of each row: they add up to ``full - empty``.

    Attributes:
        rows: number of rows ``n``.
        value: what is explained: probability, log_probability, logit, or output.
        output: per row, the class, label or target whose value it is.
        empty: per row, the value without any modality.
        full: per row, the value with all that it has.
        contributions: per modality and row, 0 where the row does not have it.
        errors: their standard errors; null where they are exact, up to eight modalities.
        converged: share of the solves that converged; null for a closed-form fusion.
    """

    rows: int
    value: str
    output: list[str]
    empty: list[float | None]
    full: list[float | None]
    contributions: dict[str, list[float | None]]
    errors: dict[str, list[float | None]] | None
    converged: float | None


def predicted(columns: Columns) -> type[BaseModel]:
    """The response to a prediction: the columns of ``equifuse predict``, made from an example of them."""
    kinds: dict[str, Any] = {name: list[_kind(column.dtype.kind)] for name, column in columns.items()}  # type: ignore[misc]
    kinds |= {"row": NotRequired[list[int]], "id": NotRequired[list[str | int | None]]}
    return create_model("Predicted", rows=(int, ...), columns=(_typed("Columns", kinds), ...))


def _kind(dtype: str) -> Any:
    return {"b": bool, "i": int, "u": int, "f": float | None}.get(dtype, str)


class RequestFormat:
    """Rows as JSON: ``{"inputs": {modality: [row, ...]}, "lengths": {modality: [steps, ...]}}``.

    A row is a nested list of the modality's shape, or null where the sample does not have it; a modality may be left
    out. A cell that is empty is null. Of columns that are no numbers a row has their cells: numbers, text, true, false
    or null. Sequences may have any number of steps; ``lengths`` says that only the first ones of a row count.

    Args:
        shapes: modality name -> shape of one row.
        sequences: those of them whose rows are sequences.
        max_rows: of a request.
        schema: modality name -> what its columns hold, where they are not all numbers.
    """

    def __init__(
        self, shapes: Shapes, sequences: Collection[str], max_rows: int, schema: Mapping[str, Schema] | None = None
    ) -> None:
        self.shapes, self.sequences, self.max_rows = dict(shapes), frozenset(sequences), max_rows
        self.schema = dict(schema or {})
        self._parts = {"inputs": _part("Inputs", {m: self._rows(m) for m in shapes})}
        if sequences:
            steps = Annotated[list[_Steps], _length(1, max_rows)]
            self._parts["lengths"] = _part("Lengths", {m: steps for m in shapes if m in self.sequences})

    def _rows(self, m: str) -> Any:
        row: Any = _Value | None
        shape = self.shapes[m]
        if m in self.schema:
            row, shape = _Cell, (len(self.schema[m]),)
        for axis in reversed(range(len(shape))):
            size = shape[axis]
            free = axis == 0 and m in self.sequences
            row = Annotated[list[row], _length(0, None) if free else _length(size, size)]
        return Annotated[list[row | None], _length(1, self.max_rows)]

    def json_schema(self) -> dict[str, Any]:
        """The JSON schema of a request."""
        parts = {name: part.json_schema() for name, part in self._parts.items()}
        parts["inputs"]["minProperties"] = 1
        return {
            "title": "Rows",
            "type": "object",
            "properties": parts,
            "required": ["inputs"],
            "additionalProperties": False,
        }

    def check(self, request: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The inputs and lengths of a decoded body.

        Raises:
            InputError: it is of another form, or has too many rows.
            UnknownNameError: it names something that the model does not have.
        """
        # Unknown names are refused here and not by pydantic, which would list them all.
        request = _named("field", request, self._parts, "the body")
        if "inputs" not in request:
            raise InputError("the body has no 'inputs'")
        known: dict[str, Collection[str]] = {"inputs": self.shapes, "lengths": self.sequences}
        found = {}
        for name, part in self._parts.items():
            given = _named("modality", request.get(name, {}), known[name], name)
            try:
                found[name] = part.validate_python(given)
            except ValidationError as error:
                raise self._complaint(name, error) from None
        if not found["inputs"]:
            raise InputError(f"no modality given; expected some of {', '.join(self.shapes)}")
        return found["inputs"], found.get("lengths", {})

    def _complaint(self, part: str, error: ValidationError) -> InputError:
        first = error.errors(include_url=False, include_input=False)[0]
        (modality, *index), kind, context = first["loc"], first["type"], first.get("ctx", {})
        place = f"{part}.{modality}" + "".join(f"[{i}]" for i in index)
        if not index and kind == "too_long":
            return InputError(f"{place} has too many rows, the limit is {self.max_rows}")
        if not index and kind == "too_short":
            return InputError(f"{place} has no rows")
        if kind in ("too_long", "too_short"):
            shape = self.shapes[str(modality)]
            if modality in self.schema:
                shape = (len(self.schema[str(modality)]),)
            return InputError(
                f"{place} has {context['actual_length']} entries, not {shape[len(index) - 1]}; "
                f"the model was built for rows of shape {shape}"
            )
        if kind in _NOT_A_VALUE:
            return InputError(f"{place} must be a finite number (float32)")
        return InputError(f"{place} must be a list" if kind == "list_type" else f"{place}: {first['msg']}")


def _length(least: int, most: int | None) -> Any:
    # Only the first mistake is reported: a list of all could be longer than the body.
    return Field(min_length=least, max_length=most, fail_fast=True)


def _part(name: str, fields: Mapping[str, Any]) -> TypeAdapter[dict[str, Any]]:
    return TypeAdapter(_typed(name, {m: NotRequired[kind] for m, kind in fields.items()}))


def _typed(name: str, fields: Mapping[str, Any]) -> Any:
    """A dictionary type of exactly these keys; not a model, as names of modalities need not be names in Python."""
    make: Any = TypedDict
    kind = make(name, dict(fields))
    kind.__pydantic_config__ = ConfigDict(extra="forbid")
    return kind


def _named(kind: str, given: Any, known: Collection[str], where: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise InputError(f"{where} must be a JSON object")
    for name in given:
        if name not in known:
            raise UnknownNameError(kind, name[:100], known)
    return given
