"""Fusions of decisions against their definitions, and what they promise beyond the protocol."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import equifuse as ef
from equifuse.fusion.qmf import ranking_loss
from equifuse.fusion.tmc import expected_cross_entropy, log_concentration, misleading_divergence

DIMS = {"a": 3, "b": 5, "c": 4}
TWO = {"a": 3, "b": 5}
CLASSES = 4
TARGET = torch.tensor([0, 3, 1, 1, 2])


def setting(name, dims=DIMS, size=5, **options):
    torch.manual_seed(0)
    fusion = ef.make_fusion(name, dims, outputs=CLASSES, **options).double().eval()
    return fusion, {m: torch.randn(size, width, dtype=torch.float64) for m, width in dims.items()}


def same(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def subsets(names):
    return itertools.chain.from_iterable(itertools.combinations(names, n) for n in range(1, len(names) + 1))


def test_late_fusion_averages_what_is_there():
    for combine in ("logits", "weighted", "probabilities"):
        fusion, x = setting("late", combine=combine)
        if combine == "weighted":
            with torch.no_grad():
                fusion.weights.copy_(torch.tensor([0.3, -1.0, 2.0]))
        logits = {m: fusion.project[m](v) for m, v in x.items()}
        for kept in subsets(DIMS):
            out = fusion({m: x[m] for m in kept})
            some = torch.stack([logits[m] for m in kept])
            if combine == "logits":
                same(out.fused, some.mean(0))
            elif combine == "probabilities":
                same(out.fused.exp(), torch.softmax(some, 2).mean(0))
            else:
                w = torch.softmax(fusion.weights[[list(DIMS).index(m) for m in kept]], 0)
                same(out.fused, (w[:, None, None] * some).sum(0))
            assert list(out.decisions) == list(kept)
            assert all(torch.equal(out.decisions[m], logits[m]) for m in kept)


@pytest.mark.parametrize("combine", ["weighted", "probabilities"])
def test_late_fusion_leaves_out_what_a_sample_lacks(combine):
    fusion, x = setting("late", combine=combine)
    present = {m: torch.rand(5) < 0.5 for m in ("a", "b")}
    poisoned = {m: torch.where(present[m][:, None], v, torch.nan) if m in present else v for m, v in x.items()}
    poisoned = {m: v.requires_grad_() for m, v in poisoned.items()}
    out = fusion(poisoned, present)
    for i in range(5):
        given = {m: v[i : i + 1] for m, v in x.items() if m not in present or bool(present[m][i])}
        same(out.fused[i], fusion(given).fused[0])
    out.fused.square().sum().backward()
    for m, there in present.items():
        assert float(poisoned[m].grad[~there].abs().sum()) == 0
    assert all(bool(torch.isfinite(p.grad).all()) for p in fusion.parameters())


@pytest.mark.parametrize("kind", ["late", "probabilities", "weighted", "tmc", "qmf", "mm_dynamics"])
def test_without_any_modality_no_class_is_preferred(kind):
    late = kind in ("probabilities", "weighted")
    fusion, x = setting("late" if late else kind, **({"combine": kind} if late else {}))
    out = fusion(x, dict.fromkeys(DIMS, torch.zeros(5, dtype=torch.bool)))
    same(torch.softmax(out.fused, 1), torch.full((5, CLASSES), 1 / CLASSES, dtype=torch.float64))


# Trusted multi-view classification


def opinion(evidence):
    """Beliefs and uncertainty."""
    strength = evidence.sum(-1, keepdim=True) + evidence.shape[-1]
    return evidence / strength, evidence.shape[-1] / strength


def dempster(first, second):
    """The paper's Definition 4, every product of masses written out."""
    (b, u), (c, v) = first, second
    conflict = sum(b[..., i] * c[..., j] for i, j in itertools.permutations(range(b.shape[-1]), 2))[..., None]
    return (b * c + b * v + c * u) / (1 - conflict), u * v / (1 - conflict)


def combined(*evidence):
    """The same of any number of modalities, as the fusion does it."""
    alpha = log_concentration(torch.stack(evidence, dim=-2)).exp()
    return opinion(alpha - 1)


def evidences(views, classes=3):
    number = st.floats(0, 50, allow_nan=False)
    return st.lists(st.lists(number, min_size=classes, max_size=classes), min_size=views, max_size=views)


@settings(max_examples=60, deadline=None)
@given(found=evidences(3))
def test_evidence_is_combined_by_the_reduced_dempster_rule(found):
    a, b, c = torch.tensor(found, dtype=torch.float64)
    two = dempster(opinion(a), opinion(b))
    for got, expected in zip(combined(a, b), two, strict=True):
        same(got, expected)
    left, right = dempster(two, opinion(c)), dempster(opinion(a), dempster(opinion(b), opinion(c)))
    for order in itertools.permutations((a, b, c)):
        for got, one, other in zip(combined(*order), left, right, strict=True):
            same(got, one)
            same(got, other)
    for got, expected in zip(combined(a, torch.zeros(3)), opinion(a), strict=True):
        same(got, expected)  # no evidence is the neutral element
    masses = combined(a, b, c)
    same(masses[0].sum() + masses[1].sum(), torch.ones((), dtype=torch.float64))


def test_tmc_predicts_the_mean_of_the_combined_dirichlet_distribution():
    fusion, x = setting("tmc")
    evidence = {m: F.softplus(fusion.project[m](v)) for m, v in x.items()}
    for kept in subsets(DIMS):
        out = fusion({m: x[m] for m in kept})
        belief, u = opinion(evidence[kept[0]])
        for m in kept[1:]:
            belief, u = dempster((belief, u), opinion(evidence[m]))
        same(out.fused.exp(), belief + u / CLASSES)
        same(fusion.uncertainty(out), u)
        for m in kept:
            same(out.modalities[m], evidence[m])
            same(out.confidence[m], 1 - opinion(evidence[m])[1])
            same(out.decisions[m].exp(), torch.distributions.Dirichlet(evidence[m] + 1).mean)
        assert all(float(out.modalities[m].detach().abs().max()) == 0 for m in DIMS if m not in kept)


def test_tmc_knows_nothing_where_nothing_is_there_and_can_be_asked_behind_gmf():
    gmf = ef.GMF(DIMS, backend="tmc", backend_options={"outputs": CLASSES}).double()
    x = {m: torch.randn(2, 3, width, dtype=torch.float64) for m, width in DIMS.items()}
    nobody = torch.tensor([[True, False, True], [False, True, True]])
    u = gmf.backend.uncertainty(gmf(x, dict.fromkeys(DIMS, nobody)))
    assert u.shape == (2, 3, 1)
    assert bool(((u[..., 0] == 1) == ~nobody).all())


def test_the_losses_are_expectations_under_the_dirichlet_distribution():
    alpha = 1 + 9 * torch.rand(5, CLASSES, dtype=torch.float64)
    p = (torch.arange(200_000, dtype=torch.float64) + 0.5)[:, None] / 200_000
    own = alpha.gather(1, TARGET[:, None]).squeeze(1)
    density = torch.distributions.Beta(own, alpha.sum(1) - own).log_prob(p).exp()  # of the target's probability
    expected = (-p.log() * density).mean(0)
    torch.testing.assert_close(expected_cross_entropy(alpha, TARGET), expected, rtol=1e-5, atol=1e-6)

    rest = torch.where(F.one_hot(TARGET, CLASSES) == 1, 1.0, alpha)
    flat = torch.distributions.Dirichlet(torch.ones_like(rest))
    divergence = torch.distributions.kl_divergence(torch.distributions.Dirichlet(rest), flat)
    same(misleading_divergence(alpha, TARGET), divergence)
    same(misleading_divergence(1 + 5.0 * F.one_hot(TARGET, CLASSES), TARGET), torch.zeros(5))


def test_tmc_sums_its_losses_over_the_modalities_and_the_combined_opinion():
    fusion, x = setting("tmc", TWO, annealing=0)
    there = torch.tensor([True, False, True, False, True])
    out = fusion(x, {"b": there})
    found = fusion.target_losses(out, TARGET, {"b": there})
    e = out.modalities
    joint = e["a"] + e["b"] + e["a"] * e["b"] / CLASSES
    for label, loss in (("evidence", expected_cross_entropy), ("kl", misleading_divergence)):
        alone = loss(1 + e["a"], TARGET).mean() + loss(1 + e["b"], TARGET)[there].mean()
        same(found[label], alone + loss(1 + joint, TARGET).mean())


def test_the_divergence_of_tmc_sets_in_with_training_and_the_count_is_part_of_the_model():
    fusion, x = setting("tmc", annealing=4)
    full, _ = setting("tmc", annealing=0)
    out = fusion(x)
    whole = full.target_losses(out, TARGET)["kl"]
    assert float(fusion.target_losses(out, TARGET)["kl"].detach()) == 0  # in evaluation nothing is counted
    fusion.train()
    shares = [float((fusion.target_losses(out, TARGET)["kl"] / whole).detach()) for _ in range(6)]
    assert shares == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1])
    assert int(fusion.state_dict()["steps"]) == 6


def test_many_sure_modalities_do_not_overflow():
    dims = {f"m{i}": 2 for i in range(60)}
    fusion = ef.make_fusion("tmc", dims, outputs=3, annealing=0)
    x = {m: 1e4 * torch.ones(2, 2, requires_grad=True) for m in dims}
    out = fusion(x)
    losses = fusion.target_losses(out, torch.tensor([0, 1]))
    (out.fused.sum() + sum(losses.values())).backward()
    assert bool(torch.isfinite(out.fused).all())
    assert all(bool(torch.isfinite(loss)) for loss in losses.values())
    assert all(bool(torch.isfinite(p.grad).all()) for p in fusion.parameters())


# Quality-aware multimodal fusion


def test_qmf_weighs_logits_by_their_energy_and_passes_no_gradient_into_the_weights():
    fusion, x = setting("qmf", scale=0.2)
    logits = {m: fusion.project[m](v) for m, v in x.items()}
    weight = {m: 0.2 * f.exp().sum(1, keepdim=True).log() for m, f in logits.items()}
    for kept in subsets(DIMS):
        out = fusion({m: x[m] for m in kept})
        same(out.fused, sum(weight[m] * logits[m] for m in kept))
        for m in kept:
            same(out.confidence[m], weight[m])
    constant = sum(weight[m].detach() * logits[m] for m in DIMS)
    parameters = list(fusion.parameters())
    got = torch.autograd.grad(fusion(x).fused.square().sum(), parameters)
    for a, b in zip(got, torch.autograd.grad(constant.square().sum(), parameters), strict=True):
        same(a, b)


def test_qmf_ranks_confidence_against_loss():
    confidence = torch.tensor([0.9, 0.1, 0.5, 0.4], dtype=torch.float64, requires_grad=True)
    loss = torch.tensor([2.0, 1.0, 4.0, 1.0], dtype=torch.float64)
    k = [1 / 3, 0.0, 1.0, 0.0]
    c = confidence.tolist()
    total = 0.0
    for i, j in ((0, 1), (1, 2), (2, 3), (3, 0)):
        total += max(0.0, math.copysign(1, k[i] - k[j]) * (c[i] - c[j]) + abs(k[i] - k[j]))
    got = ranking_loss(confidence, loss)
    assert float(got.detach()) == pytest.approx(total / 4)
    got.backward()
    assert float(confidence.grad[2]) > 0  # predicted worst: trusting it less lowers the loss
    agreed = torch.tensor([-1.0, 0.0, -4.0, 0.0], dtype=torch.float64)
    assert float(ranking_loss(agreed, loss)) == 0
    assert float(ranking_loss(torch.rand(3), torch.ones(3))) == 0  # all alike: nothing to rank
    assert float(ranking_loss(torch.rand(0), torch.rand(0))) == 0


def test_qmf_losses():
    fusion, x = setting("qmf", TWO)
    there = torch.tensor([True, False, True, True, False])
    out = fusion(x, {"b": there})
    found = fusion.target_losses(out, TARGET, {"b": there})
    f = {m: fusion.project[m](v) for m, v in x.items()}
    same(found["unimodal"], F.cross_entropy(f["a"], TARGET) + F.cross_entropy(f["b"][there], TARGET[there]))
    ranking = 0.0
    for m, here in (("a", slice(None)), ("b", there)):
        loss = F.cross_entropy(f[m][here], TARGET[here], reduction="none").detach()
        ranking = ranking + ranking_loss(0.1 * f[m][here].logsumexp(1), loss)
    same(found["ranking"], ranking)


# Multimodal dynamics


def dynamics(fusion, x):
    """Gates, features, decisions and confidences, written out."""
    gates = {m: torch.sigmoid(fusion.gates[m](v)) for m, v in x.items()}
    h = {m: torch.relu(fusion.encode[m](gates[m] * v)) for m, v in x.items()}
    return gates, h, {m: fusion.decide[m](v) for m, v in h.items()}, {m: fusion.trust[m](v) for m, v in h.items()}


def test_mm_dynamics():
    fusion, x = setting("mm_dynamics", dim=6)
    gates, h, f, p = dynamics(fusion, x)
    out = fusion(x)
    same(out.fused, fusion.classifier(torch.cat([p[m] * h[m] for m in DIMS], 1)))
    same(out.losses["sparsity"], sum(g.mean() for g in gates.values()))
    truth = {m: torch.softmax(v, 1)[range(5), TARGET].detach() for m, v in f.items()}
    found = fusion.target_losses(out, TARGET)
    same(found["unimodal"], sum(F.cross_entropy(v, TARGET) for v in f.values()))
    same(found["confidence"], sum((p[m][:, 0] - truth[m]).square().mean() for m in DIMS))
    for m in DIMS:
        same(out.modalities[m], p[m] * h[m])
        same(out.decisions[m], f[m])
        same(out.confidence[m], p[m])
    without = fusion({m: x[m] for m in ("a", "c")})
    zero = torch.zeros(5, 6, dtype=torch.float64)
    same(without.fused, fusion.classifier(torch.cat([p["a"] * h["a"], zero, p["c"] * h["c"]], 1)))


def test_mm_dynamics_hands_what_is_there_to_a_backend():
    widths = dict.fromkeys(DIMS, 8)
    deq = ef.DEQFusion(widths, 16, solver=ef.Anderson(tol=1e-10, max_steps=400), jacobian_weight=0.5)
    fusion, x = setting("mm_dynamics", dim=8, backend=deq)
    assert (fusion.decides, fusion.out_dim) == (False, 16)
    assert fusion.loss_weights == {"sparsity": 1.0, "jacobian": 0.5}
    for kept in (("a", "b", "c"), ("b",)):
        given = {m: x[m] for m in kept}
        _, h, _, p = dynamics(fusion, given)
        out, joint = fusion(given), deq({m: p[m] * h[m] for m in kept})
        same(out.fused, joint.fused)
        assert list(out.modalities) == list(DIMS)
        assert bool(out.stats.converged.all())
    assert set(fusion.train()(x).losses) == {"sparsity", "jacobian"}
    by_name, _ = setting("mm_dynamics", dim=8, backend="deq", backend_options={"dim": 16})
    assert by_name.backend.dims == widths
    assert ef.EquilibriumMonitor(by_name)(x).parts["fusion"].converged == 1


def test_a_backend_that_decides_has_the_last_word_and_keeps_its_losses():
    fusion, x = setting("mm_dynamics", dim=8, backend="tmc", backend_options={"outputs": CLASSES, "annealing": 0})
    assert (fusion.decides, fusion.out_dim) == (True, CLASSES)
    _, h, f, p = dynamics(fusion, x)
    joint = fusion.backend({m: p[m] * h[m] for m in DIMS})
    out = fusion(x)
    same(out.fused, joint.fused)
    same(out.decisions["a"], f["a"])
    found, own = fusion.target_losses(out, TARGET), fusion.backend.target_losses(joint, TARGET)
    assert set(found) == set(fusion.target_loss_weights) == {"unimodal", "confidence", "evidence", "kl"}
    same(found["kl"], own["kl"])


# What all of them promise

KINDS = {
    "tmc": {"annealing": 0},
    "qmf": {},
    "mm_dynamics": {"dim": 8},
    "mm_dynamics deq": {"dropout": 0.0, "backend": "deq", "backend_options": {"dim": 16, "contraction": 0.9}},
    "mm_dynamics tmc": {"dim": 8, "backend": "tmc", "backend_options": {"outputs": CLASSES, "annealing": 0}},
    "gmf tmc": {"backend": "tmc", "backend_options": {"outputs": CLASSES, "annealing": 0}},
}
kinds = pytest.mark.parametrize("kind", KINDS)


def made(kind):
    torch.manual_seed(1)
    outputs = {} if kind.startswith("gmf") else {"outputs": CLASSES}
    return ef.make_fusion(kind.split()[0], DIMS, **outputs, **KINDS[kind]).double().eval()


@kinds
def test_target_losses_do_not_see_what_is_absent(kind):
    """Whatever its rows hold; a modality absent everywhere counts as one never given."""
    fusion = made(kind)
    x = {m: torch.randn(5, width, dtype=torch.float64) for m, width in DIMS.items()}
    there = torch.tensor([True, False, True, True, False])
    results = []
    for filler in (0.0, torch.nan):
        fusion.zero_grad()
        b = torch.where(there[:, None], x["b"], filler).requires_grad_()
        out = fusion({**x, "b": b}, {"b": there})
        losses = fusion.target_losses(out, TARGET, {"b": there})
        assert set(losses) == set(fusion.target_loss_weights)
        assert all(loss.dim() == 0 for loss in losses.values())
        sum(losses.values()).backward()
        assert float(b.grad[~there].abs().max()) == 0
        assert float(b.grad[there].abs().max()) > 0
        results.append([*losses.values(), *(p.grad for p in fusion.parameters() if p.grad is not None)])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
    nobody = torch.zeros(5, dtype=torch.bool)
    masked = fusion.target_losses(fusion(x, {"b": nobody}), TARGET, {"b": nobody})
    without = fusion.target_losses(fusion({m: x[m] for m in ("a", "c")}), TARGET)
    for label, loss in masked.items():
        same(loss, without[label])


@kinds
def test_what_each_modality_says_keeps_the_leading_shape(kind):
    fusion = made(kind)
    x = {m: torch.randn(2, 3, width, dtype=torch.float64) for m, width in DIMS.items() if m != "c"}
    there = torch.rand(2, 3) < 0.5
    out = fusion(x, {"a": there})
    assert list(out.decisions) == list(out.confidence) == ["a", "b"]
    for m in ("a", "b"):
        assert out.decisions[m].shape == (2, 3, CLASSES)
        assert out.confidence[m].shape == (2, 3, 1)
    assert float(out.decisions["a"][~there].detach().abs().sum()) == 0
    assert float(out.confidence["a"][~there].detach().abs().sum()) == 0


@kinds
@pytest.mark.slow
def test_gradient_descent_on_all_losses_fits_a_few_samples(kind):
    fusion = made(kind).float().train()
    head = torch.nn.Identity() if fusion.decides else torch.nn.Linear(fusion.out_dim, CLASSES)
    x = {m: torch.randn(5, width) for m, width in DIMS.items()}
    optimiser = torch.optim.Adam([*fusion.parameters(), *head.parameters()], lr=0.03)
    for _ in range(80):
        out = fusion(x)
        losses = {**out.losses, **fusion.target_losses(out, TARGET)}
        weights = {**fusion.loss_weights, **fusion.target_loss_weights}
        loss = F.cross_entropy(head(out.fused), TARGET) + sum(weights[label] * v for label, v in losses.items())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert torch.equal(head(fusion.eval()(x).fused).argmax(1), TARGET)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("late", {"outputs": 0}, ef.InputError, "outputs must be"),
        ("late", {"outputs": True}, ef.InputError, "outputs must be"),
        ("late", {"combine": "logit"}, ef.UnknownNameError, "did you mean 'logits'"),
        ("tmc", {"annealing": -1}, ef.InputError, "annealing"),
        ("tmc", {"kl_weight": -1.0}, ef.InputError, "kl_weight"),
        ("qmf", {"scale": 0.0}, ef.InputError, "scale"),
        ("mm_dynamics", {"dropout": 1.0}, ef.InputError, "dropout"),
        ("mm_dynamics", {"dim": 0}, ef.InputError, "dim"),
        ("mm_dynamics", {"sparsity_weight": -1.0}, ef.InputError, "sparsity_weight"),
        ("mm_dynamics", {"backend": "deqq"}, ef.UnknownNameError, "did you mean 'deq'"),
        ("mm_dynamics", {"backend_options": {"dim": 8}}, ef.InputError, "given by name"),
        ("mm_dynamics", {"backend": ef.Concat(DIMS)}, ef.InputError, "the backend was built for"),
        ("mm_dynamics", {"outputs": 3, "backend": "tmc"}, ef.InputError, "2 outputs, mm_dynamics 3"),
        ("mm_dynamics", {"backend": "qmf"}, ef.InputError, "loss named 'unimodal'"),
    ],
)
def test_mistakes_give_one_line(name, options, error, message):
    with pytest.raises(error, match=message) as caught:
        ef.make_fusion(name, DIMS, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fusion", "options"),
    [
        ("late", {"combine": "weighted"}),
        ("tmc", {}),
        ("qmf", {}),
        ("mm_dynamics", {"backend": "tmc"}),
        ("mm_dynamics", {"backend": "deq"}),
        ("gmf", {"backend": "tmc"}),
        ("gmf", {"backend": "mm_dynamics", "backend_options": {"backend": "tmc"}}),
    ],
)
def test_a_model_is_told_the_number_of_classes_and_stored(fusion, options, tmp_path):
    model = ef.build_model(DIMS, "classification", 6, fusion=fusion, fusion_options=options).eval()
    with torch.no_grad():
        for buffer in (b for name, b in model.named_buffers() if name.endswith("steps")):
            buffer.fill_(7)
    x = {m: torch.randn(4, width) for m, width in DIMS.items()}
    prediction = model(x).prediction
    assert prediction.shape == (4, 6)
    assert isinstance(model.head, torch.nn.Identity) == model.fusion.decides
    model.save(tmp_path / "model")
    loaded = ef.load(tmp_path / "model")
    assert torch.equal(loaded(x).prediction, prediction)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), loaded.buffers(), strict=True))


def test_tasks_that_a_fusion_is_not_for_and_other_numbers_of_classes_are_refused():
    for name in ("tmc", "qmf", "mm_dynamics"):
        with pytest.raises(ef.InputError, match=f"fusion '{name}' is for classification, the task is regression"):
            ef.build_model(DIMS, "regression", 1, fusion=name)
        with pytest.raises(ef.InputError, match="is for classification"):
            ef.build_model(DIMS, "survival", 1, fusion="gmf", fusion_options={"backend": name})
    with pytest.raises(ef.InputError, match="is for classification"):
        ef.build_model(DIMS, "multilabel", 3, fusion="late", fusion_options={"combine": "probabilities"})
    with pytest.raises(ef.InputError, match="outputs=4, the task 3"):
        ef.build_model(DIMS, "classification", 3, fusion="late", fusion_options={"outputs": 4})
    for task in ("multilabel", "regression", "survival", "retrieval"):
        assert ef.build_model(DIMS, task, 3, fusion="late").fusion.out_dim == 3


def test_a_committee_is_the_exact_posterior_of_independent_gaussians_for_any_modalities_present():
    """With ``y ~ N(o, s²)`` and ``x_m = y + noise_m`` each modality says its own posterior mean of ``y``."""
    prior, spread = 3.0, 2.0
    noise = {"text": 0.5, "image": 1.5, "sound": 4.0}
    gains = {m: spread**2 / n**2 for m, n in noise.items()}  # precisions, in that of the prior
    fusion = ef.fusion.LateFusion(dict.fromkeys(noise, 1), outputs=1, combine="committee").double()
    with torch.no_grad():
        fusion.offset.bias.fill_(prior)
        fusion.precision.copy_(torch.tensor([[g] for g in gains.values()]).double().expm1().log())
        for m, gain in gains.items():
            fusion.project[m].weight.fill_(gain / (1 + gain))
            fusion.project[m].bias.fill_(prior / (1 + gain))
    x = {m: prior + torch.randn(8, 1).double() for m in noise}
    present = {m: torch.tensor([bool(row >> i & 1) for row in range(8)]) for i, m in enumerate(noise)}
    here = {m: present[m][:, None].double() for m in noise}
    precision = 1 + sum(here[m] * gains[m] for m in noise)
    exact = (prior + sum(here[m] * gains[m] * x[m] for m in noise)) / precision
    torch.testing.assert_close(fusion(x, present).fused, exact)


def test_regressions_are_put_together_by_a_committee_unless_told_otherwise(tmp_path):
    shapes = {"a": 3, "b": 2}
    assert ef.build_model(shapes, "regression", 1, fusion="late").fusion.combine == "committee"
    assert ef.build_model(shapes, "classification", 2, fusion="late").fusion.combine == "logits"
    model = ef.build_model(shapes, "regression", 1, fusion="late", fusion_options={"combine": "logits"})
    model.save(tmp_path / "model")
    assert ef.model.load(tmp_path / "model").fusion.combine == "logits"
