"""What the estimators promise beyond scikit-learn's own checks."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

import equifuse as ef
from equifuse.datasets import load_digits_views
from equifuse.estimators import stack
from equifuse.tasks.base import probabilities
from equifuse.training import Trainer

QUICK = {"fusion": "sum", "dim": 8, "hidden": (8,), "epochs": 5, "lr": 0.02, "random_state": 0}
N = 80


@pytest.fixture(scope="module")
def samples():
    generator = np.random.default_rng(0)
    y = np.arange(N) % 2
    X = {"a": generator.normal(size=(N, 4)) + y[:, None], "b": generator.normal(size=(N, 3)) - y[:, None]}
    X["b"][::7] = np.nan
    return X, y


def _rows(X, rows):
    return {m: x[rows] for m, x in X.items()}


@pytest.mark.slow
def test_digits_by_cross_validation():
    train = load_digits_views().splits["train"]
    X, modalities = stack({m: train.inputs[m] for m in ("pixels", "zernike")})
    estimator = ef.FusionClassifier("deq", modalities=modalities, epochs=8, batch_size=32, lr=3e-3, random_state=0)
    scores = cross_val_score(estimator, X[:300], train.target[:300], cv=2)
    assert scores.min() > 0.75


@pytest.mark.slow
def test_grid_search_over_a_pipeline(samples):
    X, y = samples
    table, modalities = stack(X)
    table[3, 0] = np.nan  # what a pipeline's imputer is for
    pipeline = make_pipeline(SimpleImputer(), ef.FusionClassifier(**QUICK, modalities=modalities))
    grid = {"fusionclassifier__lr": np.array([1e-6, 0.02]), "fusionclassifier__batch_size": np.array([16])}
    search = GridSearchCV(pipeline, grid, cv=2).fit(table, y)
    assert search.best_params_["fusionclassifier__lr"] == 0.02
    assert search.score(table, y) > 0.7
    assert search.best_estimator_[-1].model_.modalities == ("a", "b")


def test_pickled_and_saved(samples, tmp_path):
    X, y = samples
    for estimator in (ef.FusionClassifier(**QUICK).fit(X, y), ef.FusionRegressor(**QUICK).fit(X, 50.0 * y)):
        again = pickle.loads(pickle.dumps(estimator))
        np.testing.assert_array_equal(again.predict(X), estimator.predict(X))
        path = tmp_path / type(estimator).__name__
        estimator.model_.save(path)
        inputs = {m: torch.from_numpy(x).float() for m, x in X.items()}
        with torch.no_grad():
            outputs = ef.load(path)(inputs, {"b": ~inputs["b"].isnan().any(1)}).prediction
        if hasattr(estimator, "predict_proba"):
            assert estimator.model_.classes == ("0", "1")
            np.testing.assert_array_equal(probabilities(outputs), estimator.predict_proba(X))
        else:
            np.testing.assert_array_equal(outputs[:, 0].double().numpy(), estimator.predict(X))


def test_random_state(samples):
    X, y = samples
    torch.manual_seed(3)
    first = ef.FusionClassifier(**QUICK).fit(X, y)
    drawn = torch.rand(1)
    torch.manual_seed(4)
    again = ef.FusionClassifier(**QUICK).fit(X, y)
    np.testing.assert_array_equal(first.predict_proba(X), again.predict_proba(X))
    torch.manual_seed(3)
    assert torch.rand(1) == drawn  # the caller's generator is left alone
    other = ef.FusionClassifier(**{**QUICK, "random_state": 1}).fit(X, y)
    assert not np.allclose(first.predict_proba(X), other.predict_proba(X))


def test_early_stopping_keeps_the_best_epoch(samples):
    X, y = samples
    # Labels that say nothing: the held-out loss gets worse.
    noise = np.random.default_rng(1).permutation(y)
    options = {**QUICK, "hidden": (32,), "dropout": 0.0, "epochs": 60, "patience": 3}
    estimator = ef.FusionClassifier(**options).fit(X, noise)
    losses = [row["val_loss"] + row["val_reduced_loss"] for row in estimator.history_]
    assert estimator.n_iter_ == len(losses) < 60
    assert int(np.argmin(losses)) == len(losses) - 1 - 3
    unstopped = ef.FusionClassifier(**{**options, "epochs": 6, "validation_fraction": None}).fit(X, noise)
    assert unstopped.n_iter_ == 6
    assert "val_loss" not in unstopped.history_[-1]


def test_zero_weight_is_removal_with_everything_on(samples):
    X, y = samples
    keep = np.arange(N) % 5 > 0
    for estimator in (ef.FusionClassifier(**{**QUICK, "fusion": "gmf", "dim": None}), ef.FusionRegressor(**QUICK)):
        weighted = estimator.fit(X, y, keep.astype(float)).predict(X)
        np.testing.assert_array_equal(estimator.fit(_rows(X, keep), y[keep], np.ones(keep.sum())).predict(X), weighted)


def test_class_weight(samples):
    X, y = samples
    rare = np.flatnonzero((y == 0) | (np.arange(N) % 8 == 1))
    X, y = _rows(X, rare), y[rare]
    share = {
        name: ef.FusionClassifier(**QUICK, class_weight=weight).fit(X, y).predict_proba(X)[:, 1].mean()
        for name, weight in (("none", None), ("balanced", "balanced"), ("dict", {1: (y == 0).sum() / (y == 1).sum()}))
    }
    assert share["none"] < share["balanced"]
    assert share["dict"] == pytest.approx(share["balanced"], abs=0.1)
    with pytest.raises(ef.InputError, match="class_weight must be"):
        ef.FusionClassifier(**QUICK, class_weight="rare").fit(X, y)


def test_partial_fit(samples):
    X, y = samples
    names = np.array(["no", "yes"])[y]
    estimator = ef.FusionClassifier(**QUICK)
    with pytest.raises(ef.InputError, match="classes must be passed"):
        estimator.partial_fit(X, names)
    with pytest.raises(ef.DataError, match="label 'yes' is not among"):
        estimator.partial_fit(X, names, classes=["no", "perhaps"])
    for _ in range(15):
        for rows in (np.arange(0, N, 2), np.arange(1, N, 2)):  # one class at a time
            estimator.partial_fit(_rows(X, rows), names[rows], classes=["no", "yes"])
    assert estimator.n_iter_ == len(estimator.history_) == 30
    assert [row["epoch"] for row in estimator.history_] == list(range(30))
    assert estimator.score(X, names) > 0.8
    with pytest.raises(ef.InputError, match="are not those of before"):
        estimator.partial_fit(X, names, classes=["no", "maybe"])
    with pytest.raises(ef.InputError, match="balanced"):
        ef.FusionClassifier(class_weight="balanced").partial_fit(X, y, classes=[0, 1])


def test_partial_fit_goes_on_from_fit(samples):
    X, y = samples
    estimator = ef.FusionRegressor(**{**QUICK, "lr": 1e-9, "weight_decay": 0.0}).fit(X, 1e4 * y)
    before = estimator.predict(X)
    after = estimator.partial_fit(X, 1e4 * y).predict(X)
    np.testing.assert_allclose(after, before, rtol=1e-4)  # such small steps: the same model, in the same units
    assert estimator.n_iter_ == 6
    with pytest.raises(ef.DataError, match="y has 2 targets, the estimator was fitted with 1"):
        estimator.partial_fit(X, np.stack([y, y], 1))


@pytest.mark.parametrize("fusion", [{"fusion": "sum"}, {"fusion": "late", "dim": None}])
def test_units_of_the_targets_have_no_effect(samples, fusion):
    X, y = samples
    y = X["a"].sum(1)
    options = {**QUICK, **fusion, "dtype": "float64"}
    plain = ef.FusionRegressor(**options).fit(X, y).predict(X)
    scaled = ef.FusionRegressor(**options).fit(X, 1e6 * y - 1e7).predict(X)
    np.testing.assert_allclose(scaled, 1e6 * plain - 1e7, rtol=1e-6)
    both = ef.FusionRegressor(**{**options, "epochs": 15}).fit(X, np.stack([y, -3 * y], 1))
    assert both.predict(X).shape == (N, 2)
    assert both.score(X, np.stack([y, -3 * y], 1)) > 0.3


def test_every_way_to_one_line(samples):
    X, y = samples
    for options, error, match in (
        ({"fusion": "depq"}, ef.UnknownNameError, "unknown fusion 'depq'; did you mean 'deq'"),
        ({"epochs": 0}, ef.InputError, "epochs must be a whole number"),
        ({"validation_fraction": 1.5}, ef.InputError, "validation_fraction must be between 0 and 1, or None"),
        (
            {"validation_fraction": 0.001},
            ef.DataError,
            "holds out none; give more samples, or validation_fraction=None",
        ),
        ({"dtype": "float16"}, ef.InputError, "dtype must be one of float32, float64"),
        ({"encoder": "gru"}, ef.InputError, "needs sequences"),
        ({"fusion_options": {"dmi": 3}}, ef.UnknownNameError, "did you mean 'dim'"),
        ({"lr": 1e30, "epochs": 50}, ef.InputError, "lower the learning rate"),
    ):
        with pytest.raises(error, match=match):
            ef.FusionRegressor(**{**QUICK, **options}).fit(X, y)
    with pytest.raises(ef.UnknownNameError, match="unknown loss"):
        ef.FusionRegressor(**QUICK, loss="l3").fit(X, y)


@pytest.mark.parametrize("fusion", ["deq", "self_attention"])
def test_other_fusions_take_a_single_array(fusion):
    generator = np.random.default_rng(0)
    X = generator.normal(size=(40, 3))
    estimator = ef.FusionClassifier(fusion, epochs=2, hidden=(8,), random_state=0).fit(X, X[:, 0] > 0)
    assert set(estimator.predict(X)) <= {False, True}
    assert estimator.model_.modalities == ("x",)


def test_gmf_asks_for_two_modalities():
    X, y = np.ones((40, 3)), np.arange(40) % 2
    with pytest.raises(ef.InputError, match="at least two"):
        ef.FusionClassifier("gmf").fit(X, y)
    halves = {"a": slice(0, 1), "b": slice(1, 3)}
    assert ef.FusionClassifier("gmf", modalities=halves, epochs=1).fit(X, y).predict(X).shape == (40,)


def test_what_early_stopping_looks_at_is_whole_groups_or_what_is_given():
    generator = np.random.default_rng(0)
    patient = np.repeat(np.arange(20), 4)
    X = {"a": patient[:, None] + np.zeros((80, 3)), "b": generator.normal(size=(80, 2))}
    y = patient % 2
    model = ef.FusionClassifier("concat", hidden=(4,), epochs=1, random_state=0)
    seen = []
    fit = Trainer.fit

    def spy(self, module, train, val=None, **options):
        seen.append((train, val))
        return fit(self, module, train, val, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "fit", spy)
        model.fit(X, y, groups=[f"p{k}" for k in patient])
        model.fit(X, y, eval_set=({m: x[:8] for m, x in X.items()}, y[:8]))
    (train, val), (whole, given) = seen
    assert not set(train.inputs["a"][:, 0]) & set(val.inputs["a"][:, 0])
    assert len(val) == 16
    assert (len(whole), len(given)) == (80, 8)
    with pytest.raises(ef.InputError, match="give one of them"):
        model.fit(X, y, groups=patient, eval_set=(X, y))
    with pytest.raises(ef.InputError, match="one pair"):
        model.fit(X, y, eval_set=X)
    with pytest.raises(ef.DataError, match="groups has no value in 1 rows, the first is row 3"):
        model.fit(X, y, groups=[*range(3), None, *range(76)])
    with pytest.raises(ValueError, match="inconsistent"):
        model.fit(X, y, groups=patient[:5])
