"""The figures of the documentation, drawn when it is built: real models of the embedded digits, fixed seeds."""

from __future__ import annotations

import runpy
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

import equifuse as ef
from equifuse.data.batch import as_batch
from equifuse.evaluation.costs import flops_per_sample
from equifuse.fusion.deq.problem import observed
from guides import GUIDES

TOLERANCE = 1e-6
STEPS = 40
SAMPLES = 128  # looked at
# Without a second method (patience=0) each solver shows what it does alone.


@cache
def digits() -> tuple[dict[str, Tensor], Tensor]:
    """Standardised views of training digits, and their classes."""
    train = as_batch(ef.datasets.load("digits").splits["train"])
    views = {name: (x - x.mean(0)) / x.std(0).clamp(min=1e-3) for name, x in train.inputs.items()}
    assert train.target is not None
    return views, train.target


@cache
@torch.enable_grad()
def trained(contraction: float | None, lr: float) -> ef.DEQFusion:
    """A deep equilibrium of the five views after three epochs, in evaluation mode."""
    views, target = digits()
    torch.manual_seed(0)
    fusion = ef.DEQFusion({name: x.shape[1] for name, x in views.items()}, dim=64, contraction=contraction)
    head = torch.nn.Linear(64, 10)
    optimizer = torch.optim.AdamW([*fusion.parameters(), *head.parameters()], lr=lr)
    # Some are driven so far that a sample fails, which is what the figure shows.
    warnings.simplefilter("ignore", ef.ConvergenceWarning)
    for _ in range(3):
        for rows in torch.randperm(len(target)).split(128):
            optimizer.zero_grad()
            out = fusion({name: x[rows] for name, x in views.items()})
            F.cross_entropy(head(out.fused), target[rows]).backward()
            optimizer.step()
    return fusion.eval()


def some() -> dict[str, Tensor]:
    """The first samples."""
    return {name: x[:SAMPLES] for name, x in digits()[0].items()}


def axes(width: float = 6.4, height: float = 3.6, columns: int = 1) -> tuple[Figure, Any]:
    """An empty figure."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.subplots(1, columns, sharey=True)


def band(ax: Any, trace: Tensor, label: str, color: str) -> None:
    """Median and 10th to 90th percentile over the samples of residuals ``(K, B)``, up to where all are done."""
    values = trace.clamp(min=TOLERANCE / 100).numpy()
    low, middle, high = np.quantile(values, (0.1, 0.5, 0.9), axis=1)
    steps = np.arange(1, len(values) + 1)
    ax.semilogy(steps, middle, color=color, label=label)
    ax.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)


@torch.no_grad()
def solvers() -> Figure:
    """Plain iteration, Broyden's and Anderson's method on the joint maps of two trained models."""
    figure, panels = axes(8, 3.2, 2)
    kinds = {"plain iteration": ef.Picard, "Broyden": ef.Broyden, "Anderson": ef.Anderson}
    for ax, lr in zip(panels, (2e-3, 1e-2), strict=True):
        f, start = trained(None, lr).equilibrium_map(some())
        for (label, kind), color in zip(kinds.items(), ("tab:gray", "tab:orange", "tab:blue"), strict=True):
            z, stats = ef.fixed_point(f, start, solver=kind(tol=TOLERANCE, max_steps=STEPS, patience=0), warn=False)
            band(ax, stats.trace, label, color)
        radius = ef.spectral_radius(f, z, vectors=20)
        share = (radius > 1).double().mean().item()
        ax.set(title=f"learning rate {lr:g}: radius above 1 in {share:.0%}", xlabel="evaluations of the map")
    panels[0].set(ylabel="relative residual", ylim=(TOLERANCE / 3, 2))
    panels[0].legend(frameon=False)
    return figure


@torch.no_grad()
def histories() -> Figure:
    """Every sample's residuals under plain iteration of the fusion state's map: free, and with two guarantees."""
    figure, panels = axes(8, 3.2, 3)
    for ax, contraction in zip(panels, (None, 0.9, 0.5), strict=True):
        fusion = trained(contraction, 2e-3)
        with observed(fusion) as seen:
            fusion(some())
        f, fused = seen[0].fusion_map, seen[0].fused
        plain = ef.Picard(tol=TOLERANCE, max_steps=STEPS, patience=0)
        _, stats = ef.fixed_point(f, torch.zeros_like(fused), solver=plain, warn=False)
        ax.semilogy(np.arange(1, len(stats.trace) + 1), stats.trace.clamp(min=TOLERANCE), color="tab:blue", alpha=0.1)
        ax.set(title="free" if contraction is None else f"contraction={contraction}", xlabel="evaluations")
        if contraction is not None:
            steps = np.arange(0, STEPS)
            bound = stats.trace[0].max().item() * contraction**steps
            ax.semilogy(steps + 1, bound, "k--", linewidth=1, label=f"{contraction} per step")
            ax.legend(frameon=False, loc="upper right")
    panels[0].set(ylabel="relative residual", ylim=(TOLERANCE / 3, 3))
    return figure


def gradients() -> Figure:
    """Relative error of the gradients of the weights, against a solve to 1e-12."""
    torch.manual_seed(0)
    x = {name: value[:32].double() for name, value in some().items()}
    fusion = ef.DEQFusion({name: value.shape[1] for name, value in x.items()}, dim=32).double()
    weight = torch.randn(32, dtype=torch.float64)

    def gradient(rule: Any, tol: float) -> Tensor:
        fusion.solver, fusion.gradient = ef.Anderson(tol=tol, max_steps=400), rule
        fusion.zero_grad()
        (fusion(x).fused @ weight).sum().backward()
        return torch.cat([p.grad.flatten() for p in fusion.parameters() if p.grad is not None])

    exact = gradient(ef.Implicit(solver=ef.GMRES(tol=1e-12, max_steps=400)), 1e-12)

    def error(rule: Any, tol: float = 1e-12) -> float:
        return float((gradient(rule, tol) - exact).norm() / exact.norm())

    figure, (left, right) = axes(8, 3.2, 2)
    tolerances = [10.0**-k for k in range(1, 9)]
    implicit = [error(ef.Implicit(solver=ef.GMRES(tol=t, max_steps=400)), t) for t in tolerances]
    left.loglog(tolerances, implicit, "o-", color="tab:blue", label="implicit")
    left.loglog(tolerances, tolerances, "k--", linewidth=1, label="error = tolerance")
    left.set(xlabel="tolerance, forward and adjoint", ylabel="relative error of the gradient")
    steps = [1, 2, 4, 8, 12, 16]
    right.semilogy(steps, [error(ef.Phantom(steps=k)) for k in steps], "o-", color="tab:orange", label="phantom")
    right.set(xlabel="steps on the tape, at the exact equilibrium", xticks=steps)
    for ax in (left, right):
        ax.legend(frameon=False)
    return figure


def folding() -> Figure:
    """Counted FLOPs per sample of GMF, of two modalities of width 128, as it is written and folded."""
    dims = {"a": 128, "b": 128}
    expansions = [2.5, 3, 4, 6, 8, 12, 16]
    x = {name: torch.randn(1, width) for name, width in dims.items()}  # one sample does not fold by itself
    both = []
    for expansion in expansions:
        gmf = ef.GMF(dims, expansion=expansion).eval()
        reconstruction = 2 * sum(width * (width + gmf.shared_dim) for width in dims.values())
        both.append((flops_per_sample(gmf, x) - reconstruction, flops_per_sample(gmf.folded(), x)))
    figure, ax = axes(5.6, 3.2)
    for values, label, color in zip(
        np.array(both).T / 1e6, ("as written", "folded"), ("tab:gray", "tab:blue"), strict=True
    ):
        ax.plot(expansions, values, "o-", color=color, label=label)
    ax.set(xlabel="expansion $n$", ylabel="MFLOP per sample", ylim=(0, None))
    ax.legend(frameon=False)
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "solvers": solvers,
    "histories": histories,
    "gradients": gradients,
    "folding": folding,
}


def draw(folder: Path) -> None:
    """Write all of them as SVG: the same bytes on the same machine."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(), mpl.rc_context({"svg.hashsalt": "equifuse", "svg.fonttype": "none", "font.size": 9}):
        for name, make in (FIGURES | {f"guide-{name}": make for name, make in GUIDES.items()}).items():
            make().savefig(folder / f"{name}.svg", metadata={"Date": None})
        for script in sorted((Path(__file__).parent / "gallery").glob("*.py")):
            runpy.run_path(str(script))["figure"].savefig(
                folder / f"gallery-{script.stem}.svg", metadata={"Date": None}
            )
