"""What a model's requests and responses look like: decoded and checked by msgspec, described by OpenAPI."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from equifuse.data.columns import Columns as Schema
from equifuse.data.missing_codes import MissingCodes
from equifuse.errors import InputError, UnknownNameError
from equifuse.runs.certainty import SET, SURVIVAL
from equifuse.serve.limits import Refusal
from equifuse.tasks import Columns

_LARGEST = float(np.finfo(np.float32).max)
_Value = Annotated[float, Meta(ge=-_LARGEST, le=_LARGEST)]
_Cell = bool | float | str | None
_Steps = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_PLACE = re.compile(r"(?P<what>.*?)(?: - at (?P<inside>`key` in )?`\$\.?(?P<place>.*)`)?", re.DOTALL)
_LENGTH = re.compile(r"Expected `array` of length ([<>]=) (\d+)")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_UNKNOWN_KEY = re.compile(r"Invalid enum value (?P<quote>['\"])(.*)(?P=quote)", re.DOTALL)
_NOT_A_VALUE = re.compile(r"Number out of range|Expected `(float|float \| null|int|int \| null)`")
Shapes = Mapping[str, tuple[int, ...]]


class Explained(Struct):
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


class Embedded(Struct):
    """What the model makes of each row: see :func:`equifuse.explain.embeddings`.

    Attributes:
        rows: number of rows ``n``.
        vectors: by name (``fused``, ``rna.encoded``, …) a vector for each row, null where it lacks the modality.
    """

    rows: int
    vectors: dict[str, list[list[float | None]]]


def predicted(columns: Columns, beside: Collection[str] = ()) -> dict[str, Any]:
    """JSON schema of the response to a prediction, made from an example of its columns.

    Args:
        columns: the example.
        beside: names of columns that are there where they are asked for.
    """
    kinds = {name: _array(_kind(column.dtype.kind)) for name, column in columns.items()}
    kinds |= {"row": _array({"type": "integer"}), "id": _array({"type": ["string", "integer", "null"]})}
    number, yes = {"type": ["number", "null"]}, {"type": "boolean"}
    kinds |= {name: _array(yes if name.startswith(SET) else number) for name in beside}
    needed = [name for name in columns if name not in ("row", "id")]
    inner = {"type": "object", "properties": kinds, "required": needed, "additionalProperties": False}
    if "risk" in columns:
        inner["patternProperties"] = {f"^{SURVIVAL}": _array(number)}
    return {
        "type": "object",
        "properties": {"rows": {"type": "integer"}, "columns": inner},
        "required": ["rows", "columns"],
    }


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _kind(dtype: str) -> dict[str, Any]:
    kinds = {"b": "boolean", "i": "integer", "u": "integer", "f": ["number", "null"]}
    return {"type": kinds.get(dtype, "string")}


def json_schema(kind: Any) -> dict[str, Any]:
    """The JSON schema of a type, without references."""
    schema = msgspec.json.schema(kind)
    parts = schema.pop("$defs", {})
    found: dict[str, Any] = parts[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    found.pop("title", None)
    return found


class RequestFormat:
    """Rows as JSON: ``{"inputs": {modality: [row, ...]}, "lengths": {...}}``, or ``{"records": [{...}, ...]}``.

    A row is a nested list of the modality's shape, or null where the sample does not have it; a modality may be left
    out. A cell that is empty is null. Of columns that are no numbers a row has their cells: numbers, text, true, false
    or null. Where columns have names, a row may be an object of cells by their names; one that is left out is empty.
    Sequences may have any number of steps; ``lengths`` says that only the first ones of a row count. A record is an
    object of the cells of all modalities, and ``id``.

    A body is refused at its first mistake, before the rest of it is decoded: nothing is made of what has another form.

    Args:
        shapes: modality name -> shape of one row.
        sequences: those of them whose rows are sequences.
        max_rows: of a request.
        schema: modality name -> what its columns hold, where they are not all numbers.
        features: modality name -> names of its columns, where these are known.
        codes: what stands in cells without a value, where rows are of a table.
        id_column: what the column of ids was called in training; ``id`` is always one.
    """

    def __init__(
        self,
        shapes: Shapes,
        sequences: Collection[str],
        max_rows: int,
        schema: Mapping[str, Schema] | None = None,
        features: Mapping[str, Collection[str]] | None = None,
        codes: MissingCodes | None = None,
        id_column: str | None = None,
    ) -> None:
        self.codes, self.ids = codes or MissingCodes(), tuple(dict.fromkeys(("id", id_column or "id")))
        self.shapes, self.sequences, self.max_rows = dict(shapes), frozenset(sequences), max_rows
        self.schema = dict(schema or {})
        self.columns = {m: names for m in self.shapes if (names := self._names(m, features or {}))}
        # Each modality's rows are decoded by themselves: so its name may be any text.
        self._parts = {"inputs": {m: self._rows(m) for m in self.shapes}}
        if self.sequences:
            steps = Annotated[list[_Steps], Meta(min_length=1, max_length=max_rows)]
            self._parts["lengths"] = {m: steps for m in self.shapes if m in self.sequences}
        fields: list[Any] = [
            (part, dict[Literal[tuple(kinds)], Raw] | UnsetType, UNSET)  # type: ignore[misc]
            for part, kinds in self._parts.items()
        ]
        if self.columns:
            self._records = Annotated[list[dict[str, _Cell]], Meta(min_length=1, max_length=max_rows)]
            fields.append(("records", self._records | UnsetType, UNSET))
        self._fields = [name for name, *_ in fields]
        kind = msgspec.defstruct("Rows", fields, forbid_unknown_fields=True, gc=False)
        self._decoder = msgspec.json.Decoder(kind)
        self._decoders = {
            part: {m: msgspec.json.Decoder(kind) for m, kind in kinds.items()} for part, kinds in self._parts.items()
        }

    def _names(self, m: str, features: Mapping[str, Collection[str]]) -> tuple[str, ...]:
        """The names of a modality's columns; () of one that has none."""
        if m in self.schema:
            return tuple(column.name for column in self.schema[m])
        if m in features:
            return tuple(features[m])
        shape = self.shapes[m]
        return tuple(f"{m}_{i}" for i in range(shape[0])) if len(shape) == 1 else ()

    def _rows(self, m: str) -> Any:
        row: Any = _Value | None
        shape = self.shapes[m]
        if m in self.schema:
            row, shape = _Cell, (len(self.schema[m]),)
        for axis in reversed(range(len(shape))):
            size = shape[axis]
            free = axis == 0 and m in self.sequences
            row = list[row] if free else Annotated[list[row], Meta(min_length=size, max_length=size)]
        if m in self.columns:
            row = row | dict[str, _Cell]
        return Annotated[list[row | None], Meta(min_length=1, max_length=self.max_rows)]

    def json_schema(self) -> dict[str, Any]:
        """The JSON schema of a request."""
        properties: dict[str, Any] = {
            part: {
                "type": "object",
                "properties": {m: msgspec.json.schema(kind) for m, kind in kinds.items()},
                "additionalProperties": False,
            }
            for part, kinds in self._parts.items()
        }
        properties["inputs"]["minProperties"] = 1
        schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
        if self.columns:
            names = {
                name: {"type": ["number", "string", "boolean", "null"]} for c in self.columns.values() for name in c
            }
            names |= {name: {"type": ["string", "integer", "null"]} for name in self.ids}
            items = {"type": "object", "properties": names, "minProperties": 1, "additionalProperties": False}
            properties["records"] = msgspec.json.schema(self._records) | {"items": items}
            schema["minProperties"] = 1
        else:
            schema["required"] = ["inputs"]
        return schema

    def decode(self, body: bytes) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]] | None]:
        """The inputs and lengths, or the records, of a body.

        Raises:
            Refusal: it is no JSON.
            InputError: it is of another form, or has too many rows.
            UnknownNameError: it names something that the model does not have.
        """
        request = self._decode(self._decoder, body)
        given = {name: getattr(request, name) for name in self._fields if getattr(request, name) is not UNSET}
        if "records" in given:
            if len(given) > 1:
                raise InputError("the body has 'records' and other fields beside them; give one or the other")
            return {}, {}, given["records"]
        if "inputs" not in given:
            raise InputError(f"the body has no 'inputs'{self._or_records()}")
        inputs, lengths = (self._decoded(part, given.get(part, {})) for part in ("inputs", "lengths"))
        if not inputs:
            raise InputError(f"no modality given; expected some of {', '.join(self.shapes)}")
        return inputs, lengths, None

    def _decoded(self, part: str, given: Mapping[str, Raw]) -> dict[str, Any]:
        return {m: self._decode(self._decoders[part][m], rows, part, m) for m, rows in given.items()}

    def _decode(self, decoder: Any, body: bytes | Raw, part: str = "", m: str = "") -> Any:
        try:
            return decoder.decode(body)
        except msgspec.ValidationError as error:
            raise self._complaint(str(error), part, m) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refusal(400, f"the body is not JSON: {error}") from None

    def _or_records(self) -> str:
        return " and no 'records'" if self.columns else ""

    def _complaint(self, error: str, part: str = "", m: str = "") -> Exception:
        """What is wrong, in the words of a request; ``part`` and ``m``: the rows of which modality are decoded."""
        found = _PLACE.fullmatch(error)
        assert found is not None
        what, index = found["what"], found["place"] or ""
        place = f"{part}.{m}{index}" if part else index
        if found["inside"] and (unknown := _UNKNOWN_KEY.fullmatch(what)):
            return UnknownNameError("modality", unknown[2][:100], list(self._parts[place]))
        if unknown := _UNKNOWN.fullmatch(what):
            return UnknownNameError("field", unknown[1][:100], self._fields)
        if not place:
            return InputError("the body must be a JSON object" if what.startswith("Expected") else what)
        if length := _LENGTH.fullmatch(what):
            return InputError(self._too_long(place, m if index else "", length[1] == "<=", length[2]))
        if _NOT_A_VALUE.match(what):
            number = "a whole number of at least 0" if place.startswith("lengths") else "a finite number (float32)"
            return InputError(f"{place} must be {number}")
        words = {"Expected `object`": "a JSON object", "Expected `array": "a list", "Expected `object |": "a list"}
        word = next((word for start, word in words.items() if what.startswith(start)), None)
        return InputError(f"{place}: {what}" if word is None else f"{place} must be {word}")

    def _too_long(self, place: str, modality: str, too_long: bool, limit: str) -> str:
        if not modality:
            return f"{place} has too many rows, the limit is {limit}" if too_long else f"{place} has no rows"
        shape = (len(self.schema[modality]),) if modality in self.schema else self.shapes[modality]
        return f"{place} must have {limit} entries; the model was built for rows of shape {tuple(shape)}"
