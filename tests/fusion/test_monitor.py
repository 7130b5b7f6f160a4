"""The monitor's numbers against what they stand for, and every warning provoked."""

import pytest
import torch

import equifuse as ef

DIMS = {"a": 6, "b": 5}
quiet = pytest.mark.filterwarnings("ignore::equifuse.errors.ConvergenceWarning")


def fusion_and_inputs(dim=16, **options):
    torch.manual_seed(0)
    fusion = ef.DEQFusion(DIMS, dim, solver=ef.Anderson(tol=1e-9, max_steps=100), **options).double()
    return fusion, {m: torch.randn(20, w, dtype=torch.float64) for m, w in DIMS.items()}


def test_numbers_are_those_of_the_maps():
    fusion, x = fusion_and_inputs()
    report = ef.EquilibriumMonitor(fusion, vectors=16)(x)
    assert list(report.parts) == ["a", "b", "fusion"]
    assert report.warnings == []
    f, _ = fusion.equilibrium_map(x)
    with torch.no_grad():
        out = fusion.eval()(x)
        z = torch.stack([*out.modalities.values(), out.fused], dim=1)
    joint = ef.spectral_radius(f, z, vectors=z[0].numel())
    # The joint Jacobian is block triangular: its spectrum is that of the parts.
    assert max(part.radius for part in report.parts.values()) == pytest.approx(float(joint.max()), rel=1e-6)
    assert report.parts["fusion"].steps == pytest.approx(float(out.stats.parts["fusion"].steps.double().mean()))
    alpha = ((out.fused * 2 + z[:, :-1].sum(1)) @ fusion.gate.weight.t() + 2 * fusion.gate.bias) / 2
    assert report.gate == pytest.approx(float(alpha.square().mean().sqrt()), rel=1e-6)
    numbers = report.numbers()
    assert numbers["radius/a"] == report.parts["a"].radius
    assert numbers["gate"] == report.gate


def test_present_masks_and_the_state_of_the_module():
    fusion, x = fusion_and_inputs()
    here = torch.zeros(20, dtype=torch.bool)
    here[:5] = True
    x["a"][5:] = torch.nan
    fusion.train()
    report = ef.EquilibriumMonitor(fusion)(x, {"a": here})
    assert fusion.training
    some = ef.EquilibriumMonitor(fusion)({m: v[:5] for m, v in x.items()})
    assert report.parts["a"].radius == pytest.approx(some.parts["a"].radius, rel=1e-6)
    assert report.parts["a"].spread == pytest.approx(some.parts["a"].spread, rel=1e-6)


def test_behind_a_gmf_and_in_a_model():
    fusion = ef.GMF(DIMS, backend="deq", backend_options={"dim": 16})
    x = {m: torch.randn(9, w) for m, w in DIMS.items()}
    assert set(ef.EquilibriumMonitor(fusion)(x).parts) == {"a", "b", "fusion"}
    model = ef.FusionModel({"a": None, "b": None}, fusion, torch.nn.Linear(16, 2))
    assert set(ef.EquilibriumMonitor(model)(x).parts) == {"a", "b", "fusion"}


@pytest.mark.parametrize(
    "module", [ef.Concat(DIMS), ef.DEQFusion(DIMS, 16, iterations=3), ef.DEQFusion(DIMS, 16, weighted_sum_only=True)]
)
def test_without_an_equilibrium_it_says_so(module):
    with pytest.raises(ef.InputError, match="no DEQFusion"):
        ef.EquilibriumMonitor(module)


@quiet
def test_warns_of_a_radius_above_one_and_of_samples_that_fail():
    fusion, x = fusion_and_inputs()
    with torch.no_grad():
        for parameter in (fusion.blocks.weight1, fusion.blocks.weight2, fusion.blocks.norm3.weight):
            parameter.mul_(12)
    fusion.solver = ef.Picard(max_steps=30, patience=0)
    report = ef.EquilibriumMonitor(fusion)(x)
    text = " ".join(report.warnings)
    assert "did not converge in 30 evaluations" in text
    assert "modality 'a'" in text


def test_a_large_radius_and_many_steps_cost_the_user_nothing_and_are_not_warned_of():
    fusion, x = fusion_and_inputs()
    monitor = ef.EquilibriumMonitor(fusion)
    report = monitor(x)
    report.parts["a"].radius = 2.3
    report.parts["fusion"].max_steps = 80
    assert monitor._warnings(report, True) == []


@quiet
def test_warns_of_several_fixed_points_and_points_to_contraction():
    """Steep weights; with a contraction there is only one."""
    texts = []
    for contraction in (None, 0.9):
        torch.manual_seed(0)
        fusion = ef.DEQFusion(DIMS, 16, contraction=contraction)
        fusion.solver = ef.Anderson(max_steps=200)
        with torch.no_grad():
            for parameter in (fusion.blocks.weight1, fusion.blocks.weight2, fusion.blocks.norm3.weight):
                parameter.mul_(4)
        report = ef.EquilibriumMonitor(fusion)({m: torch.randn(60, width) for m, width in DIMS.items()})
        texts.append(" ".join(report.warnings))
        assert (max(part.several for part in report.parts.values()) > 0) == (contraction is None)
    assert "another fixed point" in texts[0]
    assert "set contraction" in texts[0]
    assert "another fixed point" not in texts[1]


def test_warns_of_a_map_that_is_nearly_the_identity():
    fusion, x = fusion_and_inputs()
    monitor = ef.EquilibriumMonitor(fusion)
    assert not any(part.identity for part in monitor(x).parts.values())
    _, moved = monitor._probe(lambda z: z + 1e-6 * z.sin(), torch.randn(9, 16))
    assert bool((moved < 0.01).all())


def test_warns_of_a_dead_gate():
    fusion, x = fusion_and_inputs()
    with torch.no_grad():
        fusion.gate.weight.zero_()
        fusion.gate.bias.fill_(0.001)
    report = ef.EquilibriumMonitor(fusion)(x)
    assert any("gate is dead" in message for message in report.warnings)


def test_warns_of_a_collapsed_equilibrium_but_not_where_the_inputs_are_all_the_same():
    fusion, x = fusion_and_inputs()
    same = {m: value[:1].expand(20, -1).contiguous() for m, value in x.items()}
    assert ef.EquilibriumMonitor(fusion)(same).warnings == []
    with torch.no_grad():
        fusion.blocks.norm3.weight.zero_()
        fusion.blocks.norm3.bias.fill_(0.3)
    report = ef.EquilibriumMonitor(fusion)(x)
    collapsed = [message for message in report.warnings if "collapsed" in message]
    assert len(collapsed) == 2
    assert all("modality" in message for message in collapsed)


def test_backward_statistics_are_each_modality_s_own():
    fusion, x = fusion_and_inputs()
    x["b"] = x["b"].requires_grad_()
    out = fusion(x)
    out.modalities["a"].square().sum().backward()
    # Nothing came back to b's state: its adjoint is solved by 0 in no steps.
    assert int(out.stats.parts["b"].adjoint.steps.max()) == 0
    assert int(out.stats.parts["a"].adjoint.steps.min()) > 0
    assert out.stats.parts["a"].adjoint.converged.shape == (20,)
