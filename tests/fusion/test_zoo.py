"""Each fusion against its definition, written out for one sample."""

import itertools

import pytest
import torch
from torch.nn import functional as F

import equifuse as ef
from equifuse.fusion import MutualEquilibrium, WeightTied
from equifuse.fusion.deq import reference_layout

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
    fusion, x, _ = setting("film", dim=6, target="b")
    seen = fusion.maps["b"](x["b"])
    gamma, beta = (fusion.maps["a"](x["a"]) + fusion.maps["c"](x["c"])).chunk(2, 1)
    same(fusion(x).fused, (1 + gamma) * seen + beta)
    same(fusion({"b": x["b"]}).fused, seen)
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


def token_layer(layer, state, source):
    """A layer of a crossmodal transformer, its attention written out for two heads."""
    q, k, v = (
        part @ weight.T + bias
        for part, weight, bias in zip(
            (layer.target_norm(state), layer.source_norm(source), layer.source_norm(source)),
            layer.attention.in_proj_weight.chunk(3),
            layer.attention.in_proj_bias.chunk(3),
            strict=True,
        )
    )
    half = q.shape[2] // 2
    heads = [
        torch.softmax(q[..., h] @ k[..., h].transpose(1, 2) / half**0.5, 2) @ v[..., h]
        for h in (slice(half), slice(half, None))
    ]
    state = state + layer.attention.out_proj(torch.cat(heads, 2))
    return state + layer.network(layer.norm(state))


def test_cross_attention_looks_from_each_modality_at_each_other():
    fusion, x, p = setting("cross_attention", dim=12, heads=2, tokens=3, layers=2)
    assert fusion.out_dim == 3 * 2 * 12
    z = {m: (p[m] + fusion.embedding[i]).view(4, 3, 4) for i, m in enumerate(DIMS)}
    states = {}
    for target in DIMS:
        seen = []
        for source in DIMS:
            if source != target:
                state = z[target]
                for layer in fusion.directions[target][source]:
                    state = token_layer(layer, state, z[source])
                seen.append(state)
        state = torch.cat(seen, 2)
        for layer in fusion.layers[target]:
            state = layer(state)
        states[target] = fusion.norms[target](state).flatten(1)
        same(fusion(x).modalities[target], states[target])
    same(fusion(x).fused, torch.cat(list(states.values()), 1))


def test_cross_attention_without_a_source_goes_on_with_the_target():
    fusion, x, p = setting("cross_attention", TWO, dim=8, heads=2, tokens=2, layers=1)
    out = fusion({"b": x["b"]})
    state = (p["b"] + fusion.embedding[1]).view(4, 2, 4)
    (layer,) = fusion.directions["b"]["a"]
    state = state + layer.network(layer.norm(state))
    same(out.modalities["b"], fusion.norms["b"](fusion.layers["b"][0](state)).flatten(1))
    assert float(out.modalities["a"].detach().abs().max()) == 0


def test_attention_to_one_token_is_affine_and_to_several_depends_on_the_target():
    def seen(tokens):
        fusion, x, _ = setting("cross_attention", TWO, dim=8, heads=2, tokens=tokens, layers=1)
        (layer,) = fusion.directions["a"]["b"]
        source = layer.source_norm(x["b"].new_tensor(range(32)).view(4, tokens, -1).sin())
        return [layer.attention(torch.randn_like(source), source, source)[0] for _ in range(2)]

    same(*seen(1))
    a, b = seen(2)
    assert float((a - b).detach().abs().max()) > 1e-3


def test_channel_exchange():
    fusion, x, p = setting("channel_exchange", dim=7, threshold=0.3)
    with torch.no_grad():
        fusion.scale.uniform_(-1, 1)
        fusion.shift.normal_()
        fusion.weights.normal_()
    own = [[0, 1, 2], [3, 4], [5, 6]]  # seven channels, three modalities
    assert fusion.own().nonzero().tolist() == [[m, c] for m, run in enumerate(own) for c in run]
    low = fusion.scale.abs() < 0.3
    exchanged = [(layer, m, c) for layer in range(2) for m in range(3) for c in own[m] if low[layer, m, c]]
    assert exchanged
    same(fusion(x).losses["sparsity"], sum(fusion.scale[:, m, c].abs().sum() for m in range(3) for c in own[m]))
    names = list(DIMS)
    for kept in ([0, 1, 2], [0, 2], [1]):
        h = {m: p[names[m]] for m in kept}
        for layer in range(2):
            y = {}
            for m in kept:
                mixed = h[m] if layer == 0 else fusion.mix[0](h[m])
                spread = (mixed.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
                y[m] = fusion.scale[layer, m] * (mixed - mixed.mean(1, keepdim=True)) / spread + fusion.shift[layer, m]
            h = {m: y[m].clone() for m in kept}
            for _, m, c in (e for e in exchanged if e[0] == layer and e[1] in kept and len(kept) > 1):
                others = [k for k in kept if k != m]
                h[m][:, c] = sum(y[k][:, c] for k in others) / len(others)
            h = {m: v.relu() for m, v in h.items()}
        share = torch.softmax(fusion.weights[kept], 0)
        out = fusion({names[m]: x[names[m]] for m in kept})
        same(out.fused, sum(s * h[m] for s, m in zip(share, kept, strict=True)))
        same(out.modalities[names[kept[0]]], h[kept[0]])


def test_an_exchanged_channel_learns_from_the_others_alone():
    fusion, x, _ = setting("channel_exchange", TWO, dim=4, layers=1, threshold=0.1)
    with torch.no_grad():
        fusion.scale[0, 0, 0] = 0.05
    fusion(x).modalities["a"].sum().backward()
    assert float(fusion.scale.grad[0, 0, 0]) == 0
    assert float(fusion.scale.grad[0, 1, 0].abs()) > 0
    assert float(fusion.scale.grad[0, 1, 1:].abs().max()) == 0


def test_drfuse():
    fusion, x, p = setting("drfuse", dim=6)
    h = {m: fusion.shared(v) for m, v in p.items()}
    d = {m: fusion.distinct[m](v) for m, v in x.items()}
    query, key, value = (
        (lambda v, w=w, b=b: v @ w.T + b)
        for w, b in zip(fusion.attention.weight.chunk(3), fusion.attention.bias.chunk(3), strict=True)
    )
    for names in (("a", "b", "c"), ("a", "c"), ("b",)):
        mean = sum(h[m].sigmoid() for m in names) / len(names)
        parts = [*(d[m] for m in names), mean.logit()]
        q = sum(query(v) for v in parts) / len(parts)
        weights = torch.softmax(torch.stack([(q * key(v)).sum(1) / 6**0.5 for v in parts], 1), 1)
        out = fusion({m: x[m] for m in names})
        same(out.fused, sum(weights[:, i, None] * value(v) for i, v in enumerate(parts)))
        same(out.modalities[names[0]], torch.cat([h[names[0]], d[names[0]]], 1))
        middle = torch.distributions.Bernoulli(mean)
        own = [torch.distributions.Bernoulli(logits=h[m]) for m in names]
        divergence = sum(torch.distributions.kl_divergence(v, middle).mean() for v in own) / len(names)
        same(out.losses["alignment"], divergence)
        cosines = [((h[m] * d[m]).sum(1) / h[m].norm(dim=1) / d[m].norm(dim=1)).abs().mean() for m in names]
        same(out.losses["disentanglement"], sum(cosines))
    assert fusion.loss_weights == {"alignment": 1.0, "disentanglement": 1.0}


def test_drfuse_losses_are_over_the_samples_that_have_the_modalities():
    fusion, x, _ = setting("drfuse", TWO, dim=6)
    mask = torch.tensor([True, False, True, False])
    losses = fusion(x, {"b": mask}).losses
    both, only = fusion({m: v[mask] for m, v in x.items()}).losses, fusion({"a": x["a"]}).losses
    same(losses["alignment"], both["alignment"])
    alone = fusion({"b": x["b"][mask]}).losses
    same(losses["disentanglement"], only["disentanglement"] + alone["disentanglement"])
    assert float(only["alignment"].detach()) == pytest.approx(0, abs=1e-12)


def test_weight_tied_recursion_applies_the_map_of_the_equilibrium():
    fusion, x, _ = setting("weight_tied", dim=16, iterations=3)
    f, z = fusion.equilibrium_map(x)
    same(fusion(x).fused, f(f(f(z)))[:, -1])
    long, _, _ = setting("weight_tied", dim=16, iterations=200)
    solved = ef.DEQFusion(DIMS, 16, solver=ef.Anderson(tol=1e-13, max_steps=300)).double()
    solved.load_state_dict(long.state_dict())
    same(long(x).fused, solved(x).fused)


def test_mutual_equilibrium_is_the_same_one_and_its_radius_is_regularised():
    fusion, x, _ = setting("meq", dim=16, solver=ef.Picard(tol=1e-13, max_steps=2000, damping=0.5))
    plain = ef.DEQFusion(DIMS, 16, solver=ef.Anderson(tol=1e-13, max_steps=300)).double()
    plain.load_state_dict(fusion.state_dict())
    same(fusion(x).fused, plain(x).fused)
    assert fusion.loss_weights == {"spectral": 1.0}
    f, _ = fusion.equilibrium_map(x)
    radius = ef.spectral_radius(f, torch.stack([*fusion(x).modalities.values(), fusion(x).fused], 1).detach())
    expected = ((radius - 0.9).clamp(min=0).square() + (0.7 - radius).clamp(min=0).square()).mean()
    found = fusion.train()(x).losses["spectral"]
    torch.testing.assert_close(found.detach(), expected, rtol=0.1, atol=1e-4)  # Ritz values of 12 vectors
    assert ef.make_fusion("meq", DIMS).solver == ef.Picard(tol=1e-4, max_steps=200, damping=0.5)


@pytest.mark.parametrize("name", ["weight_tied", "meq"])
def test_variants_have_the_options_of_the_equilibrium_too(name):
    options = {"combine": "mean", "contraction": 0.8, "modality_blocks": False}
    fusion = ef.make_fusion(name, DIMS, dim=8, **options)
    assert options.items() <= fusion.config().items()
    with pytest.raises(ef.UnknownNameError, match="did you mean 'iterations'"):
        ef.make_fusion(name, DIMS, iteration=3)


def test_variants_read_reference_weights():
    weights = ef.make_fusion("deq", {"0": 8, "1": 8}, dim=8, projection=False)
    layout = {key: weights.get_parameter(name) for key, (name, *_) in reference_layout(2).items()}
    state = {
        key: (value if index is None else value[index]).detach()
        for (key, (_, index, _)), value in zip(reference_layout(2).items(), layout.values(), strict=True)
    }
    for name, kind in (("weight_tied", WeightTied), ("meq", MutualEquilibrium)):
        read = kind.from_reference({key: v.squeeze() for key, v in state.items()} | {"bias": state["bias"]})
        assert read.name == name
        assert read.config()["projection"] is False
        assert read.solver == ef.make_fusion(name, {"0": 8}).solver


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
        ("cross_attention", {"dim": 16, "heads": 4, "tokens": 8}),
        ("cross_attention", {"tokens": 0}),
        ("channel_exchange", {"dim": 2}),
        ("channel_exchange", {"layers": 0}),
        ("channel_exchange", {"threshold": -0.1}),
        ("channel_exchange", {"sparsity_weight": -1.0}),
        ("drfuse", {"alignment_weight": -1.0}),
        ("weight_tied", {"iterations": 0}),
        ("weight_tied", {"iterations": None}),
        ("scfae", {"expansion": 1.9}),
    ],
)
def test_values_out_of_range_are_refused(name, options):
    with pytest.raises(ef.InputError):
        ef.make_fusion(name, DIMS, **options)


@pytest.mark.parametrize("name", ["cross_attention", "channel_exchange", "drfuse", "gmf", "scfae"])
def test_what_happens_between_modalities_needs_two(name):
    with pytest.raises(ef.InputError, match="between modalities and needs at least two"):
        ef.make_fusion(name, {"a": 8})
