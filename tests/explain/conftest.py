"""Small models in float64 and samples that lack modalities."""

import pytest
import torch

import equifuse as ef
from equifuse.data.batch import Batch
from equifuse.tasks import make_task

SHAPES = {"a": (4,), "b": (2, 3), "c": (5,)}
FUSIONS = {
    "deq": {"dim": 16, "solver": {"name": "anderson", "tol": 1e-11, "max_steps": 300}},
    "gmf": {},
    "concat": {},
}


def build(fusion="concat", task="classification", outputs=3, shapes=SHAPES, **options):
    torch.manual_seed(0)
    options = {"encoder_options": {"hidden": [8]}, **options}
    model = ef.build_model(shapes, task, outputs, fusion=fusion, fusion_options=FUSIONS[fusion], **options).double()
    with torch.no_grad():  # an initial head hardly tells classes apart
        model.head.linear.weight.mul_(4)
    model.fit_preprocessing(samples(40, shapes).inputs)
    return model.eval()


def samples(rows=12, shapes=SHAPES, task="classification", outputs=3, missing=False, seed=1):
    """Samples; with ``missing`` each pattern of presence occurs, nothing at all among them, absent rows holding NaN."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {m: 2 + 3 * torch.randn(rows, *s, generator=generator, dtype=torch.float64) for m, s in shapes.items()}
    present = {}
    if missing:
        for i, m in enumerate(shapes):
            present[m] = (torch.arange(rows) >> i) & 1 == 1
            inputs[m][~present[m]] = torch.nan
    target = {
        "classification": torch.arange(rows) % outputs,
        "multilabel": (torch.rand(rows, outputs, generator=generator) < 0.5).float(),
        "regression": torch.randn(rows, outputs, generator=generator),
        "survival": torch.stack([torch.rand(rows, generator=generator), (torch.arange(rows) % 2).float()], 1),
    }[task]
    return Batch(inputs, present, target, torch.arange(rows))


@pytest.fixture
def task():
    return make_task("classification")
