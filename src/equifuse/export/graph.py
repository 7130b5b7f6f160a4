"""A trained model as a module that can be recorded as a graph: inference form, solves of fixed shape."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from equifuse.data.columns import kinds_of
from equifuse.encoders import SequenceEncoder
from equifuse.encoders.preparation import raw_moments
from equifuse.encoders.preprocessed import takes_lengths
from equifuse.errors import ConvergenceWarning, InputError, UnknownNameError
from equifuse.fusion import GMF, DEQFusion, Fusion
from equifuse.fusion.deq.monitor import find_equilibrium
from equifuse.model import FusionModel
from equifuse.model.ensemble import members_of
from equifuse.registry import TASKS
from equifuse.solve import SolverStats, StaticAnderson

# Samples that are made up where none are given, and the steps of a made-up sequence.
_MADE_UP, _MADE_UP_STEPS = 64, 8


@dataclass(frozen=True)
class Examples:
    """Samples that a model is recorded with and checked on.

    Attributes:
        inputs: modality name -> ``(B, …)``, every modality of the model.
        present: modality name -> bool ``(B,)``, every modality; empty if the graph is to have no masks.
        lengths: modality name -> int64 ``(B,)``, of the modalities whose encoder takes lengths.
        made_up: whether they are drawn at random.
    """

    inputs: dict[str, Tensor]
    present: dict[str, Tensor]
    lengths: dict[str, Tensor] = field(default_factory=dict)
    made_up: bool = False

    def __len__(self) -> int:
        return next(iter(self.inputs.values())).shape[0]

    def arguments(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """The arguments for a call of :class:`InferenceGraph`."""
        return self.inputs, self.present, self.lengths

    def select(self, rows: slice) -> Examples:
        """Some of them."""
        inputs, present, lengths = ({m: tensor[rows] for m, tensor in part.items()} for part in self.arguments())
        return Examples(inputs, present, lengths, self.made_up)

    def with_holes(self) -> Examples:
        """The same samples, from which one more modality each is removed in turn; from every last of ``M + 1`` none."""
        if not self.present:
            return self
        turn = torch.arange(len(self)) % (len(self.present) + 1)
        return replace(self, present={m: mask & (turn != i) for i, (m, mask) in enumerate(self.present.items())})


class InferenceGraph(nn.Module):
    """A model's inference form: ``(inputs, present, lengths) -> {output, residual, converged}``.

    A copy on the CPU, in evaluation mode. GMF is folded, which is exact; an equilibrium is solved for by
    :class:`~equifuse.solve.StaticAnderson`. Preprocessing and encoders are part of it.

    Args:
        model: the trained model.

    Attributes:
        equilibria: the deep-equilibrium fusions in it: none or one, of an ensemble one for each member that has one.
    """

    def __init__(self, model: FusionModel) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).cpu().eval()
        self.members = members_of(self.model)
        for member in self.members:
            member.fusion = _folded(member.fusion)
        self.requires_grad_(False)
        for part in self.model.modules():
            if isinstance(part, Fusion):
                part.loss_weights = {}  # nobody trains it: what is not asked for is not computed
        found = [find_equilibrium(member) for member in self.members]
        self.equilibria: list[DEQFusion] = [fusion for fusion in found if fusion is not None]
        for fusion in self.equilibria:
            fusion.strict = False
            fusion.warm_start = None
        self.output = "prediction" if model.task is None else TASKS.get(model.task).output_name

    def forward(
        self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor], lengths: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Predict a batch.

        Args:
            inputs: modality name -> ``(B, …)``.
            present: modality name -> bool ``(B,)``.
            lengths: modality name -> int64 ``(B,)``.

        Returns:
            The task's output ``(B, K)``: ``"logits"``, ``"embedding"`` or ``"prediction"``; for a fusion that solves
            for an equilibrium also ``"residual"`` ``(B,)`` and ``"converged"``, bool ``(B,)``.
        """
        out = self.model(inputs, present, lengths=lengths)
        found = {self.output: out.prediction}
        if out.fusion.stats is not None:
            found |= {"residual": out.fusion.stats.residual, "converged": out.fusion.stats.converged}
        return found

    def outputs(self, examples: Examples) -> dict[str, Tensor]:
        """The outputs for the examples; convergence is among them, so there are no warnings."""
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found: dict[str, Tensor] = self(*examples.arguments())
        return found

    def steps(self, examples: Examples) -> tuple[Tensor, int]:
        """Relative residuals ``(B,)``, and the most evaluations that a part of an equilibrium took."""
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            stats = self.model(examples.inputs, examples.present, lengths=examples.lengths).fusion.stats
        return stats.residual, _most_steps(stats)


def _most_steps(stats: SolverStats) -> int:
    """The most evaluations that a single solve took."""
    return max(map(_most_steps, stats.parts.values())) if stats.parts else int(stats.steps.max())


def _folded(fusion: Fusion) -> Fusion:
    """A GMF in its inference form, behind another too."""
    if not isinstance(fusion, GMF):
        return fusion
    folded = fusion.folded()
    if folded.backend is not None:
        folded.backend = _folded(folded.backend)
    return folded


def check_exportable(model: FusionModel) -> None:
    """Raise an error for a model that cannot be recorded.

    Raises:
        InputError: a GRU over padded sequences.
    """
    for name, encoder in ((name, e) for member in members_of(model) for name, e in member.encoders.items()):
        for part in encoder.modules():
            if isinstance(part, SequenceEncoder) and part.pooling == "gru":
                raise InputError(
                    f"modality {name!r} has a GRU, whose padded sequences cannot be exported; train with another "
                    "encoder, such as 'attention' or 'transformer'"
                )


def make_examples(
    model: FusionModel,
    inputs: Mapping[str, Tensor] | None,
    present: Mapping[str, Tensor] | None,
    lengths: Mapping[str, Tensor] | None,
    *,
    masks: bool,
) -> Examples:
    """Examples of all a graph's inputs: those given, completed, or samples made up from what standardising learned.

    Raises:
        InputError: too few or incomplete examples, or none for a model of unknown shapes.
        UnknownNameError: a modality the model does not have.
    """
    for name in (*(inputs or {}), *(present or {}), *(lengths or {})):
        if name not in model.encoders:
            raise UnknownNameError("modality", name, model.modalities)
    if inputs is not None:
        missing = [m for m in model.modalities if m not in inputs]
        if missing:
            raise InputError(f"the examples have no modality {missing[0]!r}; give all, and say in present who has it")
    given = {m: _made_up(model, m) if inputs is None else inputs[m].detach().cpu() for m in model.modalities}
    count = next(iter(given.values())).shape[0]
    if count < 2:
        raise InputError(f"exporting needs at least 2 examples, got {count}")
    if present and not masks and not all(bool(mask.all()) for mask in present.values()):
        raise InputError(
            "some examples lack a modality, but without masks the program has no inputs for presence; use masks=True"
        )
    everywhere = torch.ones(count, dtype=torch.bool)
    mask = {m: (present or {}).get(m, everywhere).cpu() for m in model.modalities} if masks else {}
    steps = {
        m: (lengths or {}).get(m, torch.full((count,), given[m].shape[1])).cpu()
        for m, encoder in model.encoders.items()
        if takes_lengths(encoder)
    }
    return Examples(given, mask, steps, inputs is None)


def _made_up(model: FusionModel, name: str) -> Tensor:
    """``(64, …)`` draws from a normal distribution, of mean and deviation as in training where that is known."""
    if name not in model.shapes:
        raise InputError(f"the shape of modality {name!r} is not known; pass example=, a few samples of each modality")
    encoder, shape = model.encoders[name], model.shapes[name]
    if takes_lengths(encoder):
        shape = (_MADE_UP_STEPS, *shape[1:])
    drawn = torch.randn(_MADE_UP, *shape, generator=torch.Generator().manual_seed(0))
    drawn = drawn.to(next((p.dtype for p in model.parameters()), drawn.dtype))
    found = raw_moments(encoder)
    if found is not None:
        own = shape[1:] if takes_lengths(encoder) else shape
        mean, deviation = (x.cpu().to(drawn).reshape(own) for x in found)
        drawn = mean + deviation * drawn
    codes = [kind == "category" for kind in kinds_of(model.schema.get(name, ()))]
    if any(codes):
        drawn = torch.where(torch.tensor(codes), drawn.round().clamp(min=0), drawn)
    return drawn


def choose_steps(graph: InferenceGraph, sets: list[Examples], solver: StaticAnderson) -> int:
    """How many evaluations take every example to the tolerance: the fewest, and a quarter more for other samples.

    Raises:
        InputError: not even ``solver.max_steps`` do.
    """
    for fusion in graph.equilibria:
        fusion.solver = solver
    residuals, steps = zip(*(graph.steps(examples) for examples in sets), strict=True)
    residual = torch.cat(residuals)
    failed = int((residual > solver.tol).sum())
    if failed:
        raise InputError(
            f"{failed} of {len(residual)} examples did not reach the tolerance {solver.tol:g} within "
            f"{solver.max_steps} evaluations (largest relative residual {residual.max():.1e}); raise the solver's tol "
            "or max_steps, or give steps= to export so many and the residual with them"
        )
    needed: int = max(steps)
    return needed + max(2, -(-needed // 4))


def record(graph: InferenceGraph, examples: Examples) -> torch.export.ExportedProgram:
    """The graph for any batch size and any length of sequences.

    Raises:
        InputError: PyTorch cannot record it.
    """
    batch = torch.export.Dim("batch", min=1)
    shapes: dict[str, dict[int, Any]] = {m: {0: batch} for m in examples.inputs}
    for i, m in enumerate(examples.lengths):
        shapes[m][1] = torch.export.Dim(f"steps{i}", min=1)
    dynamic = (shapes, {m: {0: batch} for m in examples.present}, {m: {0: batch} for m in examples.lengths})
    try:
        with torch.no_grad(), _plain_attention(), quiet():
            program = torch.export.export(graph, examples.arguments(), dynamic_shapes=dynamic, strict=False)
    except Exception as error:  # whatever a module of the caller's own makes of it
        raise InputError(f"the model cannot be recorded by torch.export: {_first_line(error)}") from error
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths of source files are nobody's business
    return program


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def quiet() -> Iterator[None]:
    """A context without the exporters' messages about their own code and about packages that are not needed."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Transformer layers as their single operations, not as one that only PyTorch has."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


Runner = Callable[[Examples], dict[str, Tensor]]


@torch.no_grad()
def largest_error(run: Runner, reference: Runner, sets: list[Examples], output: str) -> float:
    """The largest absolute difference of an output between two forms, for whole sets, a part, and one sample."""
    worst = 0.0
    for examples in sets:
        for rows in (slice(None), slice(len(examples) // 2), slice(1)):
            some = examples.select(rows)
            worst = max(worst, float((run(some)[output] - reference(some)[output]).abs().max()))
    return worst
