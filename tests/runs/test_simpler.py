"""A training that a linear model of the same columns beats says so."""

import numpy as np
import pytest

from equifuse.runs import TrainConfig, train


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 200, 3)).astype(np.float32)
    rows, path = np.arange(200), tmp_path_factory.mktemp("linear") / "d.npz"
    np.savez(
        path,
        modalities=np.array(["a", "b"]),
        task=np.array("classification"),
        a=a,
        b=b,
        y=(a[:, 0] + b[:, 0] > 0).astype(np.int64),
        train_idx=rows[:100],
        val_idx=rows[100:150],
        test_idx=rows[150:],
    )
    return str(path)


@pytest.mark.slow
def test_a_linear_model_that_does_better_is_named(stored, tmp_path):
    hardly = TrainConfig(stored, fusion="concat", epochs=10, patience=10, lr=1e-6)
    notes = train(hardly, tmp_path / "hardly", progress=False).metrics.notes
    assert any("a linear model does better: accuracy" in note and "--fusion linear" in note for note in notes)


@pytest.mark.slow
def test_nothing_is_said_of_a_good_model(stored, tmp_path):
    good = TrainConfig(stored, fusion="concat", epochs=12, lr=1e-2)
    assert train(good, tmp_path / "good", progress=False).metrics.notes is None
