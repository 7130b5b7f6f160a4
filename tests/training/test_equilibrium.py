"""What training does for an equilibrium: it watches, it warns, and it starts warm if asked."""

import logging

import pytest
import torch

from equifuse.data.batch import Batch
from equifuse.model import build_model
from equifuse.runs import TrainConfig, train
from equifuse.training.callbacks.equilibrium import WatchEquilibrium, kind_of


def config(quick, **options):
    return TrainConfig.from_dict({**quick, **options})


@pytest.mark.slow
def test_history_has_radius_steps_and_shares_of_every_part_forward_and_backward(quick, tmp_path):
    result = train(config(quick, fusion="gmf", backend="deq"), tmp_path / "run", progress=False)
    assert result.metrics["alerts"] == []
    for row in result.history:
        for part in ("a", "b", "fusion"):
            assert 0 < row[f"equilibrium_radius/{part}"] < 1
            assert row[f"equilibrium_steps/{part}"] >= 1
            assert row[f"equilibrium_converged/{part}"] == 1
            assert row[f"train_backward_converged/{part}"] == pytest.approx(1)
            assert row[f"train_backward_steps/{part}"] > 0
        assert row["equilibrium_gate"] > 0.1


def test_nothing_is_watched_without_an_equilibrium(quick, tmp_path):
    plain = {key: value for key, value in quick.items() if key != "dim"}
    result = train(config(plain, fusion="concat", epochs=1), tmp_path / "run", progress=False)
    assert not any(key.startswith(("equilibrium", "train_backward")) for key in result.history[0])
    assert result.metrics["alerts"] == []


@pytest.mark.filterwarnings("ignore::equifuse.errors.ConvergenceWarning")
@pytest.mark.slow
def test_it_warns_once_of_each_thing_and_keeps_it(quick, tmp_path, caplog):
    solver = {"solver": {"name": "picard", "max_steps": 2}}
    with caplog.at_level(logging.WARNING, logger="equifuse.training"):
        result = train(config(quick, fusion_options=solver), tmp_path / "run", progress=False)
    alerts = result.metrics["alerts"]
    assert any("did not converge in 2 evaluations" in alert["message"] for alert in alerts)
    assert alerts[0]["epoch"] == 1
    kinds = [kind_of(alert["message"]) for alert in alerts]
    assert len(kinds) == len(set(kinds))
    assert [record.getMessage() for record in caplog.records] == [f"epoch {a['epoch']}: {a['message']}" for a in alerts]


def test_a_batch_on_another_device_is_moved_and_the_model_is_left_in_training_mode(quick):
    model = build_model({"a": 6, "b": (2, 2)}, "classification", 2, fusion="deq", fusion_options={"dim": 16}).train()
    batch = Batch({"a": torch.randn(5, 6), "b": torch.randn(5, 2, 2)})

    numbers = WatchEquilibrium(batch).look(model, torch.device("cpu"), epoch=3)
    assert model.training
    assert numbers["equilibrium_radius/fusion"] > 0


@pytest.mark.slow
def test_warm_starts_save_steps_and_end_where_cold_ones_end(quick, tmp_path):
    options = {
        "lr": 1e-4,
        "dropout": 0.0,
        "modality_dropout": 0.0,
        "fusion_options": {"solver": {"name": "anderson", "tol": 1e-6}},
    }
    cold = train(config(quick, **options), tmp_path / "cold", progress=False)
    warm = train(config(quick, **options, warm_start=True), tmp_path / "warm", progress=False)
    assert warm.history[0]["train_steps"] == cold.history[0]["train_steps"]
    assert warm.history[-1]["train_steps"] < cold.history[-1]["train_steps"] - 1
    for a, b in zip(cold.history, warm.history, strict=True):
        assert a["val_loss"] == pytest.approx(b["val_loss"], rel=1e-3)


def test_a_resumed_warm_start_is_the_uninterrupted_one_bit_for_bit(quick, tmp_path):
    options = config(quick, fusion="deq", warm_start=True, epochs=4)
    whole = train(options, tmp_path / "whole", progress=False)

    def stop(row, best):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(options, tmp_path / "cut", progress=stop)
    resumed = train(options, tmp_path / "cut", resume=True, progress=False)
    for a, b in zip(whole.history, resumed.history, strict=True):
        assert {key: a[key] for key in a if key != "seconds"} == {key: b[key] for key in b if key != "seconds"}
    weights = [(tmp_path / run / "model/model.safetensors").read_bytes() for run in ("whole", "cut")]
    assert weights[0] == weights[1]
