"""The few fused loops that decide the speed of a solve, in forms that agree: reference, CPU, CUDA.

``reference`` defines them as plain torch operations, for any device and dtype, with gradients. ``cpu`` has them
compiled by Numba, one pass over a row each. ``cuda`` has them in Triton, and ``capture`` records steps made of them.
:func:`fused` chooses.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable
from functools import cache
from typing import Protocol, cast

import torch
from torch import Tensor

from equifuse.errors import InputError
from equifuse.kernels.reference import TailSaved, TailWeights
from equifuse.kernels.rows import RowLimits, Rows

# "reference": plain torch operations everywhere. "fused" (default): compiled kernels where there are some. "recorded":
# the same, and on CUDA steps are recorded as graphs and replayed, which is two times faster, but not the default: a
# training run has ended with an illegal memory access once, before recordings had workspaces of their own.
VARIABLE = "EQUIFUSE_KERNELS"
Run = Callable[[], object]
_log = logging.getLogger(__name__)


class Kernels(Protocol):
    """The interface of the fused forms.

    Each function prepares a kernel for the tensors that it will read and write, and returns what runs it, any number of
    times: a solve calls the same few kernels on the same memory in each of its steps. ``idle`` is the status of the
    rows (:mod:`equifuse.kernels.rows`): only those that are running are computed; None computes all.
    """

    def norm_relu(self, c: Tensor, gain: Tensor, shift: Tensor, eps: float, out: Tensor, idle: Tensor | None) -> Run:
        """The first half of a modality block."""

    def relu_norm(self, c: Tensor, gain: Tensor, shift: Tensor, eps: float, out: Tensor, idle: Tensor | None) -> Run:
        """The end of the fusion map."""

    def block_tail(
        self, c: Tensor, z: Tensor, weights: TailWeights, mask: Tensor | None, eps: float, repeats: int,
        out: Tensor, ahead: Tensor, idle: Tensor | None,
    ) -> Run:  # fmt: skip
        """The second half of a modality block."""

    def norm_relu_vjp(
        self, g: Tensor, output: Tensor, normal: Tensor, scale: Tensor, gain: Tensor, out: Tensor, idle: Tensor | None
    ) -> Run:
        """The derivative of ``norm_relu``, transposed."""

    def relu_norm_vjp(
        self, u: Tensor, outer: Tensor, normal: Tensor, scale: Tensor, gain: Tensor, out: Tensor, idle: Tensor | None
    ) -> Run:
        """The derivative of ``relu_norm``, transposed."""

    def block_tail_vjp(
        self, u: Tensor, saved: TailSaved, gain2: Tensor, gain3: Tensor, mask: Tensor | None,
        at_state: Tensor, at_product: Tensor, idle: Tensor | None,
    ) -> Run:  # fmt: skip
        """The derivative of ``block_tail``, transposed."""

    def anderson(
        self, z: Tensor, fz: Tensor, target: Tensor, which: Tensor, rows: Rows, limits: RowLimits, trace: Tensor
    ) -> Callable[[int], int | Tensor]:
        """What becomes of each row after an evaluation, and its next iterate."""


def _choice() -> str:
    choice = os.environ.get(VARIABLE, "fused")
    if choice not in ("reference", "fused", "recorded"):
        raise InputError(f"{VARIABLE} must be 'reference', 'fused' or 'recorded', got {choice!r}")
    return choice


def recording() -> bool:
    """Whether steps on CUDA are recorded and replayed."""
    return _choice() == "recorded"


@cache
def _load(name: str) -> Kernels | None:
    """The module of one fused form; None where its compiler is missing, which a debug line says."""
    try:
        module = importlib.import_module(f"equifuse.kernels.{name}")
        if name == "cuda":
            module.try_out()  # Triton looks for the host's compiler only now
    except Exception as error:
        # A compiler that is there may still fail to start: no LLVM, no place for its cache.
        _log.debug("the reference kernels serve, because those for %s cannot be loaded: %s", name, error)
        return None
    return cast(Kernels, module)


def fused(x: Tensor) -> Kernels | None:
    """The fused kernels for tensors like ``x``; None where the reference must serve.

    That is: another dtype than float32 and float64, a device without kernels, a graph that is recorded, compiled or
    transformed by ``torch.func``, or the environment variable ``EQUIFUSE_KERNELS=reference``.

    Raises:
        InputError: the variable has another value than ``reference``, ``fused`` or ``recorded``.
    """
    if _choice() == "reference" or x.dtype not in (torch.float32, torch.float64) or torch.compiler.is_compiling():
        return None
    if torch.is_grad_enabled() or type(x) is not Tensor or torch._C._are_functorch_transforms_active():
        return None
    if x.device.type == "cpu":
        return _load("cpu")
    return _load("cuda") if x.device.type == "cuda" else None
