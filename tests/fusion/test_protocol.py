"""What every fusion promises, whatever its mathematics."""

import inspect
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import equifuse as ef
from equifuse.fusion import recombined_dims

DIMS = {"text": 6, "image": 10, "audio": 8}
TIGHT = {"solver": ef.Anderson(tol=1e-12, max_steps=400)}


ZOO = {
    "sum": {},
    "mean": {},
    "weighted_sum": {},
    "gmu": {},
    "tensor": {"dim": 3},
    "lowrank": {"rank": 3},
    "bilinear": {"dropout": 0.0},
    "film": {},
    "self_attention": {"heads": 2, "dropout": 0.0},
    "bottleneck": {"heads": 2, "dropout": 0.0},
    "perceiver": {"heads": 2, "latents": 3, "dropout": 0.0},
    "mmtm": {"dim": None},
    "poe": {},
    "moe": {},
    "misa": {},
    "cross_attention": {"heads": 2, "tokens": 2, "dropout": 0.0},
    "channel_exchange": {"threshold": 1.5},  # above the scales at first, so that channels are exchanged
    "drfuse": {},
    "scfae": {"dim": None},
    "weight_tied": {"dim": 16, "iterations": 4},
    # The spectral loss draws random vectors.
    "meq": {"dim": 16, "solver": ef.Picard(tol=1e-12, max_steps=2000, damping=0.5), "spectral_weight": 0.0},
    "late": {"dim": None, "outputs": 3},
    "tmc": {"dim": None, "outputs": 3},
    "qmf": {"dim": None, "outputs": 3},
    "mm_dynamics": {"outputs": 3, "dropout": 0.0},
}
names = pytest.mark.parametrize("name", ef.available_fusions())


def make(kind: str, dims=None) -> ef.Fusion:  # noqa: PLR0912 - one per kind
    dims = dict(dims or DIMS)
    torch.manual_seed(1)
    name = kind.removeprefix("gmf ")
    if name in ZOO:
        backed = name != kind
        widths = recombined_dims(dims) if backed else dims
        options = {key: value for key, value in {"dim": 8, **ZOO[name]}.items() if value is not None}
        fusion = ef.make_fusion(name, widths, **options)
        return (ef.GMF(dims, backend=fusion) if backed else fusion).double()
    match kind:
        case "deq":
            fusion = ef.DEQFusion(dims, 16, **TIGHT)
        case "deq mean":
            fusion = ef.DEQFusion(dims, 16, combine="mean", **TIGHT)
        case "deq no blocks":
            fusion = ef.DEQFusion(dims, 16, modality_blocks=False, **TIGHT)
        case "deq no gate":
            fusion = ef.DEQFusion(dims, 16, gate=False, **TIGHT)
        case "deq recursion":
            fusion = ef.DEQFusion(dims, 16, iterations=4, **TIGHT)
        case "deq weighted sum":
            fusion = ef.DEQFusion(dims, 16, weighted_sum_only=True)
        case "gmf":
            fusion = ef.GMF(dims)
        case "gmf folded":
            fusion = ef.GMF(dims).folded()
        case "gmf deq":
            fusion = ef.GMF(dims, backend=ef.DEQFusion(recombined_dims(dims), 16, **TIGHT))
        case "mm_dynamics deq":
            backend = ef.DEQFusion(dict.fromkeys(dims, 8), 16, **TIGHT)
            fusion = ef.make_fusion("mm_dynamics", dims, outputs=3, dim=8, dropout=0.0, backend=backend)
        case "gmf concat":
            fusion = ef.GMF(dims, backend="concat")
        case "concat":
            fusion = ef.Concat(dims)
        case _:
            fusion = ef.Concat(dims, dim=5)
    return fusion.double()


def loosened(fusion: ef.Fusion) -> ef.Fusion:
    """With a tolerance that float32 can reach."""
    for module in fusion.modules():
        if isinstance(module, ef.DEQFusion):
            module.solver = ef.Anderson(tol=1e-5, max_steps=100)
    return fusion


KINDS = [
    "deq",
    "deq mean",
    "deq no blocks",
    "deq no gate",
    "deq recursion",
    "deq weighted sum",
    "gmf",
    "gmf folded",
    "gmf deq",
    "gmf concat",
    "concat",
    "concat dim",
    *ZOO,
    "gmf gmu",
    "gmf bottleneck",
    "gmf tmc",
    "mm_dynamics deq",
]
kinds = pytest.mark.parametrize("kind", KINDS)
pytestmark = pytest.mark.filterwarnings("ignore::equifuse.errors.ConvergenceWarning")


def batch(size=5, dims=None, **options):
    return {m: torch.randn(size, l, dtype=torch.float64, **options) for m, l in (dims or DIMS).items()}


def assert_same(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@kinds
def test_output_shapes_and_weights(kind):
    fusion = make(kind)
    out = fusion(batch())
    assert out.fused.shape == (5, fusion.out_dim)
    assert list(out.modalities) == list(DIMS)
    assert all(state.shape[0] == 5 for state in out.modalities.values())
    assert set(out.losses) == set(fusion.loss_weights)
    assert all(loss.dim() == 0 for loss in out.losses.values())
    solved = any(isinstance(m, ef.DEQFusion) and not m.weighted_sum_only for m in fusion.modules())
    assert (out.stats is not None) == solved
    if solved:
        assert out.stats.converged.shape == (5,)


@kinds
def test_an_absent_modality_equals_one_never_given(kind):
    """Per sample, in one batch, whatever the absent rows hold (NaN included)."""
    fusion = make(kind)
    x = batch()
    patterns = [("text", "image", "audio"), ("text", "image"), ("audio",), ("image", "audio"), ("text",)]
    present = {m: torch.tensor([m in p for p in patterns]) for m in DIMS}
    poisoned = {m: torch.where(present[m][:, None], v, torch.nan) for m, v in x.items()}
    out = fusion(poisoned, present)
    for i, pattern in enumerate(patterns):
        alone = fusion({m: x[m][i : i + 1] for m in pattern})
        assert_same(out.fused[i], alone.fused[0])
        for m in DIMS:
            assert_same(out.modalities[m][i], alone.modalities[m][0])


@kinds
def test_no_gradient_flows_into_absent_inputs(kind):
    fusion = make(kind)
    x = batch(requires_grad=True)
    mask = torch.tensor([True, False, True, False, True])
    out = fusion(x, {"image": mask})
    (out.fused.square().sum() + sum(out.losses.values(), torch.tensor(0.0))).backward()
    assert float(x["image"].grad[~mask].abs().max()) == 0
    assert float(x["image"].grad[mask].abs().min(dim=1).values.max()) > 0
    assert all(bool(torch.isfinite(v.grad).all()) for v in x.values())
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in fusion.parameters())


@kinds
def test_parameter_gradients_ignore_nan_in_absent_rows(kind):
    fusion = make(kind)
    if kind == "concat":
        assert not list(fusion.parameters())
        return
    x = batch()
    mask = torch.tensor([True, False, True, False, True])
    gradients = []
    for filler in (0.0, torch.nan):
        fusion.zero_grad()
        given = {**x, "image": torch.where(mask[:, None], x["image"], filler)}
        out = fusion(given, {"image": mask})
        (out.fused.square().sum() + sum(out.losses.values(), torch.tensor(0.0))).backward()
        gradients.append([None if p.grad is None else p.grad.clone() for p in fusion.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b)


@kinds
@pytest.mark.parametrize("leading", [(3, 4), (2, 2, 3)])
@pytest.mark.slow
def test_positions_are_fused_one_by_one(kind, leading):
    fusion = make(kind)
    x = {m: torch.randn(*leading, l, dtype=torch.float64) for m, l in DIMS.items()}
    mask = torch.rand(leading) < 0.6
    out = fusion(x, {"audio": mask})
    flat = fusion({m: v.flatten(0, -2) for m, v in x.items()}, {"audio": mask.flatten()})
    assert out.fused.shape == (*leading, fusion.out_dim)
    assert torch.equal(out.fused.flatten(0, -2), flat.fused)
    assert all(torch.equal(out.modalities[m].flatten(0, -2), flat.modalities[m]) for m in DIMS)
    if out.stats is not None:
        assert out.stats.residual.shape == leading
    index = tuple(n - 1 for n in leading)
    some = {m: x[m][index][None] for m in DIMS if m != "audio" or bool(mask[index])}
    assert_same(out.fused[index], fusion(some).fused[0])
    per_sample = fusion(x, {"audio": torch.ones(leading[0], dtype=torch.bool)})
    assert_same(per_sample.fused, fusion(x).fused)


@kinds
def test_a_sample_does_not_depend_on_its_batch_mates(kind):
    fusion = make(kind).eval()
    x = batch(7)
    out = fusion(x)
    for i in range(7):
        assert_same(out.fused[i], fusion({m: v[i : i + 1] for m, v in x.items()}).fused[0])


@kinds
def test_absent_everywhere_and_nothing_present_stay_finite(kind):
    fusion = make(kind)
    x = batch()
    nobody = torch.zeros(5, dtype=torch.bool)
    out = fusion(x, {"text": nobody})
    assert_same(out.fused, fusion({m: v for m, v in x.items() if m != "text"}).fused)
    out = fusion(x, dict.fromkeys(DIMS, nobody))
    assert bool(torch.isfinite(out.fused).all())


@pytest.mark.parametrize(
    "kind", ["deq", "deq mean", "deq no gate", "deq no blocks", "deq recursion", "deq weighted sum"]
)
def test_permuting_modalities_permutes_outputs(kind):
    """Equal weights per modality under another order: the same fused state, the same state for each modality."""
    fusion = make(kind)
    order = ["audio", "text", "image"]
    other = make(kind, {m: DIMS[m] for m in order})
    index = [list(DIMS).index(m) for m in order]
    state = fusion.state_dict()
    for key, value in state.items():
        if key.startswith("blocks.") or key == "fuse_weights":
            state[key] = value[index]
    other.load_state_dict(state)
    x = batch()
    a, b = fusion(x), other(x)
    assert_same(a.fused, b.fused)
    assert all(torch.allclose(a.modalities[m], b.modalities[m], atol=1e-9) for m in DIMS)


@kinds
def test_train_and_eval_agree_and_no_grad_works(kind):
    fusion = make(kind)
    x = batch()
    trained = fusion.train()(x).fused
    with torch.no_grad():
        evaluated = fusion.eval()(x).fused
    assert not evaluated.requires_grad
    assert_same(trained, evaluated)


@kinds
def test_configuration_rebuilds_the_module(kind):
    if kind == "gmf folded":
        with pytest.raises(ef.InputError, match="folded"):
            make(kind).config()
        return
    fusion = make(kind)
    rebuilt = ef.make_fusion(**json.loads(json.dumps(fusion.config()))).double()
    rebuilt.load_state_dict(fusion.state_dict())
    x = batch()
    assert torch.equal(fusion(x).fused, rebuilt(x).fused)
    assert rebuilt.loss_weights == fusion.loss_weights


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.slow
def test_dtypes_in_are_dtypes_out(kind, dtype):
    fusion = loosened(make(kind).to(dtype))
    x = {m: v.to(dtype) for m, v in batch().items()}
    out = fusion(x)
    assert out.fused.dtype == dtype
    if any(p.requires_grad for p in fusion.parameters()):
        out.fused.float().square().sum().backward()
    assert all(p.grad is None or p.grad.dtype == dtype for p in fusion.parameters())
    reference = make(kind)({m: v.double() for m, v in x.items()}).fused
    tolerance = {torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.05}[dtype]
    assert float((out.fused.detach().double() - reference.detach()).norm() / reference.norm()) < tolerance


@kinds
def test_autocast(kind):
    fusion = loosened(make(kind).float())
    x = {m: v.float() for m, v in batch().items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = fusion(x)
    if any(p.requires_grad for p in fusion.parameters()):
        out.fused.float().sum().backward()
    exact = fusion(x).fused
    assert float((out.fused.float() - exact).norm() / exact.norm()) < 0.05


@kinds
def test_clear_errors(kind):
    fusion = make(kind)
    x = batch()
    with pytest.raises(ef.UnknownNameError, match="unknown modality 'imag'; did you mean 'image'"):
        fusion({**x, "imag": x["image"]})
    with pytest.raises(ef.UnknownNameError, match="'txt'"):
        fusion(x, {"txt": torch.ones(5, dtype=torch.bool)})
    with pytest.raises(ef.InputError, match="'image' has width 9.*built for 10"):
        fusion({**x, "image": x["image"][:, :9]})
    with pytest.raises(ef.InputError, match="no modality given"):
        fusion({})
    with pytest.raises(ef.InputError, match="leading shape"):
        fusion({**x, "image": x["image"][:3]})
    with pytest.raises(ef.InputError, match="must be a bool tensor"):
        fusion(x, {"image": torch.ones(5)})
    with pytest.raises(ef.InputError, match="has shape \\(4,\\)"):
        fusion(x, {"image": torch.ones(4, dtype=torch.bool)})
    with pytest.raises(ef.InputError, match="floating point"):
        fusion({**x, "image": torch.ones(5, 10, dtype=torch.int64)})


@names
def test_every_fusion_stands_behind_gmf(name):
    fusion = ef.GMF(DIMS, backend=name).double().eval()
    x = batch()
    mask = torch.tensor([True, False, True, False, True])
    out = fusion(x, {"image": mask})
    assert out.fused.shape == (5, fusion.out_dim)
    assert list(out.modalities) == list(DIMS)
    assert set(fusion.loss_weights) == {"reconstruction", *fusion.backend.loss_weights}
    alone = fusion({m: v[1:2] for m, v in x.items() if m != "image"})
    assert_same(out.fused[1], alone.fused[0], 1e-3 if out.stats else 1e-9)
    rebuilt = ef.make_fusion(**json.loads(json.dumps(fusion.config()))).double().eval()
    rebuilt.load_state_dict(fusion.state_dict())
    assert torch.equal(rebuilt(x).fused, fusion(x).fused)


@names
def test_every_parameter_gets_a_gradient_where_all_modalities_are_present(name):
    options = {key: value for key, value in ZOO.get(name, {}).items() if value is not None}
    fusion = ef.make_fusion(name, DIMS, **options).double()
    if not list(fusion.parameters()):
        return
    out = fusion(batch(8))
    losses = [*out.losses.values(), *fusion.target_losses(out, torch.arange(8) % 2).values()]
    ((out.fused * torch.randn_like(out.fused)).sum() + sum(losses)).backward()
    dead = [key for key, p in fusion.named_parameters() if p.grad is None or float(p.grad.abs().max()) < 1e-10]
    assert not dead


def test_registry():
    assert {"concat", "deq", "gmf"} <= set(ef.available_fusions())
    for name in ef.available_fusions():
        fusion = ef.make_fusion(name, DIMS)
        assert isinstance(fusion, ef.Fusion)
        assert inspect.getdoc(type(fusion))
    with pytest.raises(ef.UnknownNameError, match="did you mean 'concat'"):
        ef.make_fusion("concatt", DIMS)
    with pytest.raises(
        ef.UnknownNameError, match="unknown option of fusion 'gmf': 'expandion'; did you mean 'expansion'"
    ):
        ef.make_fusion("gmf", DIMS, expandion=3)


@pytest.mark.parametrize("dims", [{}, {"a": 0}, {"a": 2.5}, {"a": True}, {"a.b": 3}, {"": 3}])
def test_unusable_dims_are_refused(dims):
    with pytest.raises(ef.InputError):
        ef.Concat(dims)


@settings(max_examples=8, deadline=None)
@given(
    widths=st.lists(st.integers(1, 7), min_size=2, max_size=5),
    size=st.integers(1, 4),
    kind=st.sampled_from(["deq", "gmf", "gmf deq", "concat", *(name for name in ZOO if name != "tensor")]),
    seed=st.integers(0, 1000),
)
def test_any_widths_and_any_mask(widths, size, kind, seed):
    dims = {f"m{i}": w for i, w in enumerate(widths)}
    fusion = make(kind, dims)
    generator = torch.Generator().manual_seed(seed)
    x = {m: torch.randn(size, l, generator=generator, dtype=torch.float64) for m, l in dims.items()}
    present = {m: torch.rand(size, generator=generator) < 0.6 for m in dims}
    out = fusion({m: torch.where(present[m][:, None], v, torch.inf) for m, v in x.items()}, present)
    for i in range(size):
        given = {m: x[m][i : i + 1] for m in dims if bool(present[m][i])}
        if given:
            alone = fusion(given).fused[0]
            if out.stats is None or bool(out.stats.converged[i]):
                assert_same(out.fused[i], alone, 1e-7)
