"""What is measured on test beside the intact samples."""

import numpy as np
import pytest

from equifuse.benchmark.job import conditions
from equifuse.datasets import MultimodalDataset, Split
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
