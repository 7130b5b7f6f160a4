"""Columns of a table as numbers: categories as codes, dates as days and circles, texts as vectors, empty cells as NaN.

What is said here needs no fitting, so that rows may be split in any way afterwards: which categories the training part
has, and what stands for an empty cell, is learned by the model's preparation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equifuse.data.lazy import Features, Floats, in_memory
from equifuse.errors import DataError, InputError, UnknownNameError
from equifuse.extras import require

KINDS = ("number", "boolean", "category", "date", "text", "embedding")
# Columns of a hashed text.
_HASHED = 256
_DATE = re.compile(r"\d{4}[-/]\d{1,2}([-/]\d{1,2}([T ]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?)?(Z|[+-]\d{2}:?\d{2})?)?")
_FIRST_DAY = "2000-01-01"
# Texts have so many words on average, and are mostly different.
_WORDS, _DIFFERENT = 3.0, 0.5
# So many rows that are all different are names of the rows.
_NAMES = 20
# Columns that are named in words.
_LISTED = 5
# Values that decide on the kind of a column.
_LOOKED_AT = 10_000


@dataclass(frozen=True)
class Column:
    """What a column of a table holds, and how its cells become numbers.

    >>> from equifuse.data.columns import Column
    >>> Column("sex", "category", ("f", "m")).numbers(["m", None, "?"]).ravel().tolist()
    [1.0, nan, 2.0]

    Attributes:
        name: of the column.
        kind: "number", "boolean", "category", "date", "text" (hashed words) or "embedding" (of words).
        values: of a category: its values in the order of their codes; other values get the next code.
        clock: of a date: whether it has a time of day.
    """

    name: str
    kind: str = "number"
    values: tuple[str, ...] = ()
    clock: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """What the columns of numbers are called: the column's own name first, then ``name~part``."""
        return tuple(f"{self.name}~{part}" if part else self.name for part in self._parts())

    def _parts(self) -> list[str]:
        if self.kind == "date":
            circles = ["year", "week", *(["day"] if self.clock else [])]
            return ["", *(f"{circle}.{wave}" for circle in circles for wave in ("sin", "cos"))]
        if self.kind in ("text", "embedding"):
            width = _HASHED if self.kind == "text" else _embedder().width
            return [str(i) for i in range(width)]
        return [""]

    @property
    def kinds(self) -> tuple[str, ...]:
        """For the preparation: "number", "category" or "part", of each column of numbers."""
        own = "category" if self.kind == "category" else "number" if self.kind == "number" else "part"
        return (own, *["part"] * (len(self._parts()) - 1))

    def numbers(self, cells: Any, where: str = "the table") -> Floats:
        """Cells ``(n,)`` as float32 ``(n, parts)``; NaN where they are empty.

        Args:
            cells: a pandas series, an Arrow column, or a list.
            where: what the table is called in errors.

        Raises:
            DataError: a cell is no number or date where it should be.
        """
        series = _series(cells)
        empty = _empty(series)
        place = f"{where}: column {self.name!r}"
        if self.kind == "category":
            codes = {value: code for code, value in enumerate(self.values)}
            labels = [
                np.nan if e else float(codes.get(label(v), len(codes))) for v, e in zip(series, empty, strict=True)
            ]
            return np.array(labels, dtype=np.float32)[:, None]
        if self.kind == "date":
            return self._dates(series, empty, place)
        if self.kind in ("text", "embedding"):
            texts = ["" if e else str(v) for v, e in zip(series, empty, strict=True)]
            found = _hashed(texts) if self.kind == "text" else _embedder().vectors(texts)
            found[np.asarray(empty)] = np.nan
            return found
        return _numeric(series, empty, place)[:, None]

    def _dates(self, series: Any, empty: NDArray[np.bool_], place: str) -> Floats:
        pd = _pandas()
        if pd.api.types.is_numeric_dtype(series.dtype) and not empty.all():
            raise DataError(f"{place} has numbers such as {series[~empty].iloc[0]:g}, which are no dates")
        times = pd.to_datetime(series.where(~empty, None), errors="coerce", utc=True, format="mixed")
        wrong = np.flatnonzero(times.isna().to_numpy() & ~empty)
        if len(wrong):
            raise DataError(f"{place} has {str(series.iloc[wrong[0]])!r} in row {int(wrong[0])}, which is no date")
        days = ((times - pd.Timestamp(_FIRST_DAY, tz="UTC")) / pd.Timedelta(days=1)).to_numpy(dtype=np.float64)
        start = pd.to_datetime(times.dt.year.astype("Int64").astype("string") + "-01-01", utc=True)
        in_year = ((times - start) / pd.Timedelta(days=1)).to_numpy(dtype=np.float64)
        turns = [in_year / 365.25, (days - 2) / 7]  # the first day of 2000 was a Saturday: weeks begin on Mondays
        if self.clock:
            turns.append(days)
        circles = [wave(2 * np.pi * (turn % 1)) for turn in turns for wave in (np.sin, np.cos)]
        return np.stack([days, *circles], axis=1).astype(np.float32)

    def stored(self) -> dict[str, Any]:
        """Plain values; :meth:`of` reads them back."""
        found: dict[str, Any] = {"name": self.name, "kind": self.kind}
        if self.kind == "category":
            found["values"] = list(self.values)
        if self.clock:
            found["clock"] = True
        return found

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Column:
        """A column from stored values.

        Raises:
            DataError: they are damaged.
        """
        kind = stored.get("kind")
        if kind not in KINDS or not isinstance(stored.get("name"), str):
            raise DataError(f"the description of a column is damaged: {dict(stored)!r}"[:200])
        values = tuple(str(value) for value in stored.get("values", ()))
        return cls(stored["name"], str(kind), values, bool(stored.get("clock", False)))


Columns = tuple[Column, ...]


def describe_columns(frame: Any, kinds: Mapping[str, str] | None = None) -> Columns:
    """What each column of a data frame holds, by its type and its values.

    >>> import pandas as pd
    >>> from equifuse.data.columns import describe_columns
    >>> frame = pd.DataFrame({"age": [40, 50], "sex": ["f", "m"], "seen": ["2024-05-01", None], "well": [True, False]})
    >>> [column.kind for column in describe_columns(frame)]
    ['number', 'category', 'date', 'boolean']

    Args:
        frame: a pandas data frame.
        kinds: pattern of names -> kind, for columns that are something else than they look like.

    Raises:
        UnknownNameError: an unknown kind.
    """
    names = [str(name) for name in frame.columns]
    for kind in (kinds or {}).values():
        if kind not in KINDS:
            raise UnknownNameError("kind of column:", str(kind), KINDS)
    found = []
    for i, name in enumerate(names):
        asked = next((kind for pattern, kind in (kinds or {}).items() if fnmatchcase(name, pattern)), None)
        found.append(describe_column(name, frame.iloc[:, i], asked))
    return tuple(found)


_NESTED = (list, tuple, dict, set, np.ndarray)


def describe_column(name: str, cells: Any, kind: str | None = None) -> Column:
    """What a column holds; see :func:`describe_columns`."""
    series = _series(cells)
    empty = _empty(series)
    there = series[~empty]
    nested = next((v for v in there if isinstance(v, _NESTED)), None) if there.dtype == object else None
    if nested is not None:
        raise DataError(f"column {name!r} has several values in a cell; give each of them a column of its own")
    kind = kind or _looks_like(there)
    if kind == "category":
        return Column(name, kind, tuple(_in_order({label(value) for value in there.unique()})))
    if kind == "date":
        pd = _pandas()
        times = pd.to_datetime(there, errors="coerce", utc=True, format="mixed")
        return Column(name, kind, clock=bool((times != times.dt.normalize()).any()))
    return Column(name, kind)


def encode_columns(frame: Any, columns: Columns, where: str = "the table") -> Floats:
    """A data frame as float32 ``(n, l)``, the columns one after the other; see :class:`Column`.

    >>> import pandas as pd
    >>> from equifuse.data.columns import describe_columns, encode_columns
    >>> frame = pd.DataFrame({"age": [40, 50], "sex": ["m", "f"]})
    >>> encode_columns(frame, describe_columns(frame)).tolist()
    [[40.0, 1.0], [50.0, 0.0]]

    Args:
        frame: a pandas data frame, or anything that gives a column by ``frame[name]``.
        columns: what they hold.
        where: what the table is called in errors.

    Raises:
        DataError: a cell is not what its column holds.
    """
    parts = [column.numbers(frame[column.name], where) for column in columns]
    return np.concatenate(parts, axis=1) if parts else np.zeros((len(frame), 0), dtype=np.float32)


def check_ids(columns: Iterable[Column], rows: int, where: str) -> None:
    """Refuse categories that are different in every row: they name the rows, and say nothing of new ones.

    Raises:
        DataError: naming the column.
    """
    for column in columns:
        if column.kind == "category" and len(column.values) == rows >= _NAMES:
            raise DataError(
                f"{where}: column {column.name!r} has another text in each of the {rows} rows; leave it out if it "
                f"names them, or pass --column {column.name}=text"
            )


def check_kinds(kinds: Mapping[str, str], names: Sequence[str], where: str) -> None:
    """Refuse kinds for columns that no modality has.

    Raises:
        DataError: naming the pattern.
    """
    for pattern in kinds:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise DataError(f"{where}: no modality has a column {pattern!r}, which --column gives a kind")


def said_of_columns(columns: Sequence[Column]) -> list[str]:
    """What the columns that are no numbers were taken for, in words: ``"category: sex (2 values)"``."""
    said = []
    for kind in KINDS[1:]:
        some = [column for column in columns if column.kind == kind]
        named = [f"{c.name} ({len(c.values)} values)" if c.values else c.name for c in some[:_LISTED]]
        if some:
            more = f" and {len(some) - _LISTED} more" if len(some) > _LISTED else ""
            said.append(f"{kind}: {', '.join(named)}{more}")
    return said


def encode_table(m: str, table: Any, names: Sequence[str], columns: Columns, where: str) -> Floats:
    """:func:`encode_columns` of the columns of an Arrow table that ``names`` says, in the order of ``columns``.

    Raises:
        DataError: there are more or fewer, or a cell is not what its column holds.
    """
    if len(names) != len(columns):
        raise DataError(f"{where}: modality {m!r} has {len(names)} columns, the model was built for {len(columns)}")
    cells = {column.name: table.column(name) for column, name in zip(columns, names, strict=True)}
    return encode_columns(cells, columns, where)


def recoded(x: Features, before: Columns, after: Columns, where: str) -> Features:
    """Numbers as :func:`encode_columns` made them of some columns, as it makes them of others: codes by their names.

    Args:
        x: ``(n, l)``.
        before: what the columns were taken for; () for numbers.
        after: what they are to be taken for.
        where: what they are called in errors.

    Raises:
        DataError: a column holds something else.
    """
    if before == after:
        return x
    if [(c.kind, c.clock) for c in before] != [(c.kind, c.clock) for c in after]:
        pairs = zip_longest(before, after, fillvalue=Column(""))
        other, column = next(((b, a) for b, a in pairs if (b.kind, b.clock) != (a.kind, a.clock)))
        raise DataError(
            f"{where}: column {column.name or other.name!r} is a {other.kind} here and a {column.kind} in training; "
            "--column NAME=KIND says what it is"
        )
    found = in_memory(x).copy()
    starts = np.cumsum([0, *(len(column.names) for column in before)])
    for start, old, new in zip(starts, before, after, strict=False):
        if old.kind == "category":
            codes = {value: float(code) for code, value in enumerate(new.values)}
            table = np.array([*(codes.get(value, len(codes)) for value in old.values), len(codes)], dtype=np.float32)
            there = ~np.isnan(found[:, start])
            found[there, start] = table[found[there, start].astype(np.intp).clip(max=len(old.values))]
    return found


def names_of(columns: Iterable[Column]) -> tuple[str, ...]:
    """The names of the columns of numbers."""
    return tuple(name for column in columns for name in column.names)


def kinds_of(columns: Iterable[Column]) -> tuple[str, ...]:
    """The kinds of the columns of numbers, for the preparation."""
    return tuple(kind for column in columns for kind in column.kinds)


def owners_of(columns: Sequence[Column]) -> NDArray[np.int64]:
    """For each column of numbers, the column that it is of."""
    return np.repeat(np.arange(len(columns)), [len(column.names) for column in columns])


def only_numbers(columns: Iterable[Column]) -> bool:
    """Whether all columns are numbers as they are, so that nothing has to be remembered of them."""
    return all(column.kind in ("number", "boolean") for column in columns)


def label(value: Any) -> str:
    """A cell as the name of a category: ``1`` for 1.0, text without blanks around it."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def _in_order(labels: set[str]) -> list[str]:
    """Numbers by their size, text by the alphabet."""
    try:
        return sorted(labels, key=lambda text: (float(text), text))
    except ValueError:
        return sorted(labels)


def _looks_like(there: Any) -> str:
    """The kind of a column by its type, or by its values where that says nothing."""
    pd = _pandas()
    types, dtype = pd.api.types, there.dtype
    by_type = (
        ("category", isinstance(dtype, pd.CategoricalDtype)),
        ("boolean", types.is_bool_dtype(dtype)),
        ("number", types.is_numeric_dtype(dtype) or types.is_timedelta64_dtype(dtype) or not len(there)),
        ("date", types.is_datetime64_any_dtype(dtype)),
    )
    return next((kind for kind, fits in by_type if fits), None) or _of_values(there.iloc[:_LOOKED_AT].tolist())


def _of_values(values: list[Any]) -> str:
    texts = [str(value).strip() for value in values]
    words = np.mean([len(text.split()) for text in texts])
    by_value = (
        ("boolean", all(isinstance(value, bool | np.bool_) for value in values)),
        ("number", all(isinstance(value, int | float | np.number) for value in values)),
        ("date", all(hasattr(value, "isoformat") for value in values) or all(map(_DATE.fullmatch, texts))),
        ("text", words >= _WORDS and len(set(texts)) > _DIFFERENT * len(texts)),
    )
    return next((kind for kind, fits in by_value if fits), "category")


def _numeric(series: Any, empty: NDArray[np.bool_], place: str) -> Floats:
    pd = _pandas()
    if pd.api.types.is_timedelta64_dtype(series.dtype):
        series = series.dt.total_seconds()
    numbers = pd.to_numeric(series.where(~empty, None), errors="coerce").astype("float64").to_numpy()
    wrong = np.flatnonzero(np.isnan(numbers) & ~empty)
    if len(wrong):
        raise DataError(f"{place} has {str(series.iloc[wrong[0]])!r} in row {int(wrong[0])}, which is no number")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as such
        return np.asarray(numbers, dtype=np.float32)


def _series(cells: Any) -> Any:
    pd = _pandas()
    if isinstance(cells, pd.Series):
        return cells.reset_index(drop=True)
    return cells.to_pandas() if hasattr(cells, "to_pandas") else pd.Series(cells, dtype=object)


def _empty(series: Any) -> NDArray[np.bool_]:
    """Bool ``(n,)``: NaN, None, NaT, and text without anything in it."""
    pd = _pandas()
    found: NDArray[np.bool_] = series.isna().to_numpy(dtype=bool)
    if series.dtype == object or isinstance(series.dtype, pd.StringDtype):
        found = found | np.array([isinstance(value, str) and not value.strip() for value in series], dtype=bool)
    return found


def _pandas() -> Any:
    return require("train", "pandas", "reading and writing tables")


def _hashed(texts: Sequence[str]) -> Floats:
    """Words and pairs of words, hashed to a vector of length 1; nothing is fitted."""
    from sklearn.feature_extraction.text import HashingVectorizer  # noqa: PLC0415

    vectors = HashingVectorizer(n_features=_HASHED, ngram_range=(1, 2)).transform(texts)
    found: Floats = vectors.toarray().astype(np.float32)
    return found


class _Embedder:
    """The static embedding of words that comes inside of the package wordllama; nothing is downloaded."""

    def __init__(self) -> None:
        package = require("text", "wordllama", "columns of kind 'embedding'")
        folder = Path(str(package.__file__)).parent
        try:
            # By default it looks for its tokenizer in another folder, and on the network.
            self._model = package.WordLlama.load(cache_dir=folder, disable_download=True)
        except Exception as error:  # whatever another version of the package makes of it
            raise InputError(f"the embedding inside of wordllama cannot be loaded: {error}") from error
        self.width = int(self._model.embed(["a"]).shape[1])

    def vectors(self, texts: Sequence[str]) -> Floats:
        """``(n, width)`` of length 1."""
        found = self._model.embed(list(texts), norm=False)
        size = np.linalg.norm(found, axis=1, keepdims=True)
        return np.asarray(found / np.where(size > 0, size, 1.0), dtype=np.float32)


@cache
def _embedder() -> _Embedder:
    return _Embedder()
