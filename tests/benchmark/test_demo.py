import json

import pytest

import equifuse as ef
from equifuse.benchmark import preset
from equifuse.benchmark.presets import four_methods, run_demo
from equifuse.benchmark.summary import Summary
from equifuse.report.benchmark import method_table

pytestmark = pytest.mark.slow

METHODS = [method.label for method in four_methods()]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "run"
    return out, run_demo(out, seeds=2, epochs=2, workers=0, progress=False)


def test_folder_and_table(demo):
    out, summary = demo
    assert isinstance(summary, Summary)
    assert json.loads((out / "summary.json").read_text(encoding="utf-8")) == summary
    assert {"report.html", "tables.md", "plots", "scores.parquet", "store.sqlite"} <= {p.name for p in out.iterdir()}
    assert list((out / "plots").iterdir())
    assert summary.methods == METHODS == ["deq", "gmf", "gmf+deq", "concat"]
    for label, measured in summary.measures["digits"].items():
        assert 0.3 < measured["accuracy"].mean <= 1
        values = summary.scores["clean"]["digits"][label].by_seed.values()
        assert measured["accuracy"].mean == pytest.approx(sum(values) / 2)
        assert (label in summary.convergence) == ("deq" in label)
    table = method_table(summary, "digits")
    assert [row[0] for row in table.rows] == METHODS
    assert all(len(row) == len(table.header) for row in table.rows)
    assert "100.0 %" in table.rows[0]


def test_the_summary_is_short_in_a_console_and_a_table_in_a_notebook(demo):
    _, summary = demo
    assert len(repr(summary).splitlines()) < 12
    assert "gmf+deq" in repr(summary)
    assert summary._repr_html_().count("<tr>") == 2


def test_never_overwritten_and_resumed_without_training_again(demo):
    out, summary = demo
    with pytest.raises(ef.OutputExistsError):
        run_demo(out, progress=False)
    again = run_demo(out, seeds=2, epochs=2, resume=True, workers=0, progress=False)
    assert {**again, "made": 0, "command": 0} == {**summary, "made": 0, "command": 0}


def test_presets_by_name():
    assert preset("demo", seeds=1, epochs=3).settings["epochs"] == 3
    with pytest.raises(ef.UnknownNameError, match="demo"):
        preset("dmo")
