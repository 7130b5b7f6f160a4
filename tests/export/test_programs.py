"""Exported programs say what the model says, for any batch, with and without modalities."""

import warnings
import zipfile

import pytest
import torch
from torch import nn

import equifuse as ef
from equifuse import StaticAnderson
from equifuse.export import describe, export_model

from .conftest import SHAPES, build, feed, masks, samples, session

pytestmark = pytest.mark.slow

# A contraction is solved in few steps, which keeps the graph small.
DEQ = {"dim": 16, "contraction": 0.3, "solver": {"name": "anderson", "tol": 0.1}}
TIGHT = {"dim": 16, "solver": {"name": "anderson", "tol": 1e-6}}
CASES = {
    "concat": ({"fusion": "concat"}, {}),
    "gmf": ({"fusion": "gmf"}, {}),
    "film": ({"fusion": "film", "dim": 16}, {}),
    "self_attention": ({"fusion": "self_attention", "dim": 16, "layers": 1, "heads": 2}, {}),
    "deq": ({"fusion": "deq", **DEQ}, {".onnx": {}, ".pt2": {"loop": True}}),
    "gmf -> deq": ({"fusion": "gmf", "backend": "deq", "backend_options": TIGHT}, {"loop": True}),
}
ONNX = ["concat", "gmf", "film", "self_attention", "deq", "gmf -> deq"]
TORCH = ["gmf", "self_attention", "deq"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """``(case, suffix) -> (model, path, description)``, each exported once; the model is left as it was."""
    done = {}

    def get(case, suffix):
        if (case, suffix) not in done:
            options, how = CASES[case]
            model = build(**options).train()
            config, state = model.fusion.config(), {key: value.clone() for key, value in model.state_dict().items()}
            path = tmp_path_factory.mktemp("export") / f"model{suffix}"
            description = export_model(model, path, example=samples(24, model), **how.get(suffix, how))
            assert model.training
            assert model.fusion.config() == config
            assert list(model.state_dict()) == list(state)
            assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
            done[case, suffix] = model.eval(), path, description
        return done[case, suffix]

    return get


def eager(model, description, inputs, present):
    """The model itself, solving as the program does."""
    fusion = getattr(model.fusion, "backend", None) or model.fusion
    before, solver = getattr(fusion, "solver", None), description["solver"]
    if solver is not None:
        fusion.solver = StaticAnderson(
            tol=solver["tol"], max_steps=solver["steps"], memory=solver["memory"], loop=solver["loop"]
        )
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", ef.ConvergenceWarning)
            return model(inputs, present)
    finally:
        if solver is not None:
            fusion.solver = before


def check(run, model, description):
    """Batches of 1, 7 and 33, whole and with holes."""
    for count in (1, 7, 33):
        inputs = samples(count, model, seed=count)
        everywhere = {m: torch.ones(count, dtype=torch.bool) for m in inputs}
        for present in (everywhere, masks(count, model)):
            # What an absent sample's input holds has no effect.
            blanked = {
                m: torch.where(present[m].view(-1, *[1] * (x.dim() - 1)), x, torch.nan) for m, x in inputs.items()
            }
            got, expected = run(blanked, present), eager(model, description, inputs, present)
            torch.testing.assert_close(got["logits"], expected.prediction, rtol=1e-5, atol=1e-5)
            if expected.fusion.stats is not None:
                torch.testing.assert_close(got["residual"], expected.fusion.stats.residual, rtol=1e-2, atol=1e-6)
                assert torch.equal(got["converged"], got["residual"] <= description["solver"]["tol"])


@pytest.mark.parametrize("case", TORCH)
def test_a_program_of_torch_export(exported, case):
    model, path, description = exported(case, ".pt2")
    program = torch.export.load(path).module()
    check(lambda inputs, present: program(inputs, present, {}), model, description)


@pytest.mark.parametrize("case", ONNX)
def test_an_onnx_file(exported, onnxruntime, case):
    model, path, description = exported(case, ".onnx")
    running = session(onnxruntime, path)

    def run(inputs, present):
        found = running.run(description["outputs"], feed(inputs, present))
        return {name: torch.from_numpy(x) for name, x in zip(description["outputs"], found, strict=True)}

    check(run, model, description)
    # Without masks everything is present.
    inputs = samples(7, model)
    everywhere = {m: torch.ones(7, dtype=torch.bool) for m in inputs}
    torch.testing.assert_close(run(inputs, {})["logits"], run(inputs, everywhere)["logits"], rtol=0, atol=0)


def test_what_a_file_says_of_itself(exported, onnxruntime):
    for case, suffix in (("deq", ".pt2"), ("deq", ".onnx"), ("gmf", ".pt2")):
        _, path, description = exported(case, suffix)
        assert describe(path) == description
        assert description["modalities"] == {"text": [6], "image": [2, 4], "3-d": [5]}
        assert description["inputs"] == [*SHAPES, "present_text", "present_image", "present_3-d"]
        assert description["classes"] == ["x", "y", "z"]
        assert description["error"] <= 1e-5
        assert (description["solver"] is None) == (case == "gmf")
        assert (path.stat().st_mode & 0o777, list(path.parent.iterdir())) == (0o644, [path])
    running = session(onnxruntime, exported("deq", ".onnx")[1])
    optional = running.get_overridable_initializers()
    assert [i.name for i in (*running.get_inputs(), *optional)] == description["inputs"]
    assert [i.name for i in running.get_outputs()] == ["logits", "residual", "converged"]


def test_the_steps_take_every_example_to_the_tolerance_with_some_to_spare(exported, onnxruntime):
    model, _, description = exported("deq", ".onnx")
    solver = description["solver"]
    assert (solver["converged"], solver["loop"], solver["tol"]) == (1.0, False, 0.1)
    assert solver["largest_residual"] < 0.1
    fewer = {**description, "solver": {**solver, "steps": 1}}
    inputs = samples(24, model)
    everything = eager(model, fewer, inputs, {}).fusion.stats
    assert not bool(everything.converged.all())
    again = eager(model, description, inputs, {}).fusion.stats
    most = max(int(part.steps.max()) for part in again.parts.values())
    assert most + 2 <= solver["steps"]


def test_the_difference_from_the_model_is_within_its_tolerance(exported, onnxruntime):
    _, _, loop = exported("gmf -> deq", ".onnx")
    assert loop["difference"] <= 1e-5  # solved to 1e-6
    _, _, closed = exported("gmf", ".pt2")
    assert closed["difference"] <= 1e-6  # folding is exact


def test_padded_sequences_of_any_length(tmp_path):
    shapes = {"words": (9, 4), "table": 5}
    model = build("concat", shapes, encoder={"words": "attention"})
    description = export_model(model, tmp_path / "model.pt2")
    assert description["inputs"][-1] == "length_words"
    program = torch.export.load(tmp_path / "model.pt2").module()
    for count, steps in ((1, 3), (6, 12)):
        inputs = {"words": torch.randn(count, steps, 4), "table": torch.randn(count, 5)}
        lengths = {"words": torch.randint(0, steps + 1, (count,))}
        present = masks(count, model)
        with torch.no_grad():
            expected = model(inputs, present, lengths=lengths).prediction
        got = program(inputs, present, lengths)["logits"]
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_modules_of_ones_own_without_masks_in_double_precision(tmp_path):
    fusion = ef.make_fusion("sum", {"a": 4, "b": 3}, dim=8)
    encoders = {"a": nn.Linear(2, 4), "b": None}
    model = ef.FusionModel(encoders, fusion, nn.Linear(8, 2), task="regression").double().eval()
    inputs = {"a": torch.randn(5, 2).double(), "b": torch.randn(5, 3).double()}
    with pytest.raises(ef.InputError, match="shape of modality 'a' is not known; pass example="):
        export_model(model, tmp_path / "model.pt2")
    hidden = {"a": torch.arange(5) > 1}
    with pytest.raises(ef.InputError, match="without masks"):
        export_model(model, tmp_path / "model.pt2", example=inputs, present=hidden, masks=False)
    description = export_model(model, tmp_path / "model.pt2", example=inputs, masks=False)
    assert (description["inputs"], description["outputs"]) == (["a", "b"], ["prediction"])
    got = torch.export.load(tmp_path / "model.pt2").module()(inputs, {}, {})["prediction"]
    torch.testing.assert_close(got, model(inputs).prediction, rtol=1e-12, atol=1e-12)


def test_paths_of_source_files_are_not_told(exported, onnxruntime):
    assert b"equifuse/fusion" not in exported("gmf", ".onnx")[1].read_bytes()
    with zipfile.ZipFile(exported("gmf", ".pt2")[1]) as archive:
        assert not any(b"equifuse/fusion" in archive.read(name) for name in archive.namelist())


def test_mistakes(tmp_path, monkeypatch):
    model = build("concat")
    out = tmp_path / "model.pt2"
    fewer = {m: x[:1] for m, x in samples(3, model).items()}
    for message, path, options in [
        ("end the name in .onnx or .pt2", tmp_path / "model.pth", {}),
        ("format 'onnx' goes with .onnx", out, {"format": "onnx"}),
        ("solves for no equilibrium", out, {"steps": 3}),
        ("solves for no equilibrium", out, {"loop": True}),
        ("at least 2 examples", out, {"example": fewer}),
        ("no modality 'image'", out, {"example": {"text": torch.zeros(3, 6)}}),
    ]:
        with pytest.raises(ef.InputError, match=message):
            export_model(model, path, **options)
    with pytest.raises(ef.UnknownNameError, match="did you mean 'torch'"):
        export_model(model, out, format="trch")
    with pytest.raises(ef.UnknownNameError, match="did you mean 'text'"):
        export_model(model, out, present={"txt": torch.ones(3, dtype=torch.bool)})
    recurrent = build("concat", {"words": (9, 4), "table": 5}, encoder={"words": "gru"})
    with pytest.raises(ef.InputError, match="modality 'words' has a GRU"):
        export_model(recurrent, out)
    clash = build("concat", {"present_a": 3, "a": 4})
    with pytest.raises(ef.InputError, match="two inputs would be named 'present_a'"):
        export_model(clash, out)
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ef.InputError, match=r"pip install 'equifuse\[onnx\]'"):
        export_model(model, tmp_path / "model.onnx")
    out.write_bytes(b"something else")
    with pytest.raises(ef.DataError, match="not an exported model"):
        describe(out)
    with pytest.raises(ef.OutputExistsError):
        export_model(model, out)
    assert out.read_bytes() == b"something else"
    assert list(tmp_path.iterdir()) == [out]


def test_equilibria_that_are_not_reached(tmp_path):
    model = build("deq", **{**DEQ, "solver": {"name": "anderson", "tol": 1e-6, "max_steps": 2}})
    out = tmp_path / "model.pt2"
    with pytest.raises(ef.InputError, match="did not reach the tolerance 1e-06 within 2 evaluations"):
        export_model(model, out, example=samples(5, model))
    assert not out.exists()


def test_a_program_that_does_not_agree_is_not_written(tmp_path, monkeypatch):
    from equifuse.export import program

    class Off(program.TorchProgram):
        def __call__(self, examples):
            return {name: x + 0.1 if x.is_floating_point() else x for name, x in super().__call__(examples).items()}

    monkeypatch.setattr(program, "TorchProgram", Off)
    with pytest.raises(ef.EquifuseError, match="differs from PyTorch's by 1.0e-01 .* it was not written"):
        export_model(build("concat"), tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []
