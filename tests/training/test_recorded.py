"""Recorded training steps; on a CPU a recording runs the step again, so that all but the graph itself is tested."""

import traceback

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import equifuse as ef
from equifuse.data.batch import Batch
from equifuse.runs import TrainConfig, train
from equifuse.training import recorded

OPTIONS = {
    "data": "digits", "fusion": "deq", "dim": 16, "hidden": [16], "epochs": 1, "batch_size": 150, "accelerator": "auto",
    "gradient_clip": 1.0, "dropout": 0.0,
}  # fmt: skip


WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "repeat_interleave", "_unique2", "unique_dim"}


class NothingIsRead(TorchDispatchMode):
    """Fails where an operation would make the host wait for a GPU, which a graph that is recorded cannot do."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        places = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        waits = name in WAITING or any(x is not None and x.dtype == torch.bool for x in places)
        # The loop of the kernels for a CPU has one of its own for GPUs.
        if waits and not any("equifuse/solve/accelerated" in frame.filename for frame in traceback.extract_stack()):
            raise RuntimeError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Recordings that run the step again, and refuse what cannot be recorded; how many were made."""
    made = []

    def record(function):
        made.append(function)

        def run():
            with NothingIsRead(), monkeypatch.context() as patch:
                patch.setattr("equifuse.solve.sync._RECORDS", ("cuda", "cpu"))
                patch.setattr("torch.cuda.is_current_stream_capturing", lambda: True)
                function()

        return run

    monkeypatch.setattr(recorded, "_as_graph", record)
    monkeypatch.setattr("equifuse.training.lightning_module.check_records", lambda device: None)
    return made


@pytest.mark.parametrize("fusion", ["deq", "gmf", "late"])
def test_training_by_replays_is_the_training(tmp_path, as_on_a_gpu, fusion):
    """With hidden modalities, heads on each of them, clipping, and a last batch that is smaller."""
    options = OPTIONS | {"fusion": fusion, "dim": 16 if fusion == "deq" else None}
    usual = train(TrainConfig.from_dict(options), tmp_path / "usual", progress=False)
    assert not as_on_a_gpu
    replayed = train(TrainConfig.from_dict(options | {"cuda_graph": True}), tmp_path / "replayed", progress=False)
    assert len(as_on_a_gpu) == 1
    for mine, other in zip(replayed.history, usual.history, strict=True):
        # Fixed points are found by other evaluations, and without a fallback.
        same = [name for name in other if name != "seconds" and "steps" not in name and "converged" not in name]
        assert {name: mine[name] for name in same} == pytest.approx({name: other[name] for name in same}, rel=2e-3)
        assert mine.get("train_converged", 1.0) > 0.99


def test_a_step_reads_each_batch_anew_and_its_gradients_are_its_own():
    layer = torch.nn.Linear(3, 1)
    batches = [Batch({"a": torch.randn(4, 3)}, target=torch.randn(4, 1)) for _ in range(6)]

    def step(batch):
        loss = (layer(batch.inputs["a"]) - batch.target).square().mean()
        loss.backward()
        return loss.detach(), {"twice": 2 * loss.detach()}

    steps = recorded.RecordedSteps(step, layer.parameters(), record=lambda function: function)
    found = [steps(batch) for batch in batches[:3]]
    assert found == [None] * 3
    for batch in batches[3:]:
        loss, numbers = steps(batch)
        expected = (layer(batch.inputs["a"]) - batch.target).square().mean()
        assert torch.equal(loss, expected)
        assert torch.equal(numbers["twice"], 2 * loss)
        for parameter, gradient in zip(
            layer.parameters(), torch.autograd.grad(expected, layer.parameters()), strict=True
        ):
            assert torch.equal(parameter.grad, gradient)


def test_other_shapes_are_worked_on_as_usual():
    layer = torch.nn.Linear(3, 1)

    def step(batch):
        layer(batch.inputs["a"]).sum().backward()
        return torch.zeros(()), {}

    steps = recorded.RecordedSteps(step, layer.parameters(), record=lambda function: function)
    for rows, recorded_now in ((4, True), (5, True), (6, False)):
        made = [steps(Batch({"a": torch.ones(rows, 3)})) for _ in range(5)]
        assert [one is not None for one in made] == [False] * 3 + [recorded_now] * 2


def test_a_step_that_cannot_be_recorded_says_so():
    def fails(function):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    steps = recorded.RecordedSteps(lambda batch: (torch.zeros(()), {}), [], record=fails)
    batch = Batch({"a": torch.ones(2, 1)})
    for _ in range(3):
        steps(batch)
    with pytest.raises(ef.EquifuseError, match=r"not permitted when stream is capturing\); leave out cuda_graph"):
        steps(batch)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"sam": 0.1}, "sam"),
        ({"mixup": 0.2}, "mixup"),
        ({"accumulate": 2}, "accumulate"),
        ({"devices": 2}, "devices"),
        ({"accelerator": "cpu"}, "accelerator='gpu'"),
        ({"fusion": "tmc"}, "'tmc'"),
    ],
)
def test_what_changes_from_step_to_step_is_refused(options, named, tmp_path, as_on_a_gpu):
    with pytest.raises(ef.InputError, match=named):
        train(TrainConfig.from_dict(OPTIONS | {"cuda_graph": True} | options), tmp_path / "run", progress=False)


def test_no_gpu(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ef.InputError, match="needs a GPU"):
        train(TrainConfig.from_dict(OPTIONS | {"cuda_graph": True}), tmp_path / "run", progress=False)
