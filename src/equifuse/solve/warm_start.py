"""Warm starts: solves of later epochs begin at the equilibria of earlier ones."""

from __future__ import annotations

import torch
from torch import Tensor

from equifuse.errors import InputError
from equifuse.solve.sync import is_recorded


class EquilibriumCache:
    """Stores equilibria by sample number, so that the next solve of the same sample starts close to its solution.

    Assign one to ``fusion.warm_start`` and pass ``index=`` in training. It decides only where a solve starts, never
    where it ends: results agree with those without it up to the solver's tolerance, in any order of samples and however
    far the weights have changed. It stores ``(M + 1) · d`` numbers per sample, on the device that they come from.

    >>> cache = ef.EquilibriumCache()
    >>> cache.store("fused", torch.tensor([7]), torch.ones(1, 2))
    >>> cache.start("fused", torch.tensor([7, 8]), torch.zeros(2, 2))
    tensor([[1., 1.],
            [0., 0.]])
    >>> cache.hits, cache.misses
    (1, 1)

    Attributes:
        hits: number of samples for which a start was found.
        misses: number of samples for which none was found.
    """

    def __init__(self) -> None:
        self._states: dict[str, Tensor] = {}
        self._known: dict[str, Tensor] = {}
        self.hits = 0
        self.misses = 0

    def start(self, name: str, index: Tensor, default: Tensor) -> Tensor:
        """Where to start: the stored states of the samples ``index``, and ``default`` for samples that have none.

        Args:
            name: which state, e.g. a modality's name.
            index: int64 ``(B,)``, the samples' numbers, ≥ 0.
            default: ``(B, N)``.

        Returns:
            ``(B, N)`` in the dtype and on the device of ``default``.
        """
        known = self._known.get(name)
        if known is None or self._states[name].shape[1:] != default.shape[1:]:
            self.misses += len(index)
            return default
        place = index.to(known.device)
        inside = place < len(known)
        place = torch.where(inside, place, 0)
        found = known[place] & inside
        hits = int(found.sum())
        self.hits += hits
        self.misses += len(index) - hits
        states = self._states[name][place].to(default)
        return torch.where(found.to(default.device)[:, None], states, default)

    def store(self, name: str, index: Tensor, states: Tensor) -> None:
        """Store ``states`` ``(B, N)`` of the samples ``index``; the table grows to the largest number.

        Args:
            name: which state.
            index: int64 ``(B,)``, the samples' numbers, ≥ 0.
            states: ``(B, N)``; those that are not finite are ignored.

        Raises:
            InputError: an index is negative or not an integer, or there are more or fewer than states.
        """
        check_index(index, len(states))
        states = states.detach()
        place = index.to(states.device)
        size = int(place.max()) + 1 if len(place) else 0
        table, known = self._states.get(name), self._known.get(name)
        if table is None or known is None or table.shape[1:] != states.shape[1:]:
            table, known = states.new_zeros(0, *states.shape[1:]), place.new_zeros(0, dtype=torch.bool)
        table, known = table.to(states.device), known.to(states.device)
        if size > len(table):
            room = max(size, 2 * len(table)) - len(table)
            table = torch.cat([table, table.new_zeros(room, *table.shape[1:])])
            known = torch.cat([known, known.new_zeros(room)])
        # A state that is not finite would spoil every later solve.
        finite = torch.isfinite(torch.linalg.vector_norm(states, dim=1))
        table[place[finite]] = states[finite].to(table.dtype)
        known[place[finite]] = True
        self._states[name], self._known[name] = table, known

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """What is stored, to go on from in another process: plain tensors.

        >>> cache = ef.EquilibriumCache()
        >>> cache.store("fused", torch.tensor([1]), torch.ones(1, 2))
        >>> again = ef.EquilibriumCache()
        >>> again.load_state_dict(cache.state_dict())
        >>> again.start("fused", torch.tensor([1]), torch.zeros(1, 2))
        tensor([[1., 1.]])
        """
        return {"states": dict(self._states), "known": dict(self._known)}

    def load_state_dict(self, stored: dict[str, dict[str, Tensor]]) -> None:
        """Take the place of what is stored."""
        self._states, self._known = dict(stored["states"]), dict(stored["known"])

    def clear(self) -> None:
        """Delete all states and set ``hits`` and ``misses`` to 0."""
        self._states.clear()
        self._known.clear()
        self.hits = self.misses = 0


def check_index(index: Tensor, batch: int) -> None:
    """Raise :class:`InputError` unless ``index`` can number ``batch`` samples."""
    if index.dtype != torch.int64 or tuple(index.shape) != (batch,):
        raise InputError(f"index must be int64 of shape ({batch},), got {index.dtype} {tuple(index.shape)}")
    if len(index) and not is_recorded(index) and int(index.min()) < 0:
        raise InputError(f"index must not be negative, got {int(index.min())}")
