"""The trainer: callbacks, loggers, optimisers, schedules, groups of parameters, and going on where it was."""

import csv
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger
from torch import nn

import equifuse as ef
from equifuse.data.lazy import NpyArray
from equifuse.registry import LOGGERS
from equifuse.runs import TrainConfig, initial_model, load_run, train
from equifuse.training import Trainer, TrainingOptions
from equifuse.training.optimization import Cosine, make_optimizer, make_schedule, parameter_groups

OPTIONS = {"hidden": [8], "fusion": "concat", "epochs": 3, "batch_size": 32, "lr": 5e-3}


@pytest.fixture
def data(small_set):
    return ef.datasets.load(small_set)


def model_for(data, **options):
    return initial_model(TrainConfig.from_dict({"data": "digits", **OPTIONS, **options}), data)


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_model_of_ones_own(data):
    model = ef.build_model(data.shapes, data.task, data.n_outputs, fusion="gmf", classes=data.classes)
    result = Trainer(epochs=4, lr=0.01, patience=4).fit(model, data)
    losses = [(row["val_loss"] + row["val_reduced_loss"]) / 2 for row in result.history]
    assert result.best_value == min(losses)
    assert result.best_epoch == losses.index(min(losses)) + 1
    assert not model.training
    alone = Trainer(epochs=2).fit(model, data.splits["train"])
    assert alone.best_epoch is None
    assert "val_loss" not in alone.history[-1]


class Watching(Callback):
    def __init__(self):
        self.seen = []

    def on_validation_end(self, trainer, pl_module):
        self.seen.append(dict(trainer.callback_metrics))


def test_callbacks_of_lightning_find_what_they_look_for(data, tmp_path):
    watching = Watching()
    keep = ModelCheckpoint(tmp_path, monitor="val_accuracy", mode="max", save_top_k=1)
    stop = EarlyStopping("val_loss", patience=0, mode="max")  # the loss falls: it stops after two epochs
    result = Trainer(epochs=6, lr=0.01, callbacks=[watching, keep, stop]).fit(model_for(data), data)
    assert len(result.history) == 2
    assert {"val_loss", "val_accuracy", "val_f1_macro"} <= set(watching.seen[0])
    assert {"train_loss", "train_task_loss"} <= set(watching.seen[1])  # of the epoch before
    assert float(watching.seen[0]["val_loss"]) == pytest.approx(result.history[0]["val_loss"], rel=1e-6)
    assert len(list(tmp_path.glob("*.ckpt"))) == 1


def test_the_csv_logger_has_the_numbers_of_every_epoch(quick, tmp_path):
    config = TrainConfig.from_dict({**quick, "epochs": 2, "logger": "csv"})
    result = train(config, tmp_path / "run", progress=False)
    with (tmp_path / "run/logs/version_0/metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for name in ("val_loss", "val_accuracy", "train_loss", "train_steps", "equilibrium_gate"):
        logged = [float(row[name]) for row in rows if row[name]]
        assert logged == pytest.approx([row[name] for row in result.history], rel=1e-5), name


def test_a_logger_of_ones_own_by_name_and_by_instance(data, tmp_path):
    class Memory(Logger):
        name, version = "memory", "0"

        def __init__(self, out, options):
            self.options, self.steps = options, []
            MADE.append(self)

        def log_hyperparams(self, *args, **kwargs):
            pass

        def log_metrics(self, metrics, step=None):
            self.steps.append(metrics)

    MADE = []
    LOGGERS.register(Memory)
    try:
        own = CSVLogger(tmp_path, name="mine")
        trainer = Trainer(epochs=1, logger=["memory", own], out=tmp_path / "run")
        trainer.fit(model_for(data), data)
        Trainer(epochs=1, **{"logger": "memory"}, logger_options={}, out=tmp_path / "other")
    finally:
        LOGGERS.unregister("memory")
    assert any("val_loss" in metrics for metrics in MADE[0].steps)
    assert (tmp_path / "mine/version_0/metrics.csv").is_file()


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_logger_whose_package_is_missing_says_so_before_anything_is_written(name, quick, tmp_path, monkeypatch):
    from lightning.pytorch import loggers

    kind = {"tensorboard": "TensorBoardLogger", "wandb": "WandbLogger", "mlflow": "MLFlowLogger"}[name]

    def missing(self, save_dir=None, name=None, run_name=None, project=None):
        raise ModuleNotFoundError("it is not there")

    monkeypatch.setattr(loggers, kind, type(kind, (), {"__init__": missing}))
    with pytest.raises(ef.InputError, match=f"logger '{name}' needs the package {name}: pip install {name}"):
        train(TrainConfig.from_dict({**quick, "logger": name}), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_mistakes_of_loggers(tmp_path):
    with pytest.raises(ef.UnknownNameError, match="did you mean 'prefix'"):
        Trainer(logger_options={"prefx": "x"}, out=tmp_path, **{"logger": None}, options=TrainingOptions(logger="csv"))
    with pytest.raises(ef.InputError, match="needs a folder"):
        Trainer(logger="csv")
    with pytest.raises(ef.InputError, match="has the name of its logger"):
        Trainer(TrainingOptions(logger=("csv", "tensorboard"), logger_options={"prefix": "x"}), out=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["adam", "sgd", "rmsprop", "adagrad", "adadelta", "adamax", "nadam", "radam", "asgd"])
def test_every_optimiser_trains(name, data):
    model = model_for(data)
    before = state_of(model)
    Trainer(epochs=1, optimizer=name, lr=0.01).fit(model, data)
    assert any(not torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_an_optimiser_of_ones_own(data):
    made = []

    def optimizer(groups):
        made.append(torch.optim.SGD(groups, momentum=0.5))
        return made[-1]

    Trainer(epochs=1, lr=0.02, optimizer=optimizer).fit(model_for(data), data)
    assert {(group["lr"], group["momentum"]) for group in made[0].param_groups} == {(0.02, 0.5)}
    with pytest.raises(ef.UnknownNameError, match="did you mean 'momentum'"):
        make_optimizer(nn.Linear(2, 2), TrainingOptions(optimizer="sgd", optimizer_options={"momentun": 0.9}))
    with pytest.raises(ef.InputError, match="optimizer 'sgd': Invalid momentum"):
        make_optimizer(nn.Linear(2, 2), TrainingOptions(optimizer="sgd", optimizer_options={"momentum": -1}))


def test_groups_of_parameters(data):
    model = model_for(data)
    names = {id(p): name for name, p in model.named_parameters()}
    options = TrainingOptions(
        lr=0.1,
        weight_decay=0.2,
        encoder_lr=0.01,
        parameter_groups={"encoders.b.*": {"lr": 0.03}, "head.*": {"freeze": True}, "*.bias": {"weight_decay": 0.5}},
    )
    found = {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in parameter_groups(model, options)
        for p in group["params"]
    }
    assert not any(name.startswith("head.") for name in found)
    assert found["encoders.a.2.layers.0.weight"] == (0.01, 0.2)
    assert found["encoders.b.3.layers.0.weight"] == (0.03, 0.2)
    assert found["encoders.b.3.layers.0.bias"] == (0.03, 0.5)
    plain = parameter_groups(model, TrainingOptions())
    assert [(group["lr"], group["weight_decay"]) for group in plain] == [(1e-3, 1e-4), (1e-3, 0.0)]
    with pytest.raises(ef.InputError, match=r"'heads.\*' has no parameter; there are encoders.a.\*, .*head.linear"):
        parameter_groups(model, TrainingOptions(parameter_groups={"heads.*": {"lr": 1.0}}))
    with pytest.raises(ef.InputError, match="no parameter is left to train"):
        Trainer(parameter_groups={"*": {"freeze": True}}).fit(model, data)


def test_frozen_encoders_stay_as_they_are_and_can_learn_again(data):
    model = model_for(data)
    before = state_of(model)
    Trainer(epochs=1, freeze_encoders=True).fit(model, data)
    moved = {key for key, tensor in model.state_dict().items() if not torch.equal(before[key], tensor)}
    assert moved
    assert not any(key.startswith("encoders.") for key in moved)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_gradients_are_clipped(data):
    class Norms(Callback):
        largest = 0.0

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            norms = [p.grad.norm() for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            self.largest = max(self.largest, float(torch.stack(norms).norm()))

    class AfterClipping(torch.optim.SGD):
        largest = 0.0

        def step(self, closure=None):
            # Lightning computes and clips the gradients in the closure.
            result = super().step(closure)
            norms = [p.grad.norm() for group in self.param_groups for p in group["params"] if p.grad is not None]
            AfterClipping.largest = max(AfterClipping.largest, float(torch.stack(norms).norm()))
            return result

    norms = Norms()
    trainer = Trainer(epochs=1, gradient_clip=0.01, optimizer=AfterClipping, callbacks=[norms])
    trainer.fit(model_for(data), data)
    assert norms.largest > 0.1  # before
    assert AfterClipping.largest == pytest.approx(0.01, rel=1e-3)


def rates(options, steps, values=None):
    """Learning rate of each step; a plateau sees a value after each."""
    optimizer = make_optimizer(nn.Linear(2, 2), options)
    schedule = make_schedule(optimizer, options, steps)
    found = []
    for step in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if schedule.per_step is not None:
            schedule.per_step.step()
        if schedule.plateau is not None and values is not None:
            schedule.plateau.step(values[step])
    return found


def test_schedules():
    base = {"lr": 1.0, "epochs": 10, "optimizer": "sgd"}
    assert rates(TrainingOptions(**base), 10) == [1.0] * 10
    assert rates(TrainingOptions(**base, warmup=4), 10) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1])
    cosine = rates(TrainingOptions(**base, schedule="cosine", schedule_options={"final": 0.1}), 10)
    assert cosine == pytest.approx([0.1 + 0.45 * (1 + math.cos(math.pi * k / 10)) for k in range(10)])
    warm = rates(TrainingOptions(**base, schedule="cosine", warmup=2), 10)
    assert warm[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert warm[2:] == sorted(warm[2:], reverse=True)
    cycle = rates(TrainingOptions(**base, schedule="one_cycle", warmup=3), 10)
    assert max(cycle) == pytest.approx(1.0)
    assert cycle.index(max(cycle)) == 2
    plateau = TrainingOptions(**base, schedule="plateau", schedule_options={"patience": 1, "factor": 0.1}, warmup=2)
    found = rates(plateau, 10, [5, 4, 3, 3, 3, 3, 3, 3, 3, 3])
    assert found == pytest.approx([0.5, 1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.001])
    assert Cosine(10)(10) == 0
    with pytest.raises(ef.UnknownNameError, match="did you mean 'final'"):
        rates(TrainingOptions(**base, schedule="cosine", schedule_options={"finale": 0.1}), 10)
    with pytest.raises(ef.InputError, match="final of schedule 'cosine'"):
        rates(TrainingOptions(**base, schedule="cosine", schedule_options={"final": 2}), 10)
    with pytest.raises(ef.UnknownNameError, match="option of schedule 'constant'"):
        rates(TrainingOptions(**base, schedule_options={"final": 2}), 10)
    with pytest.raises(ef.InputError, match="schedule 'plateau': Factor"):
        rates(TrainingOptions(**base, schedule="plateau", schedule_options={"factor": 2}), 10)


class Stopped(Exception):
    pass


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "optimizer_options": {"momentum": 0.9}, "schedule": "cosine", "warmup": 1},
        {"schedule": "one_cycle"},
        {"schedule": "plateau", "schedule_options": {"patience": 0, "threshold": 0.5}, "warmup": 1.5},
        {"gradient_clip": 0.5, "encoder_lr": 1e-3, "parameter_groups": {"*.bias": {"lr": 0.1}}, "optimizer": "nadam"},
    ],
    ids=["cosine", "one_cycle", "plateau", "groups"],
)
@pytest.mark.slow
def test_an_interrupted_run_goes_on_bit_for_bit_with_its_optimiser_and_schedule(options, quick, tmp_path):
    config = TrainConfig.from_dict({**quick, "fusion": "gmf", "dim": None, "epochs": 6, "lr": 0.02, **options})
    whole = train(config, tmp_path / "whole", progress=False)

    def stop(row, best):
        if row["epoch"] in epochs:
            epochs.remove(row["epoch"])
            raise Stopped

    epochs = [2, 4]
    for resume in (False, True):
        with pytest.raises(Stopped):
            train(config, tmp_path / "cut", resume=resume, progress=stop)
    resumed = train(config, tmp_path / "cut", resume=True, progress=False)
    for a, b in zip(whole.history, resumed.history, strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}
    weights = [(tmp_path / run / "model/model.safetensors").read_bytes() for run in ("whole", "cut")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_any_metric_can_be_watched_and_shown(quick, tmp_path):
    options = {**quick, "epochs": 6, "lr": 0.02, "monitor": "val_f1_macro", "metric": ["auc", "f1_macro"]}
    result = train(TrainConfig.from_dict(options), tmp_path / "run", progress=False)
    scores = [row["val_f1_macro"] for row in result.history]
    assert result.metrics.best_epoch == scores.index(max(scores)) + 1
    run = load_run(tmp_path / "run")
    assert (run.task.headline, run.task.monitor, run.config.monitor) == ("auc", "f1_macro", "f1_macro")
    with pytest.raises(ef.UnknownNameError, match="did you mean 'f1_macro'"):
        train(TrainConfig.from_dict({**options, "monitor": "f1_makro"}), tmp_path / "other", progress=False)
    assert not (tmp_path / "other").exists()


def test_a_metric_that_validation_does_not_have_is_one_clear_line(data):
    val = data.splits["val"].select(np.flatnonzero(data.splits["val"].target == 0))
    with pytest.raises(ef.InputError, match="validation auc was undefined in every epoch: class 'yes' does not occur"):
        Trainer(epochs=2, monitor="auc").fit(model_for(data), data.splits["train"], val)


def test_tuning_minimises_whatever_is_watched(quick):
    from equifuse.benchmark.job import Job, measure

    found = {}
    for monitor in (None, "accuracy"):
        config = TrainConfig.from_dict({**quick, **OPTIONS, "dim": None, "monitor": monitor})
        found[monitor] = measure(Job("small", "concat", config, "", trial=0)).monitor
    assert found[None] > 0  # a loss
    assert -1 <= found["accuracy"] < -0.5


@pytest.mark.parametrize("options", [{"prepare": "log1p,quantile"}, {"row_missing": 0.4}])
def test_preparing_once_gives_the_numbers_of_preparing_each_batch(data, options):
    def hollow(split):
        inputs = {m: np.abs(x).copy() for m, x in split.inputs.items()}
        for m, x in inputs.items():
            x[split.present.get(m, np.ones(len(x), bool))] *= 1 + len(m)
            x[::3, :1] = np.nan
        return replace(split, inputs=inputs)

    data = replace(data, splits={part: hollow(split) for part, split in data.splits.items()})
    config = {"modality_dropout": 0.0 if "row_missing" in options else 0.2, **options}
    results = []
    for callbacks in ([], [Callback()]):  # a callback may look at rows as they are: every batch is prepared anew
        model = model_for(data, **config)
        trained = Trainer(TrainConfig.from_dict({"data": "digits", **OPTIONS, **config}), callbacks=callbacks)
        history = trained.fit(model, data).history
        assert all(getattr(encoder, "skipped", 0) == 0 for encoder in model.encoders.values())
        assert model.shapes == data.shapes
        results.append(([{k: v for k, v in row.items() if k != "seconds"} for row in history], state_of(model)))
    (once, weights), (each, others) = results
    assert once == each
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_a_modality_on_disk_is_prepared_batch_by_batch(data, tmp_path):
    from equifuse.training.prepared import prepared_once

    split = data.splits["train"]
    m = data.modalities[0]
    np.save(tmp_path / "x.npy", split.inputs[m])
    lazy = replace(split, inputs={**split.inputs, m: NpyArray(tmp_path / "x.npy")})
    model = model_for(data)
    with prepared_once(model, [lazy]) as (same,):
        assert same is lazy
    with prepared_once(model, [split]) as (ready,):
        assert not np.array_equal(ready.inputs[m], split.inputs[m])
