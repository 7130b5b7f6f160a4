"""A fusion in the wrappers of PyTorch: dynamic quantisation, nn.DataParallel."""

import pytest
import torch
from torch import nn
from torch.nn.parallel.scatter_gather import gather

import equifuse as ef

DIMS = {"a": 12, "b": 7}


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:UserWarning", "ignore:.*:FutureWarning")
def test_dynamic_quantisation_takes_the_projections_and_leaves_the_map():
    torch.manual_seed(0)
    fusion = ef.DEQFusion(DIMS, 16).eval()
    x = {m: torch.randn(9, width) for m, width in DIMS.items()}
    small = torch.ao.quantization.quantize_dynamic(fusion, {nn.Linear})
    assert "quantized" in type(small.project["a"]).__module__
    with torch.no_grad():
        out, expected = small(x), fusion(x)
    assert bool(out.stats.converged.all())
    assert float((out.fused - expected.fused).norm()) < 0.1 * float(expected.fused.norm())


def test_data_parallel_says_what_to_do():
    fusion = ef.DEQFusion(DIMS, 16)
    x = {m: torch.randn(2, width) for m, width in DIMS.items()}
    assert nn.DataParallel(fusion)(x).fused.shape == (2, 16)
    with pytest.raises(ef.InputError, match=r"DataParallel.*\.fused.*DistributedDataParallel"):
        gather([fusion(x), fusion(x)], "cpu")
