"""What a model gave for a whole split: predictions, metrics, convergence; and how batches are joined to it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from equifuse._display import html_table, short_text
from equifuse.fusion import FusionOutput
from equifuse.model import ModelOutput
from equifuse.solve import SolverStats


@dataclass
class Evaluation:
    """A model's result on a whole split: metrics, raw predictions and convergence, on the CPU.

    >>> model = ef.build_model({"a": 3, "b": 4}, "regression", 1, fusion="mean")
    >>> batch = Batch({"a": torch.randn(8, 3), "b": torch.randn(8, 4)}, target=torch.randn(8, 1))
    >>> found = make_task("regression").evaluate(model, [batch])
    >>> found.prediction.shape, "rmse" in found.metrics
    (torch.Size([8, 1]), True)

    Attributes:
        metrics: metric name -> value, ``"loss"`` (the task's) among them; None where it is undefined on the split.
        prediction: raw outputs, first axis ``n``.
        converged: bool ``(n,)``, or None for a closed-form fusion.
        residual: ``(n,)`` relative residuals, or None.
        steps: int64 ``(n,)`` solver steps, or None.
        undefined: metric name -> why it has no value, for each that has none.
        unimodal: modality -> what it says alone, ``(n, K)``, NaN where a sample lacks it; {} if the model has no such
            outputs. :meth:`Task.measure_alone` measures them.
    """

    metrics: dict[str, float | None]
    prediction: Tensor
    converged: Tensor | None = None
    residual: Tensor | None = None
    steps: Tensor | None = None
    undefined: dict[str, str] = field(default_factory=dict)
    unimodal: dict[str, Tensor] = field(default_factory=dict)

    def convergence(self) -> dict[str, float] | None:
        """Share of samples converged, mean and largest steps, largest residual; None for a closed-form fusion."""
        if self.converged is None or self.residual is None or self.steps is None:
            return None
        return {
            "converged": self.converged.double().mean().item(),
            "mean_steps": self.steps.double().mean().item(),
            "max_steps": float(self.steps.max().item()),
            "max_residual": self.residual.max().item(),
        }

    def __repr__(self) -> str:
        return short_text(f"Evaluation of {len(self.prediction)} samples", self._table())

    def _repr_html_(self) -> str:
        return html_table(f"Evaluation of {len(self.prediction)} samples", ["metric", "value"], self._table())

    def _table(self) -> list[list[str]]:
        """Each metric, or why it has no value, and how many equilibria were found."""
        rows = []
        for name, value in self.metrics.items():
            reason = self.undefined.get(name, "")
            rows.append([name, f"– {f'({reason})' if reason else ''}".rstrip() if value is None else f"{value:.4f}"])
        found = self.convergence()
        return [*rows, ["converged", f"{found['converged']:.1%}"]] if found else rows


def result_of(output: ModelOutput) -> ModelOutput:
    """What :func:`join` needs of a batch's output; the rest, several times as large, can go."""
    stats = output.fusion.stats
    if stats is not None:
        stats = SolverStats(stats.converged, stats.residual, stats.steps, stats.trace[:0])
    prediction = output.prediction.detach()
    alone = {m: said.detach() for m, said in output.unimodal.items()}
    return ModelOutput(prediction, FusionOutput(prediction, {}, stats=stats), unimodal=alone, present=output.present)


def joined(given: list[Tensor | None]) -> Tensor | None:
    """What every batch has of something, on the CPU; None where they have none."""
    tensors = [tensor.cpu() for tensor in given if tensor is not None]
    return torch.cat(tensors) if tensors else None


def join(outputs: list[ModelOutput]) -> Evaluation:
    """The outputs of all batches, at least one, as one evaluation without metrics yet; float32 or float64."""
    prediction = torch.cat([output.prediction.detach().cpu() for output in outputs])
    evaluation = Evaluation({}, prediction.to(torch.promote_types(prediction.dtype, torch.float32)))
    evaluation.unimodal = _joined_alone(outputs)
    stats = [output.fusion.stats for output in outputs]
    if all(s is not None for s in stats):
        evaluation.converged = torch.cat([s.converged.cpu() for s in stats if s is not None])
        evaluation.residual = torch.cat([s.residual.float().cpu() for s in stats if s is not None])
        evaluation.steps = torch.cat([s.steps.cpu() for s in stats if s is not None])
    return evaluation


def _joined_alone(outputs: list[ModelOutput]) -> dict[str, Tensor]:
    """What each modality says alone in all batches, NaN where it is absent."""
    names = dict.fromkeys(m for output in outputs for m in output.unimodal)
    found: dict[str, list[Tensor]] = {m: [] for m in names}
    for output in outputs:
        like = next(iter(output.unimodal.values()), None)
        for m, parts in found.items():
            if m in output.unimodal:
                said, mask = output.unimodal[m].float().cpu(), output.present.get(m)
                if mask is not None and mask.dim() == 1:
                    said = said.masked_fill(~mask.cpu().reshape(-1, *[1] * (said.dim() - 1)), torch.nan)
                parts.append(said)
            elif like is not None:
                parts.append(torch.full(like.shape, torch.nan))
    # An output that knows of no modality, such as that of a task's own, leaves nothing to compare.
    count = sum(len(output.prediction) for output in outputs)
    joined = {m: torch.cat(parts) for m, parts in found.items()}
    return {m: said for m, said in joined.items() if len(said) == count}
