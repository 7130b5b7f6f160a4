"""The searching estimators: samples as elsewhere, targets in their own units, no partial fits."""

import numpy as np
import pytest
from sklearn.base import clone, is_classifier, is_regressor

import equifuse as ef
from equifuse.auto import Candidate, Preset
from equifuse.errors import InputError, UnknownNameError

TWO = Preset(2, 2, 2, (), 0)
FITTED = [
    Candidate("linear", {"fusion": "linear"}),
    Candidate("extra", {"fusion": "trees", "fusion_options": {"trees": 7}}),
    Candidate("boosting", {"fusion": "trees", "fusion_options": {"trees": 12, "kind": "boosting"}}),
]
GENERATOR = np.random.default_rng(0)
X = {m: GENERATOR.standard_normal((120, 3)).astype(np.float32) for m in ("a", "b")}
GIVEN = {"time_limit": "none", "preset": TWO, "random_state": 0}


@pytest.mark.parametrize("portfolio", [FITTED[:1], FITTED[1:2], FITTED[2:], FITTED])
def test_predictions_are_in_the_units_of_the_targets(portfolio):
    y = np.stack([(X["a"][:, 0] > 0) + X["b"][:, 1], X["b"][:, 2]], axis=1)
    found = [ef.AutoFusionRegressor(portfolio=portfolio, **GIVEN).fit(X, target) for target in (y, 1000 * y - 5)]
    one, other = (model.predict(X) for model in found)
    assert np.corrcoef(one[:, 0], y[:, 0])[0, 1] > 0.5
    np.testing.assert_allclose(other, 1000 * one - 5, rtol=1e-3, atol=2.0)
    assert [row["method"] for row in found[0].leaderboard_] == [row["method"] for row in found[1].leaderboard_]


def test_they_are_estimators_with_a_leaderboard_and_a_report():
    y = np.where(X["a"][:, 0] + X["b"][:, 0] > 0, "yes", "no")
    model = clone(ef.AutoFusionClassifier(portfolio=FITTED[:2], class_weight="balanced", **GIVEN))
    assert is_classifier(model)
    assert is_regressor(ef.AutoFusionRegressor())
    assert not hasattr(model, "partial_fit")
    model.fit(X, y, groups=np.arange(120) // 3)
    assert model.score(X, y) > 0.8
    assert model.predict_proba({"a": X["a"]}).shape == (120, 2)
    assert {row["method"] for row in model.leaderboard_} == {"ensemble", "linear", "extra"}
    assert model.leaderboard_[0]["test"] is None
    assert "rows that its models were not trained on" in model.report_
    table, columns = ef.estimators.stack(X)
    again = clone(model).set_params(modalities=columns).fit(table, y, groups=np.arange(120) // 3)
    np.testing.assert_allclose(again.predict_proba(table), model.predict_proba(X), atol=1e-6)


def test_mistakes_are_one_line():
    y = np.arange(120) % 2
    for options, error in (
        ({"preset": "bets"}, UnknownNameError),
        ({"time_limit": "ten minutes"}, InputError),
        ({"expect_missing": {"c": 0.5}}, UnknownNameError),
        ({"portfolio": [Candidate("x", {"fusion": "linear", "lr": 0.1})]}, InputError),
    ):
        with pytest.raises(error):
            ef.AutoFusionClassifier(**{**GIVEN, "portfolio": FITTED[:1], **options}).fit(X, y)
