"""Equilibria of sequences: every step of every modality is a state, and attention couples them all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from equifuse.errors import InputError, UnknownNameError
from equifuse.fusion.base import no_tensor
from equifuse.fusion.deq.contraction import spectral_norm_bound

COUPLED = "coupled"
_HEADS = 4
# Of the weights at first: small enough that the map contracts, as those of the other form.
_INITIAL = 0.02


@dataclass
class TokenBatch:
    """The steps of all modalities of a batch, side by side.

    Attributes:
        values: modality name -> ``(B, T_m, l_m)``, zeros where absent.
        valid: modality name -> bool ``(B, T_m)``.
        flat: the modalities that were given as vectors ``(B, l_m)``.
    """

    values: dict[str, Tensor]
    valid: dict[str, Tensor]
    flat: set[str]


def token_batch(
    inputs: Mapping[str, Tensor], present: Mapping[str, Tensor] | None, dims: Mapping[str, int]
) -> TokenBatch:
    """Check the arguments of a call with sequences: ``(B, T_m, l_m)`` or ``(B, l_m)``, masks ``(B,)`` or ``(B, T_m)``.

    Raises:
        UnknownNameError: a modality that the fusion was not built for.
        InputError: no modality, a wrong shape, or an unusable mask.
    """
    present = present or {}
    for name in (*inputs, *present):
        if name not in dims:
            raise UnknownNameError("modality", str(name), dims)
    given = [name for name in dims if name in inputs]
    if not given:
        raise InputError(f"no modality given; expected some of {', '.join(dims)}")
    batch = TokenBatch({}, {}, set())
    rows: int | None = None
    for name in given:
        x = inputs[name]
        if not isinstance(x, Tensor):
            raise InputError(no_tensor(name, x))
        if x.dim() not in (2, 3) or x.shape[-1] != dims[name] or not x.is_floating_point():
            raise InputError(
                f"modality {name!r} must be (B, steps, {dims[name]}) or (B, {dims[name]}) of floating point, got "
                f"{x.dtype} {tuple(x.shape)}"
            )
        if x.dim() == 2:
            batch.flat.add(name)
            x = x[:, None]
        rows = len(x) if rows is None else rows
        if len(x) != rows:
            raise InputError(f"modality {name!r} has {len(x)} samples, {given[0]!r} has {rows}")
        mask = present.get(name)
        if mask is None:
            valid = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        elif (
            not isinstance(mask, Tensor)
            or mask.dtype != torch.bool
            or tuple(mask.shape)
            not in (
                tuple(x.shape[:1]),
                tuple(x.shape[:2]),
            )
        ):
            raise InputError(f"present[{name!r}] must be bool ({rows},) or {tuple(x.shape[:2])}")
        else:
            valid = (mask if mask.dim() == 2 else mask[:, None]).to(x.device).expand(x.shape[:2])
        batch.values[name] = torch.where(valid[:, :, None], x, 0.0)
        batch.valid[name] = valid
    return batch


class TokenCoupling(nn.Module):
    """Weights of the map that couples steps, shared by all of them.

    Args:
        names: of the modalities.
        dim: width of a state, a multiple of 4.
    """

    def __init__(self, names: tuple[str, ...], dim: int) -> None:
        super().__init__()
        self.names, self.dim = names, dim
        self.kinds = nn.Parameter(_INITIAL * torch.randn(len(names), dim))
        self.token = nn.Parameter(_INITIAL * torch.randn(dim))
        self.query, self.key = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.value, self.mix = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim)
        self.first, self.second = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.injected, self.inner, self.outer = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        for linear in (self.mix, self.second):
            nn.init.normal_(linear.weight, std=_INITIAL)
            nn.init.zeros_(linear.bias)


class CoupledMap:
    """The map ``z -> f(z)`` of states ``(B, N, d)``, the fusion state first; padding stays 0 and is looked at by none.

    With ``n = LN(z)``, ``f(z) = LN(x + MHA(n) W + W2 ReLU(W1 n))``. With ``contraction`` κ it is ``x + κ ReLU(½ A z V +
    ½ z U)``, with attention ``A`` that the inputs decide, whose rows add up to 1, and ``‖V‖, ‖U‖ ≤ 1``: the largest
    change of a state falls at least by κ with every step, so the equilibrium exists and is unique for any weights.

    Args:
        weights: shared by all steps.
        x: injections ``(B, N, d)``.
        valid: bool ``(B, N)``.
        contraction: κ, or None.
    """

    def __init__(self, weights: TokenCoupling, x: Tensor, valid: Tensor, contraction: float | None) -> None:
        self.weights, self.x, self.valid, self.contraction = weights, x, valid, contraction
        self._constant = None if contraction is None else self._attention(x)

    def __call__(self, z: Tensor) -> Tensor:
        """One evaluation."""
        w, kappa = self.weights, self.contraction
        if kappa is None:
            n = w.inner(z)
            coupled = w.mix(self._together(self._attention(n), w.value(n)))
            found = w.outer(self.x + coupled + w.second(torch.relu(w.first(n))))
        else:
            assert self._constant is not None
            value, own = (_at_most_one(linear.weight) for linear in (w.value, w.second))
            coupled = self._constant.mean(1) @ F.linear(z, value)
            found = self.x + kappa * torch.relu(0.5 * coupled + 0.5 * F.linear(z, own))
        return torch.where(self.valid[:, :, None], found, 0.0)

    def _attention(self, n: Tensor) -> Tensor:
        """``(B, heads, N, N)``, the weight of each state in what another one gets; none of padding."""
        q, k = self._parted(self.weights.query(n)), self._parted(self.weights.key(n))
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        return torch.softmax(scores.masked_fill(~self.valid[:, None, None], -torch.inf), dim=-1)

    def _together(self, attention: Tensor, values: Tensor) -> Tensor:
        return (attention @ self._parted(values)).transpose(1, 2).flatten(2)

    @staticmethod
    def _parted(n: Tensor) -> Tensor:
        return n.reshape(*n.shape[:2], _HEADS, -1).transpose(1, 2)

    def select(self, rows: Tensor) -> CoupledMap:
        """The map of some samples alone."""
        return CoupledMap(self.weights, self.x[rows], self.valid[rows], self.contraction)

    def start(self) -> Tensor:
        """Zeros."""
        return torch.zeros_like(self.x)


def _at_most_one(weight: Tensor) -> Tensor:
    """A matrix divided by a bound of its norm where that is above 1."""
    return weight / spectral_norm_bound(weight).clamp(min=1)


def coupled_map(
    weights: TokenCoupling,
    projected: Mapping[str, Tensor],
    batch: TokenBatch,
    shares: Mapping[str, Tensor],
    bias: Tensor,
    contraction: float | None,
) -> CoupledMap:
    """The map of a batch: steps with the vector of their modality, and the fusion state's injection before them.

    Args:
        weights: of the map.
        projected: modality name -> ``(B, T_m, d)``.
        batch: which of them are there.
        shares: modality name -> its weight in the injection of the fusion state, which is the weighted sum of means.
        bias: of that.
        contraction: κ, or None.
    """
    steps: list[Tensor] = []
    fused = weights.token + bias
    for name, x in projected.items():
        valid = batch.valid[name][:, :, None]
        kind = weights.kinds[weights.names.index(name)]
        steps.append(torch.where(valid, weights.injected(x + kind), 0.0))
        fused = fused + shares[name] * steps[-1].sum(1) / valid.sum(1).clamp(min=1)
    x = torch.cat([fused[:, None], *steps], dim=1)
    always = torch.ones_like(x[:, :1, 0], dtype=torch.bool)
    return CoupledMap(weights, x, torch.cat([always, *(batch.valid[name] for name in projected)], dim=1), contraction)
