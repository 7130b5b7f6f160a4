import json
import subprocess
import sys

import pytest
import torch
from torch import nn

import equifuse as ef
from equifuse.encoders import MLPEncoder, Standardize

SHAPES = {"a": (5,), "b": (2, 3)}
FUSIONS = {
    "deq": {"dim": 16},
    "gmf": {},
    "concat": {},
}


def built(fusion="deq", **options):
    torch.manual_seed(0)
    options = {"encoder_options": {"hidden": [8]}, **options}
    return ef.build_model(SHAPES, "classification", 3, fusion=fusion, fusion_options=FUSIONS[fusion], **options)


def batch(rows=6):
    generator = torch.Generator().manual_seed(1)
    return {m: 3 + 10 * torch.randn(rows, *shape, generator=generator) for m, shape in SHAPES.items()}


@pytest.mark.parametrize("fusion", FUSIONS)
def test_saved_and_loaded_gives_the_same_numbers(fusion, tmp_path):
    model = built(fusion, classes=("x", "y", "z"))
    model.fit_preprocessing(batch(50))
    model.eval()
    model.save(tmp_path / "model")
    again = ef.load(tmp_path / "model")
    assert again.classes == ("x", "y", "z")
    assert (again.task, again.n_outputs, again.shapes) == ("classification", 3, SHAPES)
    assert not again.training
    torch.testing.assert_close(again(batch()).prediction, model(batch()).prediction, rtol=0, atol=0)
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["model.json", "model.safetensors"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.slow
def test_no_model_waits_for_a_compiler_when_it_is_loaded(tmp_path):
    program = f"""
import sys
import equifuse as ef
from equifuse.registry import FUSIONS
for name in FUSIONS.names():
    model = ef.build_model({{"a": 6, "b": 5}}, "classification", 2, fusion=name)
    model.save({str(tmp_path)!r} + "/" + name)
    ef.load({str(tmp_path)!r} + "/" + name)
    assert "torch._dynamo" not in sys.modules, name
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr


def test_saving_never_overwrites_unasked(tmp_path):
    model = built("concat")
    model.save(tmp_path / "model")
    with pytest.raises(ef.OutputExistsError, match="overwrite=True"):
        model.save(tmp_path / "model")
    with torch.no_grad():
        model.head.linear.bias.add_(1)
    model.save(tmp_path / "model", overwrite=True)
    torch.testing.assert_close(ef.load(tmp_path / "model").head.linear.bias, model.head.linear.bias)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_modules_of_ones_own_are_loaded_with_their_code(tmp_path):
    def parts():
        return {"a": nn.Linear(5, 7), "b": None}, nn.Linear(16, 2)

    encoders, head = parts()
    model = ef.FusionModel(encoders, ef.DEQFusion({"a": 7, "b": 6}, 16), head).eval()
    model.save(tmp_path / "model")
    with pytest.raises(ef.DataError, match=r"pass load\(path, encoders"):
        ef.load(tmp_path / "model")
    encoders, head = parts()
    again = ef.load(tmp_path / "model", encoders=encoders, head=head)
    x = {"a": torch.randn(4, 5), "b": torch.randn(4, 6)}
    torch.testing.assert_close(again(x).prediction, model(x).prediction)
    with pytest.raises(ef.DataError, match="do not fit"):
        ef.load(tmp_path / "model", encoders={"a": nn.Linear(5, 8), "b": None}, head=nn.Linear(16, 2))


def test_damaged_files_are_named(tmp_path):
    with pytest.raises(ef.DataError, match="no model at"):
        ef.load(tmp_path)
    built("concat").save(tmp_path / "model")
    described = tmp_path / "model" / "model.json"
    content = json.loads(described.read_text())
    described.write_text(json.dumps({**content, "format": 99}))
    with pytest.raises(ef.DataError, match="format 99"):
        ef.load(tmp_path / "model")
    described.write_text("{")
    with pytest.raises(ef.DataError, match="damaged"):
        ef.load(tmp_path / "model")
    described.write_text(json.dumps(content))
    (tmp_path / "model" / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ef.DataError, match="cannot be read"):
        ef.load(tmp_path / "model")


@pytest.mark.parametrize("fusion", FUSIONS)
def test_absent_inputs_may_hold_anything_and_get_no_gradient(fusion):
    model = built(fusion).eval()
    x = batch()
    mask = torch.tensor([True, False, True, True, False, True])
    holey = {"a": x["a"].clone().requires_grad_(), "b": x["b"]}
    with torch.no_grad():
        holey["a"][1], holey["a"][4] = torch.nan, torch.inf
    output = model(holey, {"a": mask})
    torch.testing.assert_close(output.prediction[mask], model(x).prediction[mask], rtol=1e-3, atol=1e-4)
    alone = model({"b": x["b"]}).prediction
    torch.testing.assert_close(output.prediction[~mask], alone[~mask], rtol=1e-3, atol=1e-4)
    output.prediction.sum().backward()
    assert bool((holey["a"].grad[~mask] == 0).all())
    assert bool((holey["a"].grad[mask] != 0).any(1).all())
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


def test_an_encoder_only_sees_samples_that_have_the_modality():
    seen = []

    class Watching(nn.Linear):
        def forward(self, x):
            seen.append(x.shape[0])
            return super().forward(x)

    model = ef.FusionModel({"a": Watching(5, 4), "b": None}, ef.Concat({"a": 4, "b": 6}), nn.Linear(10, 2))
    x = {"a": torch.randn(6, 5), "b": torch.randn(6, 6)}
    model(x, {"a": torch.tensor([True, False, True, False, False, False])})
    model(x, {"a": torch.zeros(6, dtype=torch.bool)})
    assert seen == [2]


def test_preprocessing_is_part_of_the_model_and_fitted_on_what_it_is_given():
    layer = Standardize((2,), clip=2.0)
    x = torch.tensor([[0.0, 5.0], [2.0, 5.0], [4.0, 5.0]])
    layer.fit(x)
    torch.testing.assert_close(layer(x)[:, 0], torch.tensor([-(1.5**0.5), 0, 1.5**0.5]))
    assert layer(x)[:, 1].tolist() == [0, 0, 0]  # a constant feature says nothing
    assert layer(torch.tensor([[100.0, 9.0]])).tolist() == [[2, 0]]  # later neither
    model = built("concat")
    model.fit_preprocessing({"a": torch.full((4, 5), 7.0)}, {"a": torch.tensor([True, True, False, False])})
    standardize = model.encoders["a"][0]
    assert standardize.mean.tolist() == [7.0] * 5


def test_mistakes():
    model = built("concat")
    with pytest.raises(ef.InputError, match="modality 'a' has width 4, the model was built for 5"):
        model({"a": torch.randn(2, 4)})
    with pytest.raises(ef.UnknownNameError, match="did you mean 'a'"):
        model({"aa": torch.randn(2, 4)})
    with pytest.raises(ef.InputError, match="mask must be bool"):
        model({"a": torch.randn(2, 5)}, {"a": torch.ones(2)})
    with pytest.raises(ef.InputError, match="no modality given"):
        model({})
    with pytest.raises(ef.InputError, match="no encoder for modality 'b'"):
        ef.FusionModel({"a": None}, ef.Concat({"a": 4, "b": 6}), nn.Linear(10, 2))
    with pytest.raises(ef.UnknownNameError, match="encoder"):
        ef.build_model(SHAPES, "classification", 3, encoder="mpl")
    for rate in (1.0, float("nan")):
        with pytest.raises(ef.InputError, match="head_dropout must be in"):
            ef.build_model(SHAPES, "classification", 3, head_dropout=rate)
    with pytest.raises(ef.UnknownNameError, match="did you mean 'hidden'"):
        ef.build_model(SHAPES, "classification", 3, encoder_options={"hiden": [4]})
    with pytest.raises(ef.UnknownNameError, match="did you mean 'regression'"):
        ef.build_model(SHAPES, "regresion", 1)
    with pytest.raises(ef.UnknownNameError, match="option of fusion 'gmf'"):
        ef.build_model(SHAPES, "classification", 3, fusion="gmf", fusion_options={"expand": 3})
    with pytest.raises(ef.InputError, match="at least 1"):
        ef.build_model(SHAPES, "classification", 0)
    with pytest.raises(ef.InputError, match="dropout"):
        MLPEncoder(4, (8,), dropout=1.0)


def test_a_sample_does_not_depend_on_its_batch_mates():
    model = built("deq").eval()
    x = batch(8)
    together = model(x).prediction
    for i in range(8):
        alone = model({m: value[i : i + 1] for m, value in x.items()}).prediction
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-5)
