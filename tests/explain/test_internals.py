"""Gate and parts against the published definitions."""

import numpy as np
import pytest
import torch

import equifuse as ef
from equifuse.data.batch import Batch
from equifuse.explain import look_inside
from equifuse.explain.internals import gated
from equifuse.fusion.deq.problem import observed

DIMS = {"a": 5, "b": 6, "c": 7}
TIGHT = ef.Anderson(tol=1e-12, max_steps=400)
VARIANTS = [
    {},
    {"combine": "mean"},
    {"modality_blocks": False},
    {"gate": False},
    {"contraction": 0.9},
    {"contraction": 0.9, "combine": "mean"},
]


def model_of(fusion):
    return ef.FusionModel(dict.fromkeys(DIMS), fusion, torch.nn.Identity()).double().eval()


def batch_of(rows=8, missing=False):
    generator = torch.Generator().manual_seed(0)
    inputs = {m: torch.randn(rows, l, generator=generator, dtype=torch.float64) for m, l in DIMS.items()}
    present = {m: (torch.arange(rows) >> i) & 1 == 1 for i, m in enumerate(DIMS)} if missing else {}
    return Batch(inputs, present)


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("missing", [False, True])
def test_the_purified_states_add_up_to_what_is_combined(options, missing):
    torch.manual_seed(0)
    fusion = ef.DEQFusion(DIMS, 16, solver=TIGHT, **options).double()
    with torch.no_grad():
        fusion.norm.bias.add_(1.0)  # some of the state is beyond 1, where a contraction clamps it
    batch = batch_of(missing=missing)
    with torch.no_grad(), observed(fusion) as seen:
        fusion(batch.inputs, batch.present)
    solved = seen[-1]
    with torch.no_grad():
        alpha, purified = gated(fusion, solved)
        combined = solved.fusion_map.evaluate(solved.fused)[1].purified
    total = purified.sum(0)
    if options.get("combine") == "mean":
        total = total / solved.fusion_map.count.clamp(min=1)
    assert bool((solved.fused.abs() > 1).any())
    torch.testing.assert_close(total, combined, rtol=1e-10, atol=1e-12)
    assert (alpha is None) == (options.get("gate") is False)
    found = look_inside(model_of(fusion), [batch]).gate
    shares = np.stack(list(found.share.values()))
    here = np.stack([batch.present.get(m, torch.ones(8, dtype=torch.bool)).numpy() for m in DIMS])
    assert (np.isnan(shares) == ~here).all()
    some = here.any(0)
    np.testing.assert_allclose(np.nansum(shares, 0)[some], 1, atol=1e-10)


def test_the_gate_is_the_published_one():
    torch.manual_seed(0)
    fusion = ef.DEQFusion(DIMS, 16, solver=TIGHT).double()
    batch = batch_of()
    with torch.no_grad():
        out = fusion(batch.inputs)
        alpha = {m: (out.fused + z) @ fusion.gate.weight.T + fusion.gate.bias for m, z in out.modalities.items()}
        purified = {m: a * out.fused for m, a in alpha.items()}
        total = sum(purified.values())
    model = model_of(fusion)
    found = look_inside(model, [batch.select(torch.arange(5)), batch.select(torch.arange(5, 8))])
    assert found.parts is None
    for m in DIMS:
        np.testing.assert_allclose(found.gate.openness[m], alpha[m].square().mean(1).sqrt(), rtol=1e-9)
        expected = (purified[m] * total).sum(1) / total.square().sum(1)
        np.testing.assert_allclose(found.gate.share[m], expected, rtol=1e-9)
    with torch.no_grad():
        fusion.gate.weight.zero_()
        fusion.gate.bias.fill_(0.25)
    even = look_inside(model, [batch]).gate
    np.testing.assert_allclose(even.openness["b"], 0.25, rtol=1e-12)
    np.testing.assert_allclose(even.share["b"], 1 / 3, rtol=1e-12)


@pytest.mark.parametrize("folded", [False, True])
def test_the_parts_are_those_of_gmf(folded):
    gmf = ef.GMF(DIMS).double()
    batch = batch_of(missing=True)
    batch.inputs["b"][~batch.present["b"]] = torch.nan
    found = look_inside(model_of(gmf.folded() if folded else gmf), [batch])
    assert found.gate is None
    parts = found.parts
    for m, width in DIMS.items():
        maps, here = gmf.maps[m], batch.present[m]
        with torch.no_grad():
            s = maps.dissociate(batch.inputs[m][here])
            inv = maps.invariant(s[:, : 2 * width]).square().sum(1)
            spec = maps.specific(s[:, 2 * width :]).square().sum(1)
        np.testing.assert_allclose(parts.invariant[m][here], inv, rtol=1e-9)
        np.testing.assert_allclose(parts.specific[m][here], spec, rtol=1e-9)
        np.testing.assert_allclose(parts.invariant_share[m][here], inv / (inv + spec), rtol=1e-9)
        assert np.isnan(parts.invariant_share[m][~here]).all()
        assert parts.widths[m] == 5 / (5 + width)
    means = parts.summary()["invariant_share"]
    assert means["a"] == pytest.approx(np.nanmean(parts.invariant_share["a"]))


def test_an_equilibrium_behind_gmf_has_both_and_others_have_neither():
    both = look_inside(model_of(ef.GMF(DIMS, backend="deq", backend_options={"dim": 16})), [batch_of()])
    assert both.gate is not None
    assert both.parts is not None
    neither = look_inside(model_of(ef.Concat(DIMS)), [batch_of()])
    assert neither.gate is None
    assert neither.parts is None


def test_a_modality_that_was_never_given_is_unknown():
    fusion = ef.DEQFusion(DIMS, 16, solver=TIGHT).double()
    batch = batch_of()
    del batch.inputs["b"]
    found = look_inside(model_of(fusion), [batch]).gate
    assert np.isnan(found.share["b"]).all()
    assert found.summary()["share"]["b"] is None
    np.testing.assert_allclose(found.share["a"] + found.share["c"], 1)
