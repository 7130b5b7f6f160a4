import json
from dataclasses import replace
from itertools import chain, repeat

import numpy as np
import pytest
import torch
import yaml

import equifuse as ef
from equifuse.cli import main
from equifuse.data.batch import as_batch
from equifuse.data.loaders import batches_of
from equifuse.encoders.preparation import steps_of
from equifuse.evaluation.conditions import drop_modalities
from equifuse.runs import TrainConfig, evaluate_run, initial_model, load_run, predict_run, train
from equifuse.runs.folder import load_data
from equifuse.tasks import Classification


def config(quick, **options):
    return TrainConfig.from_dict({**quick, **options})


def test_run_folder(quick, tmp_path, small_set):
    seen = []
    result = train(config(quick), tmp_path / "run", progress=lambda row, best: seen.append((row["epoch"], best)))
    names = {str(p.relative_to(tmp_path / "run")) for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert names == {
        "config.yaml",
        "split.csv",
        "metrics.json",
        "history.json",
        "checkpoints/last.ckpt",
        "model/model.json",
        "model/model.safetensors",
        "plots/learning_curves.png",
        "plots/convergence.png",
        "plots/modality_removal.png",
    }
    assert [epoch for epoch, _ in seen] == [0, 1, 2, 3]
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics == result.metrics
    assert metrics["test"]["accuracy"] > 0.85
    assert metrics["convergence"]["converged"] == 1
    assert metrics["convergence_at_start"]["mean_steps"] > 2
    assert set(metrics["without"]) == {"a", "b"}
    assert metrics["epochs"] == 4
    stored = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert TrainConfig.from_dict({k: v for k, v in stored.items() if k != "run"}) == config(quick)
    assert stored["run"]["data"]["rows"] == {"train": 90, "val": 40, "test": 50}
    assert stored["run"]["data"]["fingerprint"] == ef.datasets.load(small_set).fingerprint()
    assert "torch" in stored["run"]["versions"]


@pytest.mark.slow
def test_the_stored_model_is_the_best_epoch_and_gives_the_stored_metrics(quick, tmp_path):
    result = train(
        config(quick, epochs=8, lr=0.01, modality_dropout=0.0, unimodal="none"), tmp_path / "run", progress=False
    )
    losses = [row["val_loss"] for row in result.history]
    assert result.metrics["best_epoch"] == losses.index(min(losses)) + 1
    assert result.metrics["val"]["loss"] == pytest.approx(min(losses), rel=1e-3)
    evaluated = evaluate_run(tmp_path / "run", split="test")
    for name, value in result.metrics["test"].items():
        assert evaluated[name] == pytest.approx(value, rel=1e-4)
    without = evaluate_run(tmp_path / "run", without=["b"])
    assert without["accuracy"] == pytest.approx(result.metrics["without"]["b"])


def weights(run):
    return load_run(run).model.state_dict()


def without_times(metrics):
    return {name: value for name, value in metrics.items() if name != "train_seconds"}


@pytest.mark.parametrize("fusion", [{"fusion": "deq"}, {"fusion": "gmf", "dim": None}])
@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_and_another_seed_another(quick, tmp_path, fusion):
    options = {**quick, **fusion, "modality_dropout": 0.3}
    torch.manual_seed(1)
    first = train(config(options), tmp_path / "a", progress=False)
    torch.manual_seed(2)  # what the caller does with the generators is of no account, and stays untouched
    state = torch.get_rng_state()
    second = train(config(options), tmp_path / "b", progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert without_times(first.metrics) == without_times(second.metrics)
    for name, tensor in weights(tmp_path / "a").items():
        assert torch.equal(tensor, weights(tmp_path / "b")[name]), name
    other = train(config(options, seed=1), tmp_path / "c", progress=False)
    assert without_times(first.metrics) != without_times(other.metrics)


class Interrupted(Exception):
    pass


@pytest.mark.slow
def test_interrupted_and_resumed_equals_uninterrupted(quick, tmp_path):
    chosen = config(quick, epochs=6, patience=2, modality_dropout=0.2)
    whole = train(chosen, tmp_path / "whole", progress=False)

    def stop(row, best):
        if row["epoch"] == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(chosen, tmp_path / "cut", progress=stop)
    assert not (tmp_path / "cut/metrics.json").exists()
    with pytest.raises(ef.DataError, match="not finished; resume it"):
        load_run(tmp_path / "cut")
    with pytest.raises(ef.OutputExistsError):
        train(chosen, tmp_path / "cut", progress=False)
    resumed = train(chosen, tmp_path / "cut", resume=True, progress=False)
    assert without_times(resumed.metrics) == without_times(whole.metrics)
    assert [row["val_loss"] for row in resumed.history] == [row["val_loss"] for row in whole.history]
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(tensor, weights(tmp_path / "cut")[name]), name
    # A finished run is returned as it is.
    before = (tmp_path / "cut/metrics.json").stat().st_mtime_ns
    assert train(chosen, tmp_path / "cut", resume=True, progress=False).metrics == resumed.metrics
    assert (tmp_path / "cut/metrics.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_early_stopping_watches_validation(quick, tmp_path, monkeypatch):
    losses = chain([3.0, 1.0, 2.0, 2.0, 2.0], repeat(9.0))
    original = Classification.gather

    def scripted(self, pairs):
        measured = original(self, pairs)
        return replace(measured, metrics={**measured.metrics, "loss": next(losses)})

    monkeypatch.setattr(Classification, "gather", scripted)
    result = train(
        config(quick, epochs=20, patience=3, modality_dropout=0.0, unimodal="none"), tmp_path / "run", progress=False
    )
    assert [row["val_loss"] for row in result.history] == [3, 1, 2, 2, 2]
    assert (result.metrics["epochs"], result.metrics["best_epoch"]) == (5, 2)


@pytest.mark.slow
def test_resume_refuses_other_options_and_other_data(quick, tmp_path, small_set):
    copy = tmp_path / "copy.npz"
    copy.write_bytes(small_set.read_bytes())
    chosen = config(quick, data=str(copy), epochs=1)
    train(chosen, tmp_path / "run", progress=False)
    with pytest.raises(ef.InputError, match=r"has epochs=1, not 2; resume it with the same options"):
        train(replace(chosen, epochs=2), tmp_path / "run", resume=True, progress=False)
    with pytest.raises(ef.DataError, match="nothing to resume"):
        train(chosen, tmp_path / "nowhere", resume=True, progress=False)
    with np.load(copy) as file:
        arrays = dict(file)
    arrays["a_test"] = arrays["a_test"] + 1
    np.savez(copy, **arrays)
    with pytest.raises(ef.DataError, match="has changed since"):
        evaluate_run(tmp_path / "run")


def test_nothing_is_written_for_a_mistake(quick, tmp_path):
    for options, error in (
        ({"data": str(tmp_path / "none.npz")}, ef.DataError),
        ({"data": "nothing"}, ef.UnknownNameError),
        ({"dim": 10}, ef.InputError),
        ({"fusion_options": {"solver": "andersen"}}, ef.UnknownNameError),
    ):
        with pytest.raises(error):
            train(config(quick, **options), tmp_path / "run", progress=False)
        assert not (tmp_path / "run").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    with pytest.raises(ef.OutputExistsError, match="not overwritten"):
        train(config(quick), tmp_path / "full", progress=False)
    assert (tmp_path / "full/notes.txt").read_text() == "mine"


def test_a_diverging_run_says_so(quick, tmp_path):
    with pytest.raises(ef.InputError, match="training diverged"):
        train(config(quick, fusion="concat", dim=None, lr=1e30), tmp_path / "run", progress=False)


def test_preprocessing_is_fitted_on_the_training_part_alone(quick):
    chosen = config(quick)
    dataset = ef.datasets.load(chosen.data)
    model = initial_model(chosen, dataset)
    train_part = dataset.splits["train"]
    there = {"a": train_part.inputs["a"], "b": train_part.inputs["b"][train_part.present["b"]]}
    for name, x in there.items():
        impute, standardise = steps_of(model.encoders[name])
        flat = x.reshape(len(x), -1)
        torch.testing.assert_close(impute.fill, torch.from_numpy(np.median(flat, axis=0)))
        torch.testing.assert_close(standardise.mean, torch.from_numpy(flat.mean(0)), rtol=1e-5, atol=1e-6)


def test_sequences_without_padding_are_prepared_step_by_step(tmp_path):
    x = np.random.default_rng(0).normal([0.0, 5.0], 1.0, (60, 7, 2)).astype("float32")
    parts = {"train_idx": np.arange(40), "val_idx": np.arange(40, 50), "test_idx": np.arange(50, 60)}
    np.savez(tmp_path / "set.npz", modalities=["a"], task="classification", a=x, y=np.arange(60) % 2, **parts)
    options = {"data": str(tmp_path / "set.npz"), "fusion": "concat", "encoder": "max", "hidden": [4]}
    model = initial_model(TrainConfig.from_dict(options), load_data(TrainConfig.from_dict(options)))
    last = steps_of(model.encoders["a"])[-1]
    np.testing.assert_allclose(last.mean.numpy(), x[:40].mean((0, 1)), rtol=1e-4, atol=1e-5)
    assert model({"a": torch.from_numpy(x[:3])}).prediction.shape == (3, 2)


def test_weight_decay_leaves_gains_and_biases_alone(quick):
    from equifuse.training.optimization import split_by_decay

    chosen = config(quick)
    model = initial_model(chosen, ef.datasets.load(chosen.data))
    matrices, others = split_by_decay(model)
    names = {id(p): name for name, p in model.named_parameters()}
    assert len(matrices) + len(others) == len(names)
    assert {names[id(p)] for p in matrices} == {
        "encoders.a.2.layers.0.weight",
        "encoders.b.3.layers.0.weight",
        "fusion.project.a.weight",
        "fusion.project.b.weight",
        "fusion.blocks.weight1",
        "fusion.blocks.weight2",
        "fusion.gate.weight",
        "fusion.mix.weight",
        "head.linear.weight",
        "unimodal.heads.a.weight",
        "unimodal.heads.b.weight",
    }


def test_batches_cover_the_split_in_another_order_each_epoch(quick):
    batches = batches_of(ef.datasets.load(quick["data"]).splits["train"], 32, seed=0)
    assert len(batches) == 3
    first = torch.cat([b.inputs["a"] for b in batches])
    again = torch.cat([b.inputs["a"] for b in batches])
    batches.epoch = 1
    second = torch.cat([b.inputs["a"] for b in batches])
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert torch.equal(first.sort(0).values, second.sort(0).values)


def test_modality_dropout_keeps_one_of_those_there(quick):
    whole = as_batch(ef.datasets.load(quick["data"]).splits["train"])
    shares = []
    for _ in range(20):
        dropped = drop_modalities(whole, 0.5)
        kept = torch.stack(list(dropped.present.values()))
        assert bool(kept.any(0).all())
        assert not bool((dropped.present["b"] & ~whole.present["b"]).any())
        shares.append(float(kept[0][whole.present["b"]].float().mean()))
    # With both there: kept by its own draw, or as the luckier one where both would go.
    assert np.mean(shares) == pytest.approx(0.5 + 0.25 / 2, abs=0.05)


def test_predictions_are_those_of_the_model_whatever_the_file(quick, tmp_path):
    import pyarrow as pa
    from pyarrow import csv, parquet

    train(config(quick), tmp_path / "run", progress=False)
    test = ef.datasets.load(quick["data"]).splits["test"]
    absent = ~test.present["b"]
    table = {"id": test.ids}
    table |= {f"a:gene{i}": test.inputs["a"][:, i] for i in range(6)}
    table |= {f"b_{i}": pa.array(test.inputs["b"].reshape(-1, 4)[:, i], mask=absent) for i in range(4)}
    csv.write_csv(pa.table(table), tmp_path / "in.csv")
    parquet.write_table(pa.table(table), tmp_path / "in.parquet")
    np.savez(tmp_path / "in.npz", a=test.inputs["a"], b=test.inputs["b"])
    written = {}
    for suffix in ("csv", "parquet", "npz"):
        columns = predict_run(tmp_path / "run", tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}")
        assert list(columns)[1:] == ["prediction", "prob_no", "prob_yes", "converged", "residual", "steps"]
        written[suffix] = columns
    for suffix in ("parquet", "npz"):
        np.testing.assert_allclose(written[suffix]["prob_yes"], written["csv"]["prob_yes"], rtol=1e-4, atol=1e-5)
    assert written["csv"]["id"].tolist() == test.ids.tolist()
    assert written["npz"]["row"].tolist() == list(range(50))
    accuracy = np.mean(written["csv"]["prediction"] == np.array(["no", "yes"])[test.target])
    assert accuracy == pytest.approx(evaluate_run(tmp_path / "run")["accuracy"])
    read = csv.read_csv(tmp_path / "out.csv").to_pydict()
    np.testing.assert_allclose(read["prob_yes"], written["csv"]["prob_yes"], rtol=1e-9)
    assert read["converged"] == [True] * 50
    assert parquet.read_table(tmp_path / "out.parquet").to_pydict()["id"] == test.ids.tolist()
    assert set(np.load(tmp_path / "out.npz", allow_pickle=False)["prediction"]) == {"no", "yes"}
    with pytest.raises(ef.OutputExistsError):
        predict_run(tmp_path / "run", tmp_path / "in.csv", tmp_path / "out.csv")
    with pytest.raises(ef.InputError, match="cannot write '.xls'"):
        predict_run(tmp_path / "run", tmp_path / "in.csv", tmp_path / "out.xls")
    (tmp_path / "none.csv").write_text("a_0,a_1,a_2,a_3,a_4,a_5\n")
    with pytest.raises(ef.DataError, match="has no rows"):
        predict_run(tmp_path / "run", tmp_path / "none.csv", tmp_path / "new.csv")
    assert not (tmp_path / "new.csv").exists()


@pytest.mark.slow
def test_other_data_must_fit_the_model(quick, tmp_path):
    train(config(quick, epochs=1), tmp_path / "run", progress=False)
    with pytest.raises(ef.UnknownNameError, match="unknown modality 'pixels'"):
        evaluate_run(tmp_path / "run", data="digits")
    with pytest.raises(ef.UnknownNameError, match="did you mean 'test'"):
        evaluate_run(tmp_path / "run", split="tets")
    with pytest.raises(ef.UnknownNameError, match="modality 'c'"):
        evaluate_run(tmp_path / "run", without=["c"])
    with pytest.raises(ef.InputError, match="at least one must stay"):
        evaluate_run(tmp_path / "run", without=["a", "b"])
    with pytest.raises(ef.DataError, match="no run at"):
        evaluate_run(tmp_path)


@pytest.mark.parametrize("task", ["multilabel", "regression", "retrieval"])
@pytest.mark.slow
def test_the_other_tasks_train(task, tmp_path):
    from equifuse.datasets import MultimodalDataset, Split, write_npz

    generator = np.random.default_rng(0)
    splits = {}
    mixing = generator.normal(size=(3, 5))
    for part, n in (("train", 120), ("val", 40), ("test", 40)):
        hidden = generator.normal(size=(n, 3))
        target = {"multilabel": (hidden > 0), "regression": hidden * 3 + 10, "retrieval": None}[task]
        inputs = {"a": hidden @ mixing, "b": np.tanh(hidden)}
        splits[part] = Split(
            {m: x.astype(np.float32) for m, x in inputs.items()},
            target=None if target is None else target.astype(np.float32),
        )
    write_npz(tmp_path / "set.npz", MultimodalDataset("set", splits, task))
    options = {"data": str(tmp_path / "set.npz"), "dim": 32, "hidden": [32], "epochs": 30, "lr": 2e-3, "dropout": 0.0}
    result = train(TrainConfig.from_dict(options), tmp_path / "run", progress=False)
    score = {"multilabel": "f1_macro", "regression": "r2", "retrieval": "recall@10"}[task]
    assert result.metrics["test"][score] > 0.75
    columns = predict_run(tmp_path / "run", tmp_path / "set.npz", tmp_path / "out.npz")
    assert len(columns["row"]) == 40


@pytest.mark.slow
def test_the_loose_protocol_trains_on_more_and_selects_on_test(quick, tmp_path, capsys):
    loose = config(quick, epochs=6, patience=1, protocol="loose")
    dataset = load_data(loose)
    clean = load_data(config(quick))
    joined = dataset.splits["train"]
    assert len(joined) == len(clean.splits["train"]) + len(clean.splits["val"])
    assert list(joined.ids) == [*clean.splits["train"].ids, *clean.splits["val"].ids]
    np.testing.assert_array_equal(joined.present["b"], ~np.isnan(joined.inputs["b"]).any(axis=(1, 2)))
    assert dataset.splits["val"] is dataset.splits["test"]
    result = train(loose, tmp_path / "run", progress=False)
    scores = [row["val_accuracy"] for row in result.history]  # on test
    assert len(scores) == 6  # no early stopping
    assert result.metrics["test"]["accuracy"] == pytest.approx(max(scores))
    assert "val" not in result.metrics
    assert result.metrics["protocol"].startswith("loose: ")
    with pytest.raises(SystemExit):
        main(["evaluate", str(tmp_path / "run")])
    assert "chosen on the test part" in capsys.readouterr().err
    assert train(config(quick, epochs=1), tmp_path / "clean", progress=False).metrics["protocol"].startswith("clean: ")
    with pytest.raises(ef.UnknownNameError, match="protocol 'lose'; did you mean 'loose'"):
        config(quick, protocol="lose")
