"""Tables: text, workbooks, Parquet, Feather and AnnData, read by name of column."""

from equifuse.data.tables.base import ArrowTable, MatrixTable, ParquetTable, Table, give_back_memory, some
from equifuse.data.tables.files import (
    DESCRIPTION,
    EXCEL,
    SUFFIXES,
    Reading,
    is_table,
    not_understood,
    read_table,
    sheets_of,
    suffix_of,
)
from equifuse.data.tables.turning import transposed

__all__ = [
    "DESCRIPTION",
    "EXCEL",
    "SUFFIXES",
    "ArrowTable",
    "MatrixTable",
    "ParquetTable",
    "Reading",
    "Table",
    "give_back_memory",
    "is_table",
    "not_understood",
    "read_table",
    "sheets_of",
    "some",
    "suffix_of",
    "transposed",
]
