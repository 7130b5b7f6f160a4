"""Tables of files of any known kind."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np

from equifuse.data.missing_codes import MissingCodes
from equifuse.data.selfcontained import check_hdf5
from equifuse.data.tables.base import ArrowTable, MatrixTable, ParquetTable, Table, some, sound
from equifuse.data.tables.dialect import EMPTY, EMPTY_NUMBERS
from equifuse.data.tables.text import read_text
from equifuse.errors import DataError
from equifuse.extras import require
from equifuse.files import check_fits, check_unpacked_fits, parse_errors

TEXT = (".csv", ".tsv", ".txt", ".tab", ".dat")
EXCEL = (".xlsx", ".xlsm")
# Workbooks of other programs and of older versions.
CALC = (".ods", ".xls", ".xlsb")
WORKBOOKS = (*EXCEL, *CALC)
_ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar")
FEATHER = (".feather", ".arrow", ".ipc")
CELLS = (".h5ad",)
_PACKED = (".gz", ".zst", ".bz2", ".xz")
# What tables may be called; a text file may be packed beside.
SUFFIXES = (*TEXT, ".parquet", *WORKBOOKS, *FEATHER, *CELLS)
DESCRIPTION = "table (.csv, .tsv, .txt, also .gz or .zst; .parquet, .feather, .xlsx, .xls, .ods, .h5ad)"
_NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?")
# A column of text is numbers written in a way that is not understood if this share of its values are.
_MOSTLY = 0.5


@dataclass(frozen=True)
class Reading:
    """What a reader of tables is told beside the path.

    Attributes:
        sheet: of a workbook; None for the first.
        encoding: of a text file; None finds it.
        separator: of a text file; None finds it.
        empty: further cells that hold no value.
        exact: columns whose whole numbers stay whole.
    """

    sheet: str | None = None
    encoding: str | None = None
    separator: str | None = None
    empty: tuple[str, ...] = ()
    exact: tuple[str, ...] = ()


def suffix_of(path: Path) -> str:
    """The suffix that says what a file is: of ``t.CSV.gz`` it is ``.csv``."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = len(suffixes) > 1 and suffixes[-1] in _PACKED and suffixes[-2] in TEXT
    return suffixes[-2] if packed else suffixes[-1] if suffixes else ""


def is_table(path: Path) -> bool:
    """Whether a file is a table, by its name.

    >>> is_table(Path("cells.TSV.gz")), is_table(Path("cells.gz"))
    (True, False)
    """
    return suffix_of(path) in SUFFIXES


def container(path: Path) -> str:
    """What to say of a folder or an archive where a file is needed; "" for anything else.

    >>> container(Path("rna.zip"))
    'rna.zip is an archive; unpack it, and name a file that was in it'
    """
    if path.is_dir():
        tables = sorted(file.name for file in path.iterdir() if file.is_file() and is_table(file))
        return f"{path} is a folder; name a file in it" + (f", such as {path / tables[0]}" if tables else "")
    if path.suffix.lower() in _ARCHIVES or (path.suffix in _PACKED and Path(path.stem).suffix == ".tar"):
        return f"{path} is an archive; unpack it, and name a file that was in it"
    return ""


def read_table(path: Path, reading: Reading | None = None) -> Table:
    """The table of a file, Parquet column by column as it is asked for.

    Raises:
        DataError: the file is missing or damaged, or what about it is not understood.
        InputError: an extra is not installed.
    """
    reading = reading or Reading()
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    suffix = suffix_of(path)
    if suffix in TEXT:
        table: Table = read_text(
            path, encoding=reading.encoding, separator=reading.separator, empty=reading.empty, exact=reading.exact
        )
    else:
        table = next((read for kinds, read in _READERS if suffix in kinds), _unknown)(path, reading)
    names = [name for name in table.column_names if name]
    if names and all(_NUMBER.fullmatch(n) for n in names) and any("." in n or "," in n for n in names):
        raise DataError(
            f"{path}: the names of the columns are numbers, such as {some(names)}; the first line must name the columns"
        )
    table.codes = MissingCodes(reading.empty)
    return table


def _unknown(path: Path, reading: Reading) -> Table:
    raise DataError(f"{path}: {path.suffix or 'no suffix'!r} is no kind of table; known are {', '.join(SUFFIXES)}")


def _parquet(path: Path, reading: Reading) -> Table:
    return ParquetTable(path)


def _feather(path: Path, reading: Reading) -> Table:
    feather = require("train", "pyarrow.feather", "reading and writing tables")
    with parse_errors(path, "Feather"):
        return ArrowTable(path, sound(feather.read_table(path, memory_map=False)))


def sheets_of(path: Path) -> list[str]:
    """Names of the sheets of a workbook.

    Raises:
        DataError: it is none.
        InputError: the extra is not installed.
    """
    if suffix_of(path) in CALC:
        calamine = require("excel", "python_calamine", f"{path}: a workbook")
        with parse_errors(path, "a workbook"), _no_panic():
            _check_workbook(path)
            with calamine.CalamineWorkbook.from_path(str(path)) as found:
                return [str(name) for name in found.sheet_names]
    openpyxl = require("excel", "openpyxl", f"{path}: a workbook")
    with parse_errors(path, "a workbook"):
        _check_workbook(path)
        book = openpyxl.load_workbook(path, read_only=True)
        try:
            return [str(name) for name in book.sheetnames]
        finally:
            book.close()


def _check_workbook(path: Path) -> None:
    """All kinds but .xls are archives, which may unpack to any size."""
    if suffix_of(path) != ".xls" or is_zipfile(path):
        check_unpacked_fits(path)


@contextmanager
def _no_panic() -> Iterator[None]:
    """A fault inside of calamine, which is written in Rust, is no ordinary exception."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ == "PanicException":
            raise ValueError(str(error)) from None
        raise


def _excel(path: Path, reading: Reading) -> Table:
    pa = require("train", "pyarrow", "reading and writing tables")
    pd = require("train", "pandas", "workbooks")
    sheets = sheets_of(path)
    if not sheets:
        raise DataError(f"{path} is a workbook without sheets")
    sheet = reading.sheet or sheets[0]
    if sheet not in sheets:
        raise DataError(f"{path} has no sheet {sheet!r}; it has {', '.join(sheets)}")
    engine = "calamine" if suffix_of(path) in CALC else "openpyxl"
    with parse_errors(path, "a workbook"), _no_panic(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of styles and the like that are not read
        frame = pd.read_excel(
            path, sheet_name=sheet, engine=engine, na_values=[*EMPTY_NUMBERS, *reading.empty], keep_default_na=False
        )
        frame.columns = ["" if str(name).startswith("Unnamed: ") else str(name).strip() for name in frame.columns]
        if frame.shape[1] == 0:
            raise DataError(f"{path}: sheet {sheet!r} is empty")
        columns = [frame.iloc[:, place] for place in range(frame.shape[1])]
        table = pa.table([_arrow(column) for column in columns], names=list(frame.columns))
    others = f", one of {len(sheets)}" if len(sheets) > 1 else ""
    return ArrowTable(path, table, [f"sheet {sheet!r}{others}"])


def _arrow(column: Any) -> Any:
    """A column of a workbook, whose cells may be of any kind, as text where they are of several."""
    pa = require("train", "pyarrow", "reading and writing tables")
    try:
        return pa.array(column, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if empty else str(v) for v, empty in zip(column, column.isna(), strict=True)])


def _cells(path: Path, reading: Reading) -> Table:
    data = read_cells(path)
    names = [str(name) for name in data.var_names]
    return MatrixTable(path, [str(name) for name in data.obs_names], names, dense(path, data.X), "id")


def read_cells(path: Path) -> Any:
    """An AnnData file.

    Raises:
        DataError: it is damaged.
        InputError: the extra is not installed.
    """
    anndata = require("mudata", "anndata", f"{path}: AnnData")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library, about its own defaults
        check_hdf5(path, "AnnData")
        with parse_errors(path, "AnnData"):
            return anndata.read_h5ad(path)


def dense(path: Path, matrix: Any) -> Any:
    """A matrix, sparse or not, as float32."""
    check_fits(path, 4 * math.prod(matrix.shape))
    return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix).astype(np.float32, copy=False)


_READERS: Sequence[tuple[Sequence[str], Callable[[Path, Reading], Table]]] = (
    ((".parquet",), _parquet),
    (FEATHER, _feather),
    (WORKBOOKS, _excel),
    (CELLS, _cells),
)


def not_understood(table: Table, name: str) -> str:
    """What to say of a column of text that is mostly numbers; "" for one that is not.

    >>> import pyarrow as pa
    >>> table = ArrowTable(Path("t.csv"), pa.table({"a": ["1.5", "2", "<0.1"]}))
    >>> not_understood(table, "a")
    "t.csv: column 'a' has 2 numbers, and '<0.1' in row 3; if that means no value, pass --na '<0.1'"
    """
    pa = require("train", "pyarrow", "reading and writing tables")
    if not any(test(table.schema.field(name).type) for test in (pa.types.is_string, pa.types.is_large_string)):
        return ""
    values = [None if v is None else v.strip() for v in table.column(name).to_pylist()]
    given = [v for v in values if v is not None and v not in EMPTY]
    numeric = sum(bool(_NUMBER.fullmatch(v)) for v in given)
    odd = [row for row, v in enumerate(values) if v and v not in EMPTY and not _NUMBER.fullmatch(v)]
    if not given or numeric <= _MOSTLY * len(given):
        return ""
    if not odd:
        mixed = next((row for row, v in enumerate(values) if v and not _plain(v)), None)
        if mixed is None:  # codes with zeros in front, which are no numbers
            return ""
        return (
            f"{table.path}: column {name!r} has numbers with a point and with a comma, such as {values[mixed]!r} in "
            f"{table.line(mixed)}; write them in one way"
        )
    value = values[odd[0]]
    others = f" and {len(odd) - 1} more such cells" if len(odd) > 1 else ""
    return (
        f"{table.path}: column {name!r} has {numeric} numbers, and {value!r} in {table.line(odd[0])}{others}; if that "
        f"means no value, pass --na {value!r}"
    )


def _plain(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
