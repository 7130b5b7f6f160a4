"""Rounded products inside of a solve: where they are used, and that the tolerance does not feel them."""

import itertools
from copy import deepcopy
from dataclasses import replace

import pytest
import torch

import equifuse as ef
from equifuse.fusion.deq import products
from equifuse.fusion.deq.module import DEQFusion
from equifuse.fusion.deq.problem import observed
from equifuse.solve.krylov import GMRES, Product, solve_adjoint

TOL = 1e-4


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """As on a CPU with bfloat16 instructions, whatever the size of the batch."""
    monkeypatch.setattr(products, "_cpu_has_fast_bfloat16", lambda: True)
    monkeypatch.setattr(products, "_WORTH_ROUNDING", 0)


def fusion_of(kind, dim=64, count=3, **options):
    """At the initial weights, with the matrices three times as large, and with weights N(0, 0.04/d) and unit gains."""
    torch.manual_seed(0)
    dims = {f"m{i}": dim for i in range(count)}
    fusion = DEQFusion(dims, dim, projection=False, solver=ef.Anderson(tol=TOL, max_steps=200), **options)
    with torch.no_grad():
        for name, parameter in fusion.named_parameters():
            square = parameter.dim() >= 2 and parameter.shape[-1] == parameter.shape[-2] == dim
            if kind == "hard" and square:
                parameter.mul_(3)
            elif kind == "published":
                if square:
                    parameter.normal_(std=0.2 / dim**0.5)
                elif "norm" in name and name.endswith("weight"):
                    parameter.fill_(1.0)
                elif "bias" in name:
                    parameter.zero_()
    inputs = {m: torch.randn(50, dim, requires_grad=True) for m in dims}
    return fusion, inputs


def exact(fusion, inputs, cotangent):
    """Float64 to 1e-11: fused state and gradients."""
    double = deepcopy(fusion).double()
    double.solver = ef.Anderson(tol=1e-11, max_steps=500)
    double.gradient = ef.Implicit(solver=GMRES(tol=1e-11, max_steps=400))
    x = {m: v.detach().double().requires_grad_() for m, v in inputs.items()}
    fused = double(x).fused
    gradients = torch.autograd.grad((fused * cotangent.double()).sum(), [*double.parameters(), *x.values()])
    return double, fused.detach(), torch.cat([g.flatten() for g in gradients])


class Counter:
    """Counts how a solve's products are made."""

    def __init__(self, monkeypatch):
        self.exact = self.low_precision = 0
        for name in ("exact", "low_precision"):
            original = getattr(products.ReferenceMap, name)

            def counted(anchored, z, original=original, name=name):
                setattr(self, name, getattr(self, name) + 1)
                return original(anchored, z)

            monkeypatch.setattr(products.ReferenceMap, name, counted)


@pytest.mark.parametrize(
    ("kind", "dim", "count", "absent"),
    [*itertools.product(("easy", "hard", "published"), (32, 128), (2, 4), (False,)), ("hard", 64, 3, True)],
)
@pytest.mark.slow
def test_the_equilibrium_and_its_gradient_meet_the_tolerance(kind, dim, count, absent, monkeypatch):
    fusion, inputs = fusion_of(kind, dim, count)
    present = None
    if absent:
        present = {m: torch.rand(50) > 0.3 for m in inputs}
    counter = Counter(monkeypatch)
    out = fusion(inputs, present)
    assert counter.low_precision > counter.exact > 0
    cotangent = torch.randn_like(out.fused)
    wanted = [*fusion.parameters(), *inputs.values()]
    gradients = torch.cat([g.flatten() for g in torch.autograd.grad((out.fused * cotangent).sum(), wanted)])
    assert bool(out.stats.converged.all())
    for part in out.stats.parts.values():
        assert bool(part.adjoint.converged.all())
    if absent:
        return
    double, fused, expected = exact(fusion, inputs, cotangent)
    # The residual that was reported is no less than the true one, and hardly more: the last evaluation is about an
    # anchor so near that its rounding is a quarter of the tolerance at most.
    f, _ = double.equilibrium_map({m: v.detach().double() for m, v in inputs.items()})
    z = torch.stack([*out.modalities.values(), out.fused], dim=1).double()
    error = f(z) - z
    for i, part in enumerate(out.stats.parts.values()):
        true = error[:, i].norm(dim=1) / z[:, i].norm(dim=1)
        if i < count:
            more = part.residual.double() - true
            assert bool((more >= -0.02 * true - 1e-6).all())
            assert bool((more <= 0.25 * TOL * 1.02 + 1e-6).all())
    assert float((out.fused.detach() - fused).norm() / fused.norm()) < 10 * TOL
    assert float((gradients - expected).norm() / expected.norm()) < 10 * TOL


def test_without_gradients_what_is_called_converged_is():
    """No exact evaluation follows the solve then, so the estimated error counts as residual."""
    for kind in ("easy", "hard", "published"):
        fusion, inputs = fusion_of(kind, 128)
        with torch.no_grad():
            out = fusion(inputs)
        assert bool(out.stats.converged.all())
        double = deepcopy(fusion).double()
        f, _ = double.equilibrium_map({m: v.detach().double() for m, v in inputs.items()})
        z = torch.stack([*out.modalities.values(), out.fused], dim=1).double()
        image = f(z)
        for i, part in enumerate(list(out.stats.parts.values())[:-1]):
            true = (image - z)[:, i].norm(dim=1) / image[:, i].norm(dim=1)
            assert bool((true <= TOL).all())
            assert bool((true <= part.residual * 1.02 + 1e-6).all())


def test_a_tolerance_out_of_bfloat16s_reach_is_met():
    fusion, inputs = fusion_of("easy")
    fusion.solver = replace(fusion.solver, tol=2e-6)
    with torch.no_grad():
        out = fusion(inputs)
    assert bool(out.stats.converged.all())


def test_steps_are_about_those_of_the_exact_solve():
    for kind in ("easy", "hard", "published"):
        fusion, inputs = fusion_of(kind, 128)
        low_precision = fusion(inputs).stats.steps.double().mean()
        fusion.mixed_precision = False
        exactly = fusion(inputs).stats.steps.double().mean()
        assert float(low_precision) <= float(exactly) + 2


def test_switched_off_it_is_off_and_in_float64_too(monkeypatch):
    counter = Counter(monkeypatch)
    fusion, inputs = fusion_of("easy", mixed_precision=False)
    fusion(inputs)
    fusion, inputs = fusion_of("easy")
    fusion.double()({m: v.double() for m, v in inputs.items()})
    fusion.float()
    fusion.gradient = ef.Unrolled()
    fusion(inputs)
    assert (counter.exact, counter.low_precision) == (0, 0)


def test_small_batches_and_plain_cpus_do_without(monkeypatch):
    monkeypatch.undo()
    assert not products.low_precision_pays(torch.zeros(4, 4))
    monkeypatch.setattr(products, "_cpu_has_fast_bfloat16", lambda: False)
    assert not products.low_precision_pays(torch.zeros(1000, 1000))
    monkeypatch.setattr(products, "_cpu_has_fast_bfloat16", lambda: True)
    assert products.low_precision_pays(torch.zeros(1000, 1000))
    assert not products.low_precision_pays(torch.zeros(1000, 1000, dtype=torch.float64))


def test_samples_that_leave_the_batch_take_their_anchor_along(monkeypatch):
    """Half of the samples start at their equilibrium: the others go on without an exact evaluation in between."""
    fusion, inputs = fusion_of("hard")
    index = torch.arange(50)
    fusion.warm_start = ef.EquilibriumCache()
    fusion.train()
    fusion(inputs, index=index)
    for table in fusion.warm_start._states.values():
        table[::2] = 0
    counter = Counter(monkeypatch)
    out = fusion(inputs, index=index)
    assert bool(out.stats.converged.all())
    assert counter.low_precision > counter.exact


def adjoint_by_both(a, method):
    """``u = a u + g`` with products of ``a``, exact and rounded: which were asked for, and the true residuals."""
    low, calls = a.bfloat16().float(), []
    g = torch.randn(a.shape[:2])

    def product(matrix, name):
        def multiply(u):
            calls.append(name)
            return torch.einsum("bij,bj->bi", matrix, u)

        return multiply

    u, stats = solve_adjoint(Product(product(a, "exact"), product(low, "low_precision")), g, method, 1e-4)
    true = (g - u + torch.einsum("bij,bj->bi", a, u)).norm(dim=1) / g.norm(dim=1)
    assert bool(stats.converged.all())
    assert bool((true <= 1e-4).all())
    assert bool((true <= stats.residual * 1.001 + 1e-7).all())
    return calls


def test_gmres_refines_by_rough_products_what_exact_ones_find_wrong():
    torch.manual_seed(0)
    calls = adjoint_by_both(torch.randn(20, 40, 40) / 15, GMRES())
    first = calls.index("exact")
    assert calls[:first] == ["low_precision"] * first
    assert 0 < calls.count("exact") <= 2  # between cycles alone
    assert calls[-1] == "low_precision"


def test_gmres_takes_exact_products_first_where_rough_cycles_lead_nowhere():
    """A cycle too short for the map: the other rule, by which low-precision products come once they no longer show."""
    torch.manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(20, 40, 40)).Q
    calls = adjoint_by_both(0.8 * rotation, GMRES(restart=5, max_steps=400))
    assert calls[:5] == ["low_precision"] * 5
    then = calls[5:]
    switch = then.index("low_precision")
    assert switch > 5
    assert then[switch:].count("exact") <= then[switch:].count("low_precision") // 5  # between cycles alone


def test_the_evaluation_after_a_solve_is_rough_once_and_only_near_it():
    fusion, inputs = fusion_of("hard")
    with observed(fusion) as seen:
        fusion({m: x.detach() for m, x in inputs.items()})
    f = seen[0].modality_map
    with torch.no_grad():
        z = seen[0].states.flatten(0, 1)
        exactly = f.linearize(z)
        assert exactly.error is None  # nothing was solved with gradients, or it was taken back
        ef.fixed_point(f, f.at_zero(), solver=fusion.solver)
        near = f.linearize(z, slack=0.25 * TOL)
        again = f.linearize(z, slack=0.25 * TOL)
        ef.fixed_point(f, f.at_zero(), solver=fusion.solver)
        far = f.linearize(2 * z, slack=0.25 * TOL)
    assert near.error is not None
    assert bool(((near.image - exactly.image).norm(dim=1) <= near.error + 1e-6 * z.norm(dim=1)).all())
    assert bool((near.error <= 0.25 * TOL * z.norm(dim=1)).all())
    assert again.error is None
    assert far.error is None


def test_an_absent_modality_has_no_error():
    """Its state and image are 0, and so is what rounding adds to its residual."""
    fusion, inputs = fusion_of("hard")
    present = {m: torch.arange(50) % 7 != i for i, m in enumerate(inputs)}
    with observed(fusion) as seen:
        fusion(inputs, present)
    f = seen[0].modality_map
    _, stats = ef.fixed_point(f, f.at_zero(), solver=fusion.solver)
    absent = ~torch.cat(list(present.values()))
    assert stats.residual[absent].tolist() == [0.0] * int(absent.sum())
    assert bool((stats.residual <= TOL).all())


@pytest.mark.parametrize("matrices", [1, 3])
def test_products_one_by_one_are_the_batched_ones(matrices, monkeypatch):
    a, b = torch.randn(matrices, 5, 4).double(), torch.randn(matrices, 4, 6).double()
    plus, row = torch.randn(matrices, 5, 6).double(), torch.randn(matrices, 1, 6).double()
    for least in (0, 10**9):
        monkeypatch.setattr(products, "_WORTH_ALL_THREADS", least)
        out = torch.empty(matrices, 5, 6).double()
        torch.testing.assert_close(products.product(a, b, out), a @ b)
        torch.testing.assert_close(products.product(a, b, out, row), row + a @ b)
        held = plus.clone()
        assert products.product(a, b, held, held) is held
        torch.testing.assert_close(held, plus + a @ b)
        torch.testing.assert_close(products.product(a, b, None, plus), plus + a @ b)
    torch.testing.assert_close(products.product(a[0], b[0], None, row[0]), row[0] + a[0] @ b[0])
