"""Skewed features: what methods make of logarithmic numbers and counts, with ``asinh`` and without.

    python benchmarks/skewed.py --out runs/skewed

Made-up sets of 800 rows with two modalities of twenty features, of which four each decide together whether a sum is
large: normal numbers g, ``exp(1.5 g)``, ``exp(3 g)``, counts around ``exp(2 g + 1)``, and numbers with tails on both
sides. The classes of all are those of the normal numbers. Everything else is as ``equifuse train`` has it. What is in
the folder already is not repeated.
"""

from __future__ import annotations

import numpy as np

from equifuse.datasets import MultimodalDataset
from made_up import ROWS, measure, parted

NETWORKS = ("deq", "gmf", "gmf+deq", "concat", "late", "linear")
FUSIONS = (*NETWORKS, "trees", "lightgbm")


def made() -> dict[str, MultimodalDataset]:
    """The sets."""
    rng = np.random.default_rng(0)
    g = {"a": rng.normal(size=(ROWS, 20)), "b": rng.normal(size=(ROWS, 20))}
    total = sum(x[:, :4] @ rng.normal(size=4) for x in g.values())
    shapes = {
        "normal": lambda x: x,
        "logarithmic": lambda x: np.exp(1.5 * x),
        "very-logarithmic": lambda x: np.exp(3 * x),
        "counts": lambda x: rng.poisson(np.exp(2 * x + 1)).astype(float),
        "two-tails": lambda x: np.sign(x) * np.expm1(2 * np.abs(x)),
    }
    y = total > np.median(total)
    return {name: parted(name, {m: shape(x) for m, x in g.items()}, y) for name, shape in shapes.items()}


if __name__ == "__main__":
    variants = {"as shipped": (FUSIONS, {}), "standardised alone": (NETWORKS, {"prepare": "standardise"})}
    measure(__doc__, made(), FUSIONS, variants, "skewed")
