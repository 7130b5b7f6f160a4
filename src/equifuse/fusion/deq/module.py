"""Deep-equilibrium fusion: the fixed point of a recursive purify-then-combine process."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from equifuse.errors import InputError, UnknownNameError
from equifuse.fusion.base import FlatInputs, Fusion, FusionOutput, flatten
from equifuse.fusion.deq.contraction import GATE_BOUND, scaled_blocks, scaled_fusion
from equifuse.fusion.deq.contraction import NORM_EPS as CONTRACTION_EPS
from equifuse.fusion.deq.fusion_map import FusionMap, FusionWeights
from equifuse.fusion.deq.initialization import OUTER_GAIN, initialize
from equifuse.fusion.deq.injection import inject
from equifuse.fusion.deq.modality_map import BlockWeights, ModalityMap
from equifuse.fusion.deq.parameters import ModalityBlocks, NormParameters
from equifuse.fusion.deq.problem import Problem, Solved, merge_stats, split_stats
from equifuse.fusion.deq.products import least_rows
from equifuse.fusion.deq.reference_weights import from_reference
from equifuse.fusion.deq.regularizers import regularizers
from equifuse.fusion.deq.tokens import COUPLED, CoupledMap, TokenBatch, TokenCoupling, coupled_map, token_batch
from equifuse.fusion.make import register
from equifuse.kernels.reference import GROUPS
from equifuse.solve import (
    Anderson,
    Gradient,
    Solver,
    SolverStats,
    fixed_point,
    make_gradient,
    make_solver,
)
from equifuse.solve.gradient import report
from equifuse.solve.tensors import relative_residual, without_autocast, work_dtype
from equifuse.solve.warm_start import EquilibriumCache

# The ε of the norms.
NORM_EPS = 1e-5
# Converged samples leave the batch, so only slow samples pay for a high limit.
_SOLVER = Anderson(tol=1e-4, max_steps=100)
# The name of the fusion state among the parts.
_FUSION = "fusion"


@register
class DEQFusion(Fusion):
    """Deep-equilibrium fusion: the modalities and the fused state refine each other until nothing changes any more.

    Use it where interactions between modalities matter more than speed: it has the depth of many fusion layers with the
    weights of one. Each sample gets as many steps as it needs, and ``out.stats`` says whether it converged.

    >>> fusion = ef.DEQFusion({"text": 300, "image": 512}, dim=64)
    >>> out = fusion({"text": torch.randn(8, 300), "image": torch.randn(8, 512)})
    >>> out.fused.shape, bool(out.stats.converged.all())
    (torch.Size([8, 64]), True)

    Args:
        dims: modality name -> width ``l_m``. Each is projected to ``dim`` by an affine map.
        dim: width ``d`` of every state, a multiple of 4; default 128.
        combine: ``"sum"`` (the paper, default) or ``"mean"`` of the gated states of the modalities present.
        solver: a solver, its name, or ``{"name": …, options}``; default Anderson to 1e-4 in at most 100 evaluations.
        gradient: likewise a gradient rule; default :class:`~equifuse.Implicit`. Both may be replaced later.
        jacobian_weight: default weight of the ``jacobian`` loss, see :func:`equifuse.jacobian_penalty`; default 0.
        spectral_weight: default weight of the ``spectral`` loss, see :func:`equifuse.spectral_penalty`; default 0.
        spectral_band: lowest and highest spectral radius that is not penalised; default (0.7, 0.9).
        residual_weight: default weight of the ``residual`` loss, the relative residual after 3 plain steps; default 0.
        contraction: κ in (0, 1): every part of the map contracts at least by κ for any weights and inputs, so the
            equilibrium exists, is unique and is found by plain iteration. Default None, as in the paper.
        mixed_precision: has no effect; deprecated.
        projection: False uses inputs as they are; all widths must then equal ``dim``. Default True.
        strict: raise :class:`~equifuse.errors.NotConvergedError` instead of warning; default False.
        iterations: ablation: apply the map this many times from zero, without an equilibrium. Default None.
        modality_blocks, gate, weighted_sum_only: ablations: no modality blocks, no gate, only a weighted sum of inputs.
        tokens: ``"coupled"``: inputs may be sequences ``(B, T_m, l_m)`` of any lengths with masks ``(B, T_m)``; every
            step is a state, and attention couples them all; so are ``modalities``. Default None.

    With an :class:`~equifuse.EquilibriumCache` as attribute ``warm_start`` (default None), calls with ``index=`` in
    training mode start from the samples' previous equilibria. With numbers of evaluations as attribute ``intermediate``
    (default ``()``), ``stats.parts["fusion"].iterates`` has the fusion states after them in training mode, for losses.

    ``fused`` and ``modalities`` are the equilibria (zeros where absent). ``stats.parts`` has the statistics of each
    modality and of ``"fusion"``, ``stats`` the largest residual, and the steps of the slowest modality plus "fusion".

    Raises:
        InputError: an option is out of range, or widths differ from ``dim`` without projection.
        UnknownNameError: an unknown solver, gradient or ``combine``.

    Source: Ni et al. 2023, arXiv 2306.16645. The formulae, how they are solved, the initial weights, and the proof for
    ``contraction`` are in the documentation, "Deep-equilibrium fusion" (``docs/mathematics/equilibrium.md``).
    """

    name = "deq"

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
        tokens: Literal["coupled"] | None = None,
    ) -> None:
        super().__init__(dims)
        if tokens not in (None, COUPLED):
            raise UnknownNameError("tokens", str(tokens), (COUPLED,))
        if tokens is not None and (combine != "sum" or not modality_blocks or not gate or weighted_sum_only):
            raise InputError(
                "tokens='coupled' has neither blocks nor a gate; leave out combine and the ablations of them"
            )
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
        self.tokens, self.takes_steps = tokens, tokens is not None
        vectors = tokens is None and not weighted_sum_only

        self.warm_start: EquilibriumCache | None = None
        self.intermediate: tuple[int, ...] = ()
        self.observers: list[list[Solved]] = []

        count = len(self.dims)
        self.project = nn.ModuleDict({m: nn.Linear(width, dim) for m, width in self.dims.items()} if projection else {})
        self.fuse_weights = nn.Parameter(torch.ones(count))
        self.fuse_bias = nn.Parameter(torch.zeros(1))
        self.coupling = None if tokens is None else TokenCoupling(tuple(self.dims), dim)
        self.blocks = ModalityBlocks(count, dim) if modality_blocks and vectors else None
        # The solver needs their weights, so dynamic quantisation must leave them alone.
        self.gate = NonDynamicallyQuantizableLinear(dim, dim) if gate and vectors else None
        self.mix = NonDynamicallyQuantizableLinear(dim, dim) if vectors else None
        self.norm = NormParameters(dim, gain=OUTER_GAIN) if vectors else None
        initialize(self)

    @property
    def cache(self) -> EquilibriumCache | None:
        """Deprecated name of ``warm_start``."""
        warnings.warn("use warm_start in place of cache", DeprecationWarning, stacklevel=2)
        return self.warm_start

    @cache.setter
    def cache(self, value: EquilibriumCache | None) -> None:
        warnings.warn("use warm_start in place of cache", DeprecationWarning, stacklevel=2)
        self.warm_start = value

    def current_options(self) -> dict[str, Any]:
        """The solver and the gradient rule, which may have been replaced."""
        return {**super().current_options(), "solver": self.solver, "gradient": self.gradient}

    # ---- the mathematics -------------------------------------------------------------------------------------

    def _problem(self, rows: FlatInputs) -> Problem:
        """Project the inputs and collect everything that stays constant during the solve."""
        dtype = work_dtype(rows.like.dtype)
        names = list(rows.values)
        order = list(self.dims)

        def some(parameter: Tensor) -> Tensor:
            """Of the modalities given."""
            if len(names) == len(order):
                return parameter
            return torch.stack([parameter[order.index(m)] for m in names])

        xs = [self._project(m, v).to(dtype) for m, v in rows.values.items()]
        mask = None
        count = xs[0].new_full((rows.count, 1), len(names))
        if any(rows.masks[m] is not None for m in names):
            mask = torch.stack([rows.mask(m) for m in names])
            count = mask.sum(0).to(dtype)
        x, x_fuse = inject(xs, mask, some(self.fuse_weights).to(dtype), self.fuse_bias.to(dtype))
        blocks = None
        if self.blocks is not None:
            stacked = self.blocks.weights()
            blocks = BlockWeights(*(some(p).to(dtype) for p in stacked))
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
        # Autocast is off here, but may have narrowed the input before. A quantised layer has no tensor of weights.
        weight = linear.weight
        projected: Tensor = linear(x.to(weight.dtype if isinstance(weight, Tensor) else torch.float32))
        return projected

    def _modality_map(self, p: Problem) -> ModalityMap:
        assert p.blocks is not None
        return ModalityMap(p.x, p.mask, p.blocks, self._eps)

    def _fusion_map(self, states: Tensor, p: Problem) -> FusionMap:
        """The fusion map for given modality states ``(M', R, d)``.

        The gate is linear and shared, so the states' part of it, ``(Σ_m z_m) Wα + M bα``, is one product.
        """
        assert p.fusion is not None
        constant = states.sum(0)
        if p.fusion.gate is not None:
            assert p.gate_bias is not None
            constant = torch.addmm(p.count * p.gate_bias, constant, p.fusion.gate.t())
        share = p.count.clamp(min=1).reciprocal() if self.combine == "mean" else None
        bound = None if self.contraction is None else GATE_BOUND
        return FusionMap(p.x_fuse, constant, p.count, share, p.fusion, self._eps, bound)

    @property
    def _eps(self) -> float:
        return NORM_EPS if self.contraction is None else CONTRACTION_EPS

    def _joint_map(self, z: Tensor, p: Problem) -> Tensor:
        """``f`` of the whole state, ``(R, M' + 1, d) -> (R, M' + 1, d)``; the gate gets the new modality states."""
        states = p.x
        if p.blocks is not None:
            states = self._modality_map(p).evaluate(z[:, :-1].transpose(0, 1))
        fused = self._fusion_map(states, p)(z[:, -1])
        return torch.cat([states.transpose(0, 1), fused[:, None]], dim=1)

    def equilibrium_map(
        self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None
    ) -> tuple[JointMap | CoupledMap, Tensor]:
        """The joint map of states ``(R, M' + 1, d)``, fusion state last, and its start; for ``spectral_radius``."""
        if self.coupling is not None:
            f = self._coupled_map(token_batch(inputs, present, self.dims))
            return f, f.start()
        if self.mix is None:
            raise InputError("a weighted_sum_only fusion has no equilibrium map")
        _, rows = flatten(inputs, present, self.dims)
        p = self._problem(rows)
        return JointMap(self, p), p.x.new_zeros(rows.count, len(p.names) + 1, self.dim)

    # ---- the solve -------------------------------------------------------------------------------------------

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None = None,
        *,
        index: Tensor | None = None,
    ) -> FusionOutput:
        """Fuse a batch; see :meth:`Fusion.forward`. With ``tokens`` the modalities may have steps of their own."""
        if self.coupling is None:
            return super().forward(inputs, present, index=index)
        batch = token_batch(inputs, present, self.dims)
        like = next(iter(batch.values.values()))
        with without_autocast(like.device):
            output = self._fuse_tokens(batch)
        output.fused = output.fused.to(like.dtype)
        output.modalities = {m: state.to(like.dtype) for m, state in output.modalities.items()}
        return output

    def _coupled_map(self, batch: TokenBatch) -> CoupledMap:
        assert self.coupling is not None
        dtype = work_dtype(next(iter(batch.values.values())).dtype)
        projected = {m: self._project(m, x).to(dtype) for m, x in batch.values.items()}
        shares = dict(zip(self.dims, self.fuse_weights.to(dtype), strict=True))
        return coupled_map(self.coupling, projected, batch, shares, self.fuse_bias.to(dtype), self.contraction)

    def _fuse_tokens(self, batch: TokenBatch) -> FusionOutput:
        """Solve for the equilibrium of all steps."""
        if self.warm_start is not None:
            raise InputError("states of steps are not kept for warm starts; leave out warm_start, or tokens='coupled'")
        f = self._coupled_map(batch)
        if self.iterations is not None:
            z, stats = _repeated(f, self.iterations, self.solver.tol)
        else:
            strict = self.strict and torch.compiler.is_compiling()
            z, stats = fixed_point(f, f.start(), solver=self.solver, gradient=self.gradient, strict=strict, warn=False)
            report(stats, "forward", strict=self.strict, cause=lambda: None)
        stats.parts = {_FUSION: stats.select(slice(None))}
        pieces = torch.split(z[:, 1:], [x.shape[1] for x in batch.values.values()], dim=1)
        states = {m: piece[:, 0] if m in batch.flat else piece for m, piece in zip(batch.values, pieces, strict=True)}
        output = FusionOutput(z[:, 0], {m: states.get(m, torch.zeros_like(z[:, 0])) for m in self.dims}, stats=stats)
        wanted = {label for label, weight in self.loss_weights.items() if weight} if self.training else set()
        if wanted:
            output.losses = regularizers(f, z.detach(), wanted, self.spectral_band)
        return output

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """Solve for the equilibrium of rows ``(R, l_m)``."""
        given, dtype, count = rows, rows.like.dtype, rows.count
        with without_autocast(rows.like.device):
            if not self.training and not self.observers:  # observers see the rows as they were given
                rows = _padded(rows, least_rows(rows.like))
            p = self._problem(rows)
            if self.mix is None:
                output = FusionOutput(p.x_fuse, self._by_name(p.x, p))
            elif self.iterations is not None:
                output = self._recur(p, self.iterations)
            else:
                output = self._solve(p, rows.index if self.training else None)
            if self.training and self.mix is not None:
                output.losses = self._penalties(output, p)
        if rows.count > count:
            output.stats = None if output.stats is None else output.stats.first(count)
            output.fused = output.fused[:count].clone()
            output.modalities = {m: state[:count].clone() for m, state in output.modalities.items()}
        if output.stats is not None and self.iterations is None:
            report(output.stats, "forward", strict=self.strict, cause=lambda: _not_finite(given))
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
        """Stacked states ``(M', R, d)`` by modality, each in memory of its own, zeros for one that was not given."""
        given = {m: state.clone() for m, state in zip(p.names, states, strict=True)}
        return {m: given[m] if m in given else states.new_zeros(states.shape[1:]) for m in self.dims}

    def _solve(self, p: Problem, index: Tensor | None) -> FusionOutput:
        parts: dict[str, SolverStats] = {}
        states, modality_map = p.x, None
        unsolved: int | None = 0
        if p.blocks is not None:
            modality_map = self._modality_map(p)
            flat, stats = self._fixed_point(modality_map, p.names, index)
            states = flat.view_as(p.x)
            parts, unsolved = split_stats(stats, p), stats.unsolved
        fusion_map = self._fusion_map(states, p)
        fused, stats = self._fixed_point(fusion_map, [_FUSION], index)
        modality_parts = list(parts.values())
        parts[_FUSION] = stats
        merged = merge_stats(modality_parts, stats, parts)
        if unsolved == stats.unsolved == 0:
            merged.unsolved = 0
        if self.observers:
            solved = Solved(p.names, p.x, p.mask, modality_map, states, fusion_map, fused, parts)
            for seen in self.observers:
                seen.append(solved)
        return FusionOutput(fused, self._by_name(states, p), stats=merged)

    def _fixed_point(
        self, f: ModalityMap | FusionMap, names: list[str], index: Tensor | None
    ) -> tuple[Tensor, SolverStats]:
        """The fixed point of one block of the system, which consists of the parts ``names``, one after the other.

        It starts from the stored equilibria of the samples ``index``; otherwise from ``f(0)`` or ahead of it, which
        cost almost nothing.
        """
        with torch.no_grad():
            start = f.start()
            cache = self.warm_start if index is not None else None
            if cache is not None and index is not None:
                pieces = zip(names, start.chunk(len(names)), strict=True)
                start = torch.cat([cache.start(name, index, piece) for name, piece in pieces])
        iterates = self.intermediate if self.training and names == [_FUSION] else ()
        strict = self.strict and torch.compiler.is_compiling()  # else the call reports, of all parts at once
        z, stats = fixed_point(
            f, start, solver=self.solver, gradient=self.gradient, strict=strict, warn=False, iterates=iterates
        )
        if cache is not None and index is not None:
            for name, piece in zip(names, z.detach().chunk(len(names)), strict=True):
                cache.store(name, index, piece)
        return z, stats

    def _recur(self, p: Problem, iterations: int) -> FusionOutput:
        """The recursion without an equilibrium: the joint map applied ``iterations`` times from zero."""
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
        """Build the fusion from a state dict of the authors' code; modalities are then named ``"0"``, ``"1"``, ….

        ``options`` are the constructor's; :mod:`equifuse.fusion.deq.reference_weights` has the layout of the keys.
        """
        return from_reference(cls, state_dict, **options)


def _repeated(f: CoupledMap, iterations: int, tol: float) -> tuple[Tensor, SolverStats]:
    """A map applied so many times from zero."""
    z, trace = f.start(), []
    for _ in range(iterations):
        before, z = z, f(z)
        with torch.no_grad():
            trace.append(relative_residual((z - before).flatten(1), z.flatten(1)))
    residual = trace[-1]
    steps = torch.full_like(residual, iterations, dtype=torch.int64)
    return z, SolverStats(residual <= tol, residual, steps, torch.stack(trace))


def _not_finite(rows: FlatInputs) -> str | None:
    """Which modalities have inputs that are not finite, where they are present; None if there are none."""
    bad = {m: int((~x.isfinite().all(1)).sum()) for m, x in rows.values.items()}
    named = ", ".join(f"{m!r} in {count} samples" for m, count in bad.items() if count)
    return f"inputs are not finite: modality {named}; replace the values, or mark them absent" if named else None


def _padded(rows: FlatInputs, least: int) -> FlatInputs:
    """The rows, and copies of the first one up to ``least``."""
    if rows.count >= least:
        return rows

    def pad(x: Tensor) -> Tensor:
        return torch.cat([x, x[:1].expand(least - rows.count, *x.shape[1:])])

    masks = {m: None if mask is None else pad(mask) for m, mask in rows.masks.items()}
    return FlatInputs({m: pad(x) for m, x in rows.values.items()}, masks, least, rows.index)


class JointMap:
    """The map ``z -> f(z)`` of one batch on the joint state ``(R, M' + 1, d)``, with the fusion state last.

    Args:
        fusion: the module whose map it is.
        problem: the batch's constants.
    """

    def __init__(self, fusion: DEQFusion, problem: Problem) -> None:
        self._fusion, self._problem = fusion, problem

    def __call__(self, z: Tensor) -> Tensor:
        """One evaluation."""
        return self._fusion._joint_map(z, self._problem)
