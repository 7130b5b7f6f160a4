"""Which fusions add up what the modalities say, measured; a head with a hidden layer makes up for that."""

from __future__ import annotations

import pytest
import torch

import equifuse as ef
from equifuse.registry import FUSIONS

DIMS = {"a": 16, "b": 16}


def fusions():
    built = {name: ef.make_fusion(name, DIMS) for name in FUSIONS.names()}
    built["gmf to sum"] = ef.make_fusion("gmf", DIMS, backend="sum")
    built["gmf to film"] = ef.make_fusion("gmf", DIMS, backend="film")
    built["gmf, folded"] = ef.make_fusion("gmf", DIMS).folded()
    return {name: fusion for name, fusion in built.items() if not fusion.decides}


FOUND = fusions()


@pytest.mark.parametrize("name", FOUND)
def test_additive_is_what_adds_up(name):
    fusion = FOUND[name].double().eval()
    generator = torch.Generator().manual_seed(0)
    x, y = ({m: torch.randn(6, 16, dtype=torch.float64, generator=generator) for m in DIMS} for _ in range(2))
    with torch.no_grad():
        both = fusion(x).fused + fusion(y).fused
        apart = both - sum(fusion({"a": one["a"], "b": other["b"]}).fused for one, other in ((x, y), (y, x)))
    assert (apart.abs().max().item() < 1e-12 * both.abs().max().item()) == fusion.additive


@pytest.mark.parametrize("name", FOUND)
def test_a_hidden_layer_follows_what_adds_up(name):
    backend = name.partition(" to ")[2]
    options = {"fusion": name.partition(" to ")[0].partition(",")[0]}
    if backend:
        options["fusion_options"] = {"backend": backend}
    model = ef.build_model(DIMS, "classification", 2, head_hidden="auto", **options)
    assert isinstance(model.head, ef.model.MLPHead) == FOUND[name].additive
