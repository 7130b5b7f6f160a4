"""Mappings, data frames and arrays as modalities."""

import numpy as np
import pytest

import equifuse as ef
from equifuse.estimators import stack

QUICK = {"fusion": "sum", "dim": 8, "hidden": (8,), "epochs": 8, "lr": 0.02, "random_state": 0}
N = 60


@pytest.fixture(scope="module")
def samples():
    generator = np.random.default_rng(0)
    y = np.arange(N) % 3
    X = {"g": generator.normal(size=(N, 4)) + y[:, None], "m": generator.normal(size=(N, 2)) - 2 * y[:, None]}
    X["m"][::7] = np.nan
    return X, np.array(["low", "middle", "high"])[y]


@pytest.fixture(scope="module")
def fitted(samples):
    return ef.FusionClassifier(**QUICK).fit(*samples)


def _frame(X):
    pd = pytest.importorskip("pandas")
    columns = {f"{m}_{k}": x[:, k] for m, x in X.items() for k in range(x.shape[1])}
    frame = pd.DataFrame({"name": [f"s{i}" for i in range(N)], **columns})
    return frame[["m_1", "name", "g_3", "g_0", "g_1", "m_0", "g_2"]]  # in no order, with a column that is no number


def test_three_forms_one_model(samples, fitted):
    X, y = samples
    expected = fitted.predict_proba(X)
    assert expected.dtype == np.float64
    np.testing.assert_allclose(expected.sum(1), 1, rtol=0, atol=1e-12)
    table, slices = stack(X)
    numbers = {"g": [0, 1, 2, 3], "m": slice(-2, None)}
    for modalities in (slices, numbers):
        array = ef.FusionClassifier(**QUICK, modalities=modalities).fit(table, y)
        np.testing.assert_array_equal(array.predict_proba(table), expected)
        np.testing.assert_array_equal(array.predict_proba(X), expected)
        assert array.n_features_in_ == 6
    frame, names = _frame(X), {"g": [f"g_{k}" for k in range(4)], "m": ["m_0", "m_1"]}
    named = ef.FusionClassifier(**QUICK, modalities=names).fit(frame, y)
    np.testing.assert_array_equal(named.predict_proba(frame), expected)
    np.testing.assert_array_equal(named.predict_proba(frame[frame.columns[::-1]]), expected)  # found by name
    assert sorted(named.feature_names_in_) == sorted([*names["g"], *names["m"]])
    assert named.model_.features == {m: tuple(columns) for m, columns in names.items()}
    patterns = ef.FusionClassifier(**QUICK, modalities={"g": "g_*", "m": "m_*"}).fit(frame, y)
    assert patterns.model_.features == {"g": ("g_3", "g_0", "g_1", "g_2"), "m": ("m_1", "m_0")}
    assert (patterns.predict(frame) == fitted.predict(X)).mean() > 0.6


def test_a_modality_that_is_not_there(samples, fitted):
    X, y = samples
    without = fitted.predict_proba({"g": X["g"]})
    assert not np.allclose(without, fitted.predict_proba(X))
    np.testing.assert_array_equal(fitted.predict_proba({"g": X["g"], "m": None}), without)
    np.testing.assert_array_equal(fitted.predict_proba({"m": np.full((N, 2), np.nan), "g": X["g"]}), without)
    rows = np.flatnonzero(np.isnan(X["m"]).all(1))
    np.testing.assert_allclose(fitted.predict_proba(X)[rows], without[rows], atol=1e-6)
    frame = _frame(X)
    named = ef.FusionClassifier(**QUICK, modalities={"g": [f"g_{k}" for k in range(4)], "m": ["m_0", "m_1"]})
    named.fit(frame, y)
    np.testing.assert_array_equal(named.predict_proba(frame.drop(columns=["m_0", "m_1"])), without)
    with pytest.raises(ef.DataError, match="no column 'm_1', which modality 'm' was fitted with"):
        named.predict(frame.drop(columns=["m_1"]))
    with pytest.raises(ef.DataError, match="none of the columns"):
        named.predict(frame[["name"]])


def test_sequences():
    generator = np.random.default_rng(0)
    y = generator.normal(size=N)
    speech = generator.normal(size=(N, 5, 2)) + y[:, None, None]
    speech[::2, 3:] = np.nan  # shorter ones
    speech[::9] = np.nan  # none at all
    X = {"speech": speech, "age": generator.normal(size=N)}
    regressor = ef.FusionRegressor(**QUICK).fit(X, y)
    assert regressor.model_.shapes == {"speech": (5, 2), "age": (1,)}
    assert regressor.n_features_in_ == 11
    short = {"speech": speech[::2, :3], "age": X["age"][::2]}
    np.testing.assert_allclose(regressor.predict(short), regressor.predict(X)[::2], rtol=1e-4)
    broken = speech.copy()
    broken[1, 1, 0] = np.nan
    assert np.isfinite(regressor.predict({**X, "speech": broken})).all()
    with pytest.raises(ef.InputError, match=r"shape \(6, 3\), the estimator was fitted with \(5, 2\)"):
        regressor.predict({**X, "speech": np.zeros((N, 6, 3))})
    with pytest.raises(ef.InputError, match="vectors only"):
        stack(X)


def test_a_gap_is_filled_with_the_median_of_the_training_part(samples):
    X, y = samples
    fitted = ef.FusionClassifier(**QUICK, validation_fraction=None).fit(X, y)
    gaps, filled = X["g"].copy(), X["g"].copy()
    gaps[3, 1] = np.nan
    filled[3, 1] = np.nanmedian(X["g"][:, 1])
    expected = fitted.predict_proba({**X, "g": filled})
    np.testing.assert_allclose(fitted.predict_proba({**X, "g": gaps}), expected, rtol=1e-5)


def test_refused_samples(samples, fitted):
    X, y = samples
    with pytest.raises(ef.UnknownNameError, match="unknown modality 'gg'; did you mean 'g'"):
        fitted.predict({"gg": X["g"]})
    with pytest.raises(ef.InputError, match="no modality given"):
        fitted.predict({"g": None, "m": None})
    with pytest.raises(ef.InputError, match=r"modality 'g' has shape \(3,\), the estimator was fitted with \(4,\)"):
        fitted.predict({"g": X["g"][:, :3]})
    with pytest.raises(ef.DataError, match="modality 'm' has 59 rows, 'g' has 60"):
        fitted.predict({"g": X["g"], "m": X["m"][1:]})
    with pytest.raises(ef.InputError, match="None in fit"):
        ef.FusionClassifier(**QUICK).fit({"g": X["g"], "m": None}, y)
    with pytest.raises(ef.InputError, match="no modality"):
        ef.FusionClassifier(**QUICK).fit({}, y)
    with pytest.raises(ef.DataError, match="no features"):
        ef.FusionClassifier(**QUICK).fit({"g": X["g"], "m": np.zeros((N, 0))}, y)


@pytest.mark.parametrize(
    ("modalities", "error", "match"),
    [
        ({"a": "g_*"}, ef.InputError, "by name, and X has no names"),
        ({"a": ["g_0"]}, ef.InputError, "by name, and X has no names"),
        ({"a": [0, 9]}, ef.DataError, "X has 6 columns"),
        ({"a": slice(6, 9)}, ef.DataError, "no columns"),
        ({"a": [0.5]}, ef.DataError, "X has 6 columns"),
        ({}, ef.InputError, "must map names to columns"),
        (["a"], ef.InputError, "must map names to columns"),
    ],
)
def test_refused_columns_of_an_array(samples, modalities, error, match):
    table, _ = stack(samples[0])
    with pytest.raises(error, match=match):
        ef.FusionClassifier(**QUICK, modalities=modalities).fit(table, samples[1])


def test_refused_columns_of_a_frame(samples):
    X, y = samples
    frame = _frame(X)
    for modalities, match in (
        ({"a": "h_*"}, "no column like 'h_\\*'"),
        ({"a": ["g_0", "g_9"]}, "no column 'g_9', which modality 'a' asks for"),
    ):
        with pytest.raises(ef.DataError, match=match):
            ef.FusionClassifier(**QUICK, modalities=modalities).fit(frame, y)
    with pytest.raises(ef.InputError, match="X is a mapping of modalities already"):
        ef.FusionClassifier(**QUICK, modalities={"a": "g_*"}).fit(X, y)
    with pytest.raises(ef.DataError, match="more than one column 'g_0'"):
        ef.FusionClassifier(**QUICK, modalities={"a": "g_*"}).fit(frame.rename(columns={"g_1": "g_0"}), y)
    with pytest.raises(ef.InputError, match="stack takes a mapping"):
        stack(frame)


def test_columns_that_nobody_uses_may_be_there_twice():
    pd = pytest.importorskip("pandas")
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(generator.normal(size=(60, 4)), columns=["a_0", "a_1", "b_0", "b_1"]).assign(batch=1)
    y = np.arange(60) % 2
    twice = pd.concat([frame, frame[["batch"]]], axis=1)
    model = ef.FusionClassifier("concat", modalities={"a": "a_*", "b": "b_*"}, epochs=1, random_state=0)
    once = model.fit(frame, y).predict_proba(frame)
    np.testing.assert_array_equal(model.fit(twice, y).predict_proba(twice), once)
    with pytest.raises(ef.DataError, match="more than one column 'a_0'"):
        model.predict(pd.concat([frame, frame[["a_0"]]], axis=1))


def _frames(samples):
    pd = pytest.importorskip("pandas")
    X, y = samples
    index = [f"p{i}" for i in range(N)]
    g = pd.DataFrame(X["g"], index=index, columns=list("wxyz"))
    return {"g": g, "m": pd.DataFrame(X["m"], index=index, columns=list("st"))}, pd.Series(y, index)


def test_frames_of_a_mapping_are_matched_by_columns_and_index(samples, fitted):
    frames, y = _frames(samples)
    expected = fitted.predict_proba(samples[0])
    model = ef.FusionClassifier(**QUICK).fit(frames, y)
    np.testing.assert_array_equal(model.predict_proba(frames), expected)
    assert model.model_.features == {"g": ("w", "x", "y", "z"), "m": ("s", "t")}
    reordered = {"m": frames["m"].assign(more=1.0)[["t", "more", "s"]], "g": frames["g"][list("zyxw")]}
    np.testing.assert_array_equal(model.predict_proba(reordered), expected)
    shuffled = {"g": frames["g"], "m": frames["m"].sample(frac=1, random_state=0)}
    np.testing.assert_array_equal(model.predict_proba(shuffled), expected)
    for target in (y, y.to_numpy(), y.sample(frac=1, random_state=1)):
        assert model.score(shuffled, target) == model.score(frames, y)
        assert ef.FusionClassifier(**QUICK).fit(shuffled, target).score(frames, y) == pytest.approx(0.77, abs=0.08)
    # The same where the frames are merely numbered, in which the first one's order is that of y.
    plain = {m: frame.reset_index(drop=True) for m, frame in frames.items()}
    plain["g"] = plain["g"].sample(frac=1, random_state=0)
    again = ef.FusionClassifier(**QUICK).fit(plain, y.to_numpy())
    np.testing.assert_array_equal(again.predict_proba(frames), expected)
    with pytest.raises(ef.DataError, match="modality 'g' has no column 'w', which it was fitted with; it has x, y, z"):
        model.predict({"g": frames["g"][list("xyz")]})


def test_rows_that_a_frame_lacks_are_absent_there(samples, fitted):
    frames, y = _frames(samples)
    X = samples[0]
    kept = ~np.isnan(X["m"]).all(axis=1)
    fewer = {"g": frames["g"], "m": frames["m"][kept]}
    model = ef.FusionClassifier(**QUICK).fit(fewer, y)
    np.testing.assert_array_equal(model.predict_proba(fewer), fitted.predict_proba(X))
    more = {"g": frames["g"].iloc[:50], "m": frames["m"]}
    with pytest.raises(ef.DataError, match="10 rows of modality 'm' have no counterpart, such as 'p50', 'p51'"):
        model.predict(more)
    with pytest.warns(UserWarning, match="10 rows of modality 'm' have no counterpart"):
        ef.FusionClassifier(**QUICK).fit(more, y.to_numpy()[:50])
    twice = {"g": frames["g"], "m": frames["m"].iloc[[0, 0, 1]]}
    with pytest.raises(ef.DataError, match="index of 'm' names 1 rows more than once, such as 'p0'"):
        model.predict(twice)
    with pytest.raises(ef.DataError, match="index of 'm' has no row in common with the others"):
        model.predict({"g": frames["g"], "m": frames["m"].add_prefix("q", axis=0)})
    with pytest.raises(ef.InputError, match="modality 'a' has no index, and the frames beside it differ"):
        ef.FusionClassifier(**QUICK).fit({**fewer, "a": X["g"]}, y)


def test_columns_of_two_levels(samples, fitted):
    pd = pytest.importorskip("pandas")
    X, y = samples
    expected = fitted.predict_proba(X)
    frame = pd.concat({m: pd.DataFrame(x) for m, x in X.items()}, axis=1)
    named = {"g": [("g", i) for i in range(4)], "m": "m"}
    for modalities in (None, named):
        model = ef.FusionClassifier(**QUICK, modalities=modalities).fit(frame, y)
        np.testing.assert_array_equal(model.predict_proba(frame), expected)
        np.testing.assert_array_equal(model.predict_proba(frame[["m", "g"]]), expected)
        np.testing.assert_array_equal(model.predict_proba({m: frame[m] for m in ("g", "m")}), expected)
    assert model.model_.features["m"] == ("m:0", "m:1")
    parts = ef.FusionClassifier(**QUICK).fit({m: frame[m] for m in ("g", "m")}, y)
    np.testing.assert_array_equal(parts.predict_proba(frame[["m", "g"]]), expected)


def test_frames_of_other_libraries(samples, fitted):
    pa, sparse = pytest.importorskip("pyarrow"), pytest.importorskip("scipy.sparse")
    X, y = samples
    expected = fitted.predict_proba(X)
    frames, _ = _frames(samples)
    arrow = {m: pa.Table.from_pandas(frame, preserve_index=False) for m, frame in frames.items()}
    others = [arrow, {"g": sparse.csr_matrix(X["g"]), "m": frames["m"].astype("Float64").convert_dtypes()}]
    polars = pytest.importorskip("polars")
    others.append({m: polars.from_arrow(table) for m, table in arrow.items()})
    for given in others:
        model = ef.FusionClassifier(**QUICK).fit(given, y)
        np.testing.assert_array_equal(model.predict_proba(given), expected)
    one = polars.from_arrow(arrow["g"])
    model = ef.FusionClassifier(**QUICK, modalities={"g": ["w", "x", "y", "z"]}).fit(one, y)
    np.testing.assert_array_equal(model.predict_proba(one[:, ::-1]), model.predict_proba(frames["g"]))
    with pytest.raises(ef.DataError, match="column 's' of modality 'm' is not numeric"):
        fitted.predict({"m": frames["m"].assign(s="high")})


def test_cells_of_single_cell_frames(samples):
    anndata, mudata = pytest.importorskip("anndata"), pytest.importorskip("mudata")
    frames, y = _frames(samples)
    cells = {"g": anndata.AnnData(frames["g"]), "m": anndata.AnnData(frames["m"].dropna())}
    expected = ef.FusionClassifier(**QUICK).fit(frames, y).predict_proba(frames)
    for given in (cells, mudata.MuData(cells)):
        model = ef.FusionClassifier(**QUICK).fit(given, y)
        np.testing.assert_allclose(model.predict_proba(given), expected, atol=1e-6)


def test_categories_are_scored_as_they_are_predicted():
    import pandas as pd

    generator = np.random.default_rng(0)
    site, day = generator.integers(0, 4, 80), pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(80), unit="D")
    frame = pd.DataFrame({"site": np.array(list("abcd"))[site], "x": generator.standard_normal(80), "day": day})
    y = np.where(site > 1, "late", "early")
    options = {"modalities": {"a": ["site", "x", "day"]}, "hidden": (8,), "epochs": 12, "lr": 0.02, "random_state": 0}
    model = ef.FusionClassifier("concat", **options).fit(frame, y)
    assert model.score(frame, y) == (model.predict(frame) == y).mean() > 0.9


def test_sequences_may_be_longer_than_those_of_fit():
    generator = np.random.default_rng(0)
    y = np.arange(40) % 2
    X = {"speech": generator.normal(size=(40, 5, 3)) + y[:, None, None], "age": generator.normal(size=(40, 1))}
    model = ef.FusionClassifier("concat", hidden=(4,), epochs=1, random_state=0).fit(X, y)
    padded = np.concatenate([X["speech"], np.full((40, 3, 3), np.nan)], axis=1)  # no longer than before
    np.testing.assert_allclose(
        model.predict_proba({**X, "speech": padded}), model.predict_proba(X), rtol=1e-5, atol=1e-6
    )
    twice = {**X, "speech": np.tile(X["speech"], (1, 2, 1))}
    assert model.predict_proba(twice).shape == (40, 2)
    assert 0 <= model.score(twice, y) <= 1
    flat = ef.FusionClassifier("concat", encoder="mlp", hidden=(4,), epochs=1, random_state=0).fit(X, y)
    with pytest.raises(ef.InputError, match=r"has shape \(10, 3\), the estimator was fitted with \(5, 3\)"):
        flat.predict(twice)
