"""A metric: whether the true class is among the two most probable ones."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from equifuse.tasks import metric


@metric("best_of_two", tasks="classification", format="percent")
def best_of_two(prediction: NDArray[Any], target: NDArray[Any]) -> float:
    """Share of samples whose true class is among the two most probable ones."""
    best = np.argsort(prediction, axis=1)[:, -2:]
    return float((best == target[:, None]).any(axis=1).mean())
