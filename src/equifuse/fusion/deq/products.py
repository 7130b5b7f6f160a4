"""Matrix products of stacked states, into memory that the caller owns."""

from __future__ import annotations

import torch
from torch import Tensor

# From this many multiplications per matrix on, matrices are multiplied one by one, each on all threads of a CPU: a
# batched product gives whole matrices to threads, and leaves threads idle where the numbers do not divide.
_WORTH_ALL_THREADS = 2**23


def product(plus: Tensor | None, a: Tensor, b: Tensor, out: Tensor) -> None:
    """``a @ b``, plus a tensor that broadcasts to the result, for ``(M, n, k) @ (M, k, p)``."""
    if a.is_cpu and torch.get_num_threads() > 1 and a.shape[1] * a.shape[2] * b.shape[2] >= _WORTH_ALL_THREADS:
        for i in range(len(a)):
            if plus is None:
                torch.mm(a[i], b[i], out=out[i])
            else:
                torch.addmm(plus[i], a[i], b[i], out=out[i])
    elif plus is None:
        torch.bmm(a, b, out=out)
    else:
        torch.baddbmm(plus, a, b, out=out)
