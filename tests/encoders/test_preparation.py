"""Steps of a preparation do what scikit-learn's transformers do, and a model has them wherever it goes."""

import json

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.preprocessing import QuantileTransformer

import equifuse as ef
from equifuse.encoders.preparation import Sample, complete_steps, fit_steps, parse_steps, restore_steps, steps_of
from equifuse.registry import PREPARATIONS

RNG = np.random.default_rng(0)
FULL, NEW = RNG.gamma(2.0, size=(70, 6)), RNG.gamma(2.0, size=(30, 6))
GAPS, NEW_GAPS = (np.where(RNG.random(x.shape) < 0.2, np.nan, x) for x in (FULL, NEW))
NEW_GAPS[0] = np.nan
Y = np.repeat([0, 1], 35)


def applied(text, fit=GAPS, new=NEW_GAPS, **about):
    """What steps fitted on some rows make of other ones."""
    steps = parse_steps(text)
    fit_steps(steps, Sample(torch.from_numpy(fit), **about))
    return through(steps, new)


def through(steps, x):
    x = torch.as_tensor(x)
    for step in steps:
        x = step(x)
    return x.detach().numpy()


@pytest.mark.parametrize(
    ("text", "peer"),
    [
        ("impute:median", SimpleImputer(strategy="median")),
        ("impute:mean", SimpleImputer()),
        ("impute:indicator", SimpleImputer(strategy="median", add_indicator=True)),
        ("impute:knn", KNNImputer()),
        ("impute:knn:1", KNNImputer(n_neighbors=1)),
    ],
)
def test_gaps_are_filled_as_by_scikit_learn(text, peer):
    np.testing.assert_allclose(applied(text), peer.fit(GAPS).transform(NEW_GAPS), atol=1e-9)


@pytest.mark.parametrize("output", ["normal", "uniform"])
def test_quantiles_are_those_of_scikit_learn_with_ties_and_gaps(output):
    fit, new = np.round(GAPS, 0), np.round(NEW_GAPS * 2) / 2
    peer = QuantileTransformer(n_quantiles=70, output_distribution=output).fit(fit)
    found, expected = applied(f"quantile:{output}", fit, new), peer.transform(new)
    least = new == np.nanmin(fit, axis=0)  # shared by several rows: in their middle, not at the border
    assert (found[least] >= expected[least]).all()
    np.testing.assert_allclose(found[~least], expected[~least], atol=1e-6)


def test_selection_and_components_are_those_of_scikit_learn():
    x = FULL + Y[:, None] * np.array([0, 3, 0, 1, 0, 0])
    best = SelectKBest(f_classif, k=2).fit(x, Y)
    np.testing.assert_array_equal(applied("kbest:2", x, NEW, response=Y, classes=True), best.transform(NEW))
    np.testing.assert_allclose(applied("pca:3", x, NEW), PCA(3).fit(x).transform(NEW), atol=1e-9)
    assert applied("pca:0.5", x, NEW).shape[1] == PCA(0.5).fit(x).n_components_
    np.testing.assert_array_equal(applied("variance:1", x, NEW), NEW[:, [int(x.var(0).argmax())]])


def test_selection_for_survival_finds_who_dies_early():
    from equifuse.tasks.targets import EventTimes

    risk = RNG.standard_normal(200)
    x = np.column_stack([RNG.standard_normal((200, 3)), risk])
    time = RNG.exponential(np.exp(-risk))
    target = np.column_stack([time, RNG.random(200) < 0.7]).astype(np.float32)
    residuals, classes = EventTimes().response(target)
    assert abs(residuals.sum()) < 1e-6  # martingale residuals of the null model add up to 0
    assert not classes
    np.testing.assert_array_equal(applied("kbest:1", x, x, response=residuals), x[:, [3]])


def test_correlated_features_go_and_the_first_of_them_stays():
    x = np.column_stack([FULL, 2 * FULL[:, 1] + 1, -FULL[:, 0]])
    new = np.column_stack([NEW, NEW[:, :2]])
    np.testing.assert_array_equal(applied("correlation:0.95", x, new), NEW)


def test_log_ratios_do_not_see_the_depth_of_a_row():
    depth = RNG.uniform(1, 9, size=(30, 1))
    np.testing.assert_allclose(applied("clr", FULL, NEW * depth), applied("clr", FULL, NEW), atol=1e-9)
    np.testing.assert_allclose(applied("clr", FULL, NEW).sum(1), 0, atol=1e-9)
    np.testing.assert_allclose(applied("log1p", FULL, NEW), np.log1p(NEW))


def test_each_batch_is_standardised_by_itself_and_an_unknown_one_by_all():
    site = np.repeat([0.0, 1.0], 35)
    shifted = FULL + 100 * site[:, None]
    about = {"kinds": ("number",) * 6 + ("category",), "names": (*"abcdef", "site")}
    with_site = np.column_stack([shifted, site])
    found = applied("batch:site", with_site, with_site, **about)
    for one in (0, 1):
        np.testing.assert_allclose(found[site == one].mean(0), 0, atol=1e-9)
        np.testing.assert_allclose(found[site == one].std(0), 1, atol=1e-9)
    elsewhere = applied("batch:site", with_site, np.column_stack([shifted, np.full(70, 9.0)]), **about)
    np.testing.assert_allclose(elsewhere, (shifted - shifted.mean(0)) / shifted.std(0), atol=1e-9)


def combat_by_hand(x, batch):
    """ComBat as its authors' paper and code have it, feature by feature: γ and δ by parametric empirical Bayes."""
    whole = x.mean(0)
    inside = [(x[batch == b] - x[batch == b].mean(0)) ** 2 for b in np.unique(batch)]
    sigma = np.sqrt(np.concatenate(inside).mean(0))
    z, found = (x - whole) / sigma, np.empty_like(x)
    for b in np.unique(batch):
        own = z[batch == b]
        gamma_hat, delta_hat, n = own.mean(0), own.var(0, ddof=1), len(own)
        gamma_bar, t2 = gamma_hat.mean(), gamma_hat.var(ddof=1)
        m, s2 = delta_hat.mean(), delta_hat.var(ddof=1)
        a, rate = (2 * s2 + m**2) / s2, (m * s2 + m**3) / s2
        gamma, delta, change = gamma_hat, delta_hat, 1.0
        while change >= 1e-4:
            new = (t2 * n * gamma_hat + delta * gamma_bar) / (t2 * n + delta)
            after = (0.5 * ((own - new) ** 2).sum(0) + rate) / (n / 2 + a - 1)
            change = max((abs(new - gamma) / abs(gamma)).max(), (abs(after - delta) / delta).max())
            gamma, delta = new, after
        found[batch == b] = sigma * (own - gamma) / np.sqrt(delta) + whole
    return found


def test_combat_is_that_of_the_paper_and_stays_as_it_was_fitted():
    site = np.repeat([0.0, 1.0, 2.0], [30, 25, 15])
    moved = (FULL + site[:, None] * np.arange(6)) * np.where(site == 1, 1.7, 1.0)[:, None]
    rows = np.column_stack([moved, site])
    about = {"kinds": ("number",) * 6 + ("category",), "names": (*"abcdef", "site")}
    expected = combat_by_hand(moved, site)
    np.testing.assert_allclose(applied("combat:site", rows, rows, **about), expected, rtol=1e-9)
    alone = applied("combat:site", rows, rows[40:41], **about)
    np.testing.assert_allclose(alone, expected[40:41], rtol=1e-9)
    rows[:, -1] = 7  # nothing is known of this site
    np.testing.assert_allclose(applied("combat:site", np.column_stack([moved, site]), rows, **about), moved, rtol=1e-9)
    with pytest.raises(ef.InputError, match="needs two batches or more"):
        applied("combat:site", rows, rows, **about)
    rows[0, -1] = 1
    with pytest.raises(ef.InputError, match="number 1 of 2 has one row"):
        applied("combat:site", rows, rows, **about)
    gaps = np.where(RNG.random(moved.shape) < 0.1, np.nan, moved)
    filled = applied("combat:site", np.column_stack([gaps, site]), np.column_stack([gaps, site]), **about)
    np.testing.assert_array_equal(np.isnan(filled), np.isnan(gaps))


def test_embedded_categories_are_learnt_and_unknown_ones_are_not(tmp_path):
    import pandas as pd

    site = RNG.integers(0, 4, 120)
    frame = pd.DataFrame({"site": np.array(list("abcd"))[site], "x": RNG.standard_normal(120)})
    y = np.isin(site, (0, 2)).astype(int)
    model = ef.FusionClassifier(
        "concat",
        modalities={"clinic": ["site", "x"]},
        prepare={"clinic": "embed:3"},
        epochs=30,
        lr=0.02,
        hidden=(8,),
        random_state=0,
    ).fit(frame, y)
    assert model.score(frame, y) == (model.predict(frame) == y).mean() > 0.95
    embed, _, last = steps_of(model.model_.encoders["clinic"])
    assert embed.spec == "embed:3"
    assert last.mean[-3:].tolist() == [0, 0, 0]  # what is learnt is not standardised
    first = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(embed.vectors[:4], first, atol=0.05)
    assert embed.vectors[4].tolist() == [0, 0, 0]
    raw = torch.tensor([[0.0, 0.3], [3.0, 0.3], [float("nan"), 0.3], [99.0, 0.3]])
    made = embed(raw)
    torch.testing.assert_close(made[:2, 1:], embed.vectors[[0, 3]])
    assert not made[2:, 1:].any()
    assert embed.sources(2).tolist() == [1, 0, 0, 0]
    model.model_.eval().save(tmp_path / "model")
    with torch.no_grad():
        expected = model.model_({"clinic": raw}).prediction
        torch.testing.assert_close(ef.load(tmp_path / "model")({"clinic": raw}).prediction, expected, rtol=0, atol=0)
    shares = np.bincount(site, minlength=4) / 120
    mean = torch.tensor(shares, dtype=torch.float32) @ embed.vectors[:4]  # the validation part is not counted
    torch.testing.assert_close(embed.mean, mean, atol=0.05, rtol=0)


def test_weights_are_as_good_as_copies():
    weight = RNG.integers(1, 4, size=70)
    copies = np.repeat(GAPS, weight, axis=0)
    for text in ("impute:median", "impute:mean", "impute:median,standardise"):
        weighted = applied(text, weight=torch.from_numpy(weight))
        np.testing.assert_allclose(weighted, applied(text, copies), atol=1e-9, err_msg=text)


def test_what_goes_without_saying():
    def completed(text, kinds=(), **options):
        return ",".join(step.spec for step in complete_steps(parse_steps(text) if text else [], kinds, **options))

    assert completed("") == "impute:median,standardise"
    assert completed("log1p,variance:9,pca:2") == "log1p,variance:9,impute:median,pca:2,standardise"
    assert completed("impute:knn,standardise") == "impute:knn,standardise"
    assert completed("", ("category",), feature_missing=0.5) == "missing:0.5,onehot,impute:median,standardise"
    assert completed("log1p,batch:site", ("category",)) == "log1p,batch:site,onehot,impute:median,standardise"
    with pytest.raises(ef.InputError, match="put impute:mean before pca:2, which needs all cells"):
        completed("pca:2,impute:mean")
    with pytest.raises(ef.InputError, match="put onehot before variance:2: codes"):
        completed("variance:2,onehot", ("category",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("varianse:3", "did you mean 'variance'"),
        ("variance", "the step 'variance' is written variance:K"),
        ("variance:3:4", "is written variance:K"),
        ("variance:0.5", "number of features of variance must be a whole number"),
        ("impute:medium", "did you mean 'median'"),
        ("pca:99", "needs at least 99 training rows and features, got 70 and 6"),
        ("log1p,,pca:2", "prepare expects steps such as"),
        ("missing:1.5", "between 0 and 1"),
        ("kbest:2", "needs targets"),
        ("batch:site", "has no column 'site'"),
    ],
)
def test_mistakes(text, message):
    with pytest.raises(ef.EquifuseError, match=message) as refused:
        applied(text, FULL, NEW)
    assert "\n" not in str(refused.value)


def test_negative_numbers_have_no_logarithm():
    with pytest.raises(ef.InputError, match=r"log1p needs numbers of at least 0; 'b' has -3"):
        applied("log1p", np.array([[1.0, -3.0]]), NEW, names=("a", "b"))


ARGUMENTS = {"variance": "3", "kbest": "3", "laplacian": "3", "correlation": "0.9", "pca": "2", "missing": "0.9"}


@pytest.mark.parametrize("name", PREPARATIONS.names())
def test_every_step_is_stored_as_plain_arrays_and_says_where_columns_come_from(name):
    word = f"{name}:{ARGUMENTS[name]}" if name in ARGUMENTS else f"{name}:b" if name in ("batch", "combat") else name
    kinds = ("number",) * 5 + ("category",) if name in ("onehot", "embed") else ()
    fit = np.round(FULL) if name in ("onehot", "embed", "batch") else FULL
    fit = np.column_stack([FULL[:, :1], np.arange(70) % 2, FULL[:, 2:]]) if name == "combat" else fit
    steps = parse_steps(word)
    sample = Sample(torch.from_numpy(fit), kinds, tuple("abcdef"), Y, True)
    after = fit_steps(steps, sample)
    again = restore_steps(json.loads(json.dumps([step.stored() for step in steps])))
    again[0].double().load_state_dict(steps[0].double().state_dict())
    np.testing.assert_array_equal(through(again, fit), after.x.numpy())
    assert again[0].width == after.width
    sources = steps[0].sources(6)
    assert sources is None or len(sources) == after.width == len(after.kinds) == len(after.names)


def test_a_model_has_its_preparation_wherever_it_goes(tmp_path):
    X = {"mrna": RNG.gamma(2.0, size=(60, 12)), "meth": RNG.standard_normal((60, 4))}
    X["mrna"][RNG.random((60, 12)) < 0.1] = np.nan
    y = np.arange(60) % 2
    model = ef.FusionClassifier(
        "sum",
        dim=4,
        epochs=2,
        hidden=(4,),
        random_state=0,
        prepare={"mrna": "log1p,variance:8,impute:knn:3,pca:3"},
        row_missing=0.5,
    ).fit(X, y)
    specs = [step.spec for step in steps_of(model.model_.encoders["mrna"])]
    assert specs == ["log1p", "variance:8", "impute:knn:3", "pca:3", "standardise"]
    new = {m: torch.from_numpy(x[:20]).float() for m, x in X.items()}
    new["mrna"][0, :7] = float("nan")  # more than half: as if it were not there
    with torch.no_grad():
        expected = model.model_(new).prediction
        absent = model.model_(new, {"mrna": torch.arange(20) > 0}).prediction
    torch.testing.assert_close(expected, absent)
    model.model_.save(tmp_path / "model")
    with torch.no_grad():
        torch.testing.assert_close(ef.load(tmp_path / "model")(new).prediction, expected, rtol=0, atol=0)


def test_a_model_that_fills_no_gaps_says_so():
    model = ef.build_model({"a": 3}, "classification", 2, fusion="sum").eval()
    x = torch.randn(4, 3)
    x[1, 2] = float("nan")
    with pytest.raises(ef.InputError, match=r"'a' has empty cells \(NaN\) in 1 of 4 rows, and this model does not"):
        model({"a": x})
    absent = {"a": torch.tensor([True, False, True, True])}
    assert model({"a": x}, absent).prediction.isfinite().all()
    split = ef.datasets.Split({"a": x.numpy()}, target=np.array([0, 1, 0, 1]))
    with pytest.raises(ef.InputError, match="does not fill them"):
        ef.training.Trainer(epochs=1).fit(model, split)


@pytest.mark.slow
@pytest.mark.parametrize("steps", ["quantile,impute:knn:3", "impute:indicator,clr", "asinh:0.1"])
def test_steps_are_exported_to_onnx(steps, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs equifuse[onnx]")
    from equifuse.export import export_model
    from equifuse.model import build_model

    done = complete_steps(parse_steps(steps))
    fit_steps(done, Sample(torch.from_numpy(GAPS)))
    model = build_model({"a": 6}, "regression", 1, fusion="mean", prepare={"a": done}).eval()
    example = {"a": torch.from_numpy(GAPS).float()}
    assert export_model(model, tmp_path / "model.onnx", example=example).error < 1e-5
