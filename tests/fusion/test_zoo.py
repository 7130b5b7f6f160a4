"""Each fusion against its definition, written out for one sample."""

import itertools

import pytest
import torch
from torch.nn import functional as F

import equifuse as ef

DIMS = {"a": 3, "b": 5, "c": 4}
TWO = {"a": 3, "b": 5}


def setting(name, dims=DIMS, size=4, **options):
    torch.manual_seed(0)
    fusion = ef.make_fusion(name, dims, **options).double().eval()
    x = {m: torch.randn(size, width, dtype=torch.float64) for m, width in dims.items()}
    projected = {m: fusion.project[m](v) for m, v in x.items()} if hasattr(fusion, "project") else {}
    return fusion, x, projected


def same(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_sums():
    fusion, x, p = setting("sum", dim=6)
    same(fusion(x).fused, p["a"] + p["b"] + p["c"])
    fusion, x, p = setting("mean", dim=6)
    same(fusion(x).fused, (p["a"] + p["b"] + p["c"]) / 3)
    there = torch.tensor([True, False, True, False])
    same(fusion(x, {"b": there}).fused[1], (p["a"] + p["c"])[1] / 2)
    fusion, x, p = setting("weighted_sum", dim=6)
    same(fusion(x).fused, (p["a"] + p["b"] + p["c"]) / 3)  # equal at first
    with torch.no_grad():
        fusion.weights.copy_(torch.tensor([0.0, 1.0, 2.0]))
    w = torch.softmax(fusion.weights, 0)
    same(fusion(x).fused, w[0] * p["a"] + w[1] * p["b"] + w[2] * p["c"])
    w = torch.softmax(fusion.weights[[0, 2]], 0)
    same(fusion(x, {"b": ~there}).fused[0], w[0] * p["a"][0] + w[1] * p["c"][0])


def test_gmu_with_two_and_with_three_modalities():
    fusion, x, p = setting("gmu", TWO, dim=6)
    z = torch.sigmoid(fusion.gate(torch.cat([x["a"], x["b"]], 1)))
    same(fusion(x).fused, z * p["a"].tanh() + (1 - z) * p["b"].tanh())
    same(fusion({"b": x["b"]}).fused, p["b"].tanh())
    fusion, x, p = setting("gmu", dim=6)
    gates = torch.sigmoid(fusion.gate(torch.cat(list(x.values()), 1))).chunk(3, 1)
    same(fusion(x).fused, sum(z * h.tanh() for z, h in zip(gates, p.values(), strict=True)))


def test_tensor_fusion_holds_every_product_once():
    fusion, x, p = setting("tensor", dim=2)
    assert fusion.out_dim == 27
    padded = [torch.cat([h, torch.ones(4, 1, dtype=torch.float64)], 1) for h in p.values()]
    same(fusion(x).fused, torch.einsum("ri,rj,rk->rijk", *padded).flatten(1))
    without = fusion({m: x[m] for m in ("a", "c")}).fused.view(4, 3, 3, 3)
    assert float(without[:, :, :2].detach().abs().max()) == 0  # what b takes part in
    same(without[:, :, 2], torch.einsum("ri,rk->rik", padded[0], padded[2]))
    with pytest.raises(ef.InputError, match="lowrank"):
        ef.make_fusion("tensor", {str(i): 4 for i in range(8)})


def test_low_rank_fusion_is_tensor_fusion_and_a_linear_map():
    """The weight tensor that the factors stand for, formed."""
    fusion, x, _ = setting("lowrank", dim=6, rank=3)
    weight = torch.zeros(6, 4, 6, 5, dtype=torch.float64)
    full = {m: torch.cat([f.weight, f.bias[:, None]], 1).view(3, 6, DIMS[m] + 1) for m, f in fusion.factors.items()}
    for r in range(3):
        weight += fusion.weights[r] * torch.einsum("oi,oj,ok->oijk", full["a"][r], full["b"][r], full["c"][r])
    padded = [F.pad(v, (0, 1), value=1.0) for v in x.values()]
    same(fusion(x).fused, torch.einsum("oijk,ri,rj,rk->ro", weight, *padded) + fusion.bias)
    zeroed = [F.pad(v * (m != "b"), (0, 1), value=1.0) for m, v in x.items()]
    same(fusion({m: x[m] for m in ("a", "c")}).fused, torch.einsum("oijk,ri,rj,rk->ro", weight, *zeroed) + fusion.bias)


def test_bilinear_pooling():
    fusion, x, _ = setting("bilinear", TWO, dim=6, factors=3)
    product = fusion.maps["a"](x["a"]) * fusion.maps["b"](x["b"])
    z = product.view(4, 6, 3).sum(2)
    rooted = z.sign() * z.abs().sqrt()
    torch.testing.assert_close(fusion(x).fused, F.normalize(rooted, dim=1), rtol=1e-6, atol=1e-7)
    same(fusion(x).fused.norm(dim=1), torch.ones(4, dtype=torch.float64))


def test_film():
    fusion, x, p = setting("film", dim=6, target="b")
    gamma, beta = (fusion.condition["a"](x["a"]) + fusion.condition["c"](x["c"])).chunk(2, 1)
    same(fusion(x).fused, (1 + gamma) * p["b"] + beta)
    same(fusion({"b": x["b"]}).fused, p["b"])
    with pytest.raises(ef.UnknownNameError, match="modality 'd'"):
        ef.make_fusion("film", DIMS, target="d")


def test_self_attention_is_a_transformer_over_the_tokens_there():
    fusion, x, p = setting("self_attention", dim=8, heads=2)
    tokens = torch.stack([p[m] + fusion.embedding[i] for i, m in enumerate(DIMS)], 1)
    for kept in itertools.chain.from_iterable(itertools.combinations(range(3), n) for n in (1, 2, 3)):
        state = torch.cat([fusion.summary.expand(4, 1, 8), tokens[:, list(kept)]], 1)
        for layer in fusion.layers:
            state = layer(state)
        names = [list(DIMS)[i] for i in kept]
        out = fusion({m: x[m] for m in names})
        same(out.fused, fusion.norm(state)[:, 0])
        same(out.modalities[names[-1]], fusion.norm(state)[:, -1])


def test_in_a_bottleneck_transformer_modalities_meet_in_the_bottleneck_only():
    fusion, x, p = setting("bottleneck", TWO, dim=8, heads=2, layers=2, bottlenecks=3)
    state = {m: (p[m] + fusion.embedding[i])[:, None] for i, m in enumerate(TWO)}
    common = fusion.bottleneck.expand(4, -1, -1)
    for layer in fusion.layers:
        made = []
        for m in TWO:
            seen = layer[m](torch.cat([common, state[m]], 1))
            made.append(seen[:, :3])
            state[m] = seen[:, 3:]
        common = (made[0] + made[1]) / 2
    everything = torch.cat([common, *state.values()], 1)
    same(fusion(x).fused, fusion.norm(everything.mean(1)))
    other = {**x, "b": torch.randn_like(x["b"])}
    assert float((fusion(x).modalities["a"] - fusion(other).modalities["a"]).detach().abs().max()) > 1e-6
    shallow, x, _ = setting("bottleneck", TWO, dim=8, heads=2, layers=1)
    same(shallow(x).modalities["a"], shallow({**x, "b": x["b"] + 1}).modalities["a"])  # one layer: nothing came back


def test_perceiver_latents_attend_to_the_tokens_there():
    fusion, x, p = setting("perceiver", dim=8, heads=2, latents=3, layers=1)
    for names in (("a", "b", "c"), ("a", "c"), ("b",)):
        tokens = fusion.token_norms[0](torch.stack([p[m] + fusion.embedding[list(DIMS).index(m)] for m in names], 1))
        latents = fusion.latents.expand(4, -1, -1)
        seen, _ = fusion.cross[0](fusion.query_norms[0](latents), tokens, tokens)
        state = fusion.layers[0](latents + seen)
        same(fusion({m: x[m] for m in names}).fused, fusion.norm(state).mean(1))


def test_mmtm():
    fusion, x, _ = setting("mmtm")
    z = torch.relu(fusion.squeeze(torch.cat(list(x.values()), 1)))
    parts = [2 * torch.sigmoid(fusion.excite[m](z)) * v for m, v in x.items()]
    same(fusion(x).fused, torch.cat(parts, 1))
    assert fusion.squeeze.out_features == 2 * 12 // (3 * 4)


def gaussians(fusion, x):
    found = {m: fusion.experts[m](v).chunk(2, 1) for m, v in x.items()}
    return {m: torch.distributions.Normal(mean, (spread / 2).exp()) for m, (mean, spread) in found.items()}


def test_product_of_experts_is_the_normalised_product_of_densities():
    fusion, x, _ = setting("poe", dim=2)
    experts = [*gaussians(fusion, x).values(), torch.distributions.Normal(torch.zeros(4, 2).double(), 1.0)]
    grid = torch.linspace(-12, 12, 20001, dtype=torch.float64)[:, None, None]
    density = sum(e.log_prob(grid) for e in experts).exp()
    density = density / density.sum(0)
    mean = (grid * density).sum(0)
    torch.testing.assert_close(fusion(x).fused, mean, rtol=1e-5, atol=1e-6)
    deviation = ((grid - mean).square() * density).sum(0).sqrt()
    prior = torch.distributions.Normal(torch.zeros(4, 2).double(), 1.0)
    divergence = torch.distributions.kl_divergence(torch.distributions.Normal(mean, deviation), prior).sum(1).mean()
    torch.testing.assert_close(fusion(x).losses["kl"], divergence, rtol=1e-4, atol=1e-6)


def test_mixture_of_experts():
    fusion, x, _ = setting("moe", dim=6)
    experts = gaussians(fusion, x).values()
    same(fusion(x).fused, sum(e.mean for e in experts) / 3)
    prior = torch.distributions.Normal(torch.zeros(4, 6).double(), 1.0)
    divergence = sum(torch.distributions.kl_divergence(e, prior).sum(1).mean() for e in experts) / 3
    same(fusion(x).losses["kl"], divergence)


def test_misa_losses_and_attention():
    fusion, x, z = setting("misa", TWO, dim=4)
    c = {m: torch.sigmoid(fusion.shared(v)) for m, v in z.items()}
    p = {m: torch.sigmoid(fusion.private[m](v)) for m, v in z.items()}
    out = fusion(x)
    tokens = fusion.attention(torch.stack([p["a"], p["b"], c["a"], c["b"]], 1))
    same(out.fused, tokens.flatten(1))
    same(out.modalities["b"], torch.cat([tokens[:, 1], tokens[:, 3]], 1))
    distance = (c["a"].mean(0) - c["b"].mean(0)).norm()
    centred = {m: v - v.mean(0) for m, v in c.items()}
    for k in range(2, 6):
        distance = distance + ((centred["a"] ** k).mean(0) - (centred["b"] ** k).mean(0)).norm()
    same(out.losses["similarity"], distance)

    def unit(v):
        v = v - v.mean(0)
        return v / v.norm(dim=1, keepdim=True)

    pairs = [(c["a"], p["a"]), (c["b"], p["b"]), (p["a"], p["b"])]
    same(out.losses["difference"], sum((unit(a).T @ unit(b)).square().mean() for a, b in pairs))
    errors = [(fusion.decode(c[m] + p[m]) - z[m]).square().mean() for m in TWO]
    same(out.losses["reconstruction"], sum(errors) / 2)
    assert fusion.loss_weights == {"similarity": 1.0, "difference": 0.3, "reconstruction": 1.0}
    only = fusion({"b": x["b"]})  # nothing to compare with
    assert float(only.losses["similarity"].detach()) == 0
    same(only.losses["reconstruction"], errors[1])


@pytest.mark.parametrize("name", ["sum", "mean", "weighted_sum", "lowrank", "bilinear", "perceiver", "self_attention"])
def test_permuting_modalities_permutes_what_belongs_to_them(name):
    options = {"dim": 8} | ({"heads": 2} if name in ("perceiver", "self_attention") else {})
    fusion, x, _ = setting(name, **options)
    order = ["c", "a", "b"]
    other = ef.make_fusion(name, {m: DIMS[m] for m in order}, **options).double().eval()
    state = fusion.state_dict()
    index = [list(DIMS).index(m) for m in order]
    for key in ("embedding", *(["weights"] if name == "weighted_sum" else [])):
        if key in state:
            state[key] = state[key][index]
    other.load_state_dict(state)
    same(other(x).fused, fusion(x).fused)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sum", {"dim": 0}),
        ("lowrank", {"rank": 0}),
        ("bilinear", {"dropout": 1.0}),
        ("self_attention", {"dim": 10, "heads": 4}),
        ("bottleneck", {"bottlenecks": 0}),
        ("perceiver", {"latents": 0}),
    ],
)
def test_values_out_of_range_are_refused(name, options):
    with pytest.raises(ef.InputError):
        ef.make_fusion(name, DIMS, **options)
