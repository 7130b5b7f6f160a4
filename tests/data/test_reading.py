"""Tables as people have them, read as what they mean."""

import bz2
import gzip
import lzma
import zipfile

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

import equifuse as ef
from equifuse.data.tables import Reading, not_understood, read_table, transposed
from equifuse.data.tables.dialect import sniff

ROWS = {"id": ["p1", "p2", "p3"], "x": [1.5, None, -2.25], "n": [1, 2, 3], "group": ["gesünd", "krank", None]}


def content(table):
    return {name: table.column(name).to_pylist() for name in table.column_names}


def text(separator=",", decimal=".", na="NA", quote="", end="\n"):
    def cell(value):
        shown = na if value is None else str(value).replace(".", decimal) if isinstance(value, float) else str(value)
        return f"{quote}{shown}{quote}" if isinstance(value, str) else shown

    rows = [ROWS.keys(), *zip(*ROWS.values(), strict=True)]
    return "".join(separator.join(cell(v) for v in row) + end for row in rows)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", " "])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize(("decimal", "quote", "end"), [(".", "", "\n"), (",", '"', "\r\n")])
def test_any_text_gives_the_same_table(tmp_path, separator, encoding, decimal, quote, end):
    if decimal == separator:
        pytest.skip("a decimal comma beside commas needs quotes around numbers")
    path = tmp_path / "t.txt"
    path.write_bytes(text(separator, decimal, "n/a", quote, end).encode(encoding))
    table = read_table(path)
    assert content(table) == ROWS
    assert ("decimal comma" in table.facts) == (decimal == ",")
    assert any("separator" in fact for fact in table.facts) == (separator != ",")


def test_a_line_of_many_columns_is_understood():
    names = ["id", *(f"gene_{i:06d}" for i in range(12_000))]
    found = sniff(",".join(names).encode() + b"\np1" + b",1.5" * 12_000 + b"\n", "wide.csv", whole=True)
    assert found.separator == ","
    assert found.names == tuple(names)


@pytest.mark.parametrize(
    "pack", [gzip.compress, bz2.compress, lzma.compress, lambda b: pa.compress(b, "zstd").to_pybytes()]
)
def test_packed_text(tmp_path, pack):
    (tmp_path / "t.tsv.gz").write_bytes(pack(text("\t").encode()))
    assert content(read_table(tmp_path / "t.tsv.gz")) == ROWS


@pytest.mark.parametrize(
    ("lines", "names", "first"),
    [
        ("# made here\n# twice\nid,a\n001,2\n# between\n002,3\n", ["id", "a"], ["001", "002"]),
        ("#id,a\np1,1\np2,2\n", ["id", "a"], ["p1", "p2"]),
        ("a b\np1 1 2\np2 3 4\n", ["", "a", "b"], ["p1", "p2"]),  # as R writes it
        ("id   a\np1      1\np2 2\n", ["id", "a"], ["p1", "p2"]),
        (",a\np1,1\np2,2\n", ["", "a"], ["p1", "p2"]),
        ('id,a,note\np1,1,"two\nlines"\np2,2,"one, two"\n', ["id", "a", "note"], ["p1", "p2"]),
        ("id;a;\np1;1;\np2;2;\n", ["id", "a", ""], ["p1", "p2"]),
        ("id;a\np1;1;\np2;2;\n", ["id", "a", ""], ["p1", "p2"]),
        ("id\n12345678901234567890\n2\n", ["id"], ["12345678901234567890", "2"]),
        ("'id','a'\n'p,1','1'\n'p2','2'\n", ["id", "a"], ["p,1", "p2"]),
    ],
)
def test_headers_comments_and_quotes(tmp_path, lines, names, first):
    (tmp_path / "t.csv").write_text(lines)
    table = read_table(tmp_path / "t.csv")
    assert table.column_names == names
    assert table.column(names[0]).to_pylist() == first


@pytest.mark.parametrize("word", ["", "NA", "n/a", "NaN", "-", "?", "None", "null", "#N/A", "."])
def test_empty_cells(tmp_path, word):
    (tmp_path / "t.csv").write_text(f"id,x,y\np1,{word},a\np2,2.5,{word}\n")
    table = read_table(tmp_path / "t.csv")
    assert table.column("x").to_pylist() == [None, 2.5]
    assert table.column("y").to_pylist() == (["a", None] if word not in ("None", ".") else ["a", word])


def test_marks_of_thousands(tmp_path):
    for text in ("id;x\np1;1.234,5\np2;-7,25\n", 'id,x\np1,"1,234.5"\np2,-7.25\n'):
        (tmp_path / "t.csv").write_text(text)
        assert content(read_table(tmp_path / "t.csv")) == {"id": ["p1", "p2"], "x": [1234.5, -7.25]}


def test_signs_are_values(tmp_path):
    (tmp_path / "t.csv").write_text("id,strand\np1,+\np2,-\n")
    assert read_table(tmp_path / "t.csv").column("strand").to_pylist() == ["+", "-"]


def test_bytes_that_are_no_utf8_far_behind(tmp_path):
    lines = ["id,note"] + [f"p{i},{'x' * 20}" for i in range(20_000)] + ["q,gesünd"]
    (tmp_path / "t.csv").write_bytes("\n".join(lines).encode("latin-1"))
    table = read_table(tmp_path / "t.csv")
    assert table.column("note").to_pylist()[-1] == "gesünd"
    assert table.facts == ("encoding Latin-1 (Windows-1252)",)


def test_other_kinds_of_files(tmp_path):
    plain = pa.table({**ROWS, "x": pa.array(ROWS["x"], pa.float64())})
    parquet.write_table(plain, tmp_path / "t.parquet")
    feather.write_feather(plain, tmp_path / "t.feather")
    for name in ("t.parquet", "t.feather"):
        assert content(read_table(tmp_path / name)) == ROWS
    pd, _ = pytest.importorskip("pandas"), pytest.importorskip("openpyxl")
    with pd.ExcelWriter(tmp_path / "t.xlsx") as book:
        pd.DataFrame(ROWS).to_excel(book, sheet_name="clinic", index=False)
        pd.DataFrame({"g": [1.5]}, index=["p1"]).to_excel(book, sheet_name="rna")
    table = read_table(tmp_path / "t.xlsx")
    assert content(table) == ROWS
    assert table.facts == ("sheet 'clinic', one of 2",)
    assert content(read_table(tmp_path / "t.xlsx", Reading(sheet="rna"))) == {"": ["p1"], "g": [1.5]}
    with pytest.raises(ef.DataError, match="no sheet 'dna'; it has clinic, rna"):
        read_table(tmp_path / "t.xlsx", Reading(sheet="dna"))
    anndata = pytest.importorskip("anndata")
    anndata.AnnData(pd.DataFrame({"g": [1.5, 2.5]}, index=["p1", "p2"])).write_h5ad(tmp_path / "t.h5ad")
    assert content(read_table(tmp_path / "t.h5ad")) == {"id": ["p1", "p2"], "g": [1.5, 2.5]}


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        (
            "t.csv",
            b"id,a,b\np1,1\np2,3,4\n",
            "1 rows do not have 3 cells as the header does, such as one with 2: 'p1,1'",
        ),
        ("t.csv", b"1.5,2.5\n3.5,4.5\n", "the names of the columns are numbers, such as 1.5, 2.5; the first line must"),
        ("t.csv", b"", "cannot be read as a table: it has no rows"),
        ("t.csv", bytes(range(256)), "is not text"),
        ("t.parquet", b"PAR1", "cannot be read as Parquet"),
        ("t.xlsx", b"PK", "cannot be read as a workbook"),
        ("t.feather", b"ARROW", "cannot be read as Feather"),
        ("t.h5ad", b"HDF", "cannot be read as AnnData"),
        ("t.sav", b"", "'.sav' is no kind of table; known are .csv"),
    ],
)
def test_what_is_not_understood_is_said(tmp_path, name, raw, message):
    if extra := {"t.xlsx": "openpyxl", "t.h5ad": "anndata"}.get(name):
        pytest.importorskip(extra)
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(ef.DataError, match=message) as raised:
        read_table(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_columns_that_are_nearly_numbers(tmp_path):
    (tmp_path / "t.csv").write_text(
        'id,a,b,c,d\n\np1,<0.5,x,1.5,1\np2,2,y,2.5,2\n# note\np3,3,z,9,"1,5"\np4,3,z,9,1.5\n'
    )
    table = read_table(tmp_path / "t.csv")
    assert "has 3 numbers, and '<0.5' in line 3; if that means no value, pass --na '<0.5'" in not_understood(table, "a")
    assert "with a point and with a comma, such as '1,5' in line 6" in not_understood(table, "d")
    assert not_understood(table, "b") == not_understood(table, "c") == ""
    assert read_table(tmp_path / "t.csv", Reading(empty=("<0.5",))).column("a").to_pylist() == [None, 2, 3, 3]


def test_columns_that_are_there_twice(tmp_path):
    (tmp_path / "t.csv").write_text("id,a,note,note\np1,1,x,y\n")
    table = read_table(tmp_path / "t.csv")
    assert table.column("a").to_pylist() == [1]
    with pytest.raises(ef.DataError, match="column 'note' occurs more than once"):
        table.column("note")


def test_turning_twice_is_nothing(tmp_path):
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    (tmp_path / "t.csv").write_text("gene,p1,p2,p3\nTP53,0,1,2\nMYC,3,4,5\n")
    turned = transposed(read_table(tmp_path / "t.csv"), "id")
    assert turned.column_names == ["id", "TP53", "MYC"]
    np.testing.assert_array_equal(turned.numbers(("TP53", "MYC")), x.T)
    again = transposed(turned, "gene")
    assert content(again) == content(read_table(tmp_path / "t.csv"))
    (tmp_path / "mixed.csv").write_text("name,p1,p2\nage,50,61.5\nsex,f,m\n")
    mixed = transposed(read_table(tmp_path / "mixed.csv"), "id")
    assert content(mixed) == {"id": ["p1", "p2"], "age": [50, 61.5], "sex": ["f", "m"]}


def test_a_large_file_is_read_alike(tmp_path, monkeypatch):
    lines = ["id,a,b,c,label"] + [f"{i},{i / 4},{i},{'x' if i == 400 else i},{i % 2}" for i in range(500)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    expected = read_table(tmp_path / "t.csv")
    monkeypatch.setattr("equifuse.data.tables.text._LARGE", 0)
    found = read_table(tmp_path / "t.csv", Reading(exact=("label",)))
    assert content(found) == content(expected)
    (tmp_path / "u.csv").write_text("\n".join(line for line in lines if ",x," not in line))
    table = read_table(tmp_path / "u.csv", Reading(exact=("label",)))
    kinds = {name: str(table.schema.field(name).type) for name in table.column_names}
    assert kinds == {"id": "int64", "a": "float", "b": "float", "c": "float", "label": "int64"}


@pytest.mark.parametrize("suffix", [".ods", ".xls"])
def test_other_workbooks_are_read_or_said_to_need_a_package(tmp_path, suffix):
    path = tmp_path / f"book{suffix}"
    path.write_bytes(b"no workbook")
    expected = "cannot be read as a workbook|pip install 'equifuse\\[excel\\]'"
    with pytest.raises((ef.DataError, ef.InputError), match=expected):
        read_table(path)


def test_an_ods_file_is_read_by_sheet(tmp_path):
    pytest.importorskip("python_calamine")
    kind = "urn:oasis:names:tc:opendocument:xmlns"
    spaces = "".join(f' xmlns:{k}="{kind}:{k}:1.0"' for k in ("office", "table", "text"))

    def cell(value):
        kind = f'float" office:value="{value}' if isinstance(value, float) else "string"
        return f'<table:table-cell office:value-type="{kind}"><text:p>{value}</text:p></table:table-cell>'

    lines = (("id", "g"), ("p1", 1.5), ("p2", 2.5))
    rows = "".join(f"<table:table-row>{cell(a)}{cell(b)}</table:table-row>" for a, b in lines)
    sheet = f"<office:body><office:spreadsheet><table:table table:name='rna'>{rows}</table:table></office:spreadsheet>"
    document = f"<office:document-content{spaces}>{sheet}</office:body></office:document-content>"
    with zipfile.ZipFile(tmp_path / "t.ods", "w") as file:
        file.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        file.writestr("META-INF/manifest.xml", f'<m:manifest xmlns:m="{kind}:manifest:1.0"/>')
        file.writestr("content.xml", document)
    assert content(read_table(tmp_path / "t.ods")) == {"id": ["p1", "p2"], "g": [1.5, 2.5]}
    with pytest.raises(ef.DataError, match="no sheet 'dna'; it has rna"):
        read_table(tmp_path / "t.ods", Reading(sheet="dna"))


def test_codes_with_zeros_in_front_are_text(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,a:x,label\n" + "".join(f"s{i},0{i},{i % 2}\n" for i in range(12)))
    assert ef.datasets.load(path).schema["a"][0].kind in ("category", "text")
