"""With the six packages of the core alone, layers and solvers work, and what needs more says what to install."""

import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.slow

# What `pip install equifuse` does not bring.
OTHERS = (
    "captum",
    "distributed",
    "msgspec",
    "h5py",
    "jinja2",
    "lightning",
    "matplotlib",
    "optuna",
    "pandas",
    "pyarrow",
    "rich",
    "starlette",
    "torchmetrics",
    "typer",
    "yaml",
)
WITHOUT = f"""
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {OTHERS} else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Without, sys.meta_path)
"""


def run(code):
    """What a Python without those packages prints, and how it ends."""
    program = WITHOUT + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_layers_losses_models_and_solvers_work(tmp_path):
    done = run(f"""
        import torch
        import equifuse as ef

        x = {{"a": torch.randn(4, 8), "b": torch.randn(4, 9)}}
        for name in ef.available_fusions():
            fusion = ef.make_fusion(name, {{"a": 8, "b": 9}})
            assert fusion(x).fused.shape[0] == 4
        z, stats = ef.fixed_point(lambda z: 0.5 * z + 1, torch.zeros(2, 3))
        assert torch.allclose(z, torch.full((2, 3), 2.0), atol=1e-3)
        assert ef.datasets.load("digits").dims["pixels"] == 64
        model = ef.build_model({{"a": 8, "b": 9}}, "classification", 2)
        model.save({str(tmp_path / "model")!r})
        ef.load({str(tmp_path / "model")!r})
    """)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "from equifuse.cli import main; main(['--version'])",
        """
        import equifuse as ef
        train = ef.datasets.load("digits").splits["train"]
        try:
            ef.FusionClassifier().fit(train.inputs, train.target)
        except ef.InputError as error:
            sys.exit(f"error: {error}")
        """,
        """
        import equifuse as ef
        from equifuse.runs import TrainConfig, train
        try:
            train(TrainConfig(data="digits"), "nowhere")
        except ef.InputError as error:
            sys.exit(f"error: {error}")
        """,
    ],
    ids=["command line", "estimator", "run"],
)
def test_what_needs_more_says_so_in_one_line(code):
    done = run(code)
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert "pip install" in line
    assert "equifuse[train]" in line


def test_a_benchmark_says_so_before_it_trains(tmp_path):
    done = run(f"""
        import equifuse as ef
        from equifuse.benchmark.presets import run_demo
        from pathlib import Path
        try:
            run_demo(Path({str(tmp_path / "demo")!r}), workers=0, progress=False)
        except ef.InputError as error:
            sys.exit(f"error: {{error}}")
    """)
    (line,) = done.stderr.splitlines()
    assert line == "error: a benchmark needs matplotlib: pip install 'equifuse[train]'"
    assert not (tmp_path / "demo").exists()
