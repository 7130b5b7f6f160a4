"""Several models as one: their predictions are averaged as the task has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from equifuse.errors import InputError
from equifuse.fusion import Fusion, FusionOutput
from equifuse.fusion.base import FlatInputs
from equifuse.model.module import FusionModel
from equifuse.registry import TASKS
from equifuse.solve import SolverStats

Average = Callable[[Tensor, Tensor], Tensor]


class MemberFusion(Fusion):
    """What the members of an :class:`Ensemble` make of their encodings, averaged.

    Its inputs are the encodings of all members side by side. ``fused`` is the prediction, ``decisions`` has what each
    modality says alone, averaged over the members that say it.

    Args:
        members: the models.
        weights: what each counts, adding up to 1.
    """

    name: ClassVar[str] = "ensemble"
    decides = True

    def __init__(self, members: Sequence[FusionModel], weights: Tensor) -> None:
        dims = {m: sum(member.fusion.dims[m] for member in members) for m in members[0].modalities}
        super().__init__(dims)
        self.members = nn.ModuleList(members)
        self.weights: Tensor
        self.register_buffer("weights", weights)
        task = members[0].task
        self._average: Average = _mean if task is None else TASKS.get(task).averaging(members[0].classes)
        self.out_dim = members[0].n_outputs or 1

    def config(self) -> dict[str, Any]:
        """What the members are."""
        return {"name": self.name, "members": [member.fusion.config() for member in self._each()]}

    def _each(self) -> list[FusionModel]:
        return [member for member in self.members if isinstance(member, FusionModel)]

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """Never called: members take encodings of any shape."""
        raise NotImplementedError

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None = None,
        *,
        index: Tensor | None = None,
    ) -> FusionOutput:
        """Average what the members predict; see :meth:`Fusion.forward` for the arguments."""
        members = self._each()
        widths = {m: [member.fusion.dims[m] for member in members] for m in inputs}
        parts = {m: torch.split(x, widths[m], dim=-1) for m, x in inputs.items()}
        outputs = [
            member.predict_encoded({m: x[e] for m, x in parts.items()}, present, index=index)
            for e, member in enumerate(members)
        ]
        fused = self._average(torch.stack([output.prediction for output in outputs]), self.weights)
        stats = [(f"member {e + 1}", out.fusion.stats) for e, out in enumerate(outputs) if out.fusion.stats is not None]
        alone = {}
        for m in inputs:
            said = [(out.unimodal[m], w) for out, w in zip(outputs, self.weights, strict=True) if m in out.unimodal]
            if said:
                shares = torch.stack([w for _, w in said])
                alone[m] = self._average(torch.stack([each for each, _ in said]), shares / shares.sum())
        return FusionOutput(fused, dict(inputs), stats=_together(dict(stats)), decisions=alone)


class Ensemble(FusionModel):
    """Several models as one, of the same modalities, task and classes: it is used like any other model.

    Probabilities are averaged, values and log-risks too; embeddings are put side by side, so that cosines are averaged.
    Each member prepares and encodes the inputs for itself.

    >>> members = [ef.build_model({"a": 3, "b": 4}, "classification", 2, fusion=name) for name in ("gmu", "linear")]
    >>> model = ef.model.Ensemble(members, weights=[3, 1]).eval()
    >>> inputs = {"a": torch.randn(8, 3), "b": torch.randn(8, 4)}
    >>> p, q = (torch.softmax(member.eval()(inputs).prediction, 1) for member in members)
    >>> torch.allclose(torch.softmax(model(inputs).prediction, 1), 0.75 * p + 0.25 * q, atol=1e-5)
    True

    Args:
        members: the models.
        weights: what each counts, > 0; None for the same.

    Attributes:
        members: the models.
        weights: ``(E,)``, adding up to 1.

    Raises:
        InputError: there is no member, they do not fit together, or a weight is not positive.
    """

    def __init__(self, members: Sequence[FusionModel], weights: Sequence[float] | None = None) -> None:
        nn.Module.__init__(self)
        if not members:
            raise InputError("an ensemble needs at least one member")
        first = members[0]
        for name in ("modalities", "task", "classes", "n_outputs", "shapes"):
            values = [getattr(member, name) for member in members]
            if any(value != values[0] for value in values):
                raise InputError(f"the members of an ensemble have different {name}: {values[0]} and others")
        given = torch.tensor([1.0] * len(members) if weights is None else list(weights), dtype=torch.float64)
        if len(given) != len(members) or not bool((given > 0).all()):
            raise InputError(f"an ensemble of {len(members)} needs as many weights above 0, got {given.tolist()}")
        kind = next((p.dtype for p in first.parameters()), torch.float32)
        self.fusion = MemberFusion(members, (given / given.sum()).to(kind))
        self.head = nn.Identity()
        self.unimodal = self.skip = None
        # What is known of inputs and outputs is the same for all members.
        known = {name: value for name, value in vars(first).items() if name[0] != "_" and name != "training"}
        for name, value in {**known, "recipe": None}.items():
            setattr(self, name, value)

    @property
    def members(self) -> list[FusionModel]:
        """The models."""
        return [member for member in self.fusion.members if isinstance(member, FusionModel)]  # type: ignore[union-attr]

    @property
    def weights(self) -> Tensor:
        """``(E,)``, adding up to 1."""
        found: Tensor = self.fusion.weights  # type: ignore[assignment]
        return found

    @property
    def encoders(self) -> nn.ModuleDict:  # type: ignore[override]
        """The first member's encoders: how inputs are to be given is the same for all."""
        return self.members[0].encoders

    @property
    def n_outputs(self) -> int | None:
        """Number of outputs of each member."""
        return self.members[0].n_outputs

    def encode(
        self,
        inputs: Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None = None,
        *,
        lengths: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The encodings of all members side by side, ``(B, ..., Σ_e l_m)`` for each modality."""
        encoded = [member.encode(inputs, present, lengths=lengths) for member in self.members]
        return {m: torch.cat([each[m] for each in encoded], dim=-1) for m in encoded[0]}

    def fit_preprocessing_in_pieces(self, pieces: Any) -> None:
        """Refused: each member was fitted with its own training.

        Raises:
            InputError: always.
        """
        raise InputError("the members of an ensemble have their own preparation; fit each of them")


def members_of(model: FusionModel) -> list[FusionModel]:
    """The members of an ensemble, or the model alone.

    >>> from equifuse.model.ensemble import members_of
    >>> model = ef.build_model({"a": 3, "b": 4}, "regression", 1)
    >>> members_of(model) == [model]
    True
    """
    return model.members if isinstance(model, Ensemble) else [model]


def _mean(outputs: Tensor, weights: Tensor) -> Tensor:
    return torch.einsum("e,e...->...", weights, outputs)


def _together(stats: Mapping[str, SolverStats]) -> SolverStats | None:
    """Solves of the same samples as one: converged if all are, largest residual, sum of steps."""
    if not stats:
        return None
    each = list(stats.values())
    longest = max(len(s.trace) for s in each)
    traces = [torch.cat([s.trace, s.trace[-1:].expand(longest - len(s.trace), *s.trace.shape[1:])]) for s in each]
    return SolverStats(
        converged=torch.stack([s.converged for s in each]).all(0),
        residual=torch.stack([s.residual for s in each]).amax(0),
        steps=torch.stack([s.steps for s in each]).sum(0),
        trace=torch.stack(traces).amax(0),
        parts=dict(stats),
    )
