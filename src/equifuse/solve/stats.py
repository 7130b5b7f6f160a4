"""What a fixed-point solve achieved, sample by sample."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from equifuse.solve.transforms import values


@dataclass
class SolverStats:
    """What a fixed-point solve achieved, sample by sample.

    >>> z, stats = ef.fixed_point(lambda z: 0.5 * z + 1, torch.zeros(3, 2))
    >>> stats.converged
    tensor([True, True, True])
    >>> sorted(stats.summary())
    ['converged', 'max_residual', 'max_steps', 'mean_steps']

    Attributes:
        converged: bool ``(B,)``, whether the relative residual reached the tolerance.
        residual: ``(B,)``, the relative residual ``‖f(z) − z‖ / ‖f(z)‖`` of the returned iterate.
        steps: int64 ``(B,)``, evaluations of ``f`` made for the sample until it stopped.
        trace: ``(K, B)``, the relative residual at each of ``K`` evaluations; a sample that has stopped repeats its
            last value.
        parts: statistics of each part of a composite solve (one modality, the fusion state) by name; {} otherwise.
        backward: list that the backward pass fills with the statistics of its own solve; read it as ``adjoint``.
        own: which rows of the backward solve belong to these samples; None for all.
        unsolved: number of samples that did not converge, where it is known without waiting for a device; else None.
        iterates: differentiable states on the way, if ``fixed_point(..., iterates=)`` asked for them.
    """

    converged: Tensor
    residual: Tensor
    steps: Tensor
    trace: Tensor
    parts: dict[str, SolverStats] = field(default_factory=dict)
    backward: list[SolverStats] = field(default_factory=list)
    own: slice | None = None
    unsolved: int | None = None
    iterates: list[Any] = field(default_factory=list)

    @property
    def adjoint(self) -> SolverStats | None:
        """Statistics of the latest backward solve; None before the first one."""
        if not self.backward:
            return None
        latest = self.backward[-1]
        return latest if self.own is None else latest.select(self.own)

    def all_converged(self) -> bool:
        """Whether every sample converged."""
        return self.unsolved == 0 if self.unsolved is not None else bool(values(self.converged).all())

    def select(self, rows: slice) -> SolverStats:
        """The statistics of the samples ``rows`` alone."""
        converged, residual, steps = (x[rows].clone() for x in (self.converged, self.residual, self.steps))
        return SolverStats(converged, residual, steps, self.trace[:, rows].clone())

    def first(self, count: int) -> SolverStats:
        """The statistics of the first ``count`` samples, including those of the parts."""
        some = self.select(slice(count))
        some.parts = {name: part.first(count) for name, part in self.parts.items()}
        some.backward, own = self.backward, self.own or slice(None)
        some.own = slice(own.start or 0, (own.start or 0) + count)
        some.iterates = [z[:count] for z in self.iterates]
        return some

    def summary(self) -> dict[str, float]:
        """Numbers for a log line: share converged, mean and largest number of steps, largest residual."""
        if self.converged.numel() == 0:
            return {"converged": 1.0, "mean_steps": 0.0, "max_steps": 0.0, "max_residual": 0.0}
        return {
            "converged": self.converged.float().mean().item(),
            "mean_steps": self.steps.float().mean().item(),
            "max_steps": float(self.steps.max().item()),
            "max_residual": self.residual.max().item(),
        }

    def reshape(self, *leading: int) -> SolverStats:
        """The same statistics with the sample axis viewed as ``leading``, including those of the parts."""
        return SolverStats(
            self.converged.reshape(leading),
            self.residual.reshape(leading),
            self.steps.reshape(leading),
            self.trace.reshape(len(self.trace), *leading),
            {name: part.reshape(*leading) for name, part in self.parts.items()},
            self.backward,  # the same list: what the backward pass writes is seen in every view
            self.own,
            self.unsolved,
            [z.reshape(*leading, *z.shape[1:]) for z in self.iterates],
        )
