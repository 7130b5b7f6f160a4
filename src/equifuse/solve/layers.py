"""Layers for maps of one's own, which stay the same function for a whole solve: normalised weights, dropout."""

from __future__ import annotations

from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from equifuse.errors import InputError, UnknownNameError
from equifuse.solve.scope import once_per_solve

Module = TypeVar("Module", bound=nn.Module)
_TRANSPOSED = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
_WEIGHTED = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | _TRANSPOSED


class VariationalDropout(nn.Module):
    """Dropout for use inside a map: one mask per solve, so that the map is the same function at every evaluation.

    Ordinary dropout draws a mask at each call, and a map that changes has no fixed point. The mask here is drawn at the
    first call inside :func:`equifuse.fixed_point`, holds for all its evaluations and for its backward pass, and is
    forgotten when the solve is over: nothing has to be reset. Of solves within solves the outermost one counts.
    Outside of a solve, each call draws a mask. In evaluation mode nothing is dropped.

    >>> w, drop = torch.eye(3) / 4, ef.VariationalDropout(0.5)
    >>> z, stats = ef.fixed_point(lambda z: drop(z) @ w + 1, torch.zeros(4, 3))
    >>> bool(stats.converged.all())
    True
    >>> drop.eval()(torch.ones(1, 3))
    tensor([[1., 1., 1.]])

    Args:
        p: share of the numbers that are dropped, in [0, 1); the others are divided by ``1 − p``. Default 0.5.

    Raises:
        InputError: ``p`` is out of range; or the map gives it other shapes in one solve, as with ``select``.

    Source: Gal & Ghahramani 2016, arXiv 1512.05287; Bai et al. 2019 for equilibria.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise InputError(f"p must be in [0, 1), got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """``x`` with the mask of this solve."""
        if not self.training or self.p == 0:
            return x
        mask = once_per_solve(
            self, lambda: torch.empty_like(x, requires_grad=False).bernoulli_(1 - self.p) / (1 - self.p)
        )
        if mask.shape != x.shape:
            raise InputError(
                f"VariationalDropout was called with shapes {tuple(mask.shape)} and {tuple(x.shape)} in one solve; "
                "use one layer per place, and a map without select(rows)"
            )
        return x * mask

    def extra_repr(self) -> str:
        """Its share."""
        return f"p={self.p}"


class _SpectralNorm(parametrizations._SpectralNorm):
    """Division by the largest singular value, whose estimate is improved once per solve in training mode."""

    def forward(self, weight: Tensor) -> Tensor:
        training, seen = self.training, []
        once_per_solve(self, lambda: seen.append(True))
        self.training = training and bool(seen)
        try:
            normalised: Tensor = super().forward(weight)
            return normalised
        finally:
            self.training = training


def apply_norm(module: Module, kind: Literal["spectral", "weight"]) -> Module:
    """Normalise the weights of all linear and convolutional layers of a module, to keep its fixed points easy to find.

    ``"spectral"`` divides each weight by its largest singular value, so each layer is 1-Lipschitz: with activations
    that are, a factor below 1 in front of the module makes it a contraction. ``"weight"`` separates the length of each
    row from its direction.

    >>> layer = ef.apply_norm(torch.nn.Linear(8, 8), "spectral").eval()
    >>> bool(torch.linalg.matrix_norm(layer.weight, 2) < 1.01)
    True

    Args:
        module: any module; changed in place. Its parameters are then named ``parametrizations.weight.original…``.
        kind: ``"spectral"`` or ``"weight"``.

    Returns:
        ``module``. ``torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")`` undoes it.

    Raises:
        UnknownNameError: another kind.
        InputError: the module has no such layer, or one is normalised already. The modality blocks of
            :class:`~equifuse.DEQFusion` have none: use its ``contraction=``.

    In training mode the estimate of the singular value improves at the first evaluation of each solve only, so that the
    map is the same at all of them. See ``torch.nn.utils.parametrizations`` for both methods.
    """
    if kind not in ("spectral", "weight"):
        raise UnknownNameError("norm", kind, ("spectral", "weight"))
    layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, _WEIGHTED)]
    if not layers:
        raise InputError(f"{type(module).__name__} has no linear or convolutional layer to normalise")
    for name, layer in layers:
        if parametrize.is_parametrized(layer, "weight"):
            raise InputError(f"the weight of {name or type(layer).__name__} is normalised already")
    for _, layer in layers:
        if kind == "weight":
            parametrizations.weight_norm(layer)
        else:
            dim = 1 if isinstance(layer, _TRANSPOSED) else 0
            parametrize.register_parametrization(layer, "weight", _SpectralNorm(layer.weight, 1, dim))
    return module
