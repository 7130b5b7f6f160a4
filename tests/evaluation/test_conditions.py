"""What is measured on test beside the intact samples."""

import numpy as np
import pytest

from equifuse.benchmark.job import conditions
from equifuse.datasets import MultimodalDataset, Split
from equifuse.errors import InputError, UnknownNameError
from equifuse.evaluation.conditions import (
    Condition,
    Intact,
    Missing,
    Noise,
    Only,
    Permuted,
    Without,
    kind_of,
    only_each,
    subsets,
    without_each,
)
from equifuse.tasks import make_task


@pytest.mark.parametrize("task", ["classification", "retrieval"])
def test_conditions_of_a_task(task):
    generator = np.random.default_rng(0)
    names = ("a", "b", "c")
    target = None if task == "retrieval" else np.arange(12) % 2
    split = Split({m: generator.normal(size=(12, 2)).astype(np.float32) for m in names}, target=target)
    data = MultimodalDataset("x", dict.fromkeys(("train", "val", "test"), split), task)
    made = make_task(task, **({"modalities": names} if task == "retrieval" else {}))
    found = [condition.name for condition in conditions(data.modalities, made, (0.5, "without", "only"), 0)]
    without = ["without a", "without b", "without c"]
    if task == "retrieval":  # fewer candidates are easier to tell apart, and a single modality has nothing to find
        assert found == ["intact", *without]
    else:
        assert found == ["intact", "missing 0.5", *without, "only a", "only b", "only c"]


EVERY = [Intact(), Without(("a",)), Without(("a", "b")), Only(("c",)), Missing(0.25), Noise("a", 1.5), Permuted("b")]


def whole(rows=50):
    generator = np.random.default_rng(0)
    return Split({m: generator.normal(size=(rows, 2)).astype(np.float32) for m in "abc"}, target=np.arange(rows) % 2)


@pytest.mark.parametrize("condition", EVERY, ids=lambda condition: condition.name)
def test_a_condition_is_its_name_and_its_seed(condition):
    assert Condition.parse(condition.name) == condition
    assert kind_of(condition.name) == condition.kind or len(condition.modalities) > 1
    split = whole()
    first, again, other = condition(split, 1), Condition.parse(condition.name)(split, 1), condition(split, 2)
    for m in first.inputs:
        np.testing.assert_array_equal(first.inputs[m], again.inputs[m])
        np.testing.assert_array_equal(split.inputs[m], whole().inputs[m])  # the given one is as it was
    assert {m: mask.tolist() for m, mask in first.present.items()} == {m: k.tolist() for m, k in again.present.items()}
    changed = any(
        not np.array_equal(first.inputs[m], other.inputs[m])
        or not np.array_equal(first.present.get(m), other.present.get(m))
        for m in first.inputs
    )
    assert changed == condition.random


def test_families_of_conditions():
    assert [kept.name for kept in subsets("ab")] == ["only a", "only b", "only a + b"]
    assert len(subsets("abcdefgh")) == 8 + 28 + 8 + 1
    assert [len(kept.modalities) for kept in subsets("abc", least=2)] == [2, 2, 2, 3]
    assert without_each("ab", least=2) == only_each("a") == only_each("abc", least=2) == []
    assert list(Only(("b",))(whole()).inputs) == ["b"]


@pytest.mark.parametrize(
    "name", ["", "with a", "missing", "missing x", "missing 1", "noise -1 on a", "noise 1", "only "]
)
def test_names_that_are_none(name):
    with pytest.raises(InputError):
        Condition.parse(name)


def test_unknown_modalities_and_nothing_left():
    with pytest.raises(UnknownNameError):
        Only(("d",))(whole())
    with pytest.raises(UnknownNameError):
        Without(("d",))(whole())
    with pytest.raises(InputError):
        Without(("a", "b", "c"))(whole())
