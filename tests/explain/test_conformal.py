"""The guarantee itself, over many draws; ranks and scores by hand."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import binom

import equifuse as ef
from equifuse.explain import intervals, prediction_sets, quantile
from equifuse.explain.conformal import class_scores

DRAWS = 3000


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 300), st.integers(1, 99))
def test_the_rank_is_exact(count, hundredths):
    """Among them those where ``(n + 1)(1 − α)`` is whole, and floating point would be one off."""
    alpha = hundredths / 100
    rank = math.ceil(Fraction(count + 1) * Fraction(100 - hundredths, 100))
    shuffled = np.random.default_rng(count).permutation(count) + 1.0  # the k-th smallest is k
    assert quantile(shuffled, alpha) == (rank if rank <= count else math.inf)


def bounds(probability):
    """What a binomial count of the draws falls outside of once in a million."""
    return binom.ppf(5e-7, DRAWS, probability), binom.ppf(1 - 5e-7, DRAWS, probability)


def classes_drawn(generator, rows, classes=6):
    """Probabilities of a bad model, and labels that follow another law."""
    logits = generator.normal(size=(rows, classes)) * 2
    y = (logits * 0.3 + generator.gumbel(size=logits.shape)).argmax(axis=1)
    return softmax(logits, axis=1), y


@pytest.mark.parametrize(("method", "seeded"), [("lac", False), ("aps", True), ("aps", False)])
@pytest.mark.parametrize(("count", "alpha"), [(19, 0.1), (50, 0.23)])
@pytest.mark.slow
def test_sets_hold_the_truth_as_often_as_they_say(method, seeded, count, alpha):
    """Over calibration parts and samples the chance is ``⌈(n + 1)(1 − α)⌉ / (n + 1)`` for scores without ties."""
    generator, hits = np.random.default_rng(0), 0
    for draw in range(DRAWS):
        p, y = classes_drawn(generator, count + 1)
        own = (p[:-1], y[:-1])
        seed = draw if seeded else None
        hits += prediction_sets(own, p[-1:], y[-1:], alpha=alpha, method=method, seed=seed).coverage
    low, high = bounds(math.ceil((count + 1) * (1 - alpha) - 1e-9) / (count + 1))
    assert low <= hits
    if method == "lac" or seeded:  # the others tie at probability one
        assert hits <= high


@pytest.mark.parametrize(("count", "alpha"), [(19, 0.1), (50, 0.23)])
def test_intervals_hold_the_truth_as_often_as_they_say(count, alpha):
    generator, hits = np.random.default_rng(1), np.zeros(2)
    for _ in range(DRAWS):
        truth = generator.standard_t(2, size=(count + 1, 2)) * [1.0, 30.0]
        found = intervals((np.zeros((count, 2)), truth[:-1]), [[0.0, 0.0]], truth[-1:], alpha=alpha)
        hits += found.coverage
    low, high = bounds(math.ceil((count + 1) * (1 - alpha) - 1e-9) / (count + 1))
    assert (low <= hits).all()
    assert (hits <= high).all()


def test_scores_by_hand():
    p = [[0.5, 0.2, 0.3], [0.1, 0.8, 0.1]]
    np.testing.assert_allclose(class_scores(p, "lac"), [[0.5, 0.8, 0.7], [0.9, 0.2, 0.9]])
    np.testing.assert_allclose(class_scores(p, "aps"), [[0.5, 1.0, 0.8], [0.9, 0.8, 1.0]])
    u = np.random.default_rng(7).random((2, 1))
    before = np.array([[0, 0.8, 0.5], [0.8, 0, 0.9]])
    randomised = class_scores(p, "aps", np.random.default_rng(7))
    np.testing.assert_allclose(randomised, before + u * np.array(p))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["lac", "aps"]))
def test_sets_hold_the_likeliest_classes_and_grow_with_what_is_asked(seed, method):
    generator = np.random.default_rng(seed)
    own, (p, y) = classes_drawn(generator, 60), classes_drawn(generator, 40)
    smaller, larger = (prediction_sets(own, p, y, alpha=a, method=method) for a in (0.3, 0.05))
    assert (smaller.members <= larger.members).all()
    for found in (smaller, larger):
        inside = np.where(found.members, p, np.inf).min(axis=1)
        outside = np.where(found.members, -np.inf, p).max(axis=1)
        assert (inside >= outside).all()
        assert found.coverage == found.members[np.arange(40), y].mean()
        assert sum(found.summary()["sizes"]) == pytest.approx(1)


def test_too_few_samples_promise_nothing():
    found = prediction_sets((np.eye(3), np.arange(3)), np.eye(3), alpha=0.1)
    assert found.members.all()
    assert found.summary()["threshold"] is None
    wide = intervals((np.zeros((3, 1)), np.ones((3, 1))), np.zeros((2, 1)), alpha=0.1)
    assert np.isinf(wide.radius).all()
    assert wide.summary()["radius"] == [None]
    assert wide.coverage is None


def test_what_it_rests_on_is_said():
    own = classes_drawn(np.random.default_rng(0), 30)
    fresh, reused = (prediction_sets(own, own[0], reused=r).summary()["assumption"] for r in (False, True))
    assert "exchangeable" in fresh
    assert "approximate" not in fresh
    assert reused.startswith(fresh)
    assert "early stopping" in reused


def test_mistakes():
    for alpha in (0, 1, -0.1):
        with pytest.raises(ef.InputError, match="alpha must be between 0 and 1"):
            quantile([1.0], alpha)
    with pytest.raises(ef.UnknownNameError, match="did you mean 'aps'"):
        prediction_sets((np.eye(2), [0, 1]), np.eye(2), method="asp")


def test_a_coverage_below_the_promise_is_said_and_one_within_chance_is_not():
    generator = np.random.default_rng(0)

    def sets(shift, seed):
        def drawn(n, spread):
            truth = generator.integers(0, 3, n)
            logits = generator.normal(size=(n, 3)) * spread
            logits[np.arange(n), truth] += 2
            p = np.exp(logits)
            return p / p.sum(axis=1, keepdims=True), truth

        probabilities, target = drawn(300, 1 + shift)
        return prediction_sets(drawn(200, 1), probabilities, target, alpha=0.1)

    alarms = [sets(0, seed).warning is not None for seed in range(200)]
    assert sum(alarms) <= 8  # once in a hundred times, by chance
    shifted = sets(1.5, 0)
    assert shifted.coverage < 0.85
    assert "where 90 % was promised" in shifted.summary()["warning"]
    wide = intervals((np.zeros((99, 1)), generator.normal(size=(99, 1))), np.zeros((200, 1)), 3 * np.ones((200, 1)))
    assert wide.warning.startswith("covers 0.0 % of 200 samples")
    assert intervals((np.zeros((99, 1)), np.ones((99, 1))), np.zeros((5, 1))).warning is None
