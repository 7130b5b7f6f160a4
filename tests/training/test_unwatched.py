"""Training in memory alone: without validation, without files; with weights of samples."""

import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

import equifuse as ef
from equifuse.datasets import Split
from equifuse.runs import TrainConfig, train
from equifuse.runs.folder import task_of
from equifuse.runs.prepare import model_for
from equifuse.training import Trainer

COUNTS = np.array([2, 0, 1, 3, 1, 0, 2, 1])


def _split(weight=None):
    generator = np.random.default_rng(0)
    x = {m: generator.normal(size=(len(COUNTS), 3)) for m in ("a", "b")}
    return Split(x, {"b": np.arange(len(COUNTS)) % 4 != 2}, np.arange(len(COUNTS)) % 2, weight=weight)


def _trained(split, **options):
    config = TrainConfig(
        "x",
        **{
            "fusion": "sum",
            "hidden": 4,
            "dropout": 0.0,
            "batch_size": 64,
            "epochs": 1,
            "modality_dropout": 0,
            **options,
        },
    )
    model = model_for(config, split, "classification", 2)
    return model, Trainer(config).fit(model, split, task=task_of(model, config))


def test_a_step_with_weights_is_one_with_repeated_samples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = _split()
    weighted, _ = _trained(replace(plain, weight=COUNTS.astype(float)))
    repeated, _ = _trained(plain.select(np.repeat(np.arange(len(COUNTS)), COUNTS)))
    for name, tensor in repeated.state_dict().items():
        torch.testing.assert_close(weighted.state_dict()[name], tensor, msg=lambda text, n=name: f"{n}: {text}")
    unweighted = _trained(plain)[0].state_dict()
    assert any(not torch.allclose(unweighted[k], v) for k, v in weighted.state_dict().items())
    assert not list(tmp_path.iterdir())  # nothing is written


def test_without_validation_the_last_weights_stay():
    model, result = _trained(_split(), epochs=3)
    assert len(result.history) == 3
    assert result.best_epoch is None
    assert not model.training
    assert not any(name.startswith("val_") for name in result.history[-1])


def test_divergence_without_validation():
    with pytest.raises(ef.InputError, match="diverged in epoch"):
        _trained(_split(), lr=1e38, epochs=30)


def test_the_optimiser_goes_on_where_it_was():
    split = _split()
    model, first = _trained(split)
    made = []

    def optimizer(groups):
        made.append(torch.optim.AdamW(groups))
        return made[-1]

    for known, steps in ((None, 1), (first.optimizer_state, 2)):
        trainer = Trainer(lr=1e-5, epochs=1, batch_size=64, optimizer=optimizer)
        result = trainer.fit(model, split, optimizer_state=known)
        assert {int(value["step"]) for value in result.optimizer_state.values()} == {steps}
        assert {group["lr"] for group in made[-1].param_groups} == {1e-5}


def test_in_a_thread_of_a_process_that_ignores_interrupts(small_set, tmp_path):
    """As a benchmark in one process does when it is started in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        config = TrainConfig.from_dict({"data": str(small_set), "fusion": "concat", "epochs": 1})
        with ThreadPoolExecutor(1) as pool:
            result = pool.submit(train, config, tmp_path / "run", progress=False).result()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.metrics["epochs"] == 1
