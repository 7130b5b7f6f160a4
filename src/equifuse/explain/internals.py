"""Activity inside the two main methods: the gate of the equilibrium, invariant and specific parts of GMF."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equifuse.data.batch import Batch
from equifuse.explain.targets import ByModality, Floats, evaluating, joined, means, presence
from equifuse.fusion import GMF, DEQFusion, FoldedGMF, find_equilibrium
from equifuse.fusion.deq.problem import Solved, observed
from equifuse.model import FusionModel


@dataclass(frozen=True)
class GateActivity:
    """How much each modality passes through the gate of a deep-equilibrium fusion.

    >>> model = ef.build_model({"a": 3, "b": 4}, "regression", 1, fusion="deq").eval()
    >>> batch = ef.tasks.Batch({"a": torch.randn(8, 3), "b": torch.randn(8, 4)})
    >>> gate = look_inside(model, [batch]).gate
    >>> bool(np.allclose(gate.share["a"] + gate.share["b"], 1, atol=1e-4))
    True

    Attributes:
        openness: modality -> ``(n,)`` root mean square over the features of ``α_m``: 0 is shut, 1 passes the fusion
            state on in its size. NaN where the modality is absent; {} without a gate.
        share: modality -> ``(n,)`` share of its purified state in the sum ``z' = Σ_m z'_m``, along the sum:
            ``⟨z'_m, z'⟩ / ‖z'‖²``. The modalities present add up to 1; one that works against the sum is negative. NaN
            where it is absent, or the sum vanishes.
    """

    openness: ByModality
    share: ByModality

    def summary(self) -> dict[str, Any]:
        """Plain numbers: means over the samples that have the modality."""
        return {"openness": means(self.openness), "share": means(self.share)}


@dataclass(frozen=True)
class PartEnergies:
    """Sizes of the invariant (shared) and the specific part of each modality in GMF.

    >>> model = ef.build_model({"a": 3, "b": 4}, "regression", 1, fusion="gmf").eval()
    >>> batch = ef.tasks.Batch({"a": torch.randn(8, 3), "b": torch.randn(8, 4)})
    >>> look_inside(model, [batch]).parts.invariant["a"].shape
    (8,)

    Attributes:
        invariant: modality -> ``(n,)`` ``‖inv_m‖²``; NaN where the modality is absent.
        specific: modality -> ``(n,)`` ``‖spec_m‖²``, likewise.
        widths: modality -> ``l* / (l* + l_m)``: the invariant part's share of the numbers. Parts of equal size per
            number have that share of the energy.
    """

    invariant: ByModality
    specific: ByModality
    widths: dict[str, float]

    @property
    def invariant_share(self) -> ByModality:
        """``‖inv_m‖² / (‖inv_m‖² + ‖spec_m‖²)`` ``(n,)`` by modality; NaN where it is absent."""
        return {m: inv / _positive(inv + self.specific[m]) for m, inv in self.invariant.items()}

    def summary(self) -> dict[str, Any]:
        """Plain numbers: means over the samples that have the modality."""
        return {"invariant_share": means(self.invariant_share), "share_of_width": dict(self.widths)}


@dataclass(frozen=True)
class Internals:
    """The result of :func:`look_inside`.

    >>> model = ef.build_model({"a": 3, "b": 4}, "regression", 1, fusion="mean").eval()
    >>> batch = ef.tasks.Batch({"a": torch.randn(8, 3), "b": torch.randn(8, 4)})
    >>> look_inside(model, [batch]).gate is None  # this fusion has no gate
    True

    Attributes:
        gate: :class:`GateActivity` of a deep-equilibrium fusion, alone or behind GMF; else None.
        parts: :class:`PartEnergies` of GMF; else None.
    """

    gate: GateActivity | None = None
    parts: PartEnergies | None = None


def look_inside(model: FusionModel, batches: Iterable[Batch]) -> Internals:
    """Measure the activity inside a model's fusion: the gate of ``deq``, the parts of ``gmf``.

    >>> model = ef.build_model({"a": 3, "b": 4}, "regression", 1, fusion="deq").eval()
    >>> batch = ef.tasks.Batch({"a": torch.randn(8, 3), "b": torch.randn(8, 4)})
    >>> sorted(look_inside(model, [batch]).gate.openness)
    ['a', 'b']

    Args:
        model: the model; it is evaluated in evaluation mode.
        batches: the samples.

    Returns:
        :class:`Internals`, with None for what the fusion does not have.
    """
    with evaluating(model) as device:
        return join_internals([internals_of_batch(model, batch.to(device)) for batch in batches])


def join_internals(pieces: Sequence[Internals]) -> Internals:
    """The samples of all batches."""
    gates = [piece.gate for piece in pieces if piece.gate is not None]
    parts = [piece.parts for piece in pieces if piece.parts is not None]
    gate = GateActivity(joined([g.openness for g in gates]), joined([g.share for g in gates])) if gates else None
    energies = None
    if parts:
        invariant, specific = joined([p.invariant for p in parts]), joined([p.specific for p in parts])
        energies = PartEnergies(invariant, specific, parts[0].widths)
    return Internals(gate, energies)


@torch.no_grad()
def internals_of_batch(model: FusionModel, batch: Batch) -> Internals:
    """:func:`look_inside` of one batch, with a model in evaluation mode."""
    encoded = model.encode(batch.inputs, batch.present, lengths=batch.lengths)
    here = dict(zip(model.modalities, presence(model, batch).unbind(1), strict=True))
    return Internals(_gate_activity(model, encoded, batch, here), _part_energies(model, encoded, here))


def gated(fusion: DEQFusion, solved: Solved) -> tuple[Tensor | None, Tensor]:
    """Each modality's gate and purified state at an equilibrium.

    ``α_m = (z_fuse + z_m) Wα + bα``, ``z'_m = α_m ⊙ z_fuse`` (arXiv 2306.16645), without a gate
    ``z'_m = z_fuse + z_m``; 0 where a modality is absent. A fusion with guaranteed contraction bounds the state and the
    sum of the gates, not each of them: the state is the clamped one, and each gate is shrunk by the factor by which
    their sum is.

    Args:
        fusion: the module.
        solved: a solve recorded by :func:`equifuse.fusion.deq.problem.observed`.

    Returns:
        ``α`` and ``z'``, ``(M', R, d)``; None for ``α`` without a gate.
    """
    f, z = solved.fusion_map, solved.fused
    if f.bound is not None:
        z = z.clamp(-1, 1)
    alpha = None
    purified = z + solved.states
    if f.weights.gate is not None and fusion.gate is not None:
        alpha = purified @ f.weights.gate.t() + fusion.gate.bias.to(z.dtype)
        alpha = alpha if solved.mask is None else torch.where(solved.mask, alpha, 0.0)
        if f.bound is not None:
            level = alpha.sum(0) / (f.bound * f.count.clamp(min=1))
            small = level.abs() < torch.finfo(level.dtype).eps
            alpha = alpha * torch.where(small, 1.0, torch.tanh(level) / torch.where(small, 1.0, level))
        purified = alpha * z
    return alpha, purified if solved.mask is None else torch.where(solved.mask, purified, 0.0)


def _gate_activity(
    model: FusionModel, encoded: dict[str, Tensor], batch: Batch, here: dict[str, Tensor]
) -> GateActivity | None:
    fusion = find_equilibrium(model.fusion)
    if fusion is None:
        return None
    with observed(fusion) as seen:
        model.fusion(encoded, batch.present)
    solved = seen[-1]
    alpha, purified = gated(fusion, solved)
    total = purified.sum(0)
    share = (purified * total).sum(-1) / total.square().sum(-1)
    openness = None if alpha is None else alpha.square().mean(-1).sqrt()

    def by_name(x: Tensor) -> ByModality:
        # Where a sample is several positions, their mean.
        of_samples = dict(zip(solved.names, x.view(len(x), len(batch), -1).mean(-1), strict=True))
        absent = x.new_full((len(batch),), torch.nan)
        return {m: _known(of_samples.get(m, absent), here[m]) for m in model.modalities}

    return GateActivity({} if openness is None else by_name(openness), by_name(share))


def _part_energies(model: FusionModel, encoded: dict[str, Tensor], here: dict[str, Tensor]) -> PartEnergies | None:
    fusion = model.fusion
    if not isinstance(fusion, GMF | FoldedGMF):
        return None
    shared = fusion.shared_dim
    invariant, specific = {}, {}
    for m, parts in gmf_parts(model, encoded).items():
        inv, spec = (parts[name].square().flatten(1).sum(1) for name in ("invariant", "specific"))
        invariant[m], specific[m] = _known(inv, here[m]), _known(spec, here[m])
    return PartEnergies(invariant, specific, {m: shared / (shared + fusion.dims[m]) for m in encoded})


def gmf_parts(model: FusionModel, encoded: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The ``invariant`` and ``specific`` part of each modality that GMF makes of its code; {} for another fusion."""
    fusion = model.fusion
    if not isinstance(fusion, GMF | FoldedGMF):
        return {}
    shared = fusion.shared_dim
    found = {}
    for m, x in encoded.items():
        both = fusion.maps[m](x)
        parts = both if isinstance(both, tuple) else (both[..., :shared], both[..., shared:])
        found[m] = dict(zip(("invariant", "specific"), parts, strict=True))
    return found


def _known(x: Tensor, here: Tensor) -> Floats:
    return torch.where(here, x.double(), torch.nan).cpu().numpy()


def _positive(x: Floats) -> Floats:
    return np.where(x > 0, x, np.nan)
