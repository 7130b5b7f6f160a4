"""States of several shapes, states on the way, and layers that stay the same for a solve."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import equifuse as ef

TIGHT = ef.Anderson(tol=1e-12, max_steps=200)
EXACT = ef.Implicit(solver=ef.GMRES(tol=1e-12))


class Pair:
    """Two coupled states of shapes (3,) and (2, 2), as one map and as a map of two."""

    def __init__(self, batch=4):
        generator = torch.Generator().manual_seed(1)
        self.w = (0.25 * torch.randn(7, 7, generator=generator, dtype=torch.float64)).requires_grad_()
        self.x = torch.randn(batch, 7, generator=generator, dtype=torch.float64)

    def __call__(self, z):
        return torch.tanh(z @ self.w + self.x)

    def two(self, a, b):
        image = self(torch.cat([a, b.flatten(1)], 1))
        return image[:, :3], image[:, 3:].unflatten(1, (2, 2))

    def start(self):
        return torch.zeros(len(self.x), 3, dtype=torch.float64), torch.zeros(len(self.x), 2, 2, dtype=torch.float64)


@pytest.mark.parametrize("gradient", [EXACT, ef.Neumann(), ef.Phantom(), ef.Unrolled()], ids=lambda rule: rule.name)
def test_several_states_are_one_state_in_parts(gradient):
    pair = Pair()
    whole, stats = ef.fixed_point(pair, torch.zeros_like(pair.x), solver=TIGHT, gradient=gradient)
    (a, b), joint = ef.fixed_point(pair.two, pair.start(), solver=TIGHT, gradient=gradient)
    torch.testing.assert_close(torch.cat([a, b.flatten(1)], 1), whole)
    assert torch.equal(joint.steps, stats.steps)
    expected = torch.autograd.grad(whole.pow(3).sum(), pair.w)
    torch.testing.assert_close(torch.autograd.grad(a.pow(3).sum() + b.pow(3).sum(), pair.w), expected)


def test_several_states_with_rows_of_their_own():
    class WithSelect:
        def __call__(self, a, b):
            return pair.two(a, b)

        def select(self, rows):
            seen.append(len(rows))
            other = Pair()
            other.w, other.x = pair.w, pair.x[rows]
            return other.two

    pair, seen = Pair(40), []
    pair.x[:30] = 0  # solved by the start
    (a, _), stats = ef.fixed_point(WithSelect(), pair.start(), solver=TIGHT)
    assert min(seen) <= 10
    torch.testing.assert_close(a, ef.fixed_point(pair.two, pair.start(), solver=TIGHT)[0][0])
    assert bool(stats.converged.all())


def test_states_of_several_dtypes_keep_them():
    (a, b), _ = ef.fixed_point(
        lambda a, b: (a / 2 + 1, b / 2 + 1), (torch.zeros(2, 1), torch.zeros(2, 3, dtype=torch.float64))
    )
    assert (a.dtype, b.dtype) == (torch.float32, torch.float64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ef.fixed_point(lambda: (), ()), "empty tuple"),
        (lambda: ef.fixed_point(lambda a, b: (a, b), (torch.zeros(2), torch.zeros(3))), "one batch size"),
        (lambda: ef.fixed_point(lambda a, b: (b, a), (torch.zeros(2, 1), torch.zeros(2, 3))), r"\(1,\), \(3,\)"),
        (lambda: ef.fixed_point(lambda a: a, (torch.zeros(2, 1),)), "returned Tensor"),
        (lambda: ef.fixed_point(torch.cos, torch.zeros(2, 1), iterates=[0]), "at least 1"),
        (lambda: ef.VariationalDropout(1.0), r"\[0, 1\)"),
        (lambda: ef.apply_norm(nn.ReLU(), "weight"), "ReLU has no linear"),
        (lambda: ef.apply_norm(ef.apply_norm(nn.Linear(2, 2), "weight"), "spectral"), "normalised already"),
        (lambda: ef.apply_norm(nn.Linear(2, 2), "spectrl"), "spectral"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ef.EquifuseError, match=message):
        call()


def test_iterates_are_those_of_the_solver_and_have_the_gradient_of_one_evaluation():
    pair, start = Pair(), torch.zeros(4, 7, dtype=torch.float64)
    _, stats = ef.fixed_point(pair, start, solver=ef.Picard(tol=1e-12, max_steps=300), iterates=[1, 3])
    with torch.no_grad():
        expected = pair(pair(start))
    torch.testing.assert_close(stats.iterates[0].detach(), start)
    torch.testing.assert_close(stats.iterates[1].detach(), expected)
    one = torch.autograd.grad(pair(expected).sum(), pair.w)
    torch.testing.assert_close(torch.autograd.grad(stats.iterates[1].sum(), pair.w), one)
    _, stats = ef.fixed_point(pair, start, solver=ef.Picard(), gradient=ef.Unrolled(), iterates=[3])
    through = torch.autograd.grad(pair(pair(start)).sum(), pair.w)
    torch.testing.assert_close(torch.autograd.grad(stats.iterates[0].sum(), pair.w), through)
    _, stats = ef.fixed_point(pair.two, pair.start(), iterates=[2])
    assert [z.shape for z in stats.iterates[0]] == [(4, 3), (4, 2, 2)]


def test_iterates_of_a_fusion():
    torch.manual_seed(0)
    fusion = ef.DEQFusion({"a": 3, "b": 2}, 8)
    x = {m: torch.randn(4, 5, width) for m, width in fusion.dims.items()}
    fusion.intermediate = (2, 100)
    out = fusion(x)
    early, late = out.stats.parts["fusion"].iterates
    assert early.shape == late.shape == out.fused.shape
    torch.testing.assert_close(late, out.fused)
    assert not torch.allclose(early, out.fused, atol=1e-6)
    early.pow(3).sum().backward()
    assert float(fusion.mix.weight.grad.abs().sum()) > 0
    assert fusion.eval()(x).stats.parts["fusion"].iterates == []


def test_dropout_is_one_mask_per_solve():
    torch.manual_seed(0)
    drop, masks = ef.VariationalDropout(0.3), []

    def f(z):
        masks.append(drop(torch.ones_like(z)))
        return 0.5 * w * masks[-1] * z + 1

    w = torch.ones(6, 20, requires_grad=True)
    z, stats = ef.fixed_point(f, torch.zeros(6, 20))
    z.sum().backward()
    assert bool(stats.converged.all())
    assert all(torch.equal(mask, masks[0]) for mask in masks)
    assert set(masks[0].unique().tolist()) == {0.0, float(torch.tensor(1 / 0.7))}
    assert 0.1 < float((masks[0] == 0).float().mean()) < 0.5
    torch.testing.assert_close(w.grad, 0.5 * masks[0] / (1 - 0.5 * masks[0]).square(), rtol=1e-3, atol=1e-3)
    first = masks[0]
    masks.clear()
    ef.fixed_point(f, torch.zeros(6, 20))
    assert not torch.equal(masks[0], first)
    assert not torch.equal(drop(torch.ones(6, 20)), drop(torch.ones(6, 20)))
    assert torch.equal(drop.eval()(first), first)
    drop.train()
    with pytest.raises(ef.InputError, match="one layer per place"):
        ef.fixed_point(lambda z: z * drop(z).sum() + drop(z[:, :1]), torch.zeros(6, 20))


def test_dropout_in_a_solve_within_a_solve_belongs_to_the_outer_one():
    drop, masks = ef.VariationalDropout(), []

    def outer(z):
        def inner(y):
            masks.append(drop(torch.ones_like(y)))
            return 0.3 * masks[-1] * y + 1

        return 0.1 * z + ef.fixed_point(inner, torch.zeros_like(z))[0]

    assert bool(ef.fixed_point(outer, torch.zeros(3, 8))[1].converged.all())
    assert all(torch.equal(mask, masks[0]) for mask in masks)


@pytest.mark.parametrize("kind", ["spectral", "weight"])
def test_normalised_layers_are_solved_and_trained(kind):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)).double()
    with torch.no_grad():
        net[0].weight.mul_(10)
    before = net(torch.ones(1, 6, dtype=torch.float64))
    assert ef.apply_norm(net, kind) is net
    if kind == "weight":
        torch.testing.assert_close(net(torch.ones(1, 6, dtype=torch.float64)), before)
        with torch.no_grad():
            for layer in (net[0], net[2]):
                layer.parametrizations.weight.original0.fill_(0.3)
    weights = []

    def f(z):
        weights.append(net[0].weight.detach())
        return 0.9 * net(z) + x

    x = torch.randn(5, 6, dtype=torch.float64)
    z, stats = ef.fixed_point(f, torch.zeros_like(x), solver=TIGHT)
    assert bool(stats.converged.all())
    assert all(torch.equal(weight, weights[0]) for weight in weights)
    z.pow(3).sum().backward()
    assert all(bool((p.grad != 0).any()) for p in net.parameters())
    if kind == "spectral":
        for _ in range(200):  # the estimate improves at each solve
            ef.fixed_point(f, torch.zeros_like(x))
        net.eval()
        for layer in (net[0], net[2]):
            assert float(torch.linalg.matrix_norm(layer.weight.detach(), 2)) == pytest.approx(1, abs=1e-3)
    parametrize.remove_parametrizations(net[0], "weight")
    assert isinstance(net[0].weight, nn.Parameter)
