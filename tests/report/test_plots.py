import numpy as np
import pytest

from equifuse.report import plots, tables

PNG = b"\x89PNG\r\n\x1a\n"


def history(epochs=4):
    return [{"epoch": float(i), "train_task_loss": 1 / (i + 1), "val_loss": 2 / (i + 1)} for i in range(epochs)]


@pytest.mark.parametrize(
    "draw",
    [
        lambda path: plots.learning_curves(history(), path),
        lambda path: plots.learning_curves({"deq": history(), "gmf": history(2)}, path),
        lambda path: plots.learning_curves([{"epoch": 0.0, "val_loss": -1.0}], path),
        lambda path: plots.convergence(
            {"before": {"fused state": np.geomspace(1, 1e-6, 7)[:, None] * np.ones(5)}}, path, tol=1e-4
        ),
        lambda path: plots.convergence({"one step": {"state": np.zeros((1, 3))}}, path),
        lambda path: plots.modality_removal(
            {"deq": {"nothing": (0.9, 0.01), "text": (0.5, float("nan"))}, "gmf": {"nothing": (0.8, 0.0)}}, path
        ),
    ],
)
@pytest.mark.slow
def test_each_plot_is_a_png_and_nothing_else_is_left(draw, tmp_path):
    path = tmp_path / "plots" / "figure.png"
    draw(path)
    content = path.read_bytes()
    assert content.startswith(PNG)
    assert len(content) > 5000
    assert [p.name for p in path.parent.iterdir()] == ["figure.png"]
    draw(path)  # and again over itself
    assert path.read_bytes().startswith(PNG)


def test_text_of_tables():
    assert tables.plus_minus((0.981, 0.0034)) == "98.1 ± 0.3"
    assert tables.to_markdown(["m", "x"], [["a", "1"]]) == "| m | x |\n| --- | ---: |\n| a | 1 |\n"
