"""What must hold on a CUDA device; the mathematics itself is tested on the CPU."""

import warnings

import pytest
import torch

import equifuse as ef
from equifuse.runs import TrainConfig, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DIMS = {"a": 12, "b": 20, "c": 8}


def fusions():
    return {
        "deq": ef.DEQFusion(DIMS, 32, solver=ef.Anderson(tol=1e-8, max_steps=200)),
        "broyden": ef.DEQFusion(DIMS, 32, solver=ef.Broyden(tol=1e-8, max_steps=200)),
        "gmf": ef.GMF(DIMS),
        "gmf-deq": ef.GMF(DIMS, backend="deq"),
        "concat": ef.Concat(DIMS),
    }


@pytest.mark.parametrize("kind", ["deq", "broyden", "gmf", "gmf-deq", "concat"])
def test_agrees_with_the_cpu_in_values_and_gradients(kind):
    torch.manual_seed(0)
    fusion = fusions()[kind].double()
    x = {m: torch.randn(33, width, dtype=torch.float64) for m, width in DIMS.items()}
    present = {"b": torch.arange(33) % 3 != 0}
    results = []
    for device in ("cpu", "cuda"):
        fusion = fusion.to(device)
        fusion.zero_grad()
        output = fusion({m: v.to(device) for m, v in x.items()}, {"b": present["b"].to(device)})
        output.fused.square().sum().backward()
        results.append((output.fused.detach().cpu(), [p.grad.cpu() for p in fusion.parameters() if p.grad is not None]))
    (z, grads), (z2, grads2) = results
    tolerance = {"rtol": 1e-3, "atol": 1e-4} if kind == "gmf-deq" else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(z2, z, **tolerance)
    torch.testing.assert_close(grads2, grads, **tolerance)


def test_autocast_keeps_the_solver_in_float32():
    torch.manual_seed(0)
    fusion = ef.DEQFusion(DIMS, 32).cuda()
    x = {m: torch.randn(64, width, device="cuda") for m, width in DIMS.items()}
    exact = fusion(x)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        output = fusion({m: v.bfloat16() for m, v in x.items()})
        output.fused.float().sum().backward()
    assert bool(output.stats.converged.all())
    assert output.stats.residual.dtype == torch.float32
    torch.testing.assert_close(output.fused.float(), exact.fused, rtol=0.05, atol=0.05)


def test_memory_does_not_grow_over_training_steps():
    torch.manual_seed(0)
    fusion = ef.DEQFusion(DIMS, 32).cuda()
    optimiser = torch.optim.SGD(fusion.parameters(), lr=1e-3)
    x = {m: torch.randn(64, width, device="cuda") for m, width in DIMS.items()}
    seen = []
    for step in range(120):
        optimiser.zero_grad()
        fusion(x).fused.square().sum().backward()
        optimiser.step()
        if step in (20, 119):
            torch.cuda.synchronize()
            seen.append(torch.cuda.memory_allocated())
    assert seen[1] <= seen[0] * 1.02


def test_training_on_the_gpu(tmp_path):
    options = {"data": "digits", "dim": 32, "hidden": [32], "epochs": 5, "lr": 3e-3, "accelerator": "gpu"}
    result = train(TrainConfig.from_dict(options), tmp_path / "run", progress=False)
    assert result.metrics["test"]["accuracy"] > 0.9


@pytest.mark.filterwarnings("ignore::equifuse.errors.ConvergenceWarning")
def test_a_step_does_not_wait_for_the_device():
    """Forty steps, forward and backward, ask some questions every fourth step and a few about the whole solve."""
    torch.manual_seed(0)
    solver, adjoint = ef.Anderson(tol=1e-30, max_steps=40), ef.GMRES(tol=1e-30, max_steps=40, restart=40)
    fusion = ef.DEQFusion(DIMS, 64, solver=solver, gradient=ef.Implicit(solver=adjoint)).cuda()
    x = {m: torch.randn(64, width, device="cuda") for m, width in DIMS.items()}
    fusion(x).fused.sum().backward()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            fusion(x).fused.sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [w for w in seen if "synchroniz" in str(w.message)]
    # Two blocks, each solved forward and backward: 160 steps.
    assert len(waits) < 160


@pytest.mark.parametrize("options", [{"iterations": 5}, {"solver": {"name": "static", "max_steps": 7}}])
def test_cuda_graphs(options):
    torch.manual_seed(0)
    fusion = ef.DEQFusion(DIMS, 32, **options).cuda().eval()
    compiled = torch.compile(fusion, fullgraph=True, mode="reduce-overhead")
    with torch.no_grad():
        for _ in range(4):  # the first ones record
            x = {m: torch.randn(64, width, device="cuda") for m, width in DIMS.items()}
            torch.compiler.cudagraph_mark_step_begin()
            torch.testing.assert_close(compiled(x).fused, fusion(x).fused, rtol=1e-3, atol=1e-4)
