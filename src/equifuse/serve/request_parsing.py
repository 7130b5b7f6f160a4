"""Rows from the body of a request: JSON, or Parquet as ``equifuse predict`` reads it. Nothing in it is trusted."""

from __future__ import annotations

import gc
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equifuse.data import Split
from equifuse.data.columns import encode_columns
from equifuse.data.inputs import input_columns, inputs_of_table
from equifuse.data.lazy import Features
from equifuse.errors import DataError, EquifuseError, InputError, UnknownNameError
from equifuse.extras import require
from equifuse.serve.limits import Limits, Refusal
from equifuse.serve.schema import RequestFormat

_BODY = "the body"
_ID, _LONGEST_ID = "id", 200
_EXTREME, _MOST_EXTREME = re.compile(rb"[0-9][eE][+-]?[0-9]{3}"), 10_000


def rows_of_json(body: bytes, form: RequestFormat, limits: Limits) -> Split:
    """The rows of a JSON body; see :class:`~equifuse.serve.schema.RequestFormat`.

    Raises:
        Refusal: it is no JSON, or too large.
        InputError: it does not fit the model.
        UnknownNameError: it names something that the model does not have.
    """
    _check_numbers(body)
    with _without_collection():
        given, counted, records = form.decode(body)
    if records is not None:
        return _rows_of_records(records, form, limits)
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
    for m, some in given.items():
        shape = form.shapes[m]
        rows = _listed(m, some, form.columns.get(m, ()), m not in form.schema)
        if form.codes and m in form.columns:
            rows = [form.codes.cells(row) for row in rows]
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
        x, here = _array(rows, shape, m in form.sequences)
        inputs[m] = x
        if np.isinf(x).any():
            raise InputError(f"inputs.{m} has a number that is too large for float32")
        if not here.all():
            present[m] = here
    return Split(inputs, present, None, None, lengths)


def _check_numbers(body: bytes) -> None:
    """Refuse many numbers with exponents of three digits: each of those near the ends takes the parser 50 µs.

    Raises:
        InputError: there are so many that they are no accident, nor a part of texts.
    """
    if sum(1 for _ in islice(_EXTREME.finditer(body), _MOST_EXTREME + 1)) > _MOST_EXTREME:
        raise InputError("the body has too many numbers that are out of the range of float32")


@contextmanager
def _without_collection() -> Iterator[None]:
    """Millions of lists at once, none of them in a circle, only keep the garbage collector busy."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _listed(m: str, rows: Sequence[Any], names: Sequence[str], numbers: bool) -> Sequence[Any]:
    """Rows that are cells by their column's name as lists; ``numbers``: whether cells must be numbers."""
    if not any(isinstance(row, dict) for row in rows):
        return rows
    known = set(names)
    found = []
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            found.append(row)
            continue
        for name, cell in row.items():
            if name not in known:
                raise UnknownNameError(f"column of {m!r}:", name[:100], names)
            if numbers:
                _check_number(cell, f"inputs.{m}[{i}]", name)
        found.append([row.get(name) for name in names])
    return found


def _rows_of_records(records: Sequence[Mapping[str, Any]], form: RequestFormat, limits: Limits) -> Split:
    """Rows that are cells of all modalities by their column's name.

    A modality is there where one of its cells is; a column that no record has is empty.

    Raises:
        Refusal: they would be too large.
        InputError: a cell is no number where it should be.
        UnknownNameError: a column that the model does not have.
    """
    owner = {name: m for m, names in form.columns.items() for name in names}
    named = {name for record in records for name in record}
    ids = next((name for name in form.ids if name in named and name not in owner), None)
    for name in named:
        if name not in owner and name != ids:
            raise UnknownNameError("column", name[:100], list(owner))
    if form.codes:
        records = [{n: cell if n == ids else form.codes.cell(cell) for n, cell in r.items()} for r in records]
    used = [m for m in form.columns if any(owner.get(name) == m for name in named)]
    if not used:
        raise InputError(f"no column of a modality given; expected some of {', '.join(list(owner)[:5])}, ...")
    if len(records) * sum(math.prod(form.shapes[m]) for m in used) > limits.max_values:
        raise Refusal(413, "the records have too many values")
    inputs: dict[str, Features] = {}
    present = {}
    for m in used:
        names = form.columns[m]
        rows = [[record.get(name) for name in names] for record in records]
        some = [row if any(cell is not None for cell in row) else None for row in rows]
        if m in form.schema:
            inputs[m], here = _cells(m, some, form)
        else:
            for i, row in enumerate(some):
                for name, cell in zip(names, row or (), strict=False):
                    _check_number(cell, f"records[{i}]", name)
            x, here = _array(some, (len(names),), False)
            inputs[m] = x.reshape(len(records), *form.shapes[m])
            if np.isinf(x).any():
                raise InputError(f"records have a number in {m!r} that is too large for float32")
        if not here.all():
            present[m] = here
    values = None if ids is None else np.array([_id_of(record.get(ids)) for record in records], dtype=object)
    return Split(inputs, present, None, values, {})


def _check_number(cell: Any, where: str, name: str) -> None:
    if cell is not None and not isinstance(cell, float):
        raise InputError(f"{where}: column {name!r} has {str(cell)[:50]!r}, which is no number")


def _id_of(cell: Any) -> Any:
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    if isinstance(cell, bool | float) or (isinstance(cell, str) and len(cell.encode()) > _LONGEST_ID):
        raise InputError(f"an {_ID!r} must be text of at most {_LONGEST_ID} bytes or a whole number")
    return cell


def rows_of_csv(body: bytes, read: Callable[[Path], Split], limits: Limits, most: int) -> Split:
    """The rows of a CSV body, read as the command line reads the file.

    Args:
        body: text of any encoding, separator and decimal sign that a file may have.
        read: a file as rows.
        limits: of a request.
        most: rows of it.

    Raises:
        InputError: too many rows, or none.
        DataError: it does not fit the model.
    """
    lines = body.count(b"\n") + body.count(b"\r")
    if lines > 2 * most + 1000 or (body.count(b",") + body.count(b";") + body.count(b"\t")) > limits.max_values:
        raise InputError(f"{_BODY} has too many lines or cells, the limit is {most} rows")
    with TemporaryDirectory(prefix="equifuse-rows-") as folder:
        path = Path(folder) / "body.csv"
        path.write_bytes(body)
        try:
            split = read(path)
        except EquifuseError as error:
            raise DataError(str(error).replace(str(path), _BODY)) from None
    _check_rows(len(split), most)
    return split


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
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as such
        _fill(x, rows, here, padded)
    return x, here


def _fill(x: NDArray[np.float32], rows: Sequence[Any], here: NDArray[np.bool_], padded: bool) -> None:
    if padded:
        for i, row in enumerate(rows):
            if row is not None:
                x[i] = 0.0
                steps = min(len(row), len(x[i]))
                x[i, :steps] = np.array(row[:steps], dtype=np.float32).reshape(steps, *x.shape[2:])
    elif here.any():
        x[here] = np.array([row for row in rows if row is not None], dtype=np.float32)


def rows_of_parquet(body: bytes, form: RequestFormat, features: Mapping[str, Sequence[str]], limits: Limits) -> Split:
    """The rows of a Parquet body; see :func:`equifuse.data.read_inputs`.

    Only the modalities' columns and ``id`` are read, and they only after the file's metadata says that it is all
    small. Of a file whose pages are larger than its metadata tells, one page at a time is unpacked, 2 GiB at most.

    Raises:
        Refusal: it is no Parquet, or too large.
        DataError: it does not fit the model.
    """
    table = _table_of(body, form, features, limits)
    if form.codes:
        columns = {
            n: x if n == _ID else form.codes.column(x) for n, x in zip(table.column_names, table.columns, strict=True)
        }
        table = require("train", "pyarrow", "reading and writing tables").table(columns)
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
        id_column = next((name for name in form.ids if name in seen and name not in wanted), None)
        if id_column is not None:
            text = _text_ids(schema.field(id_column))
            wanted.add(id_column)
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
        if id_column is not None:
            _check_ids(table.column(id_column))
            table = table.rename_columns([_ID if name == id_column else name for name in table.column_names])
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


def _text_ids(field: Any) -> list[str]:
    """The name of the id column where it is text.

    Raises:
        DataError: it is neither text nor whole numbers.
    """
    pa = require("train", "pyarrow", "reading and writing tables")

    kind = field.type
    if pa.types.is_integer(kind) or pa.types.is_null(kind):
        return []
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return [field.name]
    raise DataError(f"column {field.name!r} must be text or whole numbers, not {kind}")


def _check_ids(column: Any) -> None:
    pa = require("train", "pyarrow", "reading and writing tables")
    compute = require("train", "pyarrow.compute", "reading and writing tables")

    for chunk in column.chunks:
        if pa.types.is_dictionary(chunk.type):
            longest = compute.max(compute.binary_length(chunk.dictionary)).as_py() or 0
            if longest > _LONGEST_ID:
                raise DataError(f"column {_ID!r} has an entry of {longest} bytes, the limit is {_LONGEST_ID}")
