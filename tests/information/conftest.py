import numpy as np
import pytest

import equifuse as ef


def dataset(inputs, target, task="classification", **options):
    """Samples as a data set: four fifths for training, the rest for validation; test is one that nobody looks at."""
    split = ef.datasets.Split({m: np.asarray(x, np.float32) for m, x in inputs.items()}, target=target, **options)
    rows = np.random.default_rng(5).permutation(len(split))
    cut = 4 * len(rows) // 5
    parts = {"train": split.select(rows[:cut]), "val": split.select(rows[cut:]), "test": split.select(rows[:cut])}
    return ef.datasets.MultimodalDataset("made", parts, task)


@pytest.fixture(scope="session")
def gate():
    """A logic gate of one bit of each modality, hidden among columns of noise."""

    def make(name, n=600, noise=4, seed=0):
        generator = np.random.default_rng(seed)
        # Every combination as often as any other: the bits are those of the gate.
        a, b = np.tile([0, 0, 1, 1], n // 4), np.tile([0, 1, 0, 1], n // 4)
        first, second, y = {
            "xor": (a, b, a ^ b),
            "and": (a, b, a & b),
            "copies": (a, a, a),
            "one only": (a, b, a),
            "two bits": (a, b, 2 * a + b),
        }[name]
        columns = [np.column_stack([z, generator.normal(size=(n, noise))]) for z in (first, second)]
        return dataset({"a": columns[0], "b": columns[1]}, y.astype(np.int64))

    return make
