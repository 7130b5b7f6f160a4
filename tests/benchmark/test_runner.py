import json
import os
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

import equifuse as ef
from equifuse.benchmark import BenchmarkConfig, Store, read_benchmark, run_benchmark, runner
from equifuse.benchmark.tuning import Tuning
from equifuse.cli import main
from tests.benchmark.conftest import SETTINGS

pytestmark = pytest.mark.slow

METHODS = ["deq", "gmf", "concat", "linear"]


def config(sets, **options):
    values = {"data": sets, "methods": METHODS, "seeds": 2, "settings": SETTINGS, **options}
    return BenchmarkConfig.from_dict(values)


def scores(folder):
    """Everything measured, by what it was measured on."""
    table = pq.read_table(folder / "scores.parquet").to_pylist()
    return {
        tuple(row[k] for k in ("data", "method", "seed", "protocol", "condition", "metric")): row["value"]
        for row in table
    }


@pytest.fixture(scope="module")
def grid(two_sets, tmp_path_factory):
    """A small grid of everything: tuning, both protocols, missing modalities."""
    out = tmp_path_factory.mktemp("benchmark") / "grid"
    given = config(two_sets, trials=2, missing=[0.5, "without", "only"], protocols=["clean", "loose"])
    return out, given, run_benchmark(given, out, progress=False, workers=2)


def test_every_cell_is_filled(grid, two_sets):
    out, given, summary = grid
    found = scores(out)
    assert summary["metrics"] == {"first": "accuracy", "second": "mae"}
    for data, metric in summary["metrics"].items():
        for method in METHODS:
            entry = summary["scores"]["clean"][data][method]
            values = [found[data, method, seed, "clean", "intact", metric] for seed in (0, 1)]
            assert entry["mean"] == pytest.approx(np.mean(values))
            assert list(entry["values"].values()) == values
            for condition in ("missing 0.5", "without a", "without b", "only a", "only b"):
                assert (data, method, 1, "clean", condition, metric) in found
            assert (
                found[data, method, 0, "clean", "without a", metric]
                == found[data, method, 0, "clean", "only b", metric]
            )
            assert (method in summary["scores"]["loose"][data]) == (method != "linear")
    assert sorted(summary["ranking"]["ranks"]) == sorted(METHODS)
    assert sum(summary["ranking"]["ranks"].values()) == pytest.approx(10)
    assert set(summary["conditions"]) == {"missing 0.5", "without one", "only one"}
    assert set(summary["convergence"]) == {"deq"}
    assert summary["costs"]["deq"]["flops"] > summary["costs"]["concat"]["flops"] > 0
    assert summary["failures"] == summary["skipped"] == []
    assert json.loads((out / "summary.json").read_text()) == summary
    assert read_benchmark(out) == given


def test_tuning_is_judged_on_validation_and_the_defaults_are_a_candidate(grid, two_sets):
    out, _, summary = grid
    rows = Store(out / "store.sqlite").rows().values()
    for data in summary["metrics"]:
        for method in ("deq", "gmf", "concat"):
            trials = [row for row in rows if (row.data, row.method) == (data, method) and row.trial is not None]
            assert [row.trial for row in trials] == [0, 1]
            assert not any(row.scores for row in trials)  # test was not looked at
            assert {row.seed for row in trials} == {0}
            assert trials[0].config["lr"] == SETTINGS["lr"]
            best = min(trials, key=lambda row: row.monitor)
            runs = [row for row in rows if (row.data, row.method) == (data, method) and row.trial is None]
            assert {row.config["lr"] for row in runs} == {best.config["lr"]} == {summary["tuned"][data][method]["lr"]}
        tried = {row.config["weight_decay"] for row in rows if row.data == data and row.trial == 1}
        assert len(tried) == 1  # the first proposals are the same for every method


def test_a_finished_benchmark_repeats_nothing_and_grows(grid, two_sets, monkeypatch):
    out, given, summary = grid
    begun = []
    measured = runner._Work._submit
    monkeypatch.setattr(
        runner._Work, "_submit", lambda self, unit, then: (begun.append(unit), measured(self, unit, then))
    )
    again = run_benchmark(given, out, resume=True, progress=False, workers=0)
    assert begun == []
    assert {**again, "made": 0, "command": 0} == {**summary, "made": 0, "command": 0}
    bigger = config(two_sets, trials=2, missing=[0.5, "without", "only"], protocols=["clean", "loose"], seeds=3)
    grown = run_benchmark(bigger, out, resume=True, progress=False, workers=0)
    assert {(unit.config.seed, unit.trial) for unit in begun} == {(2, None)}
    assert (
        grown["scores"]["clean"]["first"]["deq"]["values"]["0"]
        == summary["scores"]["clean"]["first"]["deq"]["values"]["0"]
    )
    before = {key: value for key, value in scores(out).items() if key[2] < 2}
    assert before
    with pytest.raises(ef.OutputExistsError):
        run_benchmark(given, out, progress=False)
    with pytest.raises(ef.DataError, match="nothing to resume"):
        run_benchmark(given, out / "plots", resume=True, progress=False)


def children(pid):
    """Processes started by a process."""
    done = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return (
        "Z" not in subprocess.run(["ps", "-o", "stat=", str(pid)], capture_output=True, text=True, check=False).stdout
    )


def test_killed_and_resumed_it_equals_one_that_was_not(two_sets, tmp_path):
    given = config(two_sets[:1], methods=["gmf", "concat"], trials=2)
    whole = tmp_path / "whole"
    run_benchmark(given, whole, progress=False, workers=0)
    path = tmp_path / "benchmark.yaml"
    path.write_text(yaml.safe_dump(given.to_dict()))
    out = tmp_path / "killed"
    command = [sys.executable, "-c", "from equifuse.cli import main; main()", "benchmark", str(path), "--out", str(out)]
    command += ["--workers", "1", "--quiet"]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    store = out / "store.sqlite"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if store.is_file() and len(Store(store).rows()) >= 3:
            break
        time.sleep(0.05)
    workers = children(process.pid)
    process.kill()  # its workers are not asked
    process.wait()
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers
    assert not any(alive(pid) for pid in workers)
    kept = Store(store).rows()
    assert 3 <= len(kept) < 8
    run_benchmark(given, out, resume=True, progress=False, workers=0)
    rows = Store(store).rows()
    assert all(rows[key].info.seconds == row.info.seconds for key, row in kept.items())  # not measured again
    assert set(rows) == set(Store(whole / "store.sqlite").rows())
    assert scores(out) == scores(whole)


def test_what_fails_or_does_not_fit_is_told_and_the_rest_goes_on(two_sets, tmp_path, capsys):
    given = config(
        two_sets[:1],
        methods=["concat", {"label": "diverging", "fusion": "concat", "lr": 1e30, "weight_decay": 0}],
        seeds=1,
    )
    summary = run_benchmark(given, tmp_path / "out", progress=False, workers=0)
    assert "diverging on first, seed 0: " in summary["failures"][0]
    assert "learning rate" in summary["failures"][0]
    assert "concat" in summary["scores"]["clean"]["first"]
    assert "diverging" not in summary["scores"]["clean"]["first"]
    rows = Store(tmp_path / "out/store.sqlite").rows()
    assert sum(row.error is not None for row in rows.values()) == 1


def test_a_method_that_is_not_for_a_task_is_left_out(two_sets, tmp_path, monkeypatch):
    monkeypatch.setattr(ef.fusion.sums.Mean, "tasks", ("classification",))
    given = config(two_sets, methods=["mean", "linear"], seeds=1)
    plan = runner._Plan(given)
    assert plan.skipped == ["mean on second: mean is for classification"]
    assert plan.total == 3


def test_command_line(two_sets, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["benchmark", "--data", two_sets[0], "--method", "concat", "--method", "linear", "--seeds", "1", "--quiet"]
    words += ["--set", "epochs=1", "--set", "hidden=8", "--missing", "0.3", "--out", str(out), "--workers", "0"]
    with pytest.raises(SystemExit) as done:
        main(words)
    assert done.value.code == 0
    printed = capsys.readouterr().out
    assert "concat" in printed
    assert "report.html" in printed
    for wrong, message in (
        (["benchmark", "--method", "deq"], "at least one data set"),
        (["benchmark", "--data", two_sets[0], "--method", "deqq", "--out", str(tmp_path / "x")], "did you mean 'deq'"),
        (words, "already exists"),
        ([*words, "--resume", "--scheduler", "tcp://127.0.0.1:1"], "no Dask scheduler"),
    ):
        with pytest.raises(SystemExit) as failed:
            main(wrong)
        assert failed.value.code == 2
        error = capsys.readouterr().err.strip()
        assert message in error
        assert "\n" not in error


def test_a_new_store_can_be_opened_by_two_at_once(tmp_path):
    finished = tmp_path / "finished.sqlite"
    Store(finished)
    with sqlite3.connect(finished) as database:
        schema = [sql for (sql,) in database.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")]
    path = tmp_path / "new.sqlite"
    with sqlite3.connect(path, isolation_level=None) as other, ThreadPoolExecutor(1) as pool:
        for statement in (*schema, "BEGIN IMMEDIATE", "INSERT INTO meta VALUES ('format', '1')"):
            other.execute(statement)
        opened = pool.submit(Store, path)  # waits for the other to finish
        time.sleep(0.5)
        other.execute("COMMIT")
        assert opened.result().rows() == {}


def test_a_damaged_store_is_one_clear_line(tmp_path):
    path = tmp_path / "store.sqlite"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(ef.DataError, match="cannot be used as a store"):
        Store(path)
    other = tmp_path / "other.sqlite"
    Store(other)
    with sqlite3.connect(other) as database:
        database.execute("UPDATE meta SET value = '99'")
    with pytest.raises(ef.DataError, match="store format 99"):
        Store(other)


def test_an_interrupted_study_proposes_what_it_would_have():
    space = {"lr": {"low": 1e-4, "high": 1e-1, "log": True}, "hidden": [16, 32, 64], "depth": {"low": 1, "high": 9}}

    def value(options):
        return abs(np.log10(options.get("lr", 1e-3)) + 2) + options.get("depth", 5) / 100

    def advance(tuning, known):
        asked = []
        while not tuning.finished:
            options = tuning.ask()
            asked.append(options)
            tuning.tell(options, known.get(len(asked), value(options)))
        return asked, tuning.best

    asked, best = advance(Tuning("x", space, 14), {})
    assert asked[0] == {}
    assert advance(Tuning("x", space, 14), {}) == (asked, best)
    assert best[0] == min(value(options) for options in asked)
    failed, _ = advance(Tuning("x", space, 14), {3: None})
    assert failed[:3] == asked[:3]
    assert all(1 <= options["depth"] <= 9 and isinstance(options["depth"], int) for options in asked[1:])


def test_on_a_cluster_of_processes_the_results_are_the_same(two_sets, tmp_path):
    distributed = pytest.importorskip("distributed")
    given = config(two_sets[:1], methods=["deq", "concat", "linear"])
    run_benchmark(given, tmp_path / "here", progress=False, workers=0)
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "processes": True}
    with distributed.LocalCluster(**options, local_directory=str(tmp_path)) as cluster:
        run_benchmark(given, tmp_path / "there", progress=False, scheduler=cluster.scheduler_address)
    here, there = scores(tmp_path / "here"), scores(tmp_path / "there")
    assert here.keys() == there.keys()
    for key, found in here.items():
        assert there[key] == pytest.approx(found, rel=1e-5), key
    several = {**options, "n_workers": 1, "threads_per_worker": 2, "processes": False}
    with distributed.LocalCluster(**several) as cluster, pytest.raises(ef.InputError, match="--nthreads 1"):
        run_benchmark(given, tmp_path / "x", progress=False, scheduler=cluster.scheduler_address)
