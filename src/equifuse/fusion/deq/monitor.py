"""Checks of a deep-equilibrium fusion on a batch: numbers, and warnings in plain words before convergence is lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from equifuse.errors import InputError
from equifuse.fusion.deq.module import DEQFusion
from equifuse.fusion.deq.problem import Solved, observed
from equifuse.fusion.modes import evaluation_mode
from equifuse.solve import spectral_radius

# Above this spectral radius iteration is slow, and convergence may be lost with little more training.
_NEAR_CRITICAL = 0.95
# A warning is given from this share of the allowed evaluations on.
_MANY = 0.5
# A gate whose typical entry is below this passes almost nothing of the fusion state.
_DEAD = 0.02
# Below this relative spread over the samples a state does not depend on its inputs …
_COLLAPSED = 1e-3
# … while the inputs themselves spread by more than this.
_VARIED = 1e-2


@dataclass
class PartReport:
    """Numbers about one part of the equilibrium: the state of a modality, or the fusion state.

    >>> monitor = ef.EquilibriumMonitor(ef.DEQFusion({"a": 3, "b": 4}, dim=8))
    >>> part = monitor({"a": torch.randn(5, 3), "b": torch.randn(5, 4)}).parts["fusion"]
    >>> part.converged, part.radius < 1
    (1.0, True)

    Attributes:
        radius: largest spectral radius of the part's Jacobian at the solution, over the samples.
        mean_radius: mean spectral radius.
        steps: mean number of evaluations.
        max_steps: largest number of evaluations.
        converged: share of samples that converged, 0 to 1.
        spread: ``sqrt(Σ‖z − mean z‖² / Σ‖z‖²)`` over the samples; near 0 if the state is the same for every input.
    """

    radius: float
    mean_radius: float
    steps: float
    max_steps: float
    converged: float
    spread: float


@dataclass
class EquilibriumReport:
    """State of the equilibria of a model on one batch, with warnings in plain words.

    >>> monitor = ef.EquilibriumMonitor(ef.DEQFusion({"a": 3, "b": 4}, dim=8))
    >>> report = monitor({"a": torch.randn(5, 3), "b": torch.randn(5, 4)})
    >>> report.warnings, sorted(report.parts)
    ([], ['a', 'b', 'fusion'])

    Attributes:
        parts: a :class:`~equifuse.fusion.PartReport` for each modality, and for ``"fusion"``.
        gate: root mean square of the gate's outputs ``α`` per modality present; None without a gate.
        warnings: one sentence for each problem found; empty if there is none.
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
    """The first deep-equilibrium fusion inside ``module`` that solves for an equilibrium; None if there is none.

    >>> gmf = ef.GMF({"a": 3, "b": 4}, backend="deq")
    >>> ef.fusion.find_equilibrium(gmf) is gmf.backend
    True
    """
    for candidate in module.modules():
        if isinstance(candidate, DEQFusion) and candidate.mix is not None and candidate.iterations is None:
            return candidate
    return None


class EquilibriumMonitor:
    """Checks the equilibria of a model on a batch: spectral radii, steps, and what may soon go wrong.

    >>> fusion = ef.DEQFusion({"a": 3, "b": 4}, dim=8)
    >>> report = ef.EquilibriumMonitor(fusion)({"a": torch.randn(5, 3), "b": torch.randn(5, 4)})
    >>> sorted(report.numbers())[:3]
    ['converged/a', 'converged/b', 'converged/fusion']

    Args:
        module: a :class:`DEQFusion`, or a module that contains one and is called with ``(inputs, present)``, such as a
            :class:`FusionModel`.
        vectors: Krylov vectors for each spectral radius, ≥ 1; default 20.
        samples: largest number of samples used, ≥ 1; default 64.

    Raises:
        InputError: the module contains no equilibrium, or an argument is out of range.
    """

    def __init__(self, module: nn.Module, *, vectors: int = 20, samples: int = 64) -> None:
        fusion = find_equilibrium(module)
        if fusion is None:
            raise InputError(f"{type(module).__name__} contains no DEQFusion that solves for an equilibrium")
        if vectors < 1 or samples < 1:
            raise InputError(f"vectors and samples must be at least 1, got {vectors} and {samples}")
        self.module, self.fusion, self.vectors, self.samples = module, fusion, vectors, samples

    def __call__(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None) -> EquilibriumReport:
        """Report on a batch, in evaluation mode and without gradients; the module's mode is restored afterwards.

        Args:
            inputs: as the module is called.
            present: as the module is called.

        Returns:
            :class:`EquilibriumReport`.
        """
        inputs = {m: x[: self.samples] for m, x in inputs.items()}
        present = {m: mask[: self.samples] for m, mask in (present or {}).items()}
        with evaluation_mode(self.module), torch.no_grad(), observed(self.fusion) as seen:
            self.module(inputs, present)
        return self.describe(seen[-1])

    @torch.no_grad()
    def describe(self, solved: Solved) -> EquilibriumReport:
        """Report on one of the solves that :func:`equifuse.fusion.deq.problem.observed` recorded."""
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
                found.append(f"{who}: the equilibrium has collapsed, it is the same for every input")
        if report.gate is not None and report.gate < _DEAD:
            found.append(
                f"the gate is dead (typical output {report.gate:.3f}): the fusion state does not depend on itself or "
                "on the modality states, only on their weighted sum"
            )
        return found


def _spread(z: Tensor) -> float:
    """``sqrt(Σ‖z − mean z‖² / Σ‖z‖²)`` over rows; 1 for fewer than two rows or for zeros, where it has no meaning."""
    size = z.square().sum()
    if len(z) < 2 or size == 0:
        return 1.0
    return float(((z - z.mean(0)).square().sum() / size).sqrt())
