import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from equifuse.evaluation.robustness import Robustness, RobustnessReport, Spread
from equifuse.report import plots, tables
from equifuse.report.plots.base import short, spread
from equifuse.report.svg import svg_of, themed

PNG = b"\x89PNG\r\n\x1a\n"


def history(epochs=4):
    return [{"epoch": float(i), "train_task_loss": 1 / (i + 1), "val_loss": 2 / (i + 1)} for i in range(epochs)]


def report(names=("deq",), subsets=("a", "a + b")):
    found = Robustness(
        0.9, dict.fromkeys(subsets, 0.8), {"0.5": Spread(0.8, 0.01)}, {"a": {"permuted": Spread(0.5, 0)}}
    )
    return RobustnessReport("test", 2, "accuracy", dict.fromkeys(names, found))


def curve(n=2):
    return {"n": n, "events": 1, "time": [1, 2], "share": [1, 0.5], "low": [1, 0], "high": [1, 1]}


DRAWN = {
    "learning": lambda: plots.learning_curves(history()),
    "learning of two": lambda: plots.learning_curves({"deq": history(), "gmf": history(2)}),
    "learning, negative": lambda: plots.learning_curves([{"epoch": 0.0, "val_loss": -1.0}]),
    "convergence": lambda: plots.convergence(
        {"before": {"fused state": np.geomspace(1, 1e-6, 7)[:, None] * np.ones(5)}}, tol=1e-4
    ),
    "convergence, one step": lambda: plots.convergence({"one step": {"state": np.zeros((1, 3))}}),
    "removal": lambda: plots.modality_removal(
        {"deq": {"nothing": (0.9, 0.01), "text": (0.5, float("nan"))}, "gmf": {"nothing": (0.8, 0.0)}}
    ),
    "robustness": lambda: plots.robustness(report()),
    "ranks": lambda: plots.critical_difference({"deq": 1.2, "gmf": 1.8, "concat": 3.0}, 1.0, [(0, 1)]),
    "pareto": lambda: plots.pareto({"deq": (2e5, 1.2), "concat": (1e5, 2.0)}, ["concat", "deq"], "parameters", "rank"),
    "retained": lambda: plots.retained({"missing 0.5": {"deq": 0.9, "gmf": 0.8}, "without one": {"gmf": 0.7}}),
    "contributions": lambda: plots.contributions({"a": 0.3, "b": -0.1}, "accuracy"),
    "reliability": lambda: plots.reliability(
        {"raw": {"confidence": [0.5, None], "accuracy": [0.4, None], "count": [3, 0]}}
    ),
    "confusion": lambda: plots.confusion([[8, 2], [0, 0]], ["cat", "dog"]),
    "scores": lambda: plots.scores({"a": {"Oslo": (0.8, 0.7, 0.9)}, "b": {"Bergen": (0.7, 0.5, 0.8)}}, "accuracy"),
    "scatter": lambda: plots.scatter(np.eye(3, 2), np.array(["a", "b", "a"]), "label", axes=("x", "y")),
    "scatter of numbers": lambda: plots.scatter(np.random.default_rng(0).normal(size=(40, 2)), np.arange(40.0), "age"),
    "over time": lambda: plots.over_time([1, 2, 3], [0.8, 0.7, 0.75], "AUC", reference=0.5),
    "survival": lambda: plots.survival_curves({"low": curve()}, p=0.03),
    "over epochs": lambda: plots.over_epochs({"fused state": [0.1, None, 0.3]}, "spectral radius"),
    "compared": lambda: plots.compared({"deq": (0.9, 0.8, 0.95), "nothing": (None, None, None)}, "accuracy"),
    "roc": lambda: plots.roc([[0.9, 0.1], [0.2, 0.8]], [0, 1], ["no", "yes"]),
    "precision and recall": lambda: plots.precision_recall([[0.9, 0.1], [0.2, 0.8]], [[1, 0], [0, 1]], ["a", "b"]),
    "predicted": lambda: plots.predicted_against_true(np.arange(900.0), np.arange(900.0), "age"),
    "methods": lambda: plots.methods_on_set({"deq": (0.9, 0.01), "gmf": (0.8, None)}, "accuracy", best=["deq"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWN)
def test_each_plot_is_a_figure_that_can_be_saved_and_shown(name, tmp_path):
    path = tmp_path / "plots" / "figure.png"
    figure = DRAWN[name]()
    assert isinstance(figure, Figure)
    assert figure._repr_png_().startswith(PNG)  # what a notebook asks for
    plots.save(figure, path)
    content = path.read_bytes()
    assert content.startswith(PNG)
    assert len(content) > 3000
    assert [p.name for p in path.parent.iterdir()] == ["figure.png"]
    plots.save(DRAWN[name](), path)  # and again over itself
    assert path.read_bytes().startswith(PNG)


NAMES = [f"{i} expression of a gene in the tissue of the left kidney" for i in range(40)]
RANDOM = np.random.default_rng(0)
SHARES = RANDOM.dirichlet(np.ones(40), size=80)
CROWDED = {
    "learning": lambda: plots.learning_curves({name: history() for name in NAMES}),
    "convergence": lambda: plots.convergence({NAMES[0]: {NAMES[1]: np.ones((3, 2)), NAMES[2]: np.ones((3, 2))}}),
    "over epochs": lambda: plots.over_epochs({name: [0.1, 0.2] for name in NAMES}, NAMES[0]),
    "removal": lambda: plots.modality_removal({"deq": dict.fromkeys(NAMES, (0.9, 0.1))}),
    "removal by many": lambda: plots.modality_removal({name: {"nothing": (0.9, 0.1)} for name in NAMES}),
    "robustness of many": lambda: plots.robustness(report(NAMES)),
    "robustness": lambda: plots.robustness(report(subsets=NAMES[:15])),
    "ranks": lambda: plots.critical_difference({name: 1.0 + i for i, name in enumerate(NAMES)}, 9.0, [(0, 1, 2)]),
    "pareto": lambda: plots.pareto(
        {name: (1e5 + i, 2.0) for i, name in enumerate(NAMES)}, NAMES[:1], "parameters", "average rank"
    ),
    "retained": lambda: plots.retained({name: dict.fromkeys(NAMES, 0.9) for name in NAMES[:5]}),
    "contributions": lambda: plots.contributions(dict.fromkeys(NAMES, 0.1), NAMES[0], lost={NAMES[0]: 0.1}),
    "confusion": lambda: plots.confusion(np.eye(40, dtype=int).tolist(), NAMES),
    "scores": lambda: plots.scores({name: dict.fromkeys(NAMES, (0.5, 0.4, 0.6)) for name in NAMES[:3]}, NAMES[0]),
    "scatter": lambda: plots.scatter(np.eye(20, 2), np.array(NAMES[:20]), NAMES[0], axes=(NAMES[0], NAMES[1])),
    "survival": lambda: plots.survival_curves({name: curve() for name in NAMES}),
    "reliability": lambda: plots.reliability(
        {name: {"confidence": [0.5], "accuracy": [0.4], "count": [3]} for name in NAMES}
    ),
    "compared": lambda: plots.compared(dict.fromkeys(NAMES, (0.5, 0.4, 0.6)), NAMES[0]),
    "roc": lambda: plots.roc(SHARES, np.arange(80) % 40, NAMES),
    "precision and recall": lambda: plots.precision_recall(SHARES, SHARES > 0.05, NAMES),
    "predicted": lambda: plots.predicted_against_true([1, 2], [1, 3], NAMES[0]),
    "methods": lambda: plots.methods_on_set(dict.fromkeys(NAMES, (0.9, 0.01)), NAMES[0]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CROWDED)
def test_labels_never_overlap_and_none_is_cut_off(name):
    """Where the renderer puts all texts of a figure with forty long names."""
    figure, drawn = CROWDED[name](), []
    figure.set_dpi(60)
    draw = Text.draw
    with mock.patch.object(Text, "draw", lambda self, renderer: (drawn.append(self), draw(self, renderer))):
        figure.draw_without_rendering()
    boxes = {text: (text.get_text(), Text.get_window_extent(text)) for text in drawn if text.get_text().strip()}
    boxes = list(boxes.values())
    assert len(boxes) >= 5
    whole = figure.bbox
    for text, box in boxes:
        assert box.x0 >= whole.x0 - 1, (name, text)
        assert box.x1 <= whole.x1 + 1, (name, text)
        assert box.y0 >= whole.y0 - 1, (name, text)
        assert box.y1 <= whole.y1 + 1, (name, text)
    for i, (text, box) in enumerate(boxes):
        for other, beside in boxes[:i]:
            wide = min(box.x1, beside.x1) - max(box.x0, beside.x0)
            high = min(box.y1, beside.y1) - max(box.y0, beside.y0)
            assert wide <= 1 or high <= 1, (name, text, other)


@pytest.mark.slow
def test_plots_leave_no_trace_in_pyplot():
    code = (
        "import sys; from equifuse.report import plots; plots.contributions({'a': 1.0}, 'accuracy')._repr_png_();"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_epochs_are_whole_numbers():
    axis = plots.learning_curves(history(3)).axes[0]
    assert all(float(tick).is_integer() for tick in axis.get_xticks())


def test_a_name_means_nothing_to_matplotlib_or_to_the_page():
    names = {"$x_{$": 0.1, '"><script>alert(1)</script>': 0.2, "cost $ in $": 0.3, "": 0.4}
    svg = themed(svg_of(plots.contributions(names, "accuracy")), "plot", 'a "description" & more')
    assert "<script" not in svg
    assert "$x_{$" in svg
    assert "cost $ in $" in svg
    assert 'aria-label="a &quot;description&quot; &amp; more"' in svg


def test_colours_of_a_plot_are_the_pages():
    svg = themed(svg_of(plots.learning_curves({"a": history(), "b": history()})), "plot", "curves")
    assert "var(--plot-1, #0072B2)" in svg
    assert "var(--plot-2, #D55E00)" in svg
    assert "currentColor" in svg
    assert "#ffffff" not in svg


def test_names_are_shortened_in_the_middle_and_places_spread():
    assert short("a" * 40, 9) == "aaaa…aaaa"
    assert len(short("b" * 31)) == 30
    places = spread([3.0, 3.0, 3.1, 9.0], 1.0)
    assert np.all(np.diff(sorted(places)) >= 1 - 1e-9)
    assert places[3] == 9.0


def test_text_of_tables():
    assert tables.plus_minus((0.981, 0.0034)) == "98.1 ± 0.3"
    assert tables.to_markdown(["m", "x"], [["a", "1"]]) == "| m | x |\n| --- | ---: |\n| a | 1 |\n"
    assert tables.TextTable(["m", "x", "y"], [["a", "1.5", "b"], ["c", "–", "−2 %"]]).aligned == [
        "word",
        "number",
        "word",
    ]
