import pytest
import torch

import equifuse as ef
from equifuse.fusion import recombined_dims


def literal(gmf, x):
    """METHODS section 2 as it stands, all modalities present."""
    names = list(gmf.dims)
    inv, spec = {}, {}
    for m in names:
        maps = gmf.maps[m]
        s = maps.dissociate(x[m])
        boundary = int(gmf.boundary * gmf.expansion * gmf.dims[m])
        inv[m], spec[m] = maps.invariant(s[:, :boundary]), maps.specific(s[:, boundary:])
    z = {m: torch.cat([inv[names[(i + 1) % len(names)]], spec[m]], 1) for i, m in enumerate(names)}
    loss = sum((x[m] - gmf.maps[m].reconstruct(z[m])).square().mean() for m in names)
    return z, loss


@pytest.mark.parametrize("dims", [{"a": 6, "b": 9}, {"a": 7, "b": 3, "c": 5}, {str(i): 4 + i for i in range(6)}])
@pytest.mark.parametrize("options", [{}, {"expansion": 3, "boundary": 0.3}])
def test_is_the_published_definition(dims, options):
    gmf = ef.GMF(dims, **options).double()
    x = {m: torch.randn(5, l, dtype=torch.float64) for m, l in dims.items()}
    out = gmf(x)
    z, loss = literal(gmf, x)
    shared = min(dims.values())
    for m, width in dims.items():
        assert out.modalities[m].shape == (5, shared + width)
        torch.testing.assert_close(out.modalities[m], z[m])
    torch.testing.assert_close(out.fused, torch.cat(list(z.values()), 1))
    torch.testing.assert_close(out.losses["reconstruction"], loss)


@pytest.mark.parametrize("dims", [{"a": 6, "b": 9}, {"a": 7, "b": 3, "c": 5}])
def test_the_later_form_is_gated_and_compares_directions(dims):
    gmf = ef.GMF(dims, form="scfae", expansion=2).double()
    x = {m: torch.randn(5, l, dtype=torch.float64) for m, l in dims.items()}
    names = list(dims)

    def gated(module, v):
        gate, value = (v @ module.both.weight.T + module.both.bias).chunk(2, 1)
        return gate * torch.sigmoid(gate) * value

    s = {m: gated(gmf.maps[m].dissociate, x[m]) for m in names}
    assert all(s[m].shape == (5, 2 * l) for m, l in dims.items())
    inv = {m: gmf.maps[m].invariant(s[m][:, :l]) for m, l in dims.items()}
    loss = 0
    out = gmf(x)
    for i, m in enumerate(names):
        z = torch.cat([inv[names[(i + 1) % len(names)]], gmf.maps[m].specific(s[m][:, dims[m] :])], 1)
        torch.testing.assert_close(out.modalities[m], z)
        swish, linear = gmf.maps[m].reconstruct
        again = linear(gated(swish, z))
        loss = loss + (1 - (again * x[m]).sum(1) / again.norm(dim=1) / x[m].norm(dim=1)).mean()
    torch.testing.assert_close(out.losses["reconstruction"], loss)
    with pytest.raises(ef.InputError, match="only affine maps fold"):
        gmf.folded()
    named = ef.make_fusion("scfae", dims).double()
    named.load_state_dict(gmf.state_dict())
    torch.testing.assert_close(named(x).fused, out.fused)


def test_the_later_form_is_stored_and_loaded_by_its_name(tmp_path):
    model = ef.build_model(
        {"a": 6, "b": 9}, "classification", 3, fusion="scfae", fusion_options={"backend": "concat", "expansion": 3}
    ).eval()
    model.save(tmp_path / "model")
    loaded = ef.load(tmp_path / "model")
    assert loaded.fusion.config() == model.fusion.config()
    x = {"a": torch.randn(4, 6), "b": torch.randn(4, 9)}
    assert torch.equal(loaded(x).prediction, model(x).prediction)


def test_a_sample_of_zeros_has_no_direction_and_a_bounded_slope():
    gmf = ef.GMF({"a": 4, "b": 5}, form="scfae").double()
    x = {"a": torch.zeros(2, 4, dtype=torch.float64, requires_grad=True), "b": torch.randn(2, 5, dtype=torch.float64)}
    gmf(x).losses["reconstruction"].backward()
    assert float(x["a"].grad.norm()) < 1e4


def test_parameter_counts():
    count = lambda dims: sum(p.numel() for p in ef.GMF(dims).parameters())  # noqa: E731
    assert count({"a": 512, "b": 512}) == 5_250_048
    with torch.device("meta"):
        assert abs(count({"a": 128, "b": 4096}) / 119e6 - 1) < 0.01


def test_flops_of_the_paper():
    """0.01 GFLOP per sample at widths 512 and 512: two per weight, reconstruction included."""
    weights = sum(p.numel() for n, p in ef.GMF({"a": 512, "b": 512}).named_parameters() if n.endswith("weight"))
    assert round(2 * weights / 1e9, 4) == 0.0105


@pytest.mark.parametrize("backend", [None, "concat", "deq"])
def test_folded_equals_unfolded(backend):
    dims = {"a": 6, "b": 9, "c": 8}
    gmf = ef.GMF(dims, backend=backend, expansion=5, boundary=0.4).double().eval()
    if backend == "deq":
        gmf.backend.solver = ef.Anderson(tol=1e-14, max_steps=500)
    folded = gmf.folded()
    x = {m: torch.randn(7, l, dtype=torch.float64) for m, l in dims.items()}
    present = {"b": torch.rand(7) < 0.5}
    for mask in ({}, present):
        a, b = gmf(x, mask), folded(x, mask)
        torch.testing.assert_close(a.fused, b.fused, rtol=1e-12, atol=1e-12)
        for m in dims:
            torch.testing.assert_close(a.modalities[m], b.modalities[m], rtol=1e-12, atol=1e-12)
    assert "reconstruction" not in b.losses
    assert folded.out_dim == gmf.out_dim
    assert not folded.training
    own = sum(p.numel() for n, p in folded.named_parameters() if n.startswith("maps"))
    assert own == sum((6 + l) * (l + 1) for l in dims.values())


def test_missing_invariant_part_is_the_mean_of_those_present():
    dims = {"a": 4, "b": 5, "c": 6}
    gmf = ef.GMF(dims).double()
    x = {m: torch.randn(3, l, dtype=torch.float64) for m, l in dims.items()}
    inv = {m: gmf.maps[m](x[m])[0] for m in dims}
    spec = {m: gmf.maps[m](x[m])[1] for m in dims}
    out = gmf({m: x[m] for m in ("a", "c")})
    torch.testing.assert_close(out.modalities["a"], torch.cat([(inv["a"] + inv["c"]) / 2, spec["a"]], 1))
    torch.testing.assert_close(out.modalities["b"], torch.cat([inv["c"], torch.zeros_like(x["b"])], 1))
    torch.testing.assert_close(out.modalities["c"], torch.cat([inv["a"], spec["c"]], 1))


def test_reconstruction_counts_only_what_is_present():
    dims = {"a": 4, "b": 5}
    gmf = ef.GMF(dims).double()
    x = {m: torch.randn(4, l, dtype=torch.float64) for m, l in dims.items()}
    mask = torch.tensor([True, False, False, True])
    loss = gmf(x, {"b": mask}).losses["reconstruction"]
    rows = [gmf({m: x[m][i : i + 1] for m in (("a", "b") if mask[i] else ("a",))}) for i in range(4)]
    errors = {m: [] for m in dims}
    for i, out in enumerate(rows):
        for m in ("a", "b") if mask[i] else ("a",):
            reconstructed = gmf.maps[m].reconstruct(out.modalities[m])
            errors[m].append((reconstructed - x[m][i : i + 1]).square().mean())
    torch.testing.assert_close(loss, sum(torch.stack(e).mean() for e in errors.values()))


def test_training_reduces_the_reconstruction_loss():
    gmf = ef.GMF({"a": 4, "b": 6})
    x = {"a": torch.randn(64, 4), "b": torch.randn(64, 6)}
    optimiser = torch.optim.Adam(gmf.parameters(), lr=1e-2)
    first = float(gmf(x).losses["reconstruction"].detach())
    for _ in range(100):
        loss = gmf(x).losses["reconstruction"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss) < 0.3 * first


def test_any_fusion_as_backend():
    dims = {"a": 4, "b": 6}
    by_name = ef.GMF(dims, backend="deq", backend_options={"dim": 16, "jacobian_weight": 1.0})
    assert by_name.out_dim == 16
    assert by_name.loss_weights == {"jacobian": 1.0, "reconstruction": 0.1}
    nested = ef.GMF(dims, backend=ef.GMF(recombined_dims(dims)))
    assert nested.out_dim == sum(recombined_dims(recombined_dims(dims)).values())
    out = by_name({"a": torch.randn(3, 4), "b": torch.randn(3, 6)})
    assert out.stats is not None
    assert set(out.losses) == {"jacobian", "reconstruction"}


@pytest.mark.parametrize(
    ("dims", "options", "error"),
    [
        ({"a": 4}, {}, "at least two"),
        ({"a": 4, "b": 4}, {"expansion": 2}, "greater than 2"),
        ({"a": 4, "b": 4}, {"form": "scfae", "expansion": 1.9}, "at least 2"),
        ({"a": 4, "b": 4}, {"form": "scfea"}, "did you mean 'scfae'"),
        ({"a": 4, "b": 4}, {"boundary": 1.0}, "between 0 and 1"),
        ({"a": 1, "b": 4}, {"boundary": 0.1}, "one part empty"),
        ({"a": 4, "b": 4}, {"reconstruction_weight": -1}, "reconstruction_weight"),
        ({"a": 4, "b": 4}, {"backend": ef.Concat({"a": 4, "b": 4})}, "recombined_dims"),
        ({"a": 4, "b": 4}, {"backend_options": {"dim": 4}}, "by name"),
        ({"a": 4, "b": 4}, {"backend": "dek"}, "did you mean 'deq'"),
        ({"a": 4, "b": 4}, {"backend": "deq", "backend_options": {"din": 16}}, "did you mean 'dim'"),
    ],
)
def test_mistakes(dims, options, error):
    with pytest.raises(ef.EquifuseError, match=error):
        ef.GMF(dims, **options)


def test_both_orders_of_the_products_give_the_same_values_and_gradients():
    torch.manual_seed(0)
    gmf = ef.GMF({"a": 6, "b": 9}).double()
    maps = list(gmf.maps.values())
    x = {m: torch.randn(200, w, dtype=torch.float64, requires_grad=True) for m, w in gmf.dims.items()}
    assert [m.folds(1) for m in maps] == [False, False]
    assert [m.folds(200) for m in maps] == [True, True]
    wanted = [*gmf.parameters(), *x.values()]
    found = []
    for size in (200, 1):  # the whole batch through the folded maps, row by row through one after the other
        outs = [gmf({m: v[i : i + size] for m, v in x.items()}) for i in range(0, 200, size)]
        fused = torch.cat([out.fused for out in outs])
        found.append((fused, torch.autograd.grad(fused.square().sum(), wanted, allow_unused=True)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-9, atol=1e-11)


def test_folding_is_chosen_where_it_takes_fewer_multiplications():
    """Widths 512 and 512, expansion 4: 2.1 M multiplications per row against 0.5 M, and 0.5 G once for the product."""
    dissociation = next(iter(ef.GMF({"a": 512, "b": 512}).maps.values()))
    apart, together, product = 512 * 2048 + 1024 * 512 + 1024 * 512, 512 * 1024, 512 * (512 * 1024 + 512 * 1024)
    turning = product // (apart - together)
    assert not dissociation.folds(turning)
    assert dissociation.folds(turning + 1)
