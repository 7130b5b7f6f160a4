"""Compile the CPU kernels and store them on disk, so that no first solve waits: ``python -m equifuse.kernels``."""

from __future__ import annotations

import torch

from equifuse import kernels
from equifuse.kernels.reference import GROUPS, TailSaved, TailWeights, normalise
from equifuse.kernels.rows import RowLimits, Rows


@torch.no_grad()
def compile_kernels(dtype: torch.dtype) -> None:
    """Run every kernel once on a few numbers; does nothing where the reference serves."""
    x = torch.ones(1, 2, GROUPS, dtype=dtype)
    fused = kernels.fused(x)
    if fused is None:
        return
    weight, out, other = x[:, :1].clone(), torch.empty_like(x), torch.empty_like(x)
    normal, scale = normalise(x, 1e-5)
    fused.norm_relu(x, weight, weight, 1e-5, out, None)()
    fused.relu_norm(x, weight, weight, 1e-5, out, None)()
    fused.block_tail(x, x, TailWeights(weight, weight, weight, weight), None, 1e-5, 0, out, other, None)()
    fused.norm_relu_vjp(x, x, normal, scale, weight, out, None)()
    fused.relu_norm_vjp(x, x, normal, scale, weight, out, None)()
    fused.block_tail_vjp(x, TailSaved(normal, scale, x, normal, scale), weight, weight, None, out, other, None)()
    z = x[0].clone()
    limits = RowLimits(tol=1e-4, max_steps=2, patience=0, damping=1.0)
    fused.anderson(z, out[0], out[0], torch.arange(2), Rows.begin(z, 1), limits, z.new_empty(2, 2))(0)


if __name__ == "__main__":
    for dtype in (torch.float32, torch.float64):
        compile_kernels(dtype)
