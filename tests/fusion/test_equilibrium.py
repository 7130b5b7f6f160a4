from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import equifuse as ef
from equifuse.fusion.deq import reference_layout
from equifuse.kernels.reference import group_norm

TIGHT = ef.Anderson(tol=1e-13, max_steps=1000)
GOLDEN = pytest.mark.parametrize("name", ["deq_m2_d16", "deq_m3_d24"])


def golden(root, name):
    with np.load(root / f"{name}.npz", allow_pickle=False) as file:
        data = {key: torch.from_numpy(file[key]) for key in file.files}
    count = sum(key[0] == "x" for key in data)
    state = {key.removeprefix("param/"): value for key, value in data.items() if key.startswith("param/")}
    return data, {str(m): data[f"x{m}"].clone().requires_grad_() for m in range(count)}, state


@GOLDEN
@pytest.mark.parametrize("solver", [TIGHT, ef.Broyden(tol=1e-13, max_steps=1000), ef.Picard(tol=1e-13, max_steps=5000)])
def test_golden_fixed_point(golden_root, name, solver):
    data, inputs, state = golden(golden_root, name)
    out = ef.DEQFusion.from_reference(state, solver=solver)(inputs)
    assert bool(out.stats.converged.all())
    torch.testing.assert_close(out.fused, data["z_fuse"], rtol=0, atol=1e-9)
    for m, z in out.modalities.items():
        torch.testing.assert_close(z, data[f"z{m}"], rtol=0, atol=1e-9)


@GOLDEN
@pytest.mark.parametrize(
    "gradient",
    [ef.Implicit(), ef.Implicit(solver=ef.Anderson(tol=1e-12, max_steps=1000)), ef.Unrolled()],
    ids=["gmres", "anderson", "unrolled"],
)
def test_golden_gradients(golden_root, name, gradient):
    data, inputs, state = golden(golden_root, name)
    # Derivatives of the coefficients of a long memory are less accurate than the coefficients.
    unrolled = gradient.name == "unrolled"
    solver, tolerance = (replace(TIGHT, memory=5), 1e-6) if unrolled else (TIGHT, 1e-7)
    fusion = ef.DEQFusion.from_reference(state, solver=solver, gradient=gradient)
    (data["c"] * fusion(inputs).fused).sum().backward()
    parameters = dict(fusion.named_parameters())
    layout = reference_layout(len(inputs))
    assert {f"grad/{key}" for key in layout} == {key for key in data if key.startswith("grad/")}
    for key, (parameter, index, transposed) in layout.items():
        got = parameters[parameter].grad if index is None else parameters[parameter].grad[index]
        expected = data[f"grad/{key}"].t() if transposed else data[f"grad/{key}"]
        assert float((got - expected.reshape(got.shape)).norm()) <= tolerance * float(expected.norm()), key
    for m, x in inputs.items():
        assert float((x.grad - data[f"grad_x{m}"]).norm()) <= tolerance * float(data[f"grad_x{m}"].norm())


@GOLDEN
def test_golden_spectral_radius(golden_root, name):
    data, inputs, state = golden(golden_root, name)
    fusion = ef.DEQFusion.from_reference(state, solver=TIGHT)
    f, start = fusion.equilibrium_map({m: x.detach() for m, x in inputs.items()})
    z = torch.stack([data[f"z{m}"] for m in inputs] + [data["z_fuse"]], dim=1)
    assert start.shape == z.shape
    torch.testing.assert_close(f(z), z, rtol=0, atol=1e-11)
    radius = ef.spectral_radius(f, z, vectors=z[0].numel())
    torch.testing.assert_close(radius.max(), data["rho"], rtol=1e-6, atol=0)


def literal_map(fusion, x):
    """METHODS section 1, written as it stands: one modality and one gate at a time."""
    gn = lambda v, w, b: nn.functional.group_norm(v, 4, w.reshape(-1), b.reshape(-1))  # noqa: E731
    blocks, names = fusion.blocks, list(fusion.dims)

    def f(z):
        *z_m, z_fuse = z.unbind(1)
        new, purified = [], 0
        for i, m in enumerate(names):
            h = torch.relu(
                gn(z_m[i] @ blocks.weight1[i] + blocks.bias1[i], blocks.norm1.weight[i], blocks.norm1.bias[i])
            )
            u = gn(h @ blocks.weight2[i] + blocks.bias2[i] + x[m], blocks.norm2.weight[i], blocks.norm2.bias[i])
            new.append(gn(torch.relu(u + z_m[i]), blocks.norm3.weight[i], blocks.norm3.bias[i]))
            alpha = fusion.gate(z_fuse + new[i])
            purified = purified + alpha * z_fuse
        if fusion.combine == "mean":
            purified = purified / len(names)
        x_fuse = sum(fusion.fuse_weights[i] * x[m] for i, m in enumerate(names)) + fusion.fuse_bias
        fused = gn(torch.relu(fusion.mix(purified) + x_fuse), fusion.norm.weight, fusion.norm.bias)
        return torch.stack([*new, fused], dim=1)

    return f


@pytest.mark.parametrize("combine", ["sum", "mean"])
def test_block_triangular_solve_equals_the_joint_one(combine):
    """The same fixed point and the same gradients as the system written out literally and solved jointly."""
    fusion = ef.DEQFusion({"a": 16, "b": 16, "c": 16}, 16, combine=combine, projection=False, solver=TIGHT).double()
    x = {m: torch.randn(6, 16, dtype=torch.float64, requires_grad=True) for m in fusion.dims}
    out = fusion(x)
    f = literal_map(fusion, x)
    z, _ = ef.fixed_point(f, torch.zeros(6, 4, 16, dtype=torch.float64), solver=TIGHT)
    torch.testing.assert_close(torch.stack([*out.modalities.values(), out.fused], 1), z, rtol=0, atol=1e-10)
    joint, _ = fusion.equilibrium_map(x)
    torch.testing.assert_close(joint(z * 0.7), f(z * 0.7), rtol=0, atol=1e-12)
    wanted = [*fusion.parameters(), *x.values()]
    cotangent = torch.randn(6, 16, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad((out.fused * cotangent).sum(), wanted),
        torch.autograd.grad((z[:, -1] * cotangent).sum(), wanted),
        strict=True,
    ):
        assert float((a - b).norm()) <= 1e-9 * max(float(b.norm()), 1e-3)


def test_group_norm_is_torchs():
    x, w, b = torch.randn(7, 16), torch.randn(16), torch.randn(16)
    torch.testing.assert_close(group_norm(x, w, b, 1e-5), nn.functional.group_norm(x, 4, w, b))


@pytest.mark.parametrize("combine", ["sum", "mean"])
@pytest.mark.parametrize("dim", [16, 64, 256, 1024])
@pytest.mark.parametrize("count", [2, 4, 8])
@pytest.mark.slow
def test_default_initialisation_is_convergent(dim, count, combine):
    torch.manual_seed(dim + count)
    fusion = ef.DEQFusion({str(m): 20 for m in range(count)}, dim, combine=combine).eval()
    x = {str(m): torch.randn(8 if dim == 1024 else 24, 20) for m in range(count)}
    with torch.no_grad():
        out = fusion(x)
    f, _ = fusion.equilibrium_map(x)
    radius = ef.spectral_radius(f, torch.stack([*out.modalities.values(), out.fused], dim=1), vectors=20)
    assert bool(out.stats.converged.all())
    assert float(out.stats.steps.float().mean()) < 20
    assert float(radius.median()) < 0.6
    assert float(radius.max()) < 1


def test_torchs_default_initialisation_is_not():
    """The measured fact that the default answers; if this fails the default is no longer needed."""
    fusion = ef.DEQFusion({"a": 128, "b": 128, "c": 128}, 128, projection=False).eval()
    with torch.no_grad():
        for w in (*fusion.blocks.weight1, *fusion.blocks.weight2, fusion.gate.weight, fusion.mix.weight):
            nn.init.kaiming_uniform_(w, a=5**0.5)
        for norm in (fusion.blocks.norm3, fusion.norm):
            norm.weight.fill_(1)
        fusion.blocks.bias1.zero_()
        fusion.blocks.norm2.bias.zero_()
        fusion.mix.bias.zero_()
        nn.init.uniform_(fusion.gate.bias, -(128**-0.5), 128**-0.5)
        fusion.solver = ef.Picard(tol=1e-4, max_steps=200, patience=0)
        with pytest.warns(ef.ConvergenceWarning):
            out = fusion({m: torch.randn(16, 128) for m in fusion.dims})
    assert float(out.stats.converged.float().mean()) < 0.5


def test_stats_have_parts_and_absent_modalities_cost_no_steps():
    fusion = ef.DEQFusion({"a": 5, "b": 7}, 16)
    mask = torch.tensor([True, False, True])
    out = fusion({"a": torch.randn(3, 5), "b": torch.randn(3, 7)}, {"b": mask})
    assert list(out.stats.parts) == ["a", "b", "fusion"]
    assert out.stats.parts["b"].steps[1] == 0
    assert bool((out.stats.parts["b"].steps[mask] > 1).all())
    a, b, joint = out.stats.parts.values()
    assert torch.equal(out.stats.steps, torch.maximum(a.steps, b.steps) + joint.steps)
    assert bool((out.modalities["b"][1] == 0).all())
    out.fused.sum().backward()
    assert bool(out.stats.parts["fusion"].adjoint.converged.all())


def test_solver_and_gradient_are_plain_attributes():
    fusion = ef.DEQFusion({"a": 5, "b": 7}, 16)
    x = {"a": torch.randn(3, 5), "b": torch.randn(3, 7)}
    loose = fusion(x)
    fusion.solver = replace(fusion.solver, tol=1e-6)
    fusion.gradient = ef.Phantom(steps=2)
    tight = fusion(x)
    assert float(tight.stats.residual.max()) <= 1e-6 < float(loose.stats.residual.max())
    tight.fused.sum().backward()
    assert tight.stats.parts["fusion"].adjoint is None


def test_strict_raises_and_default_warns():
    hard = ef.Picard(tol=1e-6, max_steps=2)
    x = {"a": torch.randn(3, 5), "b": torch.randn(3, 7)}
    with pytest.raises(ef.NotConvergedError):
        ef.DEQFusion({"a": 5, "b": 7}, 16, solver=hard, strict=True)(x)
    with pytest.warns(ef.ConvergenceWarning) as caught:
        out = ef.DEQFusion({"a": 5, "b": 7}, 16, solver=hard)(x)
    assert len(caught) == 1
    assert not bool(out.stats.converged.any())


def test_jacobian_loss_only_in_training_and_only_when_weighted():
    x = {"a": torch.randn(3, 5), "b": torch.randn(3, 7)}
    assert ef.DEQFusion({"a": 5, "b": 7}, 16)(x).losses == {}
    fusion = ef.DEQFusion({"a": 5, "b": 7}, 16, jacobian_weight=2.0)
    assert fusion.loss_weights == {"jacobian": 2.0}
    loss = fusion(x).losses["jacobian"]
    loss.backward()
    assert float(loss) > 0
    assert float(fusion.mix.weight.grad.abs().max()) > 0
    assert fusion.eval()(x).losses == {}


def test_recursion_ablation_approaches_the_equilibrium():
    dims = {"a": 5, "b": 7}
    fusion = ef.DEQFusion(dims, 16, solver=TIGHT).double()
    x = {m: torch.randn(4, l, dtype=torch.float64) for m, l in dims.items()}
    target = fusion(x).fused
    errors = []
    for steps in (1, 5, 20, 100):
        tied = ef.DEQFusion(dims, 16, iterations=steps, solver=TIGHT).double()
        tied.load_state_dict(fusion.state_dict())
        errors.append(float((tied(x).fused - target).norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-8


def test_ablations_do_what_they_say():
    dims = {"a": 16, "b": 16}
    x = {m: torch.randn(4, 16, dtype=torch.float64) for m in dims}
    summed = ef.DEQFusion(dims, 16, projection=False, weighted_sum_only=True).double()
    with torch.no_grad():
        summed.fuse_weights.copy_(torch.tensor([2.0, 3.0]))
        summed.fuse_bias.fill_(0.5)
    torch.testing.assert_close(summed(x).fused, 2 * x["a"] + 3 * x["b"] + 0.5)
    identity = ef.DEQFusion(dims, 16, projection=False, modality_blocks=False, solver=TIGHT).double()
    out = identity(x)
    assert torch.equal(out.modalities["a"], x["a"])
    assert list(out.stats.parts) == ["fusion"]
    assert not any(name.startswith("blocks") for name, _ in identity.named_parameters())
    ungated = ef.DEQFusion(dims, 16, projection=False, gate=False, solver=TIGHT).double()
    out = ungated(x)
    total = sum(out.modalities.values()) + 2 * out.fused
    expected = group_norm(
        torch.relu(ungated.mix(total) + x["a"] + x["b"]), ungated.norm.weight, ungated.norm.bias, 1e-5
    )
    torch.testing.assert_close(out.fused, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"dim": 10}, "multiple of 4"),
        ({"dim": 0}, "multiple of 4"),
        ({"dim": 16, "combine": "max"}, "combine"),
        ({"dim": 16, "jacobian_weight": -1}, "jacobian_weight"),
        ({"dim": 16, "iterations": 0}, "iterations"),
        ({"dim": 16, "projection": False}, "without projection"),
        ({"dim": 16, "solver": "newton"}, "unknown solver"),
        ({"dim": 16, "gradient": "adjoint"}, "unknown gradient"),
    ],
)
def test_mistakes(options, error):
    with pytest.raises(ef.EquifuseError, match=error):
        ef.DEQFusion({"a": 5, "b": 7}, **options)


def test_reference_mistakes(golden_root):
    _, _, state = golden(golden_root, "deq_m2_d16")
    with pytest.raises(ef.InputError, match="not a reference state dict"):
        ef.DEQFusion.from_reference({"foo": torch.zeros(1)})
    with pytest.raises(ef.InputError, match=r"unexpected \['func_.extra'\]"):
        ef.DEQFusion.from_reference({**state, "func_.extra": torch.zeros(1)})
    broken = dict(state)
    del broken["func_.branches.0.conv1.bias"]
    with pytest.raises(ef.InputError, match=r"missing keys \['func_.branches.0.conv1.bias'\]"):
        ef.DEQFusion.from_reference(broken)
    broken["func_.branches.0.conv1.bias"] = torch.zeros(3)
    with pytest.raises(ef.InputError, match="has shape"):
        ef.DEQFusion.from_reference(broken)


def test_reference_runs_in_float32():
    fusion = ef.DEQFusion({"0": 16, "1": 16}, 16, projection=False)
    state = {}
    parameters = dict(fusion.named_parameters())
    for key, (name, index, transposed) in reference_layout(2).items():
        value = parameters[name] if index is None else parameters[name][index]
        state[key] = (value.t() if transposed else value).detach().clone()
    again = ef.DEQFusion.from_reference(state)
    x = {m: torch.randn(3, 16) for m in fusion.dims}
    assert torch.equal(again(x).fused, fusion(x).fused)
