"""Restricting the equilibrium's maps to some rows, as the solver does when samples have converged."""

import pytest
import torch

import equifuse as ef
from equifuse.fusion.base import flatten

DIMS = {"a": 4, "b": 6, "c": 5}


def maps(masked):
    torch.manual_seed(0)
    fusion = ef.DEQFusion(DIMS, 8).double()
    x = {m: torch.randn(7, width, dtype=torch.float64) for m, width in DIMS.items()}
    present = {"b": torch.tensor([True, False, True, True, False, True, True])} if masked else None
    _, rows = flatten(x, present, DIMS)
    with torch.no_grad():
        problem = fusion._problem(rows)
        return fusion._modality_map(problem), fusion._fusion_map(torch.randn(3, 7, 8, dtype=torch.float64), problem)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rows", [[0, 3, 7, 8, 9, 20], [5], list(range(21)), [14, 15, 20], []])
def test_a_restricted_map_is_the_map_on_those_rows(masked, rows):
    modality, fusion = maps(masked)
    z = torch.randn(21, 8, dtype=torch.float64)
    index = torch.tensor(rows, dtype=torch.int64)
    with torch.no_grad():
        torch.testing.assert_close(modality.select(index)(z[index]), modality(z)[index])
        again = torch.arange(len(rows))[::2]
        torch.testing.assert_close(modality.select(index).select(again)(z[index][again]), modality(z)[index][again])
        few = index[index < 7]
        torch.testing.assert_close(fusion.select(few)(z[:7][few]), fusion(z[:7])[few])


def test_slow_samples_change_nothing_for_the_others():
    """One sample is made slow by inputs that nearly cancel; the rest converge as they would alone."""
    torch.manual_seed(0)
    fusion = ef.DEQFusion(DIMS, 16, solver=ef.Anderson(tol=1e-10, max_steps=300)).double()
    with torch.no_grad():
        fusion.blocks.weight1.mul_(2.5)
        fusion.blocks.weight2.mul_(2.5)
    x = {m: torch.randn(20, width, dtype=torch.float64) for m, width in DIMS.items()}
    together = fusion(x)
    assert int(together.stats.steps.max()) > int(together.stats.steps.min()) + 3
    for i in range(0, 20, 5):
        alone = fusion({m: value[i : i + 1] for m, value in x.items()})
        torch.testing.assert_close(alone.fused[0], together.fused[i], rtol=1e-7, atol=1e-9)
