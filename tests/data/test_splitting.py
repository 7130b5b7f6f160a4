import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import equifuse as ef
from equifuse.data.split import partition


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(3, 300), classes=st.integers(1, 6), val=st.floats(0.05, 0.4), test=st.floats(0.05, 0.4))
def test_parts_are_disjoint_cover_everything_and_keep_every_class_in_the_first(rows, classes, val, test):
    labels = np.random.default_rng(rows).integers(0, classes, rows)
    parts = partition(rows, (1 - val - test, val, test), seed=1, labels=labels)
    assert sorted(np.concatenate(parts)) == list(range(rows))
    assert set(labels[parts[0]]) == set(labels)
    for label in set(labels):
        count = (labels == label).sum()
        for part, share in zip(parts[1:], (val, test), strict=True):
            assert abs((labels[part] == label).sum() - share * count) <= 1


def test_the_same_seed_gives_the_same_parts_and_another_one_others():
    first, again, other = (partition(100, (0.8, 0.2), seed=s) for s in (3, 3, 4))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (first[1] != other[1]).any()


@pytest.mark.parametrize("fractions", [(0.5, 0.6), (1.0, 0.0), (1.2, -0.2)])
def test_unusable_fractions_are_refused(fractions):
    with pytest.raises(ef.DataError, match="add up to 1"):
        partition(10, fractions)
