"""Deep-equilibrium fusion under other names: its map applied a number of times, and its damped, regularised form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from equifuse.errors import InputError
from equifuse.fusion.deq.module import DEQFusion
from equifuse.fusion.make import register
from equifuse.solve import Picard, Solver

# Damping halves the step, so it takes about twice as many; converged samples leave the batch.
_DAMPED = Picard(tol=1e-4, max_steps=200, damping=0.5)


@register
class WeightTied(DEQFusion):
    """Weight-tied recursion: the joint map of :class:`DEQFusion` applied ``iterations`` times from zero.

    The ablation "no equilibrium" of Ni et al. 2023 (arXiv 2306.16645), differentiated through its steps:
    ``DEQFusion(..., iterations=8)`` by a name of its own. ``stats`` says how far from the equilibrium it ends.

    Args:
        dims: modality name -> width ``l_m``.
        dim: common width, a multiple of 4; default 128.
        iterations: how often the map is applied, ≥ 1; default 8.
        **options: others of :class:`DEQFusion`; of its solver only the tolerance counts, for ``stats.converged``.

    Raises:
        InputError: an option out of range.
    """

    name: ClassVar[str] = "weight_tied"

    def __init__(self, dims: Mapping[str, int], dim: int = 128, *, iterations: int = 8, **options: Any) -> None:
        if iterations is None:
            raise InputError("a weight-tied recursion needs a number of iterations; the equilibrium is fusion 'deq'")
        super().__init__(dims, dim, iterations=iterations, **options)


@register
class MutualEquilibrium(DEQFusion):
    """Mutual equilibrium (MEQ, 2026): damped iteration, and a spectral radius that is kept within a band.

    The map is that of :class:`DEQFusion`. It is iterated as ``z ← β f(z) + (1 − β) z``, which has the same fixed points
    and, for β small enough, attracts to those where the eigenvalues of ``J = ∂f/∂z`` have real parts below 1; in
    training mode the ``spectral`` loss, :func:`equifuse.spectral_penalty`, keeps the spectral radius of ``J`` in
    ``spectral_band``. Only these two are taken from that work, which is known from summaries. A damped step goes half
    the way and the band has a lower end, so a solve takes several times as many evaluations as that of ``deq``.

    Args:
        dims: modality name -> width ``l_m``.
        dim: common width, a multiple of 4; default 128.
        solver: default ``Picard(damping=0.5)``, its ``damping`` is ``β``, to 1e-4 in at most 200 evaluations; as each
            part of the state is solved after the other, each is damped alone.
        spectral_weight: default weight of the ``spectral`` loss, ≥ 0; default 1.
        spectral_band: lowest and highest radius; default (0.7, 0.9).
        **options: others of :class:`DEQFusion`.

    Raises:
        InputError: an option out of range.
        UnknownNameError: an unknown solver.
    """

    name: ClassVar[str] = "meq"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 128,
        *,
        solver: Solver | str | Mapping[str, Any] = _DAMPED,
        spectral_weight: float = 1.0,
        spectral_band: tuple[float, float] = (0.7, 0.9),
        **options: Any,
    ) -> None:
        super().__init__(
            dims, dim, solver=solver, spectral_weight=spectral_weight, spectral_band=spectral_band, **options
        )
