import numpy as np
import pytest

from equifuse.datasets import MultimodalDataset, Split, write_npz


def write_set(path, task="classification", seed=0):
    """A small data set of two modalities that both tell the target."""
    generator = np.random.default_rng(seed)
    splits = {}
    for part, n in (("train", 80), ("val", 40), ("test", 60)):
        y = np.arange(n) % 2
        inputs = {
            "a": (generator.normal(size=(n, 6)) + 0.8 * y[:, None]).astype(np.float32),
            "b": (generator.normal(size=(n, 4)) - 0.8 * y[:, None]).astype(np.float32),
        }
        target = y.astype(np.int64) if task == "classification" else inputs["a"][:, :1] + inputs["b"][:, :1]
        splits[part] = Split(inputs, {}, target, None)
    classes = ("no", "yes") if task == "classification" else None
    write_npz(path, MultimodalDataset(path.stem, splits, task, classes))
    return path


@pytest.fixture(scope="session")
def two_sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    return [str(write_set(folder / "first.npz")), str(write_set(folder / "second.npz", "regression", seed=1))]


SETTINGS = {"epochs": 2, "hidden": [16], "batch_size": 32, "lr": 5e-3}
