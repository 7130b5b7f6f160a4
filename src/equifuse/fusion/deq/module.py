"""Deep-equilibrium fusion: the fixed point of a recursive purify-then-combine process."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from equifuse.errors import InputError, UnknownNameError
from equifuse.fusion.base import FlatInputs, Fusion, FusionOutput, flatten
from equifuse.fusion.deq.contraction import GATE_BOUND, scaled_blocks, scaled_fusion
from equifuse.fusion.deq.contraction import NORM_EPS as CONTRACTION_EPS
from equifuse.fusion.deq.fusion_map import FusionMap, FusionWeights
from equifuse.fusion.deq.group_norm import GROUPS, NORM_EPS
from equifuse.fusion.deq.initialization import OUTER_GAIN, initialize
from equifuse.fusion.deq.injection import inject
from equifuse.fusion.deq.modality_map import BlockWeights, ModalityMap
from equifuse.fusion.deq.parameters import ModalityBlocks, NormParameters
from equifuse.fusion.deq.problem import Problem, Solved, merge_stats, split_stats
from equifuse.fusion.deq.reference_weights import from_reference
from equifuse.fusion.deq.regularizers import regularizers
from equifuse.fusion.make import register
from equifuse.solve import (
    Anderson,
    Gradient,
    Solver,
    SolverStats,
    Unrolled,
    fixed_point,
    make_gradient,
    make_solver,
)
from equifuse.solve.gradient import report
from equifuse.solve.loop import relative_residual, without_autocast, work_dtype
from equifuse.solve.warm_start import EquilibriumCache

# Converged samples leave the batch, so a generous limit costs only what the stragglers need.
_SOLVER = Anderson(tol=1e-4, max_steps=100)
# What the fusion state is called among the parts.
_FUSION = "fusion"


@register
class DEQFusion(Fusion):
    """Deep-equilibrium fusion (Ni et al. 2023, arXiv 2306.16645).

    The state ``z = (z_1 … z_M, z_fuse)``, all of width ``d = dim``, solves ``z = f(z)`` with

    - modality blocks ``f_m(z_m; x_m) = GN(ReLU(u + z_m))``, ``u = GN(h W2 + b2 + x_m)``, ``h = ReLU(GN(z_m W1 + b1))``;
    - purify ``α_m = (z_fuse + f_m) Wα + bα`` (one gate for all, linear), ``z'_m = α_m ⊙ z_fuse``;
    - combine ``f_fuse = GN(ReLU((Σ_m z'_m) Wf + bf + x_fuse))``, ``x_fuse = Σ_m w_m x_m + β``.

    GN has 4 groups. ``fused`` is ``z_fuse*``, ``modalities`` holds the ``z_m*`` (zeros where absent). All sums run
    over the modalities present in each sample; a sample with none is fused from ``β`` and the biases alone.

    The system is block triangular, so it is solved as such, each part from its own ``f(0)``: first the ``z_m`` (each
    sample and modality stops on its own), then ``z_fuse`` given them, with
    ``Σ_m z'_m = z_fuse ⊙ ((Σ z_m + M z_fuse) Wα + M bα)`` computed by one product. The fixed point and the gradients
    are those of the joint system; the adjoint runs in reverse order. Where the mean ``|γ3|`` exceeds 0.5, Anderson and
    Broyden go by ``φ(φ(f(z)))`` for ``f(z) = φ(z)``, ``φ(·) = GN(ReLU(u(z) + ·))``: no product more.
    ``stats.parts`` has the statistics of each modality and of ``"fusion"``; ``stats`` itself holds the largest
    residual of the parts, and the steps of the slowest modality plus those of the fusion state.

    Initialisation. PyTorch's default has a spectral radius of 1.2 to 1.5: no attracting fixed point at all. Here, on
    standardised inputs, the radius of ``∂f/∂z`` has a median of 0.3 to 0.45 for ``d`` from 16 to 1024 and ``M`` from 2
    to 8 (at ``d = 16``, where a norm group has four units, about one sample in a thousand exceeds 1), and Anderson
    needs about 10 evaluations to 1e-4. What it takes, each for a reason:

    - weights ``N(0, (0.25/√d)²)``: a spectral norm of about 0.5 whatever ``d``; the combining weight is divided by
      ``M`` for ``combine="sum"``, because the gated sum grows with ``M``;
    - outermost gains 0.25: at gain 1 the ReLU-normalise step alone has a radius of about 0.75;
    - ``b1`` fans out over [-0.5, 0.5] within each norm group, and ``bf`` over [-0.5, 1.5]·√M: a norm divides by its
      group's deviation, and would amplify without limit where a group happens to be nearly constant;
      the injection's norm has bias 0.5, so that few groups are switched off by the ReLU;
    - the gate's bias is 1: the gate is open, so modalities and fusion state matter from the first step.

    Guaranteed contraction. With ``contraction=κ`` every norm has ε = 1 (which makes it 1-Lipschitz), the state enters
    the gate's product clamped to [-1, 1], the gate is bounded smoothly by 2 per modality, and the outer gains are
    multiplied by what it takes to make ``max|γ3| (1 + max|γ1| ‖W1‖ max|γ2| ‖W2‖) ≤ κ`` for each ``f_m`` and
    ``max|γ| ‖Wf‖ (2 + ‖Wα‖) M ≤ κ`` for ``f_fuse`` (``M`` → 1 for ``combine="mean"``), with bounds on the spectral
    norms that hold for any matrix. Each ``f_m`` is then a contraction, so ``z_m*`` exists and is unique (Banach); given
    these, so is ``f_fuse``. The derivations are in :mod:`equifuse.fusion.deq.contraction`.

    Args:
        dims: modality name -> width ``l_m``. Each is projected to ``dim`` by an affine map.
        dim: common width ``d``, a multiple of 4; default 128.
        combine: ``"sum"`` (the paper, default) or ``"mean"``, which divides the gated sum by the number of modalities
            present, so that the gain does not depend on it.
        solver: a solver, its name, or ``{"name": …, options}``; default Anderson to 1e-4 in at most 100 evaluations
            (converged samples leave the batch, so the limit concerns stragglers alone).
            A plain attribute, may be replaced later.
        gradient: likewise a gradient rule; default :class:`~equifuse.solve.Implicit`.
        jacobian_weight: default weight of the ``jacobian`` loss (Hutchinson estimate of ``‖∂f/∂z‖²_F/(B·N)`` of the
            joint map, 2 probes), computed in training mode when above 0; the paper's BRCA run used 20.
        spectral_weight: likewise of the ``spectral`` loss, which is 0 while the spectral radius of ``∂f/∂z`` lies in
            ``spectral_band`` and grows quadratically outside; see :func:`equifuse.spectral_penalty`.
        spectral_band: lowest and highest radius; default (0.7, 0.9), as in mutual-equilibrium models.
        residual_weight: likewise of the ``residual`` loss: ``‖f(z) − z‖² / ‖f(z)‖²`` after 3 plain steps from zero.
            Small means that few steps suffice.
        contraction: a number κ in (0, 1): the equilibrium is unique, and plain iteration of each part gains a factor
            of κ per step at least, by construction, for any weights and inputs; see above. None (default) is the paper.
        mixed_precision: whether a solve may round the factors of some of its matrix products to bfloat16, where its
            tolerance does not feel it (equilibria and adjoints still meet it, in float32) and where it saves time:
            large float32 batches on a CPU with bfloat16 instructions. Default True.
        projection: False feeds inputs as they are; all widths must then equal ``dim``.
        strict: raise :class:`~equifuse.errors.NotConvergedError` instead of warning.
        iterations: ablation "no equilibrium": apply the joint ``f`` this many times from zero, weight-tied, and
            differentiate through it; None (default) solves for the equilibrium.
        modality_blocks: ablation "no modality projection": False makes ``f_m`` the identity, the gate sees ``x_m``.
        gate: ablation: False passes the gate's input through, ``z'_m = z_fuse + f_m``.
        weighted_sum_only: ablation: True returns ``x_fuse`` itself.

    Attributes:
        warm_start: an :class:`~equifuse.EquilibriumCache`, or None (default). In training mode, calls with ``index=``
            then start from the equilibria that the same samples had the last time.

    Raises:
        InputError: an option out of range, or widths that differ from ``dim`` without projection.
        UnknownNameError: an unknown solver, gradient or ``combine``.
    """

    name: ClassVar[str] = "deq"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 128,
        *,
        combine: Literal["sum", "mean"] = "sum",
        solver: Solver | str | Mapping[str, Any] = _SOLVER,
        gradient: Gradient | str | Mapping[str, Any] = "implicit",
        jacobian_weight: float = 0.0,
        spectral_weight: float = 0.0,
        spectral_band: tuple[float, float] = (0.7, 0.9),
        residual_weight: float = 0.0,
        contraction: float | None = None,
        mixed_precision: bool = True,
        projection: bool = True,
        strict: bool = False,
        iterations: int | None = None,
        modality_blocks: bool = True,
        gate: bool = True,
        weighted_sum_only: bool = False,
    ) -> None:
        super().__init__(dims)
        if dim < GROUPS or dim % GROUPS:
            raise InputError(f"dim must be a positive multiple of {GROUPS} (the number of norm groups), got {dim}")
        if combine not in ("sum", "mean"):
            raise UnknownNameError("combine", combine, ("sum", "mean"))
        weights = {"jacobian": jacobian_weight, "spectral": spectral_weight, "residual": residual_weight}
        for label, weight in weights.items():
            if weight < 0:
                raise InputError(f"{label}_weight must not be negative, got {weight}")
        if not 0 <= spectral_band[0] < spectral_band[1]:
            raise InputError(f"spectral_band must be two increasing numbers of at least 0, got {spectral_band}")
        if contraction is not None and not 0 < contraction < 1:
            raise InputError(f"contraction must be between 0 and 1, or None, got {contraction}")
        if iterations is not None and iterations < 1:
            raise InputError(f"iterations must be at least 1 or None, got {iterations}")
        if not projection and any(width != dim for width in self.dims.values()):
            raise InputError(f"without projection every width must equal dim={dim}, got {self.dims}")
        self.dim = self.out_dim = dim
        self.combine: Literal["sum", "mean"] = combine
        self.solver = make_solver(solver)
        self.gradient = make_gradient(gradient)
        self.projection, self.strict, self.iterations = projection, strict, iterations
        self.mixed_precision = mixed_precision
        self.has_blocks, self.has_gate, self.weighted_sum_only = modality_blocks, gate, weighted_sum_only
        self.contraction, self.spectral_band = contraction, (float(spectral_band[0]), float(spectral_band[1]))
        self.loss_weights = {label: weight for label, weight in weights.items() if weight}

        self.warm_start: EquilibriumCache | None = None
        self._observers: list[list[Solved]] = []

        count = len(self.dims)
        self.project = nn.ModuleDict({m: nn.Linear(width, dim) for m, width in self.dims.items()} if projection else {})
        self.fuse_weights = nn.Parameter(torch.ones(count))
        self.fuse_bias = nn.Parameter(torch.zeros(1))
        self.blocks = ModalityBlocks(count, dim) if modality_blocks and not weighted_sum_only else None
        self.gate = nn.Linear(dim, dim) if gate and not weighted_sum_only else None
        self.mix = nn.Linear(dim, dim) if not weighted_sum_only else None
        self.norm = NormParameters(dim, gain=OUTER_GAIN) if not weighted_sum_only else None
        self.reset_parameters()

    @property
    def cache(self) -> EquilibriumCache | None:
        """Deprecated name of ``warm_start``."""
        warnings.warn("use warm_start in place of cache", DeprecationWarning, stacklevel=2)
        return self.warm_start

    @cache.setter
    def cache(self, value: EquilibriumCache | None) -> None:
        warnings.warn("use warm_start in place of cache", DeprecationWarning, stacklevel=2)
        self.warm_start = value

    def reset_parameters(self) -> None:
        """Draw the initial weights anew; see the class docstring for the choice."""
        initialize(self)

    # ---- the mathematics -------------------------------------------------------------------------------------

    def _problem(self, rows: FlatInputs) -> Problem:
        """Project the inputs and gather everything that stays constant during the solve."""
        dtype = work_dtype(rows.like.dtype)
        names = list(rows.values)
        order = list(self.dims)
        index = [order.index(m) for m in names]
        xs = [self._project(m, v).to(dtype) for m, v in rows.values.items()]
        mask = None
        count = xs[0].new_full((rows.count, 1), len(names))
        if any(rows.masks[m] is not None for m in names):
            mask = torch.stack([rows.mask(m) for m in names])
            count = mask.sum(0).to(dtype)
        x, x_fuse = inject(xs, mask, self.fuse_weights[index].to(dtype), self.fuse_bias.to(dtype))
        blocks = None
        if self.blocks is not None:
            stacked = self.blocks.weights()
            blocks = BlockWeights(*((p if len(names) == len(order) else p[index]).to(dtype) for p in stacked))
        fusion = gate_bias = None
        if self.mix is not None and self.norm is not None:
            gate = None if self.gate is None else self.gate.weight.to(dtype)
            gate_bias = None if self.gate is None else self.gate.bias.to(dtype)
            rest = (self.mix.weight, self.mix.bias, self.norm.weight, self.norm.bias)
            fusion = FusionWeights(gate, *(p.to(dtype) for p in rest))
        if self.contraction is not None:
            blocks = scaled_blocks(blocks, self.contraction) if blocks is not None else None
            most = len(order) if self.combine == "sum" else 1
            fusion = scaled_fusion(fusion, most, self.contraction) if fusion is not None else None
        return Problem(names, x, mask, count, x_fuse, blocks, fusion, gate_bias)

    def _project(self, name: str, x: Tensor) -> Tensor:
        if not self.projection:
            return x
        linear = self.project[name]
        assert isinstance(linear, nn.Linear)
        # Autocast is off here, and may have left the input narrower than the weights.
        projected: Tensor = linear(x.to(linear.weight.dtype))
        return projected

    def _modality_map(self, p: Problem) -> ModalityMap:
        assert p.blocks is not None
        return ModalityMap(p.x, p.mask, p.blocks, self._eps, rounding=self.mixed_precision)

    def _fusion_map(self, states: Tensor, p: Problem) -> FusionMap:
        """The fusion map given the modality states ``(M', R, d)``.

        The gate is linear and shared, so what it gets from the states, ``(Σ_m z_m) Wα + M bα``, is one product.
        """
        assert p.fusion is not None
        constant = states.sum(0)
        if p.fusion.gate is not None:
            assert p.gate_bias is not None
            constant = torch.addmm(p.count * p.gate_bias, constant, p.fusion.gate.t())
        share = p.count.clamp(min=1).reciprocal() if self.combine == "mean" else None
        bound = None if self.contraction is None else GATE_BOUND
        rounding = self.mixed_precision
        return FusionMap(p.x_fuse, constant, p.count, share, p.fusion, self._eps, bound, rounding=rounding)

    @property
    def _eps(self) -> float:
        return NORM_EPS if self.contraction is None else CONTRACTION_EPS

    def _joint_map(self, z: Tensor, p: Problem) -> Tensor:
        """``f`` on the whole state, ``(R, M' + 1, d) -> (R, M' + 1, d)``; the gate sees the new modality states."""
        states = p.x
        if p.blocks is not None:
            states = self._modality_map(p).evaluate(z[:, :-1].transpose(0, 1))[0]
        fused = self._fusion_map(states, p)(z[:, -1])
        return torch.cat([states.transpose(0, 1), fused[:, None]], dim=1)

    def equilibrium_map(
        self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None
    ) -> tuple[JointMap, Tensor]:
        """The joint map and its start, for monitors: ``ef.spectral_radius(*fusion.equilibrium_map(...))``.

        Args:
            inputs: as for the call.
            present: as for the call.

        Returns:
            ``f: (R, M' + 1, d) -> (R, M' + 1, d)`` over the ``M'`` modalities given (in order) and the fusion state,
            ``R`` all leading positions, and the start (zeros).

        Raises:
            InputError: the module is ``weighted_sum_only`` and has no equilibrium.
        """
        if self.mix is None:
            raise InputError("a weighted_sum_only fusion has no equilibrium map")
        _, rows = flatten(inputs, present, self.dims)
        p = self._problem(rows)
        return JointMap(self, p), p.x.new_zeros(rows.count, len(p.names) + 1, self.dim)

    # ---- the solve -------------------------------------------------------------------------------------------

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """Solve for the equilibrium of rows ``(R, l_m)``."""
        dtype = rows.like.dtype
        with without_autocast(rows.like.device):
            p = self._problem(rows)
            if self.mix is None:
                output = FusionOutput(p.x_fuse, self._by_name(p.x, p))
            elif self.iterations is not None:
                output = self._recur(p, self.iterations)
            else:
                output = self._solve(p, rows.index if self.training else None)
            if self.training and self.mix is not None:
                output.losses = self._penalties(output, p)
        output.fused = output.fused.to(dtype)
        output.modalities = {m: state.to(dtype) for m, state in output.modalities.items()}
        return output

    def _penalties(self, output: FusionOutput, p: Problem) -> dict[str, Tensor]:
        """The regularisers that have a weight, of the joint map."""
        wanted = {label for label, weight in self.loss_weights.items() if weight}
        if not wanted:
            return {}
        f = JointMap(self, p)
        z = torch.stack([output.modalities[m] for m in p.names] + [output.fused], dim=1).detach()
        return regularizers(f, z, wanted, self.spectral_band)

    def _by_name(self, states: Tensor, p: Problem) -> dict[str, Tensor]:
        """Stacked states ``(M', R, d)`` by modality, zeros for a modality that was never given."""
        given = dict(zip(p.names, states, strict=True))
        return {m: given[m] if m in given else states.new_zeros(states.shape[1:]) for m in self.dims}

    def _solve(self, p: Problem, index: Tensor | None) -> FusionOutput:
        parts: dict[str, SolverStats] = {}
        states, modality_map = p.x, None
        if p.blocks is not None:
            modality_map = self._modality_map(p)
            flat, stats = self._fixed_point(modality_map, p.names, index)
            states = flat.view_as(p.x)
            parts = split_stats(stats, p)
        fusion_map = self._fusion_map(states, p)
        fused, stats = self._fixed_point(fusion_map, [_FUSION], index)
        modality_parts = list(parts.values())
        parts[_FUSION] = stats
        merged = merge_stats(modality_parts, stats, parts)
        report(merged, "forward")
        if self._observers:
            solved = Solved(p.names, p.x, p.mask, modality_map, states, fusion_map, fused, parts)
            for seen in self._observers:
                seen.append(solved)
        return FusionOutput(fused, self._by_name(states, p), stats=merged)

    @contextmanager
    def observed(self) -> Iterator[list[Solved]]:
        """Within the context every solve is appended to the list that it yields; for monitors."""
        seen: list[Solved] = []
        self._observers.append(seen)
        try:
            yield seen
        finally:
            self._observers = [other for other in self._observers if other is not seen]

    def _fixed_point(
        self, f: ModalityMap | FusionMap, names: list[str], index: Tensor | None
    ) -> tuple[Tensor, SolverStats]:
        """The fixed point of one block of the system: of the ``names``, one after the other.

        It starts from what the cache has of the samples ``index``, or from ``f(0)`` or ahead of it, which is had almost
        for nothing.
        """
        with torch.no_grad():
            # A gradient through the steps needs steps: a start too near to the fixed point leaves it unfinished.
            start = f.at_zero(ahead=not isinstance(self.gradient, Unrolled))
            f.from_zero = self.warm_start is None or index is None
            cache = self.warm_start if index is not None else None
            if cache is not None and index is not None:
                pieces = zip(names, start.chunk(len(names)), strict=True)
                start = torch.cat([cache.start(name, index, piece) for name, piece in pieces])
        z, stats = fixed_point(f, start, solver=self.solver, gradient=self.gradient, strict=self.strict, warn=False)
        if cache is not None and index is not None:
            for name, piece in zip(names, z.detach().chunk(len(names)), strict=True):
                cache.store(name, index, piece)
        return z, stats

    def _recur(self, p: Problem, iterations: int) -> FusionOutput:
        """The weight-tied recursion: the joint map applied ``iterations`` times from zero."""
        z = p.x.new_zeros(p.x.shape[1], len(p.names) + 1, self.dim)
        trace = []
        for _ in range(iterations):
            before, z = z, self._joint_map(z, p)
            with torch.no_grad():
                trace.append(relative_residual((z - before).flatten(1), z.flatten(1)))
        residual = trace[-1]
        stats = SolverStats(
            converged=residual <= self.solver.tol,
            residual=residual,
            steps=torch.full_like(residual, iterations, dtype=torch.int64),
            trace=torch.stack(trace),
        )
        return FusionOutput(z[:, -1], self._by_name(z[:, :-1].transpose(0, 1), p), stats=stats)

    # ---- making and storing ----------------------------------------------------------------------------------

    @classmethod
    def from_reference(cls, state_dict: Mapping[str, Tensor], **options: Any) -> Self:
        """Read weights in the key layout of the authors' public code.

        The layout: ``func_.branches.{m}.conv1|conv2.weight|bias``, ``.gn1|gn2|gn3.weight|bias``; the last branch has
        ``gate``, ``fuse`` and ``gn3``; ``weights.{m}`` and ``bias`` make ``x_fuse``. There are no projections: inputs
        have width ``d``. Modalities are named ``"0"``, ``"1"``, … in index order.

        Args:
            state_dict: the tensors; their dtype becomes the module's.
            **options: ``solver``, ``gradient`` and others, as for the constructor.

        Raises:
            InputError: a key is missing, unexpected, or of the wrong shape.
        """
        return from_reference(cls, state_dict, **options)

    def config(self) -> dict[str, Any]:
        """Name, widths and options."""
        return {
            "name": self.name,
            "dims": self.dims,
            "dim": self.dim,
            "combine": self.combine,
            "solver": self.solver.config(),
            "gradient": self.gradient.config(),
            **{f"{label}_weight": self.loss_weights.get(label, 0.0) for label in ("jacobian", "spectral", "residual")},
            "spectral_band": list(self.spectral_band),
            "contraction": self.contraction,
            "mixed_precision": self.mixed_precision,
            "projection": self.projection,
            "strict": self.strict,
            "iterations": self.iterations,
            "modality_blocks": self.has_blocks,
            "gate": self.has_gate,
            "weighted_sum_only": self.weighted_sum_only,
        }


class JointMap:
    """``z -> f(z)`` of one batch on the joint state ``(R, M' + 1, d)``, the fusion state last.

    Args:
        fusion: the module whose map it is.
        problem: the batch's constants.
    """

    def __init__(self, fusion: DEQFusion, problem: Problem) -> None:
        self._fusion, self._problem = fusion, problem

    def __call__(self, z: Tensor) -> Tensor:
        """One evaluation."""
        return self._fusion._joint_map(z, self._problem)
