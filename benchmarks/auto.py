"""``equifuse auto`` at a time limit against other tools with the same time on the same cores, over sets and seeds.

    python benchmarks/auto.py ../shared/data --time-limit 5m --seeds 3 --out runs/auto
    python benchmarks/auto.py ../shared/data --peer autogluon --peer flexynesis --install-peers --out runs/auto

Every tool gets the training and validation rows, and is measured on the test rows, which it does not see. The tools
take turns, so that other work on the machine burdens all alike; the load before each fit is recorded. What one set,
seed and tool gave is a file of its own: a command that was stopped goes on where it was. A peer lives in an environment
of its own, ``<out>/environments/<peer>``, which ``--install-peers`` makes with pip, or in one that
``--environment PEER=FOLDER`` names; a peer that is not there, or not made for a task, is left out, and the table says
why.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equifuse import datasets
from equifuse.auto.limits import seconds_of
from equifuse.benchmark.statistics import mean_interval
from equifuse.data import Split
from equifuse.files import read_json, read_yaml, write_json, write_text
from equifuse.report.tables import NONE, TextTable
from equifuse.tasks.survival import concordance
from machine import describe

AUTO, SINGLE = "auto", "its best single method"
# A tool that has not come back after so many times its limit is ended.
_PATIENCE = 3.0
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_SETS = [str(name) for name in read_yaml(Path(__file__).parent / "grand.yaml")["data"]]


@dataclass(frozen=True)
class Setting:
    """What all tools share.

    Args:
        out: folder of results.
        limit: as ``equifuse auto`` takes it.
        preset: of ``equifuse auto``.
        workers: processes, or cores.
        environments: peer -> folder of its environment, where that is not below ``out``.
        clock: what peers count: ``wall``, or ``thread``, the time of their main thread on a core, those that can.
    """

    out: Path
    limit: str
    preset: str
    workers: int
    environments: dict[str, Path] = field(default_factory=dict)
    clock: str = "wall"

    def environment(self, peer: str) -> Path:
        """Folder of a peer's environment."""
        return self.environments.get(peer, self.out / "environments" / peer)

    @property
    def seconds(self) -> float:
        """The limit."""
        return seconds_of(self.limit) or float("inf")

    def result(self, name: str, seed: int, tool: str) -> Path:
        """File of what one set, seed and tool gave."""
        return self.out / "results" / name / str(seed) / f"{tool}.json"


class Left(Exception):
    """A tool is left out, and why."""


def run_auto(path: Path, seed: int, setting: Setting) -> dict[str, Any]:
    """Search, and take what was measured on test."""
    with tempfile.TemporaryDirectory(dir=setting.out) as folder:
        run = Path(folder) / "run"
        words = ["auto", "--data", str(path), "--out", str(run), "--time-limit", setting.limit]
        words += ["--preset", setting.preset, "--seed", str(seed), "--workers", str(setting.workers)]
        if datasets.load(str(path), seed=seed).task == "regression":
            words += ["--monitor", "mae"]  # each tool is told what is measured in the end, where it can select by that
        began = time.monotonic()
        done = _run([sys.executable, "-m", "equifuse", *words, "--json", "--quiet"], setting)
        found = json.loads(done)
        whole, best = found["entries"][:2]
        kept = ("method", "models", "loss", "weight", "fit_seconds", "note")
        return {
            "metric": found["headline"],
            "score": whole["test"],
            "single": best["test"],
            "single_method": best["method"],
            "tried": [{name: entry[name] for name in kept} for entry in found["entries"][1:]],
            "seconds": time.monotonic() - began,
        }


@dataclass(frozen=True)
class Peer:
    """Another tool, started as a program in an environment of its own.

    Args:
        script: below ``peers``; it takes the arrays that :func:`handed_over` writes, and writes ``prediction`` and what
            there is to tell.
        packages: what pip installs for it, in one command.
        tasks: what it is made for.
        several: several targets at once.
        unused: what pip installs along and is taken out again.
    """

    script: str
    packages: tuple[str, ...]
    tasks: tuple[str, ...]
    several: bool = False
    unused: tuple[str, ...] = ()


PEERS = {
    "autogluon": Peer("autogluon_peer.py", ("autogluon.tabular[all]",), ("classification", "regression")),
    # The PyTorch of equifuse's own constraints.txt, in the build that pip's index has.
    "flexynesis": Peer(
        "flexynesis_peer.py",
        ("torch==2.13.0", "flexynesis"),
        ("classification", "regression", "survival"),
        several=True,
        # Required, but not imported by it; built for GPUs, it cannot be imported beside a PyTorch for CPUs.
        unused=("torchvision",),
    ),
}


def run_peer(name: str, path: Path, seed: int, setting: Setting) -> dict[str, Any]:
    """Train another tool on the same rows, and take what it predicts of the test rows.

    Raises:
        Left: it is not there, not made for the data, or failed.
    """
    peer = PEERS[name]
    python = interpreter(setting.environment(name))
    dataset = datasets.load(str(path), seed=seed)
    if dataset.task not in peer.tasks:
        raise Left(f"{name} has no {dataset.task}")
    rows = dataset.splits["train"].joined(dataset.splits["val"]).labelled()
    test = dataset.splits["test"].labelled()
    if dataset.task == "regression" and _targets(rows).shape[1] > 1 and not peer.several:
        raise Left(f"{name} has one target")
    with tempfile.TemporaryDirectory(dir=setting.out) as folder:
        given, answer = Path(folder) / "given.npz", Path(folder) / "answer.npz"
        np.savez(given, **handed_over(rows, test))
        words = [str(given), str(answer), "--task", dataset.task, "--time-limit", str(setting.seconds)]
        words += ["--cores", str(max(1, setting.workers)), "--seed", str(seed), "--clock", setting.clock]
        words += ["--work", str(Path(folder) / "models")]
        began = time.monotonic()
        _run([str(python), str(Path(__file__).parent / "peers" / peer.script), *words], setting)
        seconds = time.monotonic() - began
        with np.load(answer, allow_pickle=False) as arrays:
            prediction = arrays["prediction"]
            about = {each: arrays[each].item() for each in arrays.files if each != "prediction"}
    metric, score = score_of(dataset.task, _targets(test), prediction.reshape(len(test), -1))
    return {"metric": metric, "score": score, **about, "seconds": seconds}


def handed_over(rows: Split, test: Split) -> dict[str, NDArray[Any]]:
    """What a peer is given: columns of all modalities side by side, how many each has, and the targets."""
    train, widths = _columns(rows)
    return {"train": train, "target": _squeezed(_targets(rows)), "test": _columns(test)[0], "widths": np.array(widths)}


def interpreter(folder: Path) -> Path:
    """The interpreter of an environment.

    Raises:
        Left: there is none.
    """
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.is_file():
        raise Left(f"there is no environment at {folder}; --install-peers makes one, --environment names one")
    return python


def install(folder: Path, peer: Peer) -> None:
    """Make a peer's environment, whole or not at all."""
    if folder.is_dir():
        return
    try:
        venv.create(folder, with_pip=True)
        pip = [str(interpreter(folder)), "-m", "pip"]
        subprocess.run([*pip, "install", "-q", *peer.packages], check=True)
        if peer.unused:
            subprocess.run([*pip, "uninstall", "-q", "-y", *peer.unused], check=True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _run(words: Sequence[str], setting: Setting) -> str:
    # A peer sees its own packages and all cores; each process of equifuse works on one. AutoGluon's processes are those
    # of Ray, which gives them a lower priority than equifuse's unless told otherwise.
    others = {name: value for name, value in os.environ.items() if name not in _THREADS and name[:6] != "PYTHON"}
    others["RAY_worker_niceness"] = "0"
    environment = {**os.environ, **dict.fromkeys(_THREADS, "1")} if "equifuse" in words else others
    endless = setting.seconds == float("inf") or setting.clock == "thread"
    most = None if endless else 60 + _PATIENCE * setting.seconds
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    try:
        said, complaint = process.communicate(timeout=most)
    except BaseException as reason:
        # With the processes that it started.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(reason, subprocess.TimeoutExpired):
            raise Left(f"it was not done after {_PATIENCE:g} times its limit") from None
        raise
    if process.returncode:
        raise Left(" ".join(complaint.strip().splitlines()[-1:]) or f"exit code {process.returncode}")
    return said


def _columns(split: Split) -> tuple[NDArray[np.float32], list[int]]:
    """All modalities side by side, NaN where one is missing, and the number of columns of each."""
    found = []
    for m, x in split.inputs.items():
        values = np.array(x[np.arange(len(split))], dtype=np.float32).reshape(len(split), -1)
        values[~split.present.get(m, np.ones(len(split), np.bool_))] = np.nan
        found.append(values)
    return np.concatenate(found, axis=1), [values.shape[1] for values in found]


def _targets(split: Split) -> NDArray[Any]:
    """Targets in columns."""
    assert split.target is not None
    return split.target.reshape(len(split), -1)


def _squeezed(target: NDArray[Any]) -> NDArray[Any]:
    return target[:, 0] if target.shape[1] == 1 else target


def score_of(task: str, true: NDArray[Any], prediction: NDArray[Any]) -> tuple[str, float]:
    """What is measured of a task, and its value: targets and predictions in columns."""
    if task == "classification":
        return "accuracy", float((true == prediction).mean())
    if task == "survival":
        index = concordance(prediction[:, 0].astype(float), *true.astype(float).T)
        if index is None:
            raise Left("no two test rows can be compared")
        return "c_index", index
    return "mae", float(np.abs(true - prediction).mean())


def carry_out(setting: Setting, paths: Sequence[Path], seeds: int, peers: Sequence[str]) -> None:
    """Run what has not been run yet; what was left out is tried again."""
    tools: list[tuple[str, Callable[[Path, int, Setting], dict[str, Any]]]] = [(AUTO, run_auto)]
    tools += [(peer, partial(run_peer, peer)) for peer in peers]
    for seed in range(seeds):
        for number, path in enumerate(paths):
            # Each tool is the first one on every other set.
            for tool, run in tools if (number + seed) % 2 == 0 else tools[::-1]:
                file = setting.result(path.stem, seed, tool)
                if file.is_file() and "left" not in read_json(file):
                    continue
                load = os.getloadavg()[0]
                try:
                    found = run(path, seed, setting)
                except Left as reason:
                    found = {"left": str(reason)}
                about = {"load": round(load, 2), "limit": setting.limit, "preset": setting.preset, **describe()}
                write_json(file, {**found, **about})
                decided = f" ({found['decided']})" if "decided" in found else ""
                print(f"{path.stem}, seed {seed}, {tool}: {found.get('score', found.get('left'))}{decided}", flush=True)


def summary(setting: Setting, paths: Sequence[Path], seeds: int, peers: Sequence[str]) -> dict[str, Any]:
    """Scores, times and loads by set and tool, and what auto is ahead of each other, with its 95 % interval."""
    sets: dict[str, dict[str, Any]] = {}
    left: list[str] = []
    for path in paths:
        splits = datasets.load(str(path)).splits
        rows = [len(splits["train"]) + len(splits["val"]), len(splits["test"])]
        of_set: dict[str, Any] = {"rows": rows, "metric": NONE, "scores": {}, "seconds": {}, "load": {}}
        for seed in range(seeds):
            for tool in (AUTO, *peers):
                file = setting.result(path.stem, seed, tool)
                found = read_json(file) if file.is_file() else {"left": "not run"}
                if found.get("score") is None:
                    left.append(f"{path.stem}, seed {seed}, {tool}: {found.get('left', 'no score')}")
                    continue
                of_set["metric"] = found["metric"]
                for name, value in (("scores", found["score"]), ("seconds", found["seconds"]), ("load", found["load"])):
                    of_set[name].setdefault(tool, []).append(value)
                if tool == AUTO and found["single"] is not None:
                    of_set["scores"].setdefault(SINGLE, []).append(found["single"])
        sets[path.stem] = of_set
    ahead = {}
    for other in (SINGLE, *peers):
        gains = [gain for of_set in sets.values() if (gain := ahead_of(of_set, other)) is not None]
        if gains:
            mean, half = mean_interval(gains)
            wins, ties = sum(gain > 0 for gain in gains), sum(gain == 0 for gain in gains)
            half_or_none = None if np.isnan(half) else half
            ahead[other] = {"mean": mean, "half": half_or_none, "wins": wins, "ties": ties, "sets": len(gains)}
    return {"sets": sets, "ahead": ahead, "left": left, **describe()}


def ahead_of(of_set: dict[str, Any], other: str) -> float | None:
    """What auto is ahead on a set: points of accuracy, per cent of an error; None where one of the two is not there."""
    scores = of_set["scores"]
    if AUTO not in scores or other not in scores:
        return None
    one, two = (float(np.mean(scores[tool])) for tool in (AUTO, other))
    return 100 * (two - one) / two if of_set["metric"] == "mae" else 100 * (one - two)


def tables(found: dict[str, Any], setting: Setting, peers: Sequence[str]) -> str:
    """The summary as Markdown."""
    tools = [AUTO, SINGLE, *peers]
    rows = []
    for name, of_set in found["sets"].items():
        scores = [f"{np.mean(of_set['scores'][tool]):.4f}" if tool in of_set["scores"] else NONE for tool in tools]
        gains = [NONE if (gain := ahead_of(of_set, peer)) is None else f"{gain:+.1f}" for peer in peers]
        costs = [
            " / ".join(
                f"{np.mean(of_set[what][tool]):.0f}" if tool in of_set[what] else NONE for tool in (AUTO, *peers)
            )
            for what in ("seconds", "load")
        ]
        rows.append([name, " / ".join(map(str, of_set["rows"])), of_set["metric"], *scores, *gains, *costs])
    ahead = []
    for other, gain in found["ahead"].items():
        half = NONE if gain["half"] is None else f"± {gain['half']:.2f}"
        wins = f"{gain['wins']} of {gain['sets']}" + (f", {gain['ties']} level" if gain["ties"] else "")
        ahead.append([other, f"{gain['mean']:+.2f} {half}", wins])
    header = ["data", "rows / test", "metric", *tools, *(f"ahead of {peer}" for peer in peers), "s", "load"]
    text = [
        f"Time limit {setting.limit}, preset {setting.preset}, {setting.workers} workers. Seconds and the load of the "
        f"machine before each fit are of {' / '.join((AUTO, *peers))}.",
        TextTable(header, rows).markdown(),
        "What auto is ahead, in points of accuracy (of errors in per cent): mean over the sets, 95 % interval.",
        TextTable(["auto against", "ahead", "wins"], ahead).markdown(),
        *(["Left out:", "\n".join(f"- {line}" for line in found["left"])] if found["left"] else []),
        f"{found['processor']}, torch {found['torch']}, python {found['python']}.",
    ]
    return "\n\n".join(part.strip() for part in text) + "\n"


def main() -> None:
    """Run, print and store the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of data sets")
    parser.add_argument("--out", type=Path, default=Path("runs/auto"))
    parser.add_argument("--set", action="append", dest="sets", help="name of a set; default all of grand.yaml")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--time-limit", default="5m")
    parser.add_argument("--preset", default="good")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--peer", action="append", default=[], choices=sorted(PEERS))
    parser.add_argument("--install-peers", action="store_true", help="make the peers' environments; downloads packages")
    parser.add_argument(
        "--environment", action="append", default=[], metavar="PEER=FOLDER", help="an environment that there is already"
    )
    parser.add_argument(
        "--clock",
        choices=["wall", "thread"],
        default="wall",
        help="thread: on a machine with other work, peers that can count the time of their own main thread on a core",
    )
    options = parser.parse_args()
    environments = {}
    for given in options.environment:
        peer, _, folder = given.partition("=")
        if peer not in PEERS or not folder:
            parser.error(f"--environment takes PEER=FOLDER with one of {', '.join(sorted(PEERS))}, got {given!r}")
        environments[peer] = Path(folder).absolute()
    setting = Setting(
        options.out.resolve(), options.time_limit, options.preset, options.workers, environments, options.clock
    )
    setting.out.mkdir(parents=True, exist_ok=True)
    for peer in options.peer if options.install_peers else ():
        install(setting.environment(peer), PEERS[peer])
    wanted = [options.data.resolve() / f"{name}.npz" for name in options.sets or _SETS]
    paths = [path for path in wanted if path.is_file()]
    for path in wanted:
        if path not in paths:
            print(f"left out: there is no {path}", file=sys.stderr)
    carry_out(setting, paths, options.seeds, options.peer)
    found = summary(setting, paths, options.seeds, options.peer)
    write_json(setting.out / "summary.json", found)
    write_text(setting.out / "tables.md", tables(found, setting, options.peer))
    print(tables(found, setting, options.peer))


if __name__ == "__main__":
    main()
