"""Survival curves and scores: against worked examples, simulations with known answers, and what must not matter."""

import math

import numpy as np
import pytest
import torch

import equifuse as ef
from equifuse.evaluation.survival import columns_of, hazard_ratio, survival_scores
from equifuse.tasks import Survival

# Freireich et al. 1963, remission in leukaemia: times, + where censored.
TREATED = "6 6 6 6+ 7 9+ 10 10+ 11+ 13 16 17+ 19+ 20+ 22 23 25+ 32+ 32+ 34+ 35+"
PLACEBO = "1 1 2 2 3 4 4 5 5 8 8 8 8 11 11 12 12 15 17 22 23"


def leukaemia():
    words = [*TREATED.split(), *PLACEBO.split()]
    time = np.array([float(word.rstrip("+")) for word in words])
    event = np.array([not word.endswith("+") for word in words])
    return np.repeat([0.0, 1.0], 21), time, event


def simulated(n, seed, strength=1.0):
    generator = np.random.default_rng(seed)
    risk = generator.normal(size=n)
    time = generator.exponential(np.exp(-strength * risk))
    censored = generator.exponential(2.0, n)
    return risk, np.minimum(time, censored), time <= censored


def test_the_hazard_ratio_of_a_known_trial():
    found = hazard_ratio(*leukaemia())
    assert found.value == pytest.approx(math.exp(1.5092), rel=1e-3)  # as in Cox 1972, with Breslow's ties
    assert found.low == pytest.approx(math.exp(1.5092 - 1.96 * 0.4096), rel=1e-2)


def test_the_hazard_ratio_is_where_the_loss_of_the_task_is_least():
    x, time, event = simulated(60, 0)
    found = math.log(hazard_ratio(x, time, event).value)
    target = torch.from_numpy(np.stack([time, event], axis=1))

    def loss(beta):
        return Survival().loss(torch.from_numpy(beta * x)[:, None], target).item()

    assert loss(found) < min(loss(found - 0.01), loss(found + 0.01))


def test_a_ratio_without_bound_is_none():
    assert (
        hazard_ratio(np.array([1.0, 1, 0, 0]), np.array([1.0, 2, 3, 4]), np.array([True, True, False, False])) is None
    )


def test_scores_of_a_true_model_and_of_one_that_knows_nothing():
    pytest.importorskip("sksurv")
    train, test = simulated(400, 1), simulated(400, 2)
    found = survival_scores(train, test)
    assert found.hazard_ratio_per_deviation.low < math.exp(train[0].std()) < found.hazard_ratio_per_deviation.high
    assert found.hazard_ratio.value > 2
    assert found.log_rank < 1e-6
    assert found.mean_auc > 0.75
    assert found.brier < found.brier_reference
    low, high = found.curves["low risk"], found.curves["high risk"]
    assert low.n + high.n == 400
    assert low.events + high.events == test[2].sum()
    assert np.interp(0.5, low.time, low.share) > np.interp(0.5, high.time, high.share)
    assert all(a <= s <= b for a, s, b in zip(low.low, low.share, low.high, strict=True))
    noise = np.random.default_rng(3).normal(size=400)
    nothing = survival_scores((noise, *train[1:]), (np.random.default_rng(4).normal(size=400), *test[1:]))
    assert nothing.log_rank > 0.01
    assert abs(nothing.mean_auc - 0.5) < 0.08
    # Only the order of risks matters for groups and AUC, up to the cut.
    shifted = survival_scores((train[0] + 5, *train[1:]), (test[0] + 5, *test[1:]))
    assert (shifted.log_rank, shifted.mean_auc) == pytest.approx((found.log_rank, found.mean_auc))


def test_what_has_no_value_says_why():
    pytest.importorskip("sksurv")
    train, (risk, time, event) = simulated(100, 1), simulated(20, 2)
    found = survival_scores(train, (risk, time, np.zeros(20, bool)))
    assert found.undefined["log_rank"] == "nobody has the event"
    assert "fewer than two events" in found.undefined["auc"]
    found = survival_scores(train, (np.full(20, 9.0), time, event))
    assert found.undefined["log_rank"] == "all samples are of high risk"
    with pytest.raises(ef.InputError, match="one output"):
        columns_of(np.zeros((3, 2)), np.zeros((3, 2)))
