"""What a trained model knows of the target at every stage, from its encoders to the fused vector, in bits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equifuse._display import html_table, short_text
from equifuse.data.batch import Batch
from equifuse.errors import InputError
from equifuse.explain.internals import gmf_parts
from equifuse.explain.targets import Floats, evaluating, presence
from equifuse.fusion import GMF, find_equilibrium
from equifuse.fusion.base import flatten
from equifuse.fusion.deq.problem import Solved, observed
from equifuse.fusion.gmf.maps import ModalityMaps
from equifuse.fusion.gmf.recombination import recombine
from equifuse.information import Target, class_entropy, common_bits, probe, targets_of
from equifuse.model import FusionModel
from equifuse.solve import Solver, fixed_point
from equifuse.tasks import Task

FUSED, ITERATE = "fused", "iterate"
# Evaluations after which the state of an equilibrium is looked at, beside its start and its end.
_AFTER = (1, 2, 4, 8, 16)
_LEAST = 20
_MOST_TARGETS = 10


@dataclass(frozen=True)
class StageBits:
    """One stage of a model.

    >>> StageBits("fused", 0.8, 0.2, (0.7, 0.9), 100).left
    0.2

    Attributes:
        name: ``"a.encoded"``, ``"a.invariant"``, …, ``"fused"``.
        bits: what a linear model reads off it about the target.
        left: entropy of the target that is left, given it.
        interval: 95 % of the bits, from the spread over the samples.
        n: samples that have it.
    """

    name: str
    bits: float
    left: float
    interval: tuple[float, float]
    n: int


@dataclass(frozen=True)
class InformationFlow:
    """The result of :func:`information_flow`.

    >>> InformationFlow(100, 1.0, [StageBits("fused", 0.8, 0.2, (0.7, 0.9), 100)]).stage("fused").bits
    0.8

    Attributes:
        n: samples.
        target_entropy: of the target, in bits; the mean over several.
        stages: in the order in which a sample passes them.
        common: two stages -> bits that they have in common: invariant and specific parts, and modalities.
        iterates: part of an equilibrium -> bits after each number of evaluations, from start to end; {} without.
        evaluations: the numbers of evaluations; the last is the fixed point.
    """

    n: int
    target_entropy: float
    stages: list[StageBits]
    common: dict[tuple[str, str], float] = field(default_factory=dict)
    iterates: dict[str, list[float]] = field(default_factory=dict)
    evaluations: list[str] = field(default_factory=list)

    def stage(self, name: str) -> StageBits:
        """A stage by name.

        Raises:
            InputError: there is none.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise InputError(f"no stage {name!r}; known: {', '.join(stage.name for stage in self.stages)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "n": self.n,
            "target_entropy": self.target_entropy,
            "stages": [
                {"name": s.name, "bits": s.bits, "left": s.left, "interval": list(s.interval), "n": s.n}
                for s in self.stages
            ],
            "common": [{"a": a, "b": b, "bits": bits} for (a, b), bits in self.common.items()],
            "iterates": self.iterates,
            "evaluations": self.evaluations,
        }

    def __repr__(self) -> str:
        return short_text(self._title(), self._table())

    def _repr_html_(self) -> str:
        return html_table(self._title(), ["stage", "bits", "left"], self._table())

    def _title(self) -> str:
        return f"Information about the target ({self.target_entropy:.2f} bits), {self.n} samples"

    def _table(self) -> list[list[str]]:
        return [[s.name, f"{s.bits:.3f}", f"{s.left:.3f}"] for s in self.stages]


def information_flow(
    model: FusionModel, task: Task, batches: Iterable[Batch], *, common: bool = True
) -> InformationFlow:
    """Measure what a model knows of the target at every stage.

    Stages are what each encoder gives; with GMF the invariant and the specific part, what recombination makes of them
    and what is reconstructed; each modality's state after the fusion; and the fused vector. Of an equilibrium, the
    states on the solver's way are measured, too. Bits are those that a linear model reads off, fitted in four folds of
    the same samples, so these should not be the ones that the model was trained on.

    >>> model = ef.build_model({"a": 3, "b": 4}, "classification", 2, fusion="gmf")
    >>> batch = ef.tasks.Batch({"a": torch.randn(40, 3), "b": torch.randn(40, 4)}, target=torch.arange(40) % 2)
    >>> flow = information_flow(model, ef.tasks.make_task("classification"), [batch])
    >>> [stage.name for stage in flow.stages if stage.name.startswith("a.")]
    ['a.encoded', 'a.invariant', 'a.specific', 'a.recombined', 'a.reconstructed']

    Args:
        model: the model; it is evaluated in evaluation mode.
        task: its task.
        batches: labelled samples, 20 at least.
        common: whether to measure what stages have in common.

    Raises:
        InputError: fewer than 20 samples, no labels, labels of one class, or a task without a target in bits.
    """
    if task.time_to_event:
        raise InputError(f"information about {task.name} is not measured in bits: unknown times have no entropy")
    pieces, labels = [], []
    with evaluating(model) as device, torch.no_grad():
        for batch in (batch.to(device) for batch in batches):
            if batch.target is None:
                raise InputError("information is about a target: these samples have no labels")
            pieces.append({name: x.flatten(1).double().cpu() for name, x in stages_of(model, batch).items()})
            labels.append(batch.target.cpu())
    count = sum(len(piece) for piece in labels)
    if count < _LEAST:
        raise InputError(f"information needs at least {_LEAST} labelled samples, got {count}")
    found = {name: torch.cat([piece[name] for piece in pieces]).numpy() for name in pieces[0]}
    targets = targets_of(task.targets, torch.cat(labels).numpy())[:_MOST_TARGETS]
    if not targets:
        raise InputError("the target of these samples has one value only: there is nothing to know about it")
    entropy = float(np.mean([class_entropy(target.classes) for target in targets]))
    plain = {name: x for name, x in found.items() if not name.startswith(ITERATE)}
    stages = [_measured(name, x, targets, entropy) for name, x in plain.items()]
    together = {pair: _common(found[pair[0]], found[pair[1]]) for pair in _pairs(model, plain)} if common else {}
    iterates: dict[str, list[float]] = {}
    evaluations: list[str] = []
    for name in (name for name in found if name.startswith(ITERATE)):
        _, part, after = name.split("/")
        iterates.setdefault(part, []).append(_measured(name, found[name], targets, entropy).bits)
        if after not in evaluations:
            evaluations.append(after)
    return InformationFlow(count, entropy, stages, together, iterates, evaluations)


def stages_of(model: FusionModel, batch: Batch) -> dict[str, Tensor]:
    """The representations ``(B, …)`` of one batch at every stage; NaN for a modality that a sample lacks.

    Args:
        model: in evaluation mode.
        batch: the samples.
    """
    encoded = model.encode(batch.inputs, batch.present, lengths=batch.lengths)
    equilibrium = find_equilibrium(model.fusion)
    if equilibrium is None:
        output, solved = model.fusion(encoded, batch.present), None
    else:
        with observed(equilibrium) as seen:
            output = model.fusion(encoded, batch.present)
        solved = seen[-1]
    parts = gmf_parts(model, encoded)
    more = _after_recombination(model, encoded, batch)
    here = dict(zip(model.modalities, presence(model, batch).unbind(1), strict=True))
    found: dict[str, Tensor] = {}
    for m in (m for m in model.modalities if m in encoded):
        named = {"encoded": encoded[m], **parts.get(m, {}), **more.get(m, {})}
        if not more and m in output.modalities and output.modalities[m].numel():
            named["after fusion"] = output.modalities[m]
        found |= {f"{m}.{name}": _where(here[m], x) for name, x in named.items()}
    found[FUSED] = output.fused
    if equilibrium is not None and solved is not None:
        found |= _iterates(solved, equilibrium.solver, len(batch))
    return found


def _after_recombination(model: FusionModel, encoded: dict[str, Tensor], batch: Batch) -> dict[str, dict[str, Tensor]]:
    """What GMF makes of the parts of each modality: recombined, and reconstructed; {} for another fusion."""
    fusion = model.fusion
    if not isinstance(fusion, GMF):
        return {}
    leading, rows = flatten(encoded, batch.present, fusion.dims)
    both = {m: fusion.maps[m](x) for m, x in rows.values.items()}
    invariant, specific = ({m: pair[k] for m, pair in both.items()} for k in (0, 1))
    recombined = recombine(invariant, specific, rows, fusion.dims)
    return {
        m: {
            "recombined": recombined[m].view(*leading, -1),
            "reconstructed": _maps(fusion, m).reconstruct(recombined[m]).view(*leading, -1),
        }
        for m in both
    }


def _maps(fusion: GMF, modality: str) -> ModalityMaps:
    maps = fusion.maps[modality]
    assert isinstance(maps, ModalityMaps)
    return maps


def _iterates(solved: Solved, solver: Solver, count: int) -> dict[str, Tensor]:
    """The states of an equilibrium on the solver's way, ``"iterate/PART/EVALUATIONS"``; means over positions."""
    after = [k for k in _AFTER if k < solver.max_steps]
    maps: dict[str, tuple[Any, Tensor]] = {"fusion": (solved.fusion_map, solved.fused)}
    if solved.modality_map is not None:
        maps = {"modalities": (solved.modality_map, solved.states.flatten(0, 1)), **maps}
    found: dict[str, Tensor] = {}
    for part, (f, end) in maps.items():
        start = f.start()
        _, stats = fixed_point(f, start, solver=solver, warn=False, iterates=after)
        states = {"start": start, **dict(zip(map(str, after), stats.iterates, strict=True)), "end": end}
        names = solved.names if part == "modalities" else [part]
        for i, name in enumerate(names):
            for label, z in states.items():
                own = z.chunk(len(names))[i].reshape(count, -1, z.shape[-1]).mean(1)
                mask = None if solved.mask is None or part == "fusion" else solved.mask[i].view(count, -1).any(1)
                found[f"{ITERATE}/{name}/{label}"] = own if mask is None else _where(mask, own)
    return found


def _where(here: Tensor, x: Tensor) -> Tensor:
    return x.masked_fill(~here.view(-1, *[1] * (x.dim() - 1)), float("nan"))


def _measured(name: str, x: Floats, targets: list[Target], entropy: float) -> StageBits:
    """Bits of the samples that have the stage, mean over the targets."""
    rows = np.flatnonzero(np.isfinite(x).all(1))
    if len(rows) < _LEAST:
        return StageBits(name, 0.0, entropy, (0.0, 0.0), len(rows))
    gained = []
    for target in targets:
        codes = np.unique(target.classes[rows], return_inverse=True)[1].reshape(-1).astype(np.int64)
        values = None if target.values is None else target.values[rows]
        gained.append(probe(x[rows], Target(target.name, codes, values)) if codes.max() else np.zeros(len(rows)))
    each = np.mean(gained, axis=0)
    mean, half = float(each.mean()), 1.96 * float(each.std()) / math.sqrt(len(rows))
    bits = max(0.0, mean)
    return StageBits(name, bits, max(0.0, entropy - bits), (max(0.0, mean - half), max(0.0, mean + half)), len(rows))


def _common(x: Floats, y: Floats) -> float:
    rows = np.isfinite(x).all(1) & np.isfinite(y).all(1)
    return common_bits(x[rows], y[rows]) if rows.sum() >= _LEAST else 0.0


def _pairs(model: FusionModel, found: dict[str, Floats]) -> list[tuple[str, str]]:
    """Stages that are compared: both parts of a modality, and the same stage of two modalities."""
    names = [m for m in model.modalities if f"{m}.encoded" in found]
    pairs = [(f"{m}.invariant", f"{m}.specific") for m in names if f"{m}.invariant" in found]
    for kind in ("encoded", "invariant", "specific", "recombined", "after fusion"):
        stages = [f"{m}.{kind}" for m in names if f"{m}.{kind}" in found]
        pairs += [(a, b) for i, a in enumerate(stages) for b in stages[i + 1 :]]
    return pairs
