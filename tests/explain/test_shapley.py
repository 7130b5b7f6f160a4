"""Shapley values against their definition, and coalitions against a model that was never given the rest."""

from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import equifuse as ef
from equifuse.data.batch import Batch
from equifuse.explain import (
    all_coalitions,
    base_output,
    evaluate_coalitions,
    sampled_coalitions,
    shapley_values,
)
from equifuse.tasks import make_task

from .conftest import FUSIONS, SHAPES, build, samples

games = st.tuples(st.integers(1, 5), st.integers(0, 2**31))


def game(players, seed):
    return np.random.default_rng(seed).normal(size=2**players)


def by_permutations(values, players):
    """The definition: what each player adds when it comes in, mean over all orders."""
    orders = list(permutations(range(players)))
    phi = np.zeros(players)
    for order in orders:
        inside = 0
        for player in order:
            phi[player] += values[inside | 1 << player] - values[inside]
            inside |= 1 << player
    return phi / len(orders)


@settings(max_examples=40, deadline=None)
@given(games)
def test_exact_values_are_those_of_the_definition_and_add_up(drawn):
    players, seed = drawn
    v = game(players, seed)
    phi, error = shapley_values(v, all_coalitions(players))
    assert error is None
    np.testing.assert_allclose(phi, by_permutations(v, players), atol=1e-12)
    np.testing.assert_allclose(phi.sum(), v[-1] - v[0], atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(games, st.floats(-3, 3))
def test_values_are_linear_in_the_game(drawn, factor):
    players, seed = drawn
    v, w = game(players, seed), game(players, seed + 1)
    for coalitions in (all_coalitions(players), sampled_coalitions(players, 5, seed)):
        codes = coalitions.codes
        alone = shapley_values(np.stack([v[codes], w[codes]]), coalitions)[0]
        together = shapley_values((v + factor * w)[codes], coalitions)[0]
        np.testing.assert_allclose(together, alone[0] + factor * alone[1], atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(games)
def test_a_dummy_gets_nothing_and_equals_get_the_same(drawn):
    players, seed = drawn
    codes = np.arange(2 ** (players + 2))
    low = codes & (2**players - 1)
    count = (codes >> players & 1) + (codes >> (players + 1) & 1)
    v = game(players, seed)[low] * (1 + count) + count**2  # the last two are interchangeable
    phi = shapley_values(v, all_coalitions(players + 2))[0]
    assert phi[-1] == pytest.approx(phi[-2], abs=1e-12)
    v = game(players, seed)[low]  # the last two change nothing
    for coalitions in (all_coalitions(players + 2), sampled_coalitions(players + 2, 4, seed)):
        phi = shapley_values(v[coalitions.codes], coalitions)[0]
        np.testing.assert_allclose(phi[-2:], 0, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(0, 2**31))
def test_an_order_and_its_reverse_are_exact_for_games_of_pairs(players, seed):
    """Where only pairs interact, one of the two orders gives a pair's surplus to each of them."""
    generator = np.random.default_rng(seed)
    inside = (np.arange(2**players)[:, None] >> np.arange(players)) & 1
    own, surplus = generator.normal(size=players), generator.normal(size=(players, players))
    v = inside @ own + np.einsum("ci,ij,cj->c", inside, surplus, inside)
    coalitions = sampled_coalitions(players, 3, seed)
    phi, error = shapley_values(v[coalitions.codes], coalitions)
    np.testing.assert_allclose(phi, shapley_values(v, all_coalitions(players))[0], atol=1e-10)
    np.testing.assert_allclose(error, 0, atol=1e-10)


def test_samples_converge_to_the_exact_values_as_their_errors_say():
    players = 6
    values = np.random.default_rng(0).normal(size=(50, 2**players))  # 50 games at once
    exact = shapley_values(values, all_coalitions(players))[0]
    sizes = []
    for pairs in (50, 800):
        coalitions = sampled_coalitions(players, pairs, seed=3)
        phi, error = shapley_values(values[:, coalitions.codes], coalitions)
        np.testing.assert_allclose(phi.sum(-1), values[:, -1] - values[:, 0], atol=1e-12)
        z = (phi - exact) / error
        assert np.abs(z).max() < 5
        assert 0.6 < np.sqrt(np.square(z).mean()) < 1.5
        sizes.append(np.sqrt(np.square(phi - exact).mean()))
    assert 2 < sizes[0] / sizes[1] < 8  # four times in expectation


def subsets(names):
    return [s for k in range(1, len(names) + 1) for s in combinations(names, k)]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_coalition_is_a_model_that_was_never_given_the_rest(fusion, task):
    model, batch = build(fusion), samples(8, missing=True)
    table = evaluate_coalitions(model.train(), task, [batch.select(torch.arange(5)), batch.select(torch.arange(5, 8))])
    assert model.training  # as it was before
    model.eval()
    assert table.outputs.shape == (8, 8, 3)
    names = list(SHAPES)
    with torch.no_grad():
        for row in range(8):
            for members in subsets(names):
                code = sum(1 << names.index(m) for m in members)
                kept = [m for m in members if row >> names.index(m) & 1]
                if kept:
                    alone = model({m: batch.inputs[m][row : row + 1] for m in kept}).prediction[0]
                    torch.testing.assert_close(table.outputs[row, code], alone, rtol=1e-7, atol=1e-7)
    assert table.converged == (1.0 if fusion == "deq" else None)


def test_contributions_add_up_and_what_is_absent_gets_nothing(task):
    model, batch = build("gmf"), samples(16, missing=True)
    table = evaluate_coalitions(model, task, [batch])
    everything = model(batch.inputs, batch.present).prediction.detach()
    best = everything.argmax(1)
    picked = torch.softmax(everything, 1)[torch.arange(16), best]
    for value, full in (
        ("probability", picked),
        ("log_probability", picked.log()),
        ("logit", everything[torch.arange(16), best]),
    ):
        found = table.per_sample(task, value)
        np.testing.assert_allclose(found.full, full, atol=1e-9)
        np.testing.assert_allclose(sum(found.values.values()), found.full - found.empty, atol=1e-12)
        for m in SHAPES:
            absent = ~batch.present[m].numpy()
            assert (found.values[m][absent] == 0).all()
            assert (found.values[m][~absent] != 0).all()
    of_class = table.per_sample(task, "probability", output=2)
    np.testing.assert_allclose(of_class.full, torch.softmax(everything, 1)[:, 2], atol=1e-9)


def test_each_modality_is_encoded_once_and_absent_rows_never(task):
    seen = []

    class Watching(nn.Linear):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)

    fusion = ef.Concat({"a": 3, "b": 3})
    model = ef.FusionModel({"a": Watching(4, 3), "b": Watching(2, 3)}, fusion, nn.Linear(6, 2))
    batch = Batch({"a": torch.randn(6, 4), "b": torch.randn(6, 2)}, {"a": torch.arange(6) < 2})
    evaluate_coalitions(model, task, [batch])
    assert seen == [2, 6]


def test_a_value_for_nothing_at_all_can_be_given(task):
    model, batch = build("concat"), samples(9, missing=True)
    target = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
    base = base_output(task, target, 3)
    torch.testing.assert_close(base, torch.tensor([4 / 12, 3 / 12, 5 / 12], dtype=torch.float64).log())
    table = evaluate_coalitions(model, task, [batch], empty=base)
    found = table.per_sample(task)
    chosen = table.outputs[:, -1].argmax(1)
    np.testing.assert_allclose(found.empty, base.exp()[chosen])
    assert found.full[0] == found.empty[0]  # the first sample has nothing
    labels = base_output(make_task("multilabel"), np.array([[1, 0], [1, 0], [1, 1]]), 2)
    torch.testing.assert_close(torch.sigmoid(labels), torch.tensor([4 / 5, 2 / 5], dtype=torch.float64))
    torch.testing.assert_close(
        base_output(make_task("regression"), np.array([[1.0, 5.0], [3.0, 6.0]]), 2),
        torch.tensor([2, 5.5], dtype=torch.float64),
    )
    with pytest.raises(ef.InputError, match=r"empty must have shape \(3,\)"):
        evaluate_coalitions(model, task, [batch], empty=torch.zeros(2))


def test_contributions_to_a_metric_are_those_of_evaluations_without(task):
    model, batch = build("gmf"), samples(30)
    table = evaluate_coalitions(model, task, [batch])
    names = list(SHAPES)
    for metric in ("accuracy", "loss"):
        found = table.overall(task, metric)
        values = np.full(8, float(found.empty))
        for members in subsets(names):
            less = Batch({m: batch.inputs[m] for m in members}, target=batch.target)
            values[sum(1 << names.index(m) for m in members)] = task.evaluate(model, [less]).metrics[metric]
        np.testing.assert_allclose([found.values[m] for m in names], by_permutations(values, 3), atol=1e-6)
        assert float(found.full) == pytest.approx(values[-1])
    assert table.overall(task, "auc") is not None
    assert evaluate_coalitions(model, task, [batch.select(torch.tensor([0, 1]))]).overall(task, "auc") is None


def test_many_modalities_are_sampled():
    shapes = {f"m{i}": (2,) for i in range(10)}
    task, model, batch = make_task("regression"), build("gmf", "regression", 1, shapes), samples(6, shapes)
    found = evaluate_coalitions(model, task, [batch], pairs=40, seed=1).per_sample(task)
    np.testing.assert_allclose(sum(found.values.values()), found.full - found.empty, atol=1e-12)
    with torch.no_grad():
        inside = (torch.arange(2**10)[:, None] >> torch.arange(10)) & 1 == 1
        one = {m: x[:1].expand(2**10, -1) for m, x in batch.inputs.items()}
        values = model(one, dict(zip(shapes, inside.T, strict=True))).prediction[:, 0].numpy()
    exact = shapley_values(values, all_coalitions(10))[0]
    for i, m in enumerate(shapes):
        assert abs(found.values[m][0] - exact[i]) < 5 * found.errors[m][0]
    assert max(float(e.max()) for e in found.errors.values()) < 0.2 * np.abs(exact).max()


def test_mistakes(task):
    model, batch = build(), samples(4)
    table = evaluate_coalitions(model, task, [batch])
    with pytest.raises(ef.UnknownNameError, match="did you mean 'probability'"):
        table.per_sample(task, "probabilty")
    with pytest.raises(ef.InputError, match="output must be from 0 to 2, got 3"):
        table.per_sample(task, output=3)
    with pytest.raises(ef.InputError, match="no samples"):
        evaluate_coalitions(model, task, [])
    with pytest.raises(ef.InputError, match="nothing to explain in retrieval"):
        evaluate_coalitions(model, make_task("retrieval"), [batch])
    with pytest.raises(ef.InputError, match="needs labels"):
        evaluate_coalitions(model, task, [Batch(batch.inputs)]).overall(task)
    several = make_task("regression")
    with pytest.raises(ef.InputError, match="3 targets; say which"):
        evaluate_coalitions(model, several, [batch]).per_sample(several)
    with pytest.raises(ef.InputError, match="pairs must be at least 2"):
        sampled_coalitions(9, 1)
    with pytest.raises(ef.InputError, match="at most 62"):
        sampled_coalitions(63)


def test_solves_that_fail_are_told_of_once(task):
    model = build("deq")
    model.fusion.solver = ef.Picard(tol=1e-12, max_steps=2)
    with pytest.warns(ef.ConvergenceWarning, match="modalities taken away") as told:
        table = evaluate_coalitions(model, task, [samples(4), samples(5)])
    assert len(told) == 1
    assert table.converged < 1
