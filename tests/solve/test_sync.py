"""Questions about values, each of which a GPU makes the host wait for: how many a solve asks."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import equifuse as ef
from equifuse.solve import sync
from tests.solve.problems import linear

WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select")


class Waits(TorchDispatchMode):
    """Counts the operations whose result the host has to wait for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in WAITS
        return func(*args, **(kwargs or {}))


@pytest.fixture(params=[True, False], ids=["as on a GPU", "as on a CPU"])
def costly(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(sync, "_FREE", frozenset())
    return request.param


def waits_of_a_solve(solver, steps):
    """Of forward and backward pass, to a tolerance that is out of reach, so that every step is taken."""
    p = linear(0.99, batch=4, width=300)
    z0 = p.z0.requires_grad_()
    shift = torch.zeros_like(z0).requires_grad_()
    gradient = ef.Implicit(solver=ef.GMRES(tol=1e-300, max_steps=steps, restart=1000))
    with Waits() as forward:
        z, _ = ef.fixed_point(
            lambda z: p.f(z) + shift,
            z0,
            solver=type(solver)(tol=1e-300, max_steps=steps),
            gradient=gradient,
            warn=False,
        )
    with Waits() as backward:
        z.square().sum().backward()
    assert shift.grad is not None
    return forward.count, backward.count


@pytest.mark.filterwarnings("ignore::equifuse.errors.ConvergenceWarning")
@pytest.mark.parametrize("solver", [ef.Picard(), ef.Anderson(), ef.Broyden()], ids=lambda s: s.name)
@pytest.mark.slow
def test_a_step_does_not_wait(solver, costly):
    """A few questions every fourth step, and none in between; where they are free there are more."""
    few, many = (waits_of_a_solve(solver, steps) for steps in (8, 40))
    per_step = [(b - a) / 32 for a, b in zip(few, many, strict=True)]
    if costly:
        assert max(per_step) <= 1
    else:
        assert min(per_step) > 1


def test_results_do_not_depend_on_who_asks(monkeypatch):
    """Fused states and gradients, with rows that converge at different times and some absent."""
    torch.manual_seed(0)
    dims = {"a": 12, "b": 20}
    fusion = ef.DEQFusion(dims, 32, solver=ef.Anderson(tol=1e-10, max_steps=200)).double()
    x = {m: torch.randn(17, w, dtype=torch.float64) for m, w in dims.items()}
    found = []
    for free in (frozenset({"cpu"}), frozenset()):
        monkeypatch.setattr(sync, "_FREE", free)
        out = fusion(x, {"b": torch.arange(17) % 3 > 0})
        found.append([out.fused, *torch.autograd.grad(out.fused.square().sum(), list(fusion.parameters()))])
        assert bool(out.stats.converged.all())
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)
