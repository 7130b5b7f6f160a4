"""Matrix products of stacked states, into memory that the caller owns."""

from __future__ import annotations

import torch
from torch import Tensor

from equifuse.kernels import Run
from equifuse.solve.transforms import transformed

# From this many multiplications per matrix on, matrices are multiplied one by one, each on all threads of a CPU: a
# batched product gives whole matrices to threads, and leaves threads idle where the numbers do not divide.
_WORTH_ALL_THREADS = 2**23

# Rows per thread from which on a CPU computes each row of a product in the same way, whatever the other rows are.
_ROWS_PER_THREAD = 8


def least_rows(like: Tensor) -> int:
    """The fewest rows a product may have, so that a row's result does not depend on how many there are.

    For fewer rows libraries take other routines, whose rounding differs; a steep map amplifies that to another
    equilibrium.
    """
    if not like.is_cpu or torch.compiler.is_compiling() or transformed():
        return 0
    return _ROWS_PER_THREAD * torch.get_num_threads()


def product(plus: Tensor | None, a: Tensor, b: Tensor, out: Tensor) -> Run:
    """What computes ``a @ b``, plus a tensor that broadcasts to the result, for ``(M, n, k) @ (M, k, p)``."""
    if a.is_cpu and torch.get_num_threads() > 1 and a.shape[1] * a.shape[2] * b.shape[2] >= _WORTH_ALL_THREADS:
        single = list(zip(a, b, out, a if plus is None else plus, strict=True))
        if plus is None:
            return lambda: [torch.mm(x, y, out=to) for x, y, to, _ in single]
        return lambda: [torch.addmm(more, x, y, out=to) for x, y, to, more in single]
    if plus is None:
        return lambda: torch.bmm(a, b, out=out)
    return lambda: torch.baddbmm(plus, a, b, out=out)
