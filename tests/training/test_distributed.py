"""Two processes on one machine (gloo) against one process with the doubled batch."""

import os
import socket
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributed
from torch import multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import equifuse as ef
from equifuse.data.batch import Batch
from equifuse.data.loaders import MemoryBatches
from equifuse.files import read_json
from equifuse.runs import TrainConfig, train
from equifuse.training.distributed import ShardedBatches, process_group_info

pytestmark = pytest.mark.slow

DIMS = {"a": 6, "b": 4}


def test_where_a_process_is(monkeypatch):
    config = TrainConfig(data="digits", devices=2, nodes=2)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert (process_group_info(config).rank, process_group_info(config).world, process_group_info(config).writes) == (
        0,
        4,
        True,
    )
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("NODE_RANK", "1")
    assert (process_group_info(config).rank, process_group_info(config).writes) == (3, False)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert process_group_info(TrainConfig(data="digits")).world == 3
    assert process_group_info(TrainConfig(data="digits")).rank == 2
    with pytest.raises(ef.InputError, match="3 processes were started"):
        process_group_info(config)
    with pytest.raises(ef.InputError, match="one process"):
        process_group_info(TrainConfig(data="digits", balance="ogm_ge"))


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 4), st.booleans())
def test_every_row_belongs_to_one_process_and_shares_make_the_mean(count, size, world, weighted):
    values = torch.arange(1.0, count + 1)
    weight = values % 3 + 0.5 if weighted else None
    whole = MemoryBatches(Batch({"x": values[:, None]}, index=torch.arange(count), weight=weight), size, seed=1)
    parts = [list(ShardedBatches(whole, rank, world)) for rank in range(world)]
    assert {len(part) for part in parts} == {len(ShardedBatches(whole, 0, world))} == {len(whole)}
    for step, batch in enumerate(whole):
        mean = torch.nn.functional.mse_loss(batch.inputs["x"], torch.zeros(len(batch), 1), reduction="none")
        own = [part[step] for part in parts]
        seen = torch.cat([part.index for part in own if part.share])
        assert sorted(seen.tolist()) == sorted(batch.index.tolist())
        w = torch.ones(len(batch)) if weight is None else batch.weight
        expected = (w * mean.squeeze(1)).sum() / w.sum()
        found = 0.0
        for part in own:
            v = torch.ones(len(part)) if weight is None else part.weight
            found += part.share * (v * part.inputs["x"].squeeze(1) ** 2).sum() / v.sum()
        torch.testing.assert_close(found / world, expected)


def model_and_batch(name):
    torch.manual_seed(0)
    options = {"dim": 16, "solver": ef.Anderson(tol=1e-12, max_steps=300)} if name == "deq" else {}
    model = ef.build_model(DIMS, "classification", 3, fusion=name, fusion_options=options, encoder="identity").double()
    return model, {m: torch.randn(8, width, dtype=torch.float64) for m, width in DIMS.items()}, torch.arange(8) % 3


def loss_of(model, x, y):
    out = model(x)
    return torch.nn.functional.cross_entropy(out.prediction, y) + sum(0.1 * v for v in out.fusion.losses.values())


def on_two_processes(work, folder, name):
    """Run ``work(rank, port, folder, name)`` for both ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, args=(port, str(folder), name), nprocs=2)


def one_of_two(rank, port, folder, name):
    """A step on half of the batch; then cases in which distributed training of implicit layers is known to fail."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    model, x, y = model_and_batch(name)
    own = torch.arange(rank, 8, 2)
    mine, target = {m: v[own] for m, v in x.items()}, y[own]
    found = {}

    def gradients():
        return {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}

    parallel = DistributedDataParallel(model, find_unused_parameters=True)
    loss_of(parallel, mine, target).backward()
    found["plain"] = gradients()
    model.zero_grad()
    # The second process has no "b" at all: the parameters that only "b" uses are without a gradient there.
    loss_of(parallel, mine if rank == 0 else {"a": mine["a"]}, target).backward()
    found["unused"] = gradients()
    model.zero_grad()
    with parallel.no_sync():
        loss_of(parallel, {m: v[:2] for m, v in mine.items()}, target[:2]).backward()
    loss_of(parallel, {m: v[2:] for m, v in mine.items()}, target[2:]).backward()
    found["accumulated"] = gradients()
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.barrier()  # none leaves while another still reads from it
    distributed.destroy_process_group()


@pytest.mark.parametrize("name", ["deq", "gmf"])
def test_gradients_of_two_processes_are_those_of_the_whole_batch(name, tmp_path):
    on_two_processes(one_of_two, tmp_path, name)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    model, x, y = model_and_batch(name)

    def expected(loss):
        model.zero_grad()
        loss.backward()
        return {key: p.grad for key, p in model.named_parameters() if p.grad is not None}

    def half(rank, rows=slice(None), without=()):
        own = torch.arange(rank, 8, 2)[rows]
        return loss_of(model, {m: v[own] for m, v in x.items() if m not in without}, y[own])

    every = slice(None)
    wanted = {
        "plain": (half(0) + half(1)) / 2,
        "unused": (half(0) + half(1, every, ("b",))) / 2,
        "accumulated": sum(half(rank, rows) for rank in range(2) for rows in (slice(2), slice(2, 4))) / 2,
    }
    for case, loss in wanted.items():
        gradients = expected(loss)
        assert gradients
        for key, value in gradients.items():
            torch.testing.assert_close(first[case][key], value, rtol=1e-8, atol=1e-10, msg=f"{case} {key}")
            assert torch.equal(first[case][key], second[case][key])


def one_of_two_shards(rank, port, folder, name):
    """A step on half of the batch, each process holding half of every parameter; with the encoders sharded apart."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    model, x, y = model_and_batch(name)
    mesh = init_device_mesh("cpu", (2,))
    for part in (model.fusion, model.head, model):
        fully_shard(part, mesh=mesh)
    held = sum(p.to_local().numel() for p in model.parameters())
    assert held < 0.7 * sum(p.numel() for p in model.parameters())
    own = torch.arange(rank, 8, 2)
    loss_of(model, {m: v[own] for m, v in x.items()}, y[own]).backward()
    found = {key: p.grad.full_tensor() for key, p in model.named_parameters() if p.grad is not None}
    if rank == 0:
        torch.save(found, f"{folder}/found.pt")
    distributed.barrier()  # none leaves while another still reads from it
    distributed.destroy_process_group()


@pytest.mark.parametrize("name", ["deq", "gmf"])
def test_gradients_of_sharded_parameters_are_those_of_the_whole_batch(name, tmp_path):
    """FSDP gathers parameters for the forward pass and again for the backward pass: of an implicit layer, too."""
    on_two_processes(one_of_two_shards, tmp_path, name)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    model, x, y = model_and_batch(name)
    halves = [torch.arange(rank, 8, 2) for rank in range(2)]
    sum(loss_of(model, {m: v[own] for m, v in x.items()}, y[own]) for own in halves).div(2).backward()
    expected = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-8, atol=1e-10, msg=key)


OPTIONS = {
    "dropout": 0.0,
    "epochs": 3,
    "hidden": [16],
    "lr": 5e-3,
    "seed": 3,
    "modality_dropout": 0.0,
    "unimodal": "none",
}


@pytest.mark.parametrize("launcher", ["torchrun", "lightning"])
def test_a_run_of_two_processes_equals_one_with_the_doubled_batch(launcher, small_set, tmp_path):
    """90 rows in batches of 2 × 16: the last one has 26, of which each process has 13."""
    words = ["train", "--data", str(small_set), "--fusion", "gmf", "--hidden", "16", "--dropout", "0", "--epochs", "3"]
    words += ["--lr", "5e-3", "--seed", "3", "--batch-size", "16", "--out", str(tmp_path / "two"), "--quiet"]
    # The means of the reconstruction and of unimodal losses are over the rows that have a modality: of each process.
    words += ["--set", "reconstruction_weight=0", "--modality-dropout", "0", "--unimodal", "none"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if launcher == "torchrun":
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command += ["-m", "equifuse", *words]
    else:
        command = [sys.executable, "-m", "equifuse", *words, "--devices", "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    base = {"data": str(small_set), "fusion": "gmf", "batch_size": 32}
    base["fusion_options"] = {"reconstruction_weight": 0}
    config = TrainConfig.from_dict({**base, **OPTIONS})
    one = train(config, tmp_path / "one", progress=False)
    two = read_json(tmp_path / "two/history.json")
    assert [row["val_loss"] for row in two] == pytest.approx([row["val_loss"] for row in one.history], rel=1e-4)
    assert [row["train_task_loss"] for row in two] == pytest.approx(
        [row["train_task_loss"] for row in one.history], rel=1e-4
    )
    single, double = (ef.load(tmp_path / run / "model").state_dict() for run in ("one", "two"))
    for key, value in single.items():
        torch.testing.assert_close(double[key], value, rtol=1e-3, atol=1e-4)


def test_accumulated_batches_equal_larger_ones(small_set, tmp_path):
    base = {"data": str(small_set), "fusion": "gmf", **OPTIONS}
    large = train(TrainConfig.from_dict({**base, "batch_size": 90}), tmp_path / "large", progress=False)
    small = TrainConfig.from_dict({**base, "batch_size": 45, "accumulate": 2})
    accumulated = train(small, tmp_path / "small", progress=False)
    losses = [[row["val_loss"] for row in run.history] for run in (large, accumulated)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_mixed_precision_trains_an_equilibrium_that_converges(small_set, tmp_path):
    config = {"data": str(small_set), "fusion": "deq", "dim": 16, **OPTIONS, "precision": "bf16"}
    result = train(TrainConfig.from_dict(config), tmp_path / "run", progress=False)
    assert result.metrics["convergence"]["converged"] == 1
    assert result.metrics["test"]["accuracy"] > 0.8
    assert all(row["train_converged"] == 1 for row in result.history)
    with pytest.raises(ef.UnknownNameError, match="precision"):
        TrainConfig.from_dict({**config, "precision": "16"})
    if not torch.cuda.is_available():
        with pytest.raises(ef.InputError, match="needs GPUs"):
            train(TrainConfig.from_dict({**config, "strategy": "fsdp"}), tmp_path / "x", progress=False)
