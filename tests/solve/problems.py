"""Maps with known fixed points and Jacobians; a new solver is tested by joining SOLVERS."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import equifuse as ef

SOLVERS = [
    ef.Picard(tol=1e-10, max_steps=2000),
    ef.Anderson(tol=1e-10, max_steps=300),
    ef.Broyden(tol=1e-10, max_steps=300, memory=40),
]


@dataclass
class Problem:
    f: Callable[[Tensor], Tensor]
    z0: Tensor
    solution: Tensor


def _matrices(batch: int, width: int, radius: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(batch, width, width, dtype=torch.float64, generator=generator)
    return a * (radius / torch.linalg.eigvals(a).abs().amax(1))[:, None, None]


def linear(radius: float = 0.9, batch: int = 6, width: int = 12, seed: int = 0) -> Problem:
    a = _matrices(batch, width, radius, seed)
    b = torch.randn(batch, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    solution = torch.linalg.solve(torch.eye(width, dtype=torch.float64) - a, b)
    return Problem(lambda z: torch.einsum("bij,bj->bi", a, z) + b, torch.zeros_like(b), solution)


def babylonian() -> Problem:
    """z = (z + c/z) / 2 has the fixed point sqrt(c)."""
    c = torch.tensor([[1.0, 2.0], [9.0, 16.0], [0.01, 3.0]], dtype=torch.float64)
    return Problem(lambda z: (z + c / z) / 2, torch.ones_like(c), c.sqrt())


def cosine() -> Problem:
    """z = cos(z): the Dottie number."""
    z0 = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    return Problem(torch.cos, z0, torch.full_like(z0, 0.7390851332151607))


def tanh_with_images(batch: int = 3) -> Problem:
    """A state of shape (B, 2, 3) around a constructed solution."""
    a = _matrices(1, 6, 0.8, 3)[0]
    solution = torch.linspace(-0.5, 0.5, batch * 6, dtype=torch.float64).reshape(batch, 2, 3)
    shift = torch.atanh(solution) - (solution.reshape(batch, 6) @ a).reshape(batch, 2, 3)
    return Problem(
        lambda z: torch.tanh((z.reshape(batch, 6) @ a).reshape(batch, 2, 3) + shift),
        torch.zeros_like(solution),
        solution,
    )


PROBLEMS = {"linear": linear, "babylonian": babylonian, "cosine": cosine, "images": tanh_with_images}
