"""Tables: text, workbooks, Parquet, Feather and AnnData, read by name of column."""

from equifuse.data.tables.base import ArrowTable, MatrixTable, ParquetTable, Table, give_back_memory, some
from equifuse.data.tables.files import (
    DESCRIPTION,
    SUFFIXES,
    WORKBOOKS,
    Reading,
    container,
    is_table,
    not_understood,
    read_table,
    sheets_of,
    suffix_of,
)
from equifuse.data.tables.turning import transposed

__all__ = [
    "DESCRIPTION",
    "SUFFIXES",
    "WORKBOOKS",
    "ArrowTable",
    "MatrixTable",
    "ParquetTable",
    "Reading",
    "Table",
    "container",
    "give_back_memory",
    "is_table",
    "not_understood",
    "read_table",
    "sheets_of",
    "some",
    "suffix_of",
    "transposed",
]
