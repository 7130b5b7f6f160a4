"""Modalities that only decide together: which fusions learn it, and what the head's hidden layer is for.

    python benchmarks/together.py --out runs/together

Three made-up sets of 800 rows with two modalities, neither of which says anything alone: the product of a number of
one and a number of the other is positive, each among eight columns of noise (``product``), or nothing else is there
(``bare``); of two answers, yes or no, among seven others, one is yes (``either``). Everything else is as
``equifuse train`` has it. What is in the folder already is not repeated.
"""

from __future__ import annotations

import numpy as np

from equifuse.datasets import MultimodalDataset
from made_up import ROWS, measure, parted

FUSIONS = ("deq", "gmf", "gmf+deq", "concat", "mean", "gmu", "late", "linear", "trees", "lightgbm")
# Those that add up what the modalities say, so that their head has a hidden layer.
ADDITIVE = ("gmf", "concat", "mean")


def made() -> dict[str, MultimodalDataset]:
    """The sets."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, ROWS, 9))
    yes, other = (rng.random(size=(2, ROWS, 4)) < 0.5).astype(float)
    product = a[:, 0] * b[:, 0] > 0
    return {
        "product": parted("together", {"a": a, "b": b}, product),
        "bare": parted("together", {"a": a[:, :1], "b": b[:, :1]}, product),
        "either": parted("together", {"a": yes, "b": other}, yes[:, 0] != other[:, 0]),
    }


if __name__ == "__main__":
    heads = {"as shipped": (FUSIONS, {}), "affine head": (ADDITIVE, {"head_hidden": 0})}
    measure(__doc__, made(), FUSIONS, heads, "together")
