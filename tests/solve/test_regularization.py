"""Regularisers: their values and their gradients against what they estimate."""

import pytest
import torch
from torch import nn

import equifuse as ef


def affine(matrix):
    return lambda z: z @ matrix.t() + 1


def with_radius(radius, width=8, seed=0):
    a = torch.randn(width, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return a * radius / torch.linalg.eigvals(a).abs().max()


@pytest.mark.parametrize("seed", range(6))  # real and complex dominant eigenvalues
@pytest.mark.parametrize("radius", [0.3, 0.8, 1.4])
def test_spectral_penalty_and_its_gradient(radius, seed):
    a = with_radius(radius, seed=seed).requires_grad_()
    z = torch.randn(5, 8, dtype=torch.float64)
    penalty = ef.spectral_penalty(affine(a), z, 0.7, 0.9, vectors=8)
    expected = max(radius - 0.9, 0) ** 2 + max(0.7 - radius, 0) ** 2
    assert float(penalty.detach()) == pytest.approx(expected, abs=1e-9)
    (grad,) = torch.autograd.grad(penalty, a)
    exact_radius = torch.linalg.eigvals(a).abs().max()
    exact = (exact_radius - 0.9).clamp(min=0).square() + (0.7 - exact_radius).clamp(min=0).square()
    torch.testing.assert_close(grad, torch.autograd.grad(exact, a)[0], rtol=1e-6, atol=1e-10)


@pytest.mark.slow
def test_spectral_penalty_moves_the_radius_into_the_band():
    a = with_radius(1.6).clone().requires_grad_()
    optimiser = torch.optim.Adam([a], lr=0.01)
    for _ in range(200):
        optimiser.zero_grad()
        ef.spectral_penalty(affine(a), torch.zeros(2, 8, dtype=torch.float64), vectors=8).backward()
        optimiser.step()
    assert 0.69 < float(torch.linalg.eigvals(a.detach()).abs().max()) < 0.91


def test_spectral_penalty_looks_at_no_more_samples_than_asked():
    scale = torch.tensor([0.8, 3.0, 0.8], dtype=torch.float64)[:, None]  # the middle one is not looked at
    z = torch.zeros(3, 4, dtype=torch.float64)
    penalty = ef.spectral_penalty(lambda z: scale * z + nn.Parameter(torch.ones(1)), z, vectors=1, samples=2)
    assert float(penalty.detach()) == pytest.approx(0, abs=1e-12)


def test_spectral_penalty_of_a_map_that_ignores_its_state():
    weight = torch.ones(4, requires_grad=True)
    assert float(ef.spectral_penalty(weight.expand_as, torch.zeros(2, 4))) == pytest.approx(0.49)
    assert float(ef.spectral_penalty(weight.expand_as, torch.zeros(0, 4))) == 0


@pytest.mark.parametrize("options", [{"low": 0.9, "high": 0.8}, {"low": -1.0}, {"vectors": 0}, {"samples": 0}])
def test_spectral_penalty_refuses_senseless_options(options):
    with pytest.raises(ef.InputError):
        ef.spectral_penalty(torch.cos, torch.zeros(2, 3), **options)


def test_residual_penalty():
    a = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    z = torch.tensor([[2.0], [4.0]], dtype=torch.float64)
    penalty = ef.residual_penalty(lambda z: a * z + 1, z)  # images 2 and 3: relative residuals 0 and 1/3
    assert float(penalty.detach()) == pytest.approx(1 / 18)
    (grad,) = torch.autograd.grad(penalty, a)
    # d/da ((a z + 1 - z)² / (a z + 1)²) = 2 r/f · z² / f² ; r/f = -1/3, f = 3, z = 4, mean of two samples
    assert float(grad) == pytest.approx(2 * (-1 / 3) * 16 / 9 / 2)
    assert float(ef.residual_penalty(lambda z: z * 0, z)) > 1  # an image of zero is as far as can be
    assert float(ef.residual_penalty(torch.cos, torch.zeros(0, 3))) == 0
