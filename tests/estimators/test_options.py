"""The options of training that the estimators have since they share their declaration."""

import numpy as np
import pytest
from sklearn.base import clone

import equifuse as ef

N = 60


@pytest.fixture(scope="module")
def samples():
    generator = np.random.default_rng(0)
    y = np.arange(N) % 2
    return {"a": generator.normal(size=(N, 4)) + y[:, None], "b": generator.normal(size=(N, 3)) - y[:, None]}, y


def test_optimiser_schedule_and_monitor(samples):
    X, y = samples
    estimator = ef.FusionClassifier(
        "concat",
        hidden=(8,),
        epochs=8,
        lr=0.1,
        optimizer="sgd",
        optimizer_options={"momentum": 0.9},
        schedule="cosine",
        monitor="f1_macro",
        gradient_clip=1.0,
        random_state=0,
    )
    fitted = clone(estimator).fit(X, y)
    scores = [row["val_f1_macro"] for row in fitted.history_]
    assert max(scores) > 0.8
    assert fitted.score(X, y) > 0.8


def test_partial_fit_does_not_know_how_long_training_will_be(samples):
    X, y = samples
    for options in ({"schedule": "cosine"}, {"warmup": 1}):
        with pytest.raises(ef.InputError, match="partial_fit does not know how long training will be"):
            ef.FusionClassifier("concat", **options).partial_fit(X, y, classes=[0, 1])


def test_a_constructor_of_ones_own_stays():
    class Small(ef.FusionClassifier):
        def __init__(self, lr=0.5):
            super().__init__(hidden=(4,), lr=lr)

    assert list(Small().get_params()) == ["lr"]
    assert (Small(0.1).lr, Small().hidden) == (0.1, (4,))
