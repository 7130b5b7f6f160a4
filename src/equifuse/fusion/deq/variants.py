"""Deep-equilibrium fusion with other settings, under names of their own."""

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
    """Weight-tied recursion: the map of deep-equilibrium fusion applied a fixed number of times.

    The baseline that shows what solving for the equilibrium adds; ``stats`` says how far from it the recursion ends.

    >>> fusion = ef.fusion.WeightTied({"text": 300, "image": 512}, dim=64, iterations=8)
    >>> out = fusion({"text": torch.randn(2, 300), "image": torch.randn(2, 512)})
    >>> out.stats.steps
    tensor([8, 8])

    Args:
        dims: modality name -> width ``l_m``.
        dim: common width, a multiple of 4; default 128.
        iterations: how often the map is applied, ≥ 1; default 8.
        **options: other options of :class:`DEQFusion`. Of the solver only the tolerance is used, for
            ``stats.converged``.

    Raises:
        InputError: an option is out of range.

    Source: the ablation "no equilibrium" of Ni et al. 2023 (arXiv 2306.16645); the same as
    ``DEQFusion(..., iterations=8)``.
    """

    name: ClassVar[str] = "weight_tied"

    def __init__(self, dims: Mapping[str, int], dim: int = 128, *, iterations: int = 8, **options: Any) -> None:
        if iterations is None:
            raise InputError("a weight-tied recursion needs a number of iterations; the equilibrium is fusion 'deq'")
        super().__init__(dims, dim, iterations=iterations, **options)


@register
class MutualEquilibrium(DEQFusion):
    """Mutual equilibrium: deep-equilibrium fusion with damped iteration and a spectral radius kept within a band.

    >>> fusion = ef.fusion.MutualEquilibrium({"text": 300, "image": 512}, dim=64)
    >>> out = fusion({"text": torch.randn(2, 300), "image": torch.randn(2, 512)})
    >>> out.stats.converged, list(out.losses)  # in training mode
    (tensor([True, True]), ['spectral'])

    Args:
        dims: modality name -> width ``l_m``.
        dim: common width, a multiple of 4; default 128.
        solver: default ``Picard(damping=0.5)`` to 1e-4 in at most 200 evaluations; ``damping`` is ``β``. The parts of
            the state are solved one after the other, so each is damped on its own.
        spectral_weight: default weight of the ``spectral`` loss, ≥ 0; default 1.
        spectral_band: lowest and highest spectral radius; default (0.7, 0.9).
        **options: other options of :class:`DEQFusion`.

    A damped step goes half the way and the band has a lower end, so a solve takes several times as many evaluations as
    that of ``deq``.

    Raises:
        InputError: an option is out of range.
        UnknownNameError: an unknown solver.

    Formula (MEQ, 2026; known from summaries, and only these two ideas are used): ``z ← β f(z) + (1 − β) z``, which has
    the same fixed points and, for small ``β``, converges to those where the eigenvalues of ``J = ∂f/∂z`` have real
    parts below 1; and in training mode :func:`equifuse.spectral_penalty` as a loss.
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
