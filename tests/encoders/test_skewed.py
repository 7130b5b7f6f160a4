"""Skewed features go through an inverse hyperbolic sine where no preparation is asked for; others stay as they are."""

import numpy as np
import pytest
import torch
from scipy.stats import skew

import equifuse as ef
from equifuse.encoders.preparation import Sample, fit_steps, parse_steps, steps_of, unasked_steps
from equifuse.encoders.preparation.transforms import skewness

RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=(300, 3))
SKEWED = {
    "log-normal": np.exp(2 * NORMAL),
    "counts": RNG.poisson(np.exp(2 * NORMAL)).astype(float),
    "far from zero": np.exp(NORMAL) + 1e4,
    "downwards": -np.exp(1.5 * NORMAL),
    "mostly nothing": np.where(RNG.random((300, 3)) < 0.5, 0.0, np.exp(2 * NORMAL)),
}


def fitted(x, word="asinh", **about):
    (step,) = parse_steps(word)
    after = fit_steps([step], Sample(torch.from_numpy(x), **about))
    return step, after.x.numpy()


def test_skewness_is_that_of_scipy_and_looks_past_gaps():
    x = np.where(RNG.random((300, 3)) < 0.2, np.nan, np.exp(NORMAL))
    np.testing.assert_allclose(skewness(torch.from_numpy(x)), skew(x, nan_policy="omit"))


@pytest.mark.parametrize("x", SKEWED.values(), ids=SKEWED)
def test_skewness_falls_and_order_stays(x):
    step, after = fitted(x)
    assert step.numbers.all()
    assert (np.abs(skew(after)) < 0.75 * np.abs(skew(x))).all()
    for before, now in zip(x.T, after.T, strict=True):
        assert (np.diff(now[np.argsort(before, kind="stable")]) >= 0).all()


def test_it_is_the_inverse_of_a_hyperbolic_sine():
    x = np.exp(2 * NORMAL)
    step, after = fitted(x)
    np.testing.assert_allclose(np.sinh(after) * step.size.numpy() + step.end.numpy(), x, rtol=1e-9)


def test_a_mirrored_feature_is_mirrored():
    x = np.exp(2 * NORMAL)
    np.testing.assert_allclose(fitted(-x)[1], -fitted(x)[1], rtol=1e-9)


@pytest.mark.parametrize("factor", [1e-12, 1e9])
def test_units_have_no_effect(factor):
    x = np.exp(2 * NORMAL)
    np.testing.assert_allclose(fitted(factor * x)[1], fitted(x)[1], rtol=1e-6)


@pytest.mark.parametrize(
    "x",
    [NORMAL, RNG.random((300, 3)), (RNG.random((300, 3)) < 0.02).astype(float), np.ones((300, 3))],
    ids=["normal", "uniform", "two values", "constant"],
)
def test_what_is_not_skewed_or_has_two_values_stays(x):
    step, after = fitted(x)
    assert not step.numbers.any()
    np.testing.assert_array_equal(after, x)
    assert unasked_steps(Sample(torch.from_numpy(x))) == []


def test_one_wrong_cell_changes_nothing():
    for x in (NORMAL, np.exp(2 * NORMAL)):
        wrong = np.vstack([x, x.mean(0)])
        wrong[-1, 0] = 1e9
        step, other = fitted(wrong)[0], fitted(x)[0]
        assert step.numbers.tolist() == other.numbers.tolist()
        np.testing.assert_allclose(step.size, other.size, rtol=0.2)


def test_empty_cells_stay_empty_and_codes_of_categories_stay_codes():
    x = np.exp(2 * NORMAL)
    x[3, 0] = np.nan
    step, after = fitted(x, kinds=("number", "category", "number"))
    assert step.numbers.tolist() == [True, False, True]
    assert np.isnan(after).sum() == np.isnan(after[3, 0]) == 1
    np.testing.assert_array_equal(after[:, 1], x[:, 1])


def test_a_bound_can_be_given():
    x = np.exp(0.7 * NORMAL)
    assert not fitted(x, "asinh:100")[0].numbers.any()
    assert fitted(x, "asinh:0.5")[0].numbers.all()
    with pytest.raises(ef.InputError, match="asinh:SKEW must be a number of at least 0, got -1"):
        parse_steps("asinh:-1")


def test_it_is_taken_only_where_nothing_is_asked_for_and_something_is_skewed():
    X = {"rna": np.exp(2 * NORMAL), "blood": NORMAL}
    y = (NORMAL[:, 0] > 0).astype(int)
    found = {}
    for name, prepare in {"nothing": {}, "all": {"rna": "standardise"}}.items():
        model = ef.FusionClassifier("sum", dim=4, hidden=(4,), epochs=1, random_state=0, prepare=prepare).fit(X, y)
        found[name] = {m: [step.summary for step in steps_of(e)] for m, e in model.model_.encoders.items()}
    assert found["nothing"]["rna"] == ["asinh of 3 -> 3", "impute:median -> 3", "standardise -> 3"]
    assert found["all"]["rna"] == found["nothing"]["blood"] == ["impute:median -> 3", "standardise -> 3"]


def test_logarithmic_features_are_learnt_as_their_logarithms_are():
    g = np.random.default_rng(1).normal(size=(500, 8)).astype(np.float32)
    y = (g[:, :2].sum(1) > 0).astype(int)

    def score(x, prepare):
        train, test = ({"a": rows[:, ::2], "b": rows[:, 1::2]} for rows in (x[:300], x[300:]))
        model = ef.FusionClassifier("linear", random_state=0, prepare=prepare).fit(train, y[:300])
        return model.score(test, y[300:])

    shipped = score(np.exp(3 * g), {})
    assert shipped > score(g, {}) - 0.05
    assert shipped > score(np.exp(3 * g), {"a": "standardise", "b": "standardise"}) + 0.1
