"""What a model makes of samples: the fused vector, each modality's code, and the parts that GMF takes it apart into."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from equifuse.data.batch import Batch
from equifuse.errors import InputError
from equifuse.explain.internals import gmf_parts
from equifuse.explain.targets import ByModality, Floats, evaluating, presence
from equifuse.model import FusionModel

FUSED = "fused"


def embeddings(model: FusionModel, batches: Iterable[Batch]) -> ByModality:
    """The representations of samples by name, ``(n, k)`` each.

    >>> model = ef.build_model({"a": 3, "b": 4}, "regression", 1, fusion="gmf").eval()
    >>> batch = ef.tasks.Batch({"a": torch.randn(8, 3), "b": torch.randn(8, 4)})
    >>> found = embeddings(model, [batch])
    >>> sorted(found)
    ['a.encoded', 'a.invariant', 'a.specific', 'b.encoded', 'b.invariant', 'b.specific', 'fused']
    >>> found["fused"].shape[0], found["a.encoded"].shape
    (8, (8, 128))

    ``fused`` is what the head predicts from; ``a.encoded`` what the encoder of modality ``a`` makes of it, before the
    fusion. With GMF, ``a.invariant`` is what it has in common with the others, and ``a.specific`` what is its own.
    A modality that a sample lacks is NaN there. Axes beyond the first are flattened.

    Args:
        model: the model; it is evaluated in evaluation mode.
        batches: the samples.

    Raises:
        InputError: there are no samples.
    """
    pieces: list[dict[str, Tensor]] = []
    with evaluating(model) as device, torch.no_grad():
        for batch in (batch.to(device) for batch in batches):
            output = model(batch.inputs, batch.present, lengths=batch.lengths)
            here = dict(zip(model.modalities, presence(model, batch).unbind(1), strict=True))
            found = {FUSED: output.fusion.fused}
            encoded = output.encoded or model.encode(batch.inputs, batch.present, lengths=batch.lengths)
            parts = gmf_parts(model, encoded)
            for m in model.modalities:
                if m in encoded:
                    named = {"encoded": encoded[m], **parts.get(m, {})}
                    found |= {f"{m}.{name}": _where(here[m], x) for name, x in named.items()}
            pieces.append({name: x.flatten(1).double().cpu() for name, x in found.items()})
    if not pieces:
        raise InputError("there are no samples to embed")
    return {name: torch.cat([piece[name] for piece in pieces]).numpy() for name in pieces[0]}


def _where(here: Tensor, x: Tensor) -> Tensor:
    return x.masked_fill(~here.view(-1, *[1] * (x.dim() - 1)), float("nan"))


def known_columns(x: Floats) -> Floats:
    """Columns ``(n, k)`` scaled to deviation 1 about mean 0, those that do not vary left out."""
    spread = x.std(axis=0)
    some = x[:, spread > 0]
    return np.asarray((some - some.mean(axis=0)) / spread[spread > 0])
