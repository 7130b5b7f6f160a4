import pytest
import torch

import equifuse as ef
from equifuse.solve.krylov import GMRES, ArnoldiBasis, gmres


def test_spectral_radius_of_a_linear_map_is_its_largest_eigenvalue():
    a = torch.randn(4, 9, 9, dtype=torch.float64)
    radius = ef.spectral_radius(
        lambda z: torch.einsum("bij,bj->bi", a, z), torch.randn(4, 9, dtype=torch.float64), vectors=9
    )
    torch.testing.assert_close(radius, torch.linalg.eigvals(a).abs().amax(1), rtol=1e-8, atol=0)


def test_spectral_radius_sees_a_complex_pair():
    rotation = 0.9 * torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    radius = ef.spectral_radius(lambda z: z @ rotation, torch.ones(3, 2, dtype=torch.float64))
    torch.testing.assert_close(radius, torch.full((3,), 0.9, dtype=torch.float64))


def test_spectral_radius_is_close_with_few_vectors_and_repeatable():
    a = torch.randn(200, 200, dtype=torch.float64) / 200**0.5
    a = a + 2 * torch.eye(200, dtype=torch.float64)[:, :1] @ torch.ones(1, 200, dtype=torch.float64) / 200**0.5
    exact = torch.linalg.eigvals(a).abs().max()
    z = torch.zeros(2, 200, dtype=torch.float64)
    radius = ef.spectral_radius(lambda z: z @ a.T, z, vectors=60)
    torch.testing.assert_close(radius, exact.expand(2), rtol=0.05, atol=0)
    assert torch.equal(radius, ef.spectral_radius(lambda z: z @ a.T, z, vectors=60))


def test_spectral_radius_of_constants_and_empty_batches():
    assert ef.spectral_radius(torch.ones_like, torch.randn(3, 4)).tolist() == [0, 0, 0]
    assert ef.spectral_radius(torch.cos, torch.zeros(0, 4)).shape == (0,)
    with pytest.raises(ef.InputError, match="vectors"):
        ef.spectral_radius(torch.cos, torch.zeros(1, 1), vectors=0)


def test_jacobian_penalty_estimates_the_frobenius_norm():
    a = torch.randn(6, 6, dtype=torch.float64)
    z = torch.randn(500, 6, dtype=torch.float64)
    penalty = ef.jacobian_penalty(lambda z: z @ a.T, z, probes=20)
    torch.testing.assert_close(penalty, a.square().sum() / 6, rtol=0.05, atol=0)


def test_jacobian_penalty_is_differentiable():
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    z = torch.randn(50, 3, dtype=torch.float64)
    penalty = ef.jacobian_penalty(lambda z: scale * z, z, probes=1)
    (gradient,) = torch.autograd.grad(penalty, scale)
    torch.testing.assert_close(gradient, 2 * penalty / scale)  # the penalty is proportional to scale²
    with torch.no_grad():
        assert float(ef.jacobian_penalty(torch.cos, z)) > 0
    with pytest.raises(ef.InputError, match="probes"):
        ef.jacobian_penalty(torch.cos, z, probes=0)


def solved(product, g, steps, tol):
    none = torch.zeros(len(g), dtype=torch.int64)
    return gmres(product, g, GMRES(max_steps=steps), tol, torch.zeros_like(g), none)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_arnoldi_relation_and_orthonormality(dtype):
    a = torch.randn(3, 20, 20, dtype=dtype)
    basis = ArnoldiBasis(torch.randn(3, 20, dtype=dtype), 8)
    for _ in range(8):
        basis.extend(torch.einsum("bij,bj->bi", a, basis.newest()))
    v, h = basis.vectors, basis.hessenberg
    eye = torch.eye(9, dtype=dtype).expand(3, 9, 9)
    tolerance = 100 * torch.finfo(dtype).eps
    torch.testing.assert_close(v @ v.mT, eye, rtol=0, atol=tolerance)
    torch.testing.assert_close(torch.einsum("bij,bkj->bki", a, v[:, :8]), h.mT @ v, rtol=0, atol=100 * tolerance)


def test_gmres_is_exact_after_as_many_steps_as_unknowns_and_handles_zero_right_hand_sides():
    a = torch.randn(4, 7, 7, dtype=torch.float64)
    g = torch.randn(4, 7, dtype=torch.float64)
    g[2] = 0
    found = solved(lambda u: torch.einsum("bij,bj->bi", a, u), g, 7, 1e-10)
    u, stats = found.z, found.stats(1e-10)
    torch.testing.assert_close(u, torch.linalg.solve(torch.eye(7, dtype=torch.float64) - a, g), rtol=1e-7, atol=1e-9)
    assert bool(stats.converged.all())
    assert int(stats.steps[2]) == 0
    assert float(u[2].abs().max()) == 0


def test_gmres_samples_stop_on_their_own():
    """A system with k distinct eigenvalues takes k steps, whatever the other samples take."""
    values = torch.stack([torch.full((12,), 0.5), torch.linspace(-0.9, 0.9, 12)]).double()
    g = torch.ones(2, 12, dtype=torch.float64)
    found = solved(lambda u: u * values, g, 12, 1e-12)
    u, stats = found.z, found.stats(1e-12)
    assert stats.steps.tolist() == [1, 12]
    torch.testing.assert_close(u, g / (1 - values))
