"""What stages of a model know of the target."""

import pytest
import torch

import equifuse as ef
from equifuse.errors import InputError
from equifuse.explain import information_flow

N = 120


@pytest.fixture(scope="module")
def batch():
    torch.manual_seed(0)
    y = torch.arange(N) % 2
    a = torch.randn(N, 3)
    a[:, 0] += 6 * y  # tells all
    return ef.tasks.Batch({"a": a, "b": torch.randn(N, 4)}, target=y)


def flow(fusion, batch, **options):
    torch.manual_seed(0)
    model = ef.build_model({"a": 3, "b": 4}, "classification", 2, fusion=fusion, **options)
    return information_flow(model, ef.tasks.make_task("classification"), [batch])


@pytest.mark.slow
def test_gmf_shows_its_parts_and_what_they_have_in_common(batch):
    found = flow("gmf", batch)
    assert found.stage("a.encoded").bits > 0.8
    assert found.stage("b.encoded").bits < 0.2
    assert found.stage("fused").bits > 0.8
    for m in ("a", "b"):
        assert {f"{m}.{part}" for part in ("invariant", "specific", "recombined", "reconstructed")} <= {
            stage.name for stage in found.stages
        }
        # Both parts are linear maps of one code.
        assert found.common[f"{m}.invariant", f"{m}.specific"] > 1
    assert found.common["a.encoded", "b.encoded"] < 0.5
    for stage in found.stages:
        assert stage.bits + stage.left == pytest.approx(found.target_entropy)


def test_an_equilibrium_is_followed_from_its_start_to_its_end(batch):
    found = flow("deq", batch)
    assert set(found.iterates) == {"a", "b", "fusion"}
    assert found.evaluations[0] == "start"
    assert found.evaluations[-1] == "end"
    assert found.iterates["fusion"][-1] == pytest.approx(found.stage("fused").bits, abs=0.05)
    assert all(len(bits) == len(found.evaluations) for bits in found.iterates.values())


@pytest.mark.parametrize("fusion", ["concat", "late", "bottleneck", "gmu"])
def test_other_fusions_show_their_stages(batch, fusion):
    found = flow(fusion, batch)
    assert found.stages[-1].name == "fused"
    assert not found.iterates


@pytest.mark.slow
def test_samples_without_a_modality_are_left_out_of_its_stages(batch):
    lacking = ef.tasks.Batch(batch.inputs, {"b": torch.arange(N) < 50}, target=batch.target)
    found = flow("gmf", lacking)
    assert found.stage("b.encoded").n == 50
    assert found.stage("a.encoded").n == found.stage("fused").n == N


def test_what_cannot_be_measured_is_one_line(batch):
    few = ef.tasks.Batch({m: x[:10] for m, x in batch.inputs.items()}, target=batch.target[:10])
    one = ef.tasks.Batch(batch.inputs, target=torch.zeros(N, dtype=torch.int64))
    none = ef.tasks.Batch(batch.inputs)
    for wrong, says in ((few, "at least 20"), (one, "one value only"), (none, "no labels")):
        with pytest.raises(InputError, match=says):
            flow("concat", wrong)


@pytest.mark.slow
def test_training_logs_it_every_few_epochs(batch):
    from equifuse.training import Trainer
    from equifuse.training.callbacks import LogInformation

    split = ef.datasets.Split({m: x.numpy() for m, x in batch.inputs.items()}, target=batch.target.numpy())
    data = ef.datasets.MultimodalDataset("made", dict.fromkeys(("train", "val", "test"), split), "classification")
    model = ef.build_model({"a": 3, "b": 4}, "classification", 2, fusion="concat")
    history = Trainer(epochs=3, callbacks=[LogInformation([batch], every=2)]).fit(model, data).history
    assert ["information/fused" in row for row in history] == [True, False, True]
    assert history[0]["information/a.encoded"] > 0.5
