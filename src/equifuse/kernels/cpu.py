"""The kernels fused for a CPU, compiled by Numba: each makes one pass over a row while the row is in the fastest cache.

A function of the interface prepares a kernel for the tensors that it will read and write, which the caller owns, and
returns what runs it; nothing is recorded. Compiled code is cached on disk. Rows are
divided among threads by this module and not by Numba, whose default threads must not be entered from two threads at
once, nor used after a fork.
"""

# Numba reads the types of a kernel's arguments when it is called.
# ruff: noqa: ANN001, ANN202, PLR0912
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from equifuse.kernels import Run
from equifuse.kernels.reference import GROUPS, TailSaved, TailWeights
from equifuse.kernels.rows import BLOW_UP, RUNNING, RowLimits, Rows

# All of fastmath=True but "nnan" and "ninf", with which a NaN may be taken for anything.
# A loop is written so that it has one result: with more, LLVM gives up proving that arrays do not overlap, and the loop
# is not vectorised, which costs three to seven times. What the norms share is written out in each kernel, because a
# function of its own takes three times as long (measured with Numba 0.68).
_FLAGS = {"reassoc", "contract", "arcp", "nsz"}
# Numbers in a batch of states from which on threads pay, and the least that each gets.
_WORTH_THREADS = 2**17
_options: dict[str, Any] = {"fastmath": _FLAGS, "nogil": True, "error_model": "numpy"}
_log = logging.getLogger(__name__)


def _compiled(function: Callable[..., Any]) -> Any:
    """The function, compiled when it is first called, and stored on disk where there is a place for it."""
    try:
        return njit(cache=True, **_options)(function)
    except RuntimeError as error:  # no folder that can be written
        _log.debug("kernels are compiled anew in every process: %s", error)
        return njit(**_options)(function)


@_compiled
def _norm_relu(c, gain, shift, eps, out, idle, begin, end):
    rows, d = c.shape
    per, width = rows // gain.shape[0], d // GROUPS
    zero, one, size = c.dtype.type(0), c.dtype.type(1), c.dtype.type(width)
    for i in range(begin, end):
        if len(idle) > 0 and idle[i] != RUNNING:
            continue
        m = i // per
        for group in range(GROUPS):
            start = group * width
            x, y = c[i, start : start + width], out[i, start : start + width]
            weight, bias = gain[m, start : start + width], shift[m, start : start + width]
            total = zero
            for j in range(width):
                total += x[j]
            mean = total / size
            square = zero
            for j in range(width):
                v = x[j] - mean
                square += v * v
            scale = one / math.sqrt(square / size + eps)
            for j in range(width):
                v = (x[j] - mean) * scale * weight[j] + bias[j]
                y[j] = zero if v < zero else v  # a NaN stays


@_compiled
def _relu_norm(c, gain, shift, eps, out, idle, begin, end):
    rows, d = c.shape
    per, width = rows // gain.shape[0], d // GROUPS
    zero, one, size = c.dtype.type(0), c.dtype.type(1), c.dtype.type(width)
    for i in range(begin, end):
        if len(idle) > 0 and idle[i] != RUNNING:
            continue
        m = i // per
        for group in range(GROUPS):
            start = group * width
            x, y = c[i, start : start + width], out[i, start : start + width]
            weight, bias = gain[m, start : start + width], shift[m, start : start + width]
            total = zero
            for j in range(width):
                v = zero if x[j] < zero else x[j]
                y[j] = v
                total += v
            mean = total / size
            square = zero
            for j in range(width):
                v = y[j] - mean
                square += v * v
            scale = one / math.sqrt(square / size + eps)
            for j in range(width):
                y[j] = (y[j] - mean) * scale * weight[j] + bias[j]


@_compiled
def _block_tail(c, z, gain2, shift2, gain3, shift3, mask, eps, repeats, out, ahead, idle, begin, end):
    rows, d = c.shape
    per, width = rows // gain2.shape[0], d // GROUPS
    zero, one, size = c.dtype.type(0), c.dtype.type(1), c.dtype.type(width)
    # One array: whether loops are vectorised, and so the last digit, must not depend on where several would lie.
    scratch = np.empty((3, width), c.dtype)
    inner, p, image = scratch[0], scratch[1], scratch[2]
    for i in range(begin, end):
        if len(idle) > 0 and idle[i] != RUNNING:
            continue
        m = i // per
        if len(mask) > 0 and not mask[i]:
            out[i] = zero
            ahead[i] = zero
            continue
        for group in range(GROUPS):
            start = group * width
            x, state, y = c[i, start : start + width], z[i, start : start + width], out[i, start : start + width]
            weight2, bias2 = gain2[m, start : start + width], shift2[m, start : start + width]
            weight3, bias3 = gain3[m, start : start + width], shift3[m, start : start + width]
            total = zero
            for j in range(width):
                total += x[j]
            mean = total / size
            square = zero
            for j in range(width):
                v = x[j] - mean
                square += v * v
            scale = one / math.sqrt(square / size + eps)
            for j in range(width):
                inner[j] = (x[j] - mean) * scale * weight2[j] + bias2[j]
            for k in range(repeats + 1):
                if k == 1:
                    y = ahead[i, start : start + width]
                total = zero
                if k == 0:
                    for j in range(width):
                        v = inner[j] + state[j]
                        v = zero if v < zero else v
                        p[j] = v
                        total += v
                else:
                    for j in range(width):
                        v = inner[j] + image[j]
                        v = zero if v < zero else v
                        p[j] = v
                        total += v
                mean = total / size
                square = zero
                for j in range(width):
                    v = p[j] - mean
                    square += v * v
                scale = one / math.sqrt(square / size + eps)
                for j in range(width):
                    image[j] = (p[j] - mean) * scale * weight3[j] + bias3[j]
                if k in (0, repeats):
                    for j in range(width):
                        y[j] = image[j]


@_compiled
def _norm_relu_vjp(g, output, normal, reciprocal, gain, out, idle, begin, end):
    rows, d = g.shape
    per, width = rows // gain.shape[0], d // GROUPS
    zero, size = g.dtype.type(0), g.dtype.type(width)
    for i in range(begin, end):
        if len(idle) > 0 and idle[i] != RUNNING:
            continue
        m = i // per
        for group in range(GROUPS):
            start = group * width
            x, relu, y = g[i, start : start + width], output[i, start : start + width], out[i, start : start + width]
            n, weight, scale = normal[i, start : start + width], gain[m, start : start + width], reciprocal[i, group]
            total, along = zero, zero
            for j in range(width):
                v = x[j] * weight[j] if relu[j] > zero else zero
                y[j] = v
                total += v
                along += v * n[j]
            mean, slope = total / size, along / size
            for j in range(width):
                y[j] = (y[j] - mean - n[j] * slope) * scale


@_compiled
def _relu_norm_vjp(u, outer, normal, reciprocal, gain, out, idle, begin, end):
    rows, d = u.shape
    per, width = rows // gain.shape[0], d // GROUPS
    zero, size = u.dtype.type(0), u.dtype.type(width)
    for i in range(begin, end):
        if len(idle) > 0 and idle[i] != RUNNING:
            continue
        m = i // per
        for group in range(GROUPS):
            start = group * width
            x, relu, y = u[i, start : start + width], outer[i, start : start + width], out[i, start : start + width]
            n, weight, scale = normal[i, start : start + width], gain[m, start : start + width], reciprocal[i, group]
            total, along = zero, zero
            for j in range(width):
                v = x[j] * weight[j]
                total += v
                along += v * n[j]
            mean, slope = total / size, along / size
            for j in range(width):
                v = (x[j] * weight[j] - mean - n[j] * slope) * scale
                y[j] = v if relu[j] > zero else zero


@_compiled
def _block_tail_vjp(
    u, normal2, reciprocal2, outer, normal3, reciprocal3, gain2, gain3, mask, at_state, at_product, idle, begin, end
):
    rows, d = u.shape
    per, width = rows // gain2.shape[0], d // GROUPS
    zero, size = u.dtype.type(0), u.dtype.type(width)
    for i in range(begin, end):
        if len(idle) > 0 and idle[i] != RUNNING:
            continue
        m = i // per
        if len(mask) > 0 and not mask[i]:
            at_state[i] = zero
            at_product[i] = zero
            continue
        for group in range(GROUPS):
            start = group * width
            x, relu = u[i, start : start + width], outer[i, start : start + width]
            state, y = at_state[i, start : start + width], at_product[i, start : start + width]
            n2, n3 = normal2[i, start : start + width], normal3[i, start : start + width]
            weight2, weight3 = gain2[m, start : start + width], gain3[m, start : start + width]
            scale2, scale3 = reciprocal2[i, group], reciprocal3[i, group]
            total, along = zero, zero
            for j in range(width):
                v = x[j] * weight3[j]
                total += v
                along += v * n3[j]
            mean, slope = total / size, along / size
            total, along = zero, zero
            for j in range(width):
                v = (x[j] * weight3[j] - mean - n3[j] * slope) * scale3
                v = v if relu[j] > zero else zero
                state[j] = v
                v *= weight2[j]
                total += v
                along += v * n2[j]
            mean, slope = total / size, along / size
            for j in range(width):
                y[j] = (state[j] * weight2[j] - mean - n2[j] * slope) * scale2


@_compiled
def _norms(x, fx):
    """``‖fx − x‖`` and ``‖fx‖``, also where squares underflow or overflow."""
    small, large = x.dtype.type(1e-24), x.dtype.type(1e24)
    residual, size = x.dtype.type(0), x.dtype.type(0)
    for j in range(len(x)):
        r = fx[j] - x[j]
        residual += r * r
        size += fx[j] * fx[j]
    if small < residual < large and small < size < large:
        return np.float64(math.sqrt(residual)), np.float64(math.sqrt(size))
    wide, wide_size = 0.0, 0.0
    for j in range(len(x)):
        r = np.float64(fx[j]) - np.float64(x[j])
        wide += r * r
        wide_size += np.float64(fx[j]) * np.float64(fx[j])
    return math.sqrt(wide), math.sqrt(wide_size)


@_compiled
def _anderson(
    z, fz, target, rows, best, residual, steps, since, status, last_f, last_r, q, g, scale, trace,
    tol, max_steps, patience, damping, k, begin, end,
):  # fmt: skip
    width, memory = z.shape[1], q.shape[1]
    one, zero = z.dtype.type(1), z.dtype.type(0)
    least = z.dtype.type(np.finfo(z.dtype).eps)
    scratch = np.empty((4, width), z.dtype)
    rest, dr, df, point = scratch[0], scratch[1], scratch[2], scratch[3]
    going = 0
    for i in range(begin, end):
        row = rows[i]
        if status[row] != 0:
            trace[k, row] = trace[k - 1, row] if k > 0 else residual[row]
            continue
        here, image = z[i], target[i]
        made = steps[row]
        steps[row] = made + 1
        length, size = _norms(here, fz[i])
        if len(scale) > 0:
            size = np.float64(scale[row])
        relative = length / size if length > 0 else length
        if not (relative < np.inf):  # neither is NaN
            relative = np.inf
        if size == 0 and length > 0 and length < np.inf:
            relative = np.float64(np.finfo(z.dtype).max)  # a state with image 0 is valid
        trace[k, row] = relative
        first = residual[row] == np.inf
        if trace[k, row] < residual[row]:
            residual[row] = trace[k, row]
            since[row] = 0
            best[row] = here
        else:
            since[row] += 1
        if relative <= tol:
            status[row] = 1
            continue
        if relative == np.inf or (patience > 0 and (relative > BLOW_UP * residual[row] or since[row] >= patience)):
            status[row] = 2
            continue
        if made + 1 >= max_steps:
            status[row] = 3
            continue
        going += 1
        last_image, last_rest = last_f[row], last_r[row]
        if first:
            for j in range(width):
                last_rest[j] = image[j] - here[j]
            for j in range(width):
                last_image[j] = image[j]
            for j in range(width):
                here[j] += damping * last_rest[j]
            continue
        slot = (made - 1) % memory
        # Directions have unit length, so the differences may be scaled to a length that does not underflow.
        factor = z.dtype.type(1 / length)
        before = zero
        for j in range(width):
            rest[j] = image[j] - here[j]
        for j in range(width):
            change = (rest[j] - last_rest[j]) * factor
            dr[j] = change
            before += change * change
        for j in range(width):
            df[j] = (image[j] - last_image[j]) * factor
        for j in range(width):
            point[j] = image[j]
        for j in range(width):
            last_rest[j] = rest[j]
        for j in range(width):
            last_image[j] = image[j]
        for old in range(min(made - 1, memory)):
            if old == slot:
                continue  # the oldest one, which is replaced
            direction, along = q[row, old], g[row, old]
            a, b = zero, zero
            for j in range(width):
                a += direction[j] * dr[j]
                b += direction[j] * rest[j]
            for j in range(width):
                dr[j] -= a * direction[j]
                rest[j] -= b * direction[j]
            for j in range(width):
                df[j] -= a * along[j]
                point[j] -= b * along[j]
        left = zero
        for j in range(width):
            left += dr[j] * dr[j]
        direction, along = q[row, slot], g[row, slot]
        if left > least * before and left < np.inf:
            inverse = one / math.sqrt(left)
            b = zero
            for j in range(width):
                v = dr[j] * inverse
                direction[j] = v
                b += v * rest[j]
            for j in range(width):
                along[j] = df[j] * inverse
            for j in range(width):
                rest[j] -= b * direction[j]
                point[j] -= b * along[j]
        else:  # only rounding, or not finite
            for j in range(width):
                direction[j] = zero
                along[j] = zero
        for j in range(width):
            here[j] = point[j] - (one - damping) * rest[j]
    return going


# ---- threads ---------------------------------------------------------------------------------------------------

_pool: tuple[int, ThreadPoolExecutor] | None = None


def _threads() -> ThreadPoolExecutor:
    """This process's threads, started as they are needed; a child process that was forked gets its own."""
    global _pool  # noqa: PLW0603
    pool = _pool
    if pool is None or pool[0] != os.getpid():
        _pool = pool = os.getpid(), ThreadPoolExecutor(os.cpu_count(), "equifuse-kernel")
    return pool[1]


def _prepared(kernel: Callable[..., Any], count: int, numbers: int, *arguments: Any) -> Callable[..., int]:
    """A function that calls ``kernel(*arguments, *more, begin, end)`` for all rows, and sums what it returns."""
    threads = min(torch.get_num_threads(), numbers // _WORTH_THREADS, count)
    if threads < 2:
        return lambda *more: kernel(*arguments, *more, 0, count) or 0
    borders = [count * i // threads for i in range(threads + 1)]
    pairs = list(pairwise(borders))

    def run(*more: Any) -> int:
        pool = _threads()
        parts = [pool.submit(kernel, *arguments, *more, *pair) for pair in pairs]
        return sum(part.result() or 0 for part in parts)

    return run


def _flat(x: Tensor) -> np.ndarray[Any, Any]:
    """``(..., d)`` as an array ``(rows, d)`` on the same memory, which steps change.

    Raises:
        ValueError: it is not contiguous; a copy would miss what is written to the one or the other later.
    """
    if not x.is_contiguous():
        raise ValueError(f"states and images must be contiguous, got strides {x.stride()} for shape {tuple(x.shape)}")
    return x.detach().view(-1, x.shape[-1]).numpy()


def _fixed(x: Tensor) -> np.ndarray[Any, Any]:
    """``(..., d)`` as an array ``(rows, d)``, contiguous: a copy, for what no step changes.

    The memory of a tensor that NumPy has seen cannot be freed any more, which sharded parameters need.
    """
    return _flat(x.detach().clone(memory_format=torch.contiguous_format))


_EVERYWHERE = np.empty(0, np.bool_)


def _mask(mask: Tensor | None) -> np.ndarray[Any, Any]:
    return _EVERYWHERE if mask is None else mask.reshape(-1).contiguous().numpy()


_NONE = np.empty(0, np.int8)


def _idle(status: Tensor | None) -> np.ndarray[Any, Any]:
    return _NONE if status is None else status.numpy()


# ---- the interface ---------------------------------------------------------------------------------------------


def norm_relu(c: Tensor, gain: Tensor, shift: Tensor, eps: float, out: Tensor, idle: Tensor | None = None) -> Run:
    """:func:`equifuse.kernels.reference.norm_relu` into ``out``, which may be ``c``."""
    x = _flat(c)
    return _prepared(
        _norm_relu, len(x), x.size, x, _fixed(gain), _fixed(shift), x.dtype.type(eps), _flat(out), _idle(idle)
    )


def relu_norm(c: Tensor, gain: Tensor, shift: Tensor, eps: float, out: Tensor, idle: Tensor | None = None) -> Run:
    """:func:`equifuse.kernels.reference.relu_norm` into ``out``, which may be ``c``."""
    x = _flat(c)
    return _prepared(
        _relu_norm, len(x), x.size, x, _fixed(gain), _fixed(shift), x.dtype.type(eps), _flat(out), _idle(idle)
    )


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
    rest = _mask(mask), x.dtype.type(eps), repeats, _flat(out), _flat(ahead)
    return _prepared(_block_tail, len(x), x.size, x, _flat(z), *affine, *rest, _idle(idle))


def norm_relu_vjp(
    g: Tensor, output: Tensor, normal: Tensor, scale: Tensor, gain: Tensor, out: Tensor, idle: Tensor | None = None
) -> Run:
    """:func:`equifuse.kernels.reference.norm_relu_vjp` into ``out``, which may be ``g``."""
    x = _flat(g)
    saved = _fixed(output), _fixed(normal), _fixed(scale.flatten(-2)), _fixed(gain)
    return _prepared(_norm_relu_vjp, len(x), x.size, x, *saved, _flat(out), _idle(idle))


def relu_norm_vjp(
    u: Tensor, outer: Tensor, normal: Tensor, scale: Tensor, gain: Tensor, out: Tensor, idle: Tensor | None = None
) -> Run:
    """:func:`equifuse.kernels.reference.relu_norm_vjp` into ``out``, which may be ``u``."""
    x = _flat(u)
    saved = _fixed(outer), _fixed(normal), _fixed(scale.flatten(-2)), _fixed(gain)
    return _prepared(_relu_norm_vjp, len(x), x.size, x, *saved, _flat(out), _idle(idle))


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
    norms = _fixed(saved.normal2), _fixed(saved.scale2.flatten(-2)), _fixed(saved.outer), _fixed(saved.normal3)
    affine = _fixed(saved.scale3.flatten(-2)), _fixed(gain2), _fixed(gain3)
    arrays = x, *norms, *affine, _mask(mask), _flat(at_state), _flat(at_product), _idle(idle)
    return _prepared(_block_tail_vjp, len(x), x.size, *arrays)


def anderson(
    z: Tensor, fz: Tensor, target: Tensor, which: Tensor, rows: Rows, limits: RowLimits, trace: Tensor
) -> Callable[[int], int]:
    """One evaluation's bookkeeping, and the next iterate of every row that is still running.

    Args:
        z: ``(n, N)`` the states evaluated; overwritten with the next ones.
        fz: ``(n, N)`` their images.
        target: ``(n, N)`` the images, or points ahead of them, that the iteration combines.
        which: int64 ``(n,)`` which of the ``rows`` they are.
        rows: the state of all rows, which is updated.
        limits: when rows stop.
        trace: ``(K, R)``; the residuals at each evaluation are written to it.

    Returns:
        Function of the number of the evaluation, from 0; it returns how many rows go on.
    """
    x = _flat(z)
    scale = np.empty(0, x.dtype) if rows.scale is None else rows.scale.numpy()
    numbers = rows.best, rows.residual, rows.steps, rows.since, rows.status, rows.last_f, rows.last_r, rows.q, rows.g
    state = (tensor.numpy() for tensor in numbers)
    stop = float(limits.tol), limits.max_steps, limits.patience, x.dtype.type(limits.damping)
    arrays = x, _flat(fz), _flat(target), which.numpy(), *state, scale, trace.numpy()
    return _prepared(_anderson, len(x), x.size, *arrays, *stop)
