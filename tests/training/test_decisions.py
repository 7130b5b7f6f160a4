"""Training of fusions that decide: losses against the target, resumed runs, where a regression starts."""

import numpy as np
import pytest

from equifuse.datasets import MultimodalDataset, Split, write_npz
from equifuse.runs import TrainConfig, evaluate_run, train
from equifuse.runs.folder import load_data
from equifuse.runs.prepare import initial_model


def config(quick, **options):
    return TrainConfig.from_dict({**quick, "dim": None, **options})


@pytest.mark.parametrize("fusion", [{"fusion": "tmc"}, {"fusion": "gmf", "backend": "tmc"}])
@pytest.mark.slow
def test_a_resumed_run_goes_on_with_the_annealing(quick, tmp_path, fusion):
    chosen = config(quick, **fusion, fusion_options={} if "backend" in fusion else {"annealing": 10})
    whole = train(chosen, tmp_path / "whole", progress=False)

    def stop(row, best):
        if row["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(chosen, tmp_path / "cut", progress=stop)
    resumed = train(chosen, tmp_path / "cut", resume=True, progress=False)
    for a, b in zip(whole.history, resumed.history, strict=True):
        assert {key: a[key] for key in a if key != "seconds"} == {key: b[key] for key in b if key != "seconds"}
    divergence = [row["train_kl"] for row in whole.history]
    assert 0 < divergence[0] < divergence[1]
    assert whole.metrics["test"]["accuracy"] > 0.75
    without = evaluate_run(tmp_path / "whole", without=["b"])
    assert without["accuracy"] == pytest.approx(whole.metrics["without"]["b"])


def test_losses_against_the_target_are_weighed_and_in_the_history(quick, tmp_path):
    options = {"unimodal_weight": 0.5, "confidence_weight": 2.0}
    row = train(config(quick, fusion="mm_dynamics", fusion_options=options, epochs=1), tmp_path / "run", progress=False)
    found = {key.removeprefix("train_"): value for key, value in row.history[0].items()}
    total = found["task_loss"] + found["sparsity"] + 0.5 * found["unimodal"] + 2 * found["confidence"]
    assert found["loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("fusion", [{"fusion": "late"}, {"fusion": "gmf", "backend": "late"}, {"fusion": "concat"}])
def test_a_regression_starts_from_the_mean_of_the_targets(tmp_path, fusion):
    generator = np.random.default_rng(0)
    splits = {}
    for part, n in (("train", 60), ("val", 20), ("test", 20)):
        inputs = {m: generator.normal(size=(n, 4)).astype(np.float32) for m in "ab"}
        splits[part] = Split(inputs, target=generator.normal(50, 2, size=(n, 1)).astype(np.float32))
    write_npz(tmp_path / "set.npz", MultimodalDataset("set", splits, "regression"))
    chosen = TrainConfig.from_dict({"data": str(tmp_path / "set.npz"), **fusion})
    dataset = load_data(chosen)
    model = initial_model(chosen, dataset).eval()
    mean = float(dataset.splits["train"].target.mean())
    maps = model.fusion.output_maps() or [model.head.linear]
    assert [layer.shift.item() for layer in maps] == pytest.approx([mean] * len(maps))
