import pytest
import torch

import equifuse as ef

SHAPES = {"text": 6, "image": (2, 4), "3-d": 5}
ENCODERS = {"hidden": [16]}


def build(fusion="deq", shapes=None, task="classification", **options):
    """A small model, standardised on samples with a mean and a deviation."""
    torch.manual_seed(0)
    encoder = options.pop("encoder", "auto")
    model = ef.build_model(
        shapes or SHAPES,
        task,
        3,
        fusion=fusion,
        fusion_options=options,
        encoder=encoder,
        encoder_options=ENCODERS,
        classes=("x", "y", "z") if task == "classification" else None,
    )
    model.fit_preprocessing(samples(200, model))
    return model.eval()


def samples(count, model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {m: 3 + 2 * torch.randn(count, *shape, generator=generator) for m, shape in model.shapes.items()}


def masks(count, model, seed=2):
    """Each modality of each sample hidden with a chance of a half; some samples have nothing."""
    generator = torch.Generator().manual_seed(seed)
    return {m: torch.rand(count, generator=generator) < 0.5 for m in model.modalities}


@pytest.fixture(scope="session")
def onnxruntime():
    pytest.importorskip("onnx", reason="needs equifuse[onnx]")
    pytest.importorskip("onnxscript", reason="needs equifuse[onnx]")
    return pytest.importorskip("onnxruntime", reason="needs equifuse[onnx]")


def session(onnxruntime, path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def feed(inputs, present=None, lengths=None):
    named = {**inputs, **{f"present_{m}": x for m, x in (present or {}).items()}}
    named |= {f"length_{m}": x for m, x in (lengths or {}).items()}
    return {name: tensor.numpy() for name, tensor in named.items()}
