"""Temperatures at their optimum, and scores against those of other libraries."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax
from sklearn.metrics import brier_score_loss
from torchmetrics.functional.classification import multiclass_calibration_error

import equifuse as ef
from equifuse.explain import brier_score, calibrate, fit_temperature, reliability
from equifuse.explain.calibration import as_choices, log_loss
from equifuse.tasks import make_task


def drawn(rows, classes, seed, temperature=1.0):
    """Logits, and labels drawn from their softmax at a temperature."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(rows, classes)) * 3
    chances = softmax(logits / temperature, axis=1)
    return logits, (chances.cumsum(axis=1) < generator.random((rows, 1))).sum(axis=1).clip(max=classes - 1)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 6), st.integers(0, 1000), st.floats(0.5, 4))
def test_the_temperature_is_a_stationary_point(classes, seed, temperature):
    """``d loss / d(1/T) = mean (E_p[logit] − logit_y)`` vanishes there."""
    logits, y = drawn(300, classes, seed, temperature)
    p = softmax(logits / fit_temperature(logits, y), axis=1)
    slope = ((p * logits).sum(axis=1) - logits[np.arange(300), y]).mean()
    assert abs(slope) < 1e-5


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(temperature):
    logits, y = drawn(20000, 4, 0, temperature)
    assert fit_temperature(logits, y) == pytest.approx(temperature, rel=0.05)


def test_scaling_mends_what_overconfidence_broke_and_decides_nothing_anew():
    fitted_on, measured_on = drawn(4000, 5, 1, 3.0), drawn(4000, 5, 2, 3.0)
    found = calibrate("classification", fitted_on, measured_on)
    assert found.temperature == pytest.approx(3, rel=0.1)
    assert found.raw.reliability.error > 0.15
    assert found.scaled.reliability.error < 0.03
    assert found.scaled.log_loss < found.raw.log_loss
    assert found.scaled.brier < found.raw.brier
    for r in (found.raw.reliability, found.scaled.reliability):
        assert np.nansum(r.count * r.accuracy) == pytest.approx((measured_on[0].argmax(1) == measured_on[1]).sum())
    unlabelled = calibrate("classification", fitted_on, (measured_on[0], None))
    assert unlabelled.temperature == found.temperature
    assert unlabelled.raw is None


def test_without_an_error_to_learn_from_the_temperature_stays_finite():
    right, wrong = np.arange(3), np.array([1, 2, 0])
    found = fit_temperature(np.eye(3) * 10, right)
    assert found >= 0.01
    assert log_loss(np.eye(3) * 10 / found, right) < 1e-12
    assert fit_temperature(np.eye(3) * 10, wrong) == pytest.approx(100, rel=0.01)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 200), st.integers(2, 6), st.integers(0, 1000), st.integers(1, 30))
def test_the_scores_are_those_of_other_libraries(rows, classes, seed, bins):
    logits, y = drawn(rows, classes, seed)
    p = softmax(logits, axis=1)
    expected = multiclass_calibration_error(torch.from_numpy(p), torch.from_numpy(y), classes, n_bins=bins)
    assert reliability(p, y, bins).error == pytest.approx(float(expected), abs=1e-6)
    assert log_loss(logits, y) == pytest.approx(
        float(torch.nn.functional.cross_entropy(*map(torch.tensor, (logits, y))))
    )
    whole = brier_score_loss(y, p, labels=list(range(classes)), scale_by_half=False)
    assert brier_score(p, y) == pytest.approx(whole)


def test_bins_by_hand():
    p = np.array([[0.75, 0.25], [0.3, 0.7], [1.0, 0.0], [0.5, 0.5]])
    r = reliability(p, [0, 0, 0, 0], bins=4)
    assert r.count.tolist() == [0, 0, 2, 2]
    np.testing.assert_allclose(r.confidence, [np.nan, np.nan, 0.6, 0.875])
    np.testing.assert_allclose(r.accuracy, [np.nan, np.nan, 0.5, 1])
    assert r.error == pytest.approx(0.5 * 0.1 + 0.5 * 0.125)


def test_labels_are_choices_between_yes_and_no():
    generator = np.random.default_rng(0)
    logits, target = generator.normal(size=(50, 3)), generator.random((50, 3)) < 0.4
    x, y = as_choices("multilabel", logits, target)
    np.testing.assert_allclose(softmax(x, axis=1)[:, 1], expit(logits).ravel())
    own = make_task("multilabel").loss(torch.from_numpy(logits), torch.from_numpy(target).double())
    assert log_loss(x, y) == pytest.approx(float(own))
    assert calibrate("multilabel", (logits, target), (logits, target)).raw.log_loss == pytest.approx(float(own))


def test_mistakes():
    with pytest.raises(ef.InputError, match="bins must be at least 1"):
        reliability(np.eye(2), [0, 1], bins=0)
    with pytest.raises(ef.InputError, match="needs samples"):
        fit_temperature(np.zeros((0, 2)), np.zeros(0, dtype=int))
