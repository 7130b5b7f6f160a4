"""Parameters and FLOPs per sample of every fusion, with its defaults, on three modalities of width 128.

    python benchmarks/costs.py

FLOPs are those of PyTorch's counter for one sample's forward pass in evaluation mode: two per multiply-add of matrix
products, nothing else; of an equilibrium, those of the evaluations that it took.
"""

from __future__ import annotations

from pathlib import Path

import torch

import equifuse as ef
from equifuse.evaluation.costs import flops_per_sample
from tables import publish

WIDTH = 128


def main() -> None:
    """Print the table."""
    torch.manual_seed(0)
    dims = dict.fromkeys("abc", WIDTH)
    inputs = {m: torch.randn(1, WIDTH) for m in dims}
    rows = []
    for name in ef.available_fusions():
        fusion = ef.make_fusion(name, dims)
        parameters = sum(parameter.numel() for parameter in fusion.parameters())
        flops = flops_per_sample(fusion, inputs)
        rows.append([name, type(fusion).__name__, str(fusion.out_dim), f"{parameters:,}", f"{flops:,}"])
    publish(Path("runs/costs"), ["fusion", "class", "output width", "parameters", "FLOPs per sample"], rows)


if __name__ == "__main__":
    main()
