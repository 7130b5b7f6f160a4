"""Exact: closed forms, logic gates, and another library."""

from itertools import combinations

import numpy as np
import pytest

from equifuse.errors import InputError
from equifuse.information import (
    decompose,
    decompose_gaussian,
    gained_bits,
    gaussian_bias,
    gaussian_information,
    mutual_information,
    o_information,
    shapley_bits,
    union_information,
)

GATES = {
    "xor": (lambda a, b: a ^ b, (0, 0, 0, 1)),
    "and": (lambda a, b: a & b, (0.311278, 0, 0, 0.5)),
    "one only": (lambda a, b: a, (0, 1, 0, 0)),
    "two bits": (lambda a, b: 2 * a + b, (0, 1, 1, 0)),
}


def table(gate):
    p = np.zeros((2, 2, 4))
    for a in (0, 1):
        for b in (0, 1):
            p[a, b, gate(a, b)] = 0.25
    return p


def parts(found):
    return (found.redundancy, found.unique_a, found.unique_b, found.synergy)


@pytest.mark.parametrize("name", GATES)
def test_logic_gates_are_taken_apart_exactly(name):
    pytest.importorskip("cvxpy")
    gate, expected = GATES[name]
    assert parts(decompose(table(gate))) == pytest.approx(expected, abs=1e-5)


def test_copies_are_redundant():
    pytest.importorskip("cvxpy")
    p = np.zeros((2, 2, 2))
    p[0, 0, 0] = p[1, 1, 1] = 0.5
    assert parts(decompose(p)) == pytest.approx((1, 0, 0, 0), abs=1e-5)


def random_distributions(count):
    generator = np.random.default_rng(0)
    return [generator.dirichlet(np.full(27, a)).reshape(3, 3, 3) for a in (0.3, 1.0) for _ in range(count // 2)]


def agrees_with_dit(p):
    dit = pytest.importorskip("dit")
    pytest.importorskip("ecos")
    outcomes = {"".join(map(str, key)): float(value) for key, value in np.ndenumerate(p)}
    # Its other solvers stop early at times: they find more than the least.
    pid = dit.pid.PID_BROJA(dit.Distribution(outcomes), ((0,), (1,)), (2,), method="cone")
    expected = [pid.get_pi(node) for node in (((0,), (1,)), ((0,),), ((1,),), ((0, 1),))]
    found = decompose(p)
    assert parts(found) == pytest.approx(expected, abs=1e-4)
    assert found.joint == pytest.approx(mutual_information(p.reshape(9, 3)), abs=1e-9)


@pytest.mark.filterwarnings("ignore")
def test_random_distributions_agree_with_another_library():
    pytest.importorskip("cvxpy")
    for p in random_distributions(2):
        agrees_with_dit(p)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_hundred_random_distributions_agree_with_another_library():
    pytest.importorskip("cvxpy")
    for p in random_distributions(100):
        agrees_with_dit(p)


def test_the_fast_solution_is_near_the_exact_one_and_never_says_too_little():
    pytest.importorskip("cvxpy")
    for p in random_distributions(6):
        first, second = p.sum(1), p.sum(0)
        found = decompose(p)
        exact = found.redundancy + found.unique_a + found.unique_b
        assert exact - 1e-4 <= union_information(first, second) <= exact + 2e-3


def test_parts_do_not_depend_on_the_order_of_states():
    pytest.importorskip("cvxpy")
    p = random_distributions(2)[0]
    assert parts(decompose(p[::-1][:, [2, 0, 1]][..., ::-1])) == pytest.approx(parts(decompose(p)), abs=1e-5)


def test_a_table_that_is_no_distribution_is_refused():
    for wrong in (np.ones((2, 2)), np.zeros((2, 2, 2)), -np.ones((2, 2, 2))):
        with pytest.raises(InputError, match="joint distribution"):
            decompose(wrong)


def test_gaussian_information_is_that_of_correlations():
    r = 0.6
    covariance = np.array([[1, r], [r, 1]])
    assert gaussian_information(covariance, [0], [1]) == pytest.approx(-0.5 * np.log2(1 - r**2))
    # Two independent sources of one sum: R² adds up.
    both = np.array([[1, 0, 0.5], [0, 1, 0.5], [0.5, 0.5, 1]])
    found = decompose_gaussian(both, [0], [1], 2)
    assert found.joint == pytest.approx(-0.5 * np.log2(0.5))
    assert found.redundancy == pytest.approx(-0.5 * np.log2(0.75))
    assert found.unique_a == found.unique_b == 0


def test_the_bias_of_a_sample_covariance_is_known():
    generator, width, n, draws = np.random.default_rng(0), 10, 60, 400
    found = [
        gaussian_information(np.cov(generator.normal(size=(n, width + 1)).T), list(range(width)), [width])
        for _ in range(draws)
    ]
    assert np.mean(found) == pytest.approx(gaussian_bias(n, width), abs=4 * np.std(found) / draws**0.5)


def test_predictions_are_worth_the_entropy_minus_their_log_loss():
    y = np.array([0, 0, 0, 1])
    p = np.array([[0.8, 0.2], [0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
    entropy = -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25))
    assert gained_bits(np.log(p), y).mean() == pytest.approx(entropy + np.log2(p[np.arange(4), y]).mean())


def game(names, value):
    return {s: value(set(s)) for k in range(1, len(names) + 1) for s in combinations(names, k)}


def test_shapley_shares_add_up_and_are_equal_for_equals():
    names = ("a", "b", "c")
    found = shapley_bits(game(names, lambda s: len(s & {"a", "b"}) == 2), names)
    assert found == pytest.approx({"a": 0.5, "b": 0.5, "c": 0.0})


def test_shapley_shares_of_many_are_exact_where_no_more_than_two_interact():
    generator, names = np.random.default_rng(0), tuple("abcdef")
    own, pair = generator.normal(size=6), generator.normal(size=(6, 6))

    def value(s):
        places = [names.index(m) for m in sorted(s)]
        return own[places].sum() + sum(pair[i, j] for i, j in combinations(places, 2))

    every = game(names, value)
    few = {s: bits for s, bits in every.items() if len(s) in (1, 5, 6)}
    assert shapley_bits(few, names) == pytest.approx(shapley_bits(every, names))


def test_o_information_is_redundancy_minus_synergy():
    names = ("a", "b", "c")
    assert o_information(game(names, lambda s: 1.0), names) == 1.0  # copies
    assert o_information(game(names, lambda s: float(len(s) == 3)), names) == -2.0  # parity
