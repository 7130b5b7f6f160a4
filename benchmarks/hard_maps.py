"""How often do solvers reach a relative residual of 1e-4 on maps that are hard, within 50 and within 200 evaluations?

    python benchmarks/hard_maps.py --out runs/hard_maps

The maps: blocks of the published fusion with PyTorch's default initialisation (no attracting fixed point), linear maps
whose spectral radius is close to or above 1, and maps that plain iteration takes into a cycle. The peers are plain
iteration and, where it is installed (``pip install -e ".[peers]"``), torchdeq's Anderson and Broyden solvers with
their own defaults, given the same maps, starts, tolerance and evaluations. Every solver gets the whole state as one
fixed point; ``equifuse blocks`` solves the same system as the library does, modalities first.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import equifuse as ef
from equifuse.files import write_json
from machine import describe
from tables import publish

TOL = 1e-4
BUDGETS = (50, 200)


@dataclass
class Case:
    """A map ``(B, …) -> (B, …)``, its start, and where there is one the fusion that it comes from."""

    f: Callable[[Tensor], Tensor]
    start: Tensor
    fusion: ef.DEQFusion | None = None
    inputs: dict[str, Tensor] | None = None


def default_blocks(dim: int, count: int, batch: int, seed: int) -> Case:
    """The published map with every ``Linear`` initialised as PyTorch does, gains 1."""
    torch.manual_seed(seed)
    fusion = ef.DEQFusion({f"m{i}": dim for i in range(count)}, dim, projection=False)
    assert fusion.blocks is not None
    assert fusion.norm is not None
    bound = 1 / math.sqrt(dim)
    with torch.no_grad():
        for parameter in fusion.blocks.parameters():
            parameter.uniform_(-bound, bound)
        for norm in (fusion.blocks.norm1, fusion.blocks.norm2, fusion.blocks.norm3, fusion.norm):
            norm.weight.fill_(1.0)
            norm.bias.zero_()
    for linear in (fusion.gate, fusion.mix):
        assert linear is not None
        linear.reset_parameters()
    inputs = {m: torch.randn(batch, dim) for m in fusion.dims}
    with torch.no_grad():
        f, start = fusion.equilibrium_map(inputs)
    return Case(f, start, fusion, inputs)


def linear(radius: float, batch: int, seed: int, width: int = 64) -> Case:
    """``z A + b`` with a random non-symmetric ``A`` of the given spectral radius, one per sample."""
    torch.manual_seed(seed)
    a = torch.randn(batch, width, width, dtype=torch.float64)
    a = (a * (radius / torch.linalg.eigvals(a).abs().amax(1))[:, None, None]).float()
    b = torch.randn(batch, width)
    return Case(lambda z: torch.einsum("bij,bj->bi", a, z) + b, torch.zeros(batch, width))


def two_cycle(batch: int, seed: int, width: int = 64) -> Case:
    """``-2 tanh(z) + b``: an attracting cycle of period two around a repelling fixed point."""
    torch.manual_seed(seed)
    b = 0.5 * torch.randn(batch, width)
    return Case(lambda z: b - 2 * torch.tanh(z), torch.zeros(batch, width))


def rotation(batch: int, seed: int, width: int = 64) -> Case:
    """Rotation of coordinate pairs with gain 1.2, saturated: plain iteration runs around a limit circle."""
    torch.manual_seed(seed)
    angle = torch.rand(batch, width // 2) * 2 * torch.pi
    b = 0.3 * torch.randn(batch, width)

    def f(z: Tensor) -> Tensor:
        x, y = z.chunk(2, dim=1)
        turned = torch.cat([x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()], dim=1)
        return torch.tanh(1.2 * turned) + b

    return Case(f, torch.zeros(batch, width))


def logistic(batch: int, seed: int, width: int = 8) -> Case:
    """The logistic map at 3.2 to 3.9: cycles, then chaos."""
    torch.manual_seed(seed)
    rate = 3.2 + 0.7 * torch.rand(batch, width)
    return Case(lambda z: rate * z * (1 - z), torch.full((batch, width), 0.4))


def cases(batch: int, seed: int, quick: bool) -> dict[str, Case]:
    """All of them by name."""
    widths, counts = ((64, 128), (2, 4)) if quick else ((64, 128, 256, 512), (2, 4, 8))
    found = {f"default blocks d={d} M={m}": default_blocks(d, m, batch, seed) for d in widths for m in counts}
    found |= {f"linear, radius {r}": linear(r, batch, seed) for r in (0.95, 0.99, 0.999, 1.1, 1.3)}
    found |= {
        "two-cycle": two_cycle(batch, seed),
        "limit circle": rotation(batch, seed),
        "logistic": logistic(batch, seed),
    }
    return found


def ours(solver: Callable[[int], ef.solve.Solver]) -> Callable[[Case, int], Tensor]:
    """Share solver of the joint state."""

    def run(case: Case, budget: int) -> Tensor:
        with torch.no_grad():
            z, _ = solver(budget).solve(case.f, case.start)
        return z

    return run


def blocks(case: Case, budget: int) -> Tensor | None:
    """The library's own solve of the whole system, modalities first.

    One evaluation of the modality blocks and one of the fusion map cost as much as one of the joint map, so each part
    has the whole budget; the tolerance is halved, because the joint residual has the parts' errors added up.
    """
    if case.fusion is None or case.inputs is None:
        return None
    case.fusion.solver = ef.Anderson(tol=TOL / 2, max_steps=budget)
    with torch.no_grad():
        out = case.fusion(case.inputs)
    return torch.stack([*out.modalities.values(), out.fused], dim=1)


def torchdeq(name: str) -> Callable[[Case, int], Tensor]:
    """Torchdeq's solver with its defaults, stopping on the relative residual."""
    from torchdeq.solver import get_solver  # noqa: PLC0415

    def run(case: Case, budget: int) -> Tensor:
        with torch.no_grad():
            z, _, _ = get_solver(name)(case.f, case.start, max_iter=budget, tol=TOL, stop_mode="rel")
        return z.view_as(case.start)

    return run


def share(case: Case, z: Tensor | None) -> float | None:
    """Share of samples whose ``z`` is within the tolerance, judged by one more evaluation."""
    if z is None:
        return None
    with torch.no_grad():
        fz = case.f(z).flatten(1)
    # The solver's own estimate may differ by rounding from this evaluation's.
    relative = (fz - z.flatten(1)).norm(dim=1) / fz.norm(dim=1)
    return float((relative <= 1.01 * TOL).float().mean())


def cell(by_budget: dict[str, float | None]) -> str:
    """``50 / 100``, or a dash where a solver does not apply."""
    shares = [f"{100 * share:.0f}" for share in by_budget.values() if share is not None]
    return " / ".join(shares) or "-"


def main() -> None:
    """Run, print and store the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/hard_maps"))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="small maps only")
    options = parser.parse_args()
    solvers: dict[str, Callable[[Case, int], Tensor | None]] = {
        "equifuse Anderson": ours(lambda n: ef.Anderson(tol=TOL, max_steps=n)),
        "equifuse Broyden": ours(lambda n: ef.Broyden(tol=TOL, max_steps=n)),
        "equifuse blocks": blocks,
        "Picard": ours(lambda n: ef.Picard(tol=TOL, max_steps=n, patience=0)),
    }
    try:
        solvers |= {"torchdeq Anderson": torchdeq("anderson"), "torchdeq Broyden": torchdeq("broyden")}
    except ImportError:
        print("torchdeq is not installed: pip install -e '.[peers]'")
    results: dict[str, dict[str, dict[str, float | None]]] = {}
    for name, case in cases(options.batch, options.seed, options.quick).items():
        results[name] = {s: {str(n): share(case, run(case, n)) for n in BUDGETS} for s, run in solvers.items()}
        print(name, results[name], flush=True)
    rows = [
        [
            name,
            *(
                "-" if None in r.values() else " / ".join(f"{100 * (v or 0):.0f}" for v in r.values())
                for r in row.values()
            ),
        ]
        for name, row in results.items()
    ]
    publish(options.out, ["map, % converged within 50 / 200 evaluations", *solvers], rows)
    write_json(options.out / "metrics.json", {"machine": describe(), "tol": TOL, "results": results})


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore", ef.ConvergenceWarning)
    main()
