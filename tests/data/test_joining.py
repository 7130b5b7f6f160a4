"""Files of modalities joined on ids: what is matched, what is said, and what is refused."""

import numpy as np
import pytest

import equifuse as ef
from equifuse.cli import main
from equifuse.data.sources import understood

N = 40
IDS = [f"TCGA-A{i % 7}-B{i:03d}" for i in range(N)]
X = np.random.default_rng(0).standard_normal((N, 3)).round(3)
TARGET = ["ab"[i % 2] for i in range(N)]


def clinic(folder, ids=IDS, more=""):
    rows = "".join(f"{key},{i},{TARGET[i % N]}\n" for i, key in enumerate(ids))
    (folder / "clinic.csv").write_text(f"patient,age,status\n{rows}{more}")
    return folder / "clinic.csv"


def genes(folder, ids=IDS, name="rna.csv", separator=","):
    lines = [separator.join(["patient", "g0", "g1", "g2"])]
    lines += [separator.join([key, *map(str, row)]) for key, row in zip(ids, X, strict=False)]
    (folder / name).write_text("\n".join(lines))
    return f"{folder / name}"


def load(folder, pattern, **options):
    source = {"id": "patient", "target": "status", "modalities": {"age": "age", "rna": pattern}, **options}
    return ef.datasets.load(folder / "clinic.csv", source=source)


def rows(dataset):
    return {
        key: (split.inputs["rna"][i], split.inputs["age"][i, 0])
        for split in dataset.splits.values()
        for i, key in enumerate(split.ids.tolist())
    }


def assert_joined(dataset, known=N):
    found = rows(dataset)
    assert len(found) == N
    for i, key in enumerate(sorted(found, key=lambda k: found[k][1])):
        np.testing.assert_allclose(found[key][0], X[i] if i < known else np.full(3, np.nan), rtol=1e-6)


def test_rows_in_any_order_and_what_is_said(tmp_path):
    clinic(tmp_path)
    order = np.random.default_rng(1).permutation(30)
    lines = [f"{IDS[i]};" + ";".join(str(v).replace(".", ",") for v in X[i]) for i in order]
    (tmp_path / "rna.txt").write_text("\n".join([";g0;g1;g2", *lines, "x1;1,5;2;3"]))
    dataset = load(tmp_path, "rna.txt")  # beside the table
    assert_joined(dataset, 30)
    main_file, file = dataset.sources
    assert (main_file.rows, main_file.columns, main_file.ids) == (N, 3, None)
    assert file.modality == "rna"
    assert file.facts == ("separator ';'", "decimal comma", "ids in the first column, which has no name")
    assert (file.ids.matched, file.ids.lacking[0], file.ids.unused) == (30, 10, (1, ("x1",)))
    said = "\n".join(understood(dataset))
    for part in ("30 of 40 ids found; none for 10 ids, such as TCGA-A", "1 row is of no other id, such as x1"):
        assert part in said
    assert "modality rna: 3 features, missing in 10 of 40 rows (25.0%)" in said
    assert "classes: a: 20, b: 20" in said
    assert "parts: train" in said


@pytest.mark.parametrize(
    ("ids", "rule"),
    [
        ([f" {key} " for key in IDS], "blanks around them"),
        ([key.lower() for key in IDS], "upper and lower case"),
        ([f"{key}-01A" for key in IDS], "a suffix"),
        ([key.replace("-", ".") + ".01" for key in IDS], "what separates and follows their parts"),
    ],
)
def test_ids_that_match_by_a_rule_are_an_error_that_proposes_it(tmp_path, ids, rule):
    clinic(tmp_path)
    genes(tmp_path, ids, separator=";")
    with pytest.raises(ef.DataError, match=f"Without {rule} 40 are the same: pass --id-pattern '(.*)'$") as raised:
        load(tmp_path, "rna.csv")
    assert "knows none of the 40 ids" in str(raised.value)
    pattern = str(raised.value).partition("--id-pattern '")[2][:-1]
    assert_joined(load(tmp_path, "rna.csv", id_pattern=pattern))


def test_patterns_that_do_not_fit(tmp_path):
    clinic(tmp_path)
    genes(tmp_path)
    with pytest.raises(
        ef.DataError,
        match=r"40 of 40 ids do not match the pattern '\^P\(",
    ):
        load(tmp_path, "rna.csv", id_pattern=r"^P(\d+)")
    with pytest.raises(ef.InputError, match="no regular expression"):
        load(tmp_path, "rna.csv", id_pattern="(")
    genes(tmp_path, [f"q{i}" for i in range(N)])
    with pytest.raises(ef.DataError, match="knows none of the 40 ids, such as 'TCGA-A0-B000'; it has 'q0', 'q1', 'q2'"):
        load(tmp_path, "rna.csv")


def test_ids_twice(tmp_path):
    clinic(tmp_path)
    genes(tmp_path)
    with (tmp_path / "rna.csv").open("a") as file:
        file.write(f"\n{IDS[1]},1,2,\n{IDS[1]},4,5,6\n")
    with pytest.raises(
        ef.DataError, match=rf"an id occurs more than once, such as '{IDS[1]}' \(line 3, line 42, line 43\)"
    ):
        load(tmp_path, "rna.csv")
    assert_joined(load(tmp_path, "rna.csv", duplicates="first"))
    mean = rows(load(tmp_path, "rna.csv", duplicates="mean"))[IDS[1]][0]
    np.testing.assert_allclose(mean, [(X[1, 0] + 5) / 3, (X[1, 1] + 7) / 3, (X[1, 2] + 6) / 2], rtol=1e-5)


def test_ids_twice_in_the_main_table(tmp_path):
    clinic(tmp_path, more=f"{IDS[1]},7,{TARGET[1]}\n")
    genes(tmp_path)
    with pytest.raises(ef.DataError, match=r"\(line 3, line 42\); pass --duplicates first or mean .* or keep"):
        load(tmp_path, "rna.csv")
    assert rows(load(tmp_path, "rna.csv", duplicates="mean"))[IDS[1]][1] == 4.0
    assert rows(load(tmp_path, "rna.csv", duplicates="first"))[IDS[1]][1] == 1.0
    kept = load(tmp_path, "rna.csv", duplicates="keep")
    assert sum(len(split) for split in kept.splits.values()) == N + 1
    grouped = load(tmp_path, "rna.csv", group="patient")
    assert sum(len(split) for split in grouped.splits.values()) == N + 1
    clinic(tmp_path, more=f"{IDS[1]},7,{TARGET[0]}\n")
    with pytest.raises(ef.DataError, match="differ in target or part"):
        load(tmp_path, "rna.csv", duplicates="mean")


@pytest.mark.parametrize("asked", [False, True])
def test_features_in_rows_are_recognised(tmp_path, asked):
    clinic(tmp_path)
    lines = ["\t".join(["gene", *IDS])] + ["\t".join([f"g{j}", *map(str, X[:, j])]) for j in range(3)]
    (tmp_path / "rna.tsv").write_text("\n".join(lines))
    dataset = load(tmp_path, "rna.tsv", transpose=asked)
    assert_joined(dataset)
    assert dataset.features["rna"] == ("g0", "g1", "g2")
    assert "turned: its rows are features" in str(dataset.sources[1])


def test_a_table_with_samples_in_columns(tmp_path):
    lines = [["name", *IDS], ["status", *TARGET], *([f"g{j}", *map(str, X[:, j])] for j in range(3))]
    (tmp_path / "all.csv").write_text("\n".join(",".join(line) for line in lines))
    dataset = ef.datasets.load(
        tmp_path / "all.csv", source={"target": "status", "modalities": {"a": "g0", "b": "g[12]"}}
    )
    first = {key: value for s in dataset.splits.values() for key, value in zip(s.ids, s.inputs["a"], strict=True)}
    np.testing.assert_allclose([first[key][0] for key in IDS], X[:, 0], rtol=1e-6)
    assert dataset.classes == ("a", "b")


def test_a_sheet_for_each_modality(tmp_path):
    pd, _ = pytest.importorskip("pandas"), pytest.importorskip("openpyxl")
    with pd.ExcelWriter(tmp_path / "all.xlsx") as book:
        frame = pd.DataFrame({"patient": IDS, "age": range(N), "status": TARGET})
        frame.to_excel(book, sheet_name="clinic", index=False)
        pd.DataFrame(X, IDS, ["g0", "g1", "g2"]).to_excel(book, sheet_name="rna")
    source = {"id": "patient", "target": "status", "modalities": {"age": "age", "rna": f"{tmp_path / 'all.xlsx'}::rna"}}
    assert_joined(ef.datasets.load(tmp_path / "all.xlsx", source=source))
    source["modalities"]["rna"] += "::g1"
    assert ef.datasets.load(tmp_path / "all.xlsx", source=source).dims["rna"] == 1
    source["modalities"]["rna"] = f"{tmp_path / 'all.xlsx'}::dna"
    with pytest.raises(ef.DataError, match="no column like 'dna'"):
        ef.datasets.load(tmp_path / "all.xlsx", source=source)
    with pytest.raises(ef.DataError, match="no sheet 'dna'; it has clinic, rna"):
        ef.datasets.load(tmp_path / "all.xlsx", source={**source, "sheet": "dna"})


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("notes.doc", "is a file of unknown kind '.doc'; a modality is read from .csv"),
        ("lost.tsv", "no such file: lost.tsv"),
        ("lost/rna", "no such file: lost/rna"),
        ("gene_*", "has no column like 'gene_"),
        ("bad.csv", "rows do not have 2 cells as the header does"),
        ("limits.csv", r"column 'b' has 39 numbers, and '<1' in line 2; if that means no value, pass --na '<1'"),
    ],
)
def test_a_modality_that_cannot_be_read(tmp_path, pattern, message):
    clinic(tmp_path)
    (tmp_path / "notes.doc").write_text("")
    (tmp_path / "bad.csv").write_text(
        "patient,b\n" + "".join(f"{key},1,2\n" if i else f"{key},1\n" for i, key in enumerate(IDS))
    )
    (tmp_path / "limits.csv").write_text("patient,b\n" + "".join(f"{key},{i or '<1'}\n" for i, key in enumerate(IDS)))
    with pytest.raises(ef.DataError, match=message) as raised:
        load(tmp_path, pattern)
    assert ("no column like" in str(raised.value)) == ("*" in pattern)


def test_train_tells_first_what_it_understood(tmp_path, capsys):
    table = clinic(tmp_path)
    words = ["--data", str(table), "--id", "patient", "--target", "status", "--modality", "age=age"]
    rna = genes(tmp_path, [f"{key}-01" for key in IDS[:30]])
    (tmp_path / "rna.csv").write_text((tmp_path / "rna.csv").read_text().replace(f",{X[4, 0]},", ",<1,"))
    pattern = r"^(TCGA-\w+-\w+)"
    words += ["--modality", f"rna={rna}", "--na", "<1", "--id-pattern", pattern]
    words += ["--fusion", "concat", "--epochs", "1", "--quiet"]
    with pytest.raises(SystemExit) as ended:
        main(["train", *words, "--out", str(tmp_path / "run")])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert out.index("30 of 40 ids found") < out.index("parts: train") < out.index("accuracy")
    assert "ids_found: 30" in (tmp_path / "run" / "config.yaml").read_text()
    given = ["--input", str(table), "--modality", f"rna={rna}", "--out", str(tmp_path / "p.csv")]
    with pytest.raises(SystemExit) as ended:  # cells and ids mean what they meant in training
        main(["predict", str(tmp_path / "run"), *given])
    assert ended.value.code == 0
    assert (tmp_path / "p.csv").read_text().splitlines()[1].startswith('"TCGA-A0-B000"')
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["train", *words, "--modality", "rna=other.csv"])
    assert ended.value.code == 2
    assert "--modality rna is given twice" in capsys.readouterr().err


def test_absent_rows_are_no_copies_of_each_other(tmp_path):
    from equifuse.data.inspect import inspect

    clinic(tmp_path)
    text = (tmp_path / "clinic.csv").read_text().splitlines()
    half = [line if i % 2 else ",".join([line.split(",")[0], "", line.split(",")[2]]) for i, line in enumerate(text)]
    (tmp_path / "clinic.csv").write_text("\n".join([text[0], *half[1:]]))
    genes(tmp_path, IDS[:3])
    dataset = load(tmp_path, "rna.csv")
    said = understood(dataset)
    assert any("rows without any modality" in line for line in said)
    assert not [warning for warning in inspect(dataset, "clinic.csv").warnings if "are in train as well" in warning]


def test_other_files_are_read_as_those_of_training(tmp_path):
    from equifuse.data.external import Wanted, read_rows

    def write(name):
        new = [f"{name}{i}" for i in range(4)]
        lines = [f"{key}_x|{i}|{TARGET[i]}" for i, key in enumerate([*new, new[0]]) for i in [i % 4]]
        (tmp_path / f"{name}.csv").write_text("\n".join(["patient|age|status", *lines]))
        cells = [["gene", *new], ["g0", *"1234"], ["g1", "bad", "2", "3", "4"]]
        (tmp_path / f"{name}_rna.csv").write_text("\n".join("|".join(line) for line in cells))
        return str(tmp_path / f"{name}.csv"), {"age": "age", "rna": str(tmp_path / f"{name}_rna.csv")}

    trained = ef.datasets.SourceOptions(
        modalities={"age": "age", "rna": "old_rna.csv"},
        target="status",
        id="patient",
        id_pattern="^([a-z]+[0-9])",
        duplicates="first",
        separator="|",
        transpose=("old_rna.csv",),
        na=("bad",),
    )
    path, files = write("new")
    shapes, features = {"age": (1,), "rna": (2,)}, {"age": ("age",), "rna": ("g0", "g1")}
    wanted = Wanted(
        shapes, features, "classification", ("a", "b"), ("status",), "patient", reading=trained.reading("old.csv")
    )
    found = read_rows(path, wanted, ef.datasets.SourceOptions(modalities=files), labelled=True)
    assert found.split.ids.tolist() == [f"new{i}" for i in range(4)]
    assert "1 row merged into others of the same id" in found.notes
    np.testing.assert_array_equal(found.split.inputs["rna"], [[1, np.nan], [2, 2], [3, 3], [4, 4]])
    kept = read_rows(path, wanted, ef.datasets.SourceOptions(modalities=files, duplicates="keep"), labelled=True)
    assert len(kept.split) == 5  # what is said wins
    with pytest.raises(ef.DataError, match="'gene'.* knows none|has no column"):
        read_rows(path, wanted, ef.datasets.SourceOptions(modalities=files, transpose="none"), labelled=True)
    with pytest.raises(ef.InputError, match=r"no file 'x\.csv' to transpose; the files are new\.csv \(data\), new_rna"):
        read_rows(path, wanted, ef.datasets.SourceOptions(modalities=files, transpose="x.csv"), labelled=True)


def test_a_flag_may_stand_without_a_value(tmp_path, capsys):
    (tmp_path / "all.csv").write_text("name," + ",".join(IDS) + "\nstatus," + ",".join(TARGET) + "\ng,1" + ",2" * 39)
    options = ["--target", "status", "--modality", "a=g"]
    for words in (["--transpose", str(tmp_path / "all.csv")], [str(tmp_path / "all.csv"), "--transpose", "data"]):
        with pytest.raises(SystemExit) as ended:
            main(["datasets", "inspect", *options, *words])
        assert ended.value.code == 0
        assert "turned: its rows are features" in capsys.readouterr().out
