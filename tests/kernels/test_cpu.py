"""The CPU form of the kernels against the reference, and where and how it is used."""

import importlib
import logging
import multiprocessing
import os
import sys
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import equifuse as ef
from equifuse import kernels
from equifuse.kernels import cpu, reference
from equifuse.kernels.rows import CONVERGED, EXHAUSTED, STALLED, RowLimits, Rows
from equifuse.solve.accelerated import accelerate
from equifuse.solve.loop import iterate
from equifuse.solve.maps import Called

DTYPES = [torch.float32, torch.float64]
quick = settings(max_examples=20, deadline=None, derandomize=True)


@st.composite
def situations(draw):
    """A function from a shape to random numbers, some of them not finite; a shape; a mask; and which rows are idle."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    dtype = draw(st.sampled_from(DTYPES))
    spoiled = draw(st.booleans())
    count, rows, d = draw(st.integers(1, 3)), draw(st.integers(0, 5)), draw(st.sampled_from([4, 20, 64, 500]))

    def numbers(*shape, fixed=False, whole=False):
        x = torch.randn(*shape[:-1], 2 * shape[-1], generator=generator, dtype=dtype)[..., ::2]
        if spoiled and not whole and x.numel():
            bad = torch.tensor([torch.nan, torch.inf, -torch.inf], dtype=dtype)
            places = torch.randint(x.numel(), (3,), generator=generator)
            x = x.flatten().index_copy(0, places, bad).view(x.shape)
        return x if fixed else x.contiguous()

    def chosen(*shape):
        return torch.rand(*shape, generator=generator) > 0.5

    mask = chosen(count, rows, 1) if draw(st.booleans()) else None
    idle = chosen(count * rows).to(torch.int8) if draw(st.booleans()) else None
    return numbers, (count, rows, d), mask, idle


def same(found, expected, idle, before):
    """As the reference has it where rows are running, and as before where they are idle."""
    found, expected, before = (x.flatten(0, 1) for x in (found, expected, before))
    tolerance = 2e-4 if expected.dtype == torch.float32 else 1e-11
    if idle is not None:
        expected = torch.where((idle == 0)[:, None], expected, before)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


@quick
@given(situations())
def test_norms(situation):
    numbers, shape, _, idle = situation
    c, gain, shift = numbers(*shape), *(numbers(shape[0], 1, shape[2], fixed=True) for _ in range(2))
    for name in ("norm_relu", "relu_norm"):
        expected = getattr(reference, name)(c, gain, shift, 1e-5)
        out = torch.full_like(c, 7)
        before = out.clone()
        getattr(cpu, name)(c, gain, shift, 1e-5, out, idle)()
        same(out, expected, idle, before)
        out = c.clone()
        getattr(cpu, name)(out, gain, shift, 1e-5, out, idle)()  # in place
        same(out, expected, idle, c)


@quick
@given(situations(), st.sampled_from([0, 2]))
def test_block_tail(situation, repeats):
    numbers, shape, mask, idle = situation
    c, z = numbers(*shape), numbers(*shape)
    weights = reference.TailWeights(*(numbers(shape[0], 1, shape[2], fixed=True) for _ in range(4)))
    out, ahead = torch.full_like(c, 7), torch.full_like(c, 7)
    before = out.clone()
    cpu.block_tail(c, z, weights, mask, 1e-5, repeats, out, ahead if repeats else out, idle)()
    image, expected = reference.block_tail(c, z, weights, mask, 1e-5, repeats)
    same(out, image, idle, before)
    if repeats:
        same(ahead, expected, idle, before)


@quick
@given(situations())
def test_derivatives(situation):
    numbers, shape, mask, idle = situation
    u = numbers(*shape)
    gain2, gain3 = (numbers(shape[0], 1, shape[2], fixed=True, whole=True) for _ in range(2))
    normal2, scale2 = reference.normalise(numbers(*shape, whole=True), 1e-5)
    outer = numbers(*shape, fixed=True, whole=True).relu()
    normal3, scale3 = reference.normalise(outer, 1e-5)
    for name, stored in (("norm_relu_vjp", (normal2, scale2)), ("relu_norm_vjp", (normal3, scale3))):
        expected = getattr(reference, name)(u, outer, *stored, gain2)
        out = torch.full_like(u, 7)
        before = out.clone()
        getattr(cpu, name)(u, outer, *stored, gain2, out, idle)()
        same(out, expected, idle, before)
        out = u.clone()
        getattr(cpu, name)(out, outer, *stored, gain2, out, idle)()  # in place
        same(out, expected, idle, u)
    saved = reference.TailSaved(normal2, scale2, outer, normal3, scale3)
    state, product = torch.full_like(u, 7), torch.full_like(u, 7)
    before = state.clone()
    cpu.block_tail_vjp(u, saved, gain2, gain3, mask, state, product, idle)()
    for found, expected in zip((state, product), reference.block_tail_vjp(u, saved, gain2, gain3, mask), strict=True):
        same(found, expected, idle, before)


def test_a_nan_passes_the_relu():
    c = torch.tensor([[[torch.nan, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]]])
    gain = torch.ones(1, 1, 8)
    for name in ("norm_relu", "relu_norm"):
        out = torch.zeros_like(c)
        getattr(cpu, name)(c, gain, gain, 1e-5, out)()
        assert out.isnan().flatten().tolist() == [True] * 2 + [False] * 6


def test_what_steps_write_to_must_be_contiguous():
    c, gain = torch.randn(1, 3, 16), torch.ones(1, 1, 16)
    for broken, out in ((c, torch.empty(1, 3, 32)[..., ::2]), (torch.empty(1, 3, 32)[..., ::2], c)):
        with pytest.raises(ValueError, match="must be contiguous"):
            cpu.norm_relu(broken, gain, gain, 1e-5, out)


# ---- Anderson's update ------------------------------------------------------------------------------------------


def curved(generator, count, width, dtype, sizes):
    """``s · tanh(z A / s) + s · b`` with numbers of its own, and a size ``s``, for every row."""
    matrix = torch.randn(count, width, width, generator=generator, dtype=dtype) / width**0.5
    constant = torch.randn(count, width, generator=generator, dtype=dtype)
    s = torch.tensor(sizes, dtype=dtype).repeat(count)[:count, None]

    class Curved:
        def __init__(self, rows=slice(None)):
            self.rows = rows

        def __call__(self, z):
            r = self.rows
            return s[r] * torch.tanh(torch.einsum("nij,nj->ni", matrix[r], z / s[r])) + s[r] * constant[r]

        def select(self, rows):
            return Curved(rows)

    return Curved()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("memory", "damping"), [(1, 1.0), (3, 1.0), (3, 0.6), (12, 1.0)])
def test_each_update_is_the_rules(memory, damping, dtype):
    """Also when the ring is full, and for tiny and huge rows."""
    sizes = [1.0, 1e-25, 1e25]
    f = curved(torch.Generator().manual_seed(1), 6, 20, dtype, sizes)
    s = torch.tensor(sizes, dtype=dtype).repeat(2)[:, None]
    z = torch.zeros(6, 20, dtype=dtype)
    rows, limits = Rows.begin(z, memory), RowLimits(1e-12, 9, 0, damping)
    rule = ef.Anderson(memory=memory, damping=damping).start(z)
    trace = torch.zeros(limits.max_steps, 6, dtype=dtype)
    tolerance = {torch.float32: 2e-3, torch.float64: 1e-9}[dtype]
    for k in range(limits.max_steps - 1):
        fz = f(z)
        expected = rule.step(z.clone(), fz, fz - z)
        residual = torch.linalg.vector_norm((fz - z) / s, dim=1) / torch.linalg.vector_norm(fz / s, dim=1)
        assert cpu.anderson(z, fz, fz, torch.arange(6), rows, limits, trace)(k) == 6
        torch.testing.assert_close(z / s, expected / s, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(trace[k], residual, rtol=1e-4, atol=0)
    assert rows.steps.tolist() == [limits.max_steps - 1] * 6


@quick
@given(
    seed=st.integers(0, 2**16),
    memory=st.integers(1, 8),
    damping=st.sampled_from([1.0, 0.5]),
    patience=st.integers(0, 4),
    count=st.integers(1, 6),
)
def test_a_solve_is_that_of_the_common_loop(seed, memory, damping, patience, count):
    """Statuses, evaluations, residuals and iterates, in float64: converged, stalled, or out of evaluations."""
    f = curved(torch.Generator().manual_seed(seed), count, 12, torch.float64, [1.0, 1e-25, 1e25])
    solver = ef.Anderson(tol=1e-5, max_steps=10, memory=memory, damping=damping, patience=patience)
    z, none = torch.zeros(count, 12, dtype=torch.float64), torch.zeros(count, dtype=torch.int64)
    with torch.no_grad():
        called = Called(f, z, f.select)
        found = accelerate(lambda: called, z, memory, solver.limits())
        expected = iterate(called, z, solver, none)
    assert torch.equal(found.status, expected.status)
    assert torch.equal(found.steps, expected.steps)
    for mine, other in ((found.residual, expected.residual), (found.trace, expected.trace), (found.z, expected.z)):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=0)


def test_rows_stop_for_their_own_reason():
    """Solved, not finite, of an image that is 0, without progress, out of evaluations; rows that stopped are left."""
    z = torch.tensor([[1.0] * 4, [1.0] * 4, [1.0] * 4, [1.0] * 4, [1.0] * 4, [0.0] * 4])
    rows, limits = Rows.begin(z, 2), RowLimits(1e-4, 3, 2, 1.0)
    trace = torch.zeros(3, 6)
    for k in range(3):
        bad = torch.tensor([torch.nan, 1, 1, 1])
        # moves on for ever; jumps to and fro; a zero image of a zero state
        images = [torch.ones(4), bad, torch.zeros(4), z[3] + 1, -z[4] * 3, torch.zeros(4)]
        before = z.clone()
        cpu.anderson(z, torch.stack(images), torch.stack(images), torch.arange(6), rows, limits, trace)(k)
        assert torch.equal(z[[0, 1, 5]], before[[0, 1, 5]])
    assert rows.status.tolist()[:2] == [CONVERGED, STALLED]
    assert rows.status.tolist()[3] in (STALLED, EXHAUSTED)
    assert rows.status[5] == CONVERGED
    assert rows.steps.tolist()[:2] == [1, 1]
    assert trace[0, 2] == torch.finfo(torch.float32).max  # valid, but as far away as can be
    assert torch.equal(rows.best[:2], torch.ones(2, 4))
    assert rows.residual[5] == 0


# ---- where it is used -------------------------------------------------------------------------------------------

DIMS = {"a": 6, "b": 5, "c": 4}


def fusion_and_inputs(batch=40, dim=20, dtype=torch.float32):
    torch.manual_seed(3)
    fusion = ef.DEQFusion(DIMS, dim, solver=ef.Anderson(tol=1e-6, max_steps=200)).to(dtype)
    return fusion, {m: torch.randn(batch, width, dtype=dtype) for m, width in DIMS.items()}


def trained(fusion, inputs):
    """The fused states, and the gradients of all parameters."""
    present = {"b": torch.arange(len(inputs["a"])) % 3 > 0}
    out = fusion(inputs, present)
    weights = torch.linspace(-1, 1, out.fused.numel(), dtype=out.fused.dtype).view_as(out.fused)
    return [out.fused.detach(), *torch.autograd.grad((out.fused * weights).sum(), list(fusion.parameters()))]


def test_the_reference_on_request_has_the_same_fixed_points(monkeypatch):
    fusion, inputs = fusion_and_inputs(dtype=torch.float64)
    found = trained(fusion, inputs)
    monkeypatch.setenv(kernels.VARIABLE, "reference")
    assert kernels.fused(torch.zeros(1)) is None
    torch.testing.assert_close(found, trained(fusion, inputs), rtol=1e-4, atol=1e-4)


def test_gradients_and_inputs_may_be_laid_out_otherwise():
    """Transposed, expanded, every other column: the same results as for copies."""
    fusion = ef.DEQFusion(dict.fromkeys(DIMS, 20), 20, projection=False)
    inputs = {m: torch.randn(20, 7).t().requires_grad_() for m in DIMS}
    copies = {m: x.detach().contiguous().requires_grad_() for m, x in inputs.items()}
    out, plain = fusion(inputs).fused, fusion(copies).fused
    assert torch.equal(out, plain)
    for g in (torch.randn(20, 7).t(), torch.ones(1, 1).expand(7, 20), torch.randn(7, 40)[:, ::2]):
        found = torch.autograd.grad(out, [*fusion.parameters(), *inputs.values()], g, retain_graph=True)
        wanted = [*fusion.parameters(), *copies.values()]
        expected = torch.autograd.grad(plain, wanted, g.contiguous(), retain_graph=True)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_another_request_is_a_mistake(monkeypatch):
    fusion, inputs = fusion_and_inputs()
    monkeypatch.setenv(kernels.VARIABLE, "fast")
    with pytest.raises(
        ef.InputError, match="EQUIFUSE_KERNELS must be 'reference', 'fused' or 'recorded', got 'fast'"
    ) as raised:
        fusion(inputs)
    assert "\n" not in str(raised.value)


@torch.no_grad()
def test_the_reference_serves_what_the_kernels_cannot():
    assert kernels.fused(torch.zeros(1)) is cpu
    assert kernels.fused(torch.zeros(1, dtype=torch.float16)) is None
    assert kernels.fused(torch.nn.Parameter(torch.zeros(1))) is None
    with torch.enable_grad():
        assert kernels.fused(torch.zeros(1)) is None
    seen = []
    torch.func.vmap(lambda x: (seen.append(kernels.fused(x)), x)[1])(torch.zeros(2, 3))
    assert seen == [None]


@pytest.fixture
def anew(monkeypatch):
    """The kernels are loaded again, and after the test those that were there before are used."""
    monkeypatch.delitem(sys.modules, "equifuse.kernels.cpu")
    monkeypatch.setattr(kernels, "cpu", cpu)
    kernels._load.cache_clear()
    yield
    kernels._load.cache_clear()


def test_without_numba_the_reference_serves_and_says_so(anew, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "numba", None)
    fusion, inputs = fusion_and_inputs()
    with caplog.at_level(logging.DEBUG, logger="equifuse"):
        found = trained(fusion, inputs)
    assert "the reference kernels serve, because those for cpu cannot be loaded" in caplog.text
    monkeypatch.setenv(kernels.VARIABLE, "reference")
    assert all(torch.equal(a, b) for a, b in zip(found, trained(fusion, inputs), strict=True))


def test_without_a_place_for_a_cache_kernels_are_compiled_all_the_same(anew, monkeypatch, caplog):
    from numba.core import caching

    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    with caplog.at_level(logging.DEBUG, logger="equifuse"):
        module = importlib.import_module("equifuse.kernels.cpu")
    assert "kernels are compiled anew in every process" in caplog.text
    assert module is not cpu
    c, gain, out = torch.randn(1, 2, 8), torch.ones(1, 1, 8), torch.zeros(1, 2, 8)
    module.norm_relu(c, gain, gain, 1e-5, out)()
    torch.testing.assert_close(out, reference.norm_relu(c, gain, gain, 1e-5))


# ---- threads and processes --------------------------------------------------------------------------------------


@pytest.fixture
def two_threads(monkeypatch):
    """Kernels divide even small batches among two threads; the rest of torch has one, which may be forked."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(cpu, "_WORTH_THREADS", 64)
    used = []
    submit = cpu.ThreadPoolExecutor.submit
    monkeypatch.setattr(cpu.ThreadPoolExecutor, "submit", lambda *a, **k: (used.append(1), submit(*a, **k))[1])
    yield
    assert used


def same_list(found, expected):
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_rows_divided_among_threads_are_the_same(two_threads, monkeypatch):
    fusion, inputs = fusion_and_inputs()
    found = trained(fusion, inputs)
    monkeypatch.setattr(cpu, "_WORTH_THREADS", 2**30)
    assert same_list(found, trained(fusion, inputs))


def test_two_threads_that_solve_at_once(two_threads):
    fusion, inputs = fusion_and_inputs()
    expected, found = trained(fusion, inputs), []

    def work():
        for _ in range(10):
            found.append(trained(fusion, inputs))

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 20
    assert all(same_list(result, expected) for result in found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a fork with threads, which is what is tested
def test_a_process_that_was_forked_solves(two_threads):
    fusion, inputs = fusion_and_inputs()
    expected = trained(fusion, inputs)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=lambda: answers.put(same_list(trained(fusion, inputs), expected)))
    child.start()
    try:
        assert answers.get(timeout=60)
    finally:
        child.kill()
        child.join()


# ---- operations -------------------------------------------------------------------------------------------------


class Operations(TorchDispatchMode):
    """Counts what torch dispatches, without views."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def operations(call):
    call()  # what happens only the first time
    with Operations() as counted:
        call()
    return counted.count


@pytest.mark.parametrize(("batch", "dim", "count"), [(64, 64, 5), (64, 128, 3), (612, 500, 3)])
@pytest.mark.parametrize("weights", ["easy", "published"])
def test_a_training_step_has_few_operations(batch, dim, count, weights):
    fusion = ef.DEQFusion({str(m): dim for m in range(count)}, dim, projection=False)
    if weights == "published":
        with torch.no_grad():
            for name, parameter in fusion.named_parameters():
                if "norm" in name and name.endswith("weight"):
                    parameter.fill_(1)
                elif parameter.shape[-2:] == (dim, dim):
                    parameter.normal_(std=0.01)
    inputs = {m: torch.randn(batch, dim) for m in fusion.dims}
    gradient = torch.randn(batch, dim)
    assert operations(lambda: (fusion(inputs).fused * gradient).sum().backward()) <= 1000


def test_one_row_has_few_operations():
    fusion = ef.DEQFusion({str(m): 128 for m in range(5)}, 64).eval()
    inputs = {m: torch.randn(1, 128) for m in fusion.dims}
    with torch.no_grad():
        assert operations(lambda: fusion(inputs)) <= 200


def test_the_last_digit_does_not_depend_on_where_memory_lies():
    torch.manual_seed(0)
    fusion = ef.DEQFusion({"a": 16, "b": 16}, 32).eval()
    x = {m: torch.randn(32, 16) for m in fusion.dims}
    with torch.no_grad():
        first = fusion(x).fused
        for i in range(60):
            between = torch.empty(17 * i + 1)  # moves what is allocated after it
            assert torch.equal(fusion(x).fused, first)
            del between
