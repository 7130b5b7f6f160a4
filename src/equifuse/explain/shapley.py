"""How much each modality contributed: Shapley values of the model's outputs for subsets of the modalities."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from equifuse._display import short_text
from equifuse.data.batch import Batch
from equifuse.encoders.states import looking
from equifuse.errors import ConvergenceWarning, InputError
from equifuse.explain.targets import (
    ByModality,
    Floats,
    evaluating,
    explained,
    joined_target,
    means,
    plain,
    presence,
    read,
    value_of,
)
from equifuse.model import FusionModel
from equifuse.tasks import Measurement, Task
from equifuse.tasks.base import needed

# With so many modalities all 2^M coalitions are evaluated.
MOST_EXACT = 8
# Coalitions are numbered by the bits of an int64.
_MOST = 62
# Samples that are fused at a time, a sample counting once for each coalition.
_ROWS = 4096


@dataclass(frozen=True)
class Coalitions:
    """The subsets (coalitions) of ``M`` players for which a game is evaluated.

    >>> all_coalitions(2).codes.tolist()  # nobody, the first, the second, both
    [0, 1, 2, 3]

    Attributes:
        players: ``M``.
        codes: int64 ``(C,)``, increasing; bit ``m`` says whether player ``m`` is in. The first is the empty coalition,
            the last is everybody.
        orders: int64 ``(P, 2, M)``, the orders in which the players come in, each with its reverse; None where
            ``codes`` are all coalitions.
    """

    players: int
    codes: NDArray[np.int64]
    orders: NDArray[np.int64] | None = None


def all_coalitions(players: int) -> Coalitions:
    """All ``2^M`` coalitions of ``M`` players, from which Shapley values are exact.

    >>> len(all_coalitions(3).codes)
    8
    """
    return Coalitions(players, np.arange(2**players, dtype=np.int64))


def sampled_coalitions(players: int, pairs: int = 64, seed: int = 0) -> Coalitions:
    """The coalitions along random orders of the players and their reverses, for many players.

    >>> sampled = sampled_coalitions(10, pairs=4)
    >>> sampled.orders.shape, len(sampled.codes) <= 2 * 4 * 11
    ((4, 2, 10), True)

    The reverse of an order is as likely as the order itself, and its error tends to the other side (antithetic
    sampling; Mitchell et al. 2022, arXiv 2104.12199, section 3.2).

    Args:
        players: ``M``, at most 62.
        pairs: orders drawn, ≥ 2 (a standard error needs two).
        seed: of the draws.

    Raises:
        InputError: an argument out of range.
    """
    if pairs < 2:
        raise InputError(f"pairs must be at least 2, got {pairs}")
    if players > _MOST:
        raise InputError(f"at most {_MOST} modalities can be explained, the model has {players}")
    forward = np.random.default_rng(seed).permuted(np.tile(np.arange(players), (pairs, 1)), axis=1)
    orders = np.stack([forward, forward[:, ::-1]], axis=1)
    return Coalitions(players, np.unique(_along(orders)), orders)


def _along(orders: NDArray[np.int64]) -> NDArray[np.int64]:
    """``(..., M) -> (..., M + 1)``: the coalitions while the players join one after the other, from nobody to all."""
    steps = np.cumsum(np.int64(1) << orders, axis=-1)
    return np.concatenate([np.zeros_like(steps[..., :1]), steps], axis=-1)


def shapley_weights(players: int) -> Floats:
    """``(2^M, M)``: the weight of each coalition's value in each player's Shapley value (Shapley 1953).

    ``φ_m = Σ_{S ∌ m} |S|! (M − |S| − 1)! / M! · (v(S ∪ m) − v(S))``.
    """
    codes = np.arange(2**players)
    inside = (codes[:, None] >> np.arange(players)) & 1 == 1
    size = inside.sum(axis=1)
    shares = np.array([1 / (players * math.comb(players - 1, s)) for s in range(players)])
    weights: Floats = np.where(inside, shares[size - 1][:, None], -shares[np.minimum(size, players - 1)][:, None])
    return weights


def shapley_values(values: ArrayLike, coalitions: Coalitions) -> tuple[Floats, Floats | None]:
    """Shapley values of games: each player's fair share of the value of all players together.

    >>> values = np.array([0.0, 1.0, 2.0, 5.0])  # of nobody, the first, the second, and both
    >>> shares, errors = shapley_values(values, all_coalitions(2))
    >>> shares.tolist(), errors is None
    ([2.0, 3.0], True)

    Args:
        values: ``(..., C)``, in the order of ``coalitions.codes``.
        coalitions: all coalitions, or sampled ones.

    Returns:
        ``(..., M)`` values, which add up to ``v(all) − v(nobody)``, and their standard errors; None if they are exact.

    With all coalitions the values are exact. Along sampled orders a player's value is the mean change when it joins,
    and its standard error comes from the spread of the ``P`` means over an order and its reverse.
    """
    v = np.asarray(values, dtype=np.float64)
    if coalitions.orders is None:
        return v @ shapley_weights(coalitions.players), None
    places = np.searchsorted(coalitions.codes, _along(coalitions.orders))
    added = np.diff(v[..., places], axis=-1)  # (..., P, 2, M), players in the order in which they came
    back = np.broadcast_to(np.argsort(coalitions.orders, axis=-1), added.shape)
    each = np.take_along_axis(added, back, axis=-1).mean(axis=-2)
    error: Floats = each.std(axis=-2, ddof=1) / math.sqrt(each.shape[-2])
    return each.mean(axis=-2), error


@dataclass(frozen=True)
class Contributions:
    """Shapley values of the modalities; they add up to ``full − empty``.

    >>> model = ef.build_model({"a": 3, "b": 4}, "regression", 1, fusion="mean").eval()
    >>> batch = ef.tasks.Batch({"a": torch.randn(8, 3), "b": torch.randn(8, 4)})
    >>> task = ef.tasks.make_task("regression")
    >>> found = evaluate_coalitions(model, task, [batch]).per_sample(task)
    >>> bool(np.allclose(found.values["a"] + found.values["b"], found.full - found.empty))
    True

    Attributes:
        values: modality -> ``(...)``, 0 where a sample does not have it.
        errors: modality -> ``(...)`` standard errors, or None where the values are exact.
        empty: ``(...)`` value of no modality at all.
        full: ``(...)`` value of all that there is.
    """

    values: ByModality
    errors: ByModality | None
    empty: Floats
    full: Floats

    def __repr__(self) -> str:
        rows = [[m, f"{np.mean(x):+.3g}"] for m, x in self.values.items()]
        return short_text(f"Contributions: from {np.mean(self.empty):.3g} to {np.mean(self.full):.3g}, means", rows)

    def summary(self) -> dict[str, Any]:
        """Plain numbers: means over whatever axes there are."""
        return {
            "empty": plain(self.empty.mean()),
            "full": plain(self.full.mean()),
            "values": means(self.values),
            "errors": None if self.errors is None else means(self.errors),
        }


@dataclass(frozen=True)
class CoalitionOutputs:
    """A model's outputs for every subset of the modalities; see :func:`evaluate_coalitions`.

    >>> model = ef.build_model({"a": 3, "b": 4}, "regression", 1, fusion="mean").eval()
    >>> batch = ef.tasks.Batch({"a": torch.randn(8, 3), "b": torch.randn(8, 4)})
    >>> evaluate_coalitions(model, ef.tasks.make_task("regression"), [batch]).outputs.shape
    torch.Size([8, 4, 1])

    Attributes:
        modalities: names; they are the players.
        coalitions: the subsets that were evaluated.
        outputs: ``(n, C, K)`` raw outputs. Modalities that a sample lacks are left out of its coalitions.
        present: bool ``(n, M)``, True where present.
        target: targets of the samples, or None.
        converged: share of the solves that converged; None for a fusion that solves nothing.
    """

    modalities: tuple[str, ...]
    coalitions: Coalitions
    outputs: Tensor
    present: NDArray[np.bool_]
    target: NDArray[Any] | None = None
    converged: float | None = None

    def per_sample(self, task: Task, value: str | None = None, output: int | None = None) -> Contributions:
        """Contributions ``(n,)`` to a number of each sample.

        Args:
            task: the task.
            value: ``"probability"`` (default), ``"log_probability"`` or ``"logit"`` of classes and labels, ``"output"``
                of regression and survival.
            output: the class, label or target; None for the one predicted with everything given.

        Raises:
            UnknownNameError: an unknown value.
            InputError: no such output.
        """
        value = value_of(task, value)
        outputs = self.outputs.double()
        found = read(task, value, outputs, explained(task, outputs[:, -1], output)).numpy()
        # What a sample lacks adds exactly nothing; only rounding is removed.
        return self._contributions(found, self.present)

    def overall(self, task: Task, metric: str | None = None) -> Contributions | None:
        """Contributions ``()`` to a metric of all samples together, ``"loss"`` among them; in the metric's own sense.

        Args:
            task: the task.
            metric: name of the metric; None for the task's headline.

        Returns:
            None where the metric is undefined on these samples; :meth:`why_undefined` says why.

        Raises:
            InputError: there are no labels.
        """
        values = [found.values.get(metric or task.headline) for found in self._measured(task, metric or task.headline)]
        if any(value is None for value in values):
            return None
        return self._contributions(np.array(values, dtype=np.float64), np.asarray(self.present.any(axis=0)))

    def why_undefined(self, task: Task, metric: str) -> str | None:
        """Why a metric is undefined for a coalition, the largest one first; None where it has a value for all."""
        found = reversed(self._measured(task, metric))
        reasons = [by.undefined.get(metric, "it has no value here") for by in found if by.values.get(metric) is None]
        return reasons[0] if reasons else None

    def _measured(self, task: Task, metric: str) -> list[Measurement]:
        """A metric of all samples together, for each coalition."""
        target = needed(None if self.target is None else torch.from_numpy(self.target))
        return [task.measure(outputs, target, only=(metric,)) for outputs in self.outputs.float().unbind(1)]

    def _contributions(self, values: Floats, present: NDArray[np.bool_]) -> Contributions:
        """From values ``(..., C)``, and which modalities ``(..., M)`` take part."""
        phi, error = shapley_values(values, self.coalitions)

        def by_name(x: Floats) -> ByModality:
            return dict(zip(self.modalities, np.moveaxis(np.where(present, x, 0.0), -1, 0), strict=True))

        return Contributions(by_name(phi), None if error is None else by_name(error), values[..., 0], values[..., -1])


def evaluate_coalitions(
    model: FusionModel,
    task: Task,
    batches: Iterable[Batch],
    *,
    empty: Tensor | None = None,
    pairs: int = 64,
    seed: int = 0,
) -> CoalitionOutputs:
    """Evaluate a model on subsets of its modalities: all ``2^M`` for at most 8, along random orders for more.

    >>> model = ef.build_model({"a": 3, "b": 4}, "regression", 1, fusion="mean").eval()
    >>> batch = ef.tasks.Batch({"a": torch.randn(8, 3), "b": torch.randn(8, 4)})
    >>> task = ef.tasks.make_task("regression")
    >>> evaluate_coalitions(model, task, [batch]).per_sample(task).values["a"].shape
    (8,)

    A modality outside of a coalition is missing, as from a sample that never had it; nothing is imputed. Each modality
    is encoded once, and a sample is fused once for each subset of its modalities. Memory grows with samples ×
    coalitions × outputs.

    Args:
        model: the model.
        task: its task.
        batches: the samples.
        empty: ``(K,)`` raw outputs without any modality, as :func:`base_output` gives them; None for the model's own
            outputs without inputs, for which it was never trained.
        pairs: random orders if not all coalitions are evaluated; see :func:`sampled_coalitions`.
        seed: seed of the random orders.

    Returns:
        :class:`CoalitionOutputs`.

    Raises:
        InputError: the task has no predictions of single samples, there are no samples, or an argument is out of range.

    Warns:
        ConvergenceWarning: at most once, if solves did not converge.
    """
    value_of(task)
    count = len(model.modalities)
    coalitions = all_coalitions(count) if count <= MOST_EXACT else sampled_coalitions(count, pairs, seed)
    with evaluating(model) as device:
        pieces = [coalitions_of_batch(model, batch.to(device), coalitions, empty) for batch in batches]
    return join_coalitions(pieces)


def join_coalitions(pieces: Sequence[CoalitionOutputs]) -> CoalitionOutputs:
    """The samples of all batches; warns where solves did not converge.

    Raises:
        InputError: there is no batch.
    """
    if not pieces:
        raise InputError("there are no samples to explain")
    first, converged = pieces[0], None
    if first.converged is not None:
        sizes = [len(piece.outputs) for piece in pieces]
        converged = float(np.average([piece.converged or 0.0 for piece in pieces], weights=sizes))
        if converged < 1:
            warnings.warn(
                f"{1 - converged:.1%} of the solves with modalities taken away did not converge; raise the solver's "
                "max_steps or tol",
                ConvergenceWarning,
                stacklevel=3,
            )
    targets = [None if piece.target is None else torch.from_numpy(piece.target) for piece in pieces]
    return CoalitionOutputs(
        first.modalities,
        first.coalitions,
        torch.cat([piece.outputs for piece in pieces]),
        np.concatenate([piece.present for piece in pieces]),
        joined_target(targets),
        converged,
    )


@torch.no_grad()
def coalitions_of_batch(
    model: FusionModel, batch: Batch, coalitions: Coalitions, empty: Tensor | None = None
) -> CoalitionOutputs:
    """:func:`evaluate_coalitions` of one batch, with a model in evaluation mode.

    Raises:
        InputError: the model does not predict ``(B, K)``, or ``empty`` is not ``(K,)``.
    """
    encoded = model.encode(batch.inputs, batch.present, lengths=batch.lengths)
    has = presence(model, batch)
    device, count = has.device, len(batch)
    bits = torch.arange(has.shape[1], device=device)
    owned = (has.long() << bits).sum(1)
    codes = torch.from_numpy(coalitions.codes).to(device) & owned[:, None]  # (B, C)
    # Coalitions that differ only in what a sample lacks are one.
    distinct, number = torch.unique(codes, return_inverse=True)
    numbered = number * count + torch.arange(count, device=device)[:, None]
    cases, place = torch.unique(numbered, return_inverse=True)
    rows, members = cases % count, distinct[cases // count]
    found, converged = [], []
    for row, member in zip(rows.split(_ROWS), members.split(_ROWS), strict=True):
        masks = {m: (member >> i) & 1 == 1 for i, m in enumerate(model.modalities) if m in encoded}
        if looking(model.encoders) or model.fusion.takes_steps:  # what one sees of another goes with that one
            some = batch.select(row)
            output = model(some.inputs, masks, lengths=some.lengths)
        else:
            output = model.predict_encoded({m: x[row] for m, x in encoded.items()}, masks)
        outputs, stats = output.prediction, output.fusion.stats
        if outputs.dim() != 2:
            raise InputError(f"only predictions (B, K) can be explained, the model's are {tuple(outputs.shape)}")
        if empty is not None:
            if empty.shape != outputs.shape[1:]:
                raise InputError(f"empty must have shape {tuple(outputs.shape[1:])}, got {tuple(empty.shape)}")
            outputs = torch.where((member == 0)[:, None], empty.to(outputs), outputs)
        found.append(outputs.cpu())
        if stats is not None:
            converged.append(stats.converged.flatten())
    return CoalitionOutputs(
        model.modalities,
        coalitions,
        torch.cat(found)[place.cpu()],
        has.cpu().numpy(),
        None if batch.target is None else batch.target.cpu().numpy(),
        torch.cat(converged).double().mean().item() if converged else None,
    )


def base_output(task: Task, target: ArrayLike, outputs: int) -> Tensor:
    """The raw outputs of the best predictor without any inputs, which knows only the targets of the training part.

    >>> base_output(ef.tasks.make_task("regression"), np.array([[1.0], [3.0]]), outputs=1)
    tensor([2.], dtype=torch.float64)

    Args:
        task: the task.
        target: targets of the training part.
        outputs: number of outputs ``K``.

    Returns:
        ``(K,)``: the logarithm of the class frequencies, the log-odds of the labels' frequencies, the mean of the
        targets, or a log-risk of 0. Classes and labels are counted once more than they occur (Laplace), so that all
        outputs are finite.

    Raises:
        InputError: the task has no predictions of single samples.
    """
    value_of(task)
    return torch.from_numpy(task.base_output(np.asarray(target), outputs))
