"""What each modality says alone, and how that joins what the fusion says."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from equifuse.errors import InputError
from equifuse.fusion.output_map import OutputMap


class UnimodalHeads(nn.Module):
    """A linear head on each encoder's output, and the mix of their mean with the fused head's outputs.

    >>> heads = ef.model.UnimodalHeads({"text": 300, "image": 64}, outputs=3)
    >>> alone = heads({"text": torch.randn(8, 300)})
    >>> heads.mixed(torch.zeros(8, 3), alone).shape, heads.mix
    (torch.Size([8, 3]), tensor([1., 1.]))

    The prediction is ``o + a (f − o) + b mean_m (u_m − o)``: ``f`` what the fused head says, ``u_m`` what modality
    ``m`` says alone, the mean over the modalities that a sample has. One that it lacks contributes nothing. The offset
    ``o`` is what both are counted from: 0, or in regression the mean of the targets, which ``a`` and ``b`` do not move.

    Args:
        dims: modality name -> width of its encoder's output; one that is left out says nothing alone.
        outputs: number of outputs ``K``, ≥ 1.

    Attributes:
        mix: ``(2,)``, the factors ``a`` and ``b``: 1 and 1 unless :func:`equifuse.training.mix.fit_mix` found others.
        offset: ``(K,)``, ``o``.

    Raises:
        InputError: there is no output.
    """

    mix: Tensor
    offset: Tensor

    def __init__(self, dims: Mapping[str, int], outputs: int) -> None:
        super().__init__()
        if outputs < 1:
            raise InputError(f"outputs must be at least 1, got {outputs}")
        self.outputs = outputs
        self.heads = nn.ModuleDict({m: OutputMap(width, outputs) for m, width in dims.items()})
        self.register_buffer("mix", torch.ones(2))
        self.register_buffer("offset", torch.zeros(outputs))

    def forward(
        self, encoded: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None, axes: int = 2
    ) -> dict[str, Tensor]:
        """What each modality given says alone, ``(B, ..., K)``; the offset where it is absent.

        Args:
            encoded: modality name -> ``(B, ..., l_m)``.
            present: modality name -> bool ``(B,)`` or the leading shape, True where present.
            axes: of a prediction; positions of an encoder that gives more, such as a sequence's, are averaged.
        """
        found = {}
        for m, x in encoded.items():
            if m not in self.heads:
                continue
            mask = (present or {}).get(m)
            states, rows = pooled(x, mask, axes) if x.dim() > axes else (x, mask)
            said = self.heads[m](states)
            found[m] = said if rows is None else torch.where(beside(rows, said), said, self.offset)
        return found

    def mixed(
        self, fused: Tensor, unimodal: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """The prediction ``(B, ..., K)`` of what the fused head says, and of what the modalities present say alone."""
        total, count = torch.zeros_like(fused), torch.zeros_like(fused[..., :1])
        for m, said in unimodal.items():
            total = total + (said - self.offset)
            count = count + there((present or {}).get(m), said)
        alone = total / count.clamp(min=1)
        a, b = self.mix.unbind()
        return self.offset + a * (fused - self.offset) + b * alone

    @torch.no_grad()
    def set_mix(self, fused: float, unimodal: float) -> None:
        """Set the factors ``a`` of the fused head and ``b`` of the modalities alone."""
        self.mix.copy_(torch.tensor([fused, unimodal]))

    @torch.no_grad()
    def set_units(self, scale: Tensor, shift: Tensor) -> None:
        """Let the heads count in ``scale`` from ``shift``, both ``(K,)``."""
        self.offset.copy_(shift)
        for head in self.maps():
            head.set_units(scale, shift)

    def maps(self) -> list[OutputMap]:
        """The heads of all modalities."""
        return [head for head in self.heads.values() if isinstance(head, OutputMap)]


def pooled(x: Tensor, mask: Tensor | None, axes: int) -> tuple[Tensor, Tensor | None]:
    """The mean of ``(B, ..., T, l)`` over the last positions present, so that ``axes`` are left, and the rows with any.

    >>> from equifuse.model.unimodal import pooled
    >>> pooled(torch.tensor([[[1.0], [5.0]]]), torch.tensor([[True, False]]), axes=2)
    (tensor([[1.]]), tensor([True]))

    Args:
        x: values.
        mask: bool ``(B,)`` or ``(B, ..., T)``, or None where all are present.
        axes: of the result.
    """
    over = tuple(range(axes - 1, x.dim() - 1))
    if mask is None or mask.dim() < x.dim() - 1:
        return x.mean(over), mask
    counted = torch.where(mask[..., None], x, 0.0).sum(over) / mask.sum(over)[..., None].clamp(min=1)
    return counted, mask.flatten(axes - 1).any(-1)


def there(mask: Tensor | None, said: Tensor) -> Tensor:
    """1 where a modality is present, as a column beside what it said."""
    if mask is None:
        return torch.ones_like(said[..., :1])
    return beside(mask, said).to(said.dtype)


def beside(mask: Tensor, said: Tensor) -> Tensor:
    """A mask ``(B, ...)`` with as many axes as ``said``; of positions that were averaged, whether there was any."""
    if mask.dim() > said.dim() - 1:
        mask = mask.flatten(said.dim() - 1).any(-1)
    return mask.reshape(*mask.shape, *[1] * (said.dim() - mask.dim()))
