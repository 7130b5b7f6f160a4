"""Fuzz guided by coverage, with Atheris, or at random where that is not installed: ``python -m tests.fuzz.campaign``.

    python -m tests.fuzz.campaign --seconds 60                # every target in turn, so long each
    python -m tests.fuzz.campaign --seconds 600 --only model  # those whose name has "model" in it

Each target runs in a process of its own, so that one that is taken down by a library does not end the others. What is
found is written to ``--out``, each kind once, and told; the exit code is the number of targets with findings.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path


def fuzz(name: str, seconds: float, out: Path) -> int:
    """One target, in this process; returns the number of executions. Findings are in ``out``, each kind once."""
    try:
        import atheris
    except ImportError:
        atheris = None
    if atheris is not None:
        with atheris.instrument_imports(include=["equifuse"]):
            import equifuse.benchmark
            import equifuse.cli
            import equifuse.training.lightning_module  # noqa: F401
    import numba  # noqa: F401 - else the first solve would load its library while nothing may be loaded
    import torch

    from tests.fuzz.guard import guarded
    from tests.fuzz.mutations import damaged
    from tests.fuzz.targets import COMMANDS, TARGETS, attempt, corpus_of, make_examples

    torch.set_num_threads(1)
    target = TARGETS[name]
    folder = Path(tempfile.mkdtemp())
    tempfile.tempdir = str(folder)
    make_examples(folder)
    valid = {file: (folder / file).read_bytes() for file in target.files}
    attempt(target, folder)  # what is imported and compiled on first use is no reader's doing
    end, executions, told = time.monotonic() + seconds, 0, 0.0
    kinds: set[str] = set()

    def once(data: bytes) -> None:
        """The first byte says which file, the others what is in it."""
        nonlocal executions, told
        if time.monotonic() > end:
            return
        executions += 1
        if time.monotonic() > told + 0.5:  # the fuzzer ends the process as it likes
            _tell(name, executions, out)
            told = time.monotonic()
        file = target.files[data[0] % len(target.files)] if data else target.files[0]
        if target.parse is None:
            for other, content in valid.items():
                (folder / other).write_bytes(data[1:] if other == file else content)
        try:
            with guarded(folder):
                attempt(target, folder, None if target.parse is None else data[1:])
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            kind = f"{type(error).__name__} {traceback.extract_tb(error.__traceback__)[-1][:2]}"
            if kind not in kinds:
                kinds.add(kind)
                out.mkdir(parents=True, exist_ok=True)
                kept = out / f"{_slug(name)}-{executions}"
                kept.write_bytes(data[1:])
                kept.with_suffix(".txt").write_text(f"{file}\n{traceback.format_exc()}")

    def mutated(rng: random.Random) -> bytes:
        which = rng.randrange(len(target.files))
        file = target.files[which]
        content = COMMANDS.words(rng) if name == "command line" else damaged(valid[file], rng, file)
        return bytes([which]) + content

    if atheris is None:
        rng = random.Random()
        while time.monotonic() < end:
            once(mutated(rng))
        return executions
    corpus = folder / "corpus"
    corpus.mkdir()
    for which, file in enumerate(target.files):
        (corpus / f"{which}").write_bytes(bytes([which]) + valid[file])
    for i, data in enumerate(corpus_of(name)):
        (corpus / f"kept-{i}").write_bytes(b"\0" + data)

    # What is read from memory takes less time than such a mutation.
    own = 0.5 if target.parse is None else 0.9

    def custom(data: bytes, most: int, seed: int) -> bytes:
        """Most mutations are the fuzzer's own, on what it found to be new; the others know the format."""
        rng = random.Random(seed)
        found = atheris.Mutate(data, most) if rng.random() < own else mutated(rng)
        return found[:most]

    words = [sys.argv[0], f"-max_total_time={int(seconds)}", "-max_len=65536", "-verbosity=0", "-rss_limit_mb=8192"]
    atheris.Setup([*words, f"-artifact_prefix={folder}/", str(corpus)], once, custom_mutator=custom)
    atheris.Fuzz()
    return executions


def _slug(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


def _findings(name: str, out: Path) -> list[Path]:
    return sorted(path for path in out.glob("*.txt") if re.fullmatch(rf"{_slug(name)}-\d+", path.stem))


def _tell(name: str, executions: int, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps({"executions": executions}))


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="per target")
    parser.add_argument("--only", default="", help="targets whose name contains this")
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--target", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.target:
        _tell(options.target, fuzz(options.target, options.seconds, options.out), options.out)
        return
    from tests.fuzz.targets import TARGETS

    total, bad = 0, 0
    for name in (name for name in TARGETS if options.only in name):
        (options.out / f"{name}.json").unlink(missing_ok=True)
        for old in _findings(name, options.out):
            old.unlink()
        words = [sys.executable, "-m", "tests.fuzz.campaign", "--target", name]
        words += ["--seconds", str(options.seconds), "--out", str(options.out)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False, env=environment)
        told = options.out / f"{name}.json"
        executions = json.loads(told.read_text())["executions"] if told.is_file() else 0
        total += executions
        found = _findings(name, options.out)
        bad += bool(found) or done.returncode != 0
        said = f"{len(found)} FOUND" if found else "nothing found" if done.returncode == 0 else "its process DIED"
        print(f"{name:24} {executions:8} executions  {said}", flush=True)
        for path in found:
            print(f"{path.with_suffix('')}: {path.read_text().strip().splitlines()[-1]}")
        if done.returncode != 0 and not found:
            print(done.stderr[-3000:])
    print(f"{total} executions, {bad} targets with findings; inputs are in {options.out}")
    sys.exit(bad)


if __name__ == "__main__":
    main()
