"""Encoders that look at another modality: attention to an image's regions that a question guides."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from equifuse.encoders.sequence import valid_steps
from equifuse.encoders.states import States
from equifuse.errors import InputError

GUIDED = ("guided", "coattention", "film")


class RegionStates(nn.Module):
    """Features of regions ``(B, R, l)`` as states: a linear map with layer normalisation; a region of zeros is none.

    >>> from equifuse.encoders.guided import RegionStates
    >>> RegionStates(2048, 32)(torch.randn(2, 36, 2048), torch.tensor([36, 10]))[1].sum(1)
    tensor([36, 10])

    Args:
        width: ``l``.
        dim: of a state.
        dropout: rate in [0, 1).
    """

    takes_lengths: ClassVar[bool] = True

    def __init__(self, width: int, dim: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.map = nn.Sequential(nn.Linear(width, dim), nn.LayerNorm(dim), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """States ``(B, R, dim)``, and which of them are data ``(B, R)``."""
        valid = valid_steps(x, lengths)
        x = torch.where(valid[:, :, None], x, 0.0)
        return self.map(x), valid & (x != 0).any(2)


class GridStates(nn.Module):
    """Cells of pictures as states, by a network that gives a ``grid``.

    >>> from equifuse.encoders.guided import GridStates
    >>> states, valid = GridStates(ef.encoders.PictureEncoder(32, 16))(torch.zeros(2, 3, 32, 32))
    >>> states.shape, bool(valid.all())
    (torch.Size([2, 16, 16]), True)

    Args:
        network: with a method ``grid(x) -> (B, cells, dim)``, such as :class:`~equifuse.encoders.PictureEncoder`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """States ``(B, cells, dim)``, all of them data."""
        cells: Tensor = self.network.grid(x)  # type: ignore[operator]
        return cells, torch.ones(cells.shape[:2], dtype=torch.bool, device=x.device)


class GuidedEncoder(nn.Module):
    """Base of the encoders that look at another modality, which they declare as ``looks_at``.

    >>> class Shifted(ef.encoders.GuidedEncoder):
    ...     "The mean region, moved by what the other modality says."
    ...     def attend(self, states, valid, context):
    ...         return states.mean(1) + context.pooled
    >>> Shifted(ef.encoders.RegionStates(64, 32), "question", 32)(torch.randn(2, 36, 64)).shape
    torch.Size([2, 32])

    A model gives them the other's :class:`~equifuse.encoders.States` as ``context``. Where a sample lacks the other
    modality, a vector that is learned takes its place, so that the encoder never depends on values that are not there.

    Args:
        regions: makes states ``(B, R, dim)`` and their mask of raw inputs: :class:`RegionStates`, :class:`GridStates`.
        looks_at: name of the other modality, whose encoder must have ``states``.
        dim: of states here and there, and of the output.
    """

    def __init__(self, regions: nn.Module, looks_at: str, dim: int) -> None:
        super().__init__()
        self.regions, self.looks_at, self.dim = regions, looks_at, dim
        self.alone = nn.Parameter(torch.zeros(dim))

    @property
    def takes_lengths(self) -> bool:
        """Whether regions are padded."""
        return bool(getattr(self.regions, "takes_lengths", False))

    def forward(self, x: Tensor, lengths: Tensor | None = None, context: States | None = None) -> Tensor:
        """``(B, …)``, lengths of regions, and the other modality (None: nobody has it) ``-> (B, dim)``.

        Raises:
            InputError: the other's states have another width.
        """
        states, valid = self.regions(x, lengths)
        context = States.absent(len(x), self.dim, states) if context is None else context
        if context.steps.shape[2] != self.dim:
            raise InputError(
                f"states of {self.looks_at!r} are {context.steps.shape[2]} wide, those that look at them {self.dim}; "
                "give both encoders one width"
            )
        # An image without regions gives the same as one with a single region of zeros.
        states = torch.where(valid[:, :, None], states, 0.0)
        valid = valid | (~valid.any(1, keepdim=True) & (torch.arange(valid.shape[1], device=x.device) == 0))
        return self.attend(states, valid, self._or_alone(context))

    def _or_alone(self, context: States) -> States:
        """The context with the learned vector in the place of what is missing."""
        there = context.present[:, None]
        first = torch.arange(context.steps.shape[1], device=there.device) == 0
        steps = torch.where(context.valid[:, :, None], context.steps, 0.0)
        steps = torch.where((~there & first)[:, :, None], self.alone.to(steps), steps)
        pooled = torch.where(there, context.pooled, self.alone.to(context.pooled))
        return States(steps, context.valid | (~there & first), pooled)

    def attend(self, states: Tensor, valid: Tensor, context: States) -> Tensor:
        """The vector ``(B, dim)`` of regions ``(B, R, dim)`` of which at least one is valid, in sight of the other."""
        raise NotImplementedError


class GuidedAttention(GuidedEncoder):
    """Attention to regions that another modality guides, as bottom-up and top-down attention has it.

    >>> encoder = ef.encoders.GuidedAttention(ef.encoders.RegionStates(2048, 32), "question", 32)
    >>> question = ef.encoders.WordEncoder(50, 32).states(torch.ones(2, 5, 1))
    >>> encoder(torch.randn(2, 36, 2048), context=question).shape
    torch.Size([2, 32])

    The weight of region ``i`` is a softmax of ``w · ReLU(W [v_i; q])``; the output is made of the weighted mean.

    Args:
        regions: see :class:`GuidedEncoder`.
        looks_at: likewise.
        dim: likewise.
        glimpses: so many weighted means, joined by a linear map; default 2.
        dropout: rate in [0, 1).

    Source: Anderson et al. 2018, arXiv 1707.07998, which has one glimpse.
    """

    def __init__(self, regions: nn.Module, looks_at: str, dim: int, *, glimpses: int = 2, dropout: float = 0.1) -> None:
        super().__init__(regions, looks_at, dim)
        self.seen, self.asked = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False)
        self.score = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, glimpses))
        self.join = nn.Sequential(nn.Linear(glimpses * dim, dim), nn.ReLU())

    def attend(self, states: Tensor, valid: Tensor, context: States) -> Tensor:
        """See :meth:`GuidedEncoder.attend`."""
        scores: Tensor = self.score(self.seen(states) + self.asked(context.pooled)[:, None])
        weights = torch.softmax(scores.masked_fill(~valid[:, :, None], -torch.inf), dim=1)
        joined: Tensor = self.join((weights.transpose(1, 2) @ states).flatten(1))
        return joined


class CoAttention(GuidedEncoder):
    """Layers of self-attention among regions and of attention to another modality's steps, then a pooled vector.

    >>> encoder = ef.encoders.CoAttention(ef.encoders.RegionStates(2048, 32), "question", 32)
    >>> question = ef.encoders.WordEncoder(50, 32).states(torch.ones(2, 5, 1))
    >>> encoder(torch.randn(2, 36, 2048), context=question).shape
    torch.Size([2, 32])

    Args:
        regions: see :class:`GuidedEncoder`.
        looks_at: likewise.
        dim: likewise; a multiple of ``heads``.
        layers: default 2; 6 in MCAN-small.
        heads: attention heads; default 4.
        dropout: rate in [0, 1).

    Source: the decoder of MCAN, Yu et al. 2019, arXiv 1906.10770, with its pooling.
    """

    def __init__(
        self, regions: nn.Module, looks_at: str, dim: int, *, layers: int = 2, heads: int = 4, dropout: float = 0.1
    ) -> None:
        super().__init__(regions, looks_at, dim)
        if dim % heads or layers < 1:
            raise InputError(f"dim {dim} must be a multiple of heads ({heads}), and layers at least 1")
        layer = nn.TransformerDecoderLayer(dim, heads, 4 * dim, dropout, batch_first=True)
        self.layers = nn.TransformerDecoder(layer, layers)
        self.score = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, 1))
        self.join = nn.Linear(dim, dim)

    def attend(self, states: Tensor, valid: Tensor, context: States) -> Tensor:
        """See :meth:`GuidedEncoder.attend`."""
        seen = self.layers(states, context.steps, tgt_key_padding_mask=~valid, memory_key_padding_mask=~context.valid)
        weights = torch.softmax(self.score(seen).masked_fill(~valid[:, :, None], -torch.inf), dim=1)
        joined: Tensor = self.join((weights * torch.where(valid[:, :, None], seen, 0.0)).sum(1))
        return joined


class FiLMEncoder(GuidedAttention):
    """Regions whose features another modality scales and shifts, in layers, then the attention that it guides.

    >>> encoder = ef.encoders.FiLMEncoder(ef.encoders.RegionStates(2048, 32), "question", 32)
    >>> question = ef.encoders.WordEncoder(50, 32).states(torch.ones(2, 5, 1))
    >>> encoder(torch.randn(2, 36, 2048), context=question).shape
    torch.Size([2, 32])

    Each layer is ``v + ReLU((1 + γ) ⊙ LN(W v) + β)``, where ``(γ, β)`` is an affine map of the other's vector: products
    of both modalities, which attention alone does not make. Questions such as "is there a circle?" need them.

    Args:
        regions: see :class:`GuidedEncoder`.
        looks_at: likewise.
        dim: likewise.
        layers: default 2.
        glimpses: see :class:`GuidedAttention`.
        dropout: rate in [0, 1).

    Raises:
        InputError: no layer.

    Source: feature-wise linear modulation, Perez et al. 2018, arXiv 1709.07871.
    """

    def __init__(
        self, regions: nn.Module, looks_at: str, dim: int, *, layers: int = 2, glimpses: int = 2, dropout: float = 0.1
    ) -> None:
        super().__init__(regions, looks_at, dim, glimpses=glimpses, dropout=dropout)
        if layers < 1:
            raise InputError(f"layers must be at least 1, got {layers}")
        self.maps = nn.ModuleList(nn.Linear(dim, dim) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(dim, elementwise_affine=False) for _ in range(layers))
        self.modulations = nn.ModuleList(nn.Linear(dim, 2 * dim) for _ in range(layers))

    def attend(self, states: Tensor, valid: Tensor, context: States) -> Tensor:
        """See :meth:`GuidedEncoder.attend`."""
        for mapped, norm, modulation in zip(self.maps, self.norms, self.modulations, strict=True):
            scale, shift = modulation(context.pooled)[:, None].chunk(2, dim=2)
            states = states + torch.relu((1 + scale) * norm(mapped(states)) + shift)
        return super().attend(states, valid, context)
