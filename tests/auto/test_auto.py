"""A search for the best model: what is selected, by what, and that it goes on where it was interrupted."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import equifuse as ef
from equifuse.auto import PRESETS, AutoResult, Candidate, Preset, auto
from equifuse.auto.judging import Judge, as_expected
from equifuse.auto.knowledge import knowledge
from equifuse.auto.limits import Budget, duration, seconds_of
from equifuse.auto.portfolio import check_candidates, further, portfolio_of
from equifuse.auto.run import check_task
from equifuse.auto.search import in_turn
from equifuse.auto.selection import greedy_weights
from equifuse.auto.verdict import report
from equifuse.cli import main
from equifuse.data.loaders import batches_of
from equifuse.errors import DataError, InputError, OutputExistsError, UnknownNameError
from equifuse.report.search import write_search
from equifuse.runs import TrainConfig, evaluate_run, load_run, predict_run
from equifuse.tasks import make_task

TINY = Preset(2, 2, 2, (), 1)
NET = {"hidden": [8], "epochs": 2, "batch_size": 32, "modality_dropout": 0.0}
FEW = [
    Candidate("linear", {"fusion": "linear"}),
    Candidate("mean", {"fusion": "mean", **NET}),
    Candidate("trees", {"fusion": "trees", "fusion_options": {"trees": 5}}),
    Candidate("hopeless", {"fusion": "mean", **NET, "lr": 1e20}),
]


def search(path, out, **options):
    given = {"time_limit": "none", "preset": TINY, "portfolio": FEW, **options}
    return auto(TrainConfig(str(path)), out, **given)


def facts(found):
    """What a search decided, without times, folders and what was measured on test."""
    return [(e.method, e.settings, e.models, e.loss, e.score, e.weight, e.note) for e in found.entries]


@pytest.fixture(scope="module")
def run(small_set, tmp_path_factory):
    lines = []
    found = search(small_set, tmp_path_factory.mktemp("auto") / "run", tell=lines.append)
    return found, lines


def test_a_search_leaves_a_run_and_the_best_method_alone_as_another(run, small_set, tmp_path):
    found, lines = run
    assert AutoResult.read(load_run(found.path).path / "auto.json") == found
    whole, alone = found.entries[0], found.best
    assert whole.method == "ensemble"
    assert whole.loss <= alone.loss == min(e.loss for e in found.entries[1:] if e.models == 2)
    for number, (folder, entry) in enumerate(((found.path, whole), (f"{found.path}/best", alone))):
        assert evaluate_run(folder)["accuracy"] == pytest.approx(entry.test)
        assert len(predict_run(folder, small_set, tmp_path / f"{number}.csv")["prediction"]) == 50
        assert len(load_run(folder).model.members) == entry.models
    hopeless = next(e for e in found.entries if e.method == "hopeless")
    assert hopeless.models == 0
    assert "diverged" in hopeless.note
    assert any("hopeless" in line and "diverged" in line for line in (*found.report, *lines))


def test_the_ensemble_predicts_the_weighted_mean_of_its_members(run):
    found, _ = run
    opened = load_run(found.path)
    batch = next(iter(batches_of(opened.dataset().splits["test"])))
    said = [torch.softmax(m(batch.inputs, batch.present).prediction, 1) for m in opened.model.members]
    expected = torch.einsum("e,enk->nk", opened.model.weights, torch.stack(said))
    torch.testing.assert_close(torch.softmax(opened.model(batch.inputs, batch.present).prediction, 1), expected)
    shares = {e.method: e.weight for e in found.entries[1:]}
    assert sum(shares.values()) == pytest.approx(1)
    used = sum(e.models for e in found.entries[1:] if e.weight)
    assert used == len(opened.model.members)


def test_a_search_that_was_interrupted_gives_what_it_would_have_given(run, small_set, tmp_path):
    class Stop(Exception):
        pass

    told = []

    def tell(line):
        told.append(line)
        if len(told) == 3:
            raise Stop

    out = tmp_path / "run"
    with pytest.raises(Stop):
        search(small_set, out, tell=tell)
    with pytest.raises(InputError, match="resume it with the same options"):
        search(small_set, out, resume=True, portfolio=FEW[:2])
    lines = []
    found = search(small_set, out, resume=True, tell=lines.append)
    assert facts(found) == facts(run[0])
    assert found.report == run[0].report
    assert search(small_set, out, resume=True) == found  # it is finished
    with pytest.raises(OutputExistsError):
        search(small_set, out)


def test_the_test_part_decides_nothing(small_set, tmp_path):
    data = ef.datasets.load(str(small_set))
    test = data.splits["test"]
    others = replace(
        test, target=1 - test.target, inputs={m: x[::-1].copy() for m, x in test.inputs.items()}, present={}
    )
    others = replace(others, inputs={m: np.nan_to_num(x) for m, x in others.inputs.items()})
    ef.datasets.write_npz(tmp_path / "small.npz", replace(data, splits={**data.splits, "test": others}))
    fitted = {"portfolio": [FEW[0], FEW[2]], "preset": replace(TINY, trials=0)}
    one = search(small_set, tmp_path / "one", **fitted)
    other = search(tmp_path / "small.npz", tmp_path / "other", **fitted)
    assert facts(one) == facts(other)
    assert one.entries[0].test != other.entries[0].test


def test_without_folds_models_stop_on_the_validation_part_and_time_is_a_limit(small_set, tmp_path):
    now = [0.0]
    found = search(
        small_set,
        tmp_path / "run",
        preset=Preset(1, 2, 2, (), 0),
        portfolio=FEW[:3],
        budget=Budget(60, clock=lambda: now[0]),
        time_limit=60,
        tell=lambda _: now.__setitem__(0, 55.0),  # the first piece takes most of the time
    )
    assert [e.note for e in found.entries[2:]] == ["no time", "no time"]
    assert "no time" in found.report[-1]
    opened = load_run(found.path)
    assert opened.config.ensemble is None
    assert evaluate_run(found.path, split="val")["loss"] == pytest.approx(found.entries[0].loss)


def test_what_is_expected_to_be_missing_is_part_of_the_selection(small_set, tmp_path):
    config = TrainConfig(str(small_set), expect_missing={"a": 0.5})
    fitted = {"portfolio": [FEW[0], FEW[2]], "preset": replace(TINY, trials=0), "time_limit": "none"}
    found = auto(config, tmp_path / "run", **fitted)
    assert all(e.expected_score is not None and e.expected_score <= e.score for e in found.entries)
    assert found.entries[0].expected_test is not None
    with pytest.raises(UnknownNameError, match="modality"):
        auto(TrainConfig(str(small_set), expect_missing={"c": 0.5}), tmp_path / "no", **fitted)
    val = ef.datasets.load(str(small_set)).splits["val"]
    less = as_expected(val, {"a": 0.5}, 0)
    assert not less.present["a"].all()
    assert (less.present["b"] == val.present["b"]).all()
    assert (less.present["a"] | less.present["b"]).all()


@pytest.mark.slow
def test_several_targets_are_searched_by_the_command(tmp_path, monkeypatch):
    rows = np.random.default_rng(0).normal(size=(90, 3))
    kinds = np.where(rows[:, 0] > 0, "A", "B")
    cells = zip(*rows.T, kinds, rows[:, 1] * 10, strict=True)
    lines = ["a_1,a_2,b_1,kind,age", *(",".join(map(str, row)) for row in cells)]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    monkeypatch.setitem(PRESETS, "fast", Preset(1, 1, 1, ("concat",), 0))
    words = ["--data", str(tmp_path / "table.csv"), "--modality", "a=a_*", "--modality", "b=b_*", "--quiet"]
    words += ["--target", "kind", "--target", "age", "--preset", "fast", "--workers", "0", "--time-limit", "none"]
    with pytest.raises(SystemExit) as stop:
        main(["auto", *words, "--out", str(tmp_path / "run")])
    assert not stop.value.code
    assert "loss" in (tmp_path / "run" / "leaderboard.html").read_text()
    assert load_run(tmp_path / "run").task.name == "several"


def test_greedy_selection_takes_the_best_alone_where_others_are_useless():
    target = torch.zeros(6)
    mean = lambda each, weights: torch.einsum("e,e...->...", weights, each)  # noqa: E731
    cost = lambda out: float((out - target).square().mean())  # noqa: E731
    good, bad = torch.full((6,), 0.1), torch.full((6,), 3.0)
    assert greedy_weights([bad, good, bad], cost, mean) == [0, 1, 0]
    assert greedy_weights([good, good.clone()], cost, mean) == [1, 0]
    # Errors of opposite sign cancel: 0.75 * 0.1 - 0.25 * 0.3 = 0.
    assert greedy_weights([good, torch.full((6,), -0.3)], cost, mean) == [0.75, 0.25]


def test_a_judge_counts_fold_by_fold_and_says_what_is_chance():
    task = make_task("regression")
    target = np.zeros((40, 1), np.float32)
    judge = Judge(task, target, [np.arange(10), np.arange(10, 40)])
    out = torch.cat([torch.full((10, 1), 2.0), torch.full((30, 1), 1.0)])
    assert judge.cost(out) == pytest.approx((4 * 10 + 30) / 40)
    assert judge.only([1]).cost(out) == judge.cost(out, [1]) == pytest.approx(1)
    gain, low, high = judge.difference(torch.zeros(40, 1), out)
    assert gain == pytest.approx(1.75)
    assert 0 < low <= gain <= high
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 1)).astype(np.float32))
    _, low, high = judge.difference(noise, -noise)
    assert low <= 0 <= high
    said = report(judge, {"deq": torch.zeros(40, 1), "late": out}, {"deq": 1.0, "late": 0.0}, torch.zeros(40, 1), 40)
    assert "more than chance" in said[1]
    assert "would not do" in said[2]


def test_portfolios_fit_the_task_and_the_data():
    for name, preset in PRESETS.items():
        for task in ("classification", "multilabel", "regression", "survival"):
            candidates = portfolio_of(preset, task, 3)
            assert len(check_candidates(candidates, TrainConfig("digits"))) >= 3, (name, task)
    alone = {c.settings["fusion"] for c in portfolio_of(PRESETS["good"], "classification", 1)}
    assert alone >= {"linear", "trees", "concat"}
    assert "late" not in alone
    late = Candidate("late", {"fusion": "late", "epochs": 3})
    assert further(late, 1, 0) == further(late, 1, 0) != further(late, 2, 0)
    with pytest.raises(InputError, match="the same for all"):
        check_candidates([Candidate("x", {"fusion": "late", "seed": 3})], TrainConfig("digits"))
    with pytest.raises(InputError, match="two candidates"):
        check_candidates([late, late], TrainConfig("digits"))


def test_all_folds_go_to_the_best_candidate_and_then_to_the_quickest():
    seconds = {"best": 40.0, "slow": 30.0, "quick": 1.0, "middling": 5.0}
    assert in_turn(list(seconds), seconds.__getitem__) == ["best", "quick", "middling", "slow"]


def test_what_is_left_of_a_limit_completes_the_other_half(small_set, tmp_path):
    """Of four methods three go on after the first fold; without a limit that is all of the preset."""
    quick = {"epochs": 1, "batch_size": 64}
    four = [Candidate(name, {"fusion": name, **quick}) for name in ("concat", "late", "mean", "gmu")]
    models = {}
    for limit in ("none", "10m"):
        found = auto(
            TrainConfig(str(small_set)),
            tmp_path / limit,
            time_limit=limit,
            preset=Preset(2, 2, 2, (), 0),
            portfolio=four,
        )
        models[limit] = sorted(entry.models for entry in found.entries if entry.method != "ensemble")
    assert models == {"none": [1, 2, 2, 2], "10m": [2, 2, 2, 2]}


def test_what_is_left_of_a_limit_repeats_the_methods_of_the_ensemble_on_other_folds(small_set, tmp_path):
    preset, lines = Preset(2, 2, 2, (), 0, repeats=3), []
    found = search(
        small_set, tmp_path / "run", time_limit="10m", preset=preset, portfolio=[FEW[0], FEW[2]], tell=lines.append
    )
    used = [entry for entry in found.entries[1:] if entry.weight]
    assert used
    assert {entry.models for entry in used} == {6}
    assert sum("repeat 3" in line for line in lines) == 2 * len(used)
    model = load_run(found.path).model
    assert len(model.members) == 6 * len(used)
    assert evaluate_run(found.path)["accuracy"] == pytest.approx(found.entries[0].test)


@pytest.mark.slow
def test_processes_give_what_one_process_gives_and_repeat_too(run, small_set, tmp_path):
    assert facts(search(small_set, tmp_path / "none", workers=2)) == facts(run[0])
    found = search(small_set, tmp_path / "limited", workers=2, time_limit="10m", preset=replace(TINY, repeats=2))
    assert {entry.models for entry in found.entries[1:] if entry.weight} == {4}


def test_where_every_method_fails_that_is_said(small_set, tmp_path):
    with pytest.raises(InputError, match=r"no model could be trained; hopeless: "):
        search(small_set, tmp_path / "run", time_limit="10m", portfolio=FEW[3:], preset=replace(TINY, repeats=2))


def test_limits_are_written_as_people_write_them():
    assert [seconds_of(text) for text in ("90s", "10m", "1h", "1h30m", "none", 5)] == [90, 600, 3600, 5400, None, 5]
    assert [duration(s) for s in (0.4, 60, 61, 3600)] == ["0 s", "1 min", "1 min 1 s", "1 h"]
    for wrong in ("ten", "10", "-5s", "0s", "", "5 parsecs", float("nan"), True):
        with pytest.raises(InputError, match="time limit"):
            seconds_of(wrong)


def test_what_a_search_cannot_do_is_refused_in_a_line(small_set, tmp_path):
    for options in ({"ensemble": 3}, {"cv": 3}, {"protocol": "loose"}):
        with pytest.raises(InputError):
            auto(TrainConfig(str(small_set), **options), tmp_path / "no")
    with pytest.raises(UnknownNameError, match="preset"):
        auto(TrainConfig(str(small_set)), tmp_path / "no", preset="bets")
    with pytest.raises(DataError, match="nothing to resume"):
        auto(TrainConfig(str(small_set)), tmp_path / "no", resume=True)
    data = ef.datasets.load(str(small_set))
    pairs = replace(data, task="retrieval", classes=None)
    ef.datasets.write_npz(tmp_path / "pairs.npz", pairs)
    with pytest.raises(InputError, match="embeddings"):
        auto(TrainConfig(str(tmp_path / "pairs.npz")), tmp_path / "pairs")
    with pytest.raises(InputError, match="boxes"):
        check_task("detection3d")


def test_an_ensemble_of_different_methods_is_called_what_it_is(run):
    opened = load_run(run[0].path)
    assert replace(opened, record={**opened.record, "auto": {"linear": 0.7, "late": 0.3}}).method == (
        "ensemble of linear and late"
    )
    assert replace(opened, record={**opened.record, "auto": {"linear": 1.0}}).method == opened.config.fusion


@pytest.mark.slow
def test_what_the_modalities_know_is_on_the_page_or_why_it_is_not(run, small_set, tmp_path):
    found, _ = run
    dataset = ef.datasets.load(small_set)
    known = knowledge(TrainConfig(str(small_set)), dataset, None)
    assert set(known.modalities) == set(dataset.modalities)
    assert known.n == len(dataset.splits["train"])  # and nothing of the rows that select or test
    text = write_search(found, tmp_path, "set", known=known).read_text(encoding="utf-8")
    assert "What the modalities know" in text
    assert known.verdict.split(":")[0] in text
    assert write_search(found, tmp_path, "set").read_text(encoding="utf-8") == text  # resumed when it was finished
    why = knowledge(TrainConfig(str(small_set)), dataset, 20)
    assert why in write_search(found, tmp_path, "set", known=why).read_text(encoding="utf-8")
    with pytest.raises(InputError, match="takes longer than 1e-06 s"):
        ef.interactions(dataset, seconds=1e-6)
