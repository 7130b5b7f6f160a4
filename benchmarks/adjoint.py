"""Is a dense solve of the backward pass quicker than an iterative one for small states?

    python benchmarks/adjoint.py --out runs/adjoint

The equation is that of the modality blocks, ``u = Jᵀu + g``, row by row, at their fixed point. `iterative` is what the
library does. `dense` makes every row's Jacobian by one product per unit vector, all rows at once, and factors it
(`torch.linalg.solve`). One thread, float32, milliseconds of processor time, medians of interleaved repetitions; errors
are against a dense solve in float64.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import equifuse as ef
from equifuse.files import write_json
from equifuse.fusion.deq.modality_map import ModalityMap
from equifuse.fusion.deq.problem import observed
from equifuse.solve.adjoint import solve_adjoint
from equifuse.solve.krylov import GMRES
from equifuse.solve.maps import Saved
from machine import describe
from tables import publish

MODALITIES = 3
WIDTHS = (8, 16, 32, 64, 128)
BATCHES = (1, 16, 64)
# Standard deviation of all matrices; the larger one is hard for an iteration.
WEIGHTS = {"published": 0.01, "hard": 0.1}
TOL = 1e-4


def problem(batch: int, dim: int, deviation: float) -> tuple[ModalityMap, Tensor]:
    """The modality blocks of a fusion and their fixed point."""
    torch.manual_seed(0)
    solver = ef.Anderson(max_steps=1000)
    fusion = ef.DEQFusion({f"m{i}": dim for i in range(MODALITIES)}, dim, projection=False, solver=solver).eval()
    assert fusion.blocks is not None
    with torch.no_grad():
        for parameter in fusion.blocks.parameters():
            if parameter.ndim > 2:
                parameter.normal_(0, deviation)
    with torch.no_grad(), observed(fusion) as seen:
        fusion({m: torch.randn(batch, dim) for m in fusion.dims})
    found = seen[0].modality_map
    assert found is not None
    return found, seen[0].states.flatten(0, 1)


def dense(f: ModalityMap, saved: Saved, g: Tensor) -> Tensor:
    """``(I - Jᵀ)⁻¹ g`` of every row."""
    count, dim = g.shape
    columns = [f.transposed(saved, unit.expand(count, dim).contiguous()) for unit in torch.eye(dim, dtype=g.dtype)]
    return torch.linalg.solve(torch.eye(dim, dtype=g.dtype) - torch.stack(columns, 2), g)


def iterative(f: ModalityMap, saved: Saved, g: Tensor) -> Tensor:
    """The same to the library's tolerance."""
    return solve_adjoint(
        lambda u: f.transposed(saved, u),
        g,
        GMRES(),
        TOL,
        lambda rhs: f.adjoint(saved, rhs),
    )[0]


def interleaved(ways: dict[str, Callable[[], Tensor]], repetitions: int) -> dict[str, float]:
    """Median milliseconds of each."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for run in ways.values():
        run()
    for _ in range(repetitions):
        for name, run in ways.items():
            start = time.process_time()
            run()
            times[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def exact(f: ModalityMap, states: Tensor, g: Tensor) -> Tensor:
    """The solution in float64."""
    whole = ModalityMap(f.x.double(), f.mask, type(f.weights)(*(w.double() for w in f.weights)), f.eps)
    return dense(whole, whole.linearize(states.double()).saved, g.double())


def main() -> None:
    """Measure, print and store the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/adjoint"))
    parser.add_argument("--repetitions", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, stored = [], []
    for weights, deviation in WEIGHTS.items():
        for batch in BATCHES:
            for dim in WIDTHS:
                with torch.no_grad():
                    f, states = problem(batch, dim, deviation)
                    saved = f.linearize(states).saved
                    g = torch.randn_like(states)
                    right = exact(f, states, g)
                    ways = {"iterative": lambda: iterative(f, saved, g), "dense": lambda: dense(f, saved, g)}  # noqa: B023
                    times = interleaved(ways, options.repetitions)
                    errors = {name: float((way() - right).norm() / right.norm()) for name, way in ways.items()}
                stored.append({"weights": weights, "batch": batch, "dim": dim, "ms": times, "errors": errors})
                ratio = times["dense"] / times["iterative"]
                shown = [f"{times['iterative']:.2f}", f"{times['dense']:.2f}", f"{ratio:.1f}"]
                rows.append([f"{batch}/{dim}/{MODALITIES}", weights, *shown, *(f"{e:.0e}" for e in errors.values())])
    header = ["B/d/M", "weights", "iterative ms", "dense ms", "dense / iterative", "error, iterative", "error, dense"]
    publish(options.out, header, rows)
    write_json(options.out / "adjoint.json", {"machine": describe(), "cases": stored})


if __name__ == "__main__":
    main()
