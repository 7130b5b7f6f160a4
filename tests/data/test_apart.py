"""Files that are not trusted are read in a process of their own, and give the same."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import equifuse as ef
from equifuse.data import apart
from equifuse.data.columns import Column
from equifuse.data.external import Rows, Wanted
from equifuse.data.plain import read_plain, write_plain
from equifuse.datasets import Split


def table(folder):
    lines = ["id,a:x,a:colour,b:y,b:z,label,site"]
    for i in range(24):
        gap = "" if i % 6 == 5 else f"{i * 1.5},{i}"
        lines.append(f"p{i},{i * 0.5},{'red' if i % 3 else 'blue'},{gap or ','},{'yes' if i % 2 else 'no'},s{i % 2}")
    path = folder / "set.csv"
    path.write_text("\n".join(lines))
    return path


def test_a_table_is_the_same_apart(tmp_path):
    """One process of its own: what it gives, what it refuses and what it warns of go the same way."""
    path = table(tmp_path)
    options = {"target": ["label"], "keep": ["site"]}
    here = ef.datasets.load(path, source=options)
    there = ef.datasets.load(path, source={**options, "untrusted": True})
    assert there.fingerprint() == here.fingerprint()
    assert replace(there, splits=here.splits) == here
    for part, split in here.splits.items():
        other = there.splits[part]
        assert other.ids.tolist() == split.ids.tolist()
        assert {k: v.tolist() for k, v in other.columns.items()} == {k: v.tolist() for k, v in split.columns.items()}
        assert {k: v.tolist() for k, v in other.present.items()} == {k: v.tolist() for k, v in split.present.items()}


def test_values_are_handed_over_whole(tmp_path):
    wanted = Wanted(
        {"a": (2,)}, {"a": ("x", "y")}, "classification", ("no", "yes"), schema={"a": (Column("x", "number"),)}
    )
    columns = {"when": np.array(["2024-01-01"], "M8[D]"), "what": np.array([None], object), "n": np.array([np.nan])}
    split = Split({"a": np.ones((1, 2), np.float32)}, target=np.array([1]), ids=np.array(["=x"]), columns=columns)
    write_plain(tmp_path, {"wanted": wanted, "rows": Rows(split, ["a note"])})
    found = read_plain(tmp_path)
    assert found["wanted"] == wanted
    assert found["rows"].notes == ["a note"]
    again = found["rows"].split.columns
    assert again["when"].dtype == "M8[D]"
    assert again["what"].tolist() == [None]
    assert np.isnan(again["n"][0])


def test_what_is_handed_over_makes_values_and_nothing_else(tmp_path):
    write_plain(tmp_path, [1])
    (tmp_path / "values.json").write_text(json.dumps({"class": "Popen", "fields": {"args": ["id"]}}))
    with pytest.raises(ef.DataError, match="cannot be read as plain arrays"):
        read_plain(tmp_path)
    np.savez(tmp_path / "arrays.npz", a0=np.array([print], object))  # a pickle
    (tmp_path / "values.json").write_text(json.dumps({"array": "a0"}))
    with pytest.raises(ef.DataError, match="cannot be read as plain arrays"):
        read_plain(tmp_path)


@pytest.mark.parametrize(
    ("end", "said"),
    [("import os; os.abort()", "its reader crashed"), ("raise SystemExit(0)", "its reader crashed")],
    ids=["crash", "nothing"],
)
def test_a_reader_that_is_taken_down_is_one_line(end, said, tmp_path, monkeypatch):
    monkeypatch.setattr(apart, "_PROGRAM", end)
    with pytest.raises(ef.DataError, match=said):
        ef.datasets.load(tmp_path / "set.csv", source={"untrusted": True})


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are kept there")
def test_memory_is_limited(tmp_path):
    code = """
import sys, numpy as np
from pathlib import Path
from equifuse.data import apart
from equifuse.data.plain import write_plain
folder = Path(sys.argv[1])
for name in ("asked", "given"):
    (folder / name).mkdir()
write_plain(folder / "asked", {"what": "load", "path": "bomb", "arguments": {}})
apart._readers = lambda: {"load": lambda path: np.ones(2**28)}
apart.child(str(folder), str(2**28))
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    said = json.loads((tmp_path / "said.json").read_text())
    assert said["error"] == "DataError"
    assert said["message"] == "bomb needs more than 0.2 GiB to read"


def test_a_caller_s_passwords_stay_with_it(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "x")
    seen = tmp_path / "seen"
    monkeypatch.setattr(apart, "_PROGRAM", f"import os; open({str(seen)!r}, 'w').write(' '.join(os.environ))")
    with pytest.raises(ef.DataError):
        ef.datasets.load("set.csv", source={"untrusted": True})
    assert "SECRET_TOKEN" not in seen.read_text()
