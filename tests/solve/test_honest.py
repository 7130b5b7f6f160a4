"""Solves and gradients that cannot be right say so, and those that can are right at any scale and for any map."""

import io
import warnings

import pytest
import torch

import equifuse as ef
from tests.solve.problems import SOLVERS, linear

DIMS = {"a": 6, "b": 5}
ADJOINTS = [ef.GMRES(), ef.Anderson(tol=1e-5, max_steps=60)]
adjoints = pytest.mark.parametrize("method", ADJOINTS, ids=lambda method: type(method).__name__)


@pytest.fixture(params=["fused", "reference"], autouse=True)
def _kernels(request, monkeypatch):
    """Every promise holds for every form of the kernels."""
    monkeypatch.setenv("EQUIFUSE_KERNELS", request.param)


def affine(w, b):
    return lambda z: torch.tanh(z @ w) + b


def solved(method, dtype=torch.float32, count=4, width=8):
    """A fixed point, its statistics, and what it depends on."""
    torch.manual_seed(1)
    w = (0.4 * torch.randn(width, width, dtype=dtype) / width**0.5).requires_grad_()
    b = torch.randn(count, width, dtype=dtype, requires_grad=True)
    z, stats = ef.fixed_point(affine(w, b), torch.zeros_like(b), gradient=ef.Implicit(solver=method))
    return z, stats, [w, b]


def fused(method, count=4, solver=None):
    """The same of a fusion."""
    torch.manual_seed(1)
    fusion = ef.DEQFusion(DIMS, 20, gradient=ef.Implicit(solver=method), solver=solver or ef.Anderson(tol=1e-6))
    inputs = {m: torch.randn(count, width, requires_grad=True) for m, width in DIMS.items()}
    out = fusion(inputs)
    return out, fusion, inputs


# ---- gradients that are not finite ------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan, 3e38])
@adjoints
def test_a_gradient_that_is_not_finite_stays_so_and_warns(method, bad):
    """Also one whose norm overflows. The other rows have theirs."""
    z, stats, (w, b) = solved(method)
    g = torch.randn_like(z)
    g[2] = bad
    expected = torch.autograd.grad(z, b, torch.where(torch.arange(4)[:, None] == 2, 0.0, g), retain_graph=True)[0]
    with pytest.warns(ef.ConvergenceWarning, match="1 of 4 samples did not converge in the adjoint solve"):
        at_w, at_b = torch.autograd.grad(z, [w, b], g)
    assert not at_w.isfinite().all()
    assert not at_b[2].isfinite().any()
    rest = [0, 1, 3]
    torch.testing.assert_close(at_b[rest], expected[rest])
    assert stats.adjoint.converged.tolist() == [True, True, False, True]
    assert stats.adjoint.residual[2] == torch.inf


@pytest.mark.parametrize("bad", [torch.inf, torch.nan, 3e38])
@adjoints
def test_a_fusion_passes_on_a_gradient_that_is_not_finite(method, bad):
    """So that a scaler of gradients backs off."""
    out, fusion, _ = fused(method)
    g = torch.randn_like(out.fused)
    g[1] = bad
    with pytest.warns(ef.ConvergenceWarning, match="adjoint"):
        out.fused.backward(g)
    assert not fusion.mix.weight.grad.isfinite().all()
    assert not fusion.blocks.weight1.grad.isfinite().all()
    assert out.stats.parts["fusion"].adjoint.converged.tolist() == [True, False, True, True]


# ---- sizes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e-20, 1e-30, 1e12])
@adjoints
def test_gradients_scale_with_the_loss(method, size):
    """To the accuracy of float32; a loss times a power of two gives the same digits."""
    z, stats, wanted = solved(method)
    g = torch.randn_like(z)
    for factor, tolerance in ((size, 1e-5), (2.0 ** round(torch.log2(torch.tensor(size)).item()), 0.0)):
        plain = torch.autograd.grad(z, wanted, g, retain_graph=True)
        scaled = torch.autograd.grad(z, wanted, factor * g, retain_graph=True)
        for a, b in zip(plain, scaled, strict=True):
            torch.testing.assert_close(b.double() / factor, a.double(), rtol=tolerance, atol=tolerance)
    assert stats.adjoint.converged.all()


@pytest.mark.parametrize("size", [2.0**-67, 2.0**-99])
@adjoints
def test_gradients_of_a_fusion_scale_with_the_loss(method, size):
    out, fusion, inputs = fused(method)
    wanted, g = [*fusion.parameters(), *inputs.values()], torch.randn_like(out.fused)
    plain = torch.autograd.grad(out.fused, wanted, g, retain_graph=True)
    scaled = torch.autograd.grad(out.fused, wanted, size * g)
    for a, b in zip(plain, scaled, strict=True):
        top = a.abs().max()
        torch.testing.assert_close(b.double() / size, a.double(), rtol=1e-4, atol=1e-5 * float(top))


@pytest.mark.parametrize("solver", [ef.Picard(max_steps=100), ef.Anderson(), ef.Broyden()], ids=lambda s: s.name)
@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_states_are_solved_relative_to_their_own_size(solver, size):
    p = linear(0.7, batch=5, width=8)
    start = torch.zeros_like(p.z0).float()
    z, stats = ef.fixed_point(lambda z: (size * p.f(z.double() / size)).float(), start, solver=solver)
    assert stats.converged.all()
    torch.testing.assert_close(z.double() / size, p.solution, rtol=2e-3, atol=2e-3)
    assert 2 < stats.steps.max() < 100


# ---- maps with habits -------------------------------------------------------------------------------------------


class Overwriting:
    """A map that computes in the memory of its argument."""

    def __init__(self, b, calls):
        self.b, self.calls = b, calls

    def __call__(self, z):
        self.calls.append(len(z))
        if z.requires_grad:
            return torch.cos(z) * 0.9 + self.b
        return z.cos_().mul_(0.9).add_(self.b.detach())

    def select(self, rows):
        return Overwriting(self.b[rows], self.calls)


class Reusing(Overwriting):
    """A map that returns the same memory every time."""

    def __init__(self, b, calls):
        super().__init__(b, calls)
        self.buffer = torch.empty_like(b)

    def __call__(self, z):
        self.calls.append(len(z))
        if torch.is_grad_enabled():
            return torch.cos(z) * 0.9 + self.b
        return torch.add(torch.cos(z) * 0.9, self.b, out=self.buffer)

    def select(self, rows):
        return Reusing(self.b[rows], self.calls)


@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("dropping", [False, True])
@pytest.mark.parametrize("kind", [Overwriting, Reusing])
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s.name)
def test_maps_that_write_where_they_should_not_are_solved(solver, kind, dropping, differentiable):
    b = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    f = kind(b, [])
    start = torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3)
    before = start.clone()
    with torch.set_grad_enabled(differentiable):
        z, stats = ef.fixed_point(f if dropping else f.__call__, start, solver=solver)
    assert torch.equal(start, before)
    exact = torch.zeros_like(b)
    for _ in range(500):
        exact = torch.cos(exact.detach()) * 0.9 + b
    torch.testing.assert_close(z, exact, rtol=1e-8, atol=1e-8)
    assert stats.converged.all()
    assert len(f.calls) > 3
    if differentiable:
        slope = 1 + 0.9 * torch.sin(exact.detach())  # dz/db = 1 / slope
        torch.testing.assert_close(torch.autograd.grad(z.sum(), b)[0], 1 / slope, rtol=1e-4, atol=1e-4)


def test_an_argument_overwritten_while_a_graph_is_recorded_is_no_silent_mistake():
    """Torch itself refuses it."""
    b = torch.randn(3, 2, requires_grad=True)
    with pytest.raises(RuntimeError, match="in-place operation"):
        ef.fixed_point(lambda z: z.mul_(0.5).add_(b), torch.zeros(3, 2))


# ---- memory of results ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("solver", [*SOLVERS, ef.solve.StaticAnderson()], ids=lambda s: s.name)
def test_results_share_no_memory_with_the_start_or_with_constants(solver, differentiable):
    """Also where the start is the solution, or the map returns a constant."""
    constant = torch.randn(4, 3, dtype=torch.float64)
    for f in (lambda z: z * 1, lambda _: constant, lambda z: constant + 0 * z):
        start = constant.clone()
        with torch.set_grad_enabled(differentiable):
            z, stats = ef.fixed_point(f, start, solver=solver)
        assert stats.converged.all()
        kept = z.detach().clone()
        assert z.data_ptr() not in (start.data_ptr(), constant.data_ptr())
        start.fill_(7)
        assert torch.equal(z, kept)


def stored(x):
    file = io.BytesIO()
    torch.save(x.detach(), file)
    return len(file.getvalue())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("count", [1, 500])
def test_a_stored_result_has_its_own_bytes_only(count, training):
    dims = {str(m): 16 for m in range(5)}
    fusion = ef.DEQFusion(dims, 16, projection=False).train(training)
    inputs = {m: torch.randn(count, 16) for m in dims}
    out = fusion(inputs)
    alone = stored(out.fused.detach().clone())
    for state in (out.fused, *out.modalities.values()):
        assert stored(state) == alone
        assert state.data_ptr() not in {x.data_ptr() for x in inputs.values()}


# ---- inputs that are not finite ---------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_modality_that_is_not_finite_is_named(bad, training):
    fusion = ef.DEQFusion(DIMS, 8).train(training)
    inputs = {m: torch.randn(4, width) for m, width in DIMS.items()}
    inputs["b"][2, 1] = bad
    with pytest.warns(ef.ConvergenceWarning) as seen:
        out = fusion(inputs)
    (message,) = {str(warning.message) for warning in seen}
    assert "1 of 4 samples" in message
    assert "not finite: modality 'b' in 1 samples" in message
    assert "max_steps" not in message
    assert out.stats.converged.tolist() == [True, True, False, True]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fusion(inputs, {"b": torch.arange(4) != 2})  # absent, its numbers do not matter


def test_a_warning_counts_the_samples_that_were_given():
    """In evaluation few rows are padded with copies, which do not count."""
    fusion = ef.DEQFusion(DIMS, 20, solver=ef.Anderson(tol=1e-7, max_steps=2)).eval()
    with pytest.warns(ef.ConvergenceWarning, match="1 of 1 samples"):
        fusion({m: torch.randn(1, width) for m, width in DIMS.items()})
    fusion.strict = True
    with pytest.raises(ef.NotConvergedError, match="1 of 1 samples"):
        fusion({m: torch.randn(1, width) for m, width in DIMS.items()})


def test_a_start_that_is_not_finite_is_said_not_to_be():
    with pytest.warns(ef.ConvergenceWarning, match="not finite"):
        _, stats = ef.fixed_point(torch.cos, torch.tensor([[0.0], [torch.nan]]))
    assert stats.converged.tolist() == [True, False]
