"""The kernels fused for CUDA, in Triton: one program per row, which reads and writes every number of its row once.

A function of the interface prepares a kernel for the tensors that it will read and write, which the caller owns, and
returns what launches it; nothing is recorded, and nothing waits for the device. A row is a tile ``(groups, width)``,
padded to a power of two; a program whose row is idle returns at once. With ``TRITON_INTERPRET=1`` the kernels run on a
CPU, for tests.
"""
# Triton reads the types of a kernel's arguments when it is called, and decides some conditions when it compiles.
# ruff: noqa: ANN001, ANN202, SIM102
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from equifuse.kernels import Run
from equifuse.kernels.reference import GROUPS, TailSaved, TailWeights
from equifuse.kernels.rows import BLOW_UP, RowLimits, Rows

# The widest row whose Anderson update still fits the registers of one program.
WIDEST = 8192
# Numbers of a row per warp, a block of 32 threads, and the most warps that share a row.
_PER_WARP, _MOST_WARPS = 256, 16


# ---- a row as a tile --------------------------------------------------------------------------------------------


@triton.jit
def _tile(width, GROUPS: tl.constexpr, PADDED: tl.constexpr):
    """Where the numbers of a row lie, from its first: ``(GROUPS, PADDED)``; and which of them are there."""
    columns = tl.arange(0, PADDED)[None, :]
    return tl.arange(0, GROUPS)[:, None] * width + columns, (columns < width) & (tl.arange(0, GROUPS)[:, None] >= 0)


@triton.jit
def _relu(x):
    return tl.where(x < 0, 0.0, x)  # a NaN stays


@triton.jit
def _normalise(x, inside, width, eps):
    """GroupNorm without an affine part; 0 outside."""
    mean = tl.sum(tl.where(inside, x, 0.0), 1) / width
    centred = tl.where(inside, x - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, 1) / width
    return centred * (1.0 / tl.sqrt(variance + eps))[:, None]


@triton.jit
def _normalise_vjp(g, normal, scale, inside, width):
    """The derivative of :func:`_normalise`, transposed; ``g`` and ``normal`` are 0 outside."""
    mean = tl.sum(g, 1) / width
    along = tl.sum(g * normal, 1) / width
    return (g - mean[:, None] - normal * along[:, None]) * scale[:, None]


# ---- kernels of the maps ----------------------------------------------------------------------------------------
# Batches of other sizes use the same compiled kernels: numbers that depend on them are not specialised.


@triton.jit(do_not_specialize=["per"])
def _norm_relu(
    c, gain, shift, out, idle, per, width,
    eps: tl.constexpr, SKIPS: tl.constexpr, GROUPS: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    if SKIPS:
        if tl.load(idle + row) != 0:
            return
    tile, inside = _tile(width, GROUPS, PADDED)
    here, block = row * GROUPS * width + tile, row // per * GROUPS * width + tile
    normal = _normalise(tl.load(c + here, inside, 0.0), inside, width, eps)
    y = normal * tl.load(gain + block, inside, 0.0) + tl.load(shift + block, inside, 0.0)
    tl.store(out + here, _relu(y), inside)


@triton.jit(do_not_specialize=["per"])
def _relu_norm(
    c, gain, shift, out, idle, per, width,
    eps: tl.constexpr, SKIPS: tl.constexpr, GROUPS: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    if SKIPS:
        if tl.load(idle + row) != 0:
            return
    tile, inside = _tile(width, GROUPS, PADDED)
    here, block = row * GROUPS * width + tile, row // per * GROUPS * width + tile
    normal = _normalise(_relu(tl.load(c + here, inside, 0.0)), inside, width, eps)
    y = normal * tl.load(gain + block, inside, 0.0) + tl.load(shift + block, inside, 0.0)
    tl.store(out + here, y, inside)


@triton.jit(do_not_specialize=["per"])
def _block_tail(
    c, z, gain2, shift2, gain3, shift3, mask, out, ahead, idle, per, width, eps: tl.constexpr,
    REPEATS: tl.constexpr, MASKED: tl.constexpr, SKIPS: tl.constexpr, GROUPS: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    if SKIPS:
        if tl.load(idle + row) != 0:
            return
    tile, inside = _tile(width, GROUPS, PADDED)
    here, block = row * GROUPS * width + tile, row // per * GROUPS * width + tile
    inner = _normalise(tl.load(c + here, inside, 0.0), inside, width, eps)
    inner = inner * tl.load(gain2 + block, inside, 0.0) + tl.load(shift2 + block, inside, 0.0)
    weight, bias = tl.load(gain3 + block, inside, 0.0), tl.load(shift3 + block, inside, 0.0)
    there = inside
    if MASKED:
        there = inside & (tl.load(mask + row + 0 * tile) > 0)
    state = tl.load(z + here, inside, 0.0)
    for k in tl.static_range(REPEATS + 1):
        state = _normalise(_relu(inner + state), inside, width, eps) * weight + bias
        state = tl.where(there, state, 0.0)
        if k == 0:
            tl.store(out + here, state, inside)
    if REPEATS > 0:
        tl.store(ahead + here, state, inside)


@triton.jit(do_not_specialize=["per"])
def _norm_relu_vjp(
    g, output, normal, scale, gain, out, idle, per, width,
    SKIPS: tl.constexpr, GROUPS: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    if SKIPS:
        if tl.load(idle + row) != 0:
            return
    tile, inside = _tile(width, GROUPS, PADDED)
    here, block = row * GROUPS * width + tile, row // per * GROUPS * width + tile
    passed = tl.load(output + here, inside, 0.0) > 0
    u = tl.where(passed, tl.load(g + here, inside, 0.0) * tl.load(gain + block, inside, 0.0), 0.0)
    n = tl.load(normal + here, inside, 0.0)
    y = _normalise_vjp(u, n, tl.load(scale + row * GROUPS + tl.arange(0, GROUPS)), inside, width)
    tl.store(out + here, y, inside)


@triton.jit(do_not_specialize=["per"])
def _relu_norm_vjp(
    u, outer, normal, scale, gain, out, idle, per, width,
    SKIPS: tl.constexpr, GROUPS: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    if SKIPS:
        if tl.load(idle + row) != 0:
            return
    tile, inside = _tile(width, GROUPS, PADDED)
    here, block = row * GROUPS * width + tile, row // per * GROUPS * width + tile
    g = tl.load(u + here, inside, 0.0) * tl.load(gain + block, inside, 0.0)
    n = tl.load(normal + here, inside, 0.0)
    y = _normalise_vjp(g, n, tl.load(scale + row * GROUPS + tl.arange(0, GROUPS)), inside, width)
    tl.store(out + here, tl.where(tl.load(outer + here, inside, 0.0) > 0, y, 0.0), inside)


@triton.jit(do_not_specialize=["per"])
def _block_tail_vjp(
    u, normal2, scale2, outer, normal3, scale3, gain2, gain3, mask, at_state, at_product, idle, per, width,
    MASKED: tl.constexpr, SKIPS: tl.constexpr, GROUPS: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    if SKIPS:
        if tl.load(idle + row) != 0:
            return
    tile, inside = _tile(width, GROUPS, PADDED)
    here, block = row * GROUPS * width + tile, row // per * GROUPS * width + tile
    groups = row * GROUPS + tl.arange(0, GROUPS)
    there = inside
    if MASKED:
        there = inside & (tl.load(mask + row + 0 * tile) > 0)
    g = tl.load(u + here, there, 0.0) * tl.load(gain3 + block, there, 0.0)
    n3 = tl.load(normal3 + here, there, 0.0)
    state = _normalise_vjp(g, n3, tl.load(scale3 + groups), inside, width)
    state = tl.where(there & (tl.load(outer + here, there, 0.0) > 0), state, 0.0)
    tl.store(at_state + here, state, inside)
    n2 = tl.load(normal2 + here, there, 0.0)
    g = state * tl.load(gain2 + block, inside, 0.0)
    y = _normalise_vjp(g, n2, tl.load(scale2 + groups), inside, width)
    tl.store(at_product + here, tl.where(there, y, 0.0), inside)


# ---- Anderson's update ------------------------------------------------------------------------------------------


@triton.jit
def _length(x):
    """``‖x‖`` in float64, scaled so that no square underflows or overflows; NaN if ``x`` is not finite."""
    largest = tl.max(tl.abs(x), 0)
    unit = tl.where(largest > 0, largest, 1.0)
    scaled = x / unit
    return largest.to(tl.float64) * tl.sqrt(tl.sum(scaled * scaled, 0).to(tl.float64))


@triton.jit(do_not_specialize=["total", "k"])
def _anderson(
    z, fz, target, which, best, residual, steps, since, status, last_f, last_r, q, g, scale, trace, limits, progress,
    width, total, k, blow_up: tl.constexpr, greatest: tl.constexpr, least: tl.constexpr,
    MEMORY: tl.constexpr, SCALED: tl.constexpr, REPORT: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)
    row = tl.load(which + i)
    code = tl.load(status + row).to(tl.int32)
    made = tl.load(steps + row)
    shown = trace + k.to(tl.int64) * total + row
    if code != 0:
        tl.store(shown, tl.load(shown - total if k > 0 else residual + row))
    else:
        columns = tl.arange(0, PADDED)
        inside = columns < width
        here = i * width + columns
        there = row * width + columns
        x, fx = tl.load(z + here, inside, 0.0), tl.load(fz + here, inside, 0.0)
        tol, damping = tl.load(limits), tl.load(limits + 3)
        max_steps, patience = tl.load(limits + 1).to(tl.int32), tl.load(limits + 2).to(tl.int32)
        # Before the first sum: its barrier keeps one warp from storing what another has still to load.
        lowest, stale = tl.load(residual + row), tl.load(since + row) + 1

        # The residual, and what becomes of the row.
        length = _length(fx - x)
        size = _length(fx)
        if SCALED:
            size = tl.load(scale + row).to(tl.float64)
        relative = tl.where(length == 0, length, length / tl.where(size == 0, 1.0, size))
        relative = tl.where((size == 0) & (length > 0), greatest, relative)  # a state with image 0 is valid
        relative = tl.where(relative < float("inf"), tl.minimum(relative, greatest), float("inf"))  # neither is NaN
        known = relative.to(x.dtype)
        tl.store(shown, known)
        first = lowest == float("inf")
        if known < lowest:
            lowest, stale = known, stale * 0
            tl.store(residual + row, known)
            tl.store(best + there, x, inside)
        made += 1
        tl.store(since + row, stale)
        tl.store(steps + row, made)
        stalled = (patience > 0) & ((relative > blow_up * lowest.to(tl.float64)) | (stale >= patience))
        stalled = stalled | (relative == float("inf"))
        code = tl.where(made >= max_steps, 3, 0)
        code = tl.where(stalled, 2, code)
        code = tl.where(relative <= tol, 1, code)
        tl.store(status + row, code.to(tl.int8))

        # The next iterate.
        if code == 0:
            image = tl.load(target + here, inside, 0.0)
            rest = image - x
            moved = damping.to(x.dtype)
            point = image
            if first == 0:
                # Directions have unit length, so differences may be scaled to a length that does not underflow.
                factor = (1.0 / length).to(x.dtype)
                dr = (rest - tl.load(last_r + there, inside, 0.0)) * factor
                df = (image - tl.load(last_f + there, inside, 0.0)) * factor
                before = tl.sum(dr * dr, 0)
                slot = (made - 2) % MEMORY
                ring = row * MEMORY
                for j in tl.static_range(MEMORY):
                    # The one at slot is the oldest: it is replaced.
                    stored = columns < tl.where((j < made - 2) & (j != slot), width, 0)
                    direction = tl.load(q + (ring + j) * width + columns, stored, 0.0)
                    along = tl.load(g + (ring + j) * width + columns, stored, 0.0)
                    a, b = tl.sum(direction * dr, 0), tl.sum(direction * rest, 0)
                    dr -= a * direction
                    rest -= b * direction
                    df -= a * along
                    point -= b * along
                left = tl.sum(dr * dr, 0)
                good = (left > least * before) & (left < float("inf"))  # not only rounding, and finite
                inverse = 1.0 / tl.sqrt(tl.where(good, left, 1.0))
                direction = tl.where(good, dr * inverse, 0.0)
                along = tl.where(good, df * inverse, 0.0)
                tl.store(q + (ring + slot) * width + columns, direction, inside)
                tl.store(g + (ring + slot) * width + columns, along, inside)
                b = tl.sum(direction * rest, 0)
                rest -= b * direction
                point -= b * along
            tl.store(last_r + there, image - x, inside)
            tl.store(last_f + there, image, inside)
            tl.store(z + here, point - (1.0 - moved) * rest, inside)
    if REPORT:
        tl.atomic_add(progress, (code == 0).to(tl.int32))
        tl.atomic_add(progress + 1, (code > 1).to(tl.int32))
        tl.atomic_max(progress + 2, made)


# ---- the interface ----------------------------------------------------------------------------------------------


def _flat(x: Tensor) -> Tensor:
    """``(..., d)`` as ``(rows, d)`` on the same memory, which steps change.

    Raises:
        ValueError: it is not contiguous; a copy would miss what is written to the one or the other later.
    """
    if not x.is_contiguous():
        raise ValueError(f"states and images must be contiguous, got strides {x.stride()} for shape {tuple(x.shape)}")
    return x.detach().view(-1, x.shape[-1])


def _fixed(x: Tensor) -> Tensor:
    """``(..., d)`` as ``(rows, d)``, contiguous; of what no step changes, so that it may be a copy."""
    return _flat(x.contiguous())


def _warps(numbers: int) -> int:
    """How many share a row of a power of two."""
    return min(_MOST_WARPS, max(1, numbers // _PER_WARP))


def _prepared(kernel: Any, c: Tensor, gain: Tensor, *tensors: Tensor, idle: Tensor | None, **constants: Any) -> Run:
    """What launches a kernel of the maps for the rows of ``c``, as many for each block of weights like ``gain``."""
    rows, d = c.shape
    if rows == 0:
        return lambda: None
    width, per = d // GROUPS, rows // (gain.numel() // d)
    padded = triton.next_power_of_2(width)
    launch, status = kernel[rows,], c if idle is None else _flat(idle[:, None])
    constants |= {"SKIPS": idle is not None, "GROUPS": GROUPS, "PADDED": padded, "num_warps": _warps(GROUPS * padded)}

    def run() -> None:
        with torch.cuda.device_of(c):  # Triton launches on the current device
            launch(c, *tensors, status, per, width, **constants)

    return run


def try_out() -> None:
    """Compile and launch a kernel; raises what a compiler that is missing raises."""
    x = torch.zeros(1, 1, GROUPS, device="cuda")
    norm_relu(x, x, x, 1.0, x)()


def _mask(mask: Tensor | None, unused: Tensor) -> Tensor:
    return unused if mask is None else _fixed(mask).view(torch.uint8)


def norm_relu(c: Tensor, gain: Tensor, shift: Tensor, eps: float, out: Tensor, idle: Tensor | None = None) -> Run:
    """:func:`equifuse.kernels.reference.norm_relu` into ``out``, which may be ``c``."""
    x = _flat(c)
    return _prepared(_norm_relu, x, gain, _fixed(gain), _fixed(shift), _flat(out), idle=idle, eps=eps)


def relu_norm(c: Tensor, gain: Tensor, shift: Tensor, eps: float, out: Tensor, idle: Tensor | None = None) -> Run:
    """:func:`equifuse.kernels.reference.relu_norm` into ``out``, which may be ``c``."""
    x = _flat(c)
    return _prepared(_relu_norm, x, gain, _fixed(gain), _fixed(shift), _flat(out), idle=idle, eps=eps)


def block_tail(
    c: Tensor,
    z: Tensor,
    weights: TailWeights,
    mask: Tensor | None,
    eps: float,
    repeats: int,
    out: Tensor,
    ahead: Tensor,
    idle: Tensor | None = None,
) -> Run:
    """:func:`equifuse.kernels.reference.block_tail` into ``out`` and, with repeats, ``ahead``."""
    x = _flat(c)
    affine = (_fixed(weight) for weight in weights)
    flags = {"eps": eps, "REPEATS": repeats, "MASKED": mask is not None}
    written = _flat(out), _flat(ahead)
    return _prepared(_block_tail, x, weights.gain2, _flat(z), *affine, _mask(mask, x), *written, idle=idle, **flags)


def norm_relu_vjp(
    g: Tensor, output: Tensor, normal: Tensor, scale: Tensor, gain: Tensor, out: Tensor, idle: Tensor | None = None
) -> Run:
    """:func:`equifuse.kernels.reference.norm_relu_vjp` into ``out``, which may be ``g``."""
    x = _flat(g)
    saved = _fixed(output), _fixed(normal), _fixed(scale), _fixed(gain)
    return _prepared(_norm_relu_vjp, x, gain, *saved, _flat(out), idle=idle)


def relu_norm_vjp(
    u: Tensor, outer: Tensor, normal: Tensor, scale: Tensor, gain: Tensor, out: Tensor, idle: Tensor | None = None
) -> Run:
    """:func:`equifuse.kernels.reference.relu_norm_vjp` into ``out``, which may be ``u``."""
    x = _flat(u)
    saved = _fixed(outer), _fixed(normal), _fixed(scale), _fixed(gain)
    return _prepared(_relu_norm_vjp, x, gain, *saved, _flat(out), idle=idle)


def block_tail_vjp(
    u: Tensor,
    saved: TailSaved,
    gain2: Tensor,
    gain3: Tensor,
    mask: Tensor | None,
    at_state: Tensor,
    at_product: Tensor,
    idle: Tensor | None = None,
) -> Run:
    """:func:`equifuse.kernels.reference.block_tail_vjp` into ``at_state`` and ``at_product``."""
    x = _flat(u)
    stored = (saved.normal2, saved.scale2, saved.outer, saved.normal3, saved.scale3)
    tensors = (_fixed(tensor) for tensor in stored)
    rest = _fixed(gain2), _fixed(gain3), _mask(mask, x), _flat(at_state), _flat(at_product)
    return _prepared(_block_tail_vjp, x, gain2, *tensors, *rest, idle=idle, MASKED=mask is not None)


def set_limits(limits: RowLimits, numbers: Tensor) -> None:
    """Write limits into float64 ``(4,)``, from where :func:`anderson` reads them; the host does not wait."""
    for number, value in zip(numbers, (limits.tol, limits.max_steps, limits.patience, limits.damping), strict=True):
        number.fill_(value)


def anderson(
    z: Tensor,
    fz: Tensor,
    target: Tensor,
    which: Tensor,
    rows: Rows,
    limits: RowLimits | Tensor,
    trace: Tensor,
    progress: Tensor | None = None,
) -> Callable[..., Tensor]:
    """One evaluation's bookkeeping, and the next iterate of every row that is still running.

    Args:
        z: ``(n, N)`` the states evaluated, N at most ``WIDEST``; overwritten with the next ones.
        fz: ``(n, N)`` their images.
        target: ``(n, N)`` the images, or points ahead of them, that the iteration combines.
        which: int64 ``(n,)`` which of the ``rows`` they are.
        rows: the state of all rows, which is updated. Where rows begin with some ``steps`` behind them, ``q`` and ``g``
            must be 0.
        limits: when rows stop; or what :func:`set_limits` wrote, so that it can change between calls.
        trace: ``(K, R)``; the residuals at each evaluation are written to it.
        progress: int32 ``(3,)`` for reports: how many rows go on, how many have stopped without having converged, and
            the most evaluations of a row. None for new memory.

    Returns:
        Function of the number of the evaluation, from 0, and of whether to report, by default True. It returns how many
        rows go on, int32 ``()`` in ``progress``.
    """
    count, width = z.shape
    if width > WIDEST:
        raise ValueError(f"rows have at most {WIDEST} numbers, got {width}")
    numbers = limits
    if isinstance(limits, RowLimits):
        numbers = z.new_empty(4, dtype=torch.float64)
        set_limits(limits, numbers)
    reported = z.new_zeros(3, dtype=torch.int32) if progress is None else progress
    kept = rows.best, rows.residual, rows.steps, rows.since, rows.status, rows.last_f, rows.last_r, rows.q, rows.g
    scale = z if rows.scale is None else rows.scale
    tensors = _flat(z), _flat(fz), _flat(target), which, *kept, scale, _flat(trace), numbers, reported
    padded = triton.next_power_of_2(width)
    constants = {
        "blow_up": BLOW_UP, "greatest": torch.finfo(z.dtype).max, "least": torch.finfo(z.dtype).eps,
        "MEMORY": rows.q.shape[1], "SCALED": rows.scale is not None, "PADDED": padded, "num_warps": _warps(padded),
    }  # fmt: skip
    launch = _anderson[max(1, count),]

    def run(k: int, *, report: bool = True) -> Tensor:
        if report:
            reported.zero_()
        if count:
            with torch.cuda.device_of(z):
                launch(*tensors, width, trace.shape[1], k, **constants, REPORT=report)
        return reported[0]

    return run
