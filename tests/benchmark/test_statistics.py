import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from equifuse.benchmark.statistics import (
    cliques,
    holm,
    mean_interval,
    paired_test,
    pareto,
    rank,
    ranking,
    signed_rank_test,
)

numbers = st.lists(st.floats(-100, 100), min_size=1, max_size=12)


def test_interval_covers_the_mean_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        mean, half = mean_interval(generator.normal(3.0, 2.0, size=5))
        covered += abs(mean - 3.0) <= half
    assert abs(covered / 2000 - 0.95) < 0.015
    assert math.isnan(mean_interval([1.0])[1])


def test_paired_test_is_students():
    a, b = [0.71, 0.73, 0.75, 0.70], [0.70, 0.70, 0.74, 0.69]
    assert paired_test(a, b) == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert paired_test(a, a) == 1
    assert paired_test([1.0, 2.0], [0.5, 1.5]) == 0  # the same difference every time
    assert math.isnan(paired_test([1.0], [2.0]))


def test_signed_rank_test_is_symmetric_and_takes_ties():
    a, b = [1.0, 2.0, 3.0, 4.0, 5.5, 7.0], [1.0, 1.5, 2.0, 2.5, 3.0, 3.5]
    assert signed_rank_test(a, b) == signed_rank_test(b, a) < 0.1
    assert signed_rank_test(a, a) == 1
    assert math.isnan(signed_rank_test([1.0], [2.0]))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_lies_between_the_raw_p_values_and_bonferronis(p):
    corrected = holm(p)
    for raw, found in zip(p, corrected, strict=True):
        assert raw <= found <= min(1.0, raw * len(p)) + 1e-12
    order = np.argsort(p, kind="stable")
    assert all(np.diff(np.array(corrected)[order]) >= 0)
    assert corrected[order[0]] == pytest.approx(min(1.0, p[order[0]] * len(p)))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, math.nan, 0.04])[0] == pytest.approx(0.02)
    assert math.isnan(holm([0.01, math.nan])[1])
    assert holm([]) == []


@given(st.integers(1, 6), st.integers(2, 5), st.integers(0, 10_000))
def test_ranks_sum_to_the_same_and_follow_the_scores(sets, methods, seed):
    scores = np.random.default_rng(seed).integers(0, 4, size=(sets, methods)).astype(float)
    found = rank(scores)
    np.testing.assert_allclose(found.sum(axis=1), methods * (methods + 1) / 2)
    for row, ranks in zip(scores, found, strict=True):
        for i in range(methods):
            for j in range(methods):
                assert (row[i] > row[j]) == (ranks[i] < ranks[j])


def test_ranking_agrees_with_published_critical_values():
    """Demšar 2006, table 5: q at 5 % is 2.343 for three methods, 2.569 for four, 3.164 for ten."""
    for methods, q in ((3, 2.343), (4, 2.569), (10, 3.164)):
        found = ranking(np.random.default_rng(0).normal(size=(14, methods)))
        assert found.critical == pytest.approx(q * math.sqrt(methods * (methods + 1) / (6 * 14)), rel=2e-3)
    scores = np.tile([3.0, 2.0, 1.0], (8, 1))
    assert ranking(scores).ranks.tolist() == [1, 2, 3]
    assert ranking(scores).friedman < 0.001
    assert ranking(np.ones((5, 3))).friedman == 1
    assert math.isnan(ranking(np.ones((5, 2))).friedman)


@given(numbers, st.floats(0.01, 50))
def test_cliques_are_the_largest_groups_within_the_difference(ranks, critical):
    groups = cliques(ranks, critical)
    for group in groups:
        values = [ranks[i] for i in group]
        assert max(values) - min(values) <= critical
        assert len(group) > 1
    for i in range(len(ranks)):
        for j in range(i):
            together = any({i, j} <= set(group) for group in groups)
            assert together == (abs(ranks[i] - ranks[j]) <= critical)
    assert not any(set(a) < set(b) for a in groups for b in groups)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(1, 100), st.floats(0, 1)), min_size=1, max_size=10))
def test_front_has_all_that_nothing_beats(points):
    front = pareto([p[0] for p in points], [p[1] for p in points])
    kept = [points[i] for i in front]
    assert kept == sorted(kept)
    for i, (cost, score) in enumerate(points):
        beaten = any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in points)
        assert (i in front) == (not beaten) or (cost, score) in kept
