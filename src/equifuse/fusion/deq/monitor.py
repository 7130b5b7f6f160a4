"""What a deep-equilibrium fusion is doing, and what is about to go wrong with it, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from equifuse.errors import InputError
from equifuse.fusion.deq.module import DEQFusion
from equifuse.fusion.deq.problem import Solved
from equifuse.solve import spectral_radius

# Above this spectral radius the iteration is slow, and a little more training may end convergence.
_NEAR_CRITICAL = 0.95
# Share of the allowed evaluations that is worth a word.
_MANY = 0.5
# A gate whose typical entry is below this passes next to nothing of the fusion state.
_DEAD = 0.02
# Spread over the samples, relative to size, below which a state does not depend on its inputs …
_COLLAPSED = 1e-3
# … while the inputs themselves spread by more than this.
_VARIED = 1e-2


@dataclass
class PartReport:
    """One part of the equilibrium: a modality's state, or the fusion state.

    Attributes:
        radius: largest spectral radius of the part's Jacobian over the samples, at the solution.
        mean_radius: its mean.
        steps: mean evaluations.
        max_steps: most evaluations.
        converged: share of samples converged.
        spread: ``sqrt(Σ‖z − mean z‖² / Σ‖z‖²)`` over the samples; near 0, the state is the same whatever the input.
    """

    radius: float
    mean_radius: float
    steps: float
    max_steps: float
    converged: float
    spread: float


@dataclass
class EquilibriumReport:
    """State of an equilibrium on one batch.

    Attributes:
        parts: per modality, and ``"fusion"``.
        gate: root mean square of the gate's outputs ``α``, per modality present, or None without a gate.
        warnings: what should worry, one sentence each; empty if nothing does.
    """

    parts: dict[str, PartReport]
    gate: float | None
    warnings: list[str] = field(default_factory=list)

    def numbers(self) -> dict[str, float]:
        """Flat numbers for a log: ``radius/fusion``, ``steps/text``, …, ``gate``."""
        flat = {
            f"{name}/{part}": getattr(report, name)
            for part, report in self.parts.items()
            for name in ("radius", "steps", "converged", "spread")
        }
        return flat if self.gate is None else {**flat, "gate": self.gate}


def find_equilibrium(module: nn.Module) -> DEQFusion | None:
    """The first deep-equilibrium fusion with an equilibrium to solve for inside ``module``, or None."""
    for candidate in module.modules():
        if isinstance(candidate, DEQFusion) and candidate.mix is not None and candidate.iterations is None:
            return candidate
    return None


class EquilibriumMonitor:
    """Looks at the equilibria of a model on a batch.

    Args:
        module: a :class:`DEQFusion`, or anything that contains one and is called with ``(inputs, present)``: a GMF with
            an equilibrium behind it, a :class:`FusionModel`.
        vectors: Krylov vectors per spectral radius, ≥ 1.
        samples: at most so many samples are looked at, ≥ 1.

    Raises:
        InputError: there is no equilibrium in it, or an argument is out of range.
    """

    def __init__(self, module: nn.Module, *, vectors: int = 20, samples: int = 64) -> None:
        fusion = find_equilibrium(module)
        if fusion is None:
            raise InputError(f"{type(module).__name__} contains no DEQFusion that solves for an equilibrium")
        if vectors < 1 or samples < 1:
            raise InputError(f"vectors and samples must be at least 1, got {vectors} and {samples}")
        self.module, self.fusion, self.vectors, self.samples = module, fusion, vectors, samples

    def __call__(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None) -> EquilibriumReport:
        """Report on a batch; in evaluation mode, without gradients, leaving the module as it was.

        Args:
            inputs: what the module is called with.
            present: likewise.

        Returns:
            :class:`EquilibriumReport`.
        """
        inputs = {m: x[: self.samples] for m, x in inputs.items()}
        present = {m: mask[: self.samples] for m, mask in (present or {}).items()}
        training = self.module.training
        self.module.eval()
        try:
            with torch.no_grad(), self.fusion.observed() as seen:
                self.module(inputs, present)
        finally:
            self.module.train(training)
        return self.describe(seen[-1])

    @torch.no_grad()
    def describe(self, solved: Solved) -> EquilibriumReport:
        """Report on a solve that :meth:`DEQFusion.observed` has seen."""
        parts: dict[str, PartReport] = {}
        count = solved.fused.shape[0]
        if solved.modality_map is not None:
            flat = solved.states.flatten(0, 1)
            radii = spectral_radius(solved.modality_map, flat, vectors=self.vectors).view(-1, count)
            for i, name in enumerate(solved.names):
                here = slice(None) if solved.mask is None else solved.mask[i, :, 0]
                parts[name] = self._part(radii[i][here], solved, name, solved.states[i][here])
        radius = spectral_radius(solved.fusion_map, solved.fused, vectors=self.vectors)
        parts["fusion"] = self._part(radius, solved, "fusion", solved.fused)
        gate = None
        if solved.fusion_map.weights.gate is not None:
            _, saved = solved.fusion_map.evaluate(solved.fused)
            alpha = saved.alpha / solved.fusion_map.count.clamp(min=1)
            gate = alpha.square().mean().sqrt().item() if alpha.numel() else 0.0
        report = EquilibriumReport(parts, gate)
        varied = any(_spread(x) > _VARIED for x in solved.inputs)
        report.warnings = self._warnings(report, varied)
        return report

    def _part(self, radius: Tensor, solved: Solved, name: str, z: Tensor) -> PartReport:
        stats = solved.stats[name].summary()
        return PartReport(
            radius=radius.max().item() if radius.numel() else 0.0,
            mean_radius=radius.mean().item() if radius.numel() else 0.0,
            steps=stats["mean_steps"],
            max_steps=stats["max_steps"],
            converged=stats["converged"],
            spread=_spread(z),
        )

    def _warnings(self, report: EquilibriumReport, varied: bool) -> list[str]:
        found = []
        allowed = self.fusion.solver.max_steps
        for name, part in report.parts.items():
            who = "the fusion state" if name == "fusion" else f"modality {name!r}"
            if part.converged < 1:
                found.append(
                    f"{who}: {1 - part.converged:.1%} of the samples did not converge in {allowed} evaluations; lower "
                    "the learning rate, add jacobian_weight or spectral_weight, or set contraction"
                )
            elif part.max_steps > _MANY * allowed:
                found.append(f"{who}: {part.max_steps:.0f} of the {allowed} evaluations allowed were needed")
            if part.radius >= 1:
                found.append(
                    f"{who}: the spectral radius is {part.radius:.2f}, plain iteration would not converge; "
                    "add jacobian_weight or spectral_weight, or set contraction"
                )
            elif part.radius > _NEAR_CRITICAL:
                found.append(f"{who}: the spectral radius is {part.radius:.2f}, close to 1; convergence may end soon")
            if varied and part.spread < _COLLAPSED:
                found.append(f"{who}: the equilibrium has collapsed, it is the same whatever the input")
        if report.gate is not None and report.gate < _DEAD:
            found.append(
                f"the gate is dead (typical output {report.gate:.3f}): the fusion state does not depend on itself or "
                "on the modality states, only on their weighted sum"
            )
        return found


def _spread(z: Tensor) -> float:
    """``sqrt(Σ‖z − mean z‖² / Σ‖z‖²)`` over rows; 1 where it means nothing, for fewer than two rows or zeros."""
    size = z.square().sum()
    if len(z) < 2 or size == 0:
        return 1.0
    return float(((z - z.mean(0)).square().sum() / size).sqrt())
