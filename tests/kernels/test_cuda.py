"""The CUDA form of the kernels against the others: on a GPU, or in Triton's interpreter (``TRITON_INTERPRET=1``)."""

import copy
import os
import threading
from dataclasses import fields

import pytest
import torch

triton = pytest.importorskip("triton", reason="needs Triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not (INTERPRETED or torch.cuda.is_available()):
    pytest.skip("needs a CUDA device, or Triton's interpreter", allow_module_level=True)

from equifuse.kernels import capture, cpu, cuda, reference  # noqa: E402
from equifuse.kernels.capture import Start  # noqa: E402
from equifuse.kernels.rows import CONVERGED, EXHAUSTED, STALLED, RowLimits, Rows  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"
pytestmark = [] if INTERPRETED else [pytest.mark.gpu]
on_a_gpu = pytest.mark.skipif(INTERPRETED, reason="needs a CUDA device")
DTYPES = [torch.float32, torch.float64]
SHAPES = [(2, 3, 500), (3, 5, 16), (1, 4, 12), (2, 0, 8)]


def close(found, expected, factor=1.0):
    tolerance = {torch.float32: 2e-5, torch.float64: 1e-12}[expected.dtype] * factor
    torch.testing.assert_close(found.cpu(), expected.cpu(), rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.fixture(params=DTYPES, ids=["float32", "float64"])
def draw(request):
    """Function from a shape to random numbers; ``fixed`` ones, which steps do not change, need not be contiguous."""
    generator = torch.Generator().manual_seed(0)

    def of(*shape, fixed=False):
        x = torch.randn(*shape[:-1], 2 * shape[-1], generator=generator, dtype=request.param).to(DEVICE)[..., ::2]
        return x if fixed else x.contiguous()

    return of


@pytest.mark.parametrize("shape", SHAPES)
def test_norms(draw, shape):
    c, gain, shift = draw(*shape), draw(shape[0], 1, shape[2], fixed=True), draw(shape[0], 1, shape[2], fixed=True)
    for name in ("norm_relu", "relu_norm"):
        out = torch.empty(shape, dtype=c.dtype, device=DEVICE)
        getattr(cuda, name)(c, gain, shift, 1e-5, out)()
        close(out, getattr(reference, name)(c, gain, shift, 1e-5))
    out.copy_(c)
    cuda.norm_relu(out, gain, shift, 1e-5, out)()  # in place
    close(out, reference.norm_relu(c, gain, shift, 1e-5))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("repeats", [0, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_block_tail(draw, shape, repeats, masked):
    c, z = draw(*shape), draw(*shape)
    weights = reference.TailWeights(*(draw(shape[0], 1, shape[2], fixed=True) for _ in range(4)))
    mask = (draw(*shape[:2], 2) > 0)[..., :1] if masked else None
    out, ahead = torch.empty(shape, dtype=c.dtype, device=DEVICE), torch.empty(shape, dtype=c.dtype, device=DEVICE)
    cuda.block_tail(c, z, weights, mask, 1e-5, repeats, out, ahead if repeats else out)()
    image, expected = reference.block_tail(c, z, weights, mask, 1e-5, repeats)
    close(out, image)
    if repeats:
        close(ahead, expected)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_derivatives(draw, shape, masked):
    u, gain2, gain3 = draw(*shape), draw(shape[0], 1, shape[2], fixed=True), draw(shape[0], 1, shape[2], fixed=True)
    normal2, scale2 = reference.normalise(draw(*shape, fixed=True), 1e-5)
    outer = draw(*shape, fixed=True).relu()
    normal3, scale3 = reference.normalise(outer, 1e-5)
    mask = (draw(*shape[:2], 2) > 0)[..., :1] if masked else None
    out, other = torch.empty(shape, dtype=u.dtype, device=DEVICE), torch.empty(shape, dtype=u.dtype, device=DEVICE)
    for name, stored in (("norm_relu_vjp", (normal2, scale2)), ("relu_norm_vjp", (normal3, scale3))):
        getattr(cuda, name)(u, outer, *stored, gain2, out)()
        close(out, getattr(reference, name)(u, outer, *stored, gain2))
    saved = reference.TailSaved(normal2, scale2, outer, normal3, scale3)
    cuda.block_tail_vjp(u, saved, gain2, gain3, mask, out, other)()
    for found, expected in zip((out, other), reference.block_tail_vjp(u, saved, gain2, gain3, mask), strict=True):
        close(found, expected)


def test_idle_rows_are_not_computed(draw):
    c, z, gain = draw(2, 3, 16), draw(2, 3, 16), draw(2, 1, 16)
    idle = torch.tensor([0, 1, 0, 2, 3, 0], dtype=torch.int8, device=DEVICE)
    normal, scale = reference.normalise(c, 1e-5)
    saved = reference.TailSaved(normal, scale, c.relu(), normal, scale)
    tail = reference.TailWeights(*[gain] * 4)
    outs = [torch.full_like(c, 7.0) for _ in range(8)]
    cuda.norm_relu(c, gain, gain, 1e-5, outs[0], idle)()
    cuda.relu_norm(c, gain, gain, 1e-5, outs[1], idle)()
    cuda.block_tail(c, z, tail, None, 1e-5, 1, outs[2], outs[3], idle)()
    cuda.norm_relu_vjp(z, c, normal, scale, gain, outs[4], idle)()
    cuda.relu_norm_vjp(z, c, normal, scale, gain, outs[5], idle)()
    cuda.block_tail_vjp(z, saved, gain, gain, None, outs[6], outs[7], idle)()
    expected = [
        reference.norm_relu(c, gain, gain, 1e-5),
        reference.relu_norm(c, gain, gain, 1e-5),
        *reference.block_tail(c, z, tail, None, 1e-5, 1),
        reference.norm_relu_vjp(z, c, normal, scale, gain),
        reference.relu_norm_vjp(z, c, normal, scale, gain),
        *reference.block_tail_vjp(z, saved, gain, gain, None),
    ]
    for found, whole in zip(outs, expected, strict=True):
        close(found, torch.where((idle == 0).view(2, 3, 1), whole, 7.0))


def test_a_nan_stays_in_its_row_and_is_seen(draw):
    c, gain, shift = draw(1, 3, 16), draw(1, 1, 16), draw(1, 1, 16)
    c[0, 1, 3] = torch.nan
    out = torch.empty_like(c, memory_format=torch.contiguous_format)
    cuda.norm_relu(c, gain, shift, 1e-5, out)()
    assert out[0, 1, :4].isnan().all()
    assert not out[0, [0, 2]].isnan().any()


def test_results_are_written_to_contiguous_memory_only(draw):
    c, gain = draw(1, 3, 16), draw(1, 1, 16)
    with pytest.raises(ValueError, match="contiguous"):
        cuda.norm_relu(c, gain, gain, 1e-5, torch.empty(1, 3, 32, dtype=c.dtype, device=DEVICE)[..., ::2])


# ---- Anderson's update ------------------------------------------------------------------------------------------


def on_device(rows):
    return Rows(*(copy.copy(value) if value is None else value.to(DEVICE, copy=True) for value in state(rows)))


def state(rows):
    return [getattr(rows, field.name) for field in fields(rows)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("memory", "width", "damping", "patience", "scaled"),
    [(1, 12, 1.0, 0, False), (3, 20, 0.7, 2, True), (6, 37, 1.0, 0, False)],
)
def test_anderson_does_what_the_cpu_does(dtype, memory, width, damping, patience, scaled):
    """Each update, from the same state: ordinary, tiny, huge, not finite, solved, and of image 0."""
    torch.manual_seed(0)
    count = 9
    sizes = torch.tensor([1, 1, 1, 1e-25, 1e25, torch.nan, torch.inf, 0, 1], dtype=dtype)[:, None]
    matrix = torch.randn(count, width, width, dtype=dtype) * 0.7 / width**0.5
    constant = torch.randn(count, width, dtype=dtype) * sizes
    constant[-1], matrix[-1] = 0, 0  # image 0 from a state that is not
    z = torch.zeros(count, width, dtype=dtype)
    z[-1] = 1
    limits = RowLimits({torch.float32: 1e-5, torch.float64: 1e-10}[dtype], 14, patience, damping)
    rows = Rows.begin(z, memory, torch.rand(count, dtype=dtype) + 0.5 if scaled else None)
    for ring in (rows.q, rows.g):
        ring.fill_(torch.nan)  # what has not been written is not read
    which = torch.tensor([0, 2, 3, 4, 5, 6, 7, 8])
    z, trace = z[which], torch.zeros(limits.max_steps, count, dtype=dtype)
    for k in range(limits.max_steps):
        fz = torch.tanh(torch.einsum("nij,nj->ni", matrix[which], z) / sizes[which].nan_to_num(1, 1).clamp(min=1e-30))
        fz = 0.9 * fz * sizes[which].nan_to_num(1, 1) + constant[which]
        target = fz if damping == 1 else 1.01 * fz
        rows2, z2, trace2 = on_device(rows), z.to(DEVICE, copy=True), trace.to(DEVICE, copy=True)
        before = torch.maximum(z.abs(), fz.abs())  # what a next state may be off by is relative to these
        going = cpu.anderson(z, fz, target, which, rows, limits, trace)(k)
        images = fz.to(DEVICE), target.to(DEVICE), which.to(DEVICE)
        assert int(cuda.anderson(z2, *images, rows2, limits, trace2)(k)) == going
        for name, found, expected in [("z", z2, z), ("trace", trace2[k], trace[k])] + [
            (field.name, getattr(rows2, field.name), getattr(rows, field.name)) for field in fields(rows)
        ]:
            if expected is None:
                continue
            # Directions from differences of nearly equal numbers have fewer digits.
            factor = 1000 if name in ("q", "g", "z") else 10
            if expected.dtype == dtype:
                size = torch.maximum(before, expected.abs()) if name == "z" else expected.abs()
                size = size.nan_to_num(0, 0).flatten(1).amax(1) if expected.dim() > 1 else torch.ones(1)
                size = size.clamp(min=1e-35).view(-1, *[1] * (expected.dim() - 1)).to(dtype)
                close(found.cpu() / size, expected / size, factor)
            else:
                assert torch.equal(found.cpu(), expected), name
    assert {CONVERGED, STALLED} <= set(rows.status.tolist())
    assert rows.status[[5, 6]].tolist() == [STALLED] * 2
    assert rows.steps[1] == 0  # not among them


# ---- solves -----------------------------------------------------------------------------------------------------


class Tanh:
    """``tanh(z W) + b``, on given memory."""

    looks_ahead, key = False, "tanh"

    def __init__(self, *tensors):
        self.tensors = tensors

    def with_tensors(self, tensors):
        return Tanh(*tensors)

    def prepare(self, z, out, ahead, idle):
        return lambda: self.step(z, out)

    def step(self, z, out):
        weight, bias, mask = self.tensors
        torch.mm(z, weight, out=out)
        out.tanh_().add_(bias)
        if mask is not None:
            out.mul_(mask)


def problem(seed, count=4, width=8, dtype=torch.float64):
    torch.manual_seed(seed)
    weight = torch.randn(width, width, dtype=dtype) * 0.5 / width**0.5
    bias, mask = torch.randn(count, width, dtype=dtype), torch.rand(count, 1) > 0.3
    z = torch.randn(count, width, dtype=dtype)
    return Tanh(weight.to(DEVICE), bias.to(DEVICE), mask.to(DEVICE)), z.to(DEVICE)


LIMITS = RowLimits(1e-10, 60, 0, 1.0)


def solved(f, z, found):
    image = torch.empty_like(z)
    f.step(found.best, image)
    torch.testing.assert_close(found.best, image, rtol=1e-8, atol=1e-8)
    assert (found.status == CONVERGED).all()
    assert found.failed in (0, None)


def test_a_solve_launched_step_by_step():
    f, z = problem(0)
    start = z.clone()
    found = capture.solve(f, Start(z), 4, LIMITS, 5)
    solved(f, z, found)
    assert torch.equal(z, start)
    assert len(found.trace) == found.steps.max()
    torch.testing.assert_close(found.trace.amin(0), found.residual)


def test_what_has_failed_is_returned_with_its_history():
    f, z = problem(0)
    f.tensors[1][3] = torch.nan
    found = capture.solve(f, Start(z), 4, RowLimits(1e-10, 7, 0, 1.0))
    failed, q, g = found.history
    assert found.failed == len(failed) == len(q) == len(g) > 0
    assert failed.tolist() == (found.status != CONVERGED).nonzero().flatten().tolist()
    assert found.status[3] == STALLED


@pytest.mark.parametrize("scaled", [False, True])
def test_a_recording_serves_other_values_and_keeps_nothing_of_its_results(scaled):
    f, z = problem(0)
    scale = torch.full_like(z[:, 0], 2.0) if scaled else None
    recording = capture._Recording(f, Start(z, scale), 4, LIMITS, 4, lambda function: function)
    first = recording.solve(f, Start(z, scale), LIMITS)
    kept = [first.best.clone(), first.residual.clone(), first.trace.clone()]
    solved(f, z, first)
    for seed, tol in ((1, 1e-10), (2, 1e-4)):
        f, z = problem(seed)
        limits = RowLimits(tol, 60, 0, 1.0)
        found, expected = (
            recording.solve(f, Start(z, scale), limits),
            capture.solve(f, Start(z, scale), 4, limits, 4),
        )
        for mine, other in zip(found[:5], expected[:5], strict=True):
            torch.testing.assert_close(mine, other)
    for value, before in zip((first.best, first.residual, first.trace), kept, strict=True):
        assert torch.equal(value, before)


def test_rows_that_had_evaluations_before_and_rows_that_are_solved():
    f, z = problem(0)
    steps = torch.tensor([0, 7, 60, 59], device=DEVICE)
    scale = torch.tensor([1.0, 1.0, 1.0, 0.0], device=DEVICE, dtype=z.dtype)
    found = capture.solve(f, Start(z, scale, steps), 4, LIMITS, 4)
    alone = capture.solve(f, Start(z, scale), 4, LIMITS, 4)
    assert found.status.tolist() == [CONVERGED, CONVERGED, EXHAUSTED, CONVERGED]
    assert (found.steps - alone.steps).tolist()[:2] == [0, 7]
    assert found.steps[2] == 60
    torch.testing.assert_close(found.best[:2], alone.best[:2], rtol=1e-8, atol=1e-8)
    assert torch.equal(found.best[2:], z[2:])


@on_a_gpu
def test_the_second_solve_of_a_kind_is_recorded():
    capture.clear()
    for seed in range(5):
        f, z = problem(seed)
        solved(f, z, capture.solve(f, Start(z), 4, LIMITS))
    (device,) = capture._devices.values()
    assert len(device._recordings) == 1
    capture.clear()
    assert not device._recordings


@on_a_gpu
def test_few_waits():
    f, z = problem(0, width=64)
    slow = RowLimits(0.0, 100, 0, 1.0)
    for _ in range(3):
        capture.solve(f, Start(z), 4, slow)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="synchroniz") as seen:
            capture.solve(f, Start(z), 4, slow)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(seen) <= 4


@on_a_gpu
def test_recordings_serve_inference_mode_streams_and_threads():
    capture.clear()
    errors = []

    def work(seed):
        try:
            with torch.cuda.stream(torch.cuda.Stream()), torch.inference_mode(seed % 2 == 0):
                for k in range(10):
                    f, z = problem(1000 * seed + k)
                    solved(f, z, capture.solve(f, Start(z), 4, LIMITS))
        except Exception as error:  # raised by the test
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors


@on_a_gpu
def test_a_solve_inside_of_another_capture():
    f, z = problem(0)
    capture.solve(f, Start(z), 4, LIMITS)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = capture.within(f, Start(z), 4, LIMITS)
    for seed in (1, 2):
        g, start = problem(seed)
        z.copy_(start)
        for mine, other in zip(f.tensors, g.tensors, strict=True):
            mine.copy_(other)
        graph.replay()
        solved(f, z, found)


@on_a_gpu
def test_a_map_that_cannot_be_recorded_is_solved_all_the_same():
    class Waiting(Tanh):
        key = "waiting"

        def with_tensors(self, tensors):
            return Waiting(*tensors)

        def step(self, z, out):
            super().step(z, out)
            assert out.shape[0] > int(out.isnan().sum())

    for seed in range(4):
        f, z = problem(seed)
        f = Waiting(*f.tensors)
        solved(f, z, capture.solve(f, Start(z), 4, LIMITS))
