import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from equifuse.datasets import MultimodalDataset, Split, write_npz

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers already fill the cores

# The same examples in every run, so that a change and not chance decides whether a test fails. New examples:
# `pytest --hypothesis-profile default`, and `make fuzz`.
settings.register_profile("repeatable", derandomize=True, print_blob=True)
settings.load_profile("repeatable")

_SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The evaluation data sets, or a skip."""
    root = Path(os.environ.get("EQUIFUSE_DATA") or _SHARED / "data")
    if not root.is_dir():
        pytest.skip("needs the evaluation data sets: set EQUIFUSE_DATA")
    return root


@pytest.fixture(scope="session")
def golden_root() -> Path:
    """The exact fixed points and gradients, or a skip."""
    root = Path(os.environ.get("EQUIFUSE_GOLDEN") or _SHARED / "golden")
    if not root.is_dir():
        pytest.skip("needs the golden fixed points: set EQUIFUSE_GOLDEN")
    return root


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def small_set(tmp_path_factory):
    """Path of a data set of two classes told apart by both of two modalities, some of them missing."""
    generator = np.random.default_rng(0)
    splits = {}
    for part, n in (("train", 90), ("val", 40), ("test", 50)):
        y = np.arange(n) % 2
        inputs = {
            "a": (generator.normal(size=(n, 6)) + 1.2 * y[:, None]).astype(np.float32),
            "b": (generator.normal(size=(n, 2, 2)) - 1.2 * y[:, None, None]).astype(np.float32),
        }
        absent = np.arange(n) % 7 == 3
        inputs["b"][absent] = np.nan
        splits[part] = Split(inputs, {"b": ~absent}, y.astype(np.int64), np.array([f"{part}{i}" for i in range(n)]))
    path = tmp_path_factory.mktemp("data") / "small.npz"
    write_npz(path, MultimodalDataset("small", splits, "classification", ("no", "yes")))
    return path


@pytest.fixture
def quick(small_set):
    """Options of a run of a second or two."""
    return {"data": str(small_set), "dim": 32, "hidden": [16], "epochs": 4, "batch_size": 32, "lr": 5e-3}
