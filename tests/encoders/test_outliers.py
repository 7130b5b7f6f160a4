"""A few cells far from all others decide neither how features are standardised nor what is learnt of a target."""

import numpy as np
import pytest
import torch

import equifuse as ef
from equifuse.encoders.preparation import Sample, Standardize
from equifuse.encoders.preparation.outliers import usual_range
from equifuse.runs import TrainConfig, train
from equifuse.tasks import Regression


def columns(rows=400):
    """Usual columns of all kinds: normal, uniform, skewed, two values, counts mostly 0, constant, with gaps."""
    rng = np.random.default_rng(0)
    gaps = rng.standard_normal(rows)
    gaps[::3] = np.nan
    rare = (rng.random(rows) < 0.02).astype(float)
    counts = rng.poisson(0.05, rows).astype(float)
    skewed = np.exp(rng.standard_normal(rows))
    return np.stack([rng.standard_normal(rows), rng.random(rows), skewed, rare, counts, np.ones(rows), gaps], axis=1)


def test_usual_columns_have_no_outliers():
    low, high = usual_range(columns())
    assert np.isneginf(low).all()
    assert np.isposinf(high).all()


def test_the_range_is_counted_in_the_column_s_own_units():
    x = np.random.default_rng(1).standard_normal((200, 2))
    x[:3] = [[1e5, -1e5], [1e6, 3e4], [1e5, 1e5]]
    low, high = usual_range(x)
    assert (low > -40).all()
    assert (high < 40).all()
    np.testing.assert_allclose(usual_range(8 * x + 3), [8 * low + 3, 8 * high + 3])
    np.testing.assert_allclose(usual_range(-x), [-high, -low])
    np.testing.assert_allclose(usual_range(np.concatenate([x, np.full_like(x, np.nan)])), [low, high])


def test_an_outlier_does_not_squeeze_what_is_usual():
    x = torch.from_numpy(columns()[:, :3])
    spoilt = x.clone()
    spoilt[0] = 1e7
    step, clean = Standardize((3,)), Standardize((3,))
    step.learn(Sample(spoilt))
    clean.learn(Sample(x))
    assert bool((step(x).std(0) > 0.98 * clean(x).std(0)).all())
    assert step(spoilt)[0].tolist() == [5, 5, 5]
    in_pieces = Standardize((3,))
    in_pieces.begin(Sample(spoilt))
    for piece in spoilt.split(150):
        in_pieces.update(piece)
    in_pieces.finish()
    torch.testing.assert_close(in_pieces(x), step(x))


def test_one_wrong_target_decides_neither_units_nor_loss():
    y = np.random.default_rng(2).standard_normal((300, 1))
    spoilt = np.concatenate([y, [[1e6]]])
    np.testing.assert_allclose(Regression.units(spoilt), Regression.units(y), atol=0.01)
    task = Regression(spreads=[1.0])
    near, far = torch.zeros(1, 1), torch.full((1, 1), 50.0)
    error = torch.tensor([[0.0], [7.0]], requires_grad=True)
    loss = task.loss(error, torch.cat([near, far]))
    loss.backward()
    assert loss.item() == pytest.approx((2 * 5 * 43 - 25) / 2)  # linear beyond five spreads
    assert float(error.grad[1]) == -5
    assert task.loss(error, error.detach() + 2).item() == 4  # squared within


def test_a_constant_target_leaves_the_others_alone():
    scale, shift = Regression.units(np.stack([np.full(77, 0.1, np.float32), np.arange(77.0)], axis=1))
    assert scale[0] == 1
    assert shift[0] == np.float32(0.1)


@pytest.mark.slow
def test_a_target_with_outliers_is_learnt(tmp_path):
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, 300, 3))
    y = a[:, :1] + b[:, :1]
    y[:2], a[2:4] = 1e6, -1e5
    rows = np.arange(300)
    parts = {"train_idx": rows[:200], "val_idx": rows[200:250], "test_idx": rows[250:]}
    arrays = {"a": a.astype(np.float32), "b": b.astype(np.float32), "y": y.astype(np.float32)}
    np.savez(tmp_path / "d.npz", modalities=np.array(["a", "b"]), task=np.array("regression"), **arrays, **parts)
    config = TrainConfig(str(tmp_path / "d.npz"), fusion="concat", epochs=10, lr=1e-2)
    assert train(config, tmp_path / "run", progress=False).metrics.test["r2"] > 0.6
    x, y = {"a": a[:200], "b": b[:200]}, y[:200, 0]
    model = ef.FusionRegressor("concat", epochs=10, lr=1e-2, random_state=0).fit(x, y)
    assert model.score({"a": a[250:], "b": b[250:]}, a[250:, 0] + b[250:, 0]) > 0.6
