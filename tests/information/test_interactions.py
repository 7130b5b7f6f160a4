"""Interactions of data sets: gates among noise, invariances, refusals."""

import json

import numpy as np
import pytest

import equifuse as ef
from equifuse.errors import EquifuseError, InputError
from equifuse.information import Interactions
from equifuse.information.samples import samples_of
from tests.information.conftest import dataset

EXPECTED = {
    "xor": (0, 0, 0, 1),
    "and": (0.3113, 0, 0, 0.5),
    "copies": (1, 0, 0, 0),
    "one only": (0, 1, 0, 0),
    "two bits": (0, 1, 1, 0),
}


def parts(found):
    (pair,) = found.pairs
    return pair.redundancy, pair.unique_a, pair.unique_b, pair.synergy


def is_consistent(found):
    for pair in found.pairs:
        assert pair.redundancy + pair.unique_a == pytest.approx(found.modalities[pair.a], abs=1e-9)
        assert pair.redundancy + pair.unique_b == pytest.approx(found.modalities[pair.b], abs=1e-9)
        assert pair.joint <= found.joint + 1e-9
        assert min(pair.redundancy, pair.unique_a, pair.unique_b, pair.synergy) >= 0
    if len(found.pairs) == 1:
        assert found.pairs[0].joint == pytest.approx(found.joint, abs=1e-9)


def test_exclusive_or_among_noise_is_found(gate):
    found = ef.interactions(gate("xor", n=300))
    assert parts(found) == pytest.approx(EXPECTED["xor"], abs=0.08)
    is_consistent(found)
    assert "fuse early" in found.verdict


@pytest.mark.slow
@pytest.mark.parametrize("name", ["and", "copies", "two bits"])
def test_gates_hidden_among_much_noise_are_found(gate, name):
    found = ef.interactions(gate(name, n=600, noise=20))
    assert parts(found) == pytest.approx(EXPECTED[name], abs=0.08)
    is_consistent(found)


@pytest.mark.parametrize("name", EXPECTED)
def test_counting_finds_gates_exactly(gate, name):
    pytest.importorskip("cvxpy")
    found = ef.interactions(gate(name, noise=0), "discrete")
    assert parts(found) == pytest.approx(EXPECTED[name], abs=0.03)
    is_consistent(found)


def changed_alike():
    """A set; the same with rows, columns and modalities in another order, other units and signs, and copies; the order.

    Units are powers of two, which numbers hold exactly.
    """
    generator = np.random.default_rng(0)
    a, b = generator.integers(0, 2, (2, 60))
    first, second = (np.column_stack([z, generator.normal(size=(60, 2))]).astype(np.float32) for z in (a, b))
    y, order = (a & b).astype(np.int64), generator.permutation(60)

    def made(inputs, target):
        split = ef.datasets.Split(inputs, target=target)
        parts = {"train": split.select(np.arange(40)), "val": split.select(np.arange(40, 60)), "test": split}
        return ef.datasets.MultimodalDataset("made", parts, "classification")

    changed = {"b": -4096 * second[order][:, ::-1], "a": np.hstack([first[order][:, [2, 0, 1]], 2 * first[order]])}
    return made({"a": first, "b": second}, y), made(changed, y[order]), order


def test_order_unit_sign_and_copies_change_no_digit_of_what_is_measured():
    """What estimators see is the same, bit for bit."""
    data, changed, order = changed_alike()
    one, other = (samples_of(each, most=1000) for each in (data, changed))
    for m in ("a", "b"):
        assert np.array_equal(one.inputs[m], other.inputs[m])
    assert np.array_equal(one.targets[0].classes, other.targets[0].classes)
    assert np.array_equal(order[other.rows], one.rows)


@pytest.mark.slow
def test_order_unit_sign_and_copies_change_no_digit():
    data, changed, order = changed_alike()
    one, other = ef.interactions(data), ef.interactions(changed)
    assert other.to_dict() == one.to_dict()
    for name in ("a", "b", "all"):
        assert other.samples[name].tolist() == one.samples[name][order].tolist()


@pytest.mark.slow
def test_units_that_numbers_hold_only_nearly_change_next_to_nothing(gate):
    """Data times 1,000 plus 5 are other data in their last digits."""
    split = gate("and", n=200, noise=2).splits["train"]
    first = {m: x[:] for m, x in split.inputs.items()}
    changed = {m: 1000 * x + 5 for m, x in first.items()}
    one, other = (ef.interactions(dataset(inputs, split.target), most_samples=10**6) for inputs in (first, changed))
    assert other.modalities == pytest.approx(one.modalities, abs=0.01)
    assert parts(other) == pytest.approx(parts(one), abs=0.01)


def test_what_is_said_has_the_names_and_is_json(gate):
    pytest.importorskip("cvxpy")
    found = ef.interactions(gate("two bits", n=120, noise=0), "discrete")
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert {"target_entropy", "modalities", "pairs", "joint", "verdict", "estimator", "n"} <= set(values)
    assert {"a", "b", "redundancy", "unique_a", "unique_b", "synergy", "intervals"} <= set(values["pairs"][0])
    assert values["n"] == 120
    assert values["target_entropy"] == pytest.approx(2.0, abs=0.02)
    assert sum(found.shapley.values()) == pytest.approx(found.joint)
    assert len(found.samples["needs_both"]) == 120
    low, high = found.intervals["joint"]
    assert low <= found.joint <= high


def test_quantities_by_gaussian_closed_forms():
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, 4000, 1))
    y = a + b + np.sqrt(2) * generator.normal(size=a.shape)
    found = ef.interactions(
        dataset({"a": a, "b": b}, y.astype(np.float32), "regression"), "gaussian", most_samples=4000
    )
    one, both = -0.5 * np.log2(0.75), -0.5 * np.log2(0.5)
    assert list(found.modalities.values()) == pytest.approx([one, one], abs=0.03)
    assert found.joint == pytest.approx(both, abs=0.03)


def test_classes_are_refused_by_gaussian(gate):
    with pytest.raises(InputError, match="'gaussian' is for quantities"):
        ef.interactions(gate("xor", n=80), "gaussian")


def test_labels_are_measured_one_by_one():
    pytest.importorskip("cvxpy")
    generator = np.random.default_rng(0)
    x = generator.integers(0, 2, (160, 2))
    data = dataset({"a": x[:, :1], "b": x[:, 1:]}, np.stack([x[:, 0], x[:, 1]], 1).astype(np.float32), "multilabel")
    found = ef.interactions(data, "discrete")
    first = found.by_target["0"]["modalities"]
    assert first["a"] > 0.9
    assert first["b"] < 0.1
    assert found.target_entropy == pytest.approx(1.0, abs=0.05)


def test_samples_that_lack_a_modality_count_where_they_have_it(gate):
    pytest.importorskip("cvxpy")
    plain = gate("one only", n=200, noise=0).splits["train"]
    mask = np.arange(len(plain)) % 3 > 0
    inputs = {m: np.array(x[:]) for m, x in plain.inputs.items()}
    inputs["b"][~mask] = np.nan
    found = ef.interactions(dataset(inputs, plain.target, present={"b": mask}), "discrete")
    assert found.modalities["a"] > 0.9
    assert found.pairs[0].n == mask.sum()
    assert any("lack modalities" in note for note in found.notes)


def test_many_samples_are_drawn_from_and_it_is_said(gate):
    pytest.importorskip("cvxpy")
    found = ef.interactions(gate("copies", n=400, noise=0), "discrete", most_samples=100)
    assert found.n == 100
    assert any("100 samples drawn from 400" in note for note in found.notes)


SMALL = np.zeros((30, 1))


@pytest.mark.parametrize(
    ("inputs", "target", "task", "says"),
    [
        ({"a": SMALL}, np.arange(30) % 2, "classification", "has one: a"),
        ({"a": SMALL[:18], "b": SMALL[:18]}, np.arange(18) % 2, "classification", "at least 20 labelled samples"),
        ({"a": SMALL, "b": SMALL}, np.zeros(30, int), "classification", "only one class"),
        ({"a": SMALL, "b": SMALL}, np.ones((30, 1), np.float32), "regression", "one value only"),
        ({"a": SMALL, "b": SMALL}, np.ones((30, 2), np.float32), "survival", "not measured in bits"),
        ({"a": SMALL, "b": SMALL}, None, "retrieval", "has none"),
    ],
)
def test_bad_input_gets_one_clear_line(inputs, target, task, says):
    with pytest.raises(EquifuseError, match=says) as caught:
        ef.interactions(dataset(inputs, target, task))
    assert "\n" not in str(caught.value)


def test_unknown_estimators_and_options_are_named(gate):
    with pytest.raises(EquifuseError, match="did you mean 'predictive'"):
        ef.interactions(gate("xor", n=40), "predictiv")
    with pytest.raises(EquifuseError, match="states"):
        ef.interactions(gate("xor", n=40), "discrete", states=1)


@pytest.mark.slow
def test_shuffled_labels_say_next_to_nothing():
    said = []
    for seed in range(3):
        generator = np.random.default_rng(seed)
        inputs = {"a": generator.normal(size=(1000, 10)), "b": generator.normal(size=(1000, 10))}
        found = ef.interactions(dataset(inputs, generator.integers(0, 2, 1000)))
        said.append(found.joint)
    assert sorted(said)[-2] <= 0.02


def test_verdicts_say_what_to_do():
    def says(modalities, joint, evidence, entropy=2.0):
        from equifuse.information import verdict

        return verdict(Interactions("predictive", 500, entropy, modalities, [], joint, evidence=evidence))

    assert "nothing for fusion to add" in says({"a": 1.0, "b": 0.2}, 1.0, 1.0)
    assert "late fusion will do" in says({"a": 0.5, "b": 0.5}, 1.0, 1.0)
    assert "see all at once" in says({"a": 0.5, "b": 0.5}, 1.5, 0.8)
    assert "Nothing is found" in says({"a": 0.0, "b": 0.0}, 0.0, 0.0)
