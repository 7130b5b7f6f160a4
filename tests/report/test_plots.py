import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from equifuse.evaluation.robustness import Robustness, RobustnessReport, Spread
from equifuse.report import plots, tables

PNG = b"\x89PNG\r\n\x1a\n"


def history(epochs=4):
    return [{"epoch": float(i), "train_task_loss": 1 / (i + 1), "val_loss": 2 / (i + 1)} for i in range(epochs)]


REPORT = RobustnessReport(
    "test",
    2,
    "accuracy",
    {"deq": Robustness(0.9, {"a": 0.8, "a + b": 0.9}, {"0.5": Spread(0.8, 0.01)}, {"a": {"permuted": Spread(0.5, 0)}})},
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.learning_curves(history()),
        lambda: plots.learning_curves({"deq": history(), "gmf": history(2)}),
        lambda: plots.learning_curves([{"epoch": 0.0, "val_loss": -1.0}]),
        lambda: plots.convergence(
            {"before": {"fused state": np.geomspace(1, 1e-6, 7)[:, None] * np.ones(5)}}, tol=1e-4
        ),
        lambda: plots.convergence({"one step": {"state": np.zeros((1, 3))}}),
        lambda: plots.modality_removal(
            {"deq": {"nothing": (0.9, 0.01), "text": (0.5, float("nan"))}, "gmf": {"nothing": (0.8, 0.0)}}
        ),
        lambda: plots.robustness(REPORT),
        lambda: plots.critical_difference({"deq": 1.2, "gmf": 1.8, "concat": 3.0}, 1.0, [(0, 1)]),
        lambda: plots.pareto({"deq": (2e5, 1.2), "concat": (1e5, 2.0)}, ["concat", "deq"], "parameters", "rank"),
        lambda: plots.retained({"missing 0.5": {"deq": 0.9, "gmf": 0.8}, "without one": {"gmf": 0.7}}),
        lambda: plots.contributions({"a": 0.3, "b": -0.1}, "accuracy"),
        lambda: plots.reliability({"raw": {"confidence": [0.5, None], "accuracy": [0.4, None], "count": [3, 0]}}),
        lambda: plots.confusion([[8, 2], [0, 0]], ["cat", "dog"]),
        lambda: plots.scores({"a": {"Oslo": (0.8, 0.7, 0.9)}, "b": {"Bergen": (0.7, 0.5, 0.8)}}, "accuracy"),
        lambda: plots.scatter(np.eye(3, 2), np.array(["a", "b", "a"]), "label", axes=("x", "y")),
        lambda: plots.scatter(np.random.default_rng(0).normal(size=(40, 2)), np.arange(40.0), "age"),
        lambda: plots.over_time([1, 2, 3], [0.8, 0.7, 0.75], "AUC", reference=0.5),
        lambda: plots.survival_curves(
            {"low": {"n": 2, "events": 1, "time": [1, 2], "share": [1, 0.5], "low": [1, 0], "high": [1, 1]}}, p=0.03
        ),
        lambda: plots.over_epochs({"fused state": [0.1, None, 0.3]}, "spectral radius"),
    ],
)
def test_each_plot_is_a_figure_that_can_be_saved_and_shown(draw, tmp_path):
    path = tmp_path / "plots" / "figure.png"
    figure = draw()
    assert isinstance(figure, Figure)
    assert figure._repr_png_().startswith(PNG)  # what a notebook asks for
    plots.save(figure, path)
    content = path.read_bytes()
    assert content.startswith(PNG)
    assert len(content) > 5000
    assert [p.name for p in path.parent.iterdir()] == ["figure.png"]
    plots.save(draw(), path)  # and again over itself
    assert path.read_bytes().startswith(PNG)


@pytest.mark.slow
def test_plots_leave_no_trace_in_pyplot():
    code = (
        "import sys; from equifuse.report import plots; plots.contributions({'a': 1.0}, 'accuracy')._repr_png_();"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_text_of_tables():
    assert tables.plus_minus((0.981, 0.0034)) == "98.1 ± 0.3"
    assert tables.to_markdown(["m", "x"], [["a", "1"]]) == "| m | x |\n| --- | ---: |\n| a | 1 |\n"
