"""scikit-learn's own checks of what an estimator is."""

import subprocess
import sys

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

import equifuse as ef

pytestmark = pytest.mark.slow

# Deterministic in the samples alone, so that weights, orders and subsets can be compared to rounding: one batch, no
# dropout, no held-out samples, float64.
EXACT = {
    "fusion": "concat",
    "hidden": (16,),
    "dropout": 0.0,
    "validation_fraction": None,
    "epochs": 15,
    "batch_size": 256,
    "lr": 0.03,
    "dtype": "float64",
}
EXPECTED_FAILURES = {
    "check_estimators_pickle": "it sets single values to NaN, and only a modality that is all NaN in a row is missing"
}


@parametrize_with_checks(
    [ef.FusionClassifier(**EXACT), ef.FusionRegressor(**EXACT)], expected_failed_checks=lambda _: EXPECTED_FAILURES
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_they_are_imported_only_when_asked_for():
    code = (
        "import sys, equifuse as ef\n"
        "assert not {'sklearn', 'lightning', 'equifuse.estimators'} & set(sys.modules)\n"
        "assert {'FusionClassifier', 'FusionRegressor', 'estimators'} <= set(dir(ef))\n"
        "assert not hasattr(ef, 'FusionClusterer')\n"
        "from equifuse import FusionClassifier\n"
        "assert FusionClassifier is ef.FusionClassifier is ef.estimators.FusionClassifier\n"
        "assert 'lightning' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
