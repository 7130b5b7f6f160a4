"""Signals that ask to stop: one line, 128 and their number as the exit code, and nothing lost."""

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import equifuse as ef
from equifuse.cli import main
from equifuse.interruption import Interrupted, stop_signals
from equifuse.runs import TrainConfig, train

NAMES = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@pytest.fixture(autouse=True)
def usual_handlers():
    """A test runner in the background of a shell ignores some."""
    usual = {getattr(signal, name): signal.SIG_DFL for name in NAMES} | {signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("name", NAMES)
def test_a_command_says_so_and_has_the_signal_s_code(name, monkeypatch, capsys):
    number = getattr(signal, name)
    monkeypatch.setattr(ef.datasets, "available", lambda root: signal.raise_signal(number))
    with pytest.raises(SystemExit) as stop:
        main(["datasets"])
    assert stop.value.code == 128 + number
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("interrupted" if name == "SIGINT" else f"interrupted by {name}")
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)


def test_a_process_that_calls_the_command_line_goes_on_whatever_its_threads(monkeypatch):
    monkeypatch.setattr(ef.datasets, "available", lambda root: signal.raise_signal(signal.SIGTERM))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()  # its thread stays
        with pytest.raises(SystemExit):
            main(["datasets"])


@pytest.mark.parametrize("handler", ["none", "of the user"])
def test_a_training_keeps_its_last_epoch_and_does_not_look_finished(handler, small_set, tmp_path):
    """Lightning ends the process with code 0 and says nothing."""
    if handler == "of the user":
        signal.signal(signal.SIGTERM, lambda *_: None)
    config = TrainConfig(data=str(small_set), fusion="concat", hidden=(4,), epochs=4)

    def stop(row, best):
        if row["epoch"] == 1:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted, match="SIGTERM"):
        train(config, tmp_path / "run", progress=stop)
    assert not (tmp_path / "run/metrics.json").exists()
    assert not (tmp_path / "run/.lock").exists()
    state = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert len(state["equifuse"]["history"]) >= 1
    assert train(config, tmp_path / "run", resume=True, progress=False).metrics.epochs == 4


def test_what_is_ignored_or_somebody_else_s_stays_so():
    seen = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: seen.append("theirs"))
    with stop_signals():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert seen == ["theirs"]


def test_a_second_signal_does_not_disturb_the_end():
    def end():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted, match="^interrupted by SIGTERM$"), stop_signals():
        end()
