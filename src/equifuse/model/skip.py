"""A way around the fusion."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from equifuse.model.unimodal import beside, pooled, there


class SkipConnection(nn.Module):
    """The encoders' outputs, projected and averaged, beside what the fusion makes of them.

    >>> skip = ef.model.SkipConnection({"text": 300, "image": 64}, width=32)
    >>> skip({"text": torch.randn(8, 300)}).abs().max().item()  # a new one adds nothing
    0.0

    The head gets ``h + mean_m W_m x_m``: ``h`` is the fused representation, ``x_m`` the encoder's output of modality
    ``m``, the mean over the modalities that a sample has. ``W_m`` starts from 0.

    Args:
        dims: modality name -> width of its encoder's output.
        width: of the fused representation.
    """

    def __init__(self, dims: Mapping[str, int], width: int) -> None:
        super().__init__()
        self.maps = nn.ModuleDict({m: nn.Linear(size, width, bias=False) for m, size in dims.items()})
        for linear in self.maps.values():
            nn.init.zeros_(linear.weight)  # type: ignore[arg-type]

    def forward(
        self, encoded: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None, axes: int = 2
    ) -> Tensor:
        """``(B, ..., width)``.

        Args:
            encoded: modality name -> ``(B, ..., l_m)``.
            present: modality name -> bool ``(B,)`` or the leading shape, True where present.
            axes: of the fused representation; positions of an encoder that gives more are averaged.
        """
        total: Tensor | float = 0.0
        count: Tensor | float = 0.0
        for m, x in encoded.items():
            mask = (present or {}).get(m)
            states, rows = pooled(x, mask, axes) if x.dim() > axes else (x, mask)
            mapped = self.maps[m](states)
            total = total + (mapped if rows is None else torch.where(beside(rows, mapped), mapped, 0.0))
            count = count + there(rows, mapped)
        assert isinstance(total, Tensor)
        assert isinstance(count, Tensor)
        return total / count.clamp(min=1)
