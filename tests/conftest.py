import os
from pathlib import Path

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers already fill the cores

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
