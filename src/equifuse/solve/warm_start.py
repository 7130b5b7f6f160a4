"""Equilibria of earlier epochs as starts of later ones."""

from __future__ import annotations

import torch
from torch import Tensor

from equifuse.errors import InputError


class EquilibriumCache:
    """States by sample index and name, to start the next solve of the same samples from.

    The cache decides only where a solve starts, never where it ends: results agree with those without it up to the
    solver's tolerance, whatever the order of samples and however the weights have changed. It keeps
    ``(M + 1) · d`` numbers per sample, on the device they come from.

    Attributes:
        hits: samples whose start was found, in total.
        misses: samples whose start was not.
    """

    def __init__(self) -> None:
        self._states: dict[str, Tensor] = {}
        self._known: dict[str, Tensor] = {}
        self.hits = 0
        self.misses = 0

    def start(self, name: str, index: Tensor, default: Tensor) -> Tensor:
        """The stored states of the samples ``index``, or ``default`` where there are none.

        Args:
            name: of the state, e.g. a modality's.
            index: int64 ``(B,)``, the samples' numbers, ≥ 0.
            default: ``(B, N)``.

        Returns:
            ``(B, N)``, dtype and device of ``default``.
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
        """Keep ``states`` ``(B, N)`` of the samples ``index``; the table grows to the largest index.

        Raises:
            InputError: an index is negative or not an integer, or there are not as many as states.
        """
        check_index(index, len(states))
        states = states.detach()
        place = index.to(states.device)
        size = int(place.max()) + 1 if len(place) else 0
        table, known = self._states.get(name), self._known.get(name)
        if table is None or known is None or table.shape[1:] != states.shape[1:] or table.device != states.device:
            table, known = states.new_zeros(0, *states.shape[1:]), place.new_zeros(0, dtype=torch.bool)
        if size > len(table):
            room = max(size, 2 * len(table)) - len(table)
            table = torch.cat([table, table.new_zeros(room, *table.shape[1:])])
            known = torch.cat([known, known.new_zeros(room)])
        # A state that is not finite would spoil every later solve.
        finite = torch.isfinite(torch.linalg.vector_norm(states, dim=1))
        table[place[finite]] = states[finite].to(table.dtype)
        known[place[finite]] = True
        self._states[name], self._known[name] = table, known

    def clear(self) -> None:
        """Forget everything."""
        self._states.clear()
        self._known.clear()
        self.hits = self.misses = 0


def check_index(index: Tensor, batch: int) -> None:
    """Refuse what cannot number ``batch`` samples."""
    if index.dtype != torch.int64 or tuple(index.shape) != (batch,):
        raise InputError(f"index must be int64 of shape ({batch},), got {index.dtype} {tuple(index.shape)}")
    if len(index) and int(index.min()) < 0:
        raise InputError(f"index must not be negative, got {int(index.min())}")
