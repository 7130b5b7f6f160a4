"""A package of somebody else adds one of each part: it is installed, and each is used through the command line."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import numpy as np
import pytest

import equifuse

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[2] / "examples" / "third_party"
GROUPS = ("fusions", "solvers", "gradients", "formats", "tasks", "metrics", "balancers", "loggers")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that the package is installed in, by pip and without a network."""
    folder = tmp_path_factory.mktemp("third party")
    shutil.copytree(SOURCE, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--target", str(folder / "site"), str(folder / "source")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a data set in the package's format, and a table of counts."""
    folder = tmp_path_factory.mktemp("work")
    random = np.random.default_rng(0)
    y = np.arange(90) % 3
    a, b = (random.standard_normal((90, 2)) + y[:, None] * shift for shift in (2, -2))
    content = {"modalities": {"a": a.tolist(), "b": b.tolist()}, "labels": y.tolist()}
    (folder / "set.json").write_text(json.dumps(content), encoding="utf-8")
    counts = random.poisson(np.exp(a[:, 0] / 4))
    rows = [f"{p},{q},{r},{n}" for p, q, r, n in zip(a[:, 0], a[:, 1], b[:, 0], counts, strict=True)]
    (folder / "counts.csv").write_text("\n".join(["a:1,a:2,b:1,events", *rows, ""]), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(installed, work):
    """A function that runs ``equifuse`` in that folder, where the package is installed."""
    paths = [str(installed), str(Path(equifuse.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "COLUMNS": "200"}

    def run(*arguments, code=0):
        done = subprocess.run(
            [sys.executable, "-m", "equifuse", *arguments],
            cwd=work, env=environment, capture_output=True, text=True, encoding="utf-8", check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def test_the_package_has_one_of_each_part(installed):
    points = [point for about in distributions(path=[str(installed)]) for point in about.entry_points]
    assert sorted(point.group for point in points) == sorted(f"equifuse.{group}" for group in GROUPS)


def test_format_solver_gradient_metric_balancer_and_logger_of_a_training(run, work):
    shown = run(
        "train", "--data", "set.json", "--epochs", "2", "--dim", "8", "--out", "run", "--quiet",
        "--set", "solver=heavy_ball", "--set", "gradient=one_step", "--metric", "best_of_two",
        "--balance", "even", "--balance-option", "share=0.5", "--logger", "lines", "--logger-option", "file=mine.jsonl",
    )  # fmt: skip
    assert "best_of_two" in shown
    fusion = equifuse.files.read_yaml(work / "run" / "config.yaml")["run"]["fusion"]
    assert (fusion["solver"]["name"], fusion["solver"]["momentum"]) == ("heavy_ball", 0.1)
    assert fusion["gradient"] == {"name": "one_step"}
    lines = [json.loads(line) for line in (work / "run" / "mine.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {line["epoch"] for line in lines} == {0, 1}
    assert any("val_best_of_two" in line for line in lines)
    # The stored model has its solver again, in a process that knows nothing of it beforehand.
    assert "best_of_two" in run("evaluate", "run")


def test_fusion_and_task_of_a_training(run, work):
    shown = run(
        "train", "--data", "counts.csv", "--target", "events", "--task", "counts", "--epochs", "2", "--out", "counts",
        "--fusion", "largest", "--dim", "8", "--set", "scale=2", "--quiet",
    )  # fmt: skip
    assert "error" in shown
    fusion = equifuse.files.read_yaml(work / "counts" / "config.yaml")["run"]["fusion"]
    assert fusion == {"name": "largest", "dims": fusion["dims"], "dim": 8, "scale": 2}
    run("predict", "counts", "--input", "counts.csv", "--out", "rates.csv")
    rates = np.genfromtxt(work / "rates.csv", delimiter=",", names=True)["prediction"]
    assert len(rates) == 90
    assert (rates > 0).all()


@pytest.mark.parametrize(
    ("option", "value", "nearest"),
    [
        ("--fusion", "largst", "largest"),
        ("--set", "solver=heavy_bal", "heavy_ball"),
        ("--set", "gradient=one_stop", "one_step"),
        ("--task", "count", "counts"),
        ("--metric", "best_of_too", "best_of_two"),
        ("--balance", "evne", "even"),
        ("--logger", "line", "lines"),
    ],
)
def test_what_is_nearly_named_is_suggested(run, option, value, nearest):
    data = ("counts.csv", "--target", "events") if option == "--task" else ("set.json",)
    shown = run("train", "--data", *data, "--out", "none", option, value, code=2)
    assert f"did you mean '{nearest}'" in shown.strip().splitlines()[-1]
    assert "Traceback" not in shown


def test_an_unknown_kind_of_file_is_refused_with_the_formats_there_are(run, work):
    (work / "set.xyz").touch()
    assert "JSON with modalities and labels" in run("datasets", "inspect", "set.xyz", code=2)
