"""Rows from the body of a request: JSON, or Parquet as ``equifuse predict`` reads it. Nothing in it is trusted."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from equifuse.data import Split
from equifuse.data.columns import encode_columns
from equifuse.data.inputs import input_columns, inputs_of_table
from equifuse.data.lazy import Features
from equifuse.errors import DataError, EquifuseError, InputError
from equifuse.extras import require
from equifuse.serve.limits import Limits, Refusal
from equifuse.serve.schema import RequestFormat

_BODY = "the body"
_ID, _LONGEST_ID = "id", 200


def rows_of_json(body: bytes, form: RequestFormat, limits: Limits) -> Split:
    """The rows of a JSON body; see :class:`~equifuse.serve.schema.RequestFormat`.

    Raises:
        Refusal: it is no JSON, or too large.
        InputError: it does not fit the model.
        UnknownNameError: it names something that the model does not have.
    """
    try:
        request = from_json(body)
    except ValueError as error:
        raise Refusal(400, f"the body is not JSON: {error}") from None
    given, counted = form.check(request)
    for m in counted:
        if m not in given:
            raise InputError(f"lengths of {m!r} are given, and no inputs")
    counts = {
        f"{part}.{m}": len(rows) for part, some in (("inputs", given), ("lengths", counted)) for m, rows in some.items()
    }
    if len(set(counts.values())) > 1:
        raise InputError(f"modalities differ in rows: {counts}")
    inputs: dict[str, Features] = {}
    present, lengths = {}, {}
    for m, rows in given.items():
        shape = form.shapes[m]
        if m in form.sequences:
            steps = _steps(m, rows, counted.get(m))
            shape = (int(steps.max()), *shape[1:])
            lengths[m] = steps
        if len(rows) * math.prod(shape) > limits.max_values:
            raise Refusal(413, f"modality {m!r} has too many values, padding included")
        if m in form.schema:
            inputs[m], here = _cells(m, rows, form)
            if not here.all():
                present[m] = here
            continue
        inputs[m], here = _array(rows, shape, m in form.sequences)
        if not here.all():
            present[m] = here
    return Split(inputs, present, None, None, lengths)


def _steps(m: str, rows: Sequence[Any], counted: Sequence[int] | None) -> NDArray[np.int64]:
    """How many steps of each row count: all that there are, or as the request says."""
    given = np.array([0 if row is None else len(row) for row in rows], dtype=np.int64)
    if counted is None:
        return given
    said = np.array(counted, dtype=np.int64)
    beyond = np.flatnonzero((said > given) & np.array([row is not None for row in rows]))
    if len(beyond):
        i = int(beyond[0])
        raise InputError(f"lengths.{m}[{i}] is {said[i]}, the row has {given[i]} steps")
    return np.minimum(said, given)


def _cells(m: str, rows: Sequence[Any], form: RequestFormat) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Rows of cells as numbers, NaN where null; and which are there."""
    columns = form.schema[m]
    here = np.array([row is not None for row in rows], dtype=np.bool_)
    some = [row for row in rows if row is not None]
    x = np.full((len(rows), *form.shapes[m]), np.nan, dtype=np.float32)
    if some:
        cells = {column.name: [row[j] for row in some] for j, column in enumerate(columns)}
        x[here] = encode_columns(cells, columns, f"inputs.{m}")
        if np.isinf(x).any():
            raise InputError(f"inputs.{m} has a number that is too large for float32")
    return x, here & ~np.isnan(x).all(axis=1)


def _array(rows: Sequence[Any], shape: tuple[int, ...], padded: bool) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Rows as float32 ``(n, *shape)``, NaN where null, zeros where padded; and which are there."""
    here = np.array([row is not None for row in rows], dtype=np.bool_)
    x = np.full((len(rows), *shape), np.nan, dtype=np.float32)
    if padded:
        for i, row in enumerate(rows):
            if row is not None:
                x[i] = 0.0
                steps = min(len(row), len(x[i]))
                x[i, :steps] = np.array(row[:steps], dtype=np.float32).reshape(steps, *shape[1:])
    elif here.any():
        x[here] = np.array([row for row in rows if row is not None], dtype=np.float32)
    return x, here


def rows_of_parquet(body: bytes, form: RequestFormat, features: Mapping[str, Sequence[str]], limits: Limits) -> Split:
    """The rows of a Parquet body; see :func:`equifuse.data.read_inputs`.

    Only the modalities' columns and ``id`` are read, and they only after the file's metadata says that it is all
    small. Of a file whose pages are larger than its metadata tells, one page at a time is unpacked, 2 GiB at most.

    Raises:
        Refusal: it is no Parquet, or too large.
        DataError: it does not fit the model.
    """
    table = _table_of(body, form, features, limits)
    return inputs_of_table(table, form.shapes, features, _BODY, form.schema)


def _table_of(body: bytes, form: RequestFormat, features: Mapping[str, Sequence[str]], limits: Limits) -> Any:
    """The columns of a Parquet body that are needed, as an Arrow table."""
    pa = require("train", "pyarrow", "reading and writing tables")
    parquet = require("train", "pyarrow.parquet", "reading and writing tables")

    with _readable():
        file = parquet.ParquetFile(pa.BufferReader(body))
        schema, metadata = file.schema_arrow, file.metadata
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        rows = sum(group.num_rows for group in groups)
        _check_rows(rows, form.max_rows)
        seen: set[str] = set()
        for name in schema.names:
            if name in seen:
                raise DataError(f"column {name!r} occurs more than once")
            seen.add(name)
        chosen = input_columns(schema, form.shapes, features, _BODY, form.schema)
        wanted = {c for columns in chosen.values() for c in columns}
        text = []
        if _ID in seen:
            text = _text_ids(schema.field(_ID).type)
            wanted.add(_ID)
        width = sum(math.prod(form.shapes[m]) if m in form.schema else len(names) for m, names in chosen.items())
        if rows * width > limits.max_values:
            raise Refusal(413, f"{_BODY} has {rows} rows of {len(wanted)} columns, which are too many values")
        _check_leaves(file.schema, wanted)
        _check_groups(groups, limits)
        # As a dictionary, an id that all rows share is unpacked once.
        table = parquet.ParquetFile(pa.BufferReader(body), read_dictionary=text).read(list(wanted), use_threads=False)
        table.validate(full=True)
        if table.num_rows != rows:
            raise DataError(f"{_BODY} has {table.num_rows} rows, its metadata says {rows}")
        if _ID in seen:
            _check_ids(table.column(_ID))
        return table


@contextmanager
def _readable() -> Iterator[None]:
    """Whatever pyarrow raises for damaged files, of text that is none or sizes that are none, is a refusal."""
    pa = require("train", "pyarrow", "reading and writing tables")

    try:
        yield
    except EquifuseError:
        raise
    except (pa.ArrowException, OSError, ValueError, ArithmeticError, MemoryError, LookupError) as error:
        raise Refusal(400, f"the body cannot be read as Parquet: {error}") from None


def _check_rows(rows: int, limit: int) -> None:
    if rows > limit:
        raise InputError(f"{_BODY} has {rows} rows, the limit is {limit}")
    if rows < 1:
        raise InputError(f"{_BODY} has no rows")


def _check_leaves(schema: Any, wanted: Collection[str]) -> None:
    """Refuse a schema where Parquet would read anything but one column without parts for one of these names."""
    found = set()
    for i in range(len(schema)):
        path = schema.column(i).path
        parts = path.split(".")
        named = [name for end in range(1, len(parts) + 1) if (name := ".".join(parts[:end])) in wanted]
        if named and (path not in wanted or path in found):
            raise DataError(f"column {path!r} cannot be told from the parts of {named[0]!r}; rename or drop it")
        if named:
            found.add(path)


def _check_groups(groups: Sequence[Any], limits: Limits) -> None:
    """Refuse what is too large, by the size of whole row groups.

    Arrow ends the process where it is asked for that of a single column and the column's metadata are damaged.
    """
    sizes = [group.total_byte_size for group in groups]
    size = sum(sizes)
    if min(sizes) < 0:
        raise DataError(f"{_BODY} has a row group of {min(sizes)} bytes")
    if size > 4 * limits.max_values:
        most = 4 * limits.max_values
        raise Refusal(413, f"{_BODY} unfolds to {size} bytes, the limit is {most}; send only the model's columns")


def _text_ids(kind: Any) -> list[str]:
    """The name of the id column where it is text.

    Raises:
        DataError: it is neither text nor whole numbers.
    """
    pa = require("train", "pyarrow", "reading and writing tables")

    if pa.types.is_integer(kind) or pa.types.is_null(kind):
        return []
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return [_ID]
    raise DataError(f"column {_ID!r} must be text or whole numbers, not {kind}")


def _check_ids(column: Any) -> None:
    pa = require("train", "pyarrow", "reading and writing tables")
    compute = require("train", "pyarrow.compute", "reading and writing tables")

    for chunk in column.chunks:
        if pa.types.is_dictionary(chunk.type):
            longest = compute.max(compute.binary_length(chunk.dictionary)).as_py() or 0
            if longest > _LONGEST_ID:
                raise DataError(f"column {_ID!r} has an entry of {longest} bytes, the limit is {_LONGEST_ID}")
