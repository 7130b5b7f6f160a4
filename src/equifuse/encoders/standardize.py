"""Standardising as a layer of the model, so that a stored model takes raw features."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from equifuse.encoders.sequence import valid_steps
from equifuse.errors import InputError


class Standardize(nn.Module):
    """Standardise features to mean 0 and deviation 1, as a layer of the model: a stored model then takes raw features.

    >>> layer = ef.encoders.Standardize((2,))
    >>> layer.fit(torch.tensor([[0.0, 10.0], [2.0, 30.0]]))
    >>> layer(torch.tensor([[2.0, 20.0]]))
    tensor([[1., 0.]])

    Args:
        shape: trailing shape of one sample, or of one step if the samples are sequences.
        clip: largest absolute value after standardising, > 0, or None for no bound; default 5.

    Raises:
        InputError: ``clip`` is not positive.
    """

    mean: Tensor
    scale: Tensor
    kind: ClassVar[str] = "standardize"

    def __init__(self, shape: tuple[int, ...], clip: float | None = 5.0) -> None:
        super().__init__()
        if clip is not None and not clip > 0:
            raise InputError(f"clip must be positive or None, got {clip}")
        self.clip = clip
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(shape))
        self._seen: tuple[Tensor, Tensor, Tensor] | None = None  # count, mean, sum of squared deviations; while fitting

    def fit(self, x: Tensor, lengths: Tensor | None = None) -> None:
        """Set mean and deviation of each feature from ``x`` ``(n, *shape)``; a constant feature is only centred."""
        self.update(x, lengths)
        self.finish()

    @torch.no_grad()
    def update(self, x: Tensor, lengths: Tensor | None = None, weight: Tensor | None = None) -> None:
        """Add a piece of the training part; call :meth:`finish` after the last one (Chan et al. 1979).

        Args:
            x: ``(n, *shape)``, or sequences ``(n, T, *shape)``.
            lengths: int64 ``(n,)``, numbers of valid steps of the sequences; None for all.
            weight: ``(n,)``, ≥ 0, weight of each sample; None for equal weights.
        """
        weight = torch.ones(len(x), device=x.device) if weight is None else weight
        if x.dim() > self.mean.dim() + 1:
            steps = valid_steps(x, lengths)
            x, weight = x[steps], weight[:, None].expand_as(steps)[steps]
        if not bool(weight.any()):
            return
        x, weight = x.double(), weight.double()
        count = weight.sum()
        mean = torch.tensordot(weight, x, 1) / count
        deviations = torch.tensordot(weight, (x - mean).square_(), 1)
        if self._seen is not None:
            before, old_mean, old_deviations = self._seen
            apart = mean - old_mean
            mean = old_mean + apart * (count / (before + count))
            deviations += old_deviations + apart.square() * (before * count / (before + count))
            count += before
        self._seen = count, mean, deviations

    @torch.no_grad()
    def finish(self) -> None:
        """Set mean and deviation from all pieces; without any, leave them unchanged."""
        if self._seen is None:
            return
        count, mean, deviations = self._seen
        std = (deviations / count).sqrt()
        # Below this a feature is constant up to the rounding of its own mean.
        constant = std <= 1e-7 * mean.abs() + 1e-30
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(constant, 1.0, std))
        self._seen = None

    def forward(self, x: Tensor) -> Tensor:
        """``(B, *shape) -> (B, *shape)``."""
        x = (x - self.mean) / self.scale
        return x if self.clip is None else x.clamp(-self.clip, self.clip)
