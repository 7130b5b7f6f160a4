"""Numbers that single precision does not tell apart, and targets that are all the same, are refused or named."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import equifuse as ef
from equifuse.encoders import Standardize
from equifuse.tasks import Regression


@pytest.mark.parametrize("offset", [1e6, 1e9])
def test_a_target_is_refused_where_rounding_spoils_it(offset):
    target = (offset + np.random.default_rng(0).normal(size=(50, 1)) * 10).round(2)
    if offset < 1e8:
        found, _ = Regression.targets.encode(target, ["paid"], "regression")
        np.testing.assert_allclose(found, target, rtol=1e-7)
        return
    for read in (
        lambda: Regression.targets.encode(target, ["paid"], "regression"),
        lambda: Regression.targets.typed(target),
    ):
        with pytest.raises(ef.DataError, match=r"does not tell apart; subtract 9999999"):
            read()


def test_a_constant_target_is_refused():
    with pytest.raises(ef.DataError, match="one value only in 'train', 3.5; there is nothing to predict"):
        Regression.targets.check({"train": np.full((40, 1), 3.5)}, ("age",), "regression")


def test_an_estimator_of_double_precision_learns_what_one_of_single_precision_refuses():
    rng = np.random.default_rng(0)
    x = {"a": rng.normal(size=(120, 2)), "b": rng.normal(size=(120, 2))}
    y = 1e9 + 10 * (x["a"][:, 0] + x["b"][:, 0])
    with pytest.raises(ef.DataError, match="does not tell apart; subtract 99999"):
        ef.FusionRegressor(fusion="late", epochs=1).fit(x, y)
    model = ef.FusionRegressor(fusion="late", epochs=40, lr=0.01, dtype="float64", random_state=0).fit(x, y)
    assert model.score(x, y) > 0.5


def test_one_constant_target_among_others_is_not_refused():
    targets = np.column_stack([np.arange(6.0), np.ones(6)]).astype(np.float32)
    Regression.targets.check({"train": targets}, ("age", "site"), "regression")


def test_features_that_rounding_spoils_are_named():
    layer = Standardize((2,))
    with pytest.warns(UserWarning, match="1 features are numbers such as 100000002.667 that hardly differ"):
        layer.fit(torch.tensor([[1e8, 1.0], [1e8 + 8, 2.0], [1e8, 3.0]]))
