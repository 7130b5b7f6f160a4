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
    present, c = torch.arange(33) % 3 != 0, torch.randn(33, fusion.out_dim, dtype=torch.float64)
    results = []
    for device in ("cpu", "cuda", "cuda"):  # the second time solves are recorded
        fusion = fusion.to(device)
        inputs = {m: v.to(device).requires_grad_() for m, v in x.items()}
        fused = fusion(inputs, {"b": present.to(device)}).fused
        wanted = [*fusion.parameters(), *inputs.values()]
        found = torch.autograd.grad((fused * c.to(device)).sum(), wanted, allow_unused=True)
        results.append((fused.detach().cpu(), [None if g is None else g.cpu() for g in found]))
    (z, grads), _, (z2, grads2) = results
    tolerance = {"rtol": 1e-3, "atol": 1e-4} if kind == "gmf-deq" else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(z2, z, **tolerance)
    for mine, other in zip(grads2, grads, strict=True):
        assert (mine is None) == (other is None)
        if other is not None:
            torch.testing.assert_close(mine, other, **tolerance)


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
    optimiser = torch.optim.SGD(fusion.parameters(), lr=1e-6)
    x = {m: torch.randn(64, width, device="cuda") for m, width in DIMS.items()}
    seen = []
    c = torch.randn(64, 32, device="cuda")
    for step in range(60):
        optimiser.zero_grad()
        (fusion(x).fused * c).sum().backward()
        optimiser.step()
        if step in (20, 59):
            torch.cuda.synchronize()
            seen.append(torch.cuda.memory_allocated())
    assert seen[1] <= seen[0] * 1.02


def test_training_on_the_gpu(tmp_path):
    options = {"data": "digits", "dim": 32, "hidden": [32], "epochs": 5, "lr": 3e-3, "accelerator": "gpu"}
    result = train(TrainConfig.from_dict(options), tmp_path / "run", progress=False)
    assert result.metrics["test"]["accuracy"] > 0.9


def test_a_step_waits_at_most_four_times_per_solve_for_the_device():
    torch.manual_seed(0)
    fusion = ef.DEQFusion(DIMS, 64).cuda()
    x = {m: torch.randn(64, width, device="cuda") for m, width in DIMS.items()}
    c = torch.randn(64, 64, device="cuda")
    for _ in range(4):  # the second solve of a kind is recorded, the next one learns how long it takes
        (fusion(x).fused * c).sum().backward()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            (fusion(x).fused * c).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [f"{w.filename}:{w.lineno}" for w in seen if "synchroniz" in str(w.message)]
    # Two blocks, each solved forward and backward.
    assert 0 < len(waits) <= 4 * 4, waits


@pytest.mark.filterwarnings("ignore::equifuse.errors.ConvergenceWarning")
def test_a_gradient_that_overflows_reaches_the_scaler():
    torch.manual_seed(0)
    fusion = ef.DEQFusion(DIMS, 32).cuda()
    optimiser, scaler = torch.optim.SGD(fusion.parameters(), lr=1e-3), torch.amp.GradScaler("cuda", init_scale=2.0**16)
    x = {m: torch.randn(8, width, device="cuda") for m, width in DIMS.items()}
    c = torch.randn(8, 32, device="cuda")
    scales = []
    for factor in (1.0, 1.0, 1e38, 1.0):
        optimiser.zero_grad()
        scaler.scale(factor * (fusion(x).fused * c).sum()).backward()
        scaler.step(optimiser)
        scaler.update()
        scales.append(scaler.get_scale() / 2.0**16)
    assert scales == [1, 1, 0.5, 0.5]
    assert all(bool(p.isfinite().all()) for p in fusion.parameters())


@pytest.mark.parametrize("options", [{}, {"contraction": 0.9}, {"combine": "mean"}, {"gate": False}])
def test_replays_agree_with_plain_operations(options, monkeypatch):
    torch.manual_seed(0)
    dims = {"a": 64, "b": 64}
    solver, gradient = ef.Anderson(tol=1e-6, max_steps=200), ef.Implicit(solver=ef.GMRES(tol=1e-6))
    fusion = ef.DEQFusion(dims, 64, projection=False, solver=solver, gradient=gradient, **options).cuda()
    c = torch.randn(16, 64, device="cuda")
    for seed in range(4):
        torch.manual_seed(seed)
        x = {m: torch.randn(16, 64, device="cuda", requires_grad=True) for m in dims}
        present = {"b": torch.rand(16, device="cuda") > 0.3}
        results = []
        for choice in ("recorded", "reference"):
            monkeypatch.setenv("EQUIFUSE_KERNELS", choice)
            output = fusion(x, present)
            found = torch.autograd.grad((output.fused * c).sum(), [*fusion.parameters(), *x.values()])
            assert bool(output.stats.converged.all())
            results.append((output.fused.detach(), found))
        torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-3, atol=1e-4)
        for mine, plain in zip(results[0][1], results[1][1], strict=True):
            assert float((mine - plain).norm()) <= 2e-3 * float(plain.norm()) + 1e-5


def test_a_fixed_number_of_steps_is_compiled_to_cuda_graphs():
    torch.manual_seed(0)
    fusion = ef.DEQFusion(DIMS, 32, solver={"name": "static", "max_steps": 7}).cuda().eval()
    compiled = torch.compile(fusion, fullgraph=True, mode="reduce-overhead")
    with torch.no_grad():
        for _ in range(4):  # the first ones record
            x = {m: torch.randn(64, width, device="cuda") for m, width in DIMS.items()}
            torch.compiler.cudagraph_mark_step_begin()
            torch.testing.assert_close(compiled(x).fused, fusion(x).fused, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_training_by_replays_of_whole_steps(tmp_path, precision):
    common = {"data": "digits", "dim": 32, "hidden": [32], "epochs": 4, "lr": 3e-3, "accelerator": "gpu"}
    results = [
        train(
            TrainConfig.from_dict(common | {"precision": precision, "cuda_graph": graph}),
            tmp_path / str(graph),
            progress=False,
        )
        for graph in (False, True)
    ]
    (usual, replayed) = (result.history for result in results)
    assert results[1].metrics["test"]["accuracy"] > 0.85
    assert replayed[-1]["train_converged"] > 0.99
    if precision == "32":  # other evaluations of the same fixed points
        assert replayed[0]["train_loss"] == pytest.approx(usual[0]["train_loss"], rel=0.02)


def test_a_whole_step_in_a_graph_of_ones_own():
    torch.manual_seed(0)
    fusion = ef.DEQFusion(DIMS, 32, solver=ef.Anderson(tol=1e-6, max_steps=60)).cuda()
    x = {m: torch.randn(64, width, device="cuda", requires_grad=True) for m, width in DIMS.items()}
    present = {"b": torch.rand(64, device="cuda") > 0.3}
    c = torch.randn(64, 32, device="cuda")

    def step():
        output = fusion(x, present)
        return output, torch.autograd.grad((output.fused * c).sum(), [*fusion.parameters(), *x.values()])

    for _ in range(2):
        step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output, found = step()
    for _ in range(2):
        with torch.no_grad():
            for v in x.values():
                v.normal_()
        graph.replay()
        expected, wanted = step()
        assert bool(output.stats.converged.all())
        torch.testing.assert_close(output.fused, expected.fused, rtol=1e-3, atol=1e-4)
        for mine, plain in zip(found, wanted, strict=True):
            assert float((mine - plain).norm()) <= 2e-3 * float(plain.norm()) + 1e-5
