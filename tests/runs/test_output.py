"""Tables that are written: the same values in every format, and no text that a spreadsheet runs."""

import numpy as np
import pytest

import equifuse as ef
from equifuse.runs.output import check_output, write_columns

HOSTILE = ["=1+1", "@SUM(A1)", "+cmd|' /C calc'!A0", "-x", "-1.5", "plain, with comma", 'a "quote"']
COLUMNS = {"id": np.array(HOSTILE), "score": np.linspace(0, 1, len(HOSTILE)), "seen": np.arange(len(HOSTILE)) > 2}


def test_no_cell_of_a_csv_begins_a_formula(tmp_path):
    from pyarrow import csv

    write_columns(tmp_path / "out.csv", COLUMNS)
    read = csv.read_csv(tmp_path / "out.csv").to_pydict()
    assert read["id"][:4] == [f"'{text}" for text in HOSTILE[:4]]
    assert read["id"][4:] == HOSTILE[4:]
    np.testing.assert_allclose(read["score"], COLUMNS["score"])


def test_a_sheet_holds_text_as_text(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    write_columns(tmp_path / "out", COLUMNS, "xlsx")
    sheet = openpyxl.load_workbook((tmp_path / "out").open("rb")).active
    header, *rows = sheet.iter_rows()
    assert [cell.value for cell in header] == list(COLUMNS)
    assert [row[0].value for row in rows] == HOSTILE
    assert {row[0].data_type for row in rows} == {"s"}
    assert [row[2].value for row in rows] == COLUMNS["seen"].tolist()


def test_what_cannot_be_written_is_said_before_anything_is_computed(tmp_path):
    (tmp_path / "there.csv").write_text("x")
    with pytest.raises(ef.OutputExistsError):
        check_output(tmp_path / "there.csv")
    with pytest.raises(ef.InputError, match="use one of csv, parquet, xlsx, npz"):
        check_output(tmp_path / "new.csv", "pickle")
