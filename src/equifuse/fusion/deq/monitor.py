"""Checks of a deep-equilibrium fusion on a batch: numbers, and warnings in plain words before convergence is lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from equifuse.errors import InputError
from equifuse.fusion.deq.fusion_map import FusionMap
from equifuse.fusion.deq.modality_map import ModalityMap
from equifuse.fusion.deq.module import DEQFusion
from equifuse.fusion.deq.problem import Solved, observed
from equifuse.fusion.modes import evaluation_mode
from equifuse.solve import fixed_point, spectral_radius
from equifuse.solve.tensors import row_norm

# A gate whose typical entry is below this passes almost nothing of the fusion state.
_DEAD = 0.02
# Below this relative spread over the samples a state does not depend on its inputs …
_COLLAPSED = 1e-3
# … while the inputs themselves spread by more than this.
_VARIED = 1e-2
# Two solutions of a sample differ where their distance exceeds the tolerance by this factor.
_APART = 100
# A map is nearly the identity where it moves a state away from its fixed point by less than this share of the way.
_IDENTITY = 0.05
# Length of the way, relative to the state.
_WAY = 0.1


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
        several: share of the samples whose solve from another start ends in another fixed point.
        identity: whether the map is nearly the identity, which leaves every state where it is.
    """

    radius: float
    mean_radius: float
    steps: float
    max_steps: float
    converged: float
    spread: float
    several: float = 0.0
    identity: bool = False


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
            for name in ("radius", "steps", "converged", "spread", "several")
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
        if fusion is None and any(isinstance(each, DEQFusion) and each.takes_steps for each in module.modules()):
            raise InputError(
                "equilibria of tokens='coupled' are not watched; whether each sample converged is in out.stats"
            )
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
            apart, moves = (x.view(-1, count) for x in self._probe(solved.modality_map, flat))
            for i, name in enumerate(solved.names):
                here = slice(None) if solved.mask is None else solved.mask[i, :, 0]
                numbers = radii[i][here], apart[i][here], moves[i][here]
                parts[name] = self._part(numbers, solved, name, solved.states[i][here])
        radius = spectral_radius(solved.fusion_map, solved.fused, vectors=self.vectors)
        numbers = radius, *self._probe(solved.fusion_map, solved.fused)
        parts["fusion"] = self._part(numbers, solved, "fusion", solved.fused)
        gate = None
        if solved.fusion_map.weights.gate is not None:
            _, saved = solved.fusion_map.evaluate(solved.fused)
            alpha = saved.alpha / solved.fusion_map.count.clamp(min=1)
            gate = alpha.square().mean().sqrt().item() if alpha.numel() else 0.0
        report = EquilibriumReport(parts, gate)
        varied = any(_spread(x) > _VARIED for x in solved.inputs)
        report.warnings = self._warnings(report, varied)
        return report

    def _probe(self, f: ModalityMap | FusionMap, z: Tensor) -> tuple[Tensor, Tensor]:
        """What happens away from the equilibria ``z`` ``(n, d)``.

        Returns:
            Bool ``(n,)``, whether a solve from another start ends elsewhere; and ``(n,)``, how far the map moves a
            state that is away from its equilibrium, relative to the way.
        """
        generator = torch.Generator(z.device).manual_seed(0)
        noise = torch.randn(z.shape, generator=generator, dtype=z.dtype, device=z.device)
        size = row_norm(z)[:, None]
        noise = noise * (size / row_norm(noise).clamp(min=torch.finfo(z.dtype).tiny)[:, None])
        solver = self.fusion.solver
        other, stats = fixed_point(f, noise, solver=solver, warn=False)
        _, own = fixed_point(f, z, solver=solver, warn=False)
        apart = row_norm(other - z) > _APART * solver.tol * size.squeeze(1)
        away = z + _WAY * noise
        moved = row_norm(f(away) - away) / (_WAY * size.squeeze(1)).clamp(min=torch.finfo(z.dtype).tiny)
        return apart & stats.converged & own.converged, torch.where(size.squeeze(1) > 0, moved, 1.0)

    def _part(self, numbers: tuple[Tensor, Tensor, Tensor], solved: Solved, name: str, z: Tensor) -> PartReport:
        radius, apart, moved = numbers
        stats = solved.stats[name].summary()
        return PartReport(
            radius=radius.max().item() if radius.numel() else 0.0,
            mean_radius=radius.mean().item() if radius.numel() else 0.0,
            steps=stats["mean_steps"],
            max_steps=stats["max_steps"],
            converged=stats["converged"],
            spread=_spread(z),
            several=apart.double().mean().item() if apart.numel() else 0.0,
            identity=bool(moved.median() < _IDENTITY) if moved.numel() else False,
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
            if part.several:
                found.append(
                    f"{who}: {part.several:.1%} of the samples have another fixed point, so what they give depends on "
                    "where a solve starts; set contraction, or add jacobian_weight or spectral_weight"
                )
            if part.identity:
                found.append(f"{who}: the map is nearly the identity, so any state solves it; lower residual_weight")
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
