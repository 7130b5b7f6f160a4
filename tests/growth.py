"""Whether something leaves memory behind."""

import gc
import warnings
from collections.abc import Callable

import pytest
import torch


def assert_no_growth(train: Callable[[int], None]) -> None:
    """``train(steps)`` keeps no tensor, and less than 8 MB, over a thousand steps after the first hundred."""
    resource = pytest.importorskip("resource", reason="the peak of memory is asked of POSIX")

    def alive() -> int:
        gc.collect()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # looking at every object touches deprecated ones
            return sum(isinstance(o, torch.Tensor) for o in gc.get_objects())

    train(100)
    before, peak = alive(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    train(1000)
    assert alive() == before
    # What a leaked step would keep is over 10 kB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 8_000  # kB
