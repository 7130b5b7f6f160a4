import json

import pytest

import equifuse as ef
from equifuse.training.comparison import HEADER, four_methods, rows
from equifuse.training.demo import run_demo

pytestmark = pytest.mark.slow

METHODS = four_methods()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "run"
    return out, run_demo(out, seeds=2, epochs=2, progress=False)


def test_folder_and_table(demo):
    out, summary = demo
    assert json.loads((out / "metrics.json").read_text()) == summary
    assert {p.name for p in (out / "plots").iterdir()} == {
        "learning_curves.png",
        "convergence.png",
        "modality_removal.png",
    }
    assert set(summary["methods"]) == set(METHODS) == {"deq", "gmf", "gmf -> deq", "concat"}
    for label, method in summary["methods"].items():
        assert 0.3 < method["accuracy"][0] <= 1
        for seed in range(2):
            metrics = json.loads((out / label.replace(" -> ", "-") / f"seed{seed}/metrics.json").read_text())
            assert metrics["parameters"] == method["parameters"]
        assert (method["converged"] is None) == ("deq" not in label)
        assert set(method["accuracy_without"]) == {"nothing", "pixels", "fourier", "zernike", "profiles", "morphology"}
    table = (out / "table.md").read_text().splitlines()
    assert len(table) == 2 + len(METHODS)
    assert all(len(row) == len(HEADER) for row in rows(summary))


def test_never_overwritten_and_resumed_without_training_again(demo):
    out, summary = demo
    with pytest.raises(ef.OutputExistsError):
        run_demo(out, progress=False)
    again = run_demo(out, seeds=2, epochs=2, resume=True, progress=False)
    assert again == summary
    with pytest.raises(ef.InputError, match="resume it with the same options"):
        run_demo(out, seeds=2, epochs=3, resume=True, progress=False)
